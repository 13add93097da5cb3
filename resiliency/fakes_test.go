package resiliency

import (
	"context"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/resource"
	"outrigger.dev/telemetry/logging/logtest"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/metrics/metricstest"
)

// bench is an engine with everything around it.
type bench struct {
	t       testing.TB
	clock   *clockwork.FakeClock
	metrics *metrics.Metrics
	log     *logtest.Log
	engine  *Engine
}

// newBench makes an engine of resources; random numbers are 0.5, so that exponential waits are their base.
func newBench(t testing.TB, resources ...*resource.Resiliency) *bench {
	b := &bench{t: t, clock: clockwork.NewFakeClock(), metrics: metricstest.New(t, "shop"), log: new(logtest.Log)}
	b.engine = New(Options{
		Resources: resources, Clock: b.clock, Rand: func() float64 { return 0.5 },
		Metrics: b.metrics.Resiliency(), Log: b.log.Logger(),
	})
	return b
}

// of makes a resource of policies and targets.
func of(p resource.Policies, targets resource.Targets) *resource.Resiliency {
	r := &resource.Resiliency{Spec: resource.ResiliencySpec{Policies: p, Targets: targets}}
	r.Metadata.Name, r.Metadata.Namespace = "rules", "prod"
	return r
}

// outbound makes a resource whose policies, named p, are those of the calls to component c.
func outbound(p resource.Policies) *resource.Resiliency {
	names := resource.PolicyNames{}
	if len(p.Timeouts) > 0 {
		names.Timeout = "p"
	}
	if len(p.Retries) > 0 {
		names.Retry = "p"
	}
	if len(p.CircuitBreakers) > 0 {
		names.CircuitBreaker = "p"
	}
	return of(p, resource.Targets{Components: map[string]resource.ComponentTarget{"c": {Outbound: names}}})
}

func timeouts(d string) map[string]string { return map[string]string{"p": d} }

func retries(r resource.Retry) map[string]resource.Retry { return map[string]resource.Retry{"p": r} }

func breakers(c resource.CircuitBreaker) map[string]resource.CircuitBreaker {
	return map[string]resource.CircuitBreaker{"p": c}
}

// sleeper waits until n timers or tickers wait for the clock.
func (b *bench) sleeper(n int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.clock.BlockUntilContext(ctx, n); err != nil {
		b.t.Fatalf("no %d waits: %v", n, err)
	}
}

// logged tells whether the log has a text.
func (b *bench) logged(text string) bool { return b.log.Count(text) > 0 }

// await waits for a value.
func await[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("waited for too long")
		panic("unreachable")
	}
}
