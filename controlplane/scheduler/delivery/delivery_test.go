package delivery

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// results is a finisher that remembers.
type results struct {
	mu   sync.Mutex
	told []string
}

func (r *results) Finish(t *Task, succeeded bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, fmt.Sprintf("%s %v", t.Name, succeeded))
}

func (r *results) expect(t *testing.T, want ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if fmt.Sprint(r.told) != fmt.Sprint(want) {
		t.Errorf("finished: %q, want %q", r.told, want)
	}
	r.told = nil
}

// counts is an observer that adds up.
type counts struct {
	streams, undelivered int
	inflight, pending    map[string]int
	throttled            int
	forgotten            []string
}

func newCounts() *counts { return &counts{inflight: map[string]int{}, pending: map[string]int{}} }

func (c *counts) Streams(delta int)              { c.streams += delta }
func (c *counts) Undelivered(bool)               { c.undelivered++ }
func (c *counts) Inflight(key string, delta int) { c.inflight[key] += delta }
func (c *counts) Pending(key string, delta int)  { c.pending[key] += delta }
func (c *counts) Throttled(string)               { c.throttled++ }
func (c *counts) Forget(key string)              { c.forgotten = append(c.forgotten, key) }

// bed is a pool with its observers.
type bed struct {
	*Pool
	t       *testing.T
	counts  *counts
	results *results
}

func newBed(t *testing.T, change ...func(*Options)) *bed {
	b := &bed{t: t, counts: newCounts(), results: &results{}}
	o := Options{Observer: b.counts}
	for _, c := range change {
		c(&o)
	}
	b.Pool = New(o)
	return b
}

func (b *bed) job(app, name string) *Task {
	task := &Task{Name: name, Finisher: b.results, Metadata: &schedulerv1.JobMetadata{Namespace: "ns", AppId: app, Target: &schedulerv1.JobTargetMetadata{
		Type: &schedulerv1.JobTargetMetadata_Job{Job: &schedulerv1.TargetJob{}},
	}}}
	b.Deliver(task)
	return task
}

func (b *bed) reminder(actorType, name, key string) *Task {
	task := &Task{Name: name, Finisher: b.results, Metadata: &schedulerv1.JobMetadata{Namespace: "ns", AppId: "whoever", Target: &schedulerv1.JobTargetMetadata{
		Type: &schedulerv1.JobTargetMetadata_Actor{Actor: &schedulerv1.TargetActorReminder{Type: actorType, Id: "1"}},
	}}}
	if key != "" {
		task.Metadata.ConcurrencyKey = proto.String(key)
	}
	b.Deliver(task)
	return task
}

func initial(app string, types ...string) *schedulerv1.WatchJobsRequestInitial {
	return &schedulerv1.WatchJobsRequestInitial{AppId: app, Namespace: "ns", ActorTypes: types}
}

func limit(actorType, name string, most int32) *schedulerv1.ConcurrencyLimit {
	l := &schedulerv1.ConcurrencyLimit{MaxConcurrent: most, Target: &schedulerv1.ConcurrencyLimit_Actor{Actor: &schedulerv1.ConcurrencyLimitActor{Type: actorType}}}
	if name != "" {
		l.Name = proto.String(name)
	}
	return l
}

func (b *bed) open(i *schedulerv1.WatchJobsRequestInitial, limits ...*schedulerv1.ConcurrencyLimit) *Stream {
	b.t.Helper()
	i.ConcurrencyLimits = limits
	s, err := b.Open(i)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// next takes what a stream has at once; "" when it has nothing. The stream is idle afterwards only if it had nothing.
func (b *bed) next(s *Stream) (string, uint64) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// A task that is there comes even though the context has ended.
	m, err := s.Next(ctx)
	if err != nil {
		return "", 0
	}
	return m.Name, m.Id
}

// drain takes all that a stream has, and leaves it idle.
func (b *bed) drain(s *Stream) (names []string) {
	for {
		name, _ := b.next(s)
		if name == "" {
			return names
		}
		names = append(names, name)
	}
}

func (b *bed) expectNames(s *Stream, want ...string) {
	b.t.Helper()
	if got := b.drain(s); fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Errorf("the stream has %q, want %q", got, want)
	}
}

