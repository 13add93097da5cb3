package pubsubtest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/components/pubsub"
)

// probe begins the ids of messages that only find out whether a subscription has begun.
const probe = "probe-"

// event is what the suite publishes: the shape of a CloudEvent, for some brokers look into it.
type event struct {
	SpecVersion string `json:"specversion"`
	ID          string `json:"id"`
	Source      string `json:"source"`
	Type        string `json:"type"`
	Data        string `json:"data,omitempty"`
}

func encode(id, data string) []byte {
	text, err := json.Marshal(event{SpecVersion: "1.0", ID: id, Source: "pubsubtest", Type: "test", Data: data})
	if err != nil {
		panic(err)
	}
	return text
}

// verdict decides about a message; attempt counts from 1.
type verdict func(ctx context.Context, id string, attempt int) error

func accept(context.Context, string, int) error { return nil }

// inbox is a handler that keeps account.
type inbox struct {
	t       testing.TB
	topic   string
	verdict verdict

	mu sync.Mutex
	// seen counts handler calls by id, done those that returned nil.
	seen, done map[string]int
	// order are the ids as they came, without probes; metadata the last of each.
	order    []string
	metadata map[string]map[string]string
	running  int
	// most is the largest number of calls at one time.
	most int
	// bulks are the sizes of bulks.
	bulks []int
}

func newInbox(t testing.TB, topic string, v verdict) *inbox {
	return &inbox{t: t, topic: topic, verdict: v, seen: map[string]int{}, done: map[string]int{}, metadata: map[string]map[string]string{}}
}

// handle is the inbox as a handler.
func (i *inbox) handle(ctx context.Context, msg *pubsub.Message) error {
	if msg.Topic != i.topic {
		i.t.Errorf("a message came with the topic %q, want %q", msg.Topic, i.topic)
	}
	i.mu.Lock()
	i.running++
	i.most = max(i.most, i.running)
	i.mu.Unlock()
	defer func() {
		i.mu.Lock()
		i.running--
		i.mu.Unlock()
	}()
	err := i.take(ctx, msg.Data, msg.Metadata)
	// Another subscription must not see this.
	if msg.Metadata != nil {
		msg.Metadata["added-by-handler"] = "x"
	}
	return err
}

// handleBulk is the inbox as a handler of bulks.
func (i *inbox) handleBulk(ctx context.Context, msg *pubsub.BulkMessage) []error {
	if msg.Topic != i.topic {
		i.t.Errorf("a bulk came with the topic %q, want %q", msg.Topic, i.topic)
	}
	ids := map[string]bool{}
	verdicts := make([]error, len(msg.Entries))
	for n, e := range msg.Entries {
		if e.ID == "" || ids[e.ID] {
			i.t.Errorf("entry %d of a bulk has the id %q, which is empty or not its own", n, e.ID)
		}
		ids[e.ID] = true
		verdicts[n] = i.take(ctx, e.Data, e.Metadata)
	}
	i.mu.Lock()
	i.bulks = append(i.bulks, len(msg.Entries))
	i.mu.Unlock()
	if !slices.ContainsFunc(verdicts, func(err error) bool { return err != nil }) {
		return nil
	}
	return verdicts
}

func (i *inbox) take(ctx context.Context, data []byte, metadata map[string]string) error {
	var e event
	if err := json.Unmarshal(data, &e); err != nil {
		e.ID = string(data) // not one of events: its text is its id
	}
	copied := make(map[string]string, len(metadata))
	for k, v := range metadata {
		copied[k] = v
	}
	if _, leaked := metadata["added-by-handler"]; leaked {
		i.t.Errorf("message %q came with the metadata that another handler added", short(e.ID))
	}
	i.mu.Lock()
	i.seen[e.ID]++
	attempt := i.seen[e.ID]
	i.metadata[e.ID] = copied
	if !strings.HasPrefix(e.ID, probe) {
		i.order = append(i.order, e.ID)
	}
	i.mu.Unlock()
	if strings.HasPrefix(e.ID, probe) {
		return nil
	}
	err := i.verdict(ctx, e.ID, attempt)
	if err == nil {
		i.mu.Lock()
		i.done[e.ID]++
		i.mu.Unlock()
	}
	return err
}

// times is how often an id came.
func (i *inbox) times(id string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seen[id]
}

// finished is how often an id was processed.
func (i *inbox) finished(id string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.done[id]
}

func (i *inbox) active() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.running
}

// calls is the number of messages that came, not counting probes.
func (i *inbox) calls() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.order)
}

// probed reports whether any probe came.
func (i *inbox) probed() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for id := range i.seen {
		if strings.HasPrefix(id, probe) {
			return true
		}
	}
	return false
}

