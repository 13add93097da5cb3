package resiliency

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics/metricstest"
)

// TestNil: a nil engine has no policies, and nor has one whose resources say nothing of the target.
func TestNil(t *testing.T) {
	for _, e := range []*Engine{nil, New(Options{}), newBench(t, outbound(resource.Policies{Timeouts: timeouts("1s")})).engine} {
		if p := e.Component(Statestore, "x", Outbound); p != nil {
			t.Error("a policy for a component")
		}
		if p := e.App("x", "x:y"); p != nil || e.HasApp("x") || e.CoversApp("x") {
			t.Error("a policy for an app")
		}
		if p := e.Actor("x", "1"); p != nil || e.HasActor("x") || e.ActorTimeout("x") != 0 {
			t.Error("a policy for an actor")
		}
		if p := e.BuiltIn(BuiltInServiceRetries); (p == nil) != (e == nil) {
			t.Error("built-in policies and a nil engine")
		}
		if p := e.BuiltIn("x"); p != nil {
			t.Error("a built-in policy of any name")
		}
		if err := e.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// retriesOf names retry policies by the number of retries that tell them apart.
func retriesOf(names ...string) map[string]resource.Retry {
	m := map[string]resource.Retry{}
	for i, name := range names {
		n := i + 1
		m[name] = resource.Retry{MaxRetries: &n}
	}
	return m
}

func maxOf(p *Policy) int {
	if p == nil || p.retry == nil {
		return 0
	}
	return p.retry.max
}

func TestDefaults(t *testing.T) {
	levels := []string{"DefaultStatestoreComponentOutboundRetryPolicy", "DefaultComponentOutboundRetryPolicy", "DefaultComponentRetryPolicy", "DefaultRetryPolicy"}
	for i := range levels {
		b := newBench(t, of(resource.Policies{Retries: retriesOf(levels[i:]...)}, resource.Targets{}))
		for _, tc := range []struct {
			kind Kind
			dir  Direction
			want string
		}{
			{Statestore, Outbound, levels[i]},
			{Pubsub, Outbound, levels[max(i, 1)]},
			{Statestore, Inbound, levels[max(i, 2)]},
			{Conversation, Inbound, levels[max(i, 2)]},
		} {
			want := 0
			for n, name := range levels[i:] {
				if name == tc.want {
					want = n + 1
				}
			}
			if got := maxOf(b.engine.Component(tc.kind, "x", tc.dir)); got != want {
				t.Errorf("level %d, %s %s: %d retries, want %d", i, tc.kind, tc.dir, got, want)
			}
		}
	}

	b := newBench(t, of(resource.Policies{
		Retries:         retriesOf("DefaultRetryPolicy", "DefaultAppRetryPolicy", "mine"),
		Timeouts:        map[string]string{"DefaultTimeoutPolicy": "1s", "DefaultActorTimeoutPolicy": "2s", "mine": "3s"},
		CircuitBreakers: map[string]resource.CircuitBreaker{"DefaultCircuitBreakerPolicy": {}},
	}, resource.Targets{
		Apps:   map[string]resource.AppTarget{"a": {PolicyNames: resource.PolicyNames{Retry: "mine"}}, "bare": {}},
		Actors: map[string]resource.ActorTarget{"A": {PolicyNames: resource.PolicyNames{Timeout: "mine"}}},
		Components: map[string]resource.ComponentTarget{
			"c": {Inbound: resource.PolicyNames{Retry: "mine"}},
		},
	}))
	e := b.engine
	if p := e.App("other", "k"); maxOf(p) != 2 || p.Timeout() != time.Second || p.breaker == nil {
		t.Errorf("defaults of apps: %+v", p)
	}
	if p := e.App("a", "k"); maxOf(p) != 3 || p.HasTimeout() || p.breaker != nil {
		t.Errorf("an entry has no fallback: %+v", p)
	}
	if p := e.App("bare", "k"); p != nil || !e.HasApp("bare") || e.CoversApp("bare") {
		t.Errorf("an empty entry: %+v", p)
	}
	if e.HasApp("other") || !e.CoversApp("other") || !e.CoversApp("a") {
		t.Error("HasApp or CoversApp")
	}
	if p := e.Actor("other", "1"); maxOf(p) != 1 || p.HasTimeout() || p.breaker == nil || e.ActorTimeout("other") != 2*time.Second {
		t.Errorf("defaults of actors: %+v", p)
	}
	if p := e.Actor("A", "1"); p != nil || e.ActorTimeout("A") != 3*time.Second || !e.HasActor("A") || e.HasActor("other") {
		t.Errorf("an actor with a timeout: %+v", p)
	}
	if p := e.Component(Binding, "c", Outbound); p != nil {
		t.Errorf("a direction without policies: %+v", p)
	}
	if p := e.Component(Binding, "c", Inbound); maxOf(p) != 3 || p != e.Component(Binding, "c", Inbound) {
		t.Errorf("a direction with policies: %+v", p)
	}
	if p := e.Actor("other", "1"); p.breaker != e.Actor("other", "2").breaker || p.breaker == e.Actor("another", "1").breaker {
		t.Error("default breakers of actors are not by type")
	}
}

func TestMerge(t *testing.T) {
	one, two := 1, 2
	first := of(resource.Policies{
		Retries:  map[string]resource.Retry{"r": {MaxRetries: &one, Duration: "1m"}, "kept": {MaxRetries: &one}},
		Timeouts: map[string]string{"t": "1s"},
	}, resource.Targets{Apps: map[string]resource.AppTarget{
		"a": {PolicyNames: resource.PolicyNames{Retry: "r", Timeout: "t"}}, "b": {PolicyNames: resource.PolicyNames{Retry: "kept"}},
	}})
	second := of(resource.Policies{Retries: map[string]resource.Retry{"r": {MaxRetries: &two}}},
		resource.Targets{Apps: map[string]resource.AppTarget{"a": {PolicyNames: resource.PolicyNames{Retry: "r"}}}})
	second.Metadata.Name = "more"
	b := newBench(t, first, second)
	if p := b.engine.App("a", "k"); maxOf(p) != 2 || p.retry.duration != 5*time.Second || p.HasTimeout() {
		t.Errorf("not replaced as a whole: %+v", p.retry)
	}
	if p := b.engine.App("b", "k"); maxOf(p) != 1 || p.labels.Resource != "more" {
		t.Errorf("%+v", p)
	}
	if got := metricstest.Counted(t, b.metrics, "dapr_resiliency_loaded", "name"); got["rules"] != 1 || got["more"] != 1 {
		t.Errorf("loaded: %v", got)
	}
}

func TestInvalid(t *testing.T) {
	codes, blanks := "500", "500, 501"
	targets := resource.Targets{Apps: map[string]resource.AppTarget{"a": {PolicyNames: resource.PolicyNames{Timeout: "a", Retry: "a", CircuitBreaker: "a"}}}}
	good := func() resource.Policies {
		return resource.Policies{
			Timeouts:        map[string]string{"a": "1s"},
			Retries:         map[string]resource.Retry{"a": {Matching: resource.RetryMatching{HTTPStatusCodes: &codes}}},
			CircuitBreakers: map[string]resource.CircuitBreaker{"a": {}},
		}
	}
	for want, spoil := range map[string]func(*resource.Policies, *resource.Targets){
		`spec.policies.timeouts.b: invalid duration "soon"`:             func(p *resource.Policies, _ *resource.Targets) { p.Timeouts["b"] = "soon" },
		`spec.policies.retries.b.policy: invalid retry policy "linear"`: func(p *resource.Policies, _ *resource.Targets) { p.Retries["b"] = resource.Retry{Policy: "linear"} },
		`spec.policies.retries.b.duration: invalid duration "x"`:        func(p *resource.Policies, _ *resource.Targets) { p.Retries["b"] = resource.Retry{Duration: "x"} },
		`spec.policies.retries.b.maxInterval: invalid duration "x"`:     func(p *resource.Policies, _ *resource.Targets) { p.Retries["b"] = resource.Retry{MaxInterval: "x"} },
		`spec.policies.retries.b.matching.httpStatusCodes: invalid status`: func(p *resource.Policies, _ *resource.Targets) {
			p.Retries["b"] = resource.Retry{Matching: resource.RetryMatching{HTTPStatusCodes: &blanks}}
		},
		`spec.policies.retries.b.matching.gRPCStatusCodes: invalid status`: func(p *resource.Policies, _ *resource.Targets) {
			p.Retries["b"] = resource.Retry{Matching: resource.RetryMatching{GRPCStatusCodes: &codes}}
		},
		`spec.policies.circuitBreakers.b.interval: invalid duration "x"`: func(p *resource.Policies, _ *resource.Targets) {
			p.CircuitBreakers["b"] = resource.CircuitBreaker{Interval: "x"}
		},
		`spec.policies.circuitBreakers.b.timeout: invalid duration "x"`: func(p *resource.Policies, _ *resource.Targets) {
			p.CircuitBreakers["b"] = resource.CircuitBreaker{Timeout: "x"}
		},
		`spec.policies.circuitBreakers.b.maxRequests: invalid number -1`: func(p *resource.Policies, _ *resource.Targets) {
			p.CircuitBreakers["b"] = resource.CircuitBreaker{MaxRequests: -1}
		},
		`spec.policies.circuitBreakers.b.trip: invalid expression "requests >"`: func(p *resource.Policies, _ *resource.Targets) {
			p.CircuitBreakers["b"] = resource.CircuitBreaker{Trip: "requests >"}
		},
		`spec.targets.actors.b.circuitBreakerScope: invalid scope ""`: func(_ *resource.Policies, t *resource.Targets) {
			t.Actors = map[string]resource.ActorTarget{"b": {PolicyNames: resource.PolicyNames{CircuitBreaker: "a"}}}
		},
	} {
		p, spoilt := good(), targets
		spoil(&p, &spoilt)
		later := of(resource.Policies{}, targets) // refers to what is left of the first
		b := newBench(t, of(p, spoilt), later)
		if b.log.Count("ERROR Could not read resiliency policy rules: "+want) != 1 {
			t.Errorf("no %q in\n%s", want, b.log)
		}
		policy := b.engine.App("a", "k")
		stage := 1
		switch { // what comes before the error stays
		case strings.Contains(want, ".retries."):
			stage = 2
		case strings.Contains(want, ".circuitBreakers."), strings.Contains(want, ".targets."):
			stage = 3
		}
		if got := fmt.Sprint(policy.timeout > 0, policy.retry != nil, policy.choice.breaker != nil); got != fmt.Sprint(stage >= 1, stage >= 2, stage >= 3) {
			t.Errorf("%s: left are %s", want, got)
		}
	}
}

// TestUnknownNames: a name that no resource defines is as if it were not there, and said once.
func TestUnknownNames(t *testing.T) {
	names := resource.PolicyNames{Timeout: "fast", Retry: "many", CircuitBreaker: "fuse"}
	b := newBench(t, of(resource.Policies{Retries: retriesOf("manyy")}, resource.Targets{
		Apps:       map[string]resource.AppTarget{"a": {PolicyNames: names}},
		Actors:     map[string]resource.ActorTarget{"A": {PolicyNames: names, CircuitBreakerScope: "id"}},
		Components: map[string]resource.ComponentTarget{"c": {Inbound: names, Outbound: names}},
	}))
	e := b.engine
	for _, p := range []*Policy{e.App("a", "k"), e.Actor("A", "1"), e.Component(Binding, "c", Inbound), e.Component(Binding, "c", Outbound)} {
		if p != nil || call(p, errSick) != errSick {
			t.Errorf("%+v", p)
		}
	}
	if b.log.Count("which no resource defines") != 12 || b.log.Count(`targets.apps.a.retry is "many"`) != 1 || b.log.Count("did you mean manyy?") != 4 {
		t.Error(b.log)
	}
}

func TestKeys(t *testing.T) {
	names := resource.PolicyNames{CircuitBreaker: "p"}
	b := newBench(t, of(resource.Policies{CircuitBreakers: breakers(resource.CircuitBreaker{Trip: "totalFailures > 0"})}, resource.Targets{
		Apps: map[string]resource.AppTarget{"a": {PolicyNames: names, CircuitBreakerCacheSize: 2}, "other": {PolicyNames: names}},
		Actors: map[string]resource.ActorTarget{
			"T": {PolicyNames: names, CircuitBreakerScope: "type"}, "I": {PolicyNames: names, CircuitBreakerScope: "id"}, "B": {PolicyNames: names, CircuitBreakerScope: "both"},
		},
		Components: map[string]resource.ComponentTarget{"c": {Inbound: names, Outbound: names}},
	}))
	e := b.engine
	trip := func(p *Policy) {
		t.Helper()
		if err := call(p, errSick); err != errSick {
			t.Fatal(err)
		}
		if err := call(p, nil); err != ErrOpen {
			t.Fatal(err)
		}
	}
	works := func(p *Policy) {
		t.Helper()
		if err := call(p, nil); err != nil {
			t.Error(err)
		}
	}
	trip(e.App("a", "a:1"))
	works(e.App("a", "a:2"))
	works(e.App("other", "a:1"))
	if err := call(e.App("a", "a:1"), nil); err != ErrOpen {
		t.Error("forgotten too early")
	}
	works(e.App("a", "a:3")) // in place of a:2
	if err := call(e.App("a", "a:1"), nil); err != ErrOpen {
		t.Error("the one used last was forgotten")
	}
	works(e.App("a", "a:2"))
	works(e.App("a", "a:3"))
	works(e.App("a", "a:1")) // was forgotten

	trip(e.Actor("T", "1"))
	if err := call(e.Actor("T", "2"), nil); err != ErrOpen {
		t.Error("not by type")
	}
	trip(e.Actor("I", "1"))
	works(e.Actor("I", "2"))
	trip(e.Actor("B", "1"))
	works(e.Actor("B", "2"))

	trip(e.Component(Pubsub, "c", Inbound))
	works(e.Component(Pubsub, "c", Outbound))
	for _, line := range []string{`Circuit breaker "a:1" changed state from closed to open`, `Circuit breaker "T" changed`, `Circuit breaker "I-1" changed`, `Circuit breaker "c" changed`} {
		if b.log.Count(line) != 1 {
			t.Errorf("no %q in\n%s", line, b.log)
		}
	}
	got := metricstest.Counted(t, b.metrics, "dapr_resiliency_activations_total", "target", "flow_direction")
	for _, series := range []string{"app_a outbound", "actor_T outbound", "Pubsub_c inbound"} {
		if got[series] != 1 {
			t.Errorf("no activation of %s: %v", series, got)
		}
	}
}

// TestManyTargets: names that callers choose do not fill the memory.
func TestManyTargets(t *testing.T) {
	b := newBench(t, of(resource.Policies{CircuitBreakers: map[string]resource.CircuitBreaker{"DefaultCircuitBreakerPolicy": {}}}, resource.Targets{}))
	for i := range 3 * maxTargets {
		b.engine.App(fmt.Sprint("app", i), "k")
	}
	for i := range 3 * resource.DefaultAppBreakerCacheSize {
		b.engine.App("app", fmt.Sprint("k", i))
	}
	if n := len(b.engine.apps.entries); n != maxTargets || b.engine.apps.order.Len() != n {
		t.Errorf("%d apps", n)
	}
	app, _ := b.engine.apps.get("app")
	if n := len(app.breakers.entries); n != resource.DefaultAppBreakerCacheSize {
		t.Errorf("%d breakers", n)
	}
}

func TestBuiltIn(t *testing.T) {
	b := newBench(t)
	half := func() float64 { return 0.5 }
	for name, want := range map[BuiltIn]struct {
		max    int
		second time.Duration
		limit  time.Duration
	}{
		BuiltInServiceRetries:        {3, time.Second, 0},
		BuiltInActorRetries:          {3, time.Second, 0},
		BuiltInActorNotFoundRetries:  {5, time.Second, 0},
		BuiltInActorReminderRetries:  {-1, 750 * time.Millisecond, 15 * time.Minute},
		BuiltInInitializationRetries: {3, 750 * time.Millisecond, 10 * time.Second},
	} {
		p := b.engine.BuiltIn(name)
		if d, ok := p.retry.wait(1, 0, half); !ok || d != want.second || p.retry.max != want.max || p.retry.limit != want.limit {
			t.Errorf("%s: %+v", name, p.retry)
		}
		if d, ok := p.retry.wait(2, want.limit, half); want.limit > 0 && ok {
			t.Errorf("%s does not give up: %v", name, d)
		}
	}

	done := make(chan error, 1)
	calls := 0
	go func() {
		_, err := Run(t.Context(), b.engine.BuiltIn(BuiltInServiceRetries), failing(&calls, errSick, errSick, errSick, errSick))
		done <- err
	}()
	for range 3 {
		b.sleeper(1)
		b.clock.Advance(time.Second)
	}
	if err := await(t, done); err != errSick || calls != 4 {
		t.Errorf("%v after %d calls", err, calls)
	}
	if b.log.Count("Error processing operation DaprBuiltInServiceRetries. Retrying in 1s…") != 1 {
		t.Error(b.log)
	}
	if got := metricstest.Counted(t, b.metrics, "dapr_resiliency_count", "policy"); len(got) != 0 {
		t.Errorf("counted %v", got)
	}

	seven, two := 7, 2
	b = newBench(t, of(resource.Policies{Retries: map[string]resource.Retry{
		string(BuiltInServiceRetries):        {MaxRetries: &seven, Duration: "2s"},
		string(BuiltInActorRetries):          {MaxRetries: &two},
		string(BuiltInInitializationRetries): {},
		string(BuiltInActorNotFoundRetries):  {MaxRetries: &seven},
	}}, resource.Targets{}))
	for name, want := range map[BuiltIn]int{
		BuiltInServiceRetries: 7, BuiltInActorRetries: 3, BuiltInInitializationRetries: 3, BuiltInActorNotFoundRetries: 5, BuiltInActorReminderRetries: -1,
	} {
		if got := maxOf(b.engine.BuiltIn(name)); got != want {
			t.Errorf("%s: %d retries, want %d", name, got, want)
		}
	}
	if b.log.Count("WARN ") != 3 || b.log.Count("DaprBuiltInActorNotFoundRetries cannot be overridden") != 1 || b.log.Count("DaprBuiltInActorRetries has maxRetries 2") != 1 || b.log.Count("has maxRetries -1") != 1 {
		t.Error(b.log)
	}
}

// TestConcurrency is for the race detector.
func TestConcurrency(t *testing.T) {
	n := 2
	r := outbound(resource.Policies{
		Timeouts: timeouts("1ms"), Retries: retries(resource.Retry{Duration: "0", MaxRetries: &n}),
		CircuitBreakers: breakers(resource.CircuitBreaker{Trip: "requests > 20 && totalFailures * 2 > requests", Timeout: "1ms", MaxRequests: 2}),
	})
	r.Spec.Targets.Apps = map[string]resource.AppTarget{"a": {PolicyNames: resource.PolicyNames{Timeout: "p", Retry: "p", CircuitBreaker: "p"}, CircuitBreakerCacheSize: 3}}
	e := New(Options{Resources: []*resource.Resiliency{r}, Metrics: metricstest.New(t, "shop").Resiliency()})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for k := range 100 {
				p := e.Component(Statestore, "c", Outbound)
				if k%2 == 0 {
					p = e.App("a", fmt.Sprint("k", (i+k)%5))
				}
				err := call(p, map[bool]error{true: errSick}[k%3 == 0])
				if err != nil && !errors.Is(err, errSick) && err != ErrOpen && err != ErrTooManyRequests && err.Error() != "context deadline exceeded" {
					t.Errorf("%v", err)
				}
			}
		})
	}
	all.Wait()
	if err := e.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func BenchmarkPolicy(b *testing.B) {
	for _, tc := range []struct {
		name string
		p    resource.Policies
	}{
		{"none", resource.Policies{}},
		{"retry", resource.Policies{Retries: retries(resource.Retry{})}},
		{"breaker", resource.Policies{CircuitBreakers: breakers(resource.CircuitBreaker{})}},
		{"timeout", resource.Policies{Timeouts: timeouts("1h")}},
		{"all", resource.Policies{Retries: retries(resource.Retry{}), CircuitBreakers: breakers(resource.CircuitBreaker{}), Timeouts: timeouts("1h")}},
	} {
		b.Run(tc.name, func(b *testing.B) {
			e := New(Options{Resources: []*resource.Resiliency{outbound(tc.p)}, Metrics: metricstest.New(b, "shop").Resiliency()})
			p := e.Component(Statestore, "c", Outbound)
			b.ReportAllocs()
			for b.Loop() {
				if err := call(p, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
