package mqttclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

const (
	// firstDelay is the wait before the second attempt to reconnect, doubled for each further one up to longestDelay.
	firstDelay   = 250 * time.Millisecond
	longestDelay = 15 * time.Second
	// steady is how long a connection lasts that was not ended for what the client itself is.
	steady = 5 * time.Second
	// closeLimit bounds each exchange with the broker when something is closed.
	closeLimit = 5 * time.Second
	// mostFlows is how many exchanges there are identifiers for, reservedFlows those that publishing does not take, so that
	// filters can always be asked for.
	mostFlows     = 65535
	reservedFlows = 1024
)

// ErrClosed is what a closed client answers.
var ErrClosed = errors.New("the MQTT client is closed")

// RefusedError says that the broker, or the protocol itself, will not take the same request later either.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// Session says who connects.
type Session struct {
	// ClientID identifies the session at the broker, which ends the connection of another client with the same one.
	ClientID string
	// CleanSession makes the broker forget the session with the connection.
	CleanSession bool
	// Log and Clock may be nil.
	Log   *slog.Logger
	Clock clockwork.Clock
}

// Client is a session with a broker. It reconnects by itself. Its methods are safe for concurrent use.
type Client struct {
	target  *target
	session Session
	log     *slog.Logger
	clock   clockwork.Clock
	seed    maphash.Seed // of fingerprints

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	ended   chan struct{} // closed when run has returned
	closing sync.Once
	workers workers
	// requests is held while a filter is asked for or left, so that the broker sees these in the order they were decided in.
	requests sync.Mutex

	mu      sync.Mutex // guards what follows
	closed  bool
	conn    *connection   // nil while there is none
	changed chan struct{} // closed, and replaced, when conn changes
	lost    error         // why there is no connection
	lastID  uint16
	order   uint64 // of flows
	flows   map[uint16]*flow
	filters map[string]*filter
	// leaving are filters to unsubscribe from at the next connection.
	leaving map[string]bool
	parked  []parked
	// received are messages of qos 2 that were processed and that the broker has not released yet: their identifiers, with
	// fingerprints of what they were.
	received map[uint16]uint64
	// strayed is what was logged of messages for which there is no subscription.
	strayed strayed
}

// flow is an exchange that the broker has to complete: a publish, a subscribe or an unsubscribe.
type flow struct {
	frame []byte
	order uint64
	// sent on any connection, so that it is a duplicate on the next.
	sent bool
	// released is set when the broker has taken a message of qos 2, and only its release is left to do.
	released bool
	// abandoned is set when nobody waits any more. The identifier stays taken until the broker cannot answer to it any more.
	abandoned bool
	// answer is the type of the packet that completes it.
	answer byte
	// qos is the one that a subscribe asks for.
	qos  byte
	done func(error)
}

// message tells publishes, which outlive their connection, from the rest.
func (f *flow) message() bool { return f.answer == typePuback || f.answer == typePubcomp }

