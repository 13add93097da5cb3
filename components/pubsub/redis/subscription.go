package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"outrigger.dev/components/pubsub"
)

// closeLimit bounds what a closing subscription still has to tell the server.
const closeLimit = 3 * time.Second

// The waits between attempts while the server fails: doubled each time.
const (
	firstWait = 50 * time.Millisecond
	longWait  = 2 * time.Second
)

// subscription reads one topic.
type subscription struct {
	broker  *Broker
	topic   string
	group   string
	handler pubsub.Handler
	flight  *flight
	reader  *reader

	// ctx is that of the handlers; reading ends earlier when the subscription is paused.
	ctx           context.Context
	cancel        context.CancelFunc
	reading       context.Context
	cancelReading context.CancelFunc
	// claiming is held while pending messages are on their way from the server.
	claiming sync.Mutex
	loops    sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup

	acks acks
	// done is closed when Close has done its work.
	done chan struct{}
}

var _ pubsub.Pauser = (*subscription)(nil)

// Subscribe creates the stream and the group, if need be, and starts to read. A group that is created gets what the stream
// holds already.
func (b *Broker) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) (pubsub.Subscription, error) {
	if b.closed.Load() {
		return nil, pubsub.ErrClosed
	}
	s := &subscription{broker: b, topic: req.Topic, group: b.options.ConsumerID, handler: handler, done: make(chan struct{})}
	if err := s.createGroup(ctx); err != nil {
		return nil, b.failed("create the consumer group "+s.group+" of", s.topic, err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.reading, s.cancelReading = context.WithCancel(s.ctx)
	s.reader = newReader(s)
	s.acks.init()

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.Load() {
		s.cancel()
		return nil, pubsub.ErrClosed
	}
	s.flight = b.flight(s.topic)
	b.subs[s] = struct{}{}
	if !b.working {
		b.working = true
		for range b.options.Concurrency {
			b.worker.Go(b.work)
		}
	}
	s.loops.Go(s.readLoop)
	if b.options.ProcessingTimeout > 0 {
		s.loops.Go(s.pendingLoop)
	}
	go s.ackLoop()
	return s, nil
}

// createGroup makes the group, and with it the stream. That it exists is fine.
func (s *subscription) createGroup(ctx context.Context) error {
	c := s.broker.client
	return c.RetryUnsent(ctx, func() error {
		err := c.Do(ctx, c.B().XgroupCreate().Key(s.topic).Group(s.group).Id("0").Mkstream().Build()).Error()
		if answer, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(answer.Error(), "BUSYGROUP") {
			return nil
		}
		return err
	})
}

// readLoop reads new messages until the subscription ends or pauses.
func (s *subscription) readLoop() {
	defer s.reader.release()
	log := s.broker.log.With("topic", s.topic, "consumerID", s.group)
	wait := time.Duration(0)
	for s.reading.Err() == nil {
		found, err := s.reader.fetch()
		if errors.Is(err, errStopped) {
			return
		}
		if answer, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(answer.Error(), "NOGROUP") {
			log.Warn("the consumer group is gone from Redis and is created again, to read the stream from its beginning")
			if err = s.createGroup(s.reading); err == nil {
				continue
			}
		}
		if err != nil {
			if wait == 0 {
				log.Warn("messages cannot be read from Redis for now; trying again", "redis", s.broker.client.Address, "error", err)
			}
			wait = min(max(2*wait, firstWait), longWait)
			if !s.pause(s.reading, wait) {
				return
			}
			continue
		}
		if wait > 0 {
			log.Info("messages are read from Redis again", "redis", s.broker.client.Address)
			wait = 0
		}
		s.enqueue(found, nil)
	}
}

// pause waits, and reports false when ctx ended meanwhile.
func (s *subscription) pause(ctx context.Context, d time.Duration) bool {
	timer := s.broker.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return true
	case <-ctx.Done():
		return false
	}
}

// delivery makes one of an entry.
func (s *subscription) delivery(e *rueidis.XRangeSlice, now time.Time) *delivery {
	d := &delivery{sub: s, id: e.ID, touched: now}
	for _, f := range e.FieldValues {
		switch f.Field {
		case fieldData:
			d.data = f.Value
		case fieldMetadata:
			d.metadata = f.Value
		}
	}
	return d
}

// enqueue hands deliveries to the workers. While it waits for room it calls tick, unless that is nil, at every refresh interval.
func (s *subscription) enqueue(found []*delivery, tick func()) {
	for _, d := range found {
		select {
		case s.broker.queue <- d:
			continue
		default:
		}
		if !s.enqueueFull(d, tick) {
			return
		}
	}
}

// enqueueFull waits for room. It reports false when the subscription ended before there was any.
func (s *subscription) enqueueFull(d *delivery, tick func()) bool {
	var ticks <-chan time.Time
	if tick != nil {
		ticker := s.broker.clock.NewTicker(s.refreshInterval())
		defer ticker.Stop()
		ticks = ticker.Chan()
	}
	for {
		select {
		case s.broker.queue <- d:
			return true
		case <-ticks:
			tick()
		case <-s.ctx.Done():
			return false
		}
	}
}

// begin counts a handler, unless the subscription is closed.
func (s *subscription) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Add(1)
	return true
}

