package bindings

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	contract "outrigger.dev/components/bindings"
	"outrigger.dev/telemetry/logging/logtest"
)

// appFake is an HTTP app that counts the requests for each verb and path.
type appFake struct {
	mu     sync.Mutex
	counts map[string]int
	// probe is the status for OPTIONS, 200 when it is nil.
	probe func(path string) int
	// event answers all else; nil is 200.
	event http.HandlerFunc
}

func (a *appFake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	if a.counts == nil {
		a.counts = map[string]int{}
	}
	a.counts[r.Method+" "+r.RequestURI+" "+r.Header.Get("Content-Type")]++
	a.mu.Unlock()
	switch {
	case r.Method == "OPTIONS" && a.probe != nil:
		w.WriteHeader(a.probe(r.URL.Path))
	case r.Method != "OPTIONS" && a.event != nil:
		a.event(w, r)
	}
}

func (a *appFake) count(request string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts[request+" application/json"]
}

func TestDirections(t *testing.T) {
	for _, tc := range []struct {
		binding      contract.Binding
		name, value  string // of the property
		capabilities string
		err          string
	}{
		{both{&inputFake{}, newOutput(nil)}, "", "", "INPUT_BINDING OUTPUT_BINDING", ""},
		{both{&inputFake{}, newOutput(nil)}, "direction", "", "INPUT_BINDING OUTPUT_BINDING", ""},
		{both{&inputFake{}, newOutput(nil)}, "Direction", " OUTPUT , input", "INPUT_BINDING OUTPUT_BINDING", ""},
		{both{&inputFake{}, newOutput(nil)}, "direction", "input", "INPUT_BINDING", ""},
		{both{&inputFake{}, newOutput(nil)}, "direction", "output", "OUTPUT_BINDING", ""},
		{&inputFake{}, "", "", "INPUT_BINDING", ""},
		{newOutput(nil), "", "", "OUTPUT_BINDING", ""},
		{newOutput(nil), "direction", "input, output", "OUTPUT_BINDING", ""},
		{newOutput(nil), "direction", "input", "", `couldn't find binding b: bindings.fake has no direction "input"; write input or output, whichever the type supports, or leave the property direction out`},
		{newOutput(nil), "direction", "sideways", "", `couldn't find binding b: bindings.fake has no direction "sideways"; write input or output, whichever the type supports, or leave the property direction out`},
	} {
		c := Component{Name: "b", Type: "bindings.fake", Binding: tc.binding, Properties: map[string]string{tc.name: tc.value}}
		if got := strings.Join(c.Capabilities(), " "); got != tc.capabilities {
			t.Errorf("%s: %q: capabilities %s, want %s", tc.name, tc.value, got, tc.capabilities)
		}
		err := newBlock(t, Options{}).Add(c)
		if (err == nil) != (tc.err == "") || err != nil && err.Error() != tc.err {
			t.Errorf("%s: %q: %v", tc.name, tc.value, err)
		}
	}
	var log logtest.Log
	b := newBlock(t, Options{Log: log.Logger()})
	add(t, b, "b", newOutput(nil), "direction", "output,sideways")
	if log.Count(`"sideways", which is no direction`) != 1 {
		t.Errorf("log: %s", &log)
	}
	for _, binding := range []contract.Binding{newOutput(nil), &inputFake{}} {
		if err := b.Add(Component{Name: "b", Binding: binding}); err == nil || !strings.Contains(err.Error(), `"b" is already loaded`) {
			t.Errorf("a name was taken twice: %v", err)
		}
	}
}

