package actors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/mesh/placement"
	"outrigger.dev/resiliency"
)

func TestLocalCall(t *testing.T) {
	b := newBench(t)
	var seen Call
	b.host.invoke = func(ctx context.Context, call *Call) (*invocation.Response, error) {
		seen = *call
		return answer("hello"), nil
	}
	if got := b.mustCall("T", "1", "greet", ReentrancyHeader, "client's"); got != "hello" {
		t.Errorf("got %q", got)
	}
	if seen.ReentrancyID != "" || seen.Remote || string(seen.Request.Header.Get(ReentrancyHeader)) != "client's" {
		t.Errorf("the host saw %+v", seen)
	}
	if s := b.Status(); fmt.Sprint(s.Active) != "[{R 0} {T 1}]" {
		t.Errorf("status %+v", s)
	}
	b.mustCall("T", "1", "again")
	if n := b.placement.lookups.Load(); n != 1 {
		t.Errorf("%d look-ups; an actor that is active here needs none", n)
	}
}

func TestTurnsOfOneActor(t *testing.T) {
	b := newBench(t)
	block := newBlocking()
	b.host.invoke = block.invoke
	first := b.start(context.Background(), "T", "1", "block")
	receive(t, "the first turn", block.began)
	ctx, cancel := context.WithCancel(context.Background())
	var calls []<-chan outcome
	for i := range 4 {
		c := context.Background()
		if i == 1 || i == 3 {
			c = ctx
		}
		calls = append(calls, b.start(c, "T", "1", fmt.Sprint(i)))
		eventually(t, "the call waits", func() bool { return b.waiting("T", "1") == i+1 })
	}
	b.mustCall("T", "2", "other") // other actors go on
	cancel()
	for _, i := range []int{1, 3} {
		o := receive(t, "the end of the cancelled call", calls[i])
		if got := asAPI(o.err); got != "500 ERR_ACTOR_INVOKE_METHOD Internal: error invoke actor method: context canceled" {
			t.Errorf("got %s", got)
		}
	}
	if b.host.has("+1/0") || b.host.has("+1/2") {
		t.Fatal("a turn began because a call that waited was cancelled")
	}
	close(block.let)
	for i, want := range map[int]string{0: "0", 2: "2"} {
		if o := receive(t, "the result", calls[i]); o.text != want || o.err != nil {
			t.Errorf("call %d: %+v", i, o)
		}
	}
	receive(t, "the result", first)
	if got := b.host.records(); !strings.HasSuffix(got, "-1/block +1/0 -1/0 +1/2 -1/2") {
		t.Errorf("turns: %s", got)
	}
}

