package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/scheduler/record"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// patience bounds every wait of these tests.
const patience = 60 * time.Second

// recorder is a deliverer that remembers, and answers as told.
type recorder struct {
	answer func(t *Trigger) // nil: keep the trigger

	mu   sync.Mutex
	got  []*Trigger
	news chan struct{}
}

func newRecorder(answer func(t *Trigger)) *recorder {
	return &recorder{answer: answer, news: make(chan struct{}, 1)}
}

func succeed(t *Trigger) { t.Done(Success) }

func (r *recorder) Deliver(t *Trigger) {
	r.mu.Lock()
	r.got = append(r.got, t)
	r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
	if r.answer != nil {
		r.answer(t)
	}
}

// cancellation is closed when the trigger is cancelled.
func cancellation(t *Trigger) <-chan struct{} {
	c := make(chan struct{})
	t.OnCancel(func() { close(c) })
	return c
}

// triggers are all so far of a name.
func (r *recorder) triggers(name string) []*Trigger {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*Trigger
	for _, t := range r.got {
		if t.Name == name {
			list = append(list, t)
		}
	}
	return list
}

// eventually waits until f has no complaint.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", patience, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// run starts an engine and stops it at the end of the test or by the returned function.
func run(t testing.TB, o Options) (*Engine, context.CancelFunc) {
	t.Helper()
	if o.Lease == 0 {
		o.Lease = 2 * time.Second
	}
	if o.ID == "" {
		o.ID = "one"
	}
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(writerOf{t}, nil))
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := e.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	stop := func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("the engine does not stop")
		}
	}
	t.Cleanup(stop)
	return e, stop
}

type writerOf struct{ t testing.TB }

func (w writerOf) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func joined(t testing.TB, engines ...*Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, e := range engines {
		if err := e.Joined(ctx); err != nil {
			t.Fatalf("the engine %s does not join: %v", e.o.ID, err)
		}
	}
}

func metadata() *schedulerv1.JobMetadata {
	return &schedulerv1.JobMetadata{AppId: "app", Namespace: "ns", Target: &schedulerv1.JobTargetMetadata{
		Type: &schedulerv1.JobTargetMetadata_Job{Job: &schedulerv1.TargetJob{}},
	}}
}

// spec changes what a test job asks for.
type spec func(*schedulerv1.Job)

func every(s string) spec {
	return func(j *schedulerv1.Job) { j.Schedule = proto.String("@every " + s) }
}
func due(s string) spec { return func(j *schedulerv1.Job) { j.DueTime = proto.String(s) } }
func ttl(s string) spec { return func(j *schedulerv1.Job) { j.Ttl = proto.String(s) } }
func repeats(n uint32) spec {
	return func(j *schedulerv1.Job) { j.Repeats = proto.Uint32(n) }
}

func drop() spec {
	return func(j *schedulerv1.Job) {
		j.FailurePolicy = &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Drop{Drop: &commonv1.JobFailurePolicyDrop{}}}
	}
}

func retry(interval time.Duration, most *uint32) spec {
	return func(j *schedulerv1.Job) {
		j.FailurePolicy = &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Constant{Constant: &commonv1.JobFailurePolicyConstant{
			Interval: durationpb.New(interval), MaxRetries: most,
		}}}
	}
}

func data(s string) spec {
	return func(j *schedulerv1.Job) {
		a, err := anypb.New(wrapperspb.String(s))
		if err != nil {
			panic(err)
		}
		j.Data = a
	}
}

func jobOf(t testing.TB, specs ...spec) *record.Job {
	t.Helper()
	j := new(schedulerv1.Job)
	for _, s := range specs {
		s(j)
	}
	r, err := record.New(j, metadata())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (e *Engine) mustSchedule(t testing.TB, name string, specs ...spec) {
	t.Helper()
	if err := e.Schedule(t.Context(), name, jobOf(t, specs...), true); err != nil {
		t.Fatal(err)
	}
}

// holds waits until the loop knows the job.
func (e *Engine) holds(t testing.TB, name string) {
	t.Helper()
	eventually(t, func() (err error) {
		e.loop.do(func() {
			if e.loop.jobs[name] == nil {
				err = fmt.Errorf("the engine does not know %q", name)
			}
		})
		return err
	})
}

// absent waits until the job is not stored.
func (e *Engine) absent(t testing.TB, name string) {
	t.Helper()
	eventually(t, func() error {
		_, err := e.Get(t.Context(), name)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return fmt.Errorf("the job %q is still there (%v)", name, err)
	})
}
