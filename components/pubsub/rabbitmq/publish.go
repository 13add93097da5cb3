package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/rabbitmqclient"
)

const (
	// laneCount is how many channels there are to publish on. The broker gives each a thread of its own.
	laneCount = 8
	// attempts is how often a message is published that did not reach the broker, attemptWait apart (Dapr API, pubsub.rabbitmq).
	attempts    = 3
	attemptWait = 2 * time.Second
	// closeLimit is how long Close waits for channels that are just being opened.
	closeLimit = 5 * time.Second
	// nameLimit is the longest short string of AMQP, in bytes. A longer one would end the connection.
	nameLimit = 255
	// largeMessage is from how many bytes on publishing without confirmations makes sure that the broker takes a message of that
	// size, which costs an exchange of words with it.
	largeMessage = 128 << 10
)

// errLost says that the connection ended before the broker confirmed, errChannelLost that only the channel did, which a new
// one makes good.
var (
	errLost        = errors.New("the connection was lost before the broker confirmed the message")
	errChannelLost = errors.New("the channel was closed before the broker confirmed the message")
)

// lane is a channel to publish on, which is opened when it is needed and again when it was lost.
type lane struct {
	turn    chan struct{} // held by the goroutine that prepares the lane
	current atomic.Pointer[laneChannel]
}

// laneChannel is one life of a lane.
type laneChannel struct {
	conn   *rabbitmqclient.Connection
	ch     *amqp.Channel
	ended  chan struct{} // closed once the channel is and reason is set
	reason *amqp.Error   // the broker's for closing it, if it was the broker
}

// limit is the largest message, in bytes, that the broker takes on a connection.
type limit struct {
	conn  *rabbitmqclient.Connection
	bytes int64
}

// lost is the error of a channel that was closed while it published a message to a topic. The broker closes a channel over one
// message, but all that were on their way on it suffer: only the one that is to blame is not worth another attempt.
func (b *Broker) lost(c *laneChannel, topic string, msg *amqp.Publishing) error {
	b.declared.Delete(topic) // perhaps the exchange is gone
	if c.conn.IsClosed() {   // which is noted before that its channels are
		return errLost
	}
	select {
	case <-c.ended:
	case <-b.ctx.Done():
		return errChannelLost
	}
	if c.reason == nil {
		return errChannelLost
	}
	if err := rabbitmqclient.TooLarge(c.reason, len(msg.Body)); err != nil {
		b.limit.Store(&limit{c.conn, err.Limit})
		return err
	}
	if c.reason.Code == amqp.AccessRefused && strings.Contains(c.reason.Reason, "'"+topic+"'") {
		return c.reason
	}
	return fmt.Errorf("%w: %s", errChannelLost, c.reason.Reason)
}

// isDeclared reports whether the topic's exchange was declared on the connection.
func (b *Broker) isDeclared(conn *rabbitmqclient.Connection, topic string) bool {
	on, ok := b.declared.Load(topic)
	return ok && on == conn
}

// close waits until the broker has dealt with what was published, unless it does not even answer those who ask to publish.
func (l *lane) close() {
	timer := time.NewTimer(closeLimit)
	defer timer.Stop()
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-timer.C:
		return
	}
	c := l.current.Load()
	if c == nil || c.ch.IsClosed() {
		return
	}
	if _, blocked := c.conn.Blocked(); !blocked {
		_ = c.conn.Call(c.ch.Close)
	}
}

