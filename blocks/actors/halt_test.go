package actors

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/mesh/placement"
	"outrigger.dev/telemetry/logging/logtest"
	"outrigger.dev/telemetry/metrics/metricstest"
)

// move begins the move of T/1 to another sidecar: the new table is installed, but not in force.
func (b *bench) move() {
	a := address{"T", "1"}
	b.placement.change(func() {
		b.placement.moving = func(x address) bool { return x == a }
		b.placement.elsewhere[a] = placement.Owner{Address: "10.0.0.2:50002", AppID: "other"}
	})
}

// settle puts the table in force.
func (b *bench) settle() { b.placement.change(func() { b.placement.moving = nil }) }

func (b *bench) stays(actorType, id string) bool { return actorType != "T" || id != "1" }

func TestMoveDrains(t *testing.T) {
	b := newBench(t)
	block := newBlocking()
	b.host.invoke = block.invoke
	b.peers.call = func(context.Context, mesh.Target, mesh.Actor, *invocation.Request) (*invocation.Response, error) {
		return answer("from there"), nil
	}
	running := b.start(context.Background(), "T", "1", "block")
	receive(t, "the turn", block.began)
	other := b.start(context.Background(), "T", "2", "block")
	receive(t, "the other actor's turn", block.began)
	queued := b.start(context.Background(), "T", "1", "queued")
	eventually(t, "the call waits", func() bool { return b.waiting("T", "1") == 1 })

	lookups := b.placement.lookups.Load()
	b.move()
	halted := b.halting(b.stays)
	eventually(t, "the call that waited looks again", func() bool { return b.placement.lookups.Load() == lookups+1 })
	late := b.start(context.Background(), "T", "1", "late")
	eventually(t, "a new call looks, too", func() bool { return b.placement.lookups.Load() == lookups+2 })
	release, ok := b.Enter("T", "1")
	if !ok {
		t.Fatal("the turn that drains cannot use its state")
	}
	b.mustCall("T", "3", "unconcerned")
	nothing(t, "the end of Halt", halted)
	if b.host.has("gone:T/1") {
		t.Fatal("deactivated in the middle of a turn")
	}

	close(block.let)
	if o := receive(t, "the turn's result", running); o.err != nil || o.text != "let go" {
		t.Errorf("the turn: %+v", o)
	}
	nothing(t, "the end of Halt", halted) // the state call is still there
	release()
	release() // does nothing
	receive(t, "the end of Halt", halted)
	if !b.host.has("gone:T/1") || b.instance("T", "1") != nil {
		t.Errorf("not deactivated: %s", b.host.records())
	}
	if _, ok := b.Enter("T", "1"); ok {
		t.Error("the state of an actor that is gone can be used")
	}
	nothing(t, "the result of a call before the move is settled", queued)
	b.settle()
	for _, c := range []<-chan outcome{queued, late} {
		if o := receive(t, "the result", c); o.err != nil || o.text != "from there" {
			t.Errorf("got %+v", o)
		}
	}
	if o := receive(t, "the other actor's result", other); o.err != nil || b.host.has("gone:T/2") {
		t.Errorf("the actor that stays: %+v, %s", o, b.host.records())
	}
}

func TestMoveBetweenLookupAndInstance(t *testing.T) {
	b := newBench(t)
	b.peers.call = func(context.Context, mesh.Target, mesh.Actor, *invocation.Request) (*invocation.Response, error) {
		return answer("from there"), nil
	}
	var once sync.Once
	b.placement.meanwhile = func() {
		once.Do(func() {
			b.move()
			b.Halt(context.Background(), b.stays) // finds nothing
		})
	}
	call := b.start(context.Background(), "T", "1", "m")
	eventually(t, "the actor is looked up again", func() bool { return b.placement.lookups.Load() == 2 })
	if b.instance("T", "1") != nil || b.host.records() != "" {
		t.Fatal("an instance was made of an actor that had moved")
	}
	b.settle()
	if o := receive(t, "the result", call); o.err != nil || o.text != "from there" {
		t.Errorf("got %+v", o)
	}
}

