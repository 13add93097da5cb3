// Package schedulertest has a scheduler for tests: it keeps jobs in memory, and triggers when it is told to. Several instances make a cluster.
package schedulertest

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// Cluster is what the instances have in common: the jobs, and the list of instances.
type Cluster struct {
	mu      sync.Mutex
	jobs    map[string]*schedulerv1.NamedJob
	hosts   []string
	changed chan struct{}
	fault   func(method, address string) error
	calls   []Call
}

// Call is a call that an instance served.
type Call struct{ Method, Address string }

// NewCluster makes a cluster without instances.
func NewCluster() *Cluster {
	return &Cluster{jobs: map[string]*schedulerv1.NamedJob{}, changed: make(chan struct{})}
}

// SetHosts replaces the list of schedulers; those who watch it are told.
func (c *Cluster) SetHosts(addresses ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hosts = addresses
	close(c.changed)
	c.changed = make(chan struct{})
}

// SetFault has calls fail with what f returns, if that is not nil. The method is its last name, such as GetJob.
func (c *Cluster) SetFault(f func(method, address string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = f
}

// Calls are the unary calls served so far.
func (c *Cluster) Calls() []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// Put stores a job behind the back of the API.
func (c *Cluster) Put(job *schedulerv1.NamedJob) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs[key(job.GetName(), job.GetMetadata())] = job
}

func key(name string, m *schedulerv1.JobMetadata) string {
	if actor := m.GetTarget().GetActor(); actor != nil {
		return "actorreminder||" + m.GetNamespace() + "||" + actor.GetType() + "||" + actor.GetId() + "||" + name
	}
	return "app||" + m.GetNamespace() + "||" + m.GetAppId() + "||" + name
}

// Instance is one scheduler.
type Instance struct {
	schedulerv1.UnimplementedSchedulerServer
	// Address is "127.0.0.1:port".
	Address string

	cluster *Cluster
	server  *grpc.Server
	done    chan struct{}

	mu      sync.Mutex
	streams []*Stream
	next    int
}

// Start starts an instance that ends with the test. It is not in the list of hosts yet.
func (c *Cluster) Start(t testing.TB) *Instance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &Instance{Address: l.Addr().String(), cluster: c, server: grpc.NewServer(), done: make(chan struct{})}
	schedulerv1.RegisterSchedulerServer(i.server, i)
	go func() { defer close(i.done); _ = i.server.Serve(l) }()
	t.Cleanup(i.Stop)
	return i
}

// Stop ends the instance at once, and breaks all that runs.
func (i *Instance) Stop() {
	i.server.Stop()
	<-i.done
}

// called notes a call and finds its fault.
func (i *Instance) called(method string) error {
	c := i.cluster
	c.mu.Lock()
	c.calls = append(c.calls, Call{method, i.Address})
	fault := c.fault
	c.mu.Unlock()
	if fault != nil {
		return fault(method, i.Address)
	}
	return nil
}

// ScheduleJob implements schedulerv1.SchedulerServer, as the methods below.
func (i *Instance) ScheduleJob(_ context.Context, in *schedulerv1.ScheduleJobRequest) (*schedulerv1.ScheduleJobResponse, error) {
	if err := i.called("ScheduleJob"); err != nil {
		return nil, err
	}
	c := i.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	k := key(in.GetName(), in.GetMetadata())
	if c.jobs[k] != nil && !in.GetOverwrite() {
		return nil, status.Errorf(codes.AlreadyExists, "job already exists: '%s'", k)
	}
	c.jobs[k] = &schedulerv1.NamedJob{Name: in.GetName(), Metadata: in.GetMetadata(), Job: in.GetJob()}
	return &schedulerv1.ScheduleJobResponse{}, nil
}

// GetJob reads a job.
func (i *Instance) GetJob(_ context.Context, in *schedulerv1.GetJobRequest) (*schedulerv1.GetJobResponse, error) {
	if err := i.called("GetJob"); err != nil {
		return nil, err
	}
	c := i.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	job := c.jobs[key(in.GetName(), in.GetMetadata())]
	if job == nil {
		return nil, status.Errorf(codes.NotFound, "job not found: %s", in.GetName())
	}
	return &schedulerv1.GetJobResponse{Job: job.GetJob()}, nil
}

// DeleteJob deletes a job.
func (i *Instance) DeleteJob(_ context.Context, in *schedulerv1.DeleteJobRequest) (*schedulerv1.DeleteJobResponse, error) {
	if err := i.called("DeleteJob"); err != nil {
		return nil, err
	}
	c := i.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.jobs, key(in.GetName(), in.GetMetadata()))
	return &schedulerv1.DeleteJobResponse{}, nil
}

// ListJobs lists the jobs of an owner, in no order.
func (i *Instance) ListJobs(_ context.Context, in *schedulerv1.ListJobsRequest) (*schedulerv1.ListJobsResponse, error) {
	if err := i.called("ListJobs"); err != nil {
		return nil, err
	}
	c := i.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &schedulerv1.ListJobsResponse{}
	for k, job := range c.jobs {
		if strings.HasPrefix(k, key("", in.GetMetadata())) {
			out.Jobs = append(out.Jobs, job)
		}
	}
	return out, nil
}

// DeleteByMetadata deletes all jobs of an owner.
func (i *Instance) DeleteByMetadata(_ context.Context, in *schedulerv1.DeleteByMetadataRequest) (*schedulerv1.DeleteByMetadataResponse, error) {
	if err := i.called("DeleteByMetadata"); err != nil {
		return nil, err
	}
	i.cluster.deletePrefix(key("", in.GetMetadata()))
	return &schedulerv1.DeleteByMetadataResponse{}, nil
}

