package actors

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// answered is what a waiter was told; ok is false while it waits.
func answered(w *waiter) (err error, ok bool) {
	select {
	case err = <-w.ready:
		return err, true
	default:
		return nil, false
	}
}

func mustWait(t *testing.T, l *turnLock, id string) *waiter {
	t.Helper()
	w, err := l.enter(id, 32)
	if err != nil || w == nil {
		t.Fatalf("enter(%q) = %v, %v, want a waiter", id, w, err)
	}
	return w
}

func mustEnter(t *testing.T, l *turnLock, id string) {
	t.Helper()
	if w, err := l.enter(id, 32); w != nil || err != nil {
		t.Fatalf("enter(%q) = %v, %v, want to be inside", id, w, err)
	}
}

func mustBeIn(t *testing.T, w *waiter) {
	t.Helper()
	if err, ok := answered(w); !ok || err != nil {
		t.Fatalf("the waiter has %v (answered: %v), want to be inside", err, ok)
	}
}

func mustStillWait(t *testing.T, ws ...*waiter) {
	t.Helper()
	for i, w := range ws {
		if err, ok := answered(w); ok {
			t.Fatalf("waiter %d got %v, want it to wait", i, err)
		}
	}
}

func TestTurnsInOrderOfArrival(t *testing.T) {
	var l turnLock
	mustEnter(t, &l, "")
	var ws []*waiter
	for i := range 5 {
		id := ""
		if i%2 == 0 {
			id = fmt.Sprint(i)
		}
		ws = append(ws, mustWait(t, &l, id))
	}
	if l.waiting != 5 {
		t.Errorf("waiting = %d", l.waiting)
	}
	for i := range ws {
		mustStillWait(t, ws[i:]...)
		l.leave()
		mustBeIn(t, ws[i])
	}
	l.leave()
	if l.busy() || l.waiting != 0 {
		t.Errorf("not empty: %+v", l)
	}
	mustEnter(t, &l, "")
}

func TestTurnJoinsTheChainInside(t *testing.T) {
	var l turnLock
	mustEnter(t, &l, "a")
	other := mustWait(t, &l, "b")
	mustEnter(t, &l, "a")
	mustEnter(t, &l, "a")
	l.leave()
	l.leave()
	mustStillWait(t, other)
	l.leave()
	mustBeIn(t, other)
}

func TestTurnJoinsTheChainThatWaits(t *testing.T) {
	var l turnLock
	mustEnter(t, &l, "")
	a1 := mustWait(t, &l, "a")
	b := mustWait(t, &l, "b")
	a2 := mustWait(t, &l, "a")
	l.leave()
	mustBeIn(t, a1)
	mustBeIn(t, a2)
	mustStillWait(t, b)
	l.leave()
	mustStillWait(t, b)
	l.leave()
	mustBeIn(t, b)
	// The id is free again: it queues as a new chain.
	again := mustWait(t, &l, "a")
	l.leave()
	mustBeIn(t, again)
}

func TestTurnWithoutIDJoinsNothing(t *testing.T) {
	var l turnLock
	mustEnter(t, &l, "")
	w := mustWait(t, &l, "")
	mustStillWait(t, w)
}