func TestLookupThatContradictsTheTable(t *testing.T) {
	b := newBench(t)
	a := address{"T", "1"}
	b.placement.meanwhile = func() { b.placement.change(func() { b.placement.moving = func(x address) bool { return x == a } }) }
	calm := make(chan struct{})
	go func() { // it is settled whenever it is looked up, and moves at once
		for {
			select {
			case <-calm:
				return
			default:
				b.settle()
			}
		}
	}()
	o := receive(t, "the result", b.start(context.Background(), "T", "1", "m"))
	close(calm)
	// Depending on who is quicker it works or ends with an error that is tried again; it does not go round for ever.
	if o.err != nil && !passing(o.err) {
		t.Errorf("got %v", o.err)
	}
}

func TestReentrantCallWhileDraining(t *testing.T) {
	b := newBench(t)
	begun, goOn := make(chan string), make(chan struct{})
	b.host.invoke = func(ctx context.Context, call *Call) (*invocation.Response, error) {
		if call.Method == "inner" {
			return answer("joined"), nil
		}
		begun <- call.ReentrancyID
		<-goOn
		// By way of another sidecar, whose table is older.
		resp, err := b.CallActor(ctx, mesh.Actor{Type: "R", ID: "1"}, reentrant("inner", call.ReentrancyID))
		if err != nil {
			return nil, err
		}
		o := b.call(ctx, "R", "1", "inner", ReentrancyHeader, call.ReentrancyID)
		return answer(string(resp.Body) + " " + o.text), o.err
	}
	outer := b.start(context.Background(), "R", "1", "outer")
	receive(t, "the turn", begun)
	b.placement.change(func() { b.placement.moving = func(address) bool { return true } })
	halted := b.halting(nil)
	eventually(t, "it drains", func() bool { p, _ := b.phaseOf("R", "1"); return p == draining })
	close(goOn)
	if o := receive(t, "the result", outer); o.err != nil || o.text != "joined joined" {
		t.Errorf("got %+v", o)
	}
	receive(t, "the end of Halt", halted)
}

func TestDrainTimeout(t *testing.T) {
	for _, cancel := range []bool{false, true} {
		t.Run(fmt.Sprint("cancel ", cancel), func(t *testing.T) {
			b := bare(t, builtIn)
			b.host = new(fakeHost)
			c := DefaultTypeConfig()
			c.DrainTimeout = 7 * time.Second
			b.register(Hosting{Host: b.host, Types: map[string]TypeConfig{"T": c}, CancelRebalanced: cancel})
			block := newBlocking()
			causes := make(chan error, 10)
			b.host.invoke = func(ctx context.Context, call *Call) (*invocation.Response, error) {
				resp, err := block.invoke(ctx, call)
				causes <- context.Cause(ctx)
				return resp, err
			}
			b.peers.call = func(context.Context, mesh.Target, mesh.Actor, *invocation.Request) (*invocation.Response, error) {
				return answer("again"), nil
			}
			running := b.start(context.Background(), "T", "1", "block")
			receive(t, "the turn", block.began)
			b.move()
			halted := b.halting(b.stays)
			want := "the actor was halted on this sidecar, and drainRebalancedActors is false"
			if !cancel {
				want = "the actor was halted on this sidecar, and its turn did not end within 7s"
				eventually(t, "it drains", func() bool { p, _ := b.phaseOf("T", "1"); return p == draining })
				if took := b.pass(500*time.Millisecond, "the end of Halt", got(halted, new(struct{}))); took < 7*time.Second || took > 9*time.Second {
					t.Errorf("Halt took %v", took)
				}
			}
			receive(t, "the end of Halt", halted)
			if cause := receive(t, "the end of the turn", causes); cause == nil || cause.Error() != want {
				t.Errorf("cause %v", cause)
			}
			b.settle()
			// The call that was broken off is made again where the actor is now.
			var o outcome
			b.pass(100*time.Millisecond, "the result", got(running, &o))
			if o.err != nil || o.text != "again" {
				t.Errorf("got %+v", o)
			}
			if !b.host.has("gone:T/1") {
				t.Error("not deactivated")
			}
		})
	}
}

