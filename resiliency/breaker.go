package resiliency

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"outrigger.dev/resource"
)

// state is the state of a circuit breaker.
type state uint8

const (
	closed state = iota
	halfOpen
	open
)

func (s state) String() string {
	switch s {
	case closed:
		return "closed"
	case halfOpen:
		return "half-open"
	case open:
		return "open"
	}
	return "unknown"
}

// template is a circuit breaker policy, of which circuit breakers are made.
type template struct {
	// maxRequests are let through while half-open, and must succeed to close.
	maxRequests uint64
	interval    time.Duration // 0 is never
	timeout     time.Duration
	trip        func(counts) bool
}

func parseTemplate(source *resource.CircuitBreaker) (*template, error) {
	if source.MaxRequests < 0 {
		return nil, fmt.Errorf("maxRequests: invalid number %d: use 1 or more", source.MaxRequests)
	}
	t := &template{maxRequests: uint64(source.MaxRequestsOrDefault())}
	var err error
	if t.interval, err = resource.ParsePolicyDuration(source.Interval, 0); err != nil {
		return nil, fmt.Errorf("interval: %w", err)
	}
	if t.timeout, err = resource.ParsePolicyDuration(source.Timeout, resource.DefaultBreakerTimeout); err != nil {
		return nil, fmt.Errorf("timeout: %w", err)
	}
	if t.timeout <= 0 {
		t.timeout = resource.DefaultBreakerTimeout
	}
	expression := strings.TrimSpace(source.TripOrDefault())
	if t.trip, err = compileTrip(expression); err != nil {
		return nil, fmt.Errorf("trip: invalid expression %q: %w", expression, err)
	}
	return t, nil
}

// counts are of the calls since the last change of state, or since the interval began.
type counts struct {
	requests, totalSuccesses, totalFailures, consecutiveSuccesses, consecutiveFailures uint64
}

func (c *counts) succeeded() {
	c.totalSuccesses++
	c.consecutiveSuccesses++
	c.consecutiveFailures = 0
}

func (c *counts) failed() {
	c.totalFailures++
	c.consecutiveFailures++
	c.consecutiveSuccesses = 0
}

// breaker is a circuit breaker: see [Run].
type breaker struct {
	*template
	now func() time.Time
	// changed is told of changes of state, without a lock held.
	changed func(from, to state)

	mu         sync.Mutex
	state      state
	generation uint64 // renewed when the counts are
	counts     counts
	expiry     time.Time // of the interval while closed, of the timeout while open; zero is never
}

func newBreaker(t *template, now func() time.Time, changed func(from, to state)) *breaker {
	b := &breaker{template: t, now: now, changed: changed}
	b.renew(now())
	return b
}

// allow asks to make a call, and returns the generation that is to be handed to done after it.
func (b *breaker) allow() (generation uint64, err error) {
	now := b.now()
	b.mu.Lock()
	from := b.state
	to := b.advance(now)
	switch {
	case to == open:
		err = ErrOpen
	case to == halfOpen && b.counts.requests >= b.maxRequests:
		err = ErrTooManyRequests
	default:
		b.counts.requests++
	}
	generation = b.generation
	b.mu.Unlock()
	b.tell(from, to)
	return generation, err
}

// done says how a call ended. Results of calls that began before the last change are ignored.
func (b *breaker) done(generation uint64, success bool) {
	now := b.now()
	b.mu.Lock()
	from := b.state
	to := b.advance(now)
	if generation != b.generation {
		b.mu.Unlock()
		b.tell(from, to)
		return
	}
	switch {
	case success:
		b.counts.succeeded()
		if b.state == halfOpen && b.counts.consecutiveSuccesses >= b.maxRequests {
			b.set(closed, now)
		}
	case b.state == halfOpen:
		b.set(open, now)
	default:
		b.counts.failed()
		if b.state == closed && b.trip(b.counts) {
			b.set(open, now)
		}
	}
	to = b.state
	b.mu.Unlock()
	b.tell(from, to)
}

// current is the state at this time.
func (b *breaker) current() state {
	now := b.now()
	b.mu.Lock()
	from := b.state
	to := b.advance(now)
	b.mu.Unlock()
	b.tell(from, to)
	return to
}

// advance lets time pass: the interval of the counts, the timeout of an open breaker. The caller holds mu.
func (b *breaker) advance(now time.Time) state {
	if b.expiry.IsZero() || now.Before(b.expiry) {
		return b.state
	}
	switch b.state {
	case closed:
		b.renew(now)
	case open:
		b.set(halfOpen, now)
	}
	return b.state
}

func (b *breaker) set(s state, now time.Time) {
	b.state = s
	b.renew(now)
}

// renew clears the counts. The caller holds mu, or is the only one to know b.
func (b *breaker) renew(now time.Time) {
	b.generation++
	b.counts = counts{}
	b.expiry = time.Time{}
	switch {
	case b.state == closed && b.interval > 0:
		b.expiry = now.Add(b.interval)
	case b.state == open:
		b.expiry = now.Add(b.timeout)
	}
}

func (b *breaker) tell(from, to state) {
	if from != to {
		b.changed(from, to)
	}
}
