// Package inmemory is the broker pubsub.in-memory: messages go from publishers to subscriptions within the sidecar, and live no
// longer than it.
//
// Every subscription gets every message of its topic, one at a time and in the order of publishing; there are no consumer groups.
// A topic that ends in * is subscribed to by its beginning. A message that nobody has subscribed to is dropped, and so is one
// whose handler failed, after a line in the log: nothing comes twice.
package inmemory

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
)

// Register adds pubsub.in-memory to r.
func Register(r *components.Registry) {
	pubsub.Register(r, components.Info{
		Name:         "in-memory",
		Version:      "v1",
		Status:       components.Stable,
		Description:  "Carries messages within the sidecar, for development and tests: they do not reach other sidecars, and are lost when the sidecar ends or a handler fails.",
		Capabilities: []string{"SUBSCRIBE_WILDCARDS"},
	}, func(_ context.Context, inst components.Instance, _ Options) (pubsub.Broker, error) {
		return New(inst.Log), nil
	})
}

// Options are the metadata of pubsub.in-memory.
type Options struct {
	ConsumerID string `name:"consumerID" help:"accepted without effect: every subscription gets every message"`
}

// Bounds on what waits for the handler of one subscription, so that one that hangs does not take the sidecar down.
const (
	maxWaiting = 256 << 20
	// perMessage is what a message takes besides its data and metadata.
	perMessage = 128
)

// Broker is a broker in memory.
type Broker struct {
	log *slog.Logger
	// table is replaced, never changed, so that publishers read it without a lock.
	table atomic.Pointer[table]

	mu   sync.Mutex // held while the table is replaced
	subs map[*subscription]struct{}
}

// table says who gets a message.
type table struct {
	closed bool
	topics map[string][]*subscription
	// prefixes are the subscriptions to topics that end in *.
	prefixes []*subscription
}

var _ pubsub.WildcardSubscriber = (*Broker)(nil)

// New makes a broker that reports messages it loses to log.
func New(log *slog.Logger) *Broker {
	b := &Broker{log: log, subs: map[*subscription]struct{}{}}
	b.table.Store(&table{})
	return b
}

// Wildcards reports that a topic may end in *.
func (b *Broker) Wildcards() bool { return true }

// Publish puts the message into the queue of every subscription and returns. It fails without having done so when a queue is
// full: when messages of 256 MiB wait for a handler.
func (b *Broker) Publish(ctx context.Context, req pubsub.PublishRequest) error {
	t := b.table.Load()
	if t.closed {
		return pubsub.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	direct := t.topics[req.Topic]
	size := int64(len(req.Data) + perMessage)
	for k, v := range req.Metadata {
		size += int64(len(k) + len(v))
	}
	for _, s := range direct {
		if s.full(size) {
			return full(req.Topic)
		}
	}
	for _, s := range t.prefixes {
		if s.matches(req.Topic) && s.full(size) {
			return full(req.Topic)
		}
	}
	for _, s := range direct {
		s.put(req, size)
	}
	for _, s := range t.prefixes {
		if s.matches(req.Topic) {
			s.put(req, size)
		}
	}
	return nil
}

func full(topic string) error {
	return pubsub.Transient(fmt.Errorf("a subscription to topic %s has messages of %d MiB waiting, which is the most: its app does not keep up; publish again when it has caught up", topic, maxWaiting>>20))
}

// Subscribe starts a subscription to a topic or, when it ends in *, to all topics that begin as it does and go on.
func (b *Broker) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) (pubsub.Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &subscription{broker: b, topic: req.Topic, handler: handler, wake: make(chan struct{}, 1), done: make(chan struct{})}
	s.prefix, s.pattern = strings.CutSuffix(req.Topic, "*")
	s.ctx, s.cancel = context.WithCancel(context.Background())

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.table.Load().closed {
		s.cancel()
		return nil, pubsub.ErrClosed
	}
	b.subs[s] = struct{}{}
	b.rebuild(false)
	go s.run()
	return s, nil
}

// rebuild makes the table anew; b.mu is held.
func (b *Broker) rebuild(closed bool) {
	t := &table{closed: closed, topics: map[string][]*subscription{}}
	for s := range b.subs {
		if s.pattern {
			t.prefixes = append(t.prefixes, s)
		} else {
			t.topics[s.topic] = append(t.topics[s.topic], s)
		}
	}
	b.table.Store(t)
}

// Close ends all subscriptions; what waits for them is dropped.
func (b *Broker) Close() error {
	b.mu.Lock()
	ended := b.subs
	b.subs = map[*subscription]struct{}{}
	b.rebuild(true)
	b.mu.Unlock()
	for s := range ended {
		s.cancel()
	}
	for s := range ended {
		<-s.done
	}
	return nil
}

// subscription hands the messages of one queue to its handler, in a goroutine of its own.
type subscription struct {
	broker  *Broker
	topic   string
	prefix  string
	pattern bool
	handler pubsub.Handler
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{}

	// wake holds a token when there may be something to take out of an empty queue.
	wake chan struct{}
	// waiting is the size of the queue.
	waiting atomic.Int64

	mu    sync.Mutex
	queue []queued
}

// queued is a message as it waits, with its share of waiting.
type queued struct {
	msg  pubsub.Message
	size int64
}

// matches reports whether a pattern is for the topic.
func (s *subscription) matches(topic string) bool {
	return len(topic) > len(s.prefix) && strings.HasPrefix(topic, s.prefix)
}

// full reports whether there is no room for so much more. An empty queue takes a message of any size.
func (s *subscription) full(size int64) bool {
	waiting := s.waiting.Load()
	return waiting > 0 && waiting+size > maxWaiting
}

// put appends a message to the queue. Each subscription gets metadata of its own, as its handler may add to it.
func (s *subscription) put(req pubsub.PublishRequest, size int64) {
	q := queued{pubsub.Message{Topic: req.Topic, Data: req.Data, Metadata: maps.Clone(req.Metadata)}, size}
	s.waiting.Add(size)
	s.mu.Lock()
	s.queue = append(s.queue, q)
	first := len(s.queue) == 1
	s.mu.Unlock()
	if first {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// largestKept is the length of the longest queue whose memory is kept for the next messages.
const largestKept = 1024

// run takes the whole queue at a time, so that publishers and the handler seldom meet at the lock.
func (s *subscription) run() {
	defer close(s.done)
	var batch []queued
	for {
		s.mu.Lock()
		batch, s.queue = s.queue, batch[:0]
		s.mu.Unlock()
		if len(batch) == 0 {
			select {
			case <-s.wake:
				continue
			case <-s.ctx.Done():
				return
			}
		}
		for i := range batch {
			if s.ctx.Err() != nil {
				return
			}
			s.handle(&batch[i].msg)
			s.waiting.Add(-batch[i].size)
			batch[i].msg = pubsub.Message{}
		}
		if cap(batch) > largestKept {
			batch = nil
		}
	}
}

func (s *subscription) handle(msg *pubsub.Message) {
	// A copy, for who keeps the message shall not keep the batch, nor find the message cleared.
	m := *msg
	if err := s.handler(s.ctx, &m); err != nil && s.ctx.Err() == nil {
		s.broker.log.Error("a message is lost, as its handler failed and the in-memory broker does not deliver again", "topic", m.Topic, "error", err)
	}
}

// Close ends the subscription; what waits for it is dropped.
func (s *subscription) Close() error {
	b := s.broker
	b.mu.Lock()
	if _, open := b.subs[s]; open {
		delete(b.subs, s)
		b.rebuild(false)
	}
	b.mu.Unlock()
	s.cancel()
	<-s.done
	return nil
}
