package rabbitmqclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// maxHandlers is how many messages of one consumer are handled at a time, whatever the prefetch count. Others wait in the
// client.
const maxHandlers = 1024

// startLimit is how long [Client.Consume] tries to start (Dapr API, pubsub.rabbitmq).
const startLimit = time.Minute

// ConsumerConfig says what to consume and what to do with it.
type ConsumerConfig struct {
	// Name is what is consumed, for messages.
	Name string
	// Declare makes the queue, and all that belongs to it, and returns its name. It runs before every start.
	Declare func(conn *Connection, ch *amqp.Channel) (queue string, err error)
	// Prefetch is how many messages the broker sends ahead of their verdicts; 0 for any number.
	Prefetch int
	// AutoAck makes the broker take all messages as processed once they are sent.
	AutoAck bool
	// Serial handles one message after the other, in their order.
	Serial bool
	// Requeue makes the broker deliver rejected messages again; else it drops them, or passes them to the dead letter exchange.
	Requeue bool
	// Handle processes a message. An error rejects it, except when ctx has ended: then the message has no verdict, and the
	// broker delivers it again.
	Handle func(ctx context.Context, d *amqp.Delivery) error
	Log    *slog.Logger
}

// Consumer takes messages from a queue until it is closed. When the connection or the queue is gone it starts anew, with
// waits of ReconnectWait.
type Consumer struct {
	config ConsumerConfig
	client *Client
	alone  *Client // with a connection for this consumer only, once the broker did not answer it; of the goroutine that runs it

	ctx      context.Context // of the handlers; ends with Close
	cancel   context.CancelFunc
	handlers sync.WaitGroup
	slots    chan struct{}
	started  chan error // receives the outcome of the start
	reported bool       // that outcome; of the goroutine that runs the consumer
	outage   outage
	done     chan struct{} // closed when nothing runs any more

	mu      sync.Mutex // guards what follows
	stopped bool       // no more messages are wanted
	session *session   // the one that receives messages, if any
}

// session is one channel that messages come from.
type session struct {
	conn *Connection
	ch   *amqp.Channel
	tag  string
}

