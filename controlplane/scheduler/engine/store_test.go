package engine

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	clientv3 "go.etcd.io/etcd/client/v3"

	"outrigger.dev/controlplane/scheduler/etcdtest"
	"outrigger.dev/controlplane/scheduler/record"
)

func TestStore(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	e, err := New(Options{Client: client, ID: "one", Deliver: newRecorder(nil)})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	const name = "app||ns||app||Some Job|@x"
	if _, err := e.Get(ctx, name); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of nothing: %v", err)
	}
	if err := e.Delete(ctx, name); err != nil {
		t.Errorf("Delete of nothing: %v", err)
	}
	first := jobOf(t, every("1h"), data("first"))
	if err := e.Schedule(ctx, name, first, false); err != nil {
		t.Fatal(err)
	}
	err = e.Schedule(ctx, name, jobOf(t, every("1h"), data("second")), false)
	if !errors.Is(err, ErrExists) || err.Error() != "job already exists: '"+name+"'" {
		t.Errorf("Schedule of what exists: %v", err)
	}
	if got, err := e.Get(ctx, name); err != nil || got.Payload().String() != first.Payload().String() {
		t.Errorf("Get: %v %v", got, err)
	}
	if err := e.Schedule(ctx, name, jobOf(t, every("2h")), true); err != nil {
		t.Fatal(err)
	}
	if got, err := e.Get(ctx, name); err != nil || got.Payload() != nil || got.Scheduler().GetSchedule() != "@every 2h" {
		t.Errorf("Get after overwriting: %v %v", got, err)
	}
	if err := e.Delete(ctx, name); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Get(ctx, name); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get after Delete: %v", err)
	}

	var invalid *InvalidError
	for bad, want := range map[string]string{
		"":                         `job name is invalid "": must not be empty`,
		"app||ns||app||a/b":        `job name is invalid "app||ns||app||a/b": must not contain '/', '\', '#' or '?'`,
		"a\nb":                     `job name is invalid "a\nb": must not contain control characters`,
		strings.Repeat("x", 513):   `job name is invalid "` + strings.Repeat("x", 513) + `": must be at most 512 characters`,
		"app||ns||app||\u0085next": `job name is invalid "app||ns||app||\u0085next": must not contain control characters`,
	} {
		for what, err := range map[string]error{
			"Schedule": e.Schedule(ctx, bad, first, true), "Delete": e.Delete(ctx, bad),
			"Get": func() error { _, err := e.Get(ctx, bad); return err }(),
		} {
			if !errors.As(err, &invalid) || err.Error() != want {
				t.Errorf("%s(%q): %v", what, bad, err)
			}
		}
	}
	err = e.Schedule(ctx, name, jobOf(t), true)
	if !errors.As(err, &invalid) || err.Error() != "job failed validation: job must have either a due time or a schedule" {
		t.Errorf("Schedule of an invalid job: %v", err)
	}
}

