package scheduler_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/app/apptest"
	"outrigger.dev/mesh/scheduler"
	"outrigger.dev/mesh/scheduler/schedulertest"
	"outrigger.dev/telemetry/logging/logtest"
)

// run starts a client that ends with the test, or with stop.

// callAll makes each of the calls.

// The list comes from whoever can be reached, and calls wait for it.

// Old schedulers have no list: the configured addresses are used.

func TestInitial(t *testing.T) {
	limits := []*schedulerv1.ConcurrencyLimit{{MaxConcurrent: 3, Target: &schedulerv1.ConcurrencyLimit_Actor{Actor: &schedulerv1.ConcurrencyLimitActor{Type: "A"}}}}
	cluster := schedulertest.NewCluster()
	a := cluster.Start(t)
	cluster.SetHosts(a.Address)
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address}})
	var before []*schedulertest.Stream
	for _, tc := range []struct {
		name   string
		accept scheduler.Accept
		want   string // "" for none
	}{
		{"jobs", scheduler.Accept{Jobs: true}, "app default JOB [] 0"},
		{"both", scheduler.Accept{Jobs: true, ActorTypes: []string{"B", "A", "B"}, Limits: limits}, "app default JOB REMINDER [A B] 1"},
		{"reminders", scheduler.Accept{ActorTypes: []string{"B", "A"}}, "app default REMINDER [A B] 0"},
		{"none", scheduler.Accept{Limits: limits}, ""},
		{"jobs again", scheduler.Accept{Jobs: true}, "app default JOB [] 0"},
	} {
		c.Accept(tc.accept)
		n := scheduler.DefaultJobStreams
		if tc.want == "" {
			n = 0
		}
		var streams []*schedulertest.Stream
		apptest.Until(t, tc.name+": the streams are there", func() bool {
			streams = a.Streams()
			return len(streams) == n && !slices.ContainsFunc(streams, func(s *schedulertest.Stream) bool { return slices.Contains(before, s) })
		})
		for _, s := range streams {
			if got := describe(s.Initial); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
			}
		}
		// The same in another order changes nothing.
		same := tc.accept
		same.ActorTypes = slices.Clone(same.ActorTypes)
		slices.Reverse(same.ActorTypes)
		c.Accept(same)
		before = streams
	}
	c.Accept(scheduler.Accept{Jobs: true, ActorTypes: []string{"X"}})
	apptest.Until(t, "the streams are replaced", func() bool {
		return len(a.Streams()) == 3 && !slices.ContainsFunc(a.Streams(), func(s *schedulertest.Stream) bool { return slices.Contains(before, s) })
	})
	opened := 0
	for _, call := range cluster.Calls() {
		if call.Method == "WatchJobs" {
			opened++
		}
	}
	if opened != 5*scheduler.DefaultJobStreams { // four of the table, and the last
		t.Errorf("%d streams were opened", opened)
	}
}

func describe(i *schedulerv1.WatchJobsRequestInitial) string {
	text := i.GetAppId() + " " + i.GetNamespace()
	for _, kind := range i.GetAcceptJobTypes() {
		text += " " + strings.TrimPrefix(strings.TrimPrefix(kind.String(), "JOB_TARGET_TYPE_"), "ACTOR_")
	}
	return text + " [" + strings.Join(i.GetActorTypes(), " ") + "] " + string(rune('0'+len(i.GetConcurrencyLimits())))
}

// work is a handler whose deliveries wait until they are told their results.

type work struct {
	started chan string
	cancels chan string
	finish  chan schedulerv1.WatchJobsRequestResultStatus
	running atomic.Int32
}

func newWork() *work {
	return &work{started: make(chan string, 100), cancels: make(chan string, 100), finish: make(chan schedulerv1.WatchJobsRequestResultStatus)}
}

func (w *work) trigger(ctx context.Context, job *schedulerv1.WatchJobsResponse) schedulerv1.WatchJobsRequestResultStatus {
	w.running.Add(1)
	defer w.running.Add(-1)
	w.started <- job.GetName()
	select {
	case result := <-w.finish:
		return result
	case <-ctx.Done():
		w.cancels <- job.GetName()
		return success
	}
}

func TestTriggers(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a := cluster.Start(t)
	cluster.SetHosts(a.Address)
	work := newWork()
	var log logtest.Log
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address}, JobStreams: 1, Log: log.Logger(), Trigger: func(ctx context.Context, job *schedulerv1.WatchJobsResponse) schedulerv1.WatchJobsRequestResultStatus {
		if job.GetName() == "panic" {
			panic("at the disco")
		}
		return work.trigger(ctx, job)
	}})
	c.Accept(scheduler.Accept{Jobs: true})
	apptest.Until(t, "there is a stream", func() bool { return len(a.Streams()) == 1 })
	if got := apptest.Receive(t, "the result", a.Trigger(schedulertest.AppJob("panic"))); got.Status != failed || got.Undeliverable {
		t.Errorf("a panic is %+v", got)
	}
	if log.Count("at the disco") != 1 {
		t.Errorf("log: %s", &log)
	}
	// Many run side by side, on one stream.
	var results []<-chan schedulertest.Result
	const n = 50
	for range n {
		results = append(results, a.Trigger(schedulertest.AppJob("job")))
	}
	for range n {
		apptest.Receive(t, "the start", work.started)
	}
	for i := range n {
		work.finish <- schedulerv1.WatchJobsRequestResultStatus(i % 2)
	}
	failures := 0
	for _, r := range results {
		got := apptest.Receive(t, "a result", r)
		if got.Undeliverable {
			t.Error("undeliverable")
		}
		failures += int(got.Status)
	}
	if failures != n/2 {
		t.Errorf("%d failures", failures)
	}

	bare, _ := run(t, scheduler.Options{Addresses: []string{a.Address}, JobStreams: 1})
	c.Accept(scheduler.Accept{})
	bare.Accept(scheduler.Accept{Jobs: true, ActorTypes: []string{"T"}})
	apptest.Until(t, "there is the other's stream", func() bool { s := a.Streams(); return len(s) == 1 && len(s[0].Initial.GetActorTypes()) == 1 })
	if got := apptest.Receive(t, "the result", a.Trigger(schedulertest.AppJob("job"))); got.Status != failed {
		t.Errorf("without a handler: %+v", got)
	}
}

