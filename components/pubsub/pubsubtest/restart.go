package pubsubtest

import (
	"context"
	"slices"
	"testing"
	"time"

	"outrigger.dev/components/pubsub"
)

// publishStubborn publishes again and again until the broker has it, as an app with a retry policy would.
func (w *world) publishStubborn(b pubsub.Broker, topic, id string) (ok bool) {
	deadline := time.Now().Add(2 * within)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := b.Publish(ctx, pubsub.PublishRequest{Topic: topic, Data: encode(id, "")})
		cancel()
		if err == nil {
			return true
		}
		if time.Now().After(deadline) {
			w.Errorf("Publish still fails %v after the restart: %v", 2*within, err)
			return false
		}
		pass(50 * time.Millisecond)
	}
}

// restartIdle: a subscription without traffic survives a restart of the broker, and so does a publisher.
func restartIdle(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	in, _ := w.subscribe(w.open(w.app), topic, accept)
	w.ready(pub, topic, in)
	before, after := w.ids(20), w.ids(20)
	w.publish(pub, topic, before...)
	expectAll(t, within, before, in)
	w.cfg.Restart(t)
	began := time.Now()
	for _, id := range after {
		if !w.publishStubborn(pub, topic, id) {
			return
		}
	}
	expectAll(t, 2*within, after, in)
	t.Logf("messages flowed again after %v", time.Since(began).Round(time.Millisecond))
}

// restartBusy: what was acknowledged to a publisher while the broker went down and came back arrives.
func restartBusy(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	in, _ := w.subscribe(w.open(w.app), topic, accept)
	w.ready(pub, topic, in)
	before, during, after := w.ids(50), w.ids(max(w.cfg.Messages/4, 100)), w.ids(100)
	w.publishAll(pub, topic, before)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, id := range during {
			if !w.publishStubborn(pub, topic, id) {
				return
			}
		}
	}()
	waitFor(t, within, func() string { return "messages" }, func() bool { return in.calls() >= 60 })
	w.cfg.Restart(t)
	<-done
	for _, id := range after {
		if !w.publishStubborn(pub, topic, id) {
			return
		}
	}
	expectAll(t, 2*within+w.cfg.Redelivers, slices.Concat(before, during, after), in)
}

// restartHeld: a handler that was running when the broker went away does not wedge its subscription.
func restartHeld(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	g := newGate(t)
	defer g.open()
	ids := w.ids(50)
	in, _ := w.subscribe(w.open(w.app), topic, func(ctx context.Context, id string, attempt int) error {
		if id == ids[0] && attempt == 1 {
			return g.wait(ctx)
		}
		return nil
	})
	w.ready(pub, topic, in)
	w.publish(pub, topic, ids[0])
	waitFor(t, within, func() string { return "the handler" }, func() bool { return in.times(ids[0]) > 0 })
	w.cfg.Restart(t)
	g.open()
	for _, id := range ids[1:] {
		if !w.publishStubborn(pub, topic, id) {
			return
		}
	}
	expectAll(t, 2*within+w.cfg.Redelivers, ids, in)
}
