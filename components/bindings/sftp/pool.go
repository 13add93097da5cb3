package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

const (
	// most is how many requests run at once: OpenSSH allows ten channels on a connection.
	most = 8
	// aliveInterval is how often the server is asked to answer, and aliveLimit how long it may take to.
	aliveInterval = 30 * time.Second
	aliveLimit    = 30 * time.Second
	// channelLimit is how long the server may take to open a channel, or to end one: after that the connection is given up.
	channelLimit = 15 * time.Second
	// crowdedTries is how often a channel is asked for again that the server refuses, and crowdedWait how long after.
	crowdedTries = 40
	crowdedWait  = 50 * time.Millisecond
)

var errClosed = errors.New("sftp: component is closed")

// pool keeps one connection, and channels on it, one for each request that runs at the same time.
type pool struct {
	login      *login
	root       string
	sequential bool

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	slots  chan struct{} // one for each request that runs
	dial   chan struct{} // holds a value while a connection is made
	calls  sync.WaitGroup
	// settling are channels that requests were given up on: about to be opened, or to end.
	settling sync.WaitGroup

	mu     sync.Mutex // guards what follows
	closed bool
	conn   *connection
	idle   []*channel
}

// connection is one SSH connection.
type connection struct {
	ssh  *ssh.Client
	dead chan struct{} // closed when it has ended
	end  sync.WaitGroup
	root string // the real path of the root
	// resolves is set for servers that are known to follow symbolic links when asked for a real path.
	resolves bool
}

// channel is where requests are made, one at a time.
type channel struct {
	sftp *sftp.Client
	conn *connection
}

func newPool(l *login, root string, sequential bool) *pool {
	p := &pool{login: l, root: root, sequential: sequential, dial: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.slots = make(chan struct{}, most)
	if sequential {
		p.slots = make(chan struct{}, 1)
	}
	return p
}

// with calls f with a channel, twice when the connection is lost the first time.
func (p *pool) with(ctx context.Context, f func(*channel) error) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errClosed
	}
	p.calls.Add(1)
	p.mu.Unlock()
	defer p.calls.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ctx, func() { cancel(errClosed) })()
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	slot := &slot{p}
	defer slot.free()
	for first := true; ; first = false {
		c, err := p.take(ctx, slot)
		if err != nil {
			return ended(ctx, err)
		}
		stop := context.AfterFunc(ctx, func() { c.sftp.Close() })
		err = f(c)
		if !stop() {
			p.settle(c.conn, slot, func() { _ = c.sftp.Wait() })
			return ended(ctx, err)
		}
		if !c.lost(err) {
			p.put(c)
			return err
		}
		c.sftp.Close()
		p.drop(c.conn)
		if !first {
			return err
		}
	}
}

// slot is the right to have a channel.
type slot struct{ pool *pool }

func (s *slot) free() {
	if s.pool != nil {
		<-s.pool.slots
	}
}

// settle waits for what a request that was given up has left at the server, and keeps the slot as long: a server counts
// channels until they have ended. One that does not answer has lost the connection.
func (p *pool) settle(conn *connection, s *slot, wait func()) {
	kept := *s
	s.pool = nil
	p.settling.Go(func() {
		defer kept.free()
		limit := time.AfterFunc(channelLimit, func() { conn.ssh.Close() })
		defer limit.Stop()
		wait()
	})
}

// ended puts the reason in front when the context is why something failed.
func ended(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == nil || err == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}

// lost reports whether an operation failed because the connection, or the channel, has ended.
func (c *channel) lost(err error) bool {
	if err == nil {
		return false
	}
	for _, end := range []error{sftp.ErrSSHFxConnectionLost, sftp.ErrSSHFxNoConnection, io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed} {
		if errors.Is(err, end) {
			return true
		}
	}
	select {
	case <-c.conn.dead:
		return true
	default:
		return false
	}
}

