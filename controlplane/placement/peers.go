package placement

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"outrigger.dev/identity"
)

// Bounds of connections between members.
const (
	// peerHandshake is how long mTLS may take.
	peerHandshake = 5 * time.Second
	// peerHandshakes is how many connections may be at it at a time.
	peerHandshakes = 32
)

// peerListener is where members connect to each other. With mTLS both ends have to be the placement service itself (Dapr API, placement: HA).
type peerListener struct {
	raw      net.Listener
	name     peerName
	security *Security
	log      *slog.Logger
	server   *tls.Config // nil for clear text
	client   *tls.Config

	accepted chan net.Conn
	failed   chan error
	ctx      context.Context
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
}

var _ raft.StreamLayer = (*peerListener)(nil)

// peerName is an address as --initial-cluster has it.
type peerName string

func (peerName) Network() string  { return "tcp" }
func (n peerName) String() string { return string(n) }

// newPeerListener accepts connections on raw, which it closes in the end.
func newPeerListener(raw net.Listener, name string, s *Security, log *slog.Logger) *peerListener {
	l := &peerListener{raw: raw, name: peerName(name), security: s, log: log, accepted: make(chan net.Conn), failed: make(chan error, 1)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if s.Enabled() {
		l.server, l.client = s.TLS().Server(), s.TLS().Client(identity.Exactly(s.ID()))
	}
	l.tasks.Add(1)
	go func() {
		defer l.tasks.Done()
		l.serve()
	}()
	return l
}

// serve accepts connections. Those that do not prove an identity in time do not get further, nor in the way of others.
func (l *peerListener) serve() {
	free := make(chan struct{}, peerHandshakes)
	for {
		raw, err := l.raw.Accept()
		if err != nil {
			if l.ctx.Err() != nil {
				return
			}
			select {
			case l.failed <- err:
			default:
			}
			select {
			case <-time.After(100 * time.Millisecond): // out of file descriptors
				continue
			case <-l.ctx.Done():
				return
			}
		}
		select {
		case free <- struct{}{}:
		case <-l.ctx.Done():
			raw.Close()
			return
		}
		l.tasks.Add(1)
		go func() {
			defer l.tasks.Done()
			conn, err := l.shake(raw)
			<-free
			if err != nil {
				l.log.Warn("A connection to the port of the cluster is refused: only other members may make one", "from", raw.RemoteAddr(), "error", err)
				raw.Close()
				return
			}
			select {
			case l.accepted <- conn:
			case <-l.ctx.Done():
				conn.Close()
			}
		}()
	}
}

// shake has the other end of an accepted connection prove that it is a member.
func (l *peerListener) shake(raw net.Conn) (net.Conn, error) {
	if l.server == nil {
		return raw, nil
	}
	ctx, cancel := context.WithTimeout(l.ctx, peerHandshake)
	defer cancel()
	conn := tls.Server(raw, l.server)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	peer, err := identity.PeerOf(conn.ConnectionState().PeerCertificates[0])
	if err != nil {
		return nil, err
	}
	return conn, identity.Exactly(l.security.ID())(peer)
}

// Accept implements [net.Listener].
func (l *peerListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case err := <-l.failed:
		return nil, err
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]; it does not wait.
func (l *peerListener) Close() error {
	l.cancel()
	return l.raw.Close()
}

// wait waits until nothing of a closed listener runs any more.
func (l *peerListener) wait() { l.tasks.Wait() }

// Addr implements [net.Listener]: the address by which the other members know this one.
func (l *peerListener) Addr() net.Addr { return l.name }

// Dial implements [raft.StreamLayer].
func (l *peerListener) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(l.ctx, timeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", string(address))
	if err != nil || l.client == nil {
		return raw, err
	}
	conn := tls.Client(raw, l.client)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}
