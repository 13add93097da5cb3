package scheduler_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/app/apptest"
	"outrigger.dev/mesh/scheduler"
	"outrigger.dev/mesh/scheduler/schedulertest"
)

func callAll(ctx context.Context, c *scheduler.Client) map[string]error {
	metadata := schedulertest.AppJob("").GetMetadata()
	errs := map[string]error{}
	_, errs["ScheduleJob"] = c.Schedule(ctx, &schedulerv1.ScheduleJobRequest{Name: "a", Metadata: metadata, Job: &schedulerv1.Job{}, Overwrite: true})
	_, errs["GetJob"] = c.Get(ctx, &schedulerv1.GetJobRequest{Name: "a", Metadata: metadata})
	_, errs["ListJobs"] = c.List(ctx, &schedulerv1.ListJobsRequest{Metadata: metadata})
	_, errs["DeleteJob"] = c.Delete(ctx, &schedulerv1.DeleteJobRequest{Name: "a", Metadata: metadata})
	_, errs["DeleteByMetadata"] = c.DeleteByMetadata(ctx, &schedulerv1.DeleteByMetadataRequest{Metadata: metadata})
	_, errs["DeleteByNamePrefix"] = c.DeleteByNamePrefix(ctx, &schedulerv1.DeleteByNamePrefixRequest{Metadata: metadata, NamePrefix: "a"})
	return errs
}

func TestCallsGoRound(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a, b := cluster.Start(t), cluster.Start(t)
	cluster.SetHosts(a.Address, b.Address)
	c, stop := run(t, scheduler.Options{Addresses: []string{a.Address}})
	for name, err := range callAll(t.Context(), c) {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !isReady(c) || !slices.Equal(c.Connected(), []string{a.Address, b.Address}) {
		t.Errorf("ready %t, connected to %q", isReady(c), c.Connected())
	}
	count := func(address string) (n int) {
		for _, call := range cluster.Calls() {
			if call.Method == "GetJob" && call.Address == address {
				n++
			}
		}
		return n
	}
	apptest.Until(t, "both were asked", func() bool {
		_, err := c.Get(t.Context(), &schedulerv1.GetJobRequest{Name: "none", Metadata: schedulertest.AppJob("").GetMetadata()})
		if status.Code(err) != codes.NotFound || status.Convert(err).Message() != "job not found: none" {
			t.Fatalf("%v", err)
		}
		return count(a.Address) > 0 && count(b.Address) > 0
	})
	beforeA, beforeB := count(a.Address), count(b.Address)
	for range 10 {
		_, _ = c.Get(t.Context(), &schedulerv1.GetJobRequest{Name: "none", Metadata: schedulertest.AppJob("").GetMetadata()})
	}
	if count(a.Address)-beforeA != 5 || count(b.Address)-beforeB != 5 {
		t.Errorf("%d and %d calls", count(a.Address)-beforeA, count(b.Address)-beforeB)
	}

	stop()
	for name, err := range callAll(t.Context(), c) {
		if !errors.Is(err, scheduler.ErrClosed) {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
}

func TestCallsAgain(t *testing.T) {
	for _, tc := range []struct {
		name string
		code codes.Code
		// again are the calls that are made again.
		again string
	}{
		{"cancelled", codes.Canceled, "ScheduleJob GetJob DeleteJob ListJobs DeleteByMetadata DeleteByNamePrefix"},
		{"broken", codes.Unavailable, "ScheduleJob GetJob DeleteJob"},
		{"internal", codes.Internal, ""},
		{"exists", codes.AlreadyExists, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cluster := schedulertest.NewCluster()
			a, b := cluster.Start(t), cluster.Start(t)
			cluster.SetHosts(a.Address, b.Address)
			var mu sync.Mutex
			seen := map[string]bool{}
			cluster.SetFault(func(method, _ string) error {
				mu.Lock()
				defer mu.Unlock()
				if method == "WatchHosts" || seen[method] {
					return nil
				}
				seen[method] = true
				return status.Error(tc.code, "not now")
			})
			c, _ := run(t, scheduler.Options{Addresses: []string{a.Address}})
			for name, err := range callAll(t.Context(), c) {
				again := slices.Contains(strings.Fields(tc.again), name)
				switch {
				case again && err == nil:
				case !again && status.Code(err) == tc.code:
				default:
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}

	// A job may be stored already: without overwriting, a broken call is not made again.
	cluster := schedulertest.NewCluster()
	a := cluster.Start(t)
	cluster.SetHosts(a.Address)
	cluster.SetFault(func(method, _ string) error {
		if method == "ScheduleJob" {
			return status.Error(codes.Unavailable, "broken")
		}
		return nil
	})
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address}})
	if _, err := c.Schedule(t.Context(), &schedulerv1.ScheduleJobRequest{Name: "a", Job: &schedulerv1.Job{}}); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}

	// Retries end with the context.
	cluster.SetFault(func(method, _ string) error {
		if method == "WatchHosts" {
			return nil
		}
		return status.Error(codes.Canceled, "never")
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Get(ctx, &schedulerv1.GetJobRequest{Name: "a"}); err == nil {
		t.Error("no error")
	}
}

func TestCallsWait(t *testing.T) {
	cluster := schedulertest.NewCluster()
	a, b := cluster.Start(t), cluster.Start(t)
	b.Stop()
	cluster.SetHosts(b.Address) // the one that is dead
	c, _ := run(t, scheduler.Options{Addresses: []string{a.Address}})
	apptest.Receive(t, "readiness", c.Ready())

	// Lists fail at once, even with a context that does not end.
	if _, err := c.List(t.Context(), &schedulerv1.ListJobsRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	if _, err := c.DeleteByNamePrefix(t.Context(), &schedulerv1.DeleteByNamePrefixRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Get(ctx, &schedulerv1.GetJobRequest{}); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
	// Others wait until somebody can be reached.
	waited := make(chan error)
	go func() {
		_, err := c.Schedule(t.Context(), &schedulerv1.ScheduleJobRequest{Name: "a", Job: &schedulerv1.Job{}})
		waited <- err
	}()
	cluster.SetHosts(b.Address, a.Address)
	if err := apptest.Receive(t, "the call that waited", waited); err != nil {
		t.Error(err)
	}
}
