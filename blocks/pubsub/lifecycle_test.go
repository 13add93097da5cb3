package pubsub

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"outrigger.dev/app/apptest"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/invocation"
)

func declared(topics ...string) (list []Subscription) {
	for _, topic := range topics {
		list = append(list, Subscription{Name: "of-" + topic, Component: "ps", Topic: topic, Rules: []Rule{{Path: "/" + topic}}, Origin: Declarative})
	}
	return list
}

func (h *house) declare(list ...Subscription) {
	h.t.Helper()
	if err := h.Declare(list); err != nil {
		h.t.Fatal(err)
	}
}

// settled waits until exactly these topics are subscribed to, while time passes.
func (h *house) settled(b *fakeBroker, topics ...string) {
	h.t.Helper()
	if topics == nil {
		topics = []string{}
	}
	apptest.Until(h.t, "the subscriptions are "+strings.Join(topics, ", "), func() bool {
		h.clock.Advance(20 * time.Millisecond)
		got := b.topics()
		return len(got) == len(topics) && slices.Equal(got, topics)
	})
}

// A broker that cannot be subscribed to is asked again, and does not hold up the others.
func TestSubscribingIsRetried(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	b.failures = []error{errBroker, errBroker, errBroker}
	h.add("ps", b)
	other := newBroker()
	h.add("other", other)
	h.declare(append(declared("a"), Subscription{Component: "other", Topic: "b", Rules: []Rule{{Path: "/b"}}})...)
	h.startApp(&fakeApp{}) // returns though one is not there yet
	other.sub(t, "b")
	h.settled(b, "a")
	if b.tries() != 4 || h.log.Count("failed to subscribe to topic a of pubsub ps (subscription of-a), retrying in ") != 3 {
		t.Errorf("%d tries\n%s", b.tries(), &h.log)
	}
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	b := newBackoff(retryPause)
	longest := time.Duration(0)
	for i := range 40 {
		d := b.next()
		if d < retryPause/2 || d > maxRetryPause {
			t.Fatalf("pause %d is %s", i, d)
		}
		longest = max(longest, d)
	}
	if longest < maxRetryPause/2 {
		t.Errorf("the longest is %s", longest)
	}
}

// A topic that scopes forbid is not tried again, but listed.
func TestForbiddenSubscription(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b, "subscriptionScopes", "shop=b")
	h.declare(declared("a", "b")...)
	h.startApp(&fakeApp{})
	h.settled(b, "b")
	h.clock.Advance(2 * maxRetryPause)
	if b.tries() != 1 || h.log.Count("subscription to topic 'a' on pubsub 'ps' is not allowed") != 1 || len(h.Subscriptions()) != 2 {
		t.Errorf("%d tries, %v\n%s", b.tries(), h.Subscriptions(), &h.log)
	}
}

// Subscriptions of the app end when it is unhealthy and start anew when it is healthy; it is asked for its own only once.
func TestHealth(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	h.declare(declared("a")...)
	a := &fakeApp{subscriptions: func() (*invocation.Response, error) {
		return reply(200, `[{"pubsubname":"ps","topic":"own","route":"/own"}]`)
	}}
	if len(b.open()) != 0 {
		t.Error("subscribed before the app is there")
	}
	h.startApp(a)
	h.settled(b, "a", "own")
	h.StopApp()
	h.StopApp()
	h.settled(b)
	if len(h.Subscriptions()) != 2 {
		t.Error("subscriptions are not listed while the app is unhealthy")
	}
	if err := h.Publish(t.Context(), Publication{Component: "ps", Topic: "a"}); err != nil {
		t.Errorf("publishing while the app is unhealthy: %v", err)
	}
	apptest.Receive(t, "the subscriptions", h.StartApp())
	apptest.Receive(t, "the subscriptions", h.StartApp()) // told twice
	h.settled(b, "a", "own")
	if a.asked() != 1 {
		t.Errorf("the app was asked %d times", a.asked())
	}
}