// TestTurnOutlivesItsCaller cancels the caller of a turn that its host has in hand, as a client does that hangs up, or a sidecar that dies: the
// host is left in peace, and the actor has no other turn before the host is done. Nobody could tell when an HTTP app is done that was broken off.
func TestTurnOutlivesItsCaller(t *testing.T) {
	b := newBench(t)
	began, let, ended := make(chan string, 2), make(chan struct{}), make(chan error, 2)
	b.host.invoke = func(ctx context.Context, call *Call) (*invocation.Response, error) {
		began <- call.Method
		<-let
		ended <- ctx.Err()
		return answer(call.Method), nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	first := b.start(ctx, "T", "1", "first")
	receive(t, "the first turn", began)
	second := b.start(context.Background(), "T", "1", "second")
	eventually(t, "the second call waits", func() bool { return b.waiting("T", "1") == 1 })
	cancel()
	nothing(t, "a second turn", began)
	close(let)
	if err := receive(t, "the end of the first turn", ended); err != nil {
		t.Errorf("the first turn was broken off: %v", err)
	}
	receive(t, "the second turn", began)
	receive(t, "the end of the second turn", ended)
	receive(t, "the first result", first)
	if o := receive(t, "the second result", second); o.err != nil || o.text != "second" {
		t.Errorf("%+v", o)
	}
}

// TestAbandonedTurn: a host that hangs does not keep its actor for ever, once its caller has gone.
func TestAbandonedTurn(t *testing.T) {
	b := newBench(t)
	began := make(chan string, 2)
	b.host.invoke = func(ctx context.Context, call *Call) (*invocation.Response, error) {
		began <- call.Method
		if call.Method == "hangs" {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		return answer(call.Method), nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	first := b.start(ctx, "T", "1", "hangs")
	receive(t, "the first turn", began)
	second := b.start(context.Background(), "T", "1", "second")
	eventually(t, "the second call waits", func() bool { return b.waiting("T", "1") == 1 })
	b.clock.Advance(10 * abandonedFor) // somebody is waiting for it
	nothing(t, "a second turn", began)
	cancel()
	eventually(t, "the first turn is broken off", func() bool {
		b.clock.Advance(abandonedFor)
		return b.waiting("T", "1") == 0
	})
	if o := receive(t, "the first result", first); o.err == nil {
		t.Error("the turn that hung has a result")
	}
	if o := receive(t, "the second result", second); o.err != nil || o.text != "second" {
		t.Errorf("%+v", o)
	}
}

func TestReentrancy(t *testing.T) {
	b := newBench(t)
	var id atomic.Value
	b.host.invoke = func(ctx context.Context, call *Call) (*invocation.Response, error) {
		if call.Method == "outer" {
			id.Store(call.ReentrancyID)
			o := b.call(ctx, "R", "1", "inner", ReentrancyHeader, call.ReentrancyID)
			return answer(o.text), o.err
		}
		return answer(call.ReentrancyID), nil
	}
	inner := b.mustCall("R", "1", "outer")
	if inner == "" || inner != id.Load() {
		t.Errorf("inner id %q, outer %q", inner, id.Load())
	}
	if got := b.mustCall("R", "1", "x", ReentrancyHeader, "mine"); got != "mine" {
		t.Errorf("id %q", got)
	}
	if got := b.mustCall("R", "1", "x"); got == inner || len(got) != 36 {
		t.Errorf("id %q", got)
	}
}

func TestStackDepth(t *testing.T) {
	b := newBench(t)
	block := newBlocking()
	b.host.invoke = block.invoke
	var calls []<-chan outcome
	for range DefaultMaxStackDepth {
		calls = append(calls, b.start(context.Background(), "R", "1", "block", ReentrancyHeader, "id"))
		receive(t, "the call", block.began)
	}
	for range 3 {
		o := b.call(context.Background(), "R", "1", "block", ReentrancyHeader, "id")
		if got := asAPI(o.err); got != "500 ERR_ACTOR_STACK_DEPTH ResourceExhausted: maximum stack depth exceeded" {
			t.Errorf("got %s", got)
		}
		_, err := b.CallActor(context.Background(), mesh.Actor{Type: "R", ID: "1"}, reentrant("block", "id"))
		if got := status.Convert(err); got.Code() != codes.ResourceExhausted || got.Message() != "maximum stack depth exceeded" {
			t.Errorf("got %v", got)
		}
	}
	close(block.let)
	for _, c := range calls {
		if o := receive(t, "the result", c); o.err != nil {
			t.Error(o.err)
		}
	}
	b.mustCall("R", "1", "after") // the turn has ended in spite of the refusals
}

func reentrant(method, id string) *invocation.Request {
	req := &invocation.Request{Method: method}
	req.Header.Add(ReentrancyHeader, id)
	return req
}

func TestAppErrors(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"not found": {
			fmt.Errorf("%w: actors/T/1/method/m", ErrMethodNotFound),
			"500 ERR_ACTOR_INVOKE_METHOD Internal: error invoke actor method: actor method not found: actors/T/1/method/m",
		},
		"status": {
			errors.New("error from actor service: (500) oops"),
			"500 ERR_ACTOR_INVOKE_METHOD Internal: error invoke actor method: error from actor service: (500) oops",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b.host.invoke = func(context.Context, *Call) (*invocation.Response, error) { return nil, c.err }
			if got := asAPI(b.call(context.Background(), "T", "1", "m").err); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			_, err := b.CallActor(context.Background(), mesh.Actor{Type: "T", ID: "1"}, &invocation.Request{Method: "m"})
			if got := status.Convert(err); got.Code() != codes.Internal || got.Message() != invokePrefix+c.err.Error() {
				t.Errorf("for another sidecar: %v", got)
			}
		})
	}
}

func remoteAt(b *bench, id string) {
	b.placement.change(func() {
		b.placement.elsewhere[address{"T", id}] = placement.Owner{Address: "10.0.0.2:50002", AppID: "other"}
	})
}

func TestRemoteCall(t *testing.T) {
	b := newBench(t)
	remoteAt(b, "1")
	b.peers.call = func(_ context.Context, target mesh.Target, actor mesh.Actor, req *invocation.Request) (*invocation.Response, error) {
		want := mesh.Target{Address: "10.0.0.2:50002", AppID: "other", Namespace: "ns"}
		if target != want || actor != (mesh.Actor{Type: "T", ID: "1"}) || req.Method != "m" || string(req.Body) != "body" {
			t.Errorf("target %+v, actor %+v, request %+v", target, actor, req)
		}
		resp := answer("remote")
		resp.Header.Add(ErrorHeader, "true")
		return resp, nil
	}
	resp, err := b.Invoke(context.Background(), &Call{Type: "T", ID: "1", Method: "m", Request: &invocation.Request{Body: []byte("body")}})
	if err != nil || string(resp.Body) != "remote" || resp.Header.Get(ErrorHeader) == nil {
		t.Errorf("got %+v, %v", resp, err)
	}
	if b.instance("T", "1") != nil {
		t.Error("an instance was made")
	}
}

// builtIn gives a runtime an engine without resources, which has the built-in retries.
func builtIn(o *Options) { o.Resiliency = resiliency.New(resiliency.Options{Clock: o.Clock}) }

func TestRemoteErrors(t *testing.T) {
	moved := status.Error(codes.Internal, "error invoke actor method: remote actor moved")
	for name, c := range map[string]struct {
		err     error
		retries int
		want    string
	}{
		"unavailable": {
			status.Error(codes.Unavailable, "no connection"), 5,
			"500 ERR_ACTOR_INVOKE_METHOD Unavailable: error invoke actor method: failed to invoke target 10.0.0.2:50002 after 5 retries. Error: rpc error: code = Unavailable desc = no connection" +
				" | failed to invoke target 10.0.0.2:50002 after 5 retries. Error: rpc error: code = Unavailable desc = no connection",
		},
		"moved": {
			moved, 5,
			"500 ERR_ACTOR_INVOKE_METHOD Internal: error invoke actor method: failed to invoke target 10.0.0.2:50002 after 5 retries. Error: " + moved.Error() +
				" | failed to invoke target 10.0.0.2:50002 after 5 retries. Error: " + moved.Error(),
		},
		"disseminating": {
			status.Error(codes.Internal, "error invoke actor method: x: placement is disseminating"), 5, "",
		},
		"the app's": {
			status.Error(codes.Internal, "error invoke actor method: error from actor service: (500) x"), 0,
			"500 ERR_ACTOR_INVOKE_METHOD Internal: error invoke actor method: rpc error: code = Internal desc = error invoke actor method: error from actor service: (500) x" +
				" | error invoke actor method: error from actor service: (500) x",
		},
		"stack depth": {
			status.Error(codes.ResourceExhausted, "maximum stack depth exceeded"), 0,
			"500 ERR_ACTOR_INVOKE_METHOD ResourceExhausted: error invoke actor method: rpc error: code = ResourceExhausted desc = maximum stack depth exceeded" +
				" | maximum stack depth exceeded",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, builtIn)
			remoteAt(b, "1")
			var calls atomic.Int64
			b.peers.call = func(context.Context, mesh.Target, mesh.Actor, *invocation.Request) (*invocation.Response, error) {
				calls.Add(1)
				return nil, c.err
			}
			var o outcome
			took := b.pass(100*time.Millisecond, "the call's end", got(b.start(context.Background(), "T", "1", "m"), &o))
			if got := asAPI(o.err); c.want != "" && got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if n := int(calls.Load()) - 1; n != c.retries || took < time.Duration(c.retries)*time.Second {
				t.Errorf("%d retries in %v, want %d", n, took, c.retries)
			}
		})
	}
}