// lost are the ids that no inbox has processed, and twice how many surplus times ids were.
func lost(ids []string, inboxes ...*inbox) (missing []string, twice int) {
	total := make(map[string]int, len(ids))
	for _, i := range inboxes {
		i.mu.Lock()
		for id, n := range i.done {
			total[id] += n
		}
		i.mu.Unlock()
	}
	for _, id := range ids {
		if n := total[id]; n == 0 {
			missing = append(missing, id)
		} else {
			twice += n - 1
		}
	}
	return missing, twice
}

// expectAll waits until the inboxes together have processed all ids, and returns how many came more than once.
func expectAll(t testing.TB, limit time.Duration, ids []string, inboxes ...*inbox) (twice int) {
	t.Helper()
	// Counting thousands of ids is dear, so it is done only when there is something new.
	var missing []string
	calls := -1
	waitFor(t, limit, func() string {
		missing, _ := lost(ids, inboxes...)
		return fmt.Sprintf("%d of %d messages, among them %q", len(missing), len(ids), missing[:min(len(missing), 5)])
	}, func() bool {
		n := 0
		for _, i := range inboxes {
			i.mu.Lock()
			n += len(i.order) + len(i.done)
			i.mu.Unlock()
		}
		if n != calls {
			calls = n
			missing, twice = lost(ids, inboxes...)
		}
		return len(missing) == 0
	})
	if twice > 0 {
		t.Logf("%d of %d messages came more than once", twice, len(ids))
	}
	return twice
}

// expectOnce is expectAll while nothing fails, so that duplicates are bounded.
func (w *world) expectOnce(ids []string, inboxes ...*inbox) {
	w.Helper()
	twice := expectAll(w.T, within, ids, inboxes...)
	if twice*100 > w.cfg.Duplicates*len(ids) {
		w.Errorf("%d of %d messages came more than once though nothing failed; Config.Duplicates allows %d in 100", twice, len(ids), w.cfg.Duplicates)
	}
}

// subscribe starts a subscription with an inbox.
func (w *world) subscribe(b pubsub.Broker, topic string, v verdict) (*inbox, pubsub.Subscription) {
	w.Helper()
	i := newInbox(w.T, topic, v)
	sub, err := b.Subscribe(bounded(w.T), pubsub.SubscribeRequest{Topic: topic}, i.handle)
	if err != nil {
		w.Fatalf("Subscribe to %q: %v", topic, err)
	}
	return i, sub
}

// ready publishes probes until each of the inboxes has got one, so that what follows is not published too early.
func (w *world) ready(b pubsub.Broker, topic string, inboxes ...*inbox) {
	w.Helper()
	w.probe(b, topic, func() bool { return !slices.ContainsFunc(inboxes, func(i *inbox) bool { return !i.probed() }) })
}

// readyAny is ready for inboxes of one app, of which one is enough.
func (w *world) readyAny(b pubsub.Broker, topic string, inboxes ...*inbox) {
	w.Helper()
	w.probe(b, topic, func() bool { return slices.ContainsFunc(inboxes, (*inbox).probed) })
}

func (w *world) probe(b pubsub.Broker, topic string, enough func() bool) {
	w.Helper()
	next := time.Now()
	pause := 50 * time.Millisecond
	waitFor(w.T, within, func() string { return "a first message on " + topic }, func() bool {
		if enough() {
			return true
		}
		if now := time.Now(); now.After(next) {
			w.publish(b, topic, probe+w.name(""))
			next = now.Add(pause)
			pause = min(2*pause, time.Second)
		}
		return false
	})
}

func (w *world) publish(b pubsub.Broker, topic string, ids ...string) {
	w.Helper()
	for _, id := range ids {
		if err := b.Publish(bounded(w.T), pubsub.PublishRequest{Topic: topic, Data: encode(id, "")}); err != nil {
			w.Fatalf("Publish %s to %q: %v", id, topic, err)
		}
	}
}

// ids are n fresh ones.
func (w *world) ids(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s-m%d", w.app, w.count.Add(1))
	}
	return all
}

// publishAll publishes by several goroutines at once.
func (w *world) publishAll(b pubsub.Broker, topic string, ids []string) {
	w.Helper()
	const publishers = 16
	var group sync.WaitGroup
	for n := range publishers {
		group.Go(func() {
			for i := n; i < len(ids); i += publishers {
				if err := b.Publish(bounded(w.T), pubsub.PublishRequest{Topic: topic, Data: encode(ids[i], "")}); err != nil {
					w.Errorf("Publish %s to %q: %v", ids[i], topic, err)
				}
			}
		})
	}
	group.Wait()
	if w.Failed() {
		w.FailNow()
	}
}

// short cuts text for messages.
func short(text string) string {
	if len(text) > 80 {
		return fmt.Sprintf("%.80q... (%d bytes)", text, len(text))
	}
	return text
}