func answer(id uint64, s schedulerv1.WatchJobsRequestResultStatus) *schedulerv1.WatchJobsRequest {
	return &schedulerv1.WatchJobsRequest{WatchJobRequestType: &schedulerv1.WatchJobsRequest_Result{Result: &schedulerv1.WatchJobsRequestResult{Id: id, Status: s}}}
}

const (
	success = schedulerv1.WatchJobsRequestResultStatus_SUCCESS
	failed  = schedulerv1.WatchJobsRequestResultStatus_FAILED
)

func (b *bed) result(s *Stream, id uint64, st schedulerv1.WatchJobsRequestResultStatus) {
	b.t.Helper()
	if err := s.Receive(answer(id, st)); err != nil {
		b.t.Error(err)
	}
}

func TestDeliverAndResults(t *testing.T) {
	b := newBed(t)
	s := b.open(initial("app"))
	b.drain(s)
	b.job("app", "a")
	b.job("app", "b")
	b.job("other", "c")
	b.expectNames(s, "a", "b")
	b.result(s, 2, failed)
	b.result(s, 1, success)
	b.results.expect(t, "b false", "a true")
	if b.counts.undelivered != 1 || b.counts.streams != 1 {
		t.Errorf("%+v", b.counts)
	}
}

func TestRouting(t *testing.T) {
	reminders := schedulerv1.JobTargetType_JOB_TARGET_TYPE_ACTOR_REMINDER
	jobs := schedulerv1.JobTargetType_JOB_TARGET_TYPE_JOB
	for name, tt := range map[string]struct {
		initial *schedulerv1.WatchJobsRequestInitial
		want    []string
	}{
		"everything": {initial("app", "T"), []string{"job", "reminder"}},
		"only jobs":  {&schedulerv1.WatchJobsRequestInitial{AppId: "app", Namespace: "ns", ActorTypes: []string{"T"}, AcceptJobTypes: []schedulerv1.JobTargetType{jobs}}, []string{"job"}},
		"only reminders": {&schedulerv1.WatchJobsRequestInitial{
			AppId: "app", Namespace: "ns", ActorTypes: []string{"T"}, AcceptJobTypes: []schedulerv1.JobTargetType{reminders},
		}, []string{"reminder"}},
		"another app hosts the type": {initial("other", "T", "T", "U"), []string{"reminder"}},
		"another namespace":          {&schedulerv1.WatchJobsRequestInitial{AppId: "app", Namespace: "n2", ActorTypes: []string{"T"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			s := b.open(tt.initial)
			b.job("app", "job")
			b.reminder("T", "reminder", "")
			b.reminder("Ta", "another type", "")
			b.expectNames(s, tt.want...)
		})
	}
}

func TestRoundRobin(t *testing.T) {
	b := newBed(t)
	streams := []*Stream{b.open(initial("app")), b.open(initial("app")), b.open(initial("app"))}
	for _, s := range streams {
		b.drain(s)
	}
	got := map[int][]string{}
	for i := range 7 {
		b.job("app", fmt.Sprint(i))
		for j, s := range streams {
			got[j] = append(got[j], b.drain(s)...)
		}
	}
	if fmt.Sprint(got) != "map[0:[0 3 6] 1:[1 4] 2:[2 5]]" {
		t.Errorf("shared out as %v", got)
	}
}

func TestStagingUntilAnyStream(t *testing.T) {
	b := newBed(t)
	for i := range 3 {
		b.job("app", fmt.Sprint(i))
	}
	first := b.open(initial("app"))
	b.expectNames(first, "0", "1", "2")
	first.Close()
	if b.counts.undelivered != 6 {
		t.Errorf("%d undelivered, want each of 3 twice", b.counts.undelivered)
	}
	// The prefix is known by now; what is staged goes on all the same.
	b.job("app", "3")
	second := b.open(initial("app"))
	b.expectNames(second, "0", "1", "2", "3")
	b.result(second, 4, success)
	b.results.expect(t, "3 true")
}

func TestStreamEndsWithOthersLeft(t *testing.T) {
	b := newBed(t)
	a, c := b.open(initial("app")), b.open(initial("app"))
	b.drain(a)
	b.job("app", "1")
	b.expectNames(a, "1")
	b.job("app", "2")
	b.expectNames(a, "2")
	b.result(a, 1, success)
	// a is idle and has a task in hand that it has not sent.
	b.job("app", "3")
	a.Close()
	a.Close()
	b.expectNames(c, "3", "2")
	if b.counts.undelivered != 1 || b.counts.streams != 1 {
		t.Errorf("%+v, want the one that was sent as undelivered", b.counts)
	}
	if err := a.Receive(answer(2, success)); err != nil {
		t.Errorf("a result after the end: %v", err)
	}
	b.results.expect(t, "1 true")
}

func TestSlowReaderBlocksNobody(t *testing.T) {
	b := newBed(t)
	slow, quick := b.open(initial("app")), b.open(initial("app"))
	b.drain(slow)
	b.drain(quick)
	var got []string
	for i := range 100 {
		b.job("app", fmt.Sprint(i))
		got = append(got, b.drain(quick)...)
	}
	// The slow one was idle once, so one task is bound to it.
	if len(got) != 99 {
		t.Errorf("the quick stream got %d of 100", len(got))
	}
	slow.Close()
	if got = append(got, b.drain(quick)...); len(got) != 100 {
		t.Errorf("the quick stream got %d of 100 after the slow one ended", len(got))
	}
}

func TestProtocolViolations(t *testing.T) {
	for name, tt := range map[string]*schedulerv1.WatchJobsRequest{
		"second initial": {WatchJobRequestType: &schedulerv1.WatchJobsRequest_Initial{Initial: initial("app")}},
		"nothing":        {},
		"unknown id":     answer(2, success),
		"id 0":           answer(0, success),
		"unknown status": answer(1, 7),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			s := b.open(initial("app"))
			b.job("app", "a")
			b.expectNames(s, "a")
			if err := s.Receive(tt); status.Code(err) != codes.InvalidArgument {
				t.Errorf("error %v", err)
			}
			b.results.expect(t)
		})
	}
	t.Run("twice", func(t *testing.T) {
		b := newBed(t)
		s := b.open(initial("app"))
		b.job("app", "a")
		b.expectNames(s, "a")
		b.result(s, 1, success)
		if err := s.Receive(answer(1, success)); status.Code(err) != codes.InvalidArgument {
			t.Errorf("error %v", err)
		}
		b.results.expect(t, "a true")
	})
}