// When what is accepted changes, new streams open while deliveries of the old ones go on, and their results arrive.

func TestReplacedStreamsFinish(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a := cluster.Start(t)
	cluster.SetHosts(a.Address)
	work := newWork()
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address}, JobStreams: 1, Trigger: work.trigger})
	c.Accept(scheduler.Accept{Jobs: true})
	apptest.Until(t, "there is a stream", func() bool { return len(a.Streams()) == 1 })
	old := a.Streams()[0]
	first := old.Trigger(schedulertest.AppJob("first"))
	apptest.Receive(t, "the start", work.started)

	c.Accept(scheduler.Accept{Jobs: true, ActorTypes: []string{"T"}})
	apptest.Until(t, "both streams are open", func() bool { return len(a.Streams()) == 2 })
	// What is still accepted is taken by the old stream, too.
	second := old.Trigger(schedulertest.AppJob("second"))
	apptest.Receive(t, "the start of the second", work.started)
	work.finish <- success
	work.finish <- success
	for _, result := range []<-chan schedulertest.Result{first, second} {
		if got := apptest.Receive(t, "the result", result); got.Undeliverable || got.Status != success {
			t.Errorf("%+v", got)
		}
	}
	apptest.Until(t, "the old stream is gone", func() bool { s := a.Streams(); return len(s) == 1 && s[0] != old })
	if len(work.cancels) > 0 {
		t.Error("a delivery was cancelled")
	}
}

// What is not accepted any more is left to others, and soon.

func TestReplacedStreamsHold(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a := cluster.Start(t)
	cluster.SetHosts(a.Address)
	work := newWork()
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address}, JobStreams: 1, Grace: time.Hour, Trigger: work.trigger})
	c.Accept(scheduler.Accept{Jobs: true, ActorTypes: []string{"T"}})
	apptest.Until(t, "there is a stream", func() bool { return len(a.Streams()) == 1 })
	old := a.Streams()[0]
	reminder := old.Trigger(schedulertest.Reminder("r", "T", "1"))
	apptest.Receive(t, "the start", work.started)
	c.Accept(scheduler.Accept{ActorTypes: []string{"T"}}) // the app is not healthy
	apptest.Until(t, "both streams are open", func() bool { return len(a.Streams()) == 2 })
	if got := apptest.Receive(t, "the job's fate", old.Trigger(schedulertest.AppJob("job"))); !got.Undeliverable {
		t.Errorf("%+v", got)
	}
	if got := apptest.Receive(t, "the reminder's fate", reminder); !got.Undeliverable {
		t.Errorf("%+v", got)
	}
	if got := apptest.Receive(t, "the cancelled delivery", work.cancels); got != "r" {
		t.Error(got)
	}
	if len(work.started) > 0 {
		t.Errorf("%s was started", <-work.started)
	}
}

// The grace is bounded.

func TestReplacedStreamsEnd(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a := cluster.Start(t)
	cluster.SetHosts(a.Address)
	work := newWork()
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address}, JobStreams: 1, Grace: time.Millisecond, Trigger: work.trigger})
	c.Accept(scheduler.Accept{Jobs: true})
	apptest.Until(t, "there is a stream", func() bool { return len(a.Streams()) == 1 })
	result := a.Trigger(schedulertest.AppJob("long"))
	apptest.Receive(t, "the start", work.started)
	c.Accept(scheduler.Accept{Jobs: true, ActorTypes: []string{"T"}})
	apptest.Receive(t, "the cancelled delivery", work.cancels)
	if got := apptest.Receive(t, "the result", result); !got.Undeliverable {
		t.Errorf("%+v", got)
	}
}

// The end of Run cancels deliveries, awaits them, and answers nothing.

// A scheduler that dies takes its own streams with it, and no others; it is tried again.

// A broken stream is opened again, and only that one.

func TestStreamBreaks(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a := cluster.Start(t)
	cluster.SetHosts(a.Address)
	var opened atomic.Int32
	cluster.SetFault(func(method, _ string) error {
		if method == "WatchJobs" && opened.Add(1) == 2 {
			return status.Error(codes.Internal, "not this one")
		}
		return nil
	})
	var log logtest.Log
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address}, Log: log.Logger()})
	c.Accept(scheduler.Accept{Jobs: true})
	apptest.Until(t, "all streams are open", func() bool { return opened.Load() == 4 && len(a.Streams()) == 3 })
	if log.Count("not this one") != 1 {
		t.Errorf("log: %s", &log)
	}
}

// Schedulers that come get streams; those that stay keep theirs; those that go may have their last results.
