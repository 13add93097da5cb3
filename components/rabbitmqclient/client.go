package rabbitmqclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	amqp "github.com/rabbitmq/amqp091-go"
)

// Bounds of what is asked of the broker.
const (
	dialLimit  = 15 * time.Second // to connect, with all handshakes, unless the URI has a connection_timeout
	callLimit  = 20 * time.Second // for an answer
	writeLimit = 20 * time.Second // for a write, which the broker holds up when it is overloaded
	closeLimit = 5 * time.Second  // for the farewell
)

// leastWait keeps those who wait no time between attempts from doing nothing else.
const leastWait = 10 * time.Millisecond

// ErrClosed is what a closed client answers.
var ErrClosed = errors.New("rabbitmq: client is closed")

// Client keeps one connection, which is made when it is asked for and again when it was lost.
type Client struct {
	// Address is the server's host:port, for messages.
	Address string

	settings Settings
	uri      amqp.URI
	tls      *tls.Config
	log      *slog.Logger
	clock    clockwork.Clock
	patience time.Duration // callLimit, but in tests

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup // of goroutines

	mu      sync.Mutex // guards what follows
	closed  bool
	conn    *Connection
	dialing *dialing
	dialed  time.Time // when the last attempt was made
}

// dialing is an attempt to connect that its callers share.
type dialing struct {
	done chan struct{} // closed once the rest is set
	conn *Connection
	err  error
}

// New checks the settings. It does not connect yet.
func New(settings Settings, log *slog.Logger, clock clockwork.Clock) (*Client, error) {
	uri, err := settings.check()
	if err != nil {
		return nil, err
	}
	config, err := settings.tlsConfig(uri)
	if err != nil {
		return nil, err
	}
	settings.ReconnectWait = max(settings.ReconnectWait, leastWait)
	c := &Client{Address: address(uri), settings: settings, uri: uri, tls: config, log: log, clock: clock, patience: callLimit}
	return c.alike(), nil
}

