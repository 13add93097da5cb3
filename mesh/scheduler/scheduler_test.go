package scheduler_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/app/apptest"
	"outrigger.dev/mesh/scheduler"
	"outrigger.dev/mesh/scheduler/schedulertest"
)

const (
	success = schedulerv1.WatchJobsRequestResultStatus_SUCCESS
	failed  = schedulerv1.WatchJobsRequestResultStatus_FAILED
)

func run(t testing.TB, o scheduler.Options) (c *scheduler.Client, stop func()) {
	t.Helper()
	o.AppID, o.Namespace = "app", "default"
	if o.Rand == nil {
		o.Rand = func() float64 { return 0 } // the shortest pauses
	}
	c = scheduler.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := apptest.Receive(t, "the end of Run", ended); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return c, stop
}

func isReady(c *scheduler.Client) bool {
	select {
	case <-c.Ready():
		return true
	default:
		return false
	}
}

func TestDisabled(t *testing.T) {
	for _, addresses := range [][]string{nil, {""}} {
		c, _ := run(t, scheduler.Options{Addresses: addresses})
		if !isReady(c) || c.Connected() != nil {
			t.Errorf("ready %t, connected to %q", isReady(c), c.Connected())
		}
		c.Accept(scheduler.Accept{Jobs: true})
		for name, err := range callAll(t.Context(), c) {
			if !errors.Is(err, scheduler.ErrDisabled) || err.Error() != "scheduler clients are disabled" {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestDrain(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a := cluster.Start(t)
	cluster.SetHosts(a.Address)
	work := newWork()
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address}, Trigger: work.trigger})
	c.Accept(scheduler.Accept{Jobs: true})
	apptest.Until(t, "there are streams", func() bool { return len(a.Streams()) == 3 })
	result := a.Trigger(schedulertest.AppJob("job"))
	apptest.Receive(t, "the start", work.started)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drained with %v while a delivery runs", err)
	}
	drained := make(chan error)
	go func() { drained <- c.Drain(t.Context()) }()
	work.finish <- success
	if err := apptest.Receive(t, "the drain", drained); err != nil {
		t.Error(err)
	}
	if got := apptest.Receive(t, "the result", result); got.Undeliverable || got.Status != success {
		t.Errorf("%+v", got)
	}
	apptest.Until(t, "no stream is left", func() bool { return len(a.Streams()) == 0 })
	c.Accept(scheduler.Accept{Jobs: true})
	apptest.Until(t, "there are streams again", func() bool { return len(a.Streams()) == 3 })
}

func TestEnd(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a := cluster.Start(t)
	cluster.SetHosts(a.Address)
	work := newWork()
	c, stop := run(t, scheduler.Options{Addresses: []string{a.Address}, Trigger: work.trigger})
	c.Accept(scheduler.Accept{Jobs: true})
	apptest.Until(t, "there are streams", func() bool { return len(a.Streams()) == 3 })
	result := a.Trigger(schedulertest.AppJob("job"))
	apptest.Receive(t, "the start", work.started)
	stop()
	if n := work.running.Load(); n != 0 {
		t.Errorf("%d deliveries run after the end", n)
	}
	if got := apptest.Receive(t, "the result", result); !got.Undeliverable {
		t.Errorf("%+v", got)
	}
	if c.Connected() != nil {
		t.Errorf("connected to %q", c.Connected())
	}
}
