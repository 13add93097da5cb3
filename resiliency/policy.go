package resiliency

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"outrigger.dev/telemetry/metrics"
)

// Policy is what applies to the calls of one target that share a circuit breaker. Its methods are safe for concurrent use, and on
// nil, which is no policy.
type Policy struct {
	*target
	// call tells the calls of the target apart: the key of an app's, the id of an actor.
	call    string
	breaker *breaker // nil for none
}

// operation names the calls in the log (Dapr API, resiliency: execution).
func (p *Policy) operation() string {
	switch p.kind {
	case appTarget:
		return "endpoint[" + p.name + ", " + p.call + "]"
	case actorTarget:
		return "actor[" + p.name + ", " + p.call + "]"
	}
	return p.name
}

// Retries tells whether a call may be made again: what it sends must be kept until it has ended.
func (p *Policy) Retries() bool { return p != nil && p.retry != nil && p.retry.max != 0 }

// HasTimeout tells whether attempts have a time limit. The operation then runs in another goroutine, may outlive [Run], and has a
// context that ends with the attempt: what it reads must stay valid (copy what lies in the buffer of a request), and what it returns
// must be complete (read a response's body to its end), or be made with [Outlive].
func (p *Policy) HasTimeout() bool { return p != nil && p.timeout > 0 }

// Timeout is the time limit of an attempt, 0 for none.
func (p *Policy) Timeout() time.Duration {
	if p == nil {
		return 0
	}
	return p.timeout
}

// Wait waits until no attempt at the policy's target is running any more that [Run] gave up because of its timeout; it fails when ctx
// ends first. Whoever closes a component waits first, once nobody can call Run any more.
func (p *Policy) Wait(ctx context.Context) error {
	if p == nil {
		return nil
	}
	return p.calls.wait(ctx)
}

// targetKind is what a target is.
type targetKind uint8

const (
	otherTarget targetKind = iota
	appTarget
	actorTarget
)

// target is what has policies: an app, an actor type, or a component in one direction.
type target struct {
	engine *Engine
	choice
	kind targetKind
	// name is the app or the actor type; for others how the log calls their operations.
	name string
	// labels are empty for built-in policies, which are not counted.
	labels metrics.ResiliencyTarget

	calls calls

	mu       sync.Mutex
	breakers *lru[*breaker] // by key, for apps and actors
}

func (e *Engine) labels(target string, dir Direction) metrics.ResiliencyTarget {
	return metrics.ResiliencyTarget{
		Resource: e.set.resource, Namespace: e.set.namespace, Target: target, Direction: strings.ToLower(string(dir)),
	}
}

// of returns the policy of the calls that share the circuit breaker of a key.
func (t *target) of(key, call string) *Policy {
	p := &Policy{target: t, call: call}
	if t.choice.breaker != nil {
		t.mu.Lock()
		p.breaker = t.breakers.findOrAdd(key, t.newBreaker)
		t.mu.Unlock()
	}
	return p
}

// newBreaker makes a circuit breaker whose changes are logged under a name.
func (t *target) newBreaker(name string) *breaker {
	return newBreaker(t.choice.breaker, t.engine.clock.Now, func(from, to state) {
		t.engine.log.Info(fmt.Sprintf("Circuit breaker %q changed state from %s to %s", name, from, to))
		t.engine.metrics.Activated(t.labels, metrics.PolicyCircuitBreaker, to.String())
		t.engine.metrics.BreakerState(t.labels, to.String())
	})
}

// calls counts attempts that run in goroutines of their own.
type calls struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n falls to 0; nil while nobody waits
}

func (c *calls) begin() {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
}

func (c *calls) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
	if c.n == 0 && c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}

func (c *calls) wait(ctx context.Context) error {
	c.mu.Lock()
	if c.n == 0 {
		c.mu.Unlock()
		return nil
	}
	if c.idle == nil {
		c.idle = make(chan struct{})
	}
	idle := c.idle
	c.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		return fmt.Errorf("%d calls under a resiliency timeout have not ended although they were cancelled: %w", c.n, ctx.Err())
	}
}
