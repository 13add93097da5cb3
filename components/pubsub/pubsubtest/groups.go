package pubsubtest

import (
	"fmt"
	"slices"
	"testing"

	"outrigger.dev/components/pubsub"
)

// topics: the subscriptions of one component keep apart, and one that is closed leaves the others alone.
func topics(t *testing.T, w *world) {
	one, two, pub, b := w.topic(), w.topic(), w.publisher(), w.open(w.app)
	inOne, subOne := w.subscribe(b, one, accept)
	inTwo, _ := w.subscribe(b, two, accept)
	w.ready(pub, one, inOne)
	w.ready(pub, two, inTwo)
	forOne, forTwo := w.ids(50), w.ids(50)
	w.publishAll(pub, one, forOne)
	w.publishAll(pub, two, forTwo)
	w.expectOnce(forOne, inOne)
	w.expectOnce(forTwo, inTwo)
	if a, b := inOne.calls(), inTwo.calls(); a < 50 || b < 50 || inOne.times(forTwo[0]) > 0 || inTwo.times(forOne[0]) > 0 {
		t.Errorf("messages went to the wrong topic: %d and %d came", a, b)
	}
	if err := closeWithin(t, "Subscription.Close", subOne.Close); err != nil {
		t.Errorf("Subscription.Close: %v", err)
	}
	more := w.ids(50)
	w.publishAll(pub, two, more)
	expectAll(t, within, more, inTwo)
}

// fanOut: every app gets every message.
func fanOut(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	var inboxes []*inbox
	for n := range 3 {
		in, _ := w.subscribe(w.open(fmt.Sprintf("%s-%d", w.app, n)), topic, accept)
		inboxes = append(inboxes, in)
	}
	w.ready(pub, topic, inboxes...)
	ids := w.ids(100)
	w.publishAll(pub, topic, ids)
	// Its metadata is each subscription's own: the inboxes add to it.
	last := w.ids(1)
	req := pubsub.PublishRequest{Topic: topic, Data: encode(last[0], ""), Metadata: map[string]string{"tenant": "blue"}}
	if err := pub.Publish(bounded(t), req); err != nil {
		t.Fatalf("Publish: %v", err)
	}
	for _, in := range inboxes {
		w.expectOnce(append(ids, last...), in)
	}
}

// competing: each message goes to one of the instances of an app.
func competing(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	a, _ := w.subscribe(w.open(w.app), topic, accept)
	w.ready(pub, topic, a)
	b, _ := w.subscribe(w.open(w.app), topic, accept)
	// The second may never get a message, so it is not waited for; that messages go on is enough.
	warmUp := w.ids(50)
	w.publishAll(pub, topic, warmUp)
	expectAll(t, within, warmUp, a, b)
	ids := w.ids(w.cfg.Messages / 2)
	w.publishAll(pub, topic, ids)
	w.expectOnce(ids, a, b)
	t.Logf("one got %d messages, the other %d", a.calls(), b.calls())
}

// consumerLeaves: the messages of an instance that goes away, finished or not, go to the others.
func consumerLeaves(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	leaving := w.open(w.app)
	a, _ := w.subscribe(leaving, topic, accept)
	b, _ := w.subscribe(w.open(w.app), topic, accept)
	w.readyAny(pub, topic, a, b)
	before, after := w.ids(w.cfg.Messages/4), w.ids(w.cfg.Messages/4)
	closed := make(chan error, 1)
	w.publishAll(pub, topic, before)
	go func() { closed <- leaving.Close() }()
	w.publishAll(pub, topic, after)
	if err := closeWithin(t, "Broker.Close", func() error { return <-closed }); err != nil {
		t.Errorf("Close: %v", err)
	}
	expectAll(t, within+w.cfg.Redelivers, slices.Concat(before, after), a, b)
	t.Logf("the one that left got %d messages, the other %d", a.calls(), b.calls())
}

// away: what is published while an app is away waits for it.
func away(t *testing.T, w *world) {
	topic, pub := w.topic(), w.publisher()
	b := w.open(w.app)
	in, _ := w.subscribe(b, topic, accept)
	w.ready(pub, topic, in)
	seen := w.ids(20)
	w.publish(pub, topic, seen...)
	expectAll(t, within, seen, in)
	if err := closeWithin(t, "Broker.Close", b.Close); err != nil {
		t.Fatalf("Close: %v", err)
	}
	missed := w.ids(100)
	w.publishAll(pub, topic, missed)
	again, _ := w.subscribe(w.open(w.app), topic, accept)
	w.expectOnce(missed, again)
	// A verdict that Close overtook is none, so some of the last messages may come again.
	twice := 0
	for _, id := range seen {
		twice += again.times(id)
	}
	if twice > 0 {
		t.Logf("%d of %d messages that had been processed came again", twice, len(seen))
	}
	if twice > len(seen)/2 {
		t.Errorf("%d of %d messages that had been processed came again", twice, len(seen))
	}
	if n := in.times(missed[0]); n > 0 {
		t.Errorf("the closed subscription got a message")
	}
}
