package actors

import (
	"context"
	"errors"
	"testing"
	"time"

	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
)

func TestClose(t *testing.T) {
	b := newBench(t, builtIn)
	block := newBlocking()
	b.host.invoke = block.invoke
	began := make(chan string, 1)
	b.peers.call = func(ctx context.Context, _ mesh.Target, _ mesh.Actor, _ *invocation.Request) (*invocation.Response, error) {
		began <- ""
		<-ctx.Done()
		return nil, ctx.Err()
	}
	remoteAt(b, "remote")
	b.placement.change(func() {
		b.placement.moving = func(a address) bool { return a.id == "moves" }
	})
	const closed = "503 ERR_ACTOR_RUNTIME_CLOSED Unavailable: actor runtime is closed"
	const broken = "500 ERR_ACTOR_INVOKE_METHOD Internal: error invoke actor method: actor is closed, cannot handle block: the sidecar shuts down"
	running := b.start(context.Background(), "T", "1", "block")
	receive(t, "the turn", block.began)
	waits := b.start(context.Background(), "T", "1", "m")
	eventually(t, "the call waits", func() bool { return b.waiting("T", "1") == 1 })
	remote := b.start(context.Background(), "T", "remote", "m")
	receive(t, "the remote call", began)
	lookups := b.placement.lookups.Load()
	moves := b.start(context.Background(), "T", "moves", "m")
	eventually(t, "the look-up", func() bool { return b.placement.lookups.Load() > lookups })
	fromElsewhere := make(chan outcome, 1)
	go func() {
		_, err := b.CallActor(context.Background(), mesh.Actor{Type: "T", ID: "2"}, &invocation.Request{Method: "block"})
		fromElsewhere <- outcome{err: err}
	}()
	receive(t, "the turn", block.began)
	b.mustCall("R", "1", "m")

	if err := b.Close(context.Background()); err != nil {
		t.Errorf("Close: %v", err)
	}
	for name, c := range map[string]struct {
		result <-chan outcome
		want   []string
	}{
		// The built-in retries, which take the call up again, are over, too.
		"running": {running, []string{broken, closed}}, "waiting": {waits, []string{closed}}, "remote": {remote, []string{closed}},
		"looking up": {moves, []string{closed}}, "from elsewhere": {fromElsewhere, []string{closed}},
	} {
		o := receive(t, "the end of the call that is "+name, c.result)
		if got := asAPI(o.err); got != c.want[0] && got != c.want[len(c.want)-1] {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, id := range []string{"T/1", "T/2", "R/1"} {
		if !b.host.has("gone:" + id) {
			t.Errorf("%s was not deactivated", id)
		}
	}
	if got := asAPI(b.call(context.Background(), "T", "1", "m").err); got != closed {
		t.Errorf("got %s", got)
	}
	if got := asAPI(b.Await(context.Background())); got != closed {
		t.Errorf("got %s", got)
	}
	if _, err := b.Register(hosts(b.host, "X")); asAPI(err) != closed {
		t.Errorf("Register: %v", err)
	}
	if _, err := b.CallActor(context.Background(), mesh.Actor{Type: "T", ID: "1"}, &invocation.Request{Method: "m"}); asAPI(err) != closed {
		t.Errorf("CallActor: %v", err)
	}
	if b.placement.last() != "" {
		t.Errorf("advertised %q", b.placement.last())
	}
}

func TestCloseIsBounded(t *testing.T) {
	b := newBench(t)
	asked := make(chan string, 1)
	b.host.deactivate = func(ctx context.Context, _, id string) error {
		asked <- id
		<-ctx.Done()
		return ctx.Err()
	}
	b.mustCall("T", "1", "m")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Close(ctx) }()
	receive(t, "the deactivation", asked)
	b.pass(100*time.Millisecond, "the halt gives up waiting", func() bool { return b.clock.Since(b.began) > 3*time.Second })
	nothing(t, "the end of Close", done)
	cancel()
	if err := receive(t, "the end of Close", done); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v", err)
	}
}

func TestCloseWhileCallsWaitForARegistration(t *testing.T) {
	b := bare(t)
	waits := b.start(context.Background(), "T", "1", "m")
	if err := b.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := asAPI(receive(t, "the result", waits).err); got != "503 ERR_ACTOR_RUNTIME_CLOSED Unavailable: actor runtime is closed" {
		t.Errorf("got %s", got)
	}
}
