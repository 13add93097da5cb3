package resiliency

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics/metricstest"
)

var errSick = errors.New("the target is sick")

// failing is an operation that fails with the errors, and succeeds after them. Its value is the number of the call.
func failing(calls *int, errs ...error) func(context.Context) (int, error) {
	return func(context.Context) (int, error) {
		*calls++
		if *calls <= len(errs) {
			return *calls, errs[*calls-1]
		}
		return *calls, nil
	}
}

func TestNoPolicy(t *testing.T) {
	calls := 0
	if v, err := Run(t.Context(), nil, failing(&calls, Coded(errSick, 503))); v != 1 || err != errSick {
		t.Errorf("%d, %v", v, err)
	}
	if err := Do(t.Context(), nil, func(context.Context) error { return Final(errSick) }); err != errSick {
		t.Error(err)
	}
	ctx := t.Context()
	op := func(context.Context) (int, error) { return 1, nil }
	if n := testing.AllocsPerRun(100, func() { _, _ = Run(ctx, nil, op) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var p *Policy
	if p.Retries() || p.HasTimeout() || p.Timeout() != 0 || p.Wait(ctx) != nil {
		t.Error("no policy does something")
	}
	if Coded(nil, 1) != nil || Final(nil) != nil {
		t.Error("success became an error")
	}
}

func TestRetry(t *testing.T) {
	two, none := 2, 0
	for _, tc := range []struct {
		name  string
		retry resource.Retry
		errs  []error
		calls int
		err   error
	}{
		{"success at once", resource.Retry{Duration: "0"}, nil, 1, nil},
		{"success after failures", resource.Retry{Duration: "0"}, []error{errSick, errSick, errSick}, 4, nil},
		{"exhausted", resource.Retry{Duration: "0", MaxRetries: &two}, []error{errSick, errSick, Coded(errSick, 500), nil}, 3, errSick},
		{"no retries", resource.Retry{Duration: "0", MaxRetries: &none}, []error{errSick}, 1, errSick},
		{"final", resource.Retry{Duration: "0"}, []error{errSick, Final(errSick)}, 2, errSick},
		{"the breaker of another call", resource.Retry{Duration: "0"}, []error{ErrOpen}, 1, ErrOpen},
		{"too many requests of another call", resource.Retry{Duration: "0"}, []error{ErrTooManyRequests}, 1, ErrTooManyRequests},
		{"a code that is none", resource.Retry{Duration: "0"}, []error{Coded(errSick, 42)}, 1, errSick},
		{"a code without a list", resource.Retry{Duration: "0"}, []error{Coded(errSick, 404), Coded(errSick, 5)}, 3, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, outbound(resource.Policies{Retries: retries(tc.retry)}))
			p := b.engine.Component(Statestore, "c", Outbound)
			calls := 0
			v, err := Run(t.Context(), p, failing(&calls, tc.errs...))
			if err != tc.err || v != tc.calls || calls != tc.calls {
				t.Errorf("%d and %v after %d calls, want %v after %d", v, err, calls, tc.err, tc.calls)
			}
			if want := tc.retry.MaxRetries != &none; p.Retries() != want {
				t.Errorf("Retries is not %v", want)
			}
		})
	}
}

func TestMatching(t *testing.T) {
	httpCodes, grpcCodes, empty := "429,500-599", "14,1-3", ",,"
	b := newBench(t, outbound(resource.Policies{Retries: retries(resource.Retry{
		Duration: "0", Matching: resource.RetryMatching{HTTPStatusCodes: &httpCodes, GRPCStatusCodes: &grpcCodes},
	})}))
	p := b.engine.Component(Statestore, "c", Outbound)
	for code, again := range map[int]bool{
		429: true, 500: true, 599: true, 428: false, 404: false, 600: false, 99: false, 100: false,
		0: false, 1: true, 3: true, 4: false, 14: true, 16: false, 17: false, -1: false,
	} {
		calls := 0
		_, err := Run(t.Context(), p, failing(&calls, Coded(errSick, code)))
		if (calls == 2) != again || (err == nil) != again {
			t.Errorf("code %d: %d calls, %v", code, calls, err)
		}
	}
	calls := 0
	if _, err := Run(t.Context(), p, failing(&calls, fmt.Errorf("around: %w", Coded(errSick, 404)))); calls != 1 || !errors.Is(err, errSick) {
		t.Errorf("wrapped code: %d calls, %v", calls, err)
	}
	b = newBench(t, outbound(resource.Policies{Retries: retries(resource.Retry{
		Duration: "0", Matching: resource.RetryMatching{HTTPStatusCodes: &empty},
	})}))
	calls = 0
	if _, err := Run(t.Context(), b.engine.Component(Statestore, "c", Outbound), failing(&calls, Coded(errSick, 404))); err != nil {
		t.Errorf("a list without items: %v", err)
	}
}