func TestTurnDepth(t *testing.T) {
	var l turnLock
	const limit = 3
	for range limit {
		if w, err := l.enter("a", limit); w != nil || err != nil {
			t.Fatal(w, err)
		}
	}
	for range 2 {
		if _, err := l.enter("a", limit); !errors.Is(err, errTooDeep) {
			t.Fatalf("call %d: %v", limit+1, err)
		}
	}
	other := mustWait(t, &l, "b")
	for range limit - 1 {
		if _, err := l.enter("b", limit); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.enter("b", limit); !errors.Is(err, errTooDeep) {
		t.Fatalf("a call too many that waits: %v", err)
	}
	// The calls that were refused do not count: the turn ends with the third leave.
	for range limit {
		mustStillWait(t, other)
		l.leave()
	}
	mustBeIn(t, other)
	if l.running.depth != limit {
		t.Errorf("depth = %d", l.running.depth)
	}
}

func TestTurnAbandoned(t *testing.T) {
	for gone := range 3 {
		t.Run(fmt.Sprint(gone), func(t *testing.T) {
			var l turnLock
			mustEnter(t, &l, "")
			ws := []*waiter{mustWait(t, &l, ""), mustWait(t, &l, "x"), mustWait(t, &l, "")}
			if !l.abandon(ws[gone]) {
				t.Fatal("the waiter had an answer already")
			}
			if l.abandon(ws[gone]) {
				t.Fatal("abandoned twice")
			}
			mustStillWait(t, ws...) // nobody is released by it
			for i, w := range ws {
				if i == gone {
					continue
				}
				l.leave()
				mustBeIn(t, w)
			}
			l.leave()
			mustStillWait(t, ws[gone])
			if l.busy() || l.waiting != 0 {
				t.Errorf("not empty: %+v", l)
			}
		})
	}
	t.Run("one of a chain", func(t *testing.T) {
		var l turnLock
		mustEnter(t, &l, "")
		a1, a2 := mustWait(t, &l, "a"), mustWait(t, &l, "a")
		if !l.abandon(a1) {
			t.Fatal("answered")
		}
		l.leave()
		mustBeIn(t, a2)
		mustStillWait(t, a1)
		l.leave()
		if l.busy() {
			t.Error("the call that went away is still counted")
		}
	})
	t.Run("after it was let in", func(t *testing.T) {
		var l turnLock
		mustEnter(t, &l, "")
		a, b := mustWait(t, &l, ""), mustWait(t, &l, "")
		l.leave()
		if l.abandon(a) {
			t.Fatal("abandoned although inside")
		}
		mustBeIn(t, a)
		mustStillWait(t, b)
		l.leave()
		mustBeIn(t, b)
	})
}

func TestTurnRefusesAndCloses(t *testing.T) {
	moved, closed := errors.New("moved"), errors.New("closed")
	var l turnLock
	mustEnter(t, &l, "a")
	w1, w2 := mustWait(t, &l, "b"), mustWait(t, &l, "")
	l.refuse(moved)
	for _, w := range []*waiter{w1, w2} {
		if err, ok := answered(w); !ok || !errors.Is(err, moved) {
			t.Errorf("got %v, %v", err, ok)
		}
	}
	if _, err := l.enter("b", 32); !errors.Is(err, moved) {
		t.Errorf("a new chain: %v", err)
	}
	mustEnter(t, &l, "a") // the chain inside goes on
	l.close(closed)
	for _, id := range []string{"a", "b", ""} {
		if _, err := l.enter(id, 32); !errors.Is(err, closed) {
			t.Errorf("%q after close: %v", id, err)
		}
	}
	l.leave()
	if !l.busy() {
		t.Error("close ended a call")
	}
	l.leave()
	if l.busy() || l.waiting != 0 {
		t.Errorf("not empty: %+v", l)
	}
}

// TestTurnModel compares the lock with a plain list of chains, over random operations.
func TestTurnModel(t *testing.T) {
	type call struct {
		w *waiter
	}
	type modelChain struct {
		id    string
		calls []*call
	}
	const limit = 4
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 7))
		var l turnLock
		var chains []*modelChain // the first one is inside
		total := func() (n int) {
			for _, c := range chains {
				n += len(c.calls)
			}
			return n
		}
		check := func(step int, what string) {
			t.Helper()
			waiting := 0
			for i, c := range chains {
				for _, k := range c.calls {
					if k.w == nil {
						if i != 0 {
							t.Fatalf("seed %d, step %d, %s: a call of chain %d is inside", seed, step, what, i)
						}
						continue
					}
					err, ok := answered(k.w)
					switch {
					case i == 0 && (!ok || err != nil):
						t.Fatalf("seed %d, step %d, %s: a call of the first chain still waits (%v)", seed, step, what, err)
					case i == 0:
						k.w = nil
					case ok:
						t.Fatalf("seed %d, step %d, %s: a call of chain %d got %v", seed, step, what, i, err)
					default:
						waiting++
					}
				}
			}
			if l.waiting != waiting || l.busy() != (len(chains) > 0) {
				t.Fatalf("seed %d, step %d, %s: waiting %d, busy %v; want %d, %v", seed, step, what, l.waiting, l.busy(), waiting, len(chains) > 0)
			}
			if len(l.byID) > len(chains) {
				t.Fatalf("seed %d, step %d, %s: %d ids of %d chains", seed, step, what, len(l.byID), len(chains))
			}
		}
		for step := range 400 {
			switch op := rng.IntN(10); {
			case op < 5:
				id := ""
				if n := rng.IntN(6); n > 0 {
					id = fmt.Sprint(n)
				}
				at := -1
				if id != "" {
					at = slices.IndexFunc(chains, func(c *modelChain) bool { return c.id == id })
				}
				w, err := l.enter(id, limit)
				switch {
				case at >= 0 && len(chains[at].calls) >= limit:
					if !errors.Is(err, errTooDeep) {
						t.Fatalf("seed %d, step %d: %v, want too deep", seed, step, err)
					}
				case err != nil:
					t.Fatalf("seed %d, step %d: %v", seed, step, err)
				default:
					if at < 0 {
						chains = append(chains, &modelChain{id: id})
						at = len(chains) - 1
					}
					if (w == nil) != (at == 0) {
						t.Fatalf("seed %d, step %d: waiter %v in chain %d", seed, step, w, at)
					}
					chains[at].calls = append(chains[at].calls, &call{w: w})
				}
				check(step, "enter")
			case op < 8:
				if len(chains) == 0 {
					continue
				}
				l.leave()
				c := chains[0]
				c.calls = c.calls[:len(c.calls)-1]
				if len(c.calls) == 0 {
					chains = chains[1:]
				}
				check(step, "leave")
			default:
				if len(chains) < 2 {
					continue
				}
				i := 1 + rng.IntN(len(chains)-1)
				c := chains[i]
				j := rng.IntN(len(c.calls))
				if !l.abandon(c.calls[j].w) {
					t.Fatalf("seed %d, step %d: a waiter cannot be abandoned", seed, step)
				}
				if _, ok := answered(c.calls[j].w); ok {
					t.Fatalf("seed %d, step %d: a waiter that went away got an answer", seed, step)
				}
				c.calls = slices.Delete(c.calls, j, j+1)
				if len(c.calls) == 0 {
					chains = slices.Delete(chains, i, i+1)
				}
				check(step, "abandon")
			}
		}
		for total() > 0 { // nobody waits for ever
			l.leave()
			c := chains[0]
			if c.calls = c.calls[1:]; len(c.calls) == 0 {
				chains = chains[1:]
			}
			check(-1, "end")
		}
	}
}

// BenchmarkTurn is the cost of a turn that nobody else wants.
func BenchmarkTurn(b *testing.B) {
	b.ReportAllocs()
	var l turnLock
	for b.Loop() {
		if w, err := l.enter("", DefaultMaxStackDepth); w != nil || err != nil {
			b.Fatal(w, err)
		}
		l.leave()
	}
}

// BenchmarkTurnContended is the cost of a turn with others in the queue.
func BenchmarkTurnContended(b *testing.B) {
	b.ReportAllocs()
	var l turnLock
	_, _ = l.enter("", 1)
	prev, _ := l.enter("", 1)
	for b.Loop() {
		w, err := l.enter("", 1)
		if err != nil {
			b.Fatal(err)
		}
		l.leave()
		<-prev.ready
		prev = w
	}
}
