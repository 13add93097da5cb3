package pubsubtest

import (
	"context"
	"errors"
	"testing"

	"outrigger.dev/components/pubsub"
)

// unsubscribe: after Close nothing is handed over, and the same component can subscribe again.
func unsubscribe(t *testing.T, w *world) {
	topic, pub, b := w.topic(), w.publisher(), w.open(w.app)
	in, sub := w.subscribe(b, topic, accept)
	w.ready(pub, topic, in)
	first := w.ids(20)
	w.publish(pub, topic, first...)
	expectAll(t, within, first, in)
	for range 2 {
		if err := closeWithin(t, "Subscription.Close", sub.Close); err != nil {
			t.Errorf("Subscription.Close: %v", err)
		}
	}
	calls := in.calls()
	between := w.ids(20)
	w.publish(pub, topic, between...)
	again, _ := w.subscribe(b, topic, accept)
	w.ready(pub, topic, again)
	after := w.ids(20)
	w.publish(pub, topic, after...)
	expectAll(t, within, after, again)
	if w.cfg.Durable {
		expectAll(t, within, between, again)
	}
	if n := in.calls(); n != calls {
		t.Errorf("the closed subscription got %d messages", n-calls)
	}
}

// closeCancels: Close cancels the context of a running handler and waits for it.
func closeCancels(t *testing.T, w *world) {
	for name, close := range map[string]func(pubsub.Broker, pubsub.Subscription) error{
		"Subscription.Close": func(_ pubsub.Broker, sub pubsub.Subscription) error { return sub.Close() },
		"Broker.Close":       func(b pubsub.Broker, _ pubsub.Subscription) error { return b.Close() },
	} {
		topic := w.topic()
		b := w.cfg.Open(t, w.app, nil)
		pub := b
		if !w.cfg.Private {
			pub = w.publisher()
		}
		never := newGate(t)
		in, sub := w.subscribe(b, topic, func(ctx context.Context, _ string, _ int) error { return never.wait(ctx) })
		w.ready(pub, topic, in)
		ids := w.ids(1)
		w.publish(pub, topic, ids...)
		waitFor(t, within, func() string { return "the handler" }, func() bool { return in.times(ids[0]) > 0 })
		if err := closeWithin(t, name, func() error { return close(b, sub) }); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := in.active(); n != 0 {
			t.Errorf("%d handlers were running after %s had returned", n, name)
		}
		never.open()
		if err := closeWithin(t, "Broker.Close", b.Close); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// closeWaits: Close while messages keep coming returns when no handler runs, and then none starts.
func closeWaits(t *testing.T, w *world) {
	topic, pub, b := w.topic(), w.publisher(), w.open(w.app)
	in, sub := w.subscribe(b, topic, accept)
	w.ready(pub, topic, in)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := pub.Publish(bounded(t), pubsub.PublishRequest{Topic: topic, Data: encode(w.ids(1)[0], "")}); err != nil {
				t.Errorf("Publish: %v", err)
				return
			}
		}
	}()
	waitFor(t, within, func() string { return "messages" }, func() bool { return in.calls() >= 20 })
	if err := closeWithin(t, "Subscription.Close", sub.Close); err != nil {
		t.Errorf("Subscription.Close: %v", err)
	}
	active, calls := in.active(), in.calls()
	close(stop)
	<-stopped
	// Another subscription gets a message published later, so the first had its chance.
	next, _ := w.subscribe(b, topic, accept)
	w.ready(pub, topic, next)
	if active != 0 || in.calls() != calls {
		t.Errorf("%d handlers ran and %d were called after Close had returned", active, in.calls()-calls)
	}
}

// noVerdict: a message whose handler was cancelled is delivered again to the next consumer.
func noVerdict(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	b := w.open(w.app)
	never := newGate(t)
	ids := w.ids(5)
	in, _ := w.subscribe(b, topic, func(ctx context.Context, id string, _ int) error {
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
	next, _ := w.subscribe(w.open(w.app), topic, accept)
	expectAll(t, w.cfg.Redelivers+within, ids, in, next)
	if next.finished(ids[0]) == 0 {
		t.Errorf("the message without a verdict did not come again")
	}
}

// pause: after Pause nothing new is taken, and what was taken is still finished.
func pause(t *testing.T, w *world) {
	topic, pub, b := w.topic(), w.publisher(), w.open(w.app)
	g := newGate(t)
	defer g.open()
	in, sub := w.subscribe(b, topic, func(ctx context.Context, _ string, _ int) error { return g.wait(ctx) })
	pauser, ok := sub.(pubsub.Pauser)
	if !ok {
		t.Skipf("%T does not implement pubsub.Pauser", sub)
	}
	w.ready(pub, topic, in)
	ids := w.ids(2)
	w.publish(pub, topic, ids[0])
	waitFor(t, within, func() string { return "the handler" }, func() bool { return in.times(ids[0]) > 0 })
	if err := closeWithin(t, "Pause", func() error { return pauser.Pause(bounded(t)) }); err != nil {
		t.Fatalf("Pause: %v", err)
	}
	w.publish(pub, topic, ids[1])
	g.open()
	waitFor(t, within, func() string { return "the message that was being handled" }, func() bool { return in.finished(ids[0]) == 1 })
	if err := closeWithin(t, "Subscription.Close", sub.Close); err != nil {
		t.Errorf("Subscription.Close: %v", err)
	}
	if n := in.times(ids[1]); n > 0 {
		t.Errorf("a message was published after Pause and came")
	}
	if w.cfg.Durable {
		// Not beside the first: to some brokers the app id is who a connection is.
		if err := closeWithin(t, "Broker.Close", b.Close); err != nil {
			t.Errorf("Close: %v", err)
		}
		next, _ := w.subscribe(w.open(w.app), topic, accept)
		expectAll(t, within+w.cfg.Redelivers, ids[1:], next)
	}
}

// closed: a closed component says so, and can be closed again.
func closed(t *testing.T, w *world) {
	topic, b := w.topic(), w.open(w.app)
	_, sub := w.subscribe(b, topic, accept)
	for range 2 {
		if err := closeWithin(t, "Broker.Close", b.Close); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if err := closeWithin(t, "Subscription.Close", sub.Close); err != nil {
		t.Errorf("Subscription.Close after Broker.Close: %v", err)
	}
	calls := map[string]func() error{
		"Publish": func() error {
			return b.Publish(bounded(t), pubsub.PublishRequest{Topic: topic, Data: []byte("x")})
		},
		"Subscribe": func() error {
			_, err := b.Subscribe(bounded(t), pubsub.SubscribeRequest{Topic: topic}, func(context.Context, *pubsub.Message) error { return nil })
			return err
		},
	}
	if p, ok := b.(pubsub.BulkPublisher); ok {
		calls["BulkPublish"] = func() error {
			_, err := p.BulkPublish(bounded(t), pubsub.BulkPublishRequest{Topic: topic, Entries: []pubsub.BulkEntry{{ID: "1", Data: []byte("x")}}})
			return err
		}
	}
	if s, ok := b.(pubsub.BulkSubscriber); ok {
		calls["BulkSubscribe"] = func() error {
			_, err := s.BulkSubscribe(bounded(t), pubsub.BulkSubscribeRequest{SubscribeRequest: pubsub.SubscribeRequest{Topic: topic}}, func(context.Context, *pubsub.BulkMessage) []error { return nil })
			return err
		}
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, pubsub.ErrClosed) {
			t.Errorf("%s on the closed component: %v, want %v", name, err, pubsub.ErrClosed)
		}
	}
}
