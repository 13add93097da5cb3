package actors

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"outrigger.dev/api"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/invocation"
)

// coreFake is a Core whose every answer a test decides.
type coreFake struct {
	mu      sync.Mutex
	await   error
	hosted  map[string]bool
	active  map[actorKey]bool
	claims  int // how many are held now
	invoke  func(*Call) (*invocation.Response, error)
	remind  func(context.Context, *Reminder) error
	invoked []*Call
}

func newCore() *coreFake {
	return &coreFake{
		hosted: map[string]bool{"cart": true}, active: map[actorKey]bool{{"cart", "1"}: true},
		invoke: func(*Call) (*invocation.Response, error) { return &invocation.Response{Status: 200}, nil },
		remind: func(context.Context, *Reminder) error { return nil },
	}
}

func (c *coreFake) Await(context.Context) error { return c.await }

func (c *coreFake) Hosts(actorType string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hosted[actorType]
}

func (c *coreFake) host(actorType string, yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hosted[actorType] = yes
}

func (c *coreFake) Invoke(_ context.Context, call *Call) (*invocation.Response, error) {
	c.mu.Lock()
	c.invoked = append(c.invoked, call)
	c.mu.Unlock()
	return c.invoke(call)
}

func (c *coreFake) Remind(ctx context.Context, r *Reminder) error { return c.remind(ctx, r) }

func (c *coreFake) Enter(actorType, id string) (func(), bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.active[actorKey{actorType, id}] {
		return nil, false
	}
	c.claims++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.claims--
	}, true
}

func (c *coreFake) held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.claims
}

// schedulerFake keeps jobs under their full names, as the scheduler service does.
type schedulerFake struct {
	mu   sync.Mutex
	jobs map[string]*schedulerv1.NamedJob
	// fail is what the method of this name answers.
	fail map[string]error
	// scheduled counts the calls that wrote a job.
	scheduled int
}

func newScheduler() *schedulerFake {
	return &schedulerFake{jobs: map[string]*schedulerv1.NamedJob{}, fail: map[string]error{}}
}

func fullName(name string, m *schedulerv1.JobMetadata) string {
	return prefixOf(m) + name
}

func prefixOf(m *schedulerv1.JobMetadata) string {
	a := m.GetTarget().GetActor()
	prefix := "actorreminder||" + m.GetNamespace() + "||" + a.GetType() + "||"
	if a.GetId() != "" {
		prefix += a.GetId() + "||"
	}
	return prefix
}

func (s *schedulerFake) enter(method string) (func(), error) {
	s.mu.Lock()
	return s.mu.Unlock, s.fail[method]
}

func (s *schedulerFake) Schedule(_ context.Context, in *schedulerv1.ScheduleJobRequest) (*schedulerv1.ScheduleJobResponse, error) {
	leave, err := s.enter("Schedule")
	defer leave()
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(in.GetName(), "/") {
		return nil, status.Error(codes.Unknown, "job name is invalid")
	}
	name := fullName(in.GetName(), in.GetMetadata())
	if s.jobs[name] != nil && !in.GetOverwrite() {
		return nil, status.Error(codes.AlreadyExists, "job already exists: '"+name+"'")
	}
	s.scheduled++
	s.jobs[name] = &schedulerv1.NamedJob{Name: in.GetName(), Metadata: in.GetMetadata(), Job: in.GetJob()}
	return new(schedulerv1.ScheduleJobResponse), nil
}

func (s *schedulerFake) Get(_ context.Context, in *schedulerv1.GetJobRequest) (*schedulerv1.GetJobResponse, error) {
	leave, err := s.enter("Get")
	defer leave()
	if err != nil {
		return nil, err
	}
	job := s.jobs[fullName(in.GetName(), in.GetMetadata())]
	if job == nil {
		return nil, status.Error(codes.NotFound, "job not found: "+in.GetName())
	}
	return &schedulerv1.GetJobResponse{Job: job.GetJob()}, nil
}

func (s *schedulerFake) Delete(_ context.Context, in *schedulerv1.DeleteJobRequest) (*schedulerv1.DeleteJobResponse, error) {
	leave, err := s.enter("Delete")
	defer leave()
	if err == nil {
		delete(s.jobs, fullName(in.GetName(), in.GetMetadata()))
	}
	return new(schedulerv1.DeleteJobResponse), err
}

func (s *schedulerFake) List(_ context.Context, in *schedulerv1.ListJobsRequest) (*schedulerv1.ListJobsResponse, error) {
	leave, err := s.enter("List")
	defer leave()
	out := new(schedulerv1.ListJobsResponse)
	for _, name := range s.names() {
		if strings.HasPrefix(name, prefixOf(in.GetMetadata())) {
			out.Jobs = append(out.Jobs, s.jobs[name])
		}
	}
	return out, err
}

func (s *schedulerFake) DeleteByMetadata(_ context.Context, in *schedulerv1.DeleteByMetadataRequest) (*schedulerv1.DeleteByMetadataResponse, error) {
	leave, err := s.enter("DeleteByMetadata")
	defer leave()
	prefix := prefixOf(in.GetMetadata())
	if in.GetIdPrefixMatch() {
		prefix = strings.TrimSuffix(prefix, "||")
	}
	for name := range s.jobs {
		if err == nil && strings.HasPrefix(name, prefix) {
			delete(s.jobs, name)
		}
	}
	return new(schedulerv1.DeleteByMetadataResponse), err
}

// names are the full names of all jobs, sorted; the lock is held.
func (s *schedulerFake) names() []string {
	var names []string
	for name := range s.jobs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (s *schedulerFake) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names()
}

func (s *schedulerFake) job(t *testing.T, name string) *schedulerv1.Job {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	job := s.jobs[name]
	if job == nil {
		t.Fatalf("there is no job %s, but %q", name, s.names())
	}
	return job.GetJob()
}

// same compares messages.
func same(t *testing.T, what string, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// code is the errorCode and the text of an error of the API.
func code(err error) string {
	if err == nil {
		return ""
	}
	e := api.AsError(err)
	return e.Code + ": " + e.Message
}