func TestHTTPDiscovery(t *testing.T) {
	for _, tc := range []struct {
		name       string
		status     int
		properties []string
		probe      string // the request that asks
		read       bool
	}{
		{"200", 200, nil, "OPTIONS /b", true},
		{"204", 204, nil, "OPTIONS /b", true},
		{"405", 405, nil, "OPTIONS /b", true},
		{"404", 404, nil, "OPTIONS /b", false},
		{"500", 500, nil, "OPTIONS /b", false},
		{"301", 301, nil, "OPTIONS /b", false},
		{"route", 200, []string{"route", "/a//x y/b%20c?q=1"}, "OPTIONS /a/x%20y/b%20c?q=1", true},
		{"the name of route has a case", 200, []string{"Route", "/a"}, "OPTIONS /b", true},
		{"direction", 404, []string{"direction", "input"}, "", true},
		{"direction with both", 404, []string{"DIRECTION", "output, INPUT"}, "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log logtest.Log
			b := newBlock(t, Options{Log: log.Logger()})
			a := &appFake{probe: func(string) int { return tc.status }}
			in := &inputFake{}
			add(t, b, "b", both{in, newOutput(nil)}, tc.properties...)
			b.Start(t.Context(), serveHTTP(t, app.Options{}, a.ServeHTTP))
			if in.open() != tc.read || in.overlap {
				t.Errorf("read: %v", in.open())
			}
			if tc.probe != "" && a.count(tc.probe) != 1 || len(a.counts) > 1 || tc.probe == "" && len(a.counts) > 0 {
				t.Errorf("requests %v", a.counts)
			}
			if (log.Count("app has not subscribed to binding b") == 1) == tc.read {
				t.Errorf("log: %s", &log)
			}
		})
	}
}

func TestNoApp(t *testing.T) {
	b := newBlock(t, Options{})
	in := &inputFake{}
	add(t, b, "b", in, "direction", "input")
	b.Start(t.Context(), nil)
	if in.tries() != 0 {
		t.Error("read without an app")
	}
}

func TestGRPCDiscovery(t *testing.T) {
	var asked atomic.Int32
	answers := []func() (*runtimev1.ListInputBindingsResponse, error){
		func() (*runtimev1.ListInputBindingsResponse, error) {
			return nil, status.Error(codes.Internal, "not yet")
		},
		func() (*runtimev1.ListInputBindingsResponse, error) {
			return &runtimev1.ListInputBindingsResponse{Bindings: []string{"a", "b"}}, nil
		},
	}
	clock := clockwork.NewFakeClock()
	var log logtest.Log
	b := newBlock(t, Options{Clock: clock, Log: log.Logger()})
	inputs := map[string]*inputFake{}
	for _, name := range []string{"a", "b", "c"} {
		inputs[name] = &inputFake{}
		add(t, b, name, inputs[name], "route", "/ignored")
	}
	channel := serveGRPC(t, app.Options{}, &apptest.Callbacks{InputBindings: func(context.Context) (*runtimev1.ListInputBindingsResponse, error) {
		return answers[min(int(asked.Add(1)), len(answers))-1]()
	}})
	b.Start(t.Context(), channel)
	// Those who shared the failure ask again.
	for !inputs["a"].open() || !inputs["b"].open() {
		clock.Advance(longPause)
		time.Sleep(time.Millisecond)
	}
	apptest.Until(t, "all have their answer", func() bool { return log.Count("app has not subscribed to binding c") == 1 })
	if inputs["c"].open() {
		t.Error("a binding was read that the app does not list")
	}
	before := asked.Load()
	late := &inputFake{}
	add(t, b, "late", late)
	apptest.Until(t, "the late binding has its answer", func() bool { return log.Count("app has not subscribed to binding late") == 1 })
	if asked.Load() != before {
		t.Error("the answer was not kept")
	}

	// An app without the method reads none, and is not asked again and again.
	in := &inputFake{}
	b = newBlock(t, Options{Log: log.Logger()})
	add(t, b, "d", in)
	b.Start(t.Context(), serveGRPC(t, app.Options{}, &apptest.Callbacks{}))
	if in.open() || log.Count("app has not subscribed to binding d") != 1 {
		t.Errorf("log: %s", &log)
	}
}

