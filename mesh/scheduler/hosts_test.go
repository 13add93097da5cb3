package scheduler_test

import (
	"context"
	"slices"
	"strings"
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

func TestNoList(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a, b := cluster.Start(t), cluster.Start(t)
	a.Stop()
	var log logtest.Log
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address, b.Address}, Log: log.Logger()})
	apptest.Until(t, "the dead one was tried", func() bool { return log.Count("check that the scheduler runs") > 0 })
	if isReady(c) {
		t.Error("ready")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Get(ctx, &schedulerv1.GetJobRequest{})
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), a.Address) {
		t.Errorf("%v", err)
	}
	cluster.SetHosts(b.Address)
	apptest.Receive(t, "readiness", c.Ready())
	if got := c.Connected(); !slices.Equal(got, []string{b.Address}) {
		t.Errorf("connected to %q", got)
	}
	// An empty list is not believed.
	cluster.SetHosts([]string{}...)
	cluster.SetHosts("")
	apptest.Until(t, "the empty list was seen", func() bool { return log.Count("names none") > 0 })
	if got := c.Connected(); !slices.Equal(got, []string{b.Address}) {
		t.Errorf("connected to %q", got)
	}
}

func TestUnimplementedList(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a, b := cluster.Start(t), cluster.Start(t)
	cluster.SetFault(func(method, _ string) error {
		if method == "WatchHosts" {
			return status.Error(codes.Unimplemented, "no such method")
		}
		return nil
	})
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address, b.Address, a.Address}, JobStreams: 1})
	c.Accept(scheduler.Accept{Jobs: true})
	apptest.Receive(t, "readiness", c.Ready())
	if got := c.Connected(); !slices.Equal(got, []string{a.Address, b.Address}) {
		t.Errorf("connected to %q", got)
	}
	apptest.Until(t, "both have a stream", func() bool { return len(a.Streams()) == 1 && len(b.Streams()) == 1 })
	if err := callAll(t.Context(), c)["ListJobs"]; err != nil {
		t.Error(err)
	}
}

func TestInstanceDies(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a, b := cluster.Start(t), cluster.Start(t)
	cluster.SetHosts(a.Address, b.Address)
	work := newWork()
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address, b.Address}, JobStreams: 2, Trigger: work.trigger})
	c.Accept(scheduler.Accept{Jobs: true})
	apptest.Until(t, "both have streams", func() bool { return len(a.Streams()) == 2 && len(b.Streams()) == 2 })
	kept := a.Streams()
	onA := a.Trigger(schedulertest.AppJob("on a"))
	apptest.Receive(t, "the start", work.started)
	b.Trigger(schedulertest.AppJob("on b"))
	apptest.Receive(t, "the start", work.started)
	b.Stop()
	if got := apptest.Receive(t, "the cancelled delivery", work.cancels); got != "on b" {
		t.Errorf("%s was cancelled", got)
	}
	work.finish <- success
	if got := apptest.Receive(t, "the result", onA); got.Undeliverable {
		t.Error("the delivery of the other was cancelled")
	}
	if !slices.Equal(a.Streams(), kept) {
		t.Error("the streams of the other are not the same any more")
	}
	for range 10 { // calls go to the one that lives
		if _, err := c.Delete(t.Context(), &schedulerv1.DeleteJobRequest{Name: "x"}); err != nil {
			t.Error(err)
		}
	}
}

func TestHostsChange(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a, b, d := cluster.Start(t), cluster.Start(t), cluster.Start(t)
	cluster.SetHosts(a.Address, b.Address)
	work := newWork()
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address}, JobStreams: 1, Trigger: work.trigger})
	c.Accept(scheduler.Accept{Jobs: true})
	apptest.Until(t, "both have a stream", func() bool { return len(a.Streams()) == 1 && len(b.Streams()) == 1 })
	kept := a.Streams()
	stays, goes := a.Trigger(schedulertest.AppJob("stays")), b.Trigger(schedulertest.AppJob("goes"))
	apptest.Receive(t, "the start", work.started)
	apptest.Receive(t, "the start", work.started)
	cluster.SetHosts(d.Address, a.Address)
	apptest.Until(t, "the new one has a stream", func() bool { return len(d.Streams()) == 1 })
	work.finish <- success
	work.finish <- success
	for _, result := range []<-chan schedulertest.Result{stays, goes} {
		if got := apptest.Receive(t, "the result", result); got.Undeliverable || got.Status != success {
			t.Errorf("%+v", got)
		}
	}
	apptest.Until(t, "the old one has no stream", func() bool { return len(b.Streams()) == 0 })
	if !slices.Equal(a.Streams(), kept) {
		t.Error("the stream to the one that stays is another")
	}
	if got := c.Connected(); !slices.Equal(got, []string{d.Address, a.Address}) {
		t.Errorf("connected to %q", got)
	}
	seen := len(cluster.Calls())
	apptest.Until(t, "the new one is asked", func() bool {
		_, _ = c.Delete(t.Context(), &schedulerv1.DeleteJobRequest{Name: "x"})
		return slices.Contains(cluster.Calls()[seen:], schedulertest.Call{Method: "DeleteJob", Address: d.Address})
	})
	// It may come back.
	cluster.SetHosts(b.Address)
	apptest.Until(t, "only that one has a stream", func() bool { return len(a.Streams()) == 0 && len(b.Streams()) == 1 && len(d.Streams()) == 0 })
}