// Publish implements [pubsub.Broker].
func (b *Broker) Publish(ctx context.Context, req pubsub.PublishRequest) error {
	key, msg, err := b.message(req)
	if err != nil {
		return pubsub.Terminal(err)
	}
	for attempt := 1; ; attempt++ {
		if b.ctx.Err() != nil {
			return pubsub.ErrClosed
		}
		err = b.publish(ctx, req.Topic, key, msg)
		switch {
		case err == nil:
			return nil
		case b.ctx.Err() != nil:
			return pubsub.ErrClosed
		case rabbitmqclient.Permanent(err):
			return pubsub.Terminal(b.failed(req.Topic, err))
		case attempt == attempts || ctx.Err() != nil || errors.Is(err, rabbitmqclient.ErrNotTaken):
			return pubsub.Transient(b.failed(req.Topic, err))
		}
		if attempt == 1 && errors.Is(err, errChannelLost) {
			continue
		}
		if waitErr := b.wait(ctx); waitErr != nil {
			return pubsub.Transient(b.failed(req.Topic, fmt.Errorf("%w, after: %w", waitErr, err)))
		}
	}
}

func (b *Broker) failed(topic string, err error) error {
	return fmt.Errorf("rabbitmq at %s: message for topic %q was not published: %w", b.publishing.Address, topic, err)
}

// wait lets the time between two attempts pass.
func (b *Broker) wait(ctx context.Context) error {
	timer := b.clock.NewTimer(attemptWait)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-b.ctx.Done():
		return pubsub.ErrClosed
	}
}

// publish makes one attempt.
func (b *Broker) publish(ctx context.Context, topic, key string, msg amqp.Publishing) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	l := &b.lanes[b.laneOf(topic)]
	c, err := b.channel(ctx, l, topic)
	if err != nil {
		return err
	}
	if err := c.conn.Taking(); err != nil {
		return err
	}
	if most := b.limit.Load(); most != nil && most.conn == c.conn && int64(len(msg.Body)) > most.bytes {
		return &rabbitmqclient.SizeError{Size: int64(len(msg.Body)), Limit: most.bytes}
	}
	confirm, err := c.ch.PublishWithDeferredConfirm(topic, key, false, false, msg)
	switch {
	case c.ch.IsClosed() && (err != nil || confirm == nil):
		return b.lost(c, topic, &msg)
	case err != nil:
		return err
	case confirm == nil && len(msg.Body) >= largeMessage:
		return b.settle(ctx, l, c, topic, &msg)
	case confirm == nil:
		return nil
	}
	if err := rabbitmqclient.AwaitConfirm(ctx, confirm); err != nil {
		return err
	}
	switch {
	case confirm.Acked():
		return nil
	case c.ch.IsClosed():
		return b.lost(c, topic, &msg)
	default:
		return rabbitmqclient.ErrNotTaken
	}
}

// settle returns once the broker has dealt with what was published on a channel without confirmations, which an answer to
// something asked later on the same channel shows.
func (b *Broker) settle(ctx context.Context, l *lane, c *laneChannel, topic string, msg *amqp.Publishing) error {
	err := b.withTurn(ctx, l, func() error {
		return c.conn.Call(func() error { return b.declareExchange(c.ch, topic) })
	})
	if err != nil && c.ch.IsClosed() {
		return b.lost(c, topic, msg)
	}
	return err
}