func TestBrokenOffCallText(t *testing.T) {
	b := newBench(t)
	block := newBlocking()
	b.host.invoke = block.invoke
	running := b.start(context.Background(), "T", "1", "block")
	receive(t, "the turn", block.began)
	remote := make(chan error, 1)
	go func() {
		_, err := b.CallActor(context.Background(), mesh.Actor{Type: "T", ID: "2"}, &invocation.Request{Method: "block"})
		remote <- err
	}()
	receive(t, "the remote turn", block.began)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b.Halt(ctx, nil) // nobody waits
	want := "500 ERR_ACTOR_INVOKE_METHOD Internal: error invoke actor method: actor is closed, cannot handle block: " +
		"the actor was halted on this sidecar, and its turn did not end within 2s"
	if got := asAPI(receive(t, "the result", running).err); got != want {
		t.Errorf("got %s", got)
	}
	want = "500 ERR_ACTOR_INVOKE_METHOD Internal: error invoke actor method: remote actor moved"
	if got := asAPI(receive(t, "the remote result", remote)); got != want {
		t.Errorf("got %s", got)
	}
}

func TestTurnThatDoesNotHeedItsContext(t *testing.T) {
	b := newBench(t)
	begun, let := make(chan string), make(chan struct{})
	b.host.invoke = func(_ context.Context, call *Call) (*invocation.Response, error) {
		if call.Method == "stubborn" {
			begun <- ""
			<-let
		}
		return answer(call.Method), nil
	}
	stubborn := b.start(context.Background(), "T", "1", "stubborn")
	receive(t, "the turn", begun)
	halted := b.halting(nil)
	if took := b.pass(100*time.Millisecond, "the end of Halt", got(halted, new(struct{}))); took < 3*time.Second || took > 5*time.Second {
		t.Errorf("Halt took %v", took)
	}
	if b.host.has("gone:T/1") {
		t.Error("deactivated in the middle of a turn")
	}
	if _, ok := b.Enter("T", "1"); ok {
		t.Error("a turn that was given up may use the actor's state")
	}
	// The actor can be used here again after a while, and is not deactivated when the old turn ends.
	next := b.start(context.Background(), "T", "1", "next")
	var o outcome
	if took := b.pass(100*time.Millisecond, "the next result", got(next, &o)); o.err != nil || took > blockFor+time.Second {
		t.Errorf("%+v after %v", o, took)
	}
	close(let)
	receive(t, "the stubborn turn", stubborn)
	eventually(t, "nothing is left to do", func() bool {
		k := b.kind("T")
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.workers == 0 && len(k.waiting) == 0
	})
	if b.host.has("gone:T/1") {
		t.Error("the new instance was deactivated")
	}
	b.mustCall("T", "1", "x")
}

// An app that is gone takes no deactivations: the log says so once, and once more when it was back between.
func TestDeactivationsThatFail(t *testing.T) {
	logs := new(logtest.Log)
	b := newBench(t, func(o *Options) { o.Log = logs.Logger() })
	var back atomic.Bool
	b.host.deactivate = func(context.Context, string, string) error {
		if back.Load() {
			return nil
		}
		return errors.New("connection refused")
	}
	for range 2 {
		for _, isBack := range []bool{false, true} {
			back.Store(isBack)
			for i := range 100 {
				b.mustCall("T", strconv.Itoa(i), "m")
			}
			receive(t, "the end of Halt", b.halting(nil))
		}
	}
	if warned, all := logs.Count("WARN The host of an actor"), logs.Count("connection refused"); warned != 2 || all != 200 {
		t.Errorf("%d warnings and %d lines, want 2 and 200:\n%s", warned, all, logs)
	}
}

