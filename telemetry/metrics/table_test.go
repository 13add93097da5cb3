package metrics

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestTableKeepsOneValuePerKey(t *testing.T) {
	var made atomic.Int64
	table := newTable[int, *int](0)
	create := func(k int) *int {
		made.Add(1)
		return &k
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for k := range 1000 {
				v, ok := table.get(k)
				if !ok {
					if v, ok = table.add(k, create); !ok {
						t.Errorf("key %d refused without a limit", k)
						return
					}
				}
				if *v != k {
					t.Errorf("key %d has the value of %d", k, *v)
				}
			}
		})
	}
	wg.Wait()
	if made.Load() != 1000 {
		t.Errorf("%d values made for 1000 keys", made.Load())
	}
}

func TestTableLimit(t *testing.T) {
	table := newTable[int, int](10)
	create := func(k int) int { return k * k }
	for k := range 10 {
		if table.full() {
			t.Fatalf("full after %d", k)
		}
		if v, ok := table.add(k, create); !ok || v != k*k {
			t.Fatalf("key %d: %d, %v", k, v, ok)
		}
	}
	if _, ok := table.add(10, create); ok || !table.full() {
		t.Fatal("more entries than the limit")
	}
	if v, ok := table.add(3, create); !ok || v != 9 {
		t.Fatal("a known key is refused")
	}
	for k := range 10 {
		if _, ok := table.get(k); !ok {
			t.Fatalf("key %d of a full table is not published", k)
		}
	}
}

// TestTablePublishes checks that a key in use gets onto the fast path.
func TestTablePublishes(t *testing.T) {
	table := newTable[int, int](0)
	create := func(k int) int { return k }
	for k := range 100 {
		table.add(k, create)
	}
	for range 100 {
		if _, ok := table.get(99); ok {
			return
		}
		table.add(99, create)
	}
	t.Fatal("the last key was never published")
}

func TestConcurrentObservations(t *testing.T) {
	o := base()
	o.MaxSeries = 20
	m := mustNew(t, o)
	const workers, rounds = 4, 500
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				m.HTTPServer().Observe("GET", fmt.Sprintf("/p%d", (i+w)%40), 200, time.Millisecond, 1, 1)
				m.Invocation().ReqRecv(fmt.Sprint("app", i%40))
				if i%100 == 0 {
					daprLines(t, m)
				}
			}
		})
	}
	wg.Wait()
	paths, total := counts(t, m), 0
	for _, v := range paths {
		var n int
		if _, err := fmt.Sscan(v, &n); err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if len(paths) != 21 || total != workers*rounds {
		t.Errorf("%d paths with %d requests, want 21 with %d", len(paths), total, workers*rounds)
	}
}
