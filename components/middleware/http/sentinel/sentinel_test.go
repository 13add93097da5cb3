package sentinel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components/middleware"
	"outrigger.dev/components/middleware/middlewaretest"
)

// harness is an instance with a clock of its own.
type harness struct {
	t     *testing.T
	clock *clockwork.FakeClock
	mw    middleware.Middleware
	log   *bytes.Buffer
}

func harnessOf(t *testing.T, property, rules string) *harness {
	t.Helper()
	h := &harness{t: t, clock: clockwork.NewFakeClock(), log: &bytes.Buffer{}}
	o := middlewaretest.Opener{Register: Register, Name: "http.sentinel", Clock: h.clock, Log: slog.New(slog.NewTextHandler(h.log, nil))}
	h.mw = o.Open(t, map[string]string{"appName": "a", property: rules})
	return h
}

// get sends a request that takes so long and is answered so, and returns the status.
func (h *harness) get(target string, took time.Duration, answer int, header ...string) int {
	h.t.Helper()
	resp, err := h.mw.Handle(h.t.Context(), middlewaretest.Request("GET", target, header...), func(context.Context, *middleware.Request) (*middleware.Response, error) {
		h.clock.Advance(took)
		if answer == 0 {
			return nil, errors.New("no answer")
		}
		return &middleware.Response{Status: answer}, nil
	})
	if err != nil {
		return 0
	}
	return resp.Status
}

// statuses sends n requests that are answered with 200 at once, and counts those that come through.
func (h *harness) passed(target string, n int, header ...string) (passed int) {
	h.t.Helper()
	for range n {
		if h.get(target, 0, 200, header...) == 200 {
			passed++
		}
	}
	return passed
}

func (h *harness) want(what string, got, want int) {
	h.t.Helper()
	if got != want {
		h.t.Errorf("%s: %d, want %d", what, got, want)
	}
}

func TestFlowReject(t *testing.T) {
	h := harnessOf(t, "flowRules", `[{"resource": "GET:/a/b", "threshold": 3, "tokenCalculateStrategy": 0, "controlBehavior": 0}]`)
	h.want("a burst", h.passed("/a/b", 5), 3)
	middlewaretest.Do(t, h.mw, middlewaretest.Request("GET", "//a/x/../%62")).Refused(t, 429, "Too Many Requests")
	h.want("another path", h.passed("/a", 5), 5)
	if r := middlewaretest.Do(t, h.mw, middlewaretest.Request("POST", "/a/b")); r.Status != 200 {
		t.Error("another verb is refused")
	}
	h.clock.Advance(time.Second)
	h.want("a second later", h.passed("/a/b", 5), 3)
}

func TestFlowInterval(t *testing.T) {
	h := harnessOf(t, "flowRules", `[{"resource": "GET:/", "threshold": 2, "statIntervalInMs": 10000}]`)
	h.want("at first", h.passed("/", 5), 2)
	h.clock.Advance(5 * time.Second)
	h.want("after 5 s", h.passed("/", 5), 0)
	h.clock.Advance(5 * time.Second)
	h.want("after 10 s", h.passed("/", 5), 2)
}

func TestFlowOfAnotherResource(t *testing.T) {
	h := harnessOf(t, "flowRules", `[{"resource": "GET:/read", "threshold": 2, "relationStrategy": 1, "refResource": "GET:/write"}]`)
	h.want("alone", h.passed("/read", 10), 10)
	h.passed("/write", 2)
	h.want("while the other is busy", h.passed("/read", 10), 0)
}

