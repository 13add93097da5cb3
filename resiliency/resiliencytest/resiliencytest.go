// Package resiliencytest makes engines of resiliency policies for tests of what applies them.
package resiliencytest

import (
	"context"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/resiliency"
	"outrigger.dev/resource"
)

// Rules are the policies of a component in one direction.
type Rules struct {
	// Timeout is a duration; empty is none.
	Timeout string
	// Retry and Breaker may be nil.
	Retry   *resource.Retry
	Breaker *resource.CircuitBreaker
}

// Retries is a policy of so many retries without a wait.
func Retries(n int) *resource.Retry { return &resource.Retry{Duration: "0", MaxRetries: &n} }

// RetriesAfter is a policy of retries without end, each after a wait, which is a duration.
func RetriesAfter(wait string) *resource.Retry { return &resource.Retry{Duration: wait} }

// Matching is a policy of so many retries without a wait, of these status codes alone.
func Matching(n int, http, grpc string) *resource.Retry {
	r := Retries(n)
	r.Matching = resource.RetryMatching{HTTPStatusCodes: &http, GRPCStatusCodes: &grpc}
	return r
}

// Opens is a circuit breaker that opens after so many failures in a row.
func Opens(after string) *resource.CircuitBreaker {
	return &resource.CircuitBreaker{Trip: "consecutiveFailures >= " + after}
}

// New makes an engine with policies for the component. When the test ends, no attempt may be running any more. A nil clock is the
// system's.
func New(t testing.TB, clock clockwork.Clock, component string, inbound, outbound Rules) *resiliency.Engine {
	t.Helper()
	r := new(resource.Resiliency)
	p := &r.Spec.Policies
	p.Timeouts, p.Retries, p.CircuitBreakers = map[string]string{}, map[string]resource.Retry{}, map[string]resource.CircuitBreaker{}
	add := func(name string, rules Rules) (n resource.PolicyNames) {
		if rules.Timeout != "" {
			n.Timeout, p.Timeouts[name] = name, rules.Timeout
		}
		if rules.Retry != nil {
			n.Retry, p.Retries[name] = name, *rules.Retry
		}
		if rules.Breaker != nil {
			n.CircuitBreaker, p.CircuitBreakers[name] = name, *rules.Breaker
		}
		return n
	}
	target := resource.ComponentTarget{Inbound: add("in", inbound), Outbound: add("out", outbound)}
	r.Spec.Targets.Components = map[string]resource.ComponentTarget{component: target}
	e := resiliency.New(resiliency.Options{Resources: []*resource.Resiliency{r}, Clock: clock})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return e
}
