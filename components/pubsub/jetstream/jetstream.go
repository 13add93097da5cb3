// Package jetstream is the publish/subscribe component pubsub.jetstream.
//
// A topic is a NATS subject, kept by a JetStream stream; a subscription is a push consumer of that stream. Only the data of
// a message is sent; the id of a CloudEvent becomes the message id by which the server drops duplicates (Dapr API,
// publish/subscribe: jetstream).
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
)

// Register adds pubsub.jetstream to r.
func Register(r *components.Registry) {
	pubsub.Register(r, components.Info{
		Name:        "jetstream",
		Version:     "v1",
		Status:      components.Beta,
		Description: "Publishes to and consumes from streams of NATS JetStream.",
	}, func(ctx context.Context, inst components.Instance, o Options) (pubsub.Broker, error) {
		return Open(ctx, o, inst.Log)
	})
}

// Broker is a connection to NATS.
type Broker struct {
	options Options
	// address names the servers for messages.
	address   string
	log       *slog.Logger
	conn      *nats.Conn
	js        jetstream.JetStream
	publisher *publisher
	// gone is closed when the connection has ended for good.
	gone chan struct{}

	closing   chan struct{}
	closeOnce sync.Once
	mu        sync.Mutex
	closed    bool
	subs      map[*subscription]struct{}
	// starting counts calls of Subscribe under way.
	starting sync.WaitGroup
}

var (
	_ pubsub.Broker = (*Broker)(nil)
	_ pubsub.Pinger = (*Broker)(nil)
	_ pubsub.Pauser = (*subscription)(nil)
)

// How the connection is kept.
const (
	dialTimeout = 2 * time.Second
	// pingInterval is how often an idle connection is tried; it counts as dead after two pings without answer.
	pingInterval = 10 * time.Second
	minReconnect = 50 * time.Millisecond
	maxReconnect = 2 * time.Second
	// reconnectBuffer is how many bytes are kept for the server while it is away: publications that wait, and verdicts.
	reconnectBuffer = 32 << 20
)

// Open connects to the server. An error names its address, the cause and a remedy.
func Open(ctx context.Context, o Options, log *slog.Logger) (*Broker, error) {
	b := &Broker{
		options: o, address: o.addresses(), log: log,
		gone: make(chan struct{}), closing: make(chan struct{}), subs: map[*subscription]struct{}{},
	}
	if o.ConcurrencyMode == "parallel" && o.AckPolicy == "all" {
		log.Warn(`messages are handled one after the other, since "ackPolicy" is "all": a verdict settles all messages before it`, "nats", b.address)
	}
	if o.Token != "" && o.SeedKey != "" {
		log.Warn(`"seedKey" is what logs in, and "token" is not used; leave one of them out`, "nats", b.address)
	}
	options, err := b.options.connection()
	if err != nil {
		return nil, err
	}
	timeout := dialTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(deadline), time.Millisecond))
	}
	dials := &dialer{dialer: net.Dialer{Timeout: timeout, KeepAlive: pingInterval}, opening: ctx}
	b.conn, err = nats.Connect(o.NATSURL, append(options,
		nats.Timeout(timeout),
		nats.SetCustomDialer(dials),
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(reconnectDelay),
		nats.ReconnectBufSize(reconnectBuffer),
		nats.IgnoreAuthErrorAbort(), // credentials that fail now may be good again when the server has been put right
		nats.PingInterval(pingInterval),
		nats.DisconnectErrHandler(b.disconnected),
		nats.ReconnectHandler(b.reconnected),
		nats.ErrorHandler(b.asyncError),
		nats.ClosedHandler(func(*nats.Conn) { close(b.gone) }),
	)...)
	if failed := dials.opened(); err != nil {
		if errors.Is(err, nats.ErrNoServers) && failed != nil {
			err = failed // the library does not tell why
		}
		return nil, fmt.Errorf("NATS at %s cannot be used: %w; %s", b.address, err, remedy(err))
	}
	switch {
	case o.APIPrefix != "":
		b.js, err = jetstream.NewWithAPIPrefix(b.conn, o.APIPrefix)
	case o.Domain != "":
		b.js, err = jetstream.NewWithDomain(b.conn, o.Domain)
	default:
		b.js, err = jetstream.New(b.conn)
	}
	if err == nil {
		b.publisher, err = newPublisher(b.conn)
	}
	if err != nil {
		b.disconnect()
		return nil, fmt.Errorf("NATS at %s: %w", b.address, err)
	}
	return b, nil
}

