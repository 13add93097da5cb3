package scheduler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/scheduler/delivery"
	"outrigger.dev/controlplane/scheduler/engine"
	"outrigger.dev/controlplane/scheduler/record"
)

// server is the service Scheduler.
type server struct {
	schedulerv1.UnimplementedSchedulerServer
	o       Options
	metrics *metrics
	pool    *delivery.Pool

	// engine is there once joined is closed. stopping is closed when the service ends.
	engine           *engine.Engine
	joined, stopping chan struct{}
	// tasks are the goroutines of streams, which may outlive their handlers a little.
	tasks sync.WaitGroup
}

// firstMessage is how long a sidecar may take from opening a stream to its first message.
const firstMessage = 30 * time.Second

// WatchJobs implements [schedulerv1.SchedulerServer] (Dapr API, scheduler: WatchJobs stream).
func (s *server) WatchJobs(g schedulerv1.Scheduler_WatchJobsServer) error {
	// A call of Recv or Send ends only after this function does, so that two others make them.
	ctx, end := context.WithCancelCause(g.Context())
	defer end(nil)
	opened := make(chan *delivery.Stream, 1)
	s.tasks.Go(func() { end(s.receive(ctx, end, g, opened)) })
	var stream *delivery.Stream
	select {
	case stream = <-opened:
	case <-ctx.Done():
	case <-s.stopping:
		return errStopping
	}
	if stream != nil {
		defer stream.Close()
		s.tasks.Go(func() { end(s.send(ctx, end, g, stream)) })
		select {
		case <-ctx.Done():
		case <-stream.Ended():
			end(delivery.ErrEnded) // unless there is a reason already
		}
	}
	err := context.Cause(ctx)
	if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// receive takes the messages of a sidecar until there is an end. The error is why: a status, or io.EOF.
func (s *server) receive(ctx context.Context, end context.CancelCauseFunc, g schedulerv1.Scheduler_WatchJobsServer, opened chan<- *delivery.Stream) (err error) {
	silent := s.o.Clock.AfterFunc(firstMessage, func() {
		end(status.Errorf(codes.DeadlineExceeded, "no initial request came within %s", firstMessage))
	})
	first, err := g.Recv()
	silent.Stop()
	if err != nil {
		return s.received(ctx, err)
	}
	initial := first.GetInitial()
	if initial == nil {
		return status.Error(codes.InvalidArgument, "initial request is required on stream connection")
	}
	if err := s.authoriseWatch(ctx, initial); err != nil {
		s.metrics.authFailed.Inc()
		return err
	}
	stream, err := s.pool.Open(initial)
	if err != nil {
		return err
	}
	defer func() {
		end(err)
		stream.Close() // in case that nobody waits for it any more
	}()
	opened <- stream
	for {
		m, err := g.Recv()
		if err != nil {
			return s.received(ctx, err)
		}
		if err := stream.Receive(m); err != nil {
			s.o.Log.Warn(fmt.Sprintf("The stream of app %q in namespace %q ends: %s", initial.GetAppId(), initial.GetNamespace(), err))
			return err
		}
	}
}

// received counts an error of Recv unless the stream came to a regular end.
func (s *server) received(ctx context.Context, err error) error {
	if !errors.Is(err, io.EOF) && ctx.Err() == nil && status.Code(err) != codes.Canceled {
		s.metrics.receiveFailed.Inc()
	}
	return err
}

func (s *server) authoriseWatch(ctx context.Context, initial *schedulerv1.WatchJobsRequestInitial) error {
	if err := s.authorise(ctx, initial.GetNamespace(), initial.GetAppId()); err != nil {
		return err
	}
	for _, t := range initial.GetActorTypes() {
		if err := s.authoriseType(initial.GetNamespace(), initial.GetAppId(), t); err != nil {
			return err
		}
	}
	return nil
}

// send sends triggers until there is an end. A sidecar that does not read is given up after a while, so that others get what it has.
func (s *server) send(ctx context.Context, end context.CancelCauseFunc, g schedulerv1.Scheduler_WatchJobsServer, stream *delivery.Stream) error {
	stalled := s.o.Clock.AfterFunc(s.o.Stall, func() {
		end(status.Errorf(codes.ResourceExhausted, "the sidecar has not read a trigger for %s", s.o.Stall))
	})
	defer stalled.Stop()
	for {
		stalled.Stop()
		m, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		stalled.Reset(s.o.Stall)
		if err := g.Send(m); err != nil {
			if ctx.Err() == nil {
				s.metrics.sendFailed.Inc()
			}
			return err
		}
	}
}

// WatchHosts implements [schedulerv1.SchedulerServer]: it sends the addresses of all instances at once and after every change.
func (s *server) WatchHosts(_ *schedulerv1.WatchHostsRequest, g schedulerv1.Scheduler_WatchHostsServer) error {
	ctx := g.Context()
	e, err := s.await(ctx)
	if err != nil {
		return err
	}
	var sent []string
	for {
		replicas, changed := e.Members()
		// Sidecars connect anew for every list, so that the same one is not sent twice.
		if hosts := addresses(replicas); len(hosts) > 0 && !slices.Equal(hosts, sent) {
			list := &schedulerv1.WatchHostsResponse{}
			for _, h := range hosts {
				list.Hosts = append(list.Hosts, &schedulerv1.Host{Address: h})
			}
			if err := g.Send(list); err != nil {
				return err
			}
			sent = hosts
		}
		select {
		case <-changed:
		case <-s.stopping:
			return errStopping
		case <-ctx.Done():
			return nil
		}
	}
}

// addresses are those of the members, sorted and each once.
func addresses(replicas []*anypb.Any) []string {
	var list []string
	for _, r := range replicas {
		h := new(schedulerv1.Host)
		if r.UnmarshalTo(h) == nil && h.Address != "" {
			list = append(list, h.Address)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// deliverer brings triggers of the engine into the pool.
type deliverer struct{ *server }

// Deliver implements [engine.Deliverer].
func (d deliverer) Deliver(t *engine.Trigger) {
	m, err := t.Job.Metadata()
	var short string
	if err == nil {
		short, err = record.ShortName(t.Name, m)
	}
	if err != nil {
		d.o.Log.Error(fmt.Sprintf("The job %q is due but not to be delivered: %s; delete it", t.Name, err))
		d.metrics.failed[typeUnknown].Inc()
		t.Done(engine.Failed)
		return
	}
	task := &delivery.Task{Name: short, Metadata: m, Data: t.Job.Payload(), Finisher: &finisher{d.server, t}}
	t.OnCancel(func() { d.pool.Cancel(task) })
	d.pool.Deliver(task)
}

// finisher tells the engine the result of a trigger.
type finisher struct {
	server  *server
	trigger *engine.Trigger
}

// Finish implements [delivery.Finisher].
func (f *finisher) Finish(t *delivery.Task, succeeded bool) {
	var took time.Duration
	if sent := t.Sent(); !sent.IsZero() {
		took = f.server.o.Clock.Since(sent)
	}
	f.server.metrics.finished(typeOf(t.Metadata), succeeded, took)
	result := engine.Failed
	if succeeded {
		result = engine.Success
	}
	f.trigger.Done(result)
}