// An app that has a message when it turns unhealthy, and healthy again twice, gets no second consumer beside the first.
func TestHealthFlapping(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	h.declare(declared("a")...)
	a, came, letGo := stuckApp()
	defer letGo()
	h.SetApp(a)
	apptest.Receive(t, "the subscriptions", h.StartApp())
	v := b.sub(t, "a").handData("{}")
	apptest.Receive(t, "the delivery", came)
	for range 3 {
		h.StopApp()
		h.StartApp()
		apptest.Until(t, "the next one is due", func() bool {
			h.manager.mu.Lock()
			defer h.manager.mu.Unlock()
			return h.manager.slots[target{"ps", "a"}] != nil
		})
	}
	if b.tries() != 1 || len(b.open()) != 1 {
		t.Errorf("%d subscriptions were made while the first has a message", b.tries())
	}
	letGo()
	apptest.Until(t, "the next one is there", func() bool { h.clock.Advance(20 * time.Millisecond); return b.tries() == 2 })
	if got := apptest.Receive(t, "a verdict", v); got.String() != "ack" {
		t.Errorf("%s", got)
	}
	h.settled(b, "a")
}

// Declared subscriptions change while they run, and the same precedence holds as before.
func TestHotReload(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	a := &fakeApp{subscriptions: func() (*invocation.Response, error) {
		return reply(200, `[{"pubsubname":"ps","topic":"own","route":"/own"}]`)
	}}
	h.declare(declared("a", "b")...)
	h.startApp(a)
	h.settled(b, "a", "b", "own")
	h.declare(declared("a", "b")...)
	if b.tries() != 3 {
		t.Errorf("the same subscriptions were started again: %d", b.tries())
	}
	changed := declared("own", "b", "c", "b") // own is the app's; the second b does not count
	changed[1].Rules = []Rule{{Path: "/changed"}}
	changed[3].Rules = []Rule{{Path: "/second"}}
	h.declare(changed...)
	apptest.Until(t, "b is new", func() bool { h.clock.Advance(20 * time.Millisecond); return b.tries() == 5 })
	h.settled(b, "b", "c", "own")
	b.sub(t, "b").do(t, &pubsub.Message{Data: []byte("{}")})
	b.sub(t, "own").do(t, &pubsub.Message{Data: []byte("{}")})
	if e := a.events(); e[0].Method != "changed" || e[1].Method != "own" {
		t.Errorf("delivered to %s and %s", e[0].Method, e[1].Method)
	}
	err := h.Declare([]Subscription{{Name: "bad", Component: "ps", Topic: "c", Rules: []Rule{{"event.type ==", "/x"}}}})
	if err == nil || !strings.Contains(err.Error(), "subscription bad") || !strings.Contains(err.Error(), `"event.type =="`) {
		t.Errorf("%v", err)
	}
	h.settled(b, "b", "c", "own")
}

// Subscriptions to a component that is not there start when it comes, and end with it.
func TestComponentsComeAndGo(t *testing.T) {
	h := newHouse(t, Options{})
	a := &fakeApp{subscriptions: func() (*invocation.Response, error) {
		return reply(200, `[{"pubsubname":"ps","topic":"own","route":"/own"}]`)
	}}
	h.declare(declared("a")...)
	h.startApp(a)
	if a.asked() != 0 {
		t.Error("the app was asked though there is no broker")
	}
	b := newBroker()
	h.add("ps", b)
	h.settled(b, "a", "own")
	h.passing("the component is out", func() {
		if err := h.Remove(context.Background(), "ps"); err != nil {
			t.Error(err)
		}
	})
	if len(b.open()) != 0 {
		t.Errorf("still subscribed to %v", b.topics())
	}
	h.declare(declared("a", "b")...)
	next := newBroker()
	h.add("ps", next)
	h.settled(next, "a", "b", "own")
	if a.asked() != 1 || b.tries() != 2 {
		t.Errorf("asked %d times, %d tries", a.asked(), b.tries())
	}
}

