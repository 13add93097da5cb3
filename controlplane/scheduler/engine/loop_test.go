package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	clientv3 "go.etcd.io/etcd/client/v3"

	"outrigger.dev/controlplane/scheduler/etcdtest"
	"outrigger.dev/controlplane/scheduler/schedule"
)

// still is a loop that the test itself drives: nothing runs, and what it would write stays in l.writes.
func still(t *testing.T, r *recorder, clock clockwork.Clock) *loop {
	t.Helper()
	e, err := New(Options{Client: new(clientv3.Client), ID: "one", Deliver: r, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	e.loop.holding = holding{{0, 1}}
	return e.loop
}

// storedJob is what the feed makes of a job stored at the time.
func storedJob(t *testing.T, name string, rev int64, at time.Time, specs ...spec) *job {
	t.Helper()
	begun, err := jobOf(t, specs...).Begin(at, uint64(rev), schedule.Parse)
	if err != nil {
		t.Fatal(err)
	}
	value, err := begun.Encode()
	if err != nil {
		t.Fatal(err)
	}
	j, err := newJob(name, rev, value, nil, schedule.Parse)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// drain has the loop take the events into account.
func (l *loop) drain(now time.Time) {
	events := l.inbox
	l.inbox = nil
	for i := range events {
		l.handle(&events[i], now)
	}
	l.rewrite(now)
	l.fire(now)
}

// A scan may find a job that ended after its revision; it does not come back.
func TestEndedDuringScan(t *testing.T) {
	t.Parallel()
	r := newRecorder(nil)
	l := still(t, r, clockwork.NewFakeClockAt(noon))
	l.insert(storedJob(t, "job", 5, noon, due("0s")), noon)
	l.fire(noon)
	l.apply(&storedChange{begin: true})
	r.triggers("job")[0].Done(Success)
	l.drain(noon)
	if len(l.writes) != 1 {
		t.Fatalf("%d writes", len(l.writes))
	}
	l.writes[0].done(true, nil)
	l.drain(noon)
	l.apply(&storedChange{jobs: []*job{storedJob(t, "job", 5, noon, due("0s"))}})
	if len(l.jobs) != 0 {
		t.Error("a job that ended is back")
	}
	l.apply(&storedChange{jobs: []*job{storedJob(t, "job", 6, noon, due("0s"))}, end: true})
	if len(l.jobs) != 1 {
		t.Error("a newer version is taken for the one that ended")
	}
}

// What a scan does not find was deleted unseen, and its trigger is cancelled; what it finds unchanged goes on.
func TestNotFoundByScan(t *testing.T) {
	t.Parallel()
	r := newRecorder(nil)
	l := still(t, r, clockwork.NewFakeClockAt(noon))
	for rev, name := range map[int64]string{5: "deleted", 6: "kept", 7: "overwritten"} {
		l.insert(storedJob(t, name, rev, noon, due("0s")), noon)
	}
	l.fire(noon)
	l.apply(&storedChange{begin: true})
	l.apply(&storedChange{jobs: []*job{storedJob(t, "kept", 6, noon, due("0s"))}})
	l.apply(&storedChange{jobs: []*job{storedJob(t, "overwritten", 9, noon, due("1h"))}, end: true})
	for name, want := range map[string]bool{"deleted": true, "kept": false, "overwritten": true} {
		if got := r.triggers(name)[0].cancelled; got != want {
			t.Errorf("%s: cancelled %v, want %v", name, got, want)
		}
	}
	if len(l.jobs) != 2 || l.jobs["overwritten"].rev != 9 || len(l.queue) != 1 {
		t.Errorf("jobs %v, %d of them wait", l.jobs, len(l.queue))
	}
}

// The end of a write of a version that was replaced meanwhile changes nothing.
func TestReplacedWhileWriting(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *write){
		"written": func(w *write) { w.done(true, nil) },
		"refused": func(w *write) { w.done(false, nil) },
		"failed":  func(w *write) { w.done(false, errors.New("etcd is away")) },
	} {
		r := newRecorder(succeed)
		l := still(t, r, clockwork.NewFakeClockAt(noon))
		l.insert(storedJob(t, "job", 5, noon, every("1s")), noon)
		now := noon.Add(time.Second)
		l.fire(now)
		l.drain(now)
		l.insert(storedJob(t, "job", 6, now, every("1h")), now)
		end(l.writes[0])
		l.drain(now)
		if len(l.jobs) != 1 || l.jobs["job"].rev != 6 || len(l.queue) != 1 || l.queue[0].rev != 6 || len(l.failed) != 0 {
			t.Errorf("%s: jobs %v, %d wait, %d failed", name, l.jobs, len(l.queue), len(l.failed))
		}
	}
}

// A write that fails is tried again until it is known what became of it; then the job goes on.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	r := newRecorder(succeed)
	clock := clockwork.NewFakeClockAt(noon)
	l := still(t, r, clock)
	l.insert(storedJob(t, "job", 5, noon, every("1s")), noon)
	now := noon.Add(time.Second)
	l.fire(now)
	l.drain(now)
	for range 3 {
		if len(l.writes) != 1 {
			t.Fatalf("%d writes", len(l.writes))
		}
		w := l.writes[0]
		l.writes = nil
		w.done(false, errors.New("etcd is away"))
		l.drain(now)
		if len(l.writes) != 0 {
			t.Fatal("tried again at once")
		}
		if p := l.pause(now); p > again {
			t.Fatalf("pauses for %s", p)
		}
		now = now.Add(again)
		l.drain(now)
	}
	l.writes[0].done(true, nil)
	l.drain(now)
	if n := len(r.triggers("job")); n != 2 {
		t.Errorf("%d triggers", n)
	}
}

// A write whose conditions do not hold is of a version that is gone.
func TestWriteRefused(t *testing.T) {
	t.Parallel()
	r := newRecorder(succeed)
	l := still(t, r, clockwork.NewFakeClockAt(noon))
	l.insert(storedJob(t, "job", 5, noon, every("1s")), noon)
	l.fire(noon.Add(time.Second))
	l.drain(noon.Add(time.Second))
	l.writes[0].done(false, nil)
	l.drain(noon.Add(time.Second))
	if len(l.jobs) != 0 {
		t.Error("the version is still there")
	}
}

// Whoever gives up jobs waits for their writes.
func TestNarrowWaits(t *testing.T) {
	t.Parallel()
	r := newRecorder(succeed)
	l := still(t, r, clockwork.NewFakeClockAt(noon))
	for rev, name := range map[int64]string{4: "stays", 5: "written", 7: "idle"} {
		l.insert(storedJob(t, name, rev, noon, every("1s")), noon)
	}
	idle := l.jobs["idle"]
	l.queue.remove(idle)
	now := noon.Add(time.Second)
	l.fire(now)
	l.drain(now)
	l.queue.Push(idle)
	done := l.narrow(holding{{0, 1}, {0, 2}})
	select {
	case <-done:
		t.Fatal("it does not wait for the write")
	default:
	}
	if len(l.jobs) != 1 || l.jobs["stays"] == nil {
		t.Errorf("jobs %v", l.jobs)
	}
	for _, w := range l.writes {
		w.done(true, nil)
	}
	l.drain(now)
	select {
	case <-done:
	default:
		t.Error("it waits for ever")
	}
	if len(l.queue) != 1 {
		t.Errorf("%d jobs wait, want the one that stays", len(l.queue))
	}
}

// Also after a short downtime one tick comes for those that were missed.
func TestShortDowntime(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	writer, err := New(Options{Client: client, ID: "writer", Deliver: newRecorder(nil), Clock: clockwork.NewFakeClockAt(noon)})
	if err != nil {
		t.Fatal(err)
	}
	const name = "app||ns||app||job"
	writer.mustSchedule(t, name, every("5s"))
	clock := clockwork.NewFakeClockAt(noon.Add(33 * time.Second))
	r := newRecorder(succeed)
	e, _ := run(t, Options{Client: client, Deliver: r, Clock: clock})
	joined(t, e)
	advance(t, clock, time.Second, 10*time.Second, r.count(name, 2))
	if got := planned(r.triggers(name)); len(got) != 2 || got[0] != "30s #0" || got[1] != "35s #0" {
		t.Errorf("planned %v", got)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	good := Options{Client: new(clientv3.Client), ID: "x", Deliver: newRecorder(nil)}
	for name, change := range map[string]func(*Options){
		"no client":        func(o *Options) { o.Client = nil },
		"no id":            func(o *Options) { o.ID = "" },
		"no deliverer":     func(o *Options) { o.Deliver = nil },
		"negative workers": func(o *Options) { o.Workers = -1 },
		"short lease":      func(o *Options) { o.Lease = time.Millisecond },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	for workers, want := range map[int][2]int{1: {1, 1}, 3: {3, 1}, 10: {4, 2}, 0: {4, 64}} {
		o := good
		o.Workers = workers
		e, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]int{e.counters.most, e.counters.size}; got != want {
			t.Errorf("%d workers: %v, want %v", workers, got, want)
		}
	}
}
