package pubsubtest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"outrigger.dev/components/pubsub"
)

// bulkPublish: all entries of a bulk arrive, each with its own metadata.
func bulkPublish(t *testing.T, w *world) {
	pub := w.publisher()
	bulk := bulkSkip[pubsub.BulkPublisher](t, pub)
	topic := w.topic()
	in, _ := w.subscribe(w.open(w.app), topic, accept)
	w.ready(pub, topic, in)
	ids := w.ids(100)
	req := pubsub.BulkPublishRequest{Topic: topic, Metadata: map[string]string{"tenant": "blue"}}
	for n, id := range ids {
		req.Entries = append(req.Entries, pubsub.BulkEntry{
			ID: fmt.Sprint(n), Data: encode(id, ""), ContentType: "application/cloudevents+json",
			Metadata: map[string]string{"tenant": "blue", "number": fmt.Sprint(n)},
		})
	}
	results, err := bulk.BulkPublish(bounded(t), req)
	if err != nil || slices.ContainsFunc(results, func(err error) bool { return err != nil }) {
		t.Fatalf("BulkPublish: %v, %v", err, results)
	}
	w.expectOnce(ids, in)
	if w.cfg.Metadata {
		in.mu.Lock()
		for n, id := range ids {
			if got := in.metadata[id]; got["number"] != fmt.Sprint(n) || got["tenant"] != "blue" {
				t.Errorf("entry %d came with the metadata %v", n, got)
			}
		}
		in.mu.Unlock()
	}
	if results, err := bulk.BulkPublish(bounded(t), pubsub.BulkPublishRequest{Topic: topic}); err != nil || len(results) > 0 {
		t.Errorf("BulkPublish of nothing: %v, %v; want no error", err, results)
	}
}

// subscribeBulk starts a bulk subscription with an inbox.
func (w *world) subscribeBulk(b pubsub.BulkSubscriber, topic string, most int, v verdict) (*inbox, pubsub.Subscription) {
	w.Helper()
	in := newInbox(w.T, topic, v)
	req := pubsub.BulkSubscribeRequest{SubscribeRequest: pubsub.SubscribeRequest{Topic: topic}, MaxMessages: most, MaxAwait: 200 * time.Millisecond}
	sub, err := b.BulkSubscribe(bounded(w.T), req, in.handleBulk)
	if err != nil {
		w.Fatalf("BulkSubscribe to %q: %v", topic, err)
	}
	return in, sub
}

// bulkSubscribe: bulks are not larger than asked for, and together hold all messages.
func bulkSubscribe(t *testing.T, w *world) {
	b := w.open(w.app)
	bulk := bulkSkip[pubsub.BulkSubscriber](t, b)
	topic, pub := w.topic(), w.publisher()
	const most = 20
	in, sub := w.subscribeBulk(bulk, topic, most, accept)
	w.ready(pub, topic, in)
	ids := w.ids(w.cfg.Messages / 4)
	w.publishAll(pub, topic, ids)
	w.expectOnce(ids, in)
	if err := closeWithin(t, "Subscription.Close", sub.Close); err != nil {
		t.Errorf("Subscription.Close: %v", err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	largest := slices.Max(in.bulks)
	if largest > most {
		t.Errorf("a bulk has %d entries, asked for at most %d", largest, most)
	}
	t.Logf("%d messages came in %d bulks of up to %d", len(ids), len(in.bulks), largest)
}

// bulkRejected: entries of a bulk that are rejected come again, and none is lost.
func bulkRejected(t *testing.T, w *world) {
	b := w.open(w.app)
	bulk := bulkSkip[pubsub.BulkSubscriber](t, b)
	topic, pub := w.topic(), w.publisher()
	ids := w.ids(60)
	bad := map[string]bool{ids[0]: true, ids[33]: true}
	in, _ := w.subscribeBulk(bulk, topic, 20, func(_ context.Context, id string, attempt int) error {
		if bad[id] && attempt == 1 {
			return errRejected
		}
		return nil
	})
	w.ready(pub, topic, in)
	w.publish(pub, topic, ids...)
	expectAll(t, w.cfg.Redelivers+within, ids, in)
	for id := range bad {
		if n := in.times(id); n < 2 {
			t.Errorf("entry %s was rejected and came %d times", id, n)
		}
	}
}

// bulkNoVerdict: the entries of a bulk whose handler was cancelled are delivered again to the next consumer.
func bulkNoVerdict(t *testing.T, w *world) {
	b := w.open(w.app)
	bulk := bulkSkip[pubsub.BulkSubscriber](t, b)
	topic, pub := w.topic(), w.publisher()
	never := newGate(t)
	ids := w.ids(30)
	in, _ := w.subscribeBulk(bulk, topic, 10, func(ctx context.Context, id string, _ int) error {
		if id == ids[0] {
			return never.wait(ctx)
		}
		return nil
	})
	w.ready(pub, topic, in)
	w.publish(pub, topic, ids[0])
	waitFor(t, within, func() string { return "the handler" }, func() bool { return in.times(ids[0]) > 0 })
	w.publish(pub, topic, ids[1:]...)
	if err := closeWithin(t, "Broker.Close", b.Close); err != nil {
		t.Errorf("Close: %v", err)
	}
	next, _ := w.subscribeBulk(bulkSkip[pubsub.BulkSubscriber](t, w.open(w.app)), topic, 10, accept)
	expectAll(t, w.cfg.Redelivers+within, ids, in, next)
	if next.finished(ids[0]) == 0 {
		t.Errorf("the entry without a verdict did not come again")
	}
}