// DeleteByNamePrefix deletes the jobs of an owner whose names begin with a prefix.
func (i *Instance) DeleteByNamePrefix(_ context.Context, in *schedulerv1.DeleteByNamePrefixRequest) (*schedulerv1.DeleteByNamePrefixResponse, error) {
	if err := i.called("DeleteByNamePrefix"); err != nil {
		return nil, err
	}
	i.cluster.deletePrefix(key(in.GetNamePrefix(), in.GetMetadata()))
	return &schedulerv1.DeleteByNamePrefixResponse{}, nil
}

func (c *Cluster) deletePrefix(prefix string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.jobs {
		if strings.HasPrefix(k, prefix) {
			delete(c.jobs, k)
		}
	}
}

// WatchHosts sends the list of hosts, once there is one, and each that follows.
func (i *Instance) WatchHosts(_ *schedulerv1.WatchHostsRequest, stream grpc.ServerStreamingServer[schedulerv1.WatchHostsResponse]) error {
	if err := i.called("WatchHosts"); err != nil {
		return err
	}
	for {
		c := i.cluster
		c.mu.Lock()
		hosts, changed := c.hosts, c.changed
		c.mu.Unlock()
		if hosts != nil {
			list := &schedulerv1.WatchHostsResponse{}
			for _, h := range hosts {
				list.Hosts = append(list.Hosts, &schedulerv1.Host{Address: h})
			}
			if err := stream.Send(list); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// Stream is one that a sidecar opened for triggers.
type Stream struct {
	// Initial is what it was opened with.
	Initial *schedulerv1.WatchJobsRequestInitial
	rpc     grpc.BidiStreamingServer[schedulerv1.WatchJobsRequest, schedulerv1.WatchJobsResponse]

	mu      sync.Mutex
	ended   bool
	id      uint64
	waiting map[uint64]chan Result
}

// Result is what became of a trigger.
type Result struct {
	// Undeliverable is true when the stream ended without a result.
	Undeliverable bool
	Status        schedulerv1.WatchJobsRequestResultStatus
}

// WatchJobs serves a stream of triggers.
func (i *Instance) WatchJobs(rpc grpc.BidiStreamingServer[schedulerv1.WatchJobsRequest, schedulerv1.WatchJobsResponse]) error {
	if err := i.called("WatchJobs"); err != nil {
		return err
	}
	first, err := rpc.Recv()
	if err != nil {
		return err
	}
	initial := first.GetInitial()
	if initial == nil {
		return status.Error(codes.InvalidArgument, "initial request is required on stream connection")
	}
	s := &Stream{Initial: initial, rpc: rpc, waiting: map[uint64]chan Result{}}
	i.mu.Lock()
	i.streams = append(i.streams, s)
	i.mu.Unlock()
	defer func() {
		i.mu.Lock()
		i.streams = slices.DeleteFunc(i.streams, func(other *Stream) bool { return other == s })
		i.mu.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ended = true
		for _, result := range s.waiting {
			result <- Result{Undeliverable: true}
		}
	}()
	for {
		in, err := rpc.Recv()
		if err != nil {
			return nil // whatever the reason, it has ended
		}
		result := in.GetResult()
		if result == nil {
			return status.Error(codes.InvalidArgument, "a second initial request")
		}
		s.mu.Lock()
		waiting := s.waiting[result.GetId()]
		delete(s.waiting, result.GetId())
		s.mu.Unlock()
		if waiting == nil {
			return status.Errorf(codes.InvalidArgument, "unknown id %d", result.GetId())
		}
		waiting <- Result{Status: result.GetStatus()}
	}
}

// Streams are the streams that are open now, the oldest first.
func (i *Instance) Streams() []*Stream {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.streams)
}

// Trigger sends a trigger over the streams in turns. The channel gets its result, once.
func (i *Instance) Trigger(job *schedulerv1.WatchJobsResponse) <-chan Result {
	i.mu.Lock()
	if len(i.streams) == 0 {
		i.mu.Unlock()
		return undeliverable()
	}
	s := i.streams[i.next%len(i.streams)]
	i.next++
	i.mu.Unlock()
	return s.Trigger(job)
}

func undeliverable() <-chan Result {
	result := make(chan Result, 1)
	result <- Result{Undeliverable: true}
	return result
}

// Trigger sends a trigger over this stream. The channel gets its result, once.
func (s *Stream) Trigger(job *schedulerv1.WatchJobsResponse) <-chan Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return undeliverable()
	}
	s.id++
	result := make(chan Result, 1)
	s.waiting[s.id] = result
	out := &schedulerv1.WatchJobsResponse{Name: job.GetName(), Id: s.id, Data: job.GetData(), Metadata: job.GetMetadata()}
	_ = s.rpc.Send(out) // a failure ends the stream, and then the trigger
	return result
}

// AppJob is a trigger of a job of the app "app" in namespace "default".
func AppJob(name string) *schedulerv1.WatchJobsResponse {
	return &schedulerv1.WatchJobsResponse{Name: name, Metadata: &schedulerv1.JobMetadata{
		AppId: "app", Namespace: "default",
		Target: &schedulerv1.JobTargetMetadata{Type: &schedulerv1.JobTargetMetadata_Job{Job: &schedulerv1.TargetJob{}}},
	}}
}

// Reminder is a trigger of a reminder of an actor.
func Reminder(name, actorType, id string) *schedulerv1.WatchJobsResponse {
	return &schedulerv1.WatchJobsResponse{Name: name, Metadata: &schedulerv1.JobMetadata{
		AppId: "app", Namespace: "default",
		Target: &schedulerv1.JobTargetMetadata{Type: &schedulerv1.JobTargetMetadata_Actor{Actor: &schedulerv1.TargetActorReminder{Type: actorType, Id: id}}},
	}}
}