// Connect opens a session. It fails when the broker cannot be reached at first, or within 10 seconds.
func (o *Options) Connect(ctx context.Context, s Session) (*Client, error) {
	t, err := o.target()
	if err != nil {
		return nil, err
	}
	if err := checkText("the client id (consumerID)", s.ClientID); err != nil {
		return nil, err
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Clock == nil {
		s.Clock = clockwork.NewRealClock()
	}
	c := &Client{
		target: t, session: s, clock: s.Clock,
		log:   s.Log.With("broker", t.shown, "clientID", s.ClientID),
		ended: make(chan struct{}), changed: make(chan struct{}),
		flows: map[uint16]*flow{}, filters: map[string]*filter{}, leaving: map[string]bool{}, received: map[uint16]uint64{},
		seed: maphash.MakeSeed(),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.workers = workers{tasks: make(chan task), quit: c.ctx.Done()}
	conn, err := c.connect(ctx)
	if err != nil {
		c.cancel()
		return nil, err
	}
	go c.run(conn) // Close waits for it
	return c, nil
}

// run keeps the session connected until Close.
func (c *Client) run(conn *connection) {
	defer close(c.ended)
	delay := time.Duration(0)
	for {
		since := c.clock.Now()
		err := c.serve(conn)
		c.mu.Lock()
		closed := c.closed
		c.mu.Unlock()
		if closed {
			return
		}
		if c.clock.Since(since) >= steady {
			delay = 0
			c.log.Warn("lost the connection to the MQTT broker, reconnecting", "error", err)
		} else {
			c.log.Warn("lost the connection to the MQTT broker soon after it was made, reconnecting; when that goes on, another client may have the same client id: give each replica its own consumerID, such as {podName}", "error", err)
		}
		for {
			if delay > 0 {
				select {
				case <-c.clock.After(delay):
				case <-c.ctx.Done():
					return
				}
			}
			delay = min(max(2*delay, firstDelay), longestDelay)
			conn, err = c.connect(c.ctx)
			if err == nil {
				break
			}
			if c.ctx.Err() != nil {
				return
			}
			c.mu.Lock()
			c.lost = err
			c.mu.Unlock()
			c.log.Warn("cannot reconnect to the MQTT broker, trying again", "in", delay, "error", err)
		}
		c.log.Info("reconnected to the MQTT broker", "sessionKept", conn.present)
	}
}

// serve uses a connection until it ends and returns why.
func (c *Client) serve(conn *connection) error {
	c.attach(conn)
	stop := context.AfterFunc(c.ctx, func() { conn.fail(ErrClosed) })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(conn.write)
	wg.Go(func() { conn.read(c) })
	wg.Wait()
	c.detach(conn)
	return conn.err
}

// attach makes a new connection the current one. It asks for all filters, also when the broker says that it has kept the
// session: one that crashed may have kept an older state of it. What the broker has not completed is sent again, oldest first.
func (c *Client) attach(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !conn.present {
		clear(c.received)
		clear(c.leaving)
	}
	unfinished := make([]uint16, 0, len(c.flows))
	for id, f := range c.flows {
		if f.abandoned && (f.answer != typePubcomp || !conn.present) {
			delete(c.flows, id)
			continue
		}
		unfinished = append(unfinished, id)
	}
	slices.SortFunc(unfinished, func(a, b uint16) int { return cmp.Compare(c.flows[a].order, c.flows[b].order) })
	for name := range c.leaving {
		if frame, err := c.leave(name, c.hasLeft(name)); err == nil {
			conn.first = append(conn.first, frame)
		}
	}
	for _, f := range c.filters {
		if frame, err := c.ask(f); err == nil {
			conn.first = append(conn.first, frame)
		}
	}
	for _, id := range unfinished {
		switch f := c.flows[id]; {
		case f.abandoned || f.released && conn.present:
			// Also one that the broker may not have: it answers all the same (MQTT 3.1.1, section 4.3.3).
			f.released = true
			conn.first = append(conn.first, idFrame(firstPubrel, id))
		case f.sent:
			f.released = false
			f.frame[0] |= flagDuplicate
			conn.first = append(conn.first, f.frame)
		default:
			f.sent = true
			conn.first = append(conn.first, f.frame)
		}
	}
	c.conn, c.lost = conn, nil
	close(c.changed)
	c.changed = make(chan struct{})
}

// detach ends what cannot outlive its connection.
func (c *Client) detach(conn *connection) {
	c.mu.Lock()
	var ended []*flow
	for id, f := range c.flows {
		if !f.message() {
			ended = append(ended, f)
			delete(c.flows, id)
		}
	}
	// The broker sends again what waited, if it keeps the session at all.
	c.parked = nil
	c.conn, c.lost = nil, conn.err
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	for _, f := range ended {
		f.done(conn.err)
	}
}

// begin registers a flow and returns its identifier. The lock is held.
func (c *Client) begin(f *flow) (uint16, error) {
	most := mostFlows
	if f.message() {
		most -= reservedFlows
	}
	if len(c.flows) >= most {
		return 0, fmt.Errorf("the MQTT broker has not answered %d requests yet, which is the most that it can be asked at a time: publish less at once", len(c.flows))
	}
	for {
		c.lastID++
		if _, taken := c.flows[c.lastID]; c.lastID != 0 && !taken {
			break
		}
	}
	c.order++
	f.order = c.order
	c.flows[c.lastID] = f
	return c.lastID, nil
}

// complete ends a flow that the broker has answered.
func (c *Client) complete(p *packet) error {
	c.mu.Lock()
	f := c.flows[p.id]
	if f == nil {
		c.mu.Unlock()
		return nil // it was given up
	}
	if f.answer != p.kind {
		c.mu.Unlock()
		return &malformedError{fmt.Sprintf("a packet of type %d in answer to request %d, which is answered by type %d", p.kind, p.id, f.answer)}
	}
	delete(c.flows, p.id)
	c.mu.Unlock()
	var err error
	if p.kind == typeSuback {
		switch {
		case len(p.payload) != 1 || p.payload[0] > 2:
			err = &RefusedError{"the broker refused the subscription: is the user allowed to read the topic?"}
		case p.payload[0] < f.qos:
			c.log.Warn("the MQTT broker grants a subscription a lower quality of service than asked for, with which messages may be lost", "asked", f.qos, "granted", p.payload[0])
		}
	}
	f.done(err)
	return nil
}

// wait returns the current connection, as soon as there is one.
func (c *Client) wait(ctx context.Context) (*connection, error) {
	for {
		c.mu.Lock()
		conn, changed, lost, closed := c.conn, c.changed, c.lost, c.closed
		c.mu.Unlock()
		switch {
		case closed:
			return nil, ErrClosed
		case conn != nil:
			return conn, nil
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, c.late(ctx, "the connection", lost)
		}
	}
}

// late is the error of a call whose time ran out while it waited for something, such as "the acknowledgement". lost is why
// there is no connection, nil if there is one.
func (c *Client) late(ctx context.Context, what string, lost error) error {
	if lost != nil {
		err := fmt.Errorf("the MQTT broker at %s is not connected: waited in vain for %s: %w: %w", c.target.shown, what, context.Cause(ctx), lost)
		if unreached(lost) && !strings.Contains(lost.Error(), remedy) {
			err = fmt.Errorf("%w; %s", err, remedy)
		}
		return err
	}
	return c.target.late(ctx, what)
}

// Ping returns once the broker has answered.
func (c *Client) Ping(ctx context.Context) error {
	conn, err := c.wait(ctx)
	if err == nil {
		if err = conn.ping(ctx); err != nil && ctx.Err() != nil {
			err = c.late(ctx, "the answer", nil)
		}
	}
	return err
}

// Close ends all subscriptions as [Subscription.Close] does, without unsubscribing, and then the connection. Publishes that
// the broker has not acknowledged fail with [ErrClosed].
func (c *Client) Close() error {
	c.closing.Do(func() {
		c.mu.Lock()
		c.closed = true
		var subs []*Subscription
		for _, f := range c.filters {
			subs = append(subs, f.subs...)
		}
		for _, s := range subs {
			s.remove()
		}
		c.mu.Unlock()
		for _, s := range subs {
			s.cancel()
		}
		for _, s := range subs {
			s.end()
		}
		c.mu.Lock()
		conn := c.conn
		c.mu.Unlock()
		if conn != nil {
			ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
			conn.flush(ctx, []byte{firstDisconnect, 0})
			cancel()
		}
		c.cancel()
		<-c.ended
		c.workers.wg.Wait()
	})
	return nil
}
