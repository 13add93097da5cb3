package statetest

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"outrigger.dev/components/state"
)

// workers is how many goroutines contend in a test.
const workers = 8

func (s *suite) concurrency(t *testing.T) {
	s.parallel(t, "firstwrite", func(t *testing.T) {
		if !s.etags {
			t.Skip("the store has no first-write")
		}
		for round := range 5 {
			s.oneFirstWriter(t, s.key(t, strconv.Itoa(round)))
		}
	})
	s.parallel(t, "counter", func(t *testing.T) {
		if !s.etags {
			t.Skip("the store has no etags")
		}
		s.counter(t)
	})
	s.parallel(t, "pairs", func(t *testing.T) {
		if s.tx == nil || s.cfg.SplitTransactions {
			t.Skip("the store has no transactions over these keys")
		}
		s.pairs(t)
	})
	s.parallel(t, "apart", func(t *testing.T) {
		together(func(worker int) {
			k := s.key(t, strconv.Itoa(worker))
			for i := range 20 {
				v := strconv.Itoa(worker*1000 + i)
				if err := s.store.Set(bounded(t), state.SetRequest{Key: k, Value: text(v)}); err != nil {
					t.Errorf("Set: %v", err)
					return
				}
				item, err := s.store.Get(bounded(t), state.GetRequest{Key: k})
				if err != nil || string(item.Data) != v {
					t.Errorf("Get = %q, %v; want %q", item.Data, err, v)
					return
				}
			}
			if err := s.store.Delete(bounded(t), state.DeleteRequest{Key: k}); err != nil {
				t.Errorf("Delete: %v", err)
			}
		})
	})
}

// together runs f in all workers at once and waits for them.
func together(f func(worker int)) {
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() { f(w) })
	}
	all.Wait()
}

// oneFirstWriter checks that of many first-writes at once one wins, and its value stays.
func (s *suite) oneFirstWriter(t *testing.T, k string) {
	var wins atomic.Int32
	var winner atomic.Value
	together(func(worker int) {
		v := strconv.Itoa(worker)
		err := s.store.Set(bounded(t), state.SetRequest{Key: k, Value: text(v), Options: state.Options{Concurrency: state.FirstWrite}})
		if err == nil {
			wins.Add(1)
			winner.Store(v)
			return
		}
		s.expectConflict(t, "a first-write that lost", err)
	})
	if wins.Load() != 1 {
		t.Errorf("%d of %d first-writes succeeded, want 1", wins.Load(), workers)
		return
	}
	s.expect(t, k, winner.Load().(string))
}

// counter checks that no increment guarded by an etag is lost.
func (s *suite) counter(t *testing.T) {
	const each = 5
	k := s.key(t, "k")
	s.set(t, k, text("0"))
	ctx := bounded(t)
	together(func(int) {
		for done := 0; done < each; {
			item, err := s.store.Get(ctx, state.GetRequest{Key: k})
			if err != nil {
				t.Errorf("Get: %v", err)
				return
			}
			n, _ := strconv.Atoi(string(item.Data))
			err = s.store.Set(ctx, state.SetRequest{Key: k, Value: text(strconv.Itoa(n + 1)), ETag: item.ETag})
			if err == nil {
				done++
				continue
			}
			if e, ok := state.AsETagError(err); !ok || e.Invalid {
				t.Errorf("Set with an etag that lost: %v", err)
				return
			}
		}
	})
	s.expect(t, k, strconv.Itoa(workers*each))
}

// pairs checks that transactions do not mix: two keys written together are always equal afterwards.
func (s *suite) pairs(t *testing.T) {
	a, b := s.key(t, "a"), s.key(t, "b")
	together(func(worker int) {
		for i := range 5 {
			v := text(strconv.Itoa(worker*1000 + i))
			if err := s.tx.Transact(bounded(t), state.TransactionRequest{Operations: []state.Operation{opSet(a, v), opSet(b, v)}}); err != nil {
				t.Errorf("Transact: %v", err)
				return
			}
		}
	})
	s.expect(t, b, string(s.get(t, a).Data))
}

// cancellation checks that a caller who is gone writes nothing, and harms nobody else.
func (s *suite) cancellation(t *testing.T) {
	s.parallel(t, "before", func(t *testing.T) {
		k, kept := s.key(t, "k"), s.key(t, "kept")
		s.set(t, kept, text("v"))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, get := s.store.Get(ctx, state.GetRequest{Key: kept})
		errs := map[string]error{
			"Get":    get,
			"Set":    s.store.Set(ctx, state.SetRequest{Key: k, Value: text("v")}),
			"Delete": s.store.Delete(ctx, state.DeleteRequest{Key: kept}),
		}
		if s.bulk != nil {
			_, errs["BulkGet"] = s.bulk.BulkGet(ctx, []state.GetRequest{{Key: kept}})
		}
		for what, err := range errs {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s of a cancelled caller: %v, want context.Canceled", what, err)
			}
		}
		s.expectMissing(t, k)
		s.expect(t, kept, "v")
	})
	s.parallel(t, "during", func(t *testing.T) {
		k := s.key(t, "k")
		together(func(worker int) {
			for i := range 10 {
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan struct{})
				go func() {
					defer close(done)
					// Either outcome is right; what counts is that the call ends and the store goes on.
					_ = s.store.Set(ctx, state.SetRequest{Key: k, Value: text(strconv.Itoa(i))})
				}()
				if worker%2 == 0 {
					cancel()
				}
				<-done
				cancel()
			}
		})
		s.set(t, k, text("after"))
		s.expect(t, k, "after")
	})
}
