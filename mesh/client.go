package mesh

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/metrics"
)

// ClientOptions of a client. Zero values mean the defaults given.
type ClientOptions struct {
	// MaxBodySize bounds gRPC messages, in bytes; 0 or less means no limit.
	MaxBodySize int64
	// Security secures connections; nil means clear text.
	Security Security
	// GRPCOnly never uses the exchange.
	GRPCOnly bool
	// Dial opens a connection to "host:port"; it must honour its context. Default: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// DialTimeout bounds the opening of a connection with its handshake. Default 5 s.
	DialTimeout time.Duration
	// ActorDialTimeout is the same for connections to the sidecars that host actors (Dapr API, actors: invocation). Default 30 s.
	ActorDialTimeout time.Duration
	Clock            clockwork.Clock
	Metrics          *metrics.Metrics
	Log              *slog.Logger
}

// Client calls other sidecars. It is safe for concurrent use.
type Client struct {
	options ClientOptions
	ctx     context.Context
	cancel  context.CancelFunc
	tasks   sync.WaitGroup

	mu     sync.Mutex
	peers  map[Target]*peer
	hosts  map[Target]*peer // of actors; nobody waits as long for other peers
	closed bool
}

const (
	// sweepInterval is how often unused connections are looked for, connIdle how long a gRPC connection may be unused (Dapr
	// API, internal protocol: connections), and peerIdle how long an address that nobody calls is remembered.
	sweepInterval = 45 * time.Second
	connIdle      = 3 * time.Minute
	peerIdle      = 15 * time.Minute
	// grpcLife is how long a peer is believed to speak only gRPC: it may have been replaced by an Outrigger.
	grpcLife = 10 * time.Minute
)

// ErrClosed is what calls through a closed client fail with.
var ErrClosed = errors.New("the client for other sidecars is closed")

// NewClient makes a client; it opens no connection yet.
func NewClient(o ClientOptions) *Client {
	if o.Dial == nil {
		dialer := &net.Dialer{}
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = 5 * time.Second
	}
	if o.ActorDialTimeout <= 0 {
		o.ActorDialTimeout = 30 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{options: o, peers: map[Target]*peer{}, hosts: map[Target]*peer{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	ticker := o.Clock.NewTicker(sweepInterval)
	c.tasks.Go(func() {
		defer ticker.Stop()
		for {
			select {
			case <-ticker.Chan():
				c.sweep()
			case <-c.ctx.Done():
				return
			}
		}
	})
	return c
}

// Close closes all connections; calls that are running break.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	peers, hosts := c.peers, c.hosts
	c.peers, c.hosts = map[Target]*peer{}, map[Target]*peer{}
	c.mu.Unlock()
	c.cancel()
	for _, p := range peers {
		p.close()
	}
	for _, p := range hosts {
		p.close()
	}
	c.tasks.Wait()
}

// Invoke brings a call to the sidecar at an address, "host:port" or, for a name with several addresses, "dns:///host:port".
// The answer must be closed. Errors of the peer, and of reaching it, are gRPC statuses whichever protocol was used:
// Unavailable when the peer cannot be reached. The end of ctx is returned as its error, a failure of the request's own
// body as that.
func (c *Client) Invoke(ctx context.Context, address string, req *invocation.Request) (*invocation.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := c.acquire(address, req)
	if err != nil {
		return nil, err
	}
	defer c.release(p)
	protocol, err := p.protocol(ctx)
	if err != nil {
		return nil, err
	}
	if protocol == speaksExchange && p.fits(req) {
		resp, err := p.exchange(ctx, req)
		lost, ok := errors.AsType[*lostError](err)
		if !ok {
			return resp, err
		}
		p.forget()
		if !req.Replayable() {
			return nil, lost.status
		}
		if err := p.goesOn(ctx, lost); err != nil {
			return nil, err
		}
	}
	return p.call(ctx, req)
}

// Retriable reports whether an error of Invoke means that the peer did not take the call: it could not be reached, or did
// not accept this sidecar's identity (Dapr API, service invocation: built-in retries).
func (c *Client) Retriable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.Unauthenticated
}

// acquire finds the peer at an address and keeps it from being swept away until release. With security, connections are
// bound to the identity expected of the peer.
func (c *Client) acquire(address string, req *invocation.Request) (*peer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(c.peers, Target{Address: address, AppID: req.AppID, Namespace: req.Namespace}, c.options.DialTimeout)
}

// find is acquire among the peers of one kind. The client is locked.
func (c *Client) find(among map[Target]*peer, key Target, dialTimeout time.Duration) (*peer, error) {
	if c.options.Security == nil {
		key.AppID, key.Namespace = "", ""
	}
	if c.closed {
		return nil, ErrClosed
	}
	p := among[key]
	if p == nil {
		key.Address = strings.Clone(key.Address)
		p = newPeer(c, key, dialTimeout)
		among[key] = p
	}
	p.users++
	return p, nil
}

func (c *Client) release(p *peer) {
	now := c.options.Clock.Now()
	c.mu.Lock()
	p.users--
	p.lastUse = now
	c.mu.Unlock()
}

// sweep closes what was not used for long.
func (c *Client) sweep() {
	now := c.options.Clock.Now()
	c.mu.Lock()
	all := make([]*peer, 0, len(c.peers)+len(c.hosts))
	var old []*peer
	for _, peers := range [...]map[Target]*peer{c.peers, c.hosts} {
		for key, p := range peers {
			if p.users == 0 && now.Sub(p.lastUse) >= peerIdle && p.unused() {
				delete(peers, key)
				old = append(old, p)
				continue
			}
			all = append(all, p)
		}
	}
	c.mu.Unlock()
	for _, p := range old {
		p.close()
	}
	for _, p := range all {
		p.sweep(now)
	}
}
