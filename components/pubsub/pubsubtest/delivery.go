package pubsubtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/components/pubsub"
)

func roundTrip(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	in, sub := w.subscribe(w.open(w.app), topic, accept)
	w.ready(pub, topic, in)
	ids := w.ids(20)
	w.publish(pub, topic, ids...)
	w.expectOnce(ids, in)
	if err := closeWithin(t, "Subscription.Close", sub.Close); err != nil {
		t.Errorf("Subscription.Close: %v", err)
	}
}

// established: the first message after Subscribe has returned arrives.
func established(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	in, _ := w.subscribe(w.open(w.app), topic, accept)
	ids := w.ids(1)
	w.publish(pub, topic, ids...)
	expectAll(t, within, ids, in)
}

// collect subscribes with a handler that keeps what it gets, but for probes.
func (w *world) collect(b pubsub.Broker, topic string) (*inbox, func() []pubsub.Message) {
	w.Helper()
	in := newInbox(w.T, topic, accept)
	var mu sync.Mutex
	var all []pubsub.Message
	_, err := b.Subscribe(bounded(w.T), pubsub.SubscribeRequest{Topic: topic}, func(ctx context.Context, msg *pubsub.Message) error {
		if !bytes.Contains(msg.Data, []byte(probe)) {
			mu.Lock()
			all = append(all, pubsub.Message{Topic: msg.Topic, Data: bytes.Clone(msg.Data), Metadata: msg.Metadata, ContentType: msg.ContentType})
			mu.Unlock()
			return nil
		}
		return in.handle(ctx, msg)
	})
	if err != nil {
		w.Fatalf("Subscribe to %q: %v", topic, err)
	}
	return in, func() []pubsub.Message {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// payloads: bytes arrive as they were published, whatever they are.
func payloads(t *testing.T, w *world) {
	pub, sub := w.publisher(), w.open(w.app)
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	for name, data := range map[string][]byte{
		"empty":  {},
		"text":   []byte("plain text, Grüße, \u2028 and \"quotes\""),
		"binary": binary,
		"JSON":   []byte(`{"a": [1, 2.50, null],  "b": "\u003c"}`),
	} {
		topic := w.topic()
		in, got := w.collect(sub, topic)
		w.ready(pub, topic, in)
		given := bytes.Clone(data)
		if err := pub.Publish(bounded(t), pubsub.PublishRequest{Topic: topic, Data: given}); err != nil {
			t.Fatalf("Publish of %s: %v", name, err)
		}
		waitFor(t, within, func() string { return name }, func() bool { return len(got()) > 0 })
		if msg := got()[0]; !bytes.Equal(msg.Data, data) || msg.Topic != topic {
			t.Errorf("%s came as %q on %q, want %q on %q", name, msg.Data, msg.Topic, data, topic)
		}
		if !bytes.Equal(given, data) {
			t.Errorf("Publish has changed %s", name)
		}
	}
}

func largeMessage(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	in, got := w.collect(w.open(w.app), topic)
	w.ready(pub, topic, in)
	// The content only has to be irregular: random letters, in blocks that begin with their number.
	block := make([]byte, 4<<10)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range block {
		block[i] = byte('a' + random.IntN(26))
	}
	data := make([]byte, 0, w.cfg.LargestMessage+len(block))
	for n := 0; len(data) < w.cfg.LargestMessage; n++ {
		data = append(fmt.Appendf(data, "%d ", n), block...)
	}
	data = data[:w.cfg.LargestMessage]
	if err := pub.Publish(bounded(t), pubsub.PublishRequest{Topic: topic, Data: data}); err != nil {
		t.Fatalf("Publish of %d bytes: %v", len(data), err)
	}
	waitFor(t, within, func() string { return "a large message" }, func() bool { return len(got()) > 0 })
	if msg := got()[0]; !bytes.Equal(msg.Data, data) {
		t.Errorf("%d bytes came as %d others", len(data), len(msg.Data))
	}
}

// metadata: what the publisher gave arrives, whatever is added to it.
func metadata(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	in, sub := w.subscribe(w.open(w.app), topic, accept)
	w.ready(pub, topic, in)
	ids := w.ids(1)
	want := map[string]string{"tenant": "blue team", "quoted": `a "b", \c & 100% of <d>`, "empty": "", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	given := map[string]string{}
	for k, v := range want {
		given[k] = v
	}
	if err := pub.Publish(bounded(t), pubsub.PublishRequest{Topic: topic, Data: encode(ids[0], ""), Metadata: given}); err != nil {
		t.Fatalf("Publish: %v", err)
	}
	expectAll(t, within, ids, in)
	in.mu.Lock()
	got := in.metadata[ids[0]]
	in.mu.Unlock()
	for k, v := range want {
		if text, ok := got[k]; !ok || text != v {
			t.Errorf("metadata %q came as %q (%v), want %q", k, text, ok, v)
		}
	}
	if len(given) != len(want) {
		t.Errorf("Publish has changed its metadata to %v", given)
	}
	if err := closeWithin(t, "Subscription.Close", sub.Close); err != nil {
		t.Errorf("Subscription.Close: %v", err)
	}
}

func order(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	in, _ := w.subscribe(w.open(w.app), topic, accept)
	w.ready(pub, topic, in)
	ids := w.ids(min(w.cfg.Messages, 500))
	for _, id := range ids {
		req := pubsub.PublishRequest{Topic: topic, Data: encode(id, ""), Metadata: map[string]string{"partitionKey": "one"}}
		if err := pub.Publish(bounded(t), req); err != nil {
			t.Fatalf("Publish: %v", err)
		}
	}
	expectAll(t, within, ids, in)
	in.mu.Lock()
	defer in.mu.Unlock()
	if !slices.Equal(in.order, ids) {
		at := 0
		for at < min(len(ids), len(in.order)) && ids[at] == in.order[at] {
			at++
		}
		t.Errorf("the order changed at message %d of %d", at, len(ids))
	}
	if in.most > 1 {
		t.Errorf("%d handlers ran at once, want one", in.most)
	}
}

// orderPerKey: the messages of each partition key keep their order, although those of other keys come between them.
func orderPerKey(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	in, _ := w.subscribe(w.open(w.app), topic, accept)
	w.ready(pub, topic, in)
	ids := w.ids(min(w.cfg.Messages, 500))
	const keys = 7
	key := make(map[string]int, len(ids))
	for n, id := range ids {
		key[id] = n * n % keys // irregular
		req := pubsub.PublishRequest{Topic: topic, Data: encode(id, ""), Metadata: map[string]string{"partitionKey": fmt.Sprintf("key %d", key[id])}}
		if err := pub.Publish(bounded(t), req); err != nil {
			t.Fatalf("Publish: %v", err)
		}
	}
	w.expectOnce(ids, in)
	in.mu.Lock()
	defer in.mu.Unlock()
	place := make(map[string]int, len(ids)) // where an id came first
	for n, id := range in.order {
		if _, again := place[id]; !again {
			place[id] = n
		}
	}
	var last [keys]string
	for _, id := range ids {
		if before := last[key[id]]; before != "" && place[id] < place[before] {
			t.Errorf("message %s came before message %s, which has the same key and was published earlier", id, before)
		}
		last[key[id]] = id
	}
}

// many: thousands of messages, published side by side, and none is lost.
func many(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	in, sub := w.subscribe(w.open(w.app), topic, accept)
	w.ready(pub, topic, in)
	ids := w.ids(w.cfg.Messages)
	began := time.Now()
	w.publishAll(pub, topic, ids)
	published := time.Since(began)
	w.expectOnce(ids, in)
	t.Logf("%d messages published in %v, all handled after %v", len(ids), published.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	// What was on its way twice has come when the subscription is closed.
	if err := closeWithin(t, "Subscription.Close", sub.Close); err != nil {
		t.Errorf("Subscription.Close: %v", err)
	}
	w.expectOnce(ids, in)
}

// gate holds handlers until it is opened.
type gate struct {
	opened chan struct{}
	once   sync.Once
}

func newGate(t testing.TB) *gate {
	g := &gate{opened: make(chan struct{})}
	t.Cleanup(g.open)
	return g
}

func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }

// wait is a verdict: processed once the gate is open, none when the context ends first.
func (g *gate) wait(ctx context.Context) error {
	select {
	case <-g.opened:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// slowHandler: while a handler takes its time, publishers go on, and so do other topics.
func slowHandler(t *testing.T, w *world) {
	slow, quick, pub := w.topic(), w.topic(), w.publisher()
	g := newGate(t)
	defer g.open()
	b := w.open(w.app)
	first := w.ids(1)
	held, _ := w.subscribe(b, slow, func(ctx context.Context, id string, _ int) error {
		if id == first[0] {
			return g.wait(ctx)
		}
		return nil
	})
	in, _ := w.subscribe(b, quick, accept)
	w.ready(pub, slow, held)
	w.ready(pub, quick, in)
	w.publish(pub, slow, first...)
	waitFor(t, within, func() string { return "the handler that is held" }, func() bool { return held.times(first[0]) == 1 })
	rest, others := w.ids(100), w.ids(100)
	w.publishAll(pub, slow, rest)
	w.publishAll(pub, quick, others)
	expectAll(t, within, others, in)
	g.open()
	w.expectOnce(slices.Concat(first, rest), held)
}

// redelivery: a rejected message comes again until it is processed, and keeps no other from coming.
func redelivery(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	ids := w.ids(10)
	bad := map[string]int{ids[0]: 1, ids[4]: 2} // how often they are rejected
	in, _ := w.subscribe(w.open(w.app), topic, func(_ context.Context, id string, attempt int) error {
		if attempt <= bad[id] {
			return fmt.Errorf("rejected for the %d. time", attempt)
		}
		return nil
	})
	w.ready(pub, topic, in)
	w.publish(pub, topic, ids...)
	expectAll(t, 2*w.cfg.Redelivers+within, ids, in)
	for id, n := range bad {
		if got := in.times(id); got < n+1 {
			t.Errorf("message %s came %d times, want at least %d", id, got, n+1)
		}
	}
}

// ttl: messages that nobody has taken in time are gone, others are not.
func ttl(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	b := w.open(w.app)
	in, _ := w.subscribe(b, topic, accept)
	w.ready(pub, topic, in)
	if err := closeWithin(t, "Broker.Close", b.Close); err != nil {
		t.Fatalf("Close: %v", err)
	}
	ids := w.ids(3)
	for id, metadata := range map[string]map[string]string{ids[0]: {"ttlInSeconds": "1"}, ids[1]: {"ttlInSeconds": "3600"}, ids[2]: nil} {
		if err := pub.Publish(bounded(t), pubsub.PublishRequest{Topic: topic, Data: encode(id, ""), Metadata: metadata}); err != nil {
			t.Fatalf("Publish: %v", err)
		}
	}
	pass(2500 * time.Millisecond)
	in, _ = w.subscribe(w.open(w.app), topic, accept)
	expectAll(t, within, ids[1:], in)
	if n := in.times(ids[0]); n != 0 {
		t.Errorf("the message with a life of one second came after more than two")
	}
}

var errRejected = errors.New("rejected by the test")

// bulkSkip ends a test of something that the component cannot do.
func bulkSkip[T any](t *testing.T, b pubsub.Broker) T {
	t.Helper()
	able, ok := b.(T)
	if !ok {
		t.Skipf("%T does not implement %s", b, strings.TrimPrefix(fmt.Sprintf("%T", (*T)(nil)), "*"))
	}
	return able
}