// alike returns a client with the same settings and a connection of its own.
func (c *Client) alike() *Client {
	a := &Client{Address: c.Address, settings: c.settings, uri: c.uri, tls: c.tls, log: c.log, clock: c.clock, patience: c.patience}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

// Close ends the connection and waits for all that runs on it. It may be called more than once.
func (c *Client) Close() {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	conn := c.conn
	c.mu.Unlock()
	c.cancel()
	if first && conn != nil {
		conn.end()
	}
	c.work.Wait()
}

// Go runs f in a goroutine that Close waits for, so f must end with the client's connection or by itself. It reports false,
// without running f, when the client is closed.
func (c *Client) Go(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.work.Go(f)
	return true
}

// Connection returns the connection, which is made first where there is none. All callers share one attempt, and attempts
// are ReconnectWait apart.
func (c *Client) Connection(ctx context.Context) (*Connection, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	if c.conn != nil && !c.conn.IsClosed() {
		defer c.mu.Unlock()
		return c.conn, nil
	}
	d := c.dialing
	if d == nil {
		d = &dialing{done: make(chan struct{})}
		c.dialing = d
		var wait time.Duration
		if !c.dialed.IsZero() {
			wait = c.settings.ReconnectWait - c.clock.Since(c.dialed)
		}
		c.work.Go(func() { c.connect(d, wait) })
	}
	c.mu.Unlock()
	select {
	case <-d.done:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, fmt.Errorf("rabbitmq at %s: no connection yet: %w; check that the server is running and that %s is right", c.Address, context.Cause(ctx), c.settings.URIProperty)
	}
}

func (c *Client) connect(d *dialing, wait time.Duration) {
	defer close(d.done)
	var conn *Connection
	err := Wait(c.ctx, c.clock, wait)
	if err == nil {
		conn, err = c.dial()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialing, c.dialed = nil, c.clock.Now()
	switch {
	case c.closed:
		if conn != nil {
			conn.kill()
		}
		d.err = ErrClosed
	case err != nil:
		d.err = c.explain(err)
	default:
		c.conn, d.conn = conn, conn
		closes := conn.NotifyClose(make(chan *amqp.Error, 1))
		blocks := conn.NotifyBlocked(make(chan amqp.Blocking, 1))
		c.work.Go(func() { conn.watch(closes, blocks) })
	}
}

// Wait waits for d, or less when ctx ends, whose error it then returns.
func Wait(ctx context.Context, clock clockwork.Clock, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dial makes a connection.
func (c *Client) dial() (*Connection, error) {
	limit := dialLimit
	if c.uri.ConnectionTimeout > 0 {
		limit = time.Duration(c.uri.ConnectionTimeout) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(c.ctx, limit)
	defer cancel()
	properties := amqp.Table{"product": "Outrigger", "platform": "golang"}
	if c.settings.Name != "" {
		properties.SetClientConnectionName(c.settings.Name)
	}
	conn := &Connection{client: c}
	config := amqp.Config{
		Heartbeat:  c.settings.Heartbeat,
		Properties: properties,
		Dial: func(network, address string) (net.Conn, error) {
			raw, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			// The library clears the deadline when the handshakes are over.
			deadline, _ := ctx.Deadline()
			if err := raw.SetDeadline(deadline); err != nil {
				raw.Close()
				return nil, err
			}
			conn.socket = &socket{Conn: raw}
			context.AfterFunc(ctx, func() {
				if !conn.settled.Load() {
					conn.kill()
				}
			})
			return conn.socket, nil
		},
	}
	if c.tls != nil {
		config.TLSClientConfig = c.tls.Clone()
	}
	if c.settings.External {
		config.SASL = []amqp.Authentication{&amqp.ExternalAuth{}}
	}
	var err error
	conn.Connection, err = amqp.DialConfig(strings.TrimSpace(c.settings.URI), config)
	conn.settled.Store(true)
	if err == nil {
		err = ctx.Err() // the socket may have been closed a moment ago
	}
	if err != nil {
		if conn.socket != nil {
			conn.kill() // the library leaves it open
		}
		if cause := c.ctx.Err(); cause != nil {
			err = cause
		}
		return nil, err
	}
	return conn, nil
}

// socket bounds the writes of a connection.
type socket struct{ net.Conn }

func (s *socket) Write(b []byte) (int, error) {
	if err := s.Conn.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return 0, err
	}
	return s.Conn.Write(b)
}

// Connection is a connection of a [Client].
type Connection struct {
	*amqp.Connection

	client  *Client
	socket  *socket
	settled atomic.Bool // the handshakes are over
	blocked atomic.Pointer[string]
}

// watch notes what the broker tells about the connection until its end.
func (c *Connection) watch(closes <-chan *amqp.Error, blocks <-chan amqp.Blocking) {
	log := c.client.log.With("rabbitmq", c.client.Address)
	for {
		select {
		case b, ok := <-blocks:
			switch {
			case !ok:
				blocks = nil
			case b.Active:
				c.blocked.Store(&b.Reason)
				log.Warn("the broker takes no messages at the moment", "reason", b.Reason)
			default:
				c.blocked.Store(nil)
				log.Info("the broker takes messages again")
			}
		case err, ok := <-closes:
			if ok && c.client.ctx.Err() == nil {
				log.Warn("the connection to the broker was lost; it is made again", "error", err)
			}
			if !ok {
				return
			}
		}
	}
}

// Blocked is the broker's reason for taking no messages at the moment, such as "low on memory"; ok is false when it does.
func (c *Connection) Blocked() (reason string, ok bool) {
	if r := c.blocked.Load(); r != nil {
		return *r, true
	}
	return "", false
}

// Call runs f, which asks something of the broker. Without an answer within 20 seconds it ends the connection, so that f,
// and everything else on the connection, fails.
func (c *Connection) Call(f func() error) error {
	var late atomic.Bool
	timer := time.AfterFunc(c.client.patience, func() {
		late.Store(true)
		c.kill()
	})
	defer timer.Stop()
	err := f()
	if err != nil && late.Load() {
		return &silenceError{address: c.client.Address, after: c.client.patience, err: err}
	}
	return err
}

// silenceError says that the broker did not answer.
type silenceError struct {
	address string
	after   time.Duration
	err     error // of the connection that was ended over it
}

func (e *silenceError) Error() string {
	return fmt.Sprintf("rabbitmq at %s: no answer within %s: %v", e.address, e.after, e.err)
}

func (e *silenceError) Unwrap() error { return e.err }

// Channel opens a channel and prepares it. When that fails the channel is closed.
func (c *Connection) Channel(prepare func(ch *amqp.Channel) error) (*amqp.Channel, error) {
	var ch *amqp.Channel
	err := c.Call(func() error {
		var err error
		if ch, err = c.Connection.Channel(); err != nil {
			return err
		}
		if err = prepare(ch); err != nil {
			_ = ch.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return ch, nil
}

// Try does something on a channel of its own, which a failure does not take away from anybody.
func (c *Connection) Try(f func(ch *amqp.Channel) error) error {
	ch, err := c.Channel(f)
	if err != nil {
		return err
	}
	return c.Call(ch.Close)
}

// kill ends the connection without a word.
func (c *Connection) kill() { c.socket.Close() }

// end says farewell, within a bound, to a broker that listens.
func (c *Connection) end() {
	if _, blocked := c.Blocked(); blocked {
		c.kill() // nobody reads a farewell
		return
	}
	timer := time.AfterFunc(closeLimit, c.kill)
	defer timer.Stop()
	_ = c.CloseDeadline(time.Now().Add(closeLimit)) // gone already is as well
}

// explain adds the address and a remedy to an error of connecting.
func (c *Client) explain(err error) error {
	var remedy string
	text := err.Error()
	var reply *amqp.Error
	switch {
	case errors.As(err, &reply) && reply.Code == amqp.NotAllowed:
		remedy = "check the virtual host, which is the path in " + c.settings.URIProperty + ", and that the user may use it"
	case errors.As(err, &reply) && reply.Code == amqp.AccessRefused:
		remedy = "check user and password"
		if c.settings.External {
			remedy = "check that the broker offers EXTERNAL and has a user with the name in the client certificate"
		}
	case strings.Contains(text, "x509:") || strings.Contains(text, "tls:"):
		remedy = "check that the server speaks TLS on this port, that caCert is the authority of its certificate, and clientCert and clientKey"
	case errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) || strings.Contains(text, "timeout") || strings.Contains(text, "reset by peer") || errors.As(err, &reply):
		remedy = "it connects but does not answer: check that it is a RabbitMQ server, and whether it wants TLS (amqps)"
	default:
		remedy = "check that the server is running and that " + c.settings.URIProperty + " is right"
	}
	return fmt.Errorf("rabbitmq at %s cannot be used: %w; %s", c.Address, err, remedy)
}