// take gives an idle channel, or a new one.
func (p *pool) take(ctx context.Context, slot *slot) (*channel, error) {
	crowded, dropped := 0, false
	for {
		conn, c, err := p.connection(ctx, slot)
		if c != nil || err != nil {
			return c, err
		}
		if c, err = p.open(ctx, conn, slot); err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if _, refused := errors.AsType[*ssh.OpenChannelError](err); refused && crowded < crowdedTries {
			// The server still counts channels that ended a moment ago. Others work on this connection.
			crowded++
			select {
			case <-time.After(crowdedWait):
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		p.drop(conn)
		if dropped {
			return nil, p.noChannel(err)
		}
		dropped = true
	}
}

func (p *pool) noChannel(err error) error {
	return fmt.Errorf("sftp: the server at %s opens no SFTP channel: %w", p.login.address, err)
}

// connection is an idle channel, or the connection to open one on, made if there is none.
func (p *pool) connection(ctx context.Context, slot *slot) (*connection, *channel, error) {
	if conn, c := p.current(); conn != nil {
		return conn, c, nil
	}
	select {
	case p.dial <- struct{}{}:
		defer func() { <-p.dial }()
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	if conn, c := p.current(); conn != nil { // made while this call waited
		return conn, c, nil
	}
	client, err := p.login.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	conn := &connection{ssh: client, dead: make(chan struct{}), resolves: bytes.HasPrefix(client.ServerVersion(), []byte("SSH-2.0-OpenSSH"))}
	conn.end.Go(func() {
		defer close(conn.dead)
		_ = client.Wait()
	})
	conn.end.Go(conn.stayAlive)
	c, err := p.open(ctx, conn, slot)
	if err != nil {
		conn.close()
		return nil, nil, p.noChannel(err)
	}
	if err := p.findRoot(ctx, c); err != nil {
		conn.close()
		return nil, nil, err
	}
	p.mu.Lock()
	p.conn = conn
	p.mu.Unlock()
	return conn, c, nil
}

// current is the connection that there is, and an idle channel of it if there is one.
func (p *pool) current() (conn *connection, c *channel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		c = p.idle[n-1]
		p.idle = p.idle[:n-1]
	}
	return p.conn, c
}

// findRoot learns where the root really is.
func (p *pool) findRoot(ctx context.Context, c *channel) error {
	defer context.AfterFunc(ctx, func() { c.sftp.Close() })()
	info, err := c.sftp.Stat(p.root)
	if errors.Is(err, fs.ErrNotExist) {
		if err = c.sftp.MkdirAll(p.root); err == nil {
			info, err = c.sftp.Stat(p.root)
		}
	}
	if err == nil && !info.IsDir() {
		err = errors.New("it is no directory")
	}
	if err == nil {
		c.conn.root, err = c.sftp.RealPath(p.root)
	}
	if err != nil {
		return fmt.Errorf("metadata property \"rootPath\" is %q, which cannot be used on %s: %w: give a directory that %s may use", p.root, p.login.address, err, p.login.config.User)
	}
	return nil
}

// open makes a channel. When ctx ends first, the channel is kept for the next request as soon as it is there.
func (p *pool) open(ctx context.Context, conn *connection, slot *slot) (*channel, error) {
	options := []sftp.ClientOption{sftp.UseConcurrentWrites(!p.sequential), sftp.UseConcurrentReads(!p.sequential)}
	if p.sequential {
		options = append(options, sftp.MaxConcurrentRequestsPerFile(1))
	}
	type result struct {
		client *sftp.Client
		err    error
	}
	opened := make(chan result, 1)
	p.settling.Go(func() {
		limit := time.AfterFunc(channelLimit, func() { conn.ssh.Close() })
		defer limit.Stop()
		client, err := sftp.NewClient(conn.ssh, options...)
		opened <- result{client, err}
	})
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, r.err
		}
		return &channel{r.client, conn}, nil
	case <-ctx.Done():
		p.settle(conn, slot, func() {
			if r := <-opened; r.err == nil {
				p.put(&channel{r.client, conn})
			}
		})
		return nil, context.Cause(ctx)
	}
}

// put keeps a channel for the next request.
func (p *pool) put(c *channel) {
	p.mu.Lock()
	keep := !p.closed && p.conn == c.conn
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		c.sftp.Close()
	}
}

// drop gives a connection up that failed.
func (p *pool) drop(conn *connection) {
	p.mu.Lock()
	if p.conn == conn {
		p.conn, p.idle = nil, nil
	}
	p.mu.Unlock()
	conn.close()
}

func (p *pool) close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.calls.Wait()
	p.mu.Lock()
	conn := p.conn
	p.conn, p.idle = nil, nil
	p.mu.Unlock()
	if conn != nil {
		conn.close()
	}
	p.settling.Wait()
	return nil
}

// stayAlive ends a connection whose other side is gone without a word.
func (c *connection) stayAlive() {
	tick := time.NewTicker(aliveInterval)
	defer tick.Stop()
	for {
		select {
		case <-c.dead:
			return
		case <-tick.C:
			limit := time.AfterFunc(aliveLimit, func() { c.ssh.Close() })
			_, _, err := c.ssh.SendRequest("keepalive@openssh.com", true, nil)
			limit.Stop()
			if err != nil {
				c.ssh.Close()
			}
		}
	}
}

func (c *connection) close() {
	_ = c.ssh.Close() // it may have ended by itself
	c.end.Wait()
}
