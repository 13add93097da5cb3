package engine

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/scheduler/etcdtest"
)

// BenchmarkSchedule is the creation of jobs by many clients at once.
func BenchmarkSchedule(b *testing.B) {
	for _, clients := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			e, _ := run(b, Options{Client: etcdtest.Start(b).Client(), Deliver: newRecorder(succeed)})
			joined(b, e)
			job := jobOf(b, every("24h"), data("some data of a job that is not long"))
			var next atomic.Int64
			b.ResetTimer()
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() {
					for {
						n := next.Add(1)
						if n > int64(b.N) {
							return
						}
						if err := e.Schedule(b.Context(), fmt.Sprintf("app||ns||app||job-%d", n), job, true); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}

// BenchmarkFire is the whole life of a job that is due at once: stored, triggered, deleted.
func BenchmarkFire(b *testing.B) {
	var fired atomic.Int64
	done := make(chan struct{})
	total := int64(b.N)
	deliver := delivererFunc(func(t *Trigger) {
		t.Done(Success)
		if fired.Add(1) == total {
			close(done)
		}
	})
	e, _ := run(b, Options{Client: etcdtest.Start(b).Client(), Deliver: deliver})
	joined(b, e)
	job := jobOf(b, due("0s"), data("some data of a job that is not long"))
	var next atomic.Int64
	b.ResetTimer()
	var wg sync.WaitGroup
	for range 128 {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if n > total {
					return
				}
				if err := e.Schedule(b.Context(), fmt.Sprintf("app||ns||app||job-%d", n), job, true); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	<-done
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

// BenchmarkTicks is how many ticks of stored jobs an engine can trigger and count.
func BenchmarkTicks(b *testing.B) {
	var fired atomic.Int64
	done := make(chan struct{})
	total := int64(b.N)
	deliver := delivererFunc(func(t *Trigger) {
		t.Done(Success)
		if fired.Add(1) == total {
			close(done)
		}
	})
	e, _ := run(b, Options{Client: etcdtest.Start(b).Client(), Deliver: deliver})
	joined(b, e)
	b.ResetTimer()
	for n := range 500 {
		e.mustSchedule(b, fmt.Sprintf("app||ns||app||job-%d", n), every("1ms"))
	}
	<-done
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ticks/s")
}

// BenchmarkLoad is the start of an engine on 100,000 stored jobs, and what they cost in memory.
func BenchmarkLoad(b *testing.B) {
	const jobs = 100_000
	server := etcdtest.Start(b)
	writer, err := New(Options{Client: server.Client(), ID: "writer", Deliver: newRecorder(nil)})
	if err != nil {
		b.Fatal(err)
	}
	job := jobOf(b, every("24h"), func(j *schedulerv1.Job) {
		j.Data = &anypb.Any{TypeUrl: "type.googleapis.com/google.protobuf.BytesValue", Value: make([]byte, 200)}
	})
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if n > jobs {
					return
				}
				if err := writer.Schedule(b.Context(), fmt.Sprintf("actorreminder||default||some-type||actor-%d||reminder", n), job, true); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for b.Loop() {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		begun := time.Now()
		e, stop := run(b, Options{Client: server.Client(), Deliver: newRecorder(nil)})
		joined(b, e)
		b.ReportMetric(time.Since(begun).Seconds(), "s/load")
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/jobs, "B/job")
		stop()
	}
}

type delivererFunc func(t *Trigger)

func (f delivererFunc) Deliver(t *Trigger) { f(t) }
