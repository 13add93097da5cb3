package resiliency

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/telemetry/metrics"
)

// Refusals of circuit breakers. They end retrying at once (Dapr API, resiliency: circuit breakers).
var (
	// ErrOpen refuses a call while the circuit breaker is open.
	ErrOpen = errors.New("circuit breaker is open")
	// ErrTooManyRequests refuses a call while the circuit breaker is half-open and as many calls are running as it lets through.
	ErrTooManyRequests = errors.New("too many requests")
)

// coded is an error with a status code.
type coded struct {
	err  error
	code int
}

// Coded is err, which fails an operation, with the status it came with: a gRPC code from 0 to 16, or an HTTP status from 100 to 599;
// any other code is never retried. [Run] returns err itself if Coded is outermost. A nil error stays nil.
func Coded(err error, code int) error {
	if err == nil {
		return nil
	}
	return &coded{err, code}
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

// final is an error that is an answer.
type final struct{ err error }

// Final is err as the answer of a target that works: it is not retried and does not count as a failure of the target. [Run] returns
// err itself if Final is outermost. A nil error stays nil.
func Final(err error) error {
	if err == nil {
		return nil
	}
	return &final{err}
}

func (f *final) Error() string { return f.err.Error() }
func (f *final) Unwrap() error { return f.err }

// bare is the error that the operation wrapped.
func bare(err error) error {
	switch e := err.(type) {
	case *coded:
		return e.err
	case *final:
		return e.err
	}
	return err
}

func isFinal(err error) bool {
	_, ok := errors.AsType[*final](err)
	return ok
}

// Run calls op under a policy: retry(circuit breaker(timeout(op))) (Dapr API, resiliency: execution). It returns the value and the
// error of the last attempt, the error without [Coded] and [Final]. An attempt that was not made because of the circuit breaker has a
// zero value and [ErrOpen] or [ErrTooManyRequests]; one that took too long has a zero value and context.DeadlineExceeded. When ctx
// ends while waiting for a retry, Run returns at once with a zero value, and an error that is both ctx's and the last attempt's.
//
// A nil policy calls op, and nothing else. With a timeout op may still be running when Run returns: see [Policy.HasTimeout], and
// [RunRelease] for values that must be given back. A panic of op goes on in the caller of Run.
func Run[T any](ctx context.Context, p *Policy, op func(ctx context.Context) (T, error)) (T, error) {
	return RunWith(ctx, p, op, Hooks[T]{})
}

// Do is [Run] for operations without a value.
func Do(ctx context.Context, p *Policy, op func(ctx context.Context) error) error {
	if p == nil {
		return bare(op(ctx))
	}
	_, err := RunWith(ctx, p, func(ctx context.Context) (struct{}, error) { return struct{}{}, op(ctx) }, Hooks[struct{}]{})
	return err
}

// RunRelease is [Run] that hands every value of op that it does not return to release: those that a retry supersedes, and those of
// attempts that took too long, then perhaps from the goroutine of the attempt. A value that came with an error is no exception, and may be the
// zero value.
func RunRelease[T any](ctx context.Context, p *Policy, op func(ctx context.Context) (T, error), release func(T)) (T, error) {
	return RunWith(ctx, p, op, Hooks[T]{Again: release, Late: release})
}

// Hooks are what an operation wants to know of its attempts, or to say; the zero value is nothing.
type Hooks[T any] struct {
	// Again gets the value of an attempt that failed and will be followed by a retry, before the wait, in the goroutine of Run. It is
	// the zero value for one that took too long.
	Again func(T)
	// Late gets the value of an attempt that took too long, when it has ended: in its own goroutine, or in that of Run.
	Late func(T)
	// Stop ends retrying when it is closed, but not the attempt that is running: Run returns at once from a wait, with a zero value
	// and an error that is both ErrStopped and the last attempt's.
	Stop <-chan struct{}
	// Early cuts the wait before the first retry short when it is closed: what the operation failed for may be over.
	Early <-chan struct{}
}

// ErrStopped says that there was no retry because of [Hooks].Stop.
var ErrStopped = errors.New("retrying was stopped")

// RunWith is [Run] with hooks.
func RunWith[T any](ctx context.Context, p *Policy, op func(ctx context.Context) (T, error), h Hooks[T]) (T, error) {
	if p == nil {
		v, err := op(ctx)
		return v, bare(err)
	}
	r := p.begin()
	for {
		v, err := guarded(ctx, &r, op, h.Late)
		wait, again := r.next(ctx, err)
		if !again {
			return v, bare(err)
		}
		if h.Again != nil {
			h.Again(v)
		}
		if cut := p.engine.sleep(ctx, h.Stop, h.Early, wait); cut != nil {
			var none T
			return none, fmt.Errorf("%w while waiting for a retry after: %w", cut, bare(err))
		}
		h.Early = nil
	}
}

// run is the state of one [Run].
type run struct {
	*Policy
	began   time.Time
	retried int
	// timedOut is whether an attempt has.
	timedOut bool
}

// begin starts a run, which counts as a use of each policy.
func (p *Policy) begin() run {
	r := run{Policy: p}
	if p.retry != nil && p.retry.exponential {
		r.began = p.engine.clock.Now()
	}
	m := p.engine.metrics
	if m == nil || p.labels.Target == "" {
		return r
	}
	if p.retry != nil {
		m.Applied(p.labels, metrics.PolicyRetry, "")
	}
	if p.timeout > 0 {
		m.Applied(p.labels, metrics.PolicyTimeout, "")
	}
	if p.breaker != nil {
		state := p.breaker.current().String()
		m.Applied(p.labels, metrics.PolicyCircuitBreaker, state)
		m.BreakerState(p.labels, state)
	}
	return r
}

// next decides what follows an attempt: the wait before a retry, or the end.
func (r *run) next(ctx context.Context, err error) (wait time.Duration, again bool) {
	log := r.engine.log
	if err == nil || isFinal(err) {
		if r.retried > 0 {
			log.Info(fmt.Sprintf("Recovered processing operation %s after %d attempts", r.operation(), r.retried+1))
		}
		return 0, false
	}
	if r.retry == nil || errors.Is(err, ErrOpen) || errors.Is(err, ErrTooManyRequests) || ctx.Err() != nil {
		return 0, false
	}
	if c, ok := errors.AsType[*coded](err); ok && !r.retry.matches(c.code) {
		return 0, false
	}
	var elapsed time.Duration
	if r.retry.exponential {
		elapsed = r.engine.clock.Since(r.began)
	}
	if wait, again = r.retry.wait(r.retried, elapsed, r.engine.rand); !again {
		return 0, false
	}
	r.retried++
	if r.retried == 1 {
		log.Warn(fmt.Sprintf("Error processing operation %s. Retrying in %v…", r.operation(), wait), "error", err)
		if r.labels.Target != "" {
			r.engine.metrics.Activated(r.labels, metrics.PolicyRetry, "")
		}
	}
	return wait, true
}

// sleep waits, until early is closed at most. It returns at once, saying why, when ctx ends or stop is closed.
func (e *Engine) sleep(ctx context.Context, stop, early <-chan struct{}, d time.Duration) error {
	if d <= 0 {
		select {
		case <-stop:
			return ErrStopped
		default:
			return ctx.Err()
		}
	}
	timer := e.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return nil
	case <-early:
		return nil
	case <-stop:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// guarded makes an attempt if the circuit breaker lets it. A panic of op is a failure, and goes on.
func guarded[T any](ctx context.Context, r *run, op func(context.Context) (T, error), late func(T)) (v T, err error) {
	if r.breaker == nil {
		return limited(ctx, r, op, late)
	}
	generation, err := r.breaker.allow()
	if err != nil {
		return v, err
	}
	success := false
	defer func() { r.breaker.done(generation, success) }()
	v, err = limited(ctx, r, op, late)
	success = err == nil || isFinal(err)
	return v, err
}

// outcome is how an attempt ended in its goroutine.
type outcome[T any] struct {
	value T
	err   error
	panic any
}

// limited makes an attempt, which fails as soon as it has taken longer than the timeout or ctx has ended.
func limited[T any](ctx context.Context, r *run, op func(context.Context) (T, error), late func(T)) (v T, err error) {
	if r.timeout <= 0 {
		return op(ctx)
	}
	attempt, cancel := within(ctx, r.engine.clock, r.timeout)
	defer cancel()
	done := make(chan outcome[T], 1)
	var settled atomic.Bool // by whichever comes first: the end of op, or the end of the wait for it
	r.engine.calls.begin()
	r.calls.begin()
	go func() {
		defer r.engine.calls.end()
		defer r.calls.end()
		o := caught(attempt, op)
		switch {
		case settled.CompareAndSwap(false, true):
			done <- o
		case o.panic != nil:
			r.engine.log.Error("An operation panicked after its timeout", "target", r.name, "panic", o.panic)
		case late != nil:
			late(o.value)
		}
	}()
	var o outcome[T]
	select {
	case o = <-done:
	case <-attempt.Done():
		if settled.CompareAndSwap(false, true) {
			return v, r.late(ctx)
		}
		o = <-done
	}
	if o.panic != nil {
		panic(o.panic)
	}
	if o.err != nil && attempt.Err() != nil { // op noticed first
		if late != nil {
			late(o.value)
		}
		return v, r.late(ctx)
	}
	return o.value, o.err
}

// within is context.WithTimeout by a clock. clockwork's own is of no use: asking for its error waits for its end.
func within(ctx context.Context, clock clockwork.Clock, d time.Duration) (context.Context, context.CancelFunc) {
	if _, fake := clock.(*clockwork.FakeClock); !fake {
		return context.WithTimeout(ctx, d)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := clock.AfterFunc(d, func() { cancel(context.DeadlineExceeded) })
	return ctx, func() {
		timer.Stop()
		cancel(context.Canceled)
	}
}

// late is the error of an attempt that was given up.
func (r *run) late(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !r.timedOut {
		r.timedOut = true
		if r.labels.Target != "" {
			r.engine.metrics.Activated(r.labels, metrics.PolicyTimeout, "")
		}
	}
	return context.DeadlineExceeded
}

// panicked is a panic of op with the place where it happened, which is lost when another goroutine panics with it.
type panicked struct {
	value any
	stack []byte
}

func (p panicked) String() string { return fmt.Sprintf("%v\n%s", p.value, p.stack) }

// caught calls op and catches its panic: in a goroutine of its own it would end the process.
func caught[T any](ctx context.Context, op func(context.Context) (T, error)) (o outcome[T]) {
	finished := false
	defer func() {
		if !finished {
			o.panic = panicked{recover(), debug.Stack()}
		}
	}()
	o.value, o.err = op(ctx)
	finished = true
	return o
}

// Outlive is for an operation that sets up what lives on after it, such as a stream, so that a policy covers the setting up alone. It
// derives a context from that of the call (call, which Run was given), which also ends with attempt (which op was given) until settled
// is called. The operation makes its stream with the context, and calls settled before it returns: false says that the attempt has
// ended and the stream with it. Whoever ends the stream calls cancel; op does so itself when it fails.
func Outlive(call, attempt context.Context) (ctx context.Context, settled func() bool, cancel context.CancelFunc) {
	ctx, cancel = context.WithCancel(call)
	return ctx, context.AfterFunc(attempt, cancel), cancel
}