func TestFlowThrottle(t *testing.T) {
	h := harnessOf(t, "flowRules", `[{"resource": "GET:/", "threshold": 10, "controlBehavior": 1, "maxQueueingTimeMs": 250}]`)
	h.want("the first", h.get("/", 0, 200), 200)
	done := make(chan int, 2)
	for range 2 {
		go func() { done <- h.get("/", 0, 200) }()
	}
	if err := h.clock.BlockUntilContext(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	// The queue is full: a third would wait for 300 ms.
	h.want("over the queue", h.get("/", 0, 200), 429)
	select {
	case <-done:
		t.Error("nobody waits")
	default:
	}
	h.clock.Advance(200 * time.Millisecond)
	h.want("in the queue", <-done+<-done, 400)
	h.clock.Advance(time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	h.get("/", 0, 200)
	cancel()
	if _, err := h.mw.Handle(ctx, middlewaretest.Request("GET", "/"), nil); err != context.Canceled {
		t.Error(err)
	}
}

func TestFlowWarmUp(t *testing.T) {
	h := harnessOf(t, "flowRules", `[{"resource": "GET:/", "threshold": 30, "tokenCalculateStrategy": 1, "warmUpPeriodSec": 5, "warmUpColdFactor": 3}]`)
	var each []int
	for range 15 {
		n := 0
		for range 20 {
			n += h.passed("/", 3)
			h.clock.Advance(50 * time.Millisecond)
		}
		each = append(each, n)
	}
	if each[0] < 9 || each[0] > 12 || each[14] < 28 || each[14] > 33 {
		t.Errorf("per second: %v, want 10 at first and 30 in the end", each)
	}
	for i := 1; i < len(each); i++ {
		if each[i] < each[i-1]-4 {
			t.Errorf("per second: %v", each)
		}
	}
}

func TestFlowMemory(t *testing.T) {
	h := harnessOf(t, "flowRules", `[{"resource": "GET:/", "tokenCalculateStrategy": 2, "lowMemUsageThreshold": 10, "highMemUsageThreshold": 2, "memLowWaterMarkBytes": 100, "memHighWaterMarkBytes": 200}]`)
	for _, c := range []struct {
		used int64
		want int
	}{{50, 10}, {150, 6}, {300, 2}} {
		h.mw.(*Sentinel).machine.readMemory = func() int64 { return c.used }
		h.clock.Advance(time.Second)
		h.want(fmt.Sprint(c.used), h.passed("/", 20), c.want)
	}
	if memoryUse() < 1<<20 {
		t.Error("the memory in use is", memoryUse())
	}
}

func TestBreakers(t *testing.T) {
	rule := func(strategy int, threshold string, more string) string {
		return fmt.Sprintf(`[{"resource": "GET:/", "strategy": %d, "retryTimeoutMs": 3000, "minRequestAmount": 4, "statIntervalMs": 10000, "threshold": %s%s}]`, strategy, threshold, more)
	}
	for name, c := range map[string]struct {
		rules     string
		good, bad func(h *harness) int
	}{
		"slow":    {rule(0, "0.5", `, "maxAllowedRtMs": 100`), func(h *harness) int { return h.get("/", 50*time.Millisecond, 500) }, func(h *harness) int { return h.get("/", 101*time.Millisecond, 200) }},
		"ratio":   {rule(1, "0.5", ""), func(h *harness) int { return h.get("/", 0, 499) }, func(h *harness) int { return h.get("/", 0, 500) }},
		"count":   {rule(2, "2", `, "statSlidingWindowBucketCount": 10`), func(h *harness) int { return h.get("/", 0, 200) }, func(h *harness) int { return h.get("/", 0, 0) }},
		"several": {rule(1, "0.5", `, "probeNum": 2`), func(h *harness) int { return h.get("/", 0, 200) }, func(h *harness) int { return h.get("/", 0, 503) }},
	} {
		h := harnessOf(t, "circuitBreakerRules", c.rules)
		for _, f := range []func(*harness) int{c.good, c.bad, c.good} {
			if f(h) == 429 {
				t.Errorf("%s: too early", name)
			}
		}
		if c.bad(h) == 429 {
			t.Errorf("%s: too early", name)
		}
		h.want(name+": open", c.good(h), 429)
		h.clock.Advance(2900 * time.Millisecond)
		h.want(name+": still open", c.good(h), 429)
		h.clock.Advance(100 * time.Millisecond)
		if c.bad(h) == 429 {
			t.Errorf("%s: no probe", name)
		}
		h.want(name+": the probe failed", c.good(h), 429)
		h.clock.Advance(3 * time.Second)
		for range 10 {
			if c.good(h) == 429 {
				t.Errorf("%s: not closed again", name)
			}
		}
	}
	// While a probe runs no other request passes.
	h := harnessOf(t, "circuitBreakerRules", rule(2, "1", ""))
	for range 4 {
		h.get("/", 0, 500)
	}
	h.clock.Advance(3 * time.Second)
	_, _ = h.mw.Handle(t.Context(), middlewaretest.Request("GET", "/"), func(context.Context, *middleware.Request) (*middleware.Response, error) {
		h.want("beside the probe", h.get("/", 0, 200), 429)
		return &middleware.Response{Status: 200}, nil
	})
	h.want("after the probe", h.get("/", 0, 200), 200)
}

func TestHotSpots(t *testing.T) {
	h := harnessOf(t, "hotSpotParamRules", `[{"resource": "GET:/", "metricType": 1, "paramKey": "user", "threshold": 2, "burstCount": 1, "durationInSec": 1, "paramsMaxCapacity": 3,
		"specificItems": [{"valKind": 1, "valStr": "vip", "threshold": 5}]}]`)
	h.want("a value", h.passed("/?user=1", 10), 3)
	h.want("another", h.passed("/", 10, "User: 2"), 3)
	h.want("a special one", h.passed("/?user=vip", 10), 6)
	h.want("none", h.passed("/", 10), 10)
	h.clock.Advance(1100 * time.Millisecond)
	h.want("later", h.passed("/?user=1", 10), 2)
	for i := range 100 {
		h.passed(fmt.Sprintf("/?user=x%d", i), 1)
	}
	if spot := h.mw.(*Sentinel).resources["GET:/"].hotSpots[0]; len(spot.values) != 3 || spot.recent.Len() != 3 {
		t.Error(len(spot.values))
	}
	h.want("a long value", h.passed("/?user="+strings.Repeat("x", 300), 10), 3)

	h = harnessOf(t, "hotSpotParamRules", `[{"resource": "GET:/", "metricType": 0, "paramKey": "X-User", "threshold": 1}]`)
	_, _ = h.mw.Handle(t.Context(), middlewaretest.Request("GET", "/", "x-user: 1"), func(context.Context, *middleware.Request) (*middleware.Response, error) {
		h.want("at the same time", h.passed("/", 1, "X-User: 1"), 0)
		h.want("another at the same time", h.passed("/", 1, "X-User: 2"), 1)
		return &middleware.Response{Status: 200}, nil
	})
	h.want("one after the other", h.passed("/", 3, "X-User: 1"), 3)
	if n := len(h.mw.(*Sentinel).resources["GET:/"].hotSpots[0].running); n != 0 {
		t.Error(n, "values are kept")
	}

	h = harnessOf(t, "hotSpotParamRules", `[{"resource": "GET:/", "metricType": 1, "controlBehavior": 1, "paramKey": "u", "threshold": 10, "durationInSec": 1, "maxQueueingTimeMs": 50}]`)
	h.want("throttled", h.passed("/?u=1", 3), 1)
	h.clock.Advance(100 * time.Millisecond)
	h.want("throttled later", h.passed("/?u=1", 3), 1)

	h = harnessOf(t, "hotSpotParamRules", `[{"resource": "GET:/", "metricType": 1, "paramIndex": 1, "threshold": 0, "durationInSec": 1}]`)
	if h.want("by number", h.passed("/", 3), 3); !strings.Contains(h.log.String(), "has no effect") {
		t.Error(h.log)
	}
}

func TestIsolation(t *testing.T) {
	h := harnessOf(t, "isolationRules", `[{"resource": "GET:/", "threshold": 2}]`)
	nested := func(next func()) {
		_, _ = h.mw.Handle(t.Context(), middlewaretest.Request("GET", "/"), func(context.Context, *middleware.Request) (*middleware.Response, error) {
			next()
			return &middleware.Response{Status: 200}, nil
		})
	}
	nested(func() { nested(func() { h.want("three at a time", h.passed("/", 1), 0) }) })
	func() {
		defer func() { _ = recover() }()
		nested(func() { panic("x") })
	}()
	h.want("one after the other", h.passed("/", 5), 5)
	nested(func() { h.want("after a panic", h.passed("/", 1), 1) })
}

func TestSystem(t *testing.T) {
	h := harnessOf(t, "systemRules", `[{"metricType": 3, "triggerCount": 3}]`)
	h.want("requests per second", h.passed("/a", 2)+h.passed("/b", 5), 3)
	h.clock.Advance(time.Second)
	h.want("later", h.passed("/c", 5), 3)

	h = harnessOf(t, "systemRules", `[{"metricType": 2, "triggerCount": 1}]`)
	_, _ = h.mw.Handle(t.Context(), middlewaretest.Request("GET", "/"), func(context.Context, *middleware.Request) (*middleware.Response, error) {
		h.want("at the same time", h.passed("/x", 1), 0)
		return &middleware.Response{Status: 200}, nil
	})
	h.want("one after the other", h.passed("/", 3), 3)

	h = harnessOf(t, "systemRules", `[{"metricType": 1, "triggerCount": 100}]`)
	h.get("/", 150*time.Millisecond, 200)
	h.want("slow", h.get("/", 0, 200), 429)
	h.clock.Advance(2 * time.Second)
	h.want("later", h.get("/", 0, 200), 200)

	for _, c := range []struct {
		rule       string
		load       float64
		alone, two int
	}{
		{`{"metricType": 0, "triggerCount": 2}`, 1, 200, 200},
		{`{"metricType": 0, "triggerCount": 2}`, 3, 429, 429},
		{`{"metricType": 0, "triggerCount": 2, "strategy": 1}`, 3, 200, 429},
	} {
		h := harnessOf(t, "systemRules", "["+c.rule+"]")
		h.mw.(*Sentinel).machine.readLoad = func() float64 { return c.load }
		h.want(c.rule, h.get("/", 0, 200), c.alone)
		if c.alone != 200 {
			continue
		}
		// Three at a time, where a millisecond at a time is the best that was seen.
		_, _ = h.mw.Handle(t.Context(), middlewaretest.Request("GET", "/"), func(context.Context, *middleware.Request) (*middleware.Response, error) {
			_, _ = h.mw.Handle(t.Context(), middlewaretest.Request("GET", "/"), func(context.Context, *middleware.Request) (*middleware.Response, error) {
				h.want(c.rule+" many", h.get("/", 0, 200), c.two)
				return &middleware.Response{Status: 200}, nil
			})
			return &middleware.Response{Status: 200}, nil
		})
	}

	h = harnessOf(t, "systemRules", `[{"metricType": 4, "triggerCount": 0.5}]`)
	used := time.Duration(0)
	h.mw.(*Sentinel).machine.readCPU = func() time.Duration { return used }
	h.want("CPU at first", h.get("/", 0, 200), 200)
	h.clock.Advance(time.Second)
	used += 100 * time.Hour
	h.want("CPU busy", h.get("/", 0, 200), 429)
	h.clock.Advance(time.Second)
	h.want("CPU idle", h.get("/", 0, 200), 200)
	if loadAverage() < 0 || cpuTime() < 0 {
		t.Error(loadAverage(), cpuTime())
	}
}

func TestOptions(t *testing.T) {
	for rules, want := range map[string]string{
		`flowRules {}`:   `"flowRules" is not a JSON array`,
		`flowRules [{}]`: `"flowRules": rule 0: resource is missing`,
		`flowRules [{"resource": "a", "threshold": -1}]`:                                                                   "threshold must not be negative",
		`flowRules [{"resource": "a", "tokenCalculateStrategy": 3}]`:                                                       "tokenCalculateStrategy must be",
		`flowRules [{"resource": "a", "controlBehavior": 2}]`:                                                              "controlBehavior must be",
		`flowRules [{"resource": "a", "relationStrategy": 1}]`:                                                             "refResource is required",
		`flowRules [{"resource": "a", "tokenCalculateStrategy": 1}]`:                                                       "warmUpPeriodSec must be",
		`flowRules [{"resource": "a", "tokenCalculateStrategy": 2}]`:                                                       "lowMemUsageThreshold must be",
		`circuitBreakerRules [{"resource": "a"}]`:                                                                          "statIntervalMs must be",
		`circuitBreakerRules [{"resource": "a", "statIntervalMs": 1}]`:                                                     "retryTimeoutMs must be",
		`circuitBreakerRules [{"resource": "a", "statIntervalMs": 1, "retryTimeoutMs": 1, "strategy": 1, "threshold": 2}]`: "from 0 to 1",
		`circuitBreakerRules [{"resource": "a", "strategy": 5}]`:                                                           "strategy must be",
		`hotSpotParamRules [{"resource": "a", "metricType": 1}]`:                                                           "durationInSec must be",
		`hotSpotParamRules [{"resource": "a", "metricType": 2}]`:                                                           "metricType must be",
		`hotSpotParamRules [{"resource": "a", "paramIndex": 1, "paramKey": "k"}]`:                                          "exclude each other",
		`isolationRules [{"resource": "a"}]`:                                                                               "threshold must be over 0",
		`isolationRules [{"resource": "a", "metricType": 1}]`:                                                              "metricType must be 0",
		`systemRules [{"metricType": 5}]`:                                                                                  "metricType must be",
		`systemRules [{"metricType": 4, "triggerCount": 2}]`:                                                               "from 0 to 1",
	} {
		property, text, _ := strings.Cut(rules, " ")
		_, err := middlewaretest.Opener{Register: Register, Name: "http.sentinel"}.Try(t, map[string]string{property: text})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), property) {
			t.Errorf("%s: %v", rules, err)
		}
	}
}

