package resiliency

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics/metricstest"
)

// call makes a call that ends with err.
func call(p *Policy, err error) error {
	return Do(context.Background(), p, func(context.Context) error { return err })
}

func TestBreaker(t *testing.T) {
	b := newBench(t, outbound(resource.Policies{CircuitBreakers: breakers(resource.CircuitBreaker{})}))
	p := b.engine.Component(Statestore, "c", Outbound)
	for i := range 5 {
		if err := call(p, errSick); err != errSick {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if err := call(p, Final(errSick)); err != errSick { // is a success: the failures in a row begin anew
		t.Fatal(err)
	}
	for i := range 6 {
		if err := call(p, errSick); err != errSick {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if err := call(p, nil); err != ErrOpen {
		t.Fatalf("after 6 failures in a row: %v", err)
	}
	b.clock.Advance(60*time.Second - 1)
	if err := call(p, nil); err != ErrOpen {
		t.Fatalf("before the timeout: %v", err)
	}
	b.clock.Advance(1)
	if err := call(p, errSick); err != errSick { // half-open: opens again
		t.Fatal(err)
	}
	if err := call(p, nil); err != ErrOpen {
		t.Fatalf("after a failure while half-open: %v", err)
	}
	b.clock.Advance(time.Minute)
	if err := call(p, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 5 { // the counts began anew
		if err := call(p, errSick); err != errSick {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	for line, n := range map[string]int{
		`INFO Circuit breaker "c" changed state from closed to open`:      1,
		`INFO Circuit breaker "c" changed state from open to half-open`:   2,
		`INFO Circuit breaker "c" changed state from half-open to open`:   1,
		`INFO Circuit breaker "c" changed state from half-open to closed`: 1,
	} {
		if b.log.Count(line) != n {
			t.Errorf("not %d times %q in\n%s", n, line, b.log)
		}
	}
	if got, want := metricstest.Counted(t, b.metrics, "dapr_resiliency_activations_total", "policy", "status"), map[string]float64{
		"circuitbreaker open": 2, "circuitbreaker half-open": 2, "circuitbreaker closed": 1,
	}; !maps.Equal(got, want) {
		t.Errorf("activations %v, want %v", got, want)
	}
	if got, want := metricstest.Counted(t, b.metrics, "dapr_resiliency_count", "policy", "status"), map[string]float64{
		"circuitbreaker closed": 12 + 5, "circuitbreaker open": 3, "circuitbreaker half-open": 2,
	}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	if got, want := gauges(t, b), map[string]float64{"closed": 1, "half-open": 0, "open": 0, "unknown": 0}; !maps.Equal(got, want) {
		t.Errorf("states %v, want %v", got, want)
	}
}

// gauges reads the states of the circuit breaker.
func gauges(t *testing.T, b *bench) map[string]float64 {
	t.Helper()
	families, err := b.metrics.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "dapr_resiliency_cb_state" {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "status" {
						got[l.GetValue()] = m.GetGauge().GetValue()
					}
				}
			}
		}
	}
	return got
}

func TestBreakerEndsRetries(t *testing.T) {
	b := newBench(t, outbound(resource.Policies{
		Retries: retries(resource.Retry{Duration: "0"}), CircuitBreakers: breakers(resource.CircuitBreaker{Trip: "consecutiveFailures >= 3"}),
	}))
	calls := 0
	v, err := Run(t.Context(), b.engine.Component(Statestore, "c", Outbound), func(context.Context) (int, error) {
		calls++
		return 7, errSick
	})
	if err != ErrOpen || v != 0 || calls != 3 {
		t.Errorf("%d and %v after %d calls", v, err, calls)
	}
}

func TestHalfOpen(t *testing.T) {
	b := newBench(t, outbound(resource.Policies{
		CircuitBreakers: breakers(resource.CircuitBreaker{MaxRequests: 2, Timeout: "1s", Trip: "totalFailures == 1"}),
	}))
	p := b.engine.Component(Statestore, "c", Outbound)
	if err := call(p, errSick); err != errSick {
		t.Fatal(err)
	}
	b.clock.Advance(time.Second)
	// Two at a time are let through, and both must succeed.
	if err := Do(t.Context(), p, func(context.Context) error {
		return Do(t.Context(), p, func(context.Context) error {
			if err := call(p, nil); err != ErrTooManyRequests {
				t.Errorf("the third: %v", err)
			}
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	if b.log.Count("half-open to closed") != 1 {
		t.Error("not closed after two successes")
	}

	// What began before a change does not count after it.
	if err := Do(t.Context(), p, func(context.Context) error {
		if err := call(p, errSick); err != errSick { // opens
			t.Error(err)
		}
		b.clock.Advance(time.Second)
		if err := call(p, nil); err != nil { // half-open, the first success
			t.Error(err)
		}
		return errSick
	}); err != errSick {
		t.Fatal(err)
	}
	if err := call(p, nil); err != nil || b.log.Count("half-open to closed") != 2 {
		t.Errorf("a late failure counted: %v\n%s", err, b.log)
	}
}

func TestInterval(t *testing.T) {
	b := newBench(t, outbound(resource.Policies{
		CircuitBreakers: breakers(resource.CircuitBreaker{Interval: "10s", Trip: "totalFailures >= 2"}),
	}))
	p := b.engine.Component(Statestore, "c", Outbound)
	for range 3 {
		if err := call(p, errSick); err != errSick {
			t.Fatal(err)
		}
		b.clock.Advance(10 * time.Second) // clears the counts
	}
	for range 2 {
		if err := call(p, errSick); err != errSick {
			t.Fatal(err)
		}
	}
	if err := call(p, nil); err != ErrOpen {
		t.Error(err)
	}
}

func TestBreakerCounts(t *testing.T) {
	b := newBench(t, outbound(resource.Policies{
		Timeouts: timeouts("1s"), CircuitBreakers: breakers(resource.CircuitBreaker{Trip: "totalFailures == 2"}),
	}))
	p := b.engine.Component(Statestore, "c", Outbound)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Do(gone, p, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	done, finish := make(chan error, 1), make(chan struct{})
	go func() { done <- Do(t.Context(), p, func(context.Context) error { <-finish; return nil }) }()
	b.sleeper(1)
	b.clock.Advance(time.Second)
	if err := await(t, done); err != context.DeadlineExceeded {
		t.Fatal(err)
	}
	close(finish)
	if err := call(p, nil); err != ErrOpen {
		t.Errorf("a cancelled caller and a timeout are not two failures: %v", err)
	}
	if err := b.engine.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTrip(t *testing.T) {
	some := counts{requests: 10, totalSuccesses: 4, totalFailures: 6, consecutiveSuccesses: 0, consecutiveFailures: 6}
	for expression, want := range map[string]bool{
		"consecutiveFailures > 5":   true,
		" consecutiveFailures > 5 ": true,
		"consecutiveFailures > 6":   false,
		"consecutiveFailures>5":     true,
		"requests == 10 && totalSuccesses == 4 && totalFailures == 6 && consecutiveSuccesses == 0": true,
		"totalFailures * 2 > requests":                    true,
		"double(totalFailures) / double(requests) >= 0.6": true,
		"true":                                true,
		"requests":                            false, // no truth value
		"'true'":                              false,
		"unknown > 3":                         false,
		"unknown.field == 'x' || false":       false,
		"requests / consecutiveSuccesses > 1": false, // a division by zero
		"[1, 2].exists(x, x > 1)":             true,
	} {
		b, err := parseTemplate(&resource.CircuitBreaker{Trip: expression})
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		if got := b.trip(some); got != want {
			t.Errorf("%s is %v", expression, got)
		}
	}
	for _, expression := range []string{"requests >", "requests > 'x'", "nothing(requests)"} {
		if _, err := parseTemplate(&resource.CircuitBreaker{Trip: expression}); err == nil {
			t.Errorf("%s was taken", expression)
		}
	}
	if b, err := parseTemplate(&resource.CircuitBreaker{}); err != nil || !b.trip(counts{consecutiveFailures: 6}) || b.trip(counts{consecutiveFailures: 5}) {
		t.Errorf("the default: %v", err)
	}
}