func TestInitialViolations(t *testing.T) {
	const job, actor = schedulerv1.JobTargetType_JOB_TARGET_TYPE_JOB, schedulerv1.JobTargetType_JOB_TARGET_TYPE_ACTOR_REMINDER
	for name, tt := range map[string]struct {
		accept []schedulerv1.JobTargetType
		types  []string
		ok     bool
	}{
		"nothing":                {nil, nil, true},
		"jobs":                   {[]schedulerv1.JobTargetType{job}, nil, true},
		"both without type":      {[]schedulerv1.JobTargetType{job, actor}, nil, true},
		"reminders without type": {[]schedulerv1.JobTargetType{actor}, nil, false},
		"reminders":              {[]schedulerv1.JobTargetType{actor}, []string{"T"}, true},
		"jobs twice":             {[]schedulerv1.JobTargetType{job, actor, job}, []string{"T"}, false},
		"unknown":                {[]schedulerv1.JobTargetType{9}, []string{"T"}, false},
		"empty type":             {nil, []string{""}, false},
	} {
		b := newBed(t)
		_, err := b.Open(&schedulerv1.WatchJobsRequestInitial{AppId: "app", Namespace: "ns", AcceptJobTypes: tt.accept, ActorTypes: tt.types})
		if tt.ok != (err == nil) || (err != nil && status.Code(err) != codes.InvalidArgument) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestCancel(t *testing.T) {
	b := newBed(t)
	staged := b.job("app", "staged")
	b.Cancel(staged)
	if len(b.routes) != 0 {
		t.Error("a route without a stream and a task is kept")
	}
	before := &Task{Name: "before", Finisher: b.results, Metadata: staged.Metadata}
	b.Cancel(before)
	b.Deliver(before)

	s := b.open(initial("app", "T"), limit("T", "", 1))
	b.drain(s)
	assigned := b.job("app", "assigned")
	queued := b.job("app", "queued")
	b.Cancel(queued)
	b.Cancel(assigned)
	b.expectNames(s)

	inflight := b.reminder("T", "inflight", "")
	b.expectNames(s, "inflight")
	gated := b.reminder("T", "gated", "")
	after := b.reminder("T", "after", "")
	b.Cancel(gated)
	b.Cancel(inflight)
	b.Cancel(inflight)
	b.expectNames(s) // its work goes on, so that its slot stays taken
	b.result(s, 1, success)
	b.expectNames(s, "after")
	b.result(s, 2, success)
	b.Cancel(after)
	b.results.expect(t, "after true")
	if b.counts.inflight["T"] != 0 || b.counts.pending["T"] != 0 {
		t.Errorf("%+v", b.counts)
	}

	b.job("app", "x")
	b.expectNames(s, "x")
	lost := b.job("app", "y")
	b.expectNames(s, "y")
	b.Cancel(lost)
	s.Close()
	other := b.open(initial("app"))
	b.expectNames(other, "x")
}

func TestClose(t *testing.T) {
	b := newBed(t)
	s := b.open(initial("app"))
	done := make(chan error, 1)
	go func() {
		_, err := s.Next(context.Background())
		done <- err
	}()
	b.Pool.Close()
	select {
	case err := <-done:
		if err != ErrEnded {
			t.Errorf("error %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the stream did not end")
	}
	s.Close()
	b.job("app", "late")
	if _, err := b.Open(initial("app")); status.Code(err) != codes.Unavailable {
		t.Errorf("error %v", err)
	}
	if b.counts.streams != 0 {
		t.Errorf("%+v", b.counts)
	}
}

// TestManyStreams has streams come and go while tasks are delivered; every task is finished exactly once.
func TestManyStreams(t *testing.T) {
	const tasks = 5000
	var mu sync.Mutex
	finished := map[string]int{}
	done := make(chan struct{})
	finisher := finishFunc(func(task *Task) {
		mu.Lock()
		defer mu.Unlock()
		if finished[task.Name]++; len(finished) == tasks {
			select {
			case <-done:
			default:
				close(done)
			}
		}
	})
	p := New(Options{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := initial("app", "T")
				i.ConcurrencyLimits = []*schedulerv1.ConcurrencyLimit{limit("T", "", 3), limit("T", "k", 2)}
				s, err := p.Open(i)
				if err != nil {
					return
				}
				// Tasks that are never answered keep their slots: a stream that gets nothing any more ends.
				patience, end := context.WithTimeout(ctx, 20*time.Millisecond)
				for range 20 {
					m, err := s.Next(patience)
					if err != nil {
						break
					}
					if m.Id%5 != 0 { // some are never answered
						s.Receive(answer(m.Id, success))
					}
				}
				end()
				s.Close()
			}
		})
	}
	metadata := &schedulerv1.JobMetadata{Namespace: "ns", AppId: "app", Target: &schedulerv1.JobTargetMetadata{Type: &schedulerv1.JobTargetMetadata_Job{}}}
	actor := &schedulerv1.JobMetadata{Namespace: "ns", AppId: "app", ConcurrencyKey: proto.String("k"), Target: &schedulerv1.JobTargetMetadata{
		Type: &schedulerv1.JobTargetMetadata_Actor{Actor: &schedulerv1.TargetActorReminder{Type: "T"}},
	}}
	for i := range tasks {
		task := &Task{Name: fmt.Sprint(i), Metadata: metadata, Finisher: finisher}
		if i%2 == 0 {
			task.Metadata = actor
		}
		p.Deliver(task)
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
	p.Close()
	cancel()
	wg.Wait()
	if len(finished) != tasks {
		t.Errorf("%d of %d tasks finished", len(finished), tasks)
	}
	for name, n := range finished {
		if n != 1 {
			t.Errorf("task %s finished %d times", name, n)
		}
	}
}

type finishFunc func(*Task)

func (f finishFunc) Finish(t *Task, _ bool) { f(t) }

func BenchmarkDeliver(b *testing.B) {
	p := New(Options{})
	s, err := p.Open(initial("app"))
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	finisher := finishFunc(func(*Task) { wg.Done() })
	metadata := &schedulerv1.JobMetadata{Namespace: "ns", AppId: "app", Target: &schedulerv1.JobTargetMetadata{Type: &schedulerv1.JobTargetMetadata_Job{}}}
	go func() {
		for {
			m, err := s.Next(context.Background())
			if err != nil {
				return
			}
			s.Receive(answer(m.Id, success))
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		wg.Add(1)
		p.Deliver(&Task{Name: "x", Metadata: metadata, Finisher: finisher})
	}
	wg.Wait()
	p.Close()
}
