package pubsub

import (
	"context"
	"strings"
	"testing"
	"time"

	"outrigger.dev/app/apptest"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/invocation"
)

// panicking is an app whose channel panics at every event.
func panicking() *fakeApp {
	return &fakeApp{event: func(context.Context, *invocation.Request) (*invocation.Response, error) { panic("out of order") }}
}

// A panic of a delivery is no verdict but a failure of its message: the sidecar goes on, and the subscription can be stopped.
func TestPanicIsAFailureOfTheMessage(t *testing.T) {
	for _, tc := range []struct {
		name       string
		bulk       bool
		deadLetter string
		want       string
	}{
		{"single", false, "", "nack"},
		{"single with dead letters", false, "dead", "ack"},
		{"gathered", true, "", "nack"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, Options{})
			b := newBroker()
			s := h.subscribed(b, panicking(), Subscription{Rules: []Rule{{Path: "/"}}, DeadLetterTopic: tc.deadLetter, Bulk: Bulk{Enabled: tc.bulk, MaxMessages: 1}})
			for range 2 {
				if got := apptest.Receive(t, "a verdict", s.handData(`{"id":"1"}`)); got.String() != tc.want || got.err != nil && !strings.Contains(got.err.Error(), "out of order") {
					t.Errorf("%s (%v), want %s with the panic", got, got.err, tc.want)
				}
			}
			if tc.deadLetter != "" && len(b.sent()) != 2 {
				t.Errorf("%d dead letters, want 2", len(b.sent()))
			}
			if h.log.Count("panic") == 0 {
				t.Errorf("the panic is not in the log\n%s", &h.log)
			}
			before := h.clock.Now()
			h.stop(false)
			if passed := h.clock.Since(before); passed > stopLimit/2 {
				t.Errorf("stopping took %s, as if messages were in hand", passed)
			}
		})
	}
}

func TestPanicInANativeBulk(t *testing.T) {
	h := newHouse(t, Options{})
	b := &nativeBulk{fakeBroker: newBroker()}
	s := h.subscribed(b, panicking(), Subscription{Rules: []Rule{{Path: "/"}}, Bulk: Bulk{Enabled: true}})
	bulk := &pubsub.BulkMessage{Topic: "orders", Entries: []pubsub.BulkEntry{{ID: "1", Data: []byte("{}")}, {ID: "2", Data: []byte("{}")}}}
	got := apptest.Receive(t, "the verdicts", s.handBulk(bulk))
	if len(got.errs) != 2 || got.errs[0] == nil || got.errs[1] == nil {
		t.Errorf("verdicts %v, want two failures", got.errs)
	}
	before := h.clock.Now()
	h.stop(false)
	if passed := h.clock.Since(before); passed > 15*time.Second {
		t.Errorf("stopping took %s, as if messages were in hand", passed)
	}
}

func TestPanicOfAnInternalConsumer(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	stop := h.Consume("ps", "internal", func(context.Context, []byte) error { panic("out of order") })
	if got := apptest.Receive(t, "a verdict", b.sub(t, "internal").handData("x")); got.String() != "nack" {
		t.Errorf("%s, want nack", got)
	}
	h.passing("the consumer has stopped", func() { stop(context.Background()) })
}
