package actors

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/invocation"
	"outrigger.dev/resiliency"
)

// benchRuntime has a host that does nothing, with the built-in policies.
func benchRuntime(b *testing.B, reentrant bool) *Runtime {
	b.Helper()
	clock := clockwork.NewRealClock()
	r := New(Options{
		Namespace: "ns", PlacementConfigured: true, Placement: newFakePlacement(), Peers: new(fakePeers), Clock: clock,
		Resiliency: resiliency.New(resiliency.Options{Clock: clock}),
	})
	r.SetStore(true)
	c := DefaultTypeConfig()
	c.Reentrant = reentrant
	if _, err := r.Register(Hosting{Host: trivialHost{answer("ok")}, Types: map[string]TypeConfig{"T": c}}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.Close(context.Background()) })
	return r
}

type trivialHost struct{ resp *invocation.Response }

func (h trivialHost) Invoke(context.Context, *Call) (*invocation.Response, error) { return h.resp, nil }
func (h trivialHost) Remind(context.Context, *Reminder) error                     { return nil }
func (h trivialHost) Deactivate(context.Context, string, string) error            { return nil }

// BenchmarkInvokeLocal is what the runtime adds to a call of an actor that is active here.
func BenchmarkInvokeLocal(b *testing.B) {
	run := func(b *testing.B, r *Runtime, next func() bool, id string) {
		ctx, cancel := context.WithCancel(context.Background()) // as of a request
		defer cancel()
		req := new(invocation.Request)
		call := &Call{Type: "T", ID: id, Method: "m", Request: req}
		for next() {
			if _, err := r.Invoke(ctx, call); err != nil {
				b.Error(err)
				return
			}
		}
	}
	for _, reentrant := range []bool{false, true} {
		b.Run(fmt.Sprintf("reentrant=%v", reentrant), func(b *testing.B) {
			b.ReportAllocs()
			run(b, benchRuntime(b, reentrant), b.Loop, "1")
		})
	}
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		r := benchRuntime(b, false)
		var n atomic.Int64
		b.RunParallel(func(pb *testing.PB) { run(b, r, pb.Next, fmt.Sprint(n.Add(1))) })
	})
	b.Run("contended", func(b *testing.B) {
		b.ReportAllocs()
		r := benchRuntime(b, false)
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) { run(b, r, pb.Next, "1") })
	})
}

// BenchmarkActivation is the cost of an instance's life: made by a call, and halted.
func BenchmarkActivation(b *testing.B) {
	b.ReportAllocs()
	r := benchRuntime(b, false)
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	req := new(invocation.Request)
	i := 0
	for b.Loop() {
		if _, err := r.Invoke(context.Background(), &Call{Type: "T", ID: ids[i], Method: "m", Request: req}); err != nil {
			b.Fatal(err)
		}
		if i++; i == len(ids) {
			i = 0
			r.Halt(context.Background(), nil)
		}
	}
}
