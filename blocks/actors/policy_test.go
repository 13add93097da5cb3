package actors

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/resiliency"
	"outrigger.dev/resiliency/resiliencytest"
	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/metrics/metricstest"
)

// targeting gives a runtime policies for type T.
func targeting(timeout string, retry *resource.Retry) func(*Options) {
	return targetingWith(timeout, retry, nil)
}

func targetingWith(timeout string, retry *resource.Retry, counted *metrics.Metrics) func(*Options) {
	return func(o *Options) {
		r := new(resource.Resiliency)
		target := resource.ActorTarget{}
		if timeout != "" {
			target.Timeout, r.Spec.Policies.Timeouts = "p", map[string]string{"p": timeout}
		}
		if retry != nil {
			target.Retry, r.Spec.Policies.Retries = "p", map[string]resource.Retry{"p": *retry}
		}
		r.Spec.Targets.Actors = map[string]resource.ActorTarget{"T": target}
		o.Resiliency = resiliency.New(resiliency.Options{Clock: o.Clock, Metrics: counted.Resiliency(), Resources: []*resource.Resiliency{r}})
	}
}

func TestRetryPolicy(t *testing.T) {
	withError := answer("actor error")
	withError.Header.Add(ErrorHeader, "true")
	for name, c := range map[string]struct {
		resp  *invocation.Response
		err   error
		calls int64
	}{
		"success":      {answer("ok"), nil, 1},
		"app error":    {nil, errors.New("error from actor service: (500) x"), 4},
		"error header": {withError, nil, 4},
		"not found":    {nil, fmt.Errorf("%w: x", ErrMethodNotFound), 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, targeting("", resiliencytest.Retries(3)))
			var calls atomic.Int64
			b.host.invoke = func(context.Context, *Call) (*invocation.Response, error) {
				calls.Add(1)
				return c.resp, c.err
			}
			o := b.call(context.Background(), "T", "1", "m")
			if calls.Load() != c.calls || c.resp != nil && (o.err != nil || o.text != string(c.resp.Body)) || c.resp == nil && o.err == nil {
				t.Errorf("%d calls, %+v", calls.Load(), o)
			}
		})
	}
	t.Run("remote not found", func(t *testing.T) {
		b := newBench(t, targeting("", resiliencytest.Retries(3)))
		remoteAt(b, "1")
		calls := 0
		b.peers.call = func(context.Context, mesh.Target, mesh.Actor, *invocation.Request) (*invocation.Response, error) {
			calls++
			return nil, status.Error(codes.Internal, "error invoke actor method: actor method not found: actors/T/1/method/m")
		}
		if o := b.call(context.Background(), "T", "1", "m"); calls != 1 || o.err == nil {
			t.Errorf("%d calls, %+v", calls, o)
		}
	})
}

func TestCloseEndsTheRetriesOfAPolicy(t *testing.T) {
	b := newBench(t, targeting("", resiliencytest.RetriesAfter("1h")))
	b.host.invoke = func(context.Context, *Call) (*invocation.Response, error) { return nil, errors.New("x") }
	call := b.start(context.Background(), "T", "1", "m")
	eventually(t, "the first attempt", func() bool { return b.host.has("-1/m") })
	if err := b.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := asAPI(receive(t, "the result", call).err); got != "503 ERR_ACTOR_RUNTIME_CLOSED Unavailable: actor runtime is closed" {
		t.Errorf("got %s", got)
	}
}

func TestPolicyTakesThePlaceOfBuiltInRetries(t *testing.T) {
	b := newBench(t, targeting("10s", nil))
	remoteAt(b, "1")
	calls := 0
	b.peers.call = func(context.Context, mesh.Target, mesh.Actor, *invocation.Request) (*invocation.Response, error) {
		calls++
		return nil, status.Error(codes.Unavailable, "no connection")
	}
	want := "500 ERR_ACTOR_INVOKE_METHOD Unavailable: error invoke actor method: rpc error: code = Unavailable desc = no connection | no connection"
	if got := asAPI(b.call(context.Background(), "T", "1", "m").err); got != want || calls != 1 {
		t.Errorf("%d calls, %s", calls, got)
	}
}

func TestTurnTimeout(t *testing.T) {
	counted := metricstest.New(t, "self")
	b := newBench(t, targetingWith("3s", nil, counted))
	block := newBlocking()
	b.host.invoke = block.invoke
	first := b.start(context.Background(), "T", "1", "block")
	receive(t, "the turn", block.began)
	second := b.start(context.Background(), "T", "1", "block")
	eventually(t, "the second call waits", func() bool { return b.waiting("T", "1") == 1 })
	const want = "500 ERR_ACTOR_INVOKE_METHOD Internal: error invoke actor method: context deadline exceeded"
	b.clock.Advance(3 * time.Second)
	if got := asAPI(receive(t, "the timeout", first).err); got != want {
		t.Errorf("got %s", got)
	}
	// The time that it waited for its turn does not count.
	receive(t, "the second turn", block.began)
	b.clock.Advance(2999 * time.Millisecond)
	nothing(t, "the second timeout", second)
	b.clock.Advance(time.Millisecond)
	if got := asAPI(receive(t, "the second timeout", second).err); got != want {
		t.Errorf("got %s", got)
	}
	b.host.remind = func(ctx context.Context, r *Reminder) error {
		block.began <- r.Name
		<-ctx.Done()
		return ctx.Err()
	}
	done := make(chan error, 1)
	go func() { done <- b.Remind(context.Background(), &Reminder{Type: "T", ID: "1", Name: "r"}) }()
	receive(t, "the reminder", block.began)
	b.clock.Advance(3 * time.Second)
	if err := receive(t, "the reminder's timeout", done); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	for _, name := range []string{"dapr_resiliency_count", "dapr_resiliency_activations_total"} {
		if got := metricstest.Counted(t, counted, name, "policy", "target"); got["timeout actor_T"] != 3 {
			t.Errorf("%s is %v, want 3 for the timeouts of T", name, got)
		}
	}
}