// deliver hands a message to the handler and carries out its verdict.
func (s *subscription) deliver(d *delivery) {
	if !s.begin() {
		return // it is given back by Close
	}
	defer s.running.Done()
	msg := pubsub.Message{Topic: s.topic, Data: []byte(d.data)}
	if d.metadata != "" {
		var err error
		if msg.Metadata, err = parseMetadata(d.metadata); err != nil {
			s.broker.log.Warn("the metadata of a message is no JSON object of strings, so the message comes without it", "topic", s.topic, "id", d.id, "error", err)
			msg.Metadata = nil
		}
	}
	d.data, d.metadata = "", ""
	err := s.handler(s.ctx, &msg)
	switch {
	case s.ctx.Err() != nil: // no verdict
	case err == nil:
		s.acks.add(d.id)
	default:
		s.flight.remove(d.id)
		s.broker.log.Error("a message was not processed"+s.outlook(), "topic", s.topic, "id", d.id, "error", err)
	}
}

// outlook says what becomes of a message that was not processed.
func (s *subscription) outlook() string {
	o := &s.broker.options
	if o.ProcessingTimeout <= 0 || o.RedeliverInterval <= 0 {
		return " and stays pending; processingTimeout or redeliverInterval is 0, so nothing delivers it again"
	}
	return fmt.Sprintf(" and will be delivered again when it has been pending for %v", time.Duration(o.ProcessingTimeout))
}

// Pause ends reading. What was read is still handed to the handler.
func (s *subscription) Pause(ctx context.Context) error {
	s.cancelReading()
	s.reader.stop(ctx)
	s.claiming.Lock() // the commands inside are bounded
	defer s.claiming.Unlock()
	return ctx.Err()
}

// Close ends the subscription: no more messages are read, handlers are cancelled and waited for, and their verdicts and the
// messages without one go to the server.
func (s *subscription) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if !first {
		<-s.done
		return nil
	}
	defer close(s.done)
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	s.cancel()
	s.reader.stop(ctx)
	s.loops.Wait()
	s.running.Wait()

	ctx, cancel = context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	unsent := s.acks.finish(ctx)
	if left := s.flight.leave(s, unsent); len(left) > 0 {
		s.giveBack(ctx, left)
	}
	if len(unsent) > 0 {
		s.broker.log.Warn("messages were processed, but Redis could not be told and will deliver them again", "topic", s.topic, "messages", len(unsent))
	}
	s.broker.mu.Lock()
	delete(s.broker.subs, s)
	s.broker.mu.Unlock()
	return nil
}