func TestFailuresAreIsolatedAndRetried(t *testing.T) {
	clock := clockwork.NewFakeClock()
	var log logtest.Log
	b := newBlock(t, Options{Clock: clock, Log: log.Logger()})
	good, bad := &inputFake{}, &inputFake{}
	for range 14 {
		bad.failures = append(bad.failures, errors.New("no broker"))
	}
	add(t, b, "good", good)
	add(t, b, "bad", bad)
	a := &appFake{}
	b.Start(t.Context(), serveHTTP(t, app.Options{}, a.ServeHTTP))
	if !good.open() || bad.tries() != 1 {
		t.Fatalf("good is read: %v, bad was tried %d times", good.open(), bad.tries())
	}
	pause := 500 * time.Millisecond
	for tries := 1; tries <= 14; tries++ {
		if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("error reading from input binding bad: no broker; trying again in %s", pause); log.Count(want) == 0 {
			t.Fatalf("try %d: %q is missing in:\n%s", tries, want, &log)
		}
		clock.Advance(pause - 1)
		if bad.tries() != tries {
			t.Fatalf("tried too soon after try %d", tries)
		}
		clock.Advance(1)
		apptest.Until(t, "it is tried again", func() bool { return bad.tries() == tries+1 })
		pause = min(pause+pause/2, time.Minute)
	}
	if pause != time.Minute {
		t.Errorf("the pause grew to %s", pause)
	}
	apptest.Until(t, "the bad one is read", bad.open)
	if good.tries() != 1 {
		t.Errorf("the good one was opened %d times", good.tries())
	}
}

func TestProbeFailureIsRetried(t *testing.T) {
	clock := clockwork.NewFakeClock()
	var log logtest.Log
	hang := make(chan struct{})
	var probes atomic.Int32
	b := newBlock(t, Options{Clock: clock, Log: log.Logger(), ProbeTimeout: 50 * time.Millisecond})
	a := &appFake{probe: func(path string) int {
		if path == "/slow" && probes.Add(1) == 1 {
			<-hang
		}
		return 200
	}}
	slow, quick := &inputFake{}, &inputFake{}
	add(t, b, "slow", slow)
	add(t, b, "quick", quick)
	channel := serveHTTP(t, app.Options{}, a.ServeHTTP)
	defer close(hang)
	b.Start(t.Context(), channel)
	if !quick.open() || slow.open() {
		t.Errorf("quick is read: %v, slow: %v", quick.open(), slow.open())
	}
	if log.Count("error reading from input binding slow: the app could not be asked whether it wants the events: context deadline exceeded") != 1 {
		t.Errorf("log: %s", &log)
	}
	if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	clock.Advance(firstPause)
	apptest.Until(t, "the slow one is read", slow.open)
}

func TestStartWaitsOnlyForItsContext(t *testing.T) {
	hang := make(chan struct{})
	b := newBlock(t, Options{})
	a := &appFake{probe: func(string) int { <-hang; return 200 }}
	in := &inputFake{}
	add(t, b, "b", in)
	channel := serveHTTP(t, app.Options{}, a.ServeHTTP)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.Start(ctx, channel)
	close(hang)
	apptest.Until(t, "it is read all the same", in.open)
}

func TestLifeCycle(t *testing.T) {
	a := &appFake{}
	channel := serveHTTP(t, app.Options{}, a.ServeHTTP)
	b := newBlock(t, Options{})
	in := &inputFake{}
	add(t, b, "b", in)
	if in.tries() != 0 {
		t.Fatal("read before Start")
	}
	b.Stop() // has nothing to do
	b.Start(t.Context(), channel)
	b.Start(t.Context(), channel) // nor has this
	if !in.open() || in.tries() != 1 {
		t.Fatal("not read once")
	}
	hot := &inputFake{}
	add(t, b, "hot", hot, "direction", "input")
	apptest.Until(t, "a binding added later is read", hot.open)
	if err := b.Remove(t.Context(), "hot"); err != nil || hot.open() {
		t.Errorf("removed: %v, read: %v", err, hot.open())
	}
	add(t, b, "hot", hot)
	apptest.Until(t, "a binding added again is read", hot.open)
	if err := b.Remove(t.Context(), "never"); err != nil {
		t.Error(err)
	}

	for range 3 {
		b.Stop()
		apptest.Until(t, "the reading has ended", func() bool { return !in.open() && !hot.open() })
		b.Start(t.Context(), channel)
		if !in.open() || !hot.open() {
			t.Fatal("not read again")
		}
	}
	if in.tries() != 4 || a.count("OPTIONS /b") != 4 {
		t.Errorf("read %d times, asked %v", in.tries(), a.counts)
	}
	if err := b.Shutdown(t.Context()); err != nil || in.open() || hot.open() {
		t.Errorf("shut down: %v, read: %v", err, in.open())
	}
	b.Start(t.Context(), channel)
	add(t, b, "after", hot)
	if in.open() || hot.open() {
		t.Error("read after Shutdown")
	}
}

