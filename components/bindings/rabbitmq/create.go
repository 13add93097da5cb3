package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/rabbitmqclient"
)

const (
	// laneCount is how many messages are created at a time.
	laneCount = 16
	// attempts is how often a message is sent that did not reach the queue.
	attempts = 3
)

// Errors of one attempt.
var (
	errLost    = errors.New("the channel was closed before the broker confirmed the message")
	errNoQueue = errors.New("the queue is not there any more")
)

// lane is a channel that one message at a time is sent on, so that what the broker says is about that message. Messages are
// confirmed, and come back when there is no queue for them.
type lane struct {
	conn     *rabbitmqclient.Connection
	ch       *amqp.Channel
	returned chan amqp.Return
	closes   chan *amqp.Error
	vanished int64 // the value of Binding.vanished when the queue was last made
}

// Operations implements [bindings.Output].
func (b *Binding) Operations() []string { return []string{bindings.Create} }

// Invoke implements [bindings.Output]. It returns once the queue has the message.
func (b *Binding) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	if req.Operation != bindings.Create {
		return nil, fmt.Errorf("operation %q is not supported: use %q", req.Operation, bindings.Create)
	}
	msg, err := b.message(req)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		err = b.send(ctx, msg)
		switch {
		case err == nil:
			return nil, nil
		case b.ctx.Err() != nil:
			return nil, errClosed
		case attempt == attempts || ctx.Err() != nil || errors.Is(err, rabbitmqclient.ErrNotTaken) || rabbitmqclient.Permanent(err):
			return nil, fmt.Errorf("rabbitmq at %s: message for queue %q was not created: %w", b.client.Address, b.options.QueueName, err)
		}
	}
}

// send makes one attempt.
func (b *Binding) send(ctx context.Context, msg amqp.Publishing) error {
	if b.ctx.Err() != nil {
		return errClosed
	}
	l, err := b.lane(ctx)
	if err != nil {
		return err
	}
	keep := false
	defer func() {
		if !keep && !l.ch.IsClosed() {
			// An answer may be on its way, which must not be taken for that to another message.
			old := *l
			b.client.Go(func() { _ = old.conn.Call(old.ch.Close) })
			*l = lane{}
		}
		b.free <- l
	}()
	if err := l.conn.Taking(); err != nil {
		keep = true
		return err
	}
	confirm, err := l.ch.PublishWithDeferredConfirm("", b.options.QueueName, true, false, msg)
	if err != nil {
		return l.lost(len(msg.Body), err)
	}
	if err := rabbitmqclient.AwaitConfirm(ctx, confirm); err != nil {
		return err
	}
	keep = true
	select {
	case _, ok := <-l.returned: // it comes before the confirmation
		if ok { // and not because the channel is closed
			b.vanished.Add(1)
			return errNoQueue
		}
	default:
	}
	switch {
	case confirm.Acked():
		return nil
	case l.ch.IsClosed():
		return l.lost(len(msg.Body), errLost)
	default:
		return rabbitmqclient.ErrNotTaken
	}
}

// lost is the broker's reason for having closed the channel over the message, whose size is in bytes; err when it told none.
func (l *lane) lost(size int, err error) error {
	select {
	case reason := <-l.closes: // it is told before confirmations are given up
		if large := rabbitmqclient.TooLarge(reason, size); large != nil {
			return large
		}
		if reason != nil {
			return fmt.Errorf("%w: %w", err, reason)
		}
	default:
	}
	return err
}

// lane waits for a lane that is free and opens it when it is not.
func (b *Binding) lane(ctx context.Context) (*lane, error) {
	var l *lane
	select {
	case l = <-b.free:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if l.ch != nil && !l.ch.IsClosed() && l.vanished == b.vanished.Load() {
		return l, nil
	}
	// Opening goes on when ctx ends, for whoever comes next.
	done := make(chan error)
	if !b.client.Go(func() {
		err := b.prepare(l)
		select {
		case done <- err:
			if err == nil {
				return
			}
		case <-ctx.Done():
		}
		b.free <- l
	}) {
		b.free <- l
		return nil, errClosed
	}
	select {
	case err := <-done:
		return l, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// prepare opens a lane and makes the queue.
func (b *Binding) prepare(l *lane) error {
	vanished := b.vanished.Load()
	if l.ch != nil && !l.ch.IsClosed() {
		err := l.conn.Call(func() error { return b.declare(l.ch) })
		if err == nil {
			l.vanished = vanished
		}
		return err
	}
	conn, err := b.client.Connection(b.ctx)
	if err != nil {
		return err
	}
	if err := conn.Taking(); err != nil {
		return err
	}
	fresh := lane{conn: conn, returned: make(chan amqp.Return, 1), vanished: vanished}
	fresh.ch, err = conn.Channel(func(ch *amqp.Channel) error {
		ch.NotifyReturn(fresh.returned)
		if err := ch.Confirm(false); err != nil {
			return err
		}
		return b.declare(ch)
	})
	if err == nil {
		fresh.closes = fresh.ch.NotifyClose(make(chan *amqp.Error, 1))
		*l = fresh
	}
	return err
}

// message turns a request into what AMQP carries. All metadata are headers; some have a meaning besides.
func (b *Binding) message(req bindings.Request) (amqp.Publishing, error) {
	msg := amqp.Publishing{DeliveryMode: amqp.Persistent, ContentType: b.options.ContentType, Body: req.Data, Headers: make(amqp.Table, len(req.Metadata))}
	for name, value := range req.Metadata {
		if len(name) > nameLimit {
			return msg, fmt.Errorf("the name of the metadata %.40q... has %d bytes, but AMQP carries at most %d: shorten it", name, len(name), nameLimit)
		}
		msg.Headers[name] = value
		if value == "" {
			continue
		}
		switch {
		case strings.EqualFold(name, "ttlInSeconds"), strings.EqualFold(name, "ttl"):
			ttl, err := components.ParseDuration(value, time.Second)
			if err != nil || ttl <= 0 {
				return msg, fmt.Errorf("metadata %s is %q, but must be a number of seconds, or a duration such as 90s, above 0", name, value)
			}
			msg.Expiration = rabbitmqclient.Expiration(ttl)
		case strings.EqualFold(name, "priority"):
			priority, err := rabbitmqclient.Priority(name, value)
			if err != nil {
				return msg, err
			}
			msg.Priority = priority
		case strings.EqualFold(name, "contentType"):
			if len(value) > nameLimit {
				return msg, fmt.Errorf("metadata %s has %d bytes, but AMQP carries at most %d: shorten it", name, len(value), nameLimit)
			}
			msg.ContentType = value
		}
	}
	return msg, nil
}