func TestSuite(t *testing.T) {
	o := middlewaretest.Opener{Register: Register, Name: "http.sentinel"}
	middlewaretest.Suite(t, func(t testing.TB) middleware.Middleware {
		return o.Open(t, map[string]string{
			"appName": "a", "logDir": "/nowhere",
			"flowRules":           `[{"resource": "POST:/", "threshold": 1000000}]`,
			"circuitBreakerRules": `[{"resource": "POST:/", "strategy": 2, "retryTimeoutMs": 1, "statIntervalMs": 1000, "threshold": 1000000}]`,
			"isolationRules":      `[{"resource": "POST:/", "threshold": 1000}]`,
			"hotSpotParamRules":   `[{"resource": "POST:/", "metricType": 0, "paramKey": "u", "threshold": 1000}]`,
			"systemRules":         `[{"metricType": 3, "triggerCount": 1000000}]`,
		})
	}, func() *middleware.Request { return middlewaretest.Request("POST", "/?u=1") })
}

func FuzzRules(f *testing.F) {
	f.Add(`[{"resource": "GET:/", "threshold": 3}]`)
	f.Add(`[{"resource": "GET:/", "threshold": 1e308, "tokenCalculateStrategy": 1, "warmUpPeriodSec": 4294967295, "warmUpColdFactor": 2}]`)
	f.Add(`[{"resource": "GET:/", "statIntervalMs": 1, "retryTimeoutMs": 4294967295, "statSlidingWindowBucketCount": 1}]`)
	f.Add(`[{"resource": "GET:/", "metricType": 1, "paramKey": "u", "threshold": 1, "durationInSec": 1000000, "paramsMaxCapacity": 9223372036854775807}]`)
	f.Fuzz(func(t *testing.T, text string) {
		clock := clockwork.NewFakeClock()
		for _, o := range []Options{{FlowRules: text}, {CircuitBreakerRules: text}, {HotSpotParamRules: text}, {IsolationRules: text}, {SystemRules: text}} {
			if o.Check() != nil {
				continue
			}
			s := New(clock, slog.New(slog.DiscardHandler), o)
			for range 3 {
				req := middlewaretest.Request("GET", "/?u=1")
				if p, _, blocked := s.enter("GET:/", req); blocked == "" {
					s.exit(p, true, true)
				}
				clock.Advance(time.Second)
			}
		}
	})
}

func BenchmarkHandle(b *testing.B) {
	o := Options{FlowRules: `[{"resource": "GET:/", "threshold": 1e12}]`}
	if err := o.Check(); err != nil {
		b.Fatal(err)
	}
	s := New(clockwork.NewRealClock(), slog.New(slog.DiscardHandler), o)
	req := middlewaretest.Request("GET", "/")
	resp := &middleware.Response{Status: 200}
	next := func(context.Context, *middleware.Request) (*middleware.Response, error) { return resp, nil }
	for b.Loop() {
		_, _ = s.Handle(b.Context(), req, next)
	}
}