func TestListAndPrefixes(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	e, err := New(Options{Client: client, ID: "one", Deliver: newRecorder(nil)})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	const jobs = 2*listPage + 3
	job := jobOf(t, every("1h"))
	var wg sync.WaitGroup
	var n atomic.Int64
	for range 64 {
		wg.Go(func() {
			for i := n.Add(1); i <= jobs; i = n.Add(1) {
				if err := e.Schedule(ctx, fmt.Sprintf("app||ns||app||%05d", i), job, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, other := range []string{"app||ns||app2||x", "app||ns||ap||x", "actorreminder||ns||app||x||y"} {
		e.mustSchedule(t, other, every("1h"))
	}
	if _, err := client.Put(ctx, record.CounterKey("app||ns||app||00001"), "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(ctx, record.JobKey("app||ns||app||zzz"), "\xff"); err != nil {
		t.Fatal(err)
	}
	list, err := e.List(ctx, "app||ns||app||")
	if err != nil || len(list) != jobs {
		t.Fatalf("List: %d jobs, %v", len(list), err)
	}
	for i, named := range list {
		if want := fmt.Sprintf("app||ns||app||%05d", i+1); named.Name != want {
			t.Fatalf("number %d of the list is %q, not %q", i, named.Name, want)
		}
	}
	if n, err := e.DeletePrefix(ctx, "app||ns||app||", "app||ns||ap||"); err != nil || n != jobs+2 {
		t.Errorf("DeletePrefix: %d, %v", n, err)
	}
	if list, err = e.List(ctx, "a"); err != nil || len(list) != 2 || list[0].Name != "actorreminder||ns||app||x||y" {
		t.Errorf("List of the rest: %v, %v", list, err)
	}
	if resp, err := client.Get(ctx, record.Counters, clientv3.WithPrefix()); err != nil || len(resp.Kvs) > 0 {
		t.Errorf("counters left: %v, %v", resp, err)
	}
	if n, err := e.DeletePrefix(ctx); err != nil || n != 0 {
		t.Errorf("DeletePrefix of nothing: %d, %v", n, err)
	}
	if _, err := e.DeletePrefix(ctx, ""); err == nil {
		t.Error("an empty prefix deletes everything")
	}
}

// Of many that create the same job one wins, also when their writes share a transaction.
func TestCreateOnce(t *testing.T) {
	t.Parallel()
	e, err := New(Options{Client: etcdtest.Start(t).Client(), ID: "one", Deliver: newRecorder(nil)})
	if err != nil {
		t.Fatal(err)
	}
	job := jobOf(t, every("1h"))
	for round := range 20 {
		var wg sync.WaitGroup
		var won atomic.Int64
		for range 50 {
			wg.Go(func() {
				err := e.Schedule(t.Context(), fmt.Sprintf("app||ns||app||%d", round), job, false)
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, ErrExists):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("round %d: %d created the job", round, won.Load())
		}
	}
}

// A job that is deleted or overwritten while its trigger is out has it cancelled, and the result does not count.
func TestChangedInFlight(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	r := newRecorder(nil)
	e, _ := run(t, Options{Client: client, Deliver: r})
	joined(t, e)
	const name = "app||ns||app||job"
	e.mustSchedule(t, name, due("0s"))
	eventually(t, r.count(name, 1))
	first := r.triggers(name)[0]
	cancelled := make(chan struct{})
	first.OnCancel(func() { close(cancelled) })

	e.mustSchedule(t, name, due("0s"), data("second"))
	eventually(t, r.count(name, 2))
	wait(t, cancelled, "overwritten, the trigger is not cancelled")
	first.Done(Success)
	second := r.triggers(name)[1]
	if second.Job.Payload() == nil {
		t.Error("the second trigger has the content of the first")
	}
	if _, err := e.Get(t.Context(), name); err != nil {
		t.Errorf("the result of the first trigger ended the second job: %v", err)
	}

	if err := e.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	wait(t, cancellation(second), "deleted, the trigger is not cancelled")
	called := false
	second.OnCancel(func() { called = true })
	if !called {
		t.Error("OnCancel after cancellation is not called")
	}
	second.Done(Failed)

	// A job that is overwritten when it has come some way starts again.
	e.mustSchedule(t, name, every("50ms"), repeats(2))
	eventually(t, r.count(name, 3))
	r.triggers(name)[2].Done(Success)
	eventually(t, r.count(name, 4))
	e.mustSchedule(t, name, every("50ms"), repeats(2))
	if resp, err := client.Get(t.Context(), record.CounterKey(name)); err != nil || len(resp.Kvs) > 0 {
		t.Errorf("the counter of the overwritten job is there: %v %v", resp, err)
	}
	for i := 4; i < 6; i++ {
		eventually(t, r.count(name, i+1))
		r.triggers(name)[i].Done(Success)
	}
	e.absent(t, name)
}

// The content of a job that is due late is read when it is.
func TestContentIsReadAgain(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	clock := clockwork.NewFakeClockAt(noon)
	r := newRecorder(succeed)
	e, _ := run(t, Options{Client: server.Client(), Deliver: r, Clock: clock})
	joined(t, e)
	for i := range 100 {
		e.mustSchedule(t, fmt.Sprintf("app||ns||app||%d", i), due("1h"), data(fmt.Sprintf("content %d", i)))
	}
	e.holds(t, "app||ns||app||99")
	e.loop.do(func() {
		for name, j := range e.loop.jobs {
			if j.content != nil {
				t.Errorf("%q is in memory for an hour", name)
			}
		}
	})
	clock.Advance(30 * time.Minute)
	for i := range 100 {
		name := fmt.Sprintf("app||ns||app||%d", i)
		advance(t, clock, time.Minute, time.Hour, r.count(name, 1))
		if got, want := r.triggers(name)[0].Job.Payload().Value, fmt.Sprintf("content %d", i); !strings.Contains(string(got), want) {
			t.Errorf("%q brought %q", name, got)
		}
	}
}

func wait(t *testing.T, c <-chan struct{}, complaint string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatal(complaint)
	}
}