func TestRemoteActorComesBack(t *testing.T) {
	b := newBench(t, builtIn)
	remoteAt(b, "1")
	b.peers.call = func(context.Context, mesh.Target, mesh.Actor, *invocation.Request) (*invocation.Response, error) {
		b.placement.change(func() { delete(b.placement.elsewhere, address{"T", "1"}) })
		return nil, status.Error(codes.Internal, "error invoke actor method: remote actor moved")
	}
	// The newer table is there already: no time has to pass.
	if o := receive(t, "the call's end", b.start(context.Background(), "T", "1", "m")); o.err != nil || o.text != "m" {
		t.Errorf("got %+v", o)
	}
}

func TestNoHost(t *testing.T) {
	const text = "failed to lookup actor: api error: code = FailedPrecondition desc = did not find address for actor 'X/1'"
	for name, types := range map[string]map[string]TypeConfig{"nobody": nil, "suspended": {"X": DefaultTypeConfig()}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, builtIn)
			b.SetStore(false)
			b.register(Hosting{Host: new(fakeHost), Types: types})
			var o outcome
			took := b.pass(100*time.Millisecond, "the call's end", got(b.start(context.Background(), "X", "1", "m"), &o))
			if got, want := asAPI(o.err), "500 ERR_ACTOR_INVOKE_METHOD FailedPrecondition: error invoke actor method: "+text+" | "+text; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if took < 5*time.Second || took > 6*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	t.Run("look-up fails", func(t *testing.T) {
		b := newBench(t)
		b.placement.failing = placement.ErrNoHosts
		want := "500 ERR_ACTOR_INVOKE_METHOD Internal: error invoke actor method: failed to lookup actor: no hosts added"
		if got := asAPI(b.call(context.Background(), "X", "1", "m").err); got != want {
			t.Errorf("got %s", got)
		}
	})
}

func TestCallsDoNotPassWithoutPlacement(t *testing.T) {
	b := newBench(t, func(o *Options) { o.PlacementConfigured = false })
	want := "400 ERR_ACTOR_NO_PLACEMENT Unavailable: placement service is not configured"
	if got := asAPI(b.call(context.Background(), "T", "1", "m").err); got != want {
		t.Errorf("got %s", got)
	}
	if got := asAPI(b.Await(context.Background())); got != want {
		t.Errorf("got %s", got)
	}
	if got := asAPI(b.Remind(context.Background(), &Reminder{Type: "T", ID: "1"})); got != want {
		t.Errorf("got %s", got)
	}
	if b.Hosts("T") || b.placement.last() != "-" {
		t.Error("something is hosted")
	}
}

func TestHostPanicEndsTheTurn(t *testing.T) {
	b := newBench(t)
	b.host.invoke = func(context.Context, *Call) (*invocation.Response, error) { panic("oops") }
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic did not come through")
			}
		}()
		b.call(context.Background(), "T", "1", "m")
	}()
	b.host.invoke = nil
	b.mustCall("T", "1", "m")
}