// running starts an event that stays with the app until the returned function is called. Further ones do not.
func running(t *testing.T, b *Bindings, in *inputFake) (out <-chan outcome, finish func()) {
	t.Helper()
	arrived, hold := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	a := &appFake{event: func(_ http.ResponseWriter, r *http.Request) {
		if !held.CompareAndSwap(false, true) {
			return
		}
		close(arrived)
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}}
	finish = sync.OnceFunc(func() { close(hold) })
	channel := serveHTTP(t, app.Options{}, a.ServeHTTP)
	t.Cleanup(finish)
	b.Start(t.Context(), channel)
	out = in.start(&contract.Event{Data: []byte("x")})
	apptest.Receive(t, "the event at the app", arrived)
	return out, finish
}

func TestStopLetsDeliveriesEnd(t *testing.T) {
	clock := clockwork.NewFakeClock()
	b := newBlock(t, Options{Clock: clock})
	in := &inputFake{}
	add(t, b, "b", in, "direction", "input")
	out, finish := running(t, b, in)
	b.Stop()
	if got := in.event(t, &contract.Event{}); got.err == nil || got.err.Error() != "input binding is closed" {
		t.Errorf("an event after Stop: %+v", got)
	}
	if !in.open() {
		t.Error("the reading ended under a running delivery")
	}
	finish()
	if got := apptest.Receive(t, "the outcome", out); got.err != nil {
		t.Errorf("the running delivery: %v", got.err)
	}
	// A moment is left for the acknowledgement.
	if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	clock.Advance(settleTime - 1)
	if !in.open() {
		t.Error("the reading ended without a moment for the acknowledgement")
	}
	clock.Advance(1)
	apptest.Until(t, "the reading has ended", func() bool { return !in.open() })
}

func TestStartWhileDeliveriesStillRun(t *testing.T) {
	b := newBlock(t, Options{})
	in := &inputFake{}
	add(t, b, "b", in, "direction", "input")
	out, finish := running(t, b, in)
	b.Stop()
	a := &appFake{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.Start(ctx, serveHTTP(t, app.Options{}, a.ServeHTTP))
	if got := in.event(t, &contract.Event{}); got.err == nil {
		t.Error("the old reading took an event")
	}
	finish()
	if got := apptest.Receive(t, "the outcome", out); got.err != nil {
		t.Error(got.err)
	}
	apptest.Until(t, "it is read again", func() bool { return in.tries() == 2 && in.open() })
	if in.overlap {
		t.Error("two readings at a time")
	}
	if got := in.event(t, &contract.Event{}); got.err != nil || a.count("POST /b") != 1 {
		t.Errorf("after the new start: %+v, %v", got, a.counts)
	}
}

func TestShutdownBreaksOff(t *testing.T) {
	for _, again := range []bool{false, true} {
		b := newBlock(t, Options{})
		in := &inputFake{}
		add(t, b, "b", in, "direction", "input")
		out, _ := running(t, b, in)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if again { // a reader waits for the busy one
			b.Stop()
			b.Start(ctx, serveHTTP(t, app.Options{}, (&appFake{}).ServeHTTP))
		}
		err := b.Shutdown(ctx)
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "input binding b was busy") {
			t.Errorf("Shutdown: %v", err)
		}
		if got := apptest.Receive(t, "the outcome", out); got.err == nil {
			t.Error("a delivery that was broken off succeeded")
		}
		if in.open() {
			t.Error("still read")
		}
	}
}

