package outbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/blocks/outbox"
	"outrigger.dev/blocks/state"
	stores "outrigger.dev/components/state"
	"outrigger.dev/components/state/inmemory"
	"outrigger.dev/telemetry/logging/logtest"
)

var (
	_ state.Outbox  = (*outbox.Outbox)(nil)
	_ outbox.Broker = (*broker)(nil)
)

// message is one that was published.
type message struct {
	component, topic, contentType string
	event                         map[string]any
	text                          []byte
}

// broker records what is published, and hands messages over when the test says so.
type broker struct {
	mu        sync.Mutex
	published []message
	// fail, when set, tells what is to fail.
	fail      func(component, topic string) error
	consumers []*consumption
	// most is the largest number of consumers of one topic there ever was.
	most int
	// patient makes stopping wait for handlers without ending their contexts.
	patient bool
}

type consumption struct {
	component, topic string
	handler          func(context.Context, []byte) error
	ctx              context.Context
	cancel           context.CancelFunc
	stopping         chan struct{}
	running          sync.WaitGroup
}

func (b *broker) PublishEvent(ctx context.Context, component, topic string, event []byte, contentType string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.fail != nil {
		if err := b.fail(component, topic); err != nil {
			return err
		}
	}
	m := message{component: component, topic: topic, contentType: contentType, text: bytes.Clone(event)}
	decoder := json.NewDecoder(bytes.NewReader(event))
	decoder.UseNumber()
	if err := decoder.Decode(&m.event); err != nil {
		return err
	}
	b.published = append(b.published, m)
	return nil
}

func (b *broker) Consume(component, topic string, handler func(context.Context, []byte) error) func(context.Context) {
	c := &consumption{component: component, topic: topic, handler: handler, stopping: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.consumers = append(b.consumers, c)
	n := 0
	for _, other := range b.consumers {
		if other.component == component && other.topic == topic {
			n++
		}
	}
	b.most = max(b.most, n)
	return func(context.Context) {
		if close(c.stopping); !b.patient {
			c.cancel()
		}
		c.running.Wait()
		c.cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, other := range b.consumers {
			if other == c {
				b.consumers = append(b.consumers[:i], b.consumers[i+1:]...)
				return
			}
		}
	}
}

// take returns what was published, and forgets it.
func (b *broker) take() []message {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.published
	b.published = nil
	return taken
}

func (b *broker) topics() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var topics []string
	for _, c := range b.consumers {
		topics = append(topics, c.component+"/"+c.topic)
	}
	return topics
}

var errNoConsumer = errors.New("nobody consumes the topic")

// deliver hands a message to the consumer of a topic and returns its verdict.
func (b *broker) deliver(component, topic string, data []byte) error {
	b.mu.Lock()
	var to *consumption
	for _, c := range b.consumers {
		if c.component == component && c.topic == topic {
			to = c
			c.running.Add(1)
			break
		}
	}
	b.mu.Unlock()
	if to == nil {
		return errNoConsumer
	}
	defer to.running.Done()
	return to.handler(to.ctx, data)
}

// inTime runs f while the clock advances whenever f waits for it.
func inTime(clock *clockwork.FakeClock, f func() error) error {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		defer cancel()
		result <- f()
	}()
	for clock.BlockUntilContext(ctx, 1) == nil {
		clock.Advance(100 * time.Millisecond)
	}
	return <-result
}

// store is a store in memory whose calls can fail, and which knows when it was read.
type store struct {
	*inmemory.Store
	clock clockwork.Clock
	begin time.Time

	mu      sync.Mutex
	reads   []time.Duration
	deletes []time.Duration
	// onGet and onDelete, when set, are asked first; call counts from 1.
	onGet, onDelete func(call int) error
}

func (s *store) Get(ctx context.Context, req stores.GetRequest) (stores.Item, error) {
	s.mu.Lock()
	s.reads = append(s.reads, s.clock.Since(s.begin))
	on, call := s.onGet, len(s.reads)
	s.mu.Unlock()
	if on != nil {
		if err := on(call); err != nil {
			return stores.Item{}, err
		}
	}
	return s.Store.Get(ctx, req)
}

func (s *store) Delete(ctx context.Context, req stores.DeleteRequest) error {
	s.mu.Lock()
	s.deletes = append(s.deletes, s.clock.Since(s.begin))
	on, call := s.onDelete, len(s.deletes)
	s.mu.Unlock()
	if on != nil {
		if err := on(call); err != nil {
			return err
		}
	}
	return s.Store.Delete(ctx, req)
}

// has reports whether a key is in the store, past the hooks.
func (s *store) has(t *testing.T, key string) bool {
	t.Helper()
	item, err := s.Store.Get(t.Context(), stores.GetRequest{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return item.Found
}

// fixture is an outbox of app "shop" over a fake broker, with the clock in the test's hand.
type fixture struct {
	*outbox.Outbox
	broker *broker
	clock  *clockwork.FakeClock
	log    logtest.Log
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{broker: &broker{}, clock: clockwork.NewFakeClockAt(time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC))}
	f.Outbox = outbox.New(outbox.Options{
		AppID: "shop", Broker: f.broker, Clock: f.clock, Random: func() float64 { return 0.5 },
		Log: f.log.Logger(),
	})
	t.Cleanup(func() { f.Stop(context.Background()) })
	return f
}

func (f *fixture) newStore(t *testing.T) *store {
	t.Helper()
	s := &store{Store: inmemory.New(clockwork.NewRealClock()), clock: f.clock, begin: f.clock.Now()}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// properties turn "name=value" into metadata items, on top of those of an outbox that publishes to topic orders of component
// final by way of component detour.
func properties(more ...string) map[string]string {
	p := map[string]string{"outboxPublishPubsub": "final", "outboxPublishTopic": "orders", "outboxPubsub": "detour"}
	for _, m := range more {
		name, value, _ := strings.Cut(m, "=")
		p[name] = value
	}
	return p
}

// internalTopic is the internal topic of these properties.
const internalTopic = "defaultshopordersoutbox"

func (f *fixture) add(t *testing.T, name string, s stores.Store, more ...string) {
	t.Helper()
	if err := f.Add(name, s, properties(more...)); err != nil {
		t.Fatal(err)
	}
}

// deliver hands a message to the consumer of the internal topic while time passes.
func (f *fixture) deliver(text []byte) error {
	return inTime(f.clock, func() error { return f.broker.deliver("detour", internalTopic, text) })
}