// TestConstantWaits: the log, the metrics and the waits of a run.
func TestConstantWaits(t *testing.T) {
	b := newBench(t, outbound(resource.Policies{Retries: retries(resource.Retry{})}))
	done := make(chan error, 1)
	calls := 0
	go func() {
		_, err := Run(t.Context(), b.engine.Component(Statestore, "c", Outbound), failing(&calls, errSick, errSick))
		done <- err
	}()
	for range 2 {
		b.sleeper(1)
		b.clock.Advance(5*time.Second - 1)
		b.sleeper(1)
		b.clock.Advance(1)
	}
	if err := await(t, done); err != nil || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
	for _, line := range []string{
		"WARN Error processing operation component[c] output. Retrying in 5s… error=the target is sick",
		"INFO Recovered processing operation component[c] output after 3 attempts",
	} {
		if b.log.Count(line) != 1 {
			t.Errorf("no %q in\n%s", line, b.log)
		}
	}
	labels := []string{"name", "namespace", "policy", "flow_direction", "target", "status"}
	for name, want := range map[string]map[string]float64{
		"dapr_resiliency_count":             {"rules prod retry outbound Statestore_c ": 1},
		"dapr_resiliency_activations_total": {"rules prod retry outbound Statestore_c ": 1},
		"dapr_resiliency_loaded":            {"rules prod    ": 1},
	} {
		if got := metricstest.Counted(t, b.metrics, name, labels...); !maps.Equal(got, want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestExponentialWaits(t *testing.T) {
	r, err := parseRetry(&resource.Retry{Policy: "Exponential", MaxInterval: "2s"})
	if err != nil {
		t.Fatal(err)
	}
	half := func() float64 { return 0.5 }
	for i, want := range []time.Duration{500, 750, 1125, 1687, 2000, 2000} {
		if d, ok := r.wait(i, 0, half); !ok || d.Truncate(time.Millisecond) != want*time.Millisecond {
			t.Errorf("wait %d is %v, %v", i, d, ok)
		}
	}
	for random, want := range map[float64]time.Duration{0: 250 * time.Millisecond, 0.5: 500 * time.Millisecond, 1: 750 * time.Millisecond} {
		if d, _ := r.wait(0, 0, func() float64 { return random }); d != want {
			t.Errorf("with %v: %v", random, d)
		}
	}
	if d, _ := r.wait(1000, 0, func() float64 { return 1 }); d != 2*time.Second {
		t.Errorf("over the interval: %v", d)
	}
	if _, ok := r.wait(1, 15*time.Minute-750*time.Millisecond, half); !ok {
		t.Error("gave up too early")
	}
	if _, ok := r.wait(1, 15*time.Minute-749*time.Millisecond, half); ok {
		t.Error("did not give up after 15 minutes")
	}
	if r, err = parseRetry(&resource.Retry{Policy: "exponential", MaxInterval: "100"}); err != nil {
		t.Fatal(err)
	}
	if d, _ := r.wait(0, 0, half); d != 100*time.Millisecond {
		t.Errorf("the first wait is over the interval: %v", d)
	}
}

// TestExponentialLimit: the limit counts from the first try, and is that of the run.
func TestExponentialLimit(t *testing.T) {
	b := newBench(t, outbound(resource.Policies{Retries: retries(resource.Retry{Policy: "exponential"})}))
	p := b.engine.Component(Statestore, "c", Outbound)
	for range 2 {
		began, calls := b.clock.Now(), 0
		_, err := Run(t.Context(), p, func(context.Context) (int, error) {
			calls++
			b.clock.Advance(15 * time.Minute)
			return 0, errSick
		})
		if err != errSick || calls != 1 || b.clock.Since(began) != 15*time.Minute {
			t.Errorf("%v after %d calls", err, calls)
		}
	}
}

func TestCancelledWait(t *testing.T) {
	b := newBench(t, outbound(resource.Policies{Retries: retries(resource.Retry{})}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	released := make(chan int, 2)
	go func() {
		v, err := RunRelease(ctx, b.engine.Component(Statestore, "c", Outbound), func(context.Context) (int, error) { return 7, Coded(errSick, 503) }, func(v int) { released <- v })
		if v != 0 {
			t.Errorf("value %d", v)
		}
		done <- err
	}()
	b.sleeper(1)
	if v := await(t, released); v != 7 {
		t.Errorf("released %d", v)
	}
	cancel()
	if err := await(t, done); !errors.Is(err, context.Canceled) || !errors.Is(err, errSick) {
		t.Error(err)
	}

	calls := 0
	if _, err := Run(ctx, b.engine.Component(Statestore, "c", Outbound), failing(&calls, errSick)); err != errSick || calls != 1 {
		t.Errorf("without a context: %v after %d calls", err, calls)
	}
}

func TestStop(t *testing.T) {
	for _, duration := range []string{"5s", "0"} {
		b := newBench(t, outbound(resource.Policies{Retries: retries(resource.Retry{Duration: duration})}))
		stop := make(chan struct{})
		done := make(chan error, 1)
		var calls atomic.Int32
		go func() {
			_, err := RunWith(t.Context(), b.engine.Component(Pubsub, "c", Outbound), func(context.Context) (int, error) {
				calls.Add(1)
				if duration == "0" {
					close(stop)
				}
				return 0, errSick
			}, Hooks[int]{Stop: stop})
			done <- err
		}()
		if duration != "0" {
			b.sleeper(1)
			close(stop)
		}
		if err := await(t, done); !errors.Is(err, ErrStopped) || !errors.Is(err, errSick) || calls.Load() != 1 {
			t.Errorf("%s: %v after %d calls", duration, err, calls.Load())
		}
	}
}

func TestEarly(t *testing.T) {
	two := 2
	b := newBench(t, outbound(resource.Policies{Retries: retries(resource.Retry{Duration: "5s", MaxRetries: &two})}))
	early := make(chan struct{})
	done := make(chan error, 1)
	calls := make(chan int)
	go func() {
		n := 0
		_, err := RunWith(t.Context(), b.engine.Component(Pubsub, "c", Outbound), func(context.Context) (int, error) {
			n++
			calls <- n
			return 0, errSick
		}, Hooks[int]{Early: early})
		done <- err
	}()
	await(t, calls)
	b.sleeper(1)
	close(early) // cuts the first wait, and no other
	await(t, calls)
	b.sleeper(1)
	select {
	case <-calls:
		t.Error("no second wait")
	default:
	}
	b.clock.Advance(5 * time.Second)
	if n := await(t, calls); n != 3 {
		t.Errorf("call %d", n)
	}
	if err := await(t, done); err != errSick {
		t.Error(err)
	}
}

func TestTimeout(t *testing.T) {
	one := 1
	b := newBench(t, outbound(resource.Policies{
		Timeouts: timeouts("1s"), Retries: retries(resource.Retry{Duration: "0", MaxRetries: &one}),
	}))
	p := b.engine.Component(Statestore, "c", Outbound)
	if !p.HasTimeout() || p.Timeout() != time.Second {
		t.Errorf("timeout %v", p.Timeout())
	}
	started, finish, late := make(chan context.Context, 2), make(chan struct{}), make(chan int, 2)
	done := make(chan error, 1)
	go func() {
		v, err := RunRelease(t.Context(), p, func(ctx context.Context) (int, error) {
			started <- ctx
			<-finish // deaf to its context
			return 7, nil
		}, func(v int) { late <- v })
		if v != 0 {
			t.Errorf("value %d", v)
		}
		done <- err
	}()
	for range 2 {
		ctx := await(t, started)
		b.sleeper(1)
		b.clock.Advance(time.Second)
		<-ctx.Done()
	}
	if err := await(t, done); err != context.DeadlineExceeded {
		t.Error(err)
	}
	if v := await(t, late); v != 0 { // of the first attempt, which a retry superseded
		t.Errorf("released %d", v)
	}

	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.engine.Close(ended); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "2 calls") {
		t.Errorf("close with running calls: %v", err)
	}
	if err := p.Wait(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("wait with running calls: %v", err)
	}
	closed := make(chan error, 2)
	go func() { closed <- b.engine.Close(t.Context()) }()
	go func() { closed <- p.Wait(t.Context()) }()
	close(finish)
	for range 2 {
		if err := await(t, closed); err != nil {
			t.Error(err)
		}
		if v := await(t, late); v != 7 {
			t.Errorf("released %d", v)
		}
	}
	if got := metricstest.Counted(t, b.metrics, "dapr_resiliency_activations_total", "policy"); !maps.Equal(got, map[string]float64{"timeout": 1, "retry": 1}) {
		t.Errorf("activations %v", got)
	}
}

// TestTimeoutNoticed: an operation that ends because of the timeout fails with the timeout, whatever it says.
func TestTimeoutNoticed(t *testing.T) {
	b := newBench(t, outbound(resource.Policies{Timeouts: timeouts("20")}))
	done := make(chan error, 1)
	go func() {
		done <- Do(t.Context(), b.engine.Component(Statestore, "c", Outbound), func(ctx context.Context) error {
			<-ctx.Done()
			return errSick
		})
	}()
	b.sleeper(1)
	b.clock.Advance(20 * time.Millisecond)
	if err := await(t, done); err != context.DeadlineExceeded {
		t.Error(err)
	}
	if err := Do(t.Context(), b.engine.Component(Statestore, "c", Outbound), func(context.Context) error { return errSick }); err != errSick {
		t.Errorf("in time: %v", err)
	}
	if err := b.engine.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCallerGone: with a timeout, a call ends at once when its caller has gone.
func TestCallerGone(t *testing.T) {
	b := newBench(t, outbound(resource.Policies{Timeouts: timeouts("1h"), Retries: retries(resource.Retry{})}))
	ctx, cancel := context.WithCancel(t.Context())
	finish := make(chan struct{})
	defer close(finish)
	if err := Do(ctx, b.engine.Component(Statestore, "c", Outbound), func(context.Context) error {
		cancel()
		<-finish
		return nil
	}); err != context.Canceled {
		t.Error(err)
	}
}

func TestPanic(t *testing.T) {
	for _, p := range []resource.Policies{
		{Timeouts: timeouts("1h")},
		{CircuitBreakers: breakers(resource.CircuitBreaker{Trip: "totalFailures > 0"})},
		{Timeouts: timeouts("1h"), CircuitBreakers: breakers(resource.CircuitBreaker{Trip: "totalFailures > 0"})},
	} {
		b := newBench(t, outbound(p))
		policy := b.engine.Component(Statestore, "c", Outbound)
		func() {
			defer func() {
				if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "broken") {
					t.Errorf("recovered %v", r)
				}
			}()
			_ = Do(t.Context(), policy, func(context.Context) error { panic("broken") })
		}()
		if err := Do(t.Context(), policy, func(context.Context) error { return nil }); (err == ErrOpen) != (p.CircuitBreakers != nil) {
			t.Errorf("after a panic: %v", err)
		}
	}

	b := newBench(t, outbound(resource.Policies{Timeouts: timeouts("1s")}))
	started, finish, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- Do(t.Context(), b.engine.Component(Statestore, "c", Outbound), func(context.Context) error {
			close(started)
			<-finish
			panic("broken late")
		})
	}()
	<-started
	b.sleeper(1)
	b.clock.Advance(time.Second)
	if err := await(t, done); err != context.DeadlineExceeded {
		t.Error(err)
	}
	close(finish)
	if err := b.engine.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if !b.logged("broken late") {
		t.Error("the panic is lost")
	}
}

func TestOutlive(t *testing.T) {
	b := newBench(t, outbound(resource.Policies{Timeouts: timeouts("1s")}))
	p := b.engine.Component(Statestore, "c", Outbound)
	var cancel context.CancelFunc
	stream, err := Run(t.Context(), p, func(attempt context.Context) (context.Context, error) {
		ctx, settled, stop := Outlive(t.Context(), attempt)
		cancel = stop
		if !settled() {
			return nil, errSick
		}
		return ctx, nil
	})
	if err != nil || stream.Err() != nil {
		t.Fatalf("%v, %v", err, stream)
	}
	cancel()
	<-stream.Done()

	done := make(chan error, 1)
	go func() {
		_, err := Run(t.Context(), p, func(attempt context.Context) (context.Context, error) {
			ctx, settled, stop := Outlive(t.Context(), attempt)
			defer stop()
			<-ctx.Done() // the setting up does not end by itself
			if settled() {
				t.Error("settled after the timeout")
			}
			return nil, ctx.Err()
		})
		done <- err
	}()
	b.sleeper(1)
	b.clock.Advance(time.Second)
	if err := await(t, done); err != context.DeadlineExceeded {
		t.Error(err)
	}
}