// A stop waits for messages in hand; what comes meanwhile, and what fails meanwhile, is held without a verdict.
func TestStopDrains(t *testing.T) {
	for _, tc := range []struct {
		name, verdict string
		answer        func(letGo func(), fail chan<- struct{})
	}{
		{"success", "ack", func(letGo func(), _ chan<- struct{}) { letGo() }},
		{"failure", "held", func(_ func(), fail chan<- struct{}) { close(fail) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, Options{})
			b := newBroker()
			in, ok, fail := make(chan struct{}, 2), make(chan struct{}), make(chan struct{})
			a := &fakeApp{event: func(context.Context, *invocation.Request) (*invocation.Response, error) {
				in <- struct{}{}
				select {
				case <-ok:
					return reply(200, "")
				case <-fail:
					return reply(500, "")
				}
			}}
			sub := h.subscribed(b, a, Subscription{DeadLetterTopic: "dead", Rules: []Rule{{Path: "/x"}}})
			v := sub.handData("{}")
			apptest.Receive(t, "the delivery", in)
			stopped := start(func() { h.Stop(context.Background(), false) })
			apptest.Until(t, "nothing more is taken", sub.refuses)
			letters := len(b.sent())
			begin := h.clock.Now()
			later := sub.handData("{}")
			if !waiting(stopped) || !waiting(v) {
				t.Error("it did not wait for the app")
			}
			tc.answer(func() { close(ok) }, fail)
			h.meanwhile("the block has stopped", stopped)
			if got := apptest.Receive(t, "a verdict", v); got.String() != tc.verdict {
				t.Errorf("in hand: %s, want %s", got, tc.verdict)
			}
			if took := h.clock.Since(begin); took < ackGrace {
				t.Errorf("the broker had %s to take the verdict", took)
			}
			if got := apptest.Receive(t, "a verdict", later); got.String() != "held" {
				t.Errorf("later: %s", got)
			}
			if len(b.sent()) != letters || len(a.events()) != 1 {
				t.Errorf("dead letters %v, %d deliveries", b.sent(), len(a.events()))
			}
			apptest.Receive(t, "no start after the end", h.StartApp())
			if b.tries() != 1 {
				t.Error("subscribed after the end")
			}
		})
	}
}

// An app that never answers is left after the limit, or when the caller's time is over.
func TestStopHasLimits(t *testing.T) {
	for name, stop := range map[string]func(*house){
		"limit": func(h *house) { h.outlast() },
		"caller": func(h *house) {
			ctx, cancel := context.WithCancel(context.Background())
			stopped := start(func() { h.Stop(ctx, false) })
			apptest.Until(h.t, "it stops", func() bool {
				h.manager.mu.Lock()
				defer h.manager.mu.Unlock()
				return h.manager.stopped
			})
			cancel()
			apptest.Receive(h.t, "the end", stopped)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, Options{})
			b := newBroker()
			a, came, letGo := stuckApp()
			defer letGo()
			v := h.subscribed(b, a, Subscription{DeadLetterTopic: "dead", Rules: []Rule{{Path: "/x"}}}).handData("{}")
			apptest.Receive(t, "the delivery", came)
			begin := h.clock.Now()
			stop(h)
			if got := apptest.Receive(t, "a verdict", v); got.String() != "held" || len(b.sent()) != 0 {
				t.Errorf("%s, dead letters %v", got, b.sent())
			}
			if took := h.clock.Since(begin); (name == "limit") != (took >= stopLimit) {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// With a pause, what the broker has fetched is still delivered before the subscription closes.
func TestStopWithPause(t *testing.T) {
	for _, tc := range []struct {
		name  string
		err   error
		pause bool
		want  string // the verdict of a message that comes after the pause
	}{{"pausing", nil, true, "ack"}, {"without", nil, false, "held"}, {"failing", errors.New("no pause"), true, "held"}} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, Options{})
			b := newBroker()
			b.pausable, b.pauseErr = true, tc.err
			a, came, letGo := stuckApp()
			defer letGo()
			sub := h.subscribed(b, a, Subscription{Rules: []Rule{{Path: "/x"}}})
			v := sub.handData(`{"id":"1"}`)
			apptest.Receive(t, "the delivery", came)
			stopped := start(func() { h.Stop(context.Background(), tc.pause) })
			if tc.want == "ack" {
				apptest.Until(t, "it is paused", sub.isPaused)
			} else {
				apptest.Until(t, "it is closing", sub.refuses)
			}
			buffered := sub.handData(`{"id":"2"}`)
			if tc.want == "ack" {
				apptest.Receive(t, "the delivery of what was fetched", came)
			}
			letGo()
			h.meanwhile("the block has stopped", stopped)
			if got := apptest.Receive(t, "a verdict", v); got.String() != "ack" {
				t.Errorf("in hand: %s", got)
			}
			if got := apptest.Receive(t, "a verdict", buffered); got.String() != tc.want {
				t.Errorf("buffered: %s, want %s", got, tc.want)
			}
			if sub.isPaused() != (tc.pause && tc.err == nil) {
				t.Errorf("paused: %t", sub.isPaused())
			}
		})
	}
}