func TestSlowDeactivation(t *testing.T) {
	b := newBench(t)
	let := make(chan struct{})
	asked := make(chan string, 10)
	b.host.deactivate = func(ctx context.Context, actorType, id string) error {
		if actorType == "T" && id == "1" {
			asked <- id
			select {
			case <-let:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
	b.mustCall("T", "1", "m")
	b.mustCall("T", "2", "m")
	b.mustCall("R", "1", "m")
	halted := b.halting(nil)
	receive(t, "the deactivation", asked)
	if took := b.pass(100*time.Millisecond, "the end of Halt", got(halted, new(struct{}))); took < 2*time.Second || took > 3*time.Second {
		t.Errorf("Halt took %v", took)
	}
	// Only the actor itself is held up: not its type, nor others.
	b.mustCall("T", "2", "m")
	b.mustCall("R", "1", "m")
	waits := b.start(context.Background(), "T", "1", "m")
	ctx, cancel := context.WithCancel(context.Background())
	cancelled := b.start(ctx, "T", "1", "m")
	cancel()
	if o := receive(t, "the cancelled call", cancelled); o.err == nil {
		t.Error("a call passed the deactivation")
	}
	b.clock.Advance(time.Second)
	nothing(t, "a call to the actor that is deactivated", waits)
	close(let)
	if o := receive(t, "the result", waits); o.err != nil {
		t.Error(o.err)
	}
	// The next one is never answered: the actor comes back all the same.
	let = make(chan struct{})
	halted = b.halting(func(actorType, id string) bool { return actorType != "T" || id != "1" })
	receive(t, "the second deactivation", asked)
	var o outcome
	if took := b.pass(100*time.Millisecond, "the result", got(b.start(context.Background(), "T", "1", "m"), &o)); o.err != nil || took > 6*time.Second {
		t.Errorf("%+v after %v", o, took)
	}
	receive(t, "the end of Halt", halted)
	b.pass(time.Second, "the deactivation is given up", func() bool {
		k := b.kind("T")
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.workers == 0
	})
	if p, ok := b.phaseOf("T", "1"); !ok || p != active {
		t.Error("the new instance is gone")
	}
	close(let)
}

func TestSlowTypeDoesNotHoldUpOthers(t *testing.T) {
	b := bare(t)
	b.host = new(fakeHost)
	slow, quick := DefaultTypeConfig(), DefaultTypeConfig()
	slow.DrainTimeout = 20 * time.Second
	b.register(Hosting{Host: b.host, Types: map[string]TypeConfig{"S": slow, "Q": quick}})
	block := newBlocking()
	b.host.invoke = block.invoke
	calls := []<-chan outcome{b.start(context.Background(), "S", "1", "block"), b.start(context.Background(), "Q", "1", "block")}
	receive(t, "a turn", block.began)
	receive(t, "a turn", block.began)
	halted := b.halting(nil)
	if took := b.pass(100*time.Millisecond, "the quick one's end", func() bool { return b.host.has("gone:Q/1") }); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if b.host.has("gone:S/1") {
		t.Error("the slow one was broken off, too")
	}
	nothing(t, "the end of Halt", halted)
	close(block.let)
	receive(t, "the end of Halt", halted)
	for _, c := range calls {
		receive(t, "the result", c)
	}
}

func TestManyDeactivations(t *testing.T) {
	b := newBench(t)
	var at, most atomic.Int64
	b.host.deactivate = func(context.Context, string, string) error {
		n := at.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(time.Millisecond)
		at.Add(-1)
		return nil
	}
	const n = 500
	for i := range n {
		b.mustCall("T", fmt.Sprint(i), "m")
	}
	b.Halt(context.Background(), nil)
	if got := strings.Count(b.host.records(), "gone:"); got != n {
		t.Errorf("%d deactivations", got)
	}
	if most.Load() > deactivateWorkers {
		t.Errorf("%d at a time", most.Load())
	}
	if s := b.Status(); s.Active[1].Count != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestMetrics(t *testing.T) {
	m := metricstest.New(t, "self")
	b := newBench(t, func(o *Options) { o.Metrics = m.Actors() })
	b.host.deactivate = func(_ context.Context, _, id string) error {
		switch id {
		case "bad":
			return errors.New("no")
		case "worse":
			panic("oops")
		}
		return nil
	}
	for _, id := range []string{"good", "bad", "worse"} {
		b.mustCall("T", id, "m")
	}
	block := newBlocking()
	b.host.invoke = block.invoke
	running := b.start(context.Background(), "R", "1", "block")
	receive(t, "the turn", block.began)
	waits := b.start(context.Background(), "R", "1", "m")
	const pending = "dapr_runtime_actor_pending_actor_calls"
	eventually(t, "a call is pending", func() bool { return metricstest.Counted(t, m, pending)[""] == 1 })
	close(block.let)
	receive(t, "the result", running)
	receive(t, "the result", waits)
	if n := metricstest.Counted(t, m, pending)[""]; n != 0 {
		t.Errorf("%v calls pending", n)
	}
	b.Halt(context.Background(), nil)
	for name, want := range map[string]map[string]float64{
		"rebalanced_total":         {"T": 3, "R": 1},
		"deactivated_total":        {"T": 1, "R": 1},
		"deactivated_failed_total": {"T": 2},
	} {
		if got := metricstest.Counted(t, m, "dapr_runtime_actor_"+name, "actor_type"); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