func remedy(err error) string {
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired):
		return `check the user and password in "natsURL", or "token", or "jwt" and "seedKey"`
	case errors.Is(err, nats.ErrSecureConnWanted), errors.Is(err, nats.ErrSecureConnRequired), strings.Contains(strings.ToLower(err.Error()), "tls"), strings.Contains(err.Error(), "x509:"):
		return `check "tls_client_cert", "tls_client_key" and "tls_ca_cert", and whether the server serves TLS`
	default:
		return `check "natsURL" and that the server runs`
	}
}

// dialer makes the connections. While the component is opened they also end with the context of that, and the last error is kept.
type dialer struct {
	dialer  net.Dialer
	mu      sync.Mutex
	opening context.Context
	failed  error
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	d.mu.Lock()
	ctx := d.opening
	d.mu.Unlock()
	if ctx == nil {
		return d.dialer.Dial(network, address)
	}
	conn, err := d.dialer.DialContext(ctx, network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed = err
	return conn, err
}

// opened ends the time of opening and returns the last error of dialling.
func (d *dialer) opened() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opening = nil
	return d.failed
}

// reconnectDelay doubles from attempt to attempt, with a random part so that many clients do not come back all at once.
func reconnectDelay(attempts int) time.Duration {
	d := min(maxReconnect, minReconnect<<min(max(attempts-1, 0), 10))
	return d/2 + rand.N(d/2+1)
}

func (b *Broker) disconnected(_ *nats.Conn, err error) {
	if err != nil {
		b.log.Warn("connection to NATS lost; reconnecting", "nats", b.address, "error", err)
	}
}

func (b *Broker) reconnected(*nats.Conn) {
	b.log.Info("connected to NATS again", "nats", b.address)
	b.publisher.reconnected()
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		s.poke()
	}
}

func (b *Broker) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	b.log.Warn("NATS reports an error", "nats", b.address, "subject", subject, "error", err)
}

// Ping tells whether the server answers.
func (b *Broker) Ping(ctx context.Context) error {
	if b.isClosed() {
		return pubsub.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if err := b.conn.FlushWithContext(ctx); err != nil {
		return pubsub.Transient(fmt.Errorf("NATS at %s does not answer: %w", b.address, err))
	}
	return nil
}

func (b *Broker) isClosed() bool {
	select {
	case <-b.closing:
		return true
	default:
		return false
	}
}

// Subscribe starts a consumer of the topic's stream, or joins the one of its name and group.
func (b *Broker) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) (pubsub.Subscription, error) {
	if err := checkTopic(req.Topic, true); err != nil {
		return nil, err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, pubsub.ErrClosed
	}
	b.starting.Add(1)
	b.mu.Unlock()
	defer b.starting.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.closingContext(), cancel)()
	s, err := b.subscribe(ctx, req.Topic, handler)
	if err != nil {
		if b.isClosed() {
			err = pubsub.ErrClosed
		}
		return nil, err
	}
	b.mu.Lock()
	b.subs[s] = struct{}{}
	b.mu.Unlock()
	return s, nil
}

// closingContext ends when the component is closed.
func (b *Broker) closingContext() context.Context { return closingContext{b.closing} }

// closingContext is a context without deadline or values.
type closingContext struct{ done <-chan struct{} }

func (c closingContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c closingContext) Done() <-chan struct{}       { return c.done }
func (c closingContext) Value(any) any               { return nil }
func (c closingContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

func (b *Broker) forget(s *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subs, s)
}

// Close ends the subscriptions, side by side, and then the connection.
func (b *Broker) Close() error {
	b.closeOnce.Do(func() {
		b.mu.Lock()
		b.closed = true
		b.mu.Unlock()
		close(b.closing)
		b.starting.Wait()
		b.mu.Lock()
		subs := make([]*subscription, 0, len(b.subs))
		for s := range b.subs {
			subs = append(subs, s)
		}
		b.mu.Unlock()
		var ending sync.WaitGroup
		for _, s := range subs {
			ending.Go(func() { _ = s.Close() })
		}
		ending.Wait()
		b.disconnect()
	})
	return nil
}

// disconnect ends the connection and waits until the client library has.
func (b *Broker) disconnect() {
	b.conn.Close()
	select {
	case <-b.gone:
	case <-time.After(closeTimeout):
	}
}

// bounded is for calls of the server that closing or looking after a subscription makes.
func bounded(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}