// refuses reports whether the subscription holds messages that come now.
func (s *fakeSub) refuses() bool {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// A message that cannot be decoded never reaches the app; held, it has the context's error.
	return errors.Is(s.handler(ctx, &pubsub.Message{Topic: s.topic, Data: []byte("garbage")}), context.Canceled)
}

// Internal consumers are independent of the app and of scopes, and follow their component.
func TestConsume(t *testing.T) {
	h := newHouse(t, Options{})
	got := make(chan string, 10)
	var fail error
	stop := h.Consume("ps", "internal", func(_ context.Context, data []byte) error { got <- string(data); return fail })
	b := newBroker()
	b.failures = []error{errBroker}
	h.add("ps", b, "subscriptionScopes", "shop=other")
	h.settled(b, "internal")
	if v := apptest.Receive(t, "a verdict", b.sub(t, "internal").handData("no event")); v.String() != "ack" || <-got != "no event" {
		t.Errorf("%s", v)
	}
	fail = errBroker
	if v := apptest.Receive(t, "a verdict", b.sub(t, "internal").handData("x")); v.String() != "nack" || !errors.Is(v.err, errBroker) {
		t.Errorf("%s %v", v, v.err)
	}
	<-got
	if len(h.Subscriptions()) != 0 {
		t.Error("it is listed")
	}
	h.StopApp()
	h.passing("the component is out", func() { _ = h.Remove(context.Background(), "ps") })
	next := newBroker()
	h.add("ps", next)
	h.settled(next, "internal")
	h.passing("it is stopped", func() { stop(context.Background()) })
	if len(next.open()) != 0 {
		t.Error("it is not closed")
	}
	stop(context.Background())
}

// A start that hangs at the broker does not keep the block from stopping.
func TestStopWhileSubscribing(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	in := make(chan struct{}, 1)
	b.subscribe = func(ctx context.Context) error { in <- struct{}{}; <-ctx.Done(); return ctx.Err() }
	h.add("ps", b)
	h.declare(declared("a")...)
	h.SetApp(&fakeApp{})
	started := h.StartApp()
	apptest.Receive(t, "the attempt", in)
	if !waiting(started) {
		t.Error("it counts as started")
	}
	h.Stop(context.Background(), true)
	apptest.Receive(t, "no wait any more", started)
}

func TestWithoutApp(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	h.declare(declared("a")...)
	apptest.Receive(t, "nothing", h.StartApp())
	h.StopApp()
	if b.tries() != 0 || len(h.Subscriptions()) != 1 {
		t.Errorf("%d tries, %v", b.tries(), h.Subscriptions())
	}
}