// Consume starts a consumer and returns once the broker has accepted it. It tries for a minute, or until ctx ends, unless
// the broker refuses for good.
func (c *Client) Consume(ctx context.Context, config ConsumerConfig) (*Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	s := &Consumer{config: config, client: c, started: make(chan error, 1), done: make(chan struct{}), slots: make(chan struct{}, maxHandlers)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	last := make(chan error, 1) // the error of the latest attempt
	if !c.Go(func() { s.run(last) }) {
		s.cancel()
		return nil, ErrClosed
	}
	var err error
	select {
	case err = <-s.started:
		if err == nil {
			return s, nil
		}
	case <-ctx.Done():
		err = fmt.Errorf("rabbitmq at %s: %s was not started: %w", c.Address, config.Name, context.Cause(ctx))
		select {
		case cause := <-last:
			err = errors.Join(err, cause)
		default:
		}
	}
	s.Close()
	return nil, err
}

// Pause takes no more messages from the broker. Those that are here are still handled.
func (s *Consumer) Pause(context.Context) error {
	s.mu.Lock()
	first := !s.stopped
	s.stopped = true
	current := s.session
	s.mu.Unlock()
	if !first || current == nil {
		return nil
	}
	err := current.conn.Call(func() error { return current.ch.Cancel(current.tag, false) })
	if current.ch.IsClosed() {
		return nil // so nothing comes either
	}
	return err
}

// Close takes no more messages, cancels the handlers' contexts, and returns once they have returned and the broker has
// their verdicts, as far as it can be reached. It may be called more than once.
func (s *Consumer) Close() {
	_ = s.Pause(context.Background()) // when it fails the channel is closed below all the same
	s.cancel()
	<-s.done
}

// run keeps the consumer alive.
func (s *Consumer) run(last chan error) {
	defer close(s.done)
	defer func() {
		if s.alone != nil {
			s.alone.Close()
		}
	}()
	defer s.handlers.Wait()
	defer context.AfterFunc(s.client.ctx, s.cancel)()
	for s.ctx.Err() == nil {
		err := s.consume()
		s.mu.Lock()
		s.session = nil
		stopped := s.stopped
		s.mu.Unlock()
		if s.client.ctx.Err() != nil {
			err = ErrClosed
		}
		if stopped {
			<-s.ctx.Done() // a paused one stays until it is closed
			return
		}
		if _, silent := errors.AsType[*silenceError](err); silent && s.alone == nil {
			// A broker that works may still not answer for one queue, such as one whose leader is gone. Each question about it ends a
			// connection, which from now on is not that of others.
			s.alone = s.client.alike()
			context.AfterFunc(s.client.ctx, s.alone.Close)
		}
		if (err == ErrClosed || Permanent(err)) && s.report(err) {
			return
		}
		select {
		case <-last:
		default:
		}
		last <- err
		s.warn(err)
		_ = Wait(s.ctx, s.client.clock, s.client.settings.ReconnectWait) // the loop looks at the context
	}
	s.report(ErrClosed)
}

// warn logs that the consumer does not run, unless it did so a moment ago.
func (s *Consumer) warn(err error) {
	if err == ErrClosed || !s.outage.failed(s.client.clock.Now()) {
		return
	}
	s.config.Log.Warn("a RabbitMQ consumer does not run; it is started again, until that succeeds", "consumer", s.config.Name, "rabbitmq", s.client.Address,
		"every", s.client.settings.ReconnectWait, "failures", s.outage.failures, "error", err)
}

// recovered logs the end of what warn told of.
func (s *Consumer) recovered() {
	now := s.client.clock.Now()
	if s.outage.over(now) {
		s.config.Log.Info("a RabbitMQ consumer runs again", "consumer", s.config.Name, "rabbitmq", s.client.Address,
			"after", now.Sub(s.outage.since).Round(time.Millisecond), "failures", s.outage.failures)
	}
}

// report tells the outcome of the start, and returns whether it was not told before.
func (s *Consumer) report(err error) bool {
	if s.reported {
		return false
	}
	s.reported = true
	s.started <- err
	return true
}

// consume starts to consume and handles what comes until nothing more does, or the consumer is closed.
func (s *Consumer) consume() error {
	client := s.client
	if s.alone != nil {
		client = s.alone
	}
	conn, err := client.Connection(s.ctx)
	if err != nil {
		return err
	}
	current := &session{conn: conn}
	var deliveries <-chan amqp.Delivery
	current.ch, err = conn.Channel(func(ch *amqp.Channel) error {
		queue, err := s.config.Declare(conn, ch)
		if err != nil {
			return err
		}
		if s.config.Prefetch > 0 {
			if err := ch.Qos(s.config.Prefetch, 0, false); err != nil {
				return err
			}
		}
		current.tag = queue
		deliveries, err = ch.Consume(queue, current.tag, s.config.AutoAck, false, false, false, nil)
		return err
	})
	if err != nil {
		return err
	}
	closes := current.ch.NotifyClose(make(chan *amqp.Error, 1))
	s.mu.Lock()
	stopped := s.stopped
	if !stopped {
		s.session = current
	}
	s.mu.Unlock()
	if stopped {
		_ = conn.Call(current.ch.Close)
		return nil
	}
	s.report(nil)
	s.recovered()
	for d := range deliveries {
		s.take(&d)
	}
	s.mu.Lock()
	stopped = s.stopped
	s.mu.Unlock()
	if stopped {
		// The channel is kept for the verdicts.
		select {
		case <-s.ctx.Done():
		case <-closes:
		}
		s.handlers.Wait()
	}
	// The answer comes after the broker has dealt with the verdicts; messages without one become available again.
	_ = conn.Call(current.ch.Close)
	select {
	case err, ok := <-closes:
		if ok {
			return err
		}
	default:
	}
	return errors.New("the broker ended it, as happens when the queue is deleted")
}

// take handles a message now or in the background.
func (s *Consumer) take(d *amqp.Delivery) {
	if s.ctx.Err() != nil {
		return
	}
	if s.config.Serial {
		s.handle(d)
		return
	}
	select {
	case s.slots <- struct{}{}:
	case <-s.ctx.Done():
		return
	}
	s.handlers.Go(func() {
		defer func() { <-s.slots }()
		s.handle(d)
	})
}

// handle processes a message and tells the broker the verdict.
func (s *Consumer) handle(d *amqp.Delivery) {
	err := s.config.Handle(s.ctx, d)
	switch {
	case s.config.AutoAck:
		return
	case err == nil:
		err = d.Ack(false)
	case s.ctx.Err() != nil:
		return
	default:
		err = d.Nack(false, s.config.Requeue)
	}
	if err != nil {
		s.config.Log.Debug("a verdict did not reach the broker, which delivers the message again", "consumer", s.config.Name, "rabbitmq", s.client.Address, "error", err)
	}
}