func TestRemoveEndsOneOnly(t *testing.T) {
	b := newBlock(t, Options{})
	in, other := &inputFake{}, &inputFake{}
	add(t, b, "b", in, "direction", "input")
	add(t, b, "other", other, "direction", "input")
	out, finish := running(t, b, in)
	removed := make(chan error, 1)
	go func() { removed <- b.Remove(t.Context(), "b") }()
	apptest.Until(t, "events are refused", func() bool { return in.event(t, &contract.Event{}).err != nil })
	select {
	case err := <-removed:
		t.Fatalf("removed under a running delivery: %v", err)
	default:
	}
	finish()
	if err := apptest.Receive(t, "the removal", removed); err != nil {
		t.Error(err)
	}
	if got := apptest.Receive(t, "the outcome", out); got.err != nil {
		t.Error(got.err)
	}
	if in.open() || !other.open() {
		t.Errorf("read: %v, the other: %v", in.open(), other.open())
	}
}

// TestConcurrency turns everything on and off while events come: none is acknowledged that the app did not get.
func TestConcurrency(t *testing.T) {
	var got sync.Map
	a := &appFake{event: func(_ http.ResponseWriter, r *http.Request) {
		got.Store(r.Header.Get("Id"), true)
	}}
	channel := serveHTTP(t, app.Options{}, a.ServeHTTP)
	clock := clockwork.NewFakeClock() // no moment is waited for in real time
	b := newBlock(t, Options{Clock: clock})
	inputs := make([]*inputFake, 4)
	for i := range inputs {
		inputs[i] = &inputFake{}
		add(t, b, fmt.Sprintf("b%d", i), inputs[i], "direction", "input")
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	var acked sync.Map
	for i, in := range inputs {
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("%d-%d", i, n)
				if o := <-in.start(&contract.Event{Metadata: map[string]string{"Id": id}}); o.err == nil {
					acked.Store(id, true)
				} else {
					time.Sleep(100 * time.Microsecond)
				}
			}
		})
	}
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				clock.Advance(settleTime)
				time.Sleep(100 * time.Microsecond)
			}
		}
	})
	for range 40 {
		b.Start(t.Context(), channel)
		apptest.Until(t, "something arrives", func() bool { n := 0; acked.Range(func(any, any) bool { n++; return n < 20 }); return n == 20 })
		b.Stop()
		acked.Range(func(id, _ any) bool {
			if _, ok := got.Load(id); !ok {
				t.Errorf("event %v was acknowledged, but the app has not got it", id)
			}
			acked.Delete(id)
			return true
		})
		b.Start(t.Context(), channel)
		name := "b3"
		if err := b.Remove(t.Context(), name); err != nil {
			t.Error(err)
		}
		add(t, b, name, inputs[3], "direction", "input")
		b.Stop()
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	close(stop)
	all.Wait()
	for _, in := range inputs {
		if in.open() || in.overlap {
			t.Errorf("read: %v, two at a time: %v", in.open(), in.overlap)
		}
	}
}

func TestSplitRoute(t *testing.T) {
	got := map[string]string{}
	for _, route := range []string{"a", "/a", "//a/../b/", "/a?b=c?d", "a%2Fb", "a%zz", ""} {
		path, query := splitRoute(route)
		got[route] = path + "|" + query
	}
	want := map[string]string{"a": "a|", "/a": "a|", "//a/../b/": "b|", "/a?b=c?d": "a|b=c?d", "a%2Fb": "a/b|", "a%zz": "a%zz|", "": "|"}
	if !maps.Equal(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
	if c := (Component{Name: "n"}); c.route() != "n" {
		t.Errorf("route %q", c.route())
	}
	if !slices.Equal((&Component{Properties: map[string]string{"direction": ","}}).directions(), nil) {
		t.Error("no word is no direction")
	}
}
