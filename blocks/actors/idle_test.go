package actors

import (
	"context"
	"testing"
	"time"
)

// idleBench hosts type T with an idle timeout of 10 s and type S with one of 3 s.
func idleBench(t *testing.T) *bench {
	b := bare(t)
	b.host = new(fakeHost)
	ten, three := DefaultTypeConfig(), DefaultTypeConfig()
	ten.IdleTimeout, three.IdleTimeout = 10*time.Second, 3*time.Second
	b.register(Hosting{Host: b.host, Types: map[string]TypeConfig{"T": ten, "S": three}})
	return b
}

// at checks when an actor is deactivated, counted from now.
func (b *bench) goneAfter(actorType, id string, want time.Duration) {
	b.t.Helper()
	if took := b.pass(100*time.Millisecond, "it is deactivated", func() bool { return b.host.has("gone:" + actorType + "/" + id) }); took < want || took > want+time.Second {
		b.t.Errorf("deactivated after %v, want %v", took, want)
	}
	eventually(b.t, "the instance is gone", func() bool { return b.instance(actorType, id) == nil })
}

func TestIdle(t *testing.T) {
	b := idleBench(t)
	b.mustCall("T", "1", "m")
	b.goneAfter("T", "1", 10*time.Second)
	if _, ok := b.Enter("T", "1"); ok {
		t.Error("its state can be used")
	}
	b.mustCall("T", "1", "m") // made again
	if b.instance("T", "1") == nil {
		t.Error("no instance")
	}
}

func TestIdleCountsFromTheEndOfTheLastTurn(t *testing.T) {
	b := idleBench(t)
	block := newBlocking()
	b.host.invoke = block.invoke
	running := b.start(context.Background(), "T", "1", "block")
	receive(t, "the turn", block.began)
	for range 45 { // a turn longer than the timeout is not cut
		b.clock.Advance(time.Second)
		time.Sleep(100 * time.Microsecond)
	}
	close(block.let)
	if o := receive(t, "the result", running); o.err != nil {
		t.Fatal(o.err)
	}
	b.clock.Advance(9 * time.Second)
	b.mustCall("T", "1", "m") // the time begins anew
	b.goneAfter("T", "1", 10*time.Second)
}

func TestIdleWaitsForStateCalls(t *testing.T) {
	b := idleBench(t)
	b.mustCall("S", "1", "m")
	release, ok := b.Enter("S", "1")
	if !ok {
		t.Fatal("no instance")
	}
	for range 20 {
		b.clock.Advance(time.Second)
		time.Sleep(100 * time.Microsecond)
	}
	if b.host.has("gone:S/1") {
		t.Fatal("deactivated in the middle of a state call")
	}
	release()
	b.goneAfter("S", "1", 0)
}

func TestIdleInOrder(t *testing.T) {
	b := idleBench(t)
	b.mustCall("T", "1", "m")
	b.mustCall("S", "1", "m") // due before the one that is first in the heap
	b.mustCall("S", "2", "m")
	b.Halt(context.Background(), func(_, id string) bool { return id != "2" })
	b.goneAfter("S", "1", 3*time.Second)
	if b.host.has("gone:T/1") {
		t.Error("T is gone too early")
	}
	b.goneAfter("T", "1", 6*time.Second)
	b.idle.mu.Lock()
	defer b.idle.mu.Unlock()
	if len(b.idle.items) != 0 {
		t.Errorf("%d instances are left in the heap", len(b.idle.items))
	}
}
