// Package chaos runs pods of one app, placement and the scheduler as processes, and kills, stops and starts them at random under load: nothing
// that was acknowledged may be lost, and no actor may have two turns at once.
//
// CHAOS_DURATION says how long (25s), CHAOS_SEED repeats a choice of disturbances, CHAOS_DIR keeps the logs and data in a folder.
package chaos

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite" // to look into the state store
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if runtime.GOOS == "windows" {
		fmt.Println("the chaos test needs signals and is skipped on Windows; run it on Linux or macOS")
		return 0
	}
	dir, err := os.MkdirTemp("", "outrigger-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs = dir
	if err := builds(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

const clockFormat = "15:04:05.000"

// settleBound is how long all actors may take to answer again after a disturbance; catchUp how long after the last one everything that is due may
// take to fire. Both are generous: the machine may be slow.
const (
	settleBound = 20 * time.Second
	catchUp     = 60 * time.Second
)

// settings read what the environment says.
func settings(t *testing.T) (duration time.Duration, seed uint64) {
	t.Helper()
	duration, err := time.ParseDuration(cmp.Or(os.Getenv("CHAOS_DURATION"), "25s"))
	if err != nil {
		t.Fatalf("CHAOS_DURATION: %v", err)
	}
	seed, err = strconv.ParseUint(cmp.Or(os.Getenv("CHAOS_SEED"), fmt.Sprint(rand.Uint64())), 10, 64)
	if err != nil {
		t.Fatalf("CHAOS_SEED: %v", err)
	}
	return duration, seed
}

func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	duration, seed := settings(t)
	t.Logf("CHAOS_SEED=%d CHAOS_DURATION=%s", seed, duration)
	w := newWorld(t)
	l := newLedger()
	w.settle(l, "start", rand.New(rand.NewPCG(seed, 0)))

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var loading sync.WaitGroup
	for i := range clients {
		loading.Go(func() { w.load(ctx, l, rand.New(rand.NewPCG(seed, uint64(i+1)))) })
	}
	figures := w.disturb(l, duration, rand.New(rand.NewPCG(seed, 1000)))
	stop()
	loading.Wait()
	figures.report(t)
	t.Logf("the most frequent reasons why something was not acknowledged:\n%s", strings.Join(l.refusalLines(12), "\n"))

	begun := time.Now()
	if !w.referee.await(catchUp, func() bool { return len(l.owed(w.referee)) == 0 }) {
		owed := l.owed(w.referee)
		t.Errorf("%d acknowledged reminders and jobs did not fire within %s after the end of the load:\n%s", len(owed), catchUp, strings.Join(owed[:min(20, len(owed))], "\n"))
	}
	t.Logf("all that was due had fired %s after the end of the load", time.Since(begun).Round(time.Millisecond))
	w.settle(l, "end", rand.New(rand.NewPCG(seed, 0)))
	counts := w.counts(t)
	w.stop(t)
	w.verdict(t, l, counts)
}

// stop ends all processes in good order.
func (w *world) stop(t *testing.T) {
	var stopping sync.WaitGroup
	for _, p := range w.pods {
		stopping.Go(func() {
			if err := p.sidecar.terminate(); err != nil {
				t.Error(err)
			}
			p.app.kill()
		})
	}
	stopping.Wait()
	for _, p := range []*process{w.placement, w.scheduler} {
		if err := p.terminate(); err != nil {
			t.Error(err)
		}
	}
}

// counts are those that the actors' state has, as any sidecar tells.
func (w *world) counts(t *testing.T) map[string]int {
	c := newCaller(limit)
	defer c.close()
	counts := map[string]int{}
	for i := range actorCount {
		actor := actorName(i)
		status, reply := c.do("GET", w.pods[i%podCount].base+"/v1.0/actors/Counter/"+actor+"/state/count", "")
		count, err := strconv.Atoi(reply)
		if status != 200 || err != nil {
			t.Errorf("the count of %s: %d %s", actor, status, reply)
		}
		counts[actor] = count
	}
	return counts
}

// verdict compares what was acknowledged with what is there.
func (w *world) verdict(t *testing.T, l *ledger, counts map[string]int) {
	stored := w.operations(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	asked, acknowledged, kept := 0, 0, 0
	for actor, ops := range l.increments {
		for op, ok := range ops {
			asked++
			if !ok {
				continue
			}
			acknowledged++
			if !stored[actor][op] {
				t.Errorf("the acknowledged increment %s of %s is lost", op, actor)
			}
		}
		kept += len(stored[actor])
		if counts[actor] != len(stored[actor]) {
			t.Errorf("the count of %s is %d, and its state has %d increments", actor, counts[actor], len(stored[actor]))
		}
		for op := range stored[actor] {
			if _, ok := ops[op]; !ok {
				t.Errorf("nobody asked for the increment %s of %s", op, actor)
			}
		}
	}
	for _, b := range l.backwards {
		t.Errorf("a count went back: %s", b)
	}
	r := w.referee
	due, again := 0, 0
	kinds := map[string]int{}
	for name, fires := range l.due {
		due += fires
		again += max(0, r.count(name)-fires)
		kind, _, _ := strings.Cut(name, "/")
		kinds[kind]++
	}
	for _, name := range l.never {
		if fired := r.count(name); fired > 0 {
			t.Errorf("%s fired %d times, and was deleted long before it was due", name, fired)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.overlaps {
		t.Errorf("two turns at once: %s", o)
	}
	t.Logf("turns: %d, of which %d ended with their process", r.turns, r.ended)
	t.Logf("increments: %d asked for, %d acknowledged, %d in the state", asked, acknowledged, kept)
	t.Logf("acknowledged: %d reminders and %d jobs, which owed %d fires and fired %d times more; %d reminders deleted", kinds["reminder"], kinds["job"], due, again, len(l.never))
	if acknowledged == 0 || kinds["reminder"] == 0 || kinds["job"] == 0 || len(l.never) == 0 {
		t.Error("there was no load to speak of")
	}
}

// operations are the increments in the state store, by actor.
func (w *world) operations(t *testing.T) map[string]map[string]bool {
	db, err := sql.Open("sqlite", w.database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT key FROM state`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	stored := map[string]map[string]bool{}
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(key, "||")
		if len(parts) != 4 || parts[0] != appID || parts[1] != "Counter" {
			t.Errorf("the state store has the key %q", key)
			continue
		}
		op, ok := strings.CutPrefix(parts[3], "op-")
		if !ok {
			continue
		}
		if stored[parts[2]] == nil {
			stored[parts[2]] = map[string]bool{}
		}
		stored[parts[2]][op] = true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return stored
}

// report prints how long things took after disturbances.
func (f figures) report(t *testing.T) {
	for _, kind := range slices.Sorted(maps.Keys(f)) {
		times := f[kind]
		slices.Sort(times)
		t.Logf("%-24s %3d times; all %d actors answered after %s in the median, %s at most", kind, len(times), actorCount,
			times[len(times)/2].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond))
	}
}