// channel returns a channel to publish to the topic on, with the topic's exchange there.
//
// Messages of one topic stay in their order only on one channel. Waiting for confirmations keeps a publisher's order on
// several, so then any channel will do.
func (b *Broker) channel(ctx context.Context, l *lane, topic string) (*laneChannel, error) {
	if c := l.current.Load(); c != nil && !c.ch.IsClosed() && b.isDeclared(c.conn, topic) {
		return c, nil
	}
	var c *laneChannel // read only after prepare has returned
	err := b.withTurn(ctx, l, func() error {
		var err error
		c, err = b.prepare(l, topic)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// withTurn runs f with the lane's turn. When ctx ends f goes on, for whoever comes next.
func (b *Broker) withTurn(ctx context.Context, l *lane, f func() error) error {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	done := make(chan error, 1)
	if !b.publishing.Go(func() {
		defer func() { <-l.turn }()
		done <- f()
	}) {
		<-l.turn
		return pubsub.ErrClosed
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (b *Broker) laneOf(topic string) uint64 {
	if b.options.PublisherConfirm {
		return b.nextLane.Add(1) % laneCount
	}
	return maphash.String(b.seed, topic) % laneCount
}

// prepare opens the lane's channel unless it is open, and declares the topic's exchange. The caller has the lane's turn.
func (b *Broker) prepare(l *lane, topic string) (*laneChannel, error) {
	c := l.current.Load()
	if c == nil || c.ch.IsClosed() {
		// The broker closes a channel over an exchange that is gone, without saying whose message it was.
		b.declared.Clear()
		conn, err := b.publishing.Connection(b.ctx)
		if err != nil {
			return nil, err
		}
		if err := conn.Taking(); err != nil {
			return nil, err
		}
		c = &laneChannel{conn: conn, ended: make(chan struct{})}
		c.ch, err = conn.Channel(func(ch *amqp.Channel) error {
			if b.options.PublisherConfirm {
				return ch.Confirm(false)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		closes := c.ch.NotifyClose(make(chan *amqp.Error, 1))
		if fresh := c; !b.publishing.Go(func() { b.watch(fresh, closes) }) {
			return nil, pubsub.ErrClosed
		}
		l.current.Store(c)
	}
	if b.isDeclared(c.conn, topic) {
		return c, nil
	}
	if err := c.conn.Taking(); err != nil {
		return nil, err
	}
	if err := c.conn.Call(func() error { return b.declareExchange(c.ch, topic) }); err != nil {
		return nil, err
	}
	b.declared.Store(topic, c.conn)
	return c, nil
}

// watch notes why a channel ended, and tells it: without confirmations nobody else does.
func (b *Broker) watch(c *laneChannel, closes <-chan *amqp.Error) {
	defer close(c.ended)
	for err := range closes {
		c.reason = err
		if b.options.PublisherConfirm || b.ctx.Err() != nil {
			continue
		}
		b.log.Warn("a channel for publishing was closed; messages published at that moment may be lost, which publisherConfirm prevents",
			"rabbitmq", b.publishing.Address, "error", err)
	}
}

// message turns a request into what AMQP carries (Dapr API, pubsub.rabbitmq: publish metadata).
func (b *Broker) message(req pubsub.PublishRequest) (key string, msg amqp.Publishing, err error) {
	msg = amqp.Publishing{ContentType: "text/plain", DeliveryMode: b.options.DeliveryMode, Body: req.Data}
	if err := checkName("topic", req.Topic); err != nil {
		return "", msg, err
	}
	if req.Topic == "" {
		return "", msg, errors.New("the topic is empty: name one")
	}
	for name, value := range req.Metadata {
		var target *string
		switch {
		case strings.EqualFold(name, "routingKey"):
			target = &key
		case strings.EqualFold(name, "contentType"):
			if value == "" {
				continue
			}
			target = &msg.ContentType
		case strings.EqualFold(name, "messageID"):
			target = &msg.MessageId
		case strings.EqualFold(name, "correlationID"):
			target = &msg.CorrelationId
		case strings.EqualFold(name, "type"):
			target = &msg.Type
		case strings.EqualFold(name, "priority"):
			if msg.Priority, err = rabbitmqclient.Priority(name, value); err != nil {
				return "", msg, err
			}
			continue
		default:
			continue
		}
		if err := checkName(name, value); err != nil {
			return "", msg, err
		}
		*target = value
	}
	if ttl, ok := pubsub.TTL(req.Metadata); ok {
		msg.Expiration = rabbitmqclient.Expiration(ttl)
	} else if b.options.TTL != nil && *b.options.TTL > 0 {
		msg.Expiration = rabbitmqclient.Expiration(*b.options.TTL)
	}
	return key, msg, nil
}

func checkName(name, value string) error {
	if len(value) > nameLimit {
		return fmt.Errorf("the %s has %d bytes, but AMQP carries at most %d: shorten it", name, len(value), nameLimit)
	}
	return nil
}
