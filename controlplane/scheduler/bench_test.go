package scheduler

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// BenchmarkCreate creates jobs through the gRPC API; service and callers share the machine.
func BenchmarkCreate(b *testing.B) {
	for _, callers := range []int{1, 32} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			r := launch(b, nil)
			c := r.dial(nil)
			var n atomic.Int64
			var tasks sync.WaitGroup
			b.ResetTimer()
			for range callers {
				tasks.Go(func() {
					for {
						i := n.Add(1)
						if i > int64(b.N) {
							return
						}
						if _, err := c.ScheduleJob(context.Background(), due(fmt.Sprint("job-", i), "24h", job("app"))); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			tasks.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
		})
	}
}

// BenchmarkTrigger has due jobs taken by the three streams of a sidecar, from the first trigger to the deletion of the last job.
func BenchmarkTrigger(b *testing.B) {
	r := launch(b, nil)
	c := r.dial(nil)
	var n atomic.Int64
	var tasks sync.WaitGroup
	for range 32 {
		tasks.Go(func() {
			for {
				i := n.Add(1)
				if i > int64(b.N) {
					return
				}
				if _, err := c.ScheduleJob(context.Background(), due(fmt.Sprint("job-", i), "0s", job("app"))); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	tasks.Wait()
	b.ResetTimer()
	var got atomic.Int64
	done := make(chan struct{})
	for range 3 {
		w := watch(b, r.dial(nil), &schedulerv1.WatchJobsRequestInitial{AppId: "app", Namespace: "ns"})
		tasks.Go(func() {
			for {
				m, err := w.Recv()
				if err != nil {
					return
				}
				w.result(m.Id, success)
				if got.Add(1) == int64(b.N) {
					close(done)
				}
			}
		})
	}
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		b.Fatalf("%d of %d triggers", got.Load(), b.N)
	}
	waitFor(b, "all jobs to be deleted", func() bool { return len(names(b, c, job("app"))) == 0 })
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "triggers/s")
	r.stop()
	tasks.Wait()
}
