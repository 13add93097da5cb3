package delivery

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// Stream is a sidecar's, and takes tasks of the routes that it registered for. One goroutine calls Next, another one Receive.
type Stream struct {
	pool      *Pool
	namespace string
	routes    []*route
	gates     []*gate
	ended     chan struct{}
	// wake has something for Next to look at.
	wake chan struct{}

	// The lock of the pool guards the rest. idle is true while Next waits; a task is then assigned as next.
	idle        bool
	next        *Task
	turn        int
	id          uint64
	outstanding map[uint64]*Task
}

// Open registers a stream with what its first message says (Dapr API, scheduler: WatchJobs stream). Who the sidecar is has been checked
// before. The error is a gRPC status that names what is wrong with the message.
func (p *Pool) Open(initial *schedulerv1.WatchJobsRequestInitial) (*Stream, error) {
	keys, err := routesOf(initial)
	if err != nil {
		return nil, err
	}
	s := &Stream{
		pool: p, namespace: initial.GetNamespace(), ended: make(chan struct{}), wake: make(chan struct{}, 1), outstanding: map[uint64]*Task{},
	}
	p.mu.Lock()
	defer p.unlock()
	if p.closed {
		return nil, status.Error(codes.Unavailable, "the scheduler is shutting down")
	}
	p.limit(s, initial.GetConcurrencyLimits())
	for _, key := range keys {
		r := p.route(key)
		r.streams = append(r.streams, s)
		s.routes = append(s.routes, r)
		if len(r.streams) == 1 {
			// What was staged goes on its way.
			staged := r.waiting
			r.waiting = list{}
			for t := staged.pop(); t != nil; t = staged.pop() {
				p.place(t)
			}
		}
	}
	p.streams[s] = struct{}{}
	p.observer.Streams(1)
	return s, nil
}

// routesOf is what a first message registers for.
func routesOf(initial *schedulerv1.WatchJobsRequestInitial) ([]routeKey, error) {
	jobs, reminders := false, false
	for _, t := range initial.GetAcceptJobTypes() {
		var known *bool
		switch t {
		case schedulerv1.JobTargetType_JOB_TARGET_TYPE_JOB:
			known = &jobs
		case schedulerv1.JobTargetType_JOB_TARGET_TYPE_ACTOR_REMINDER:
			known = &reminders
		default:
			return nil, status.Errorf(codes.InvalidArgument, "unknown target type specified: %s", t)
		}
		if *known {
			return nil, status.Errorf(codes.InvalidArgument, "duplicate target type specified: %s", t)
		}
		*known = true
	}
	if len(initial.GetAcceptJobTypes()) == 0 {
		jobs, reminders = true, true
	}
	var keys []routeKey
	if jobs {
		keys = append(keys, routeKey{namespace: initial.GetNamespace(), target: initial.GetAppId()})
	}
	if reminders {
		seen := map[string]bool{}
		for _, t := range initial.GetActorTypes() {
			if t == "" {
				return nil, status.Error(codes.InvalidArgument, "actor_types holds an empty actor type: leave it out")
			}
			if !seen[t] {
				seen[t] = true
				keys = append(keys, routeKey{reminder: true, namespace: initial.GetNamespace(), target: t})
			}
		}
	}
	if len(keys) == 0 {
		return nil, status.Error(codes.InvalidArgument,
			"the stream accepts only actor reminders but names no actor type: set actor_types, or add JOB_TARGET_TYPE_JOB to accept_job_types")
	}
	return keys, nil
}

// Next waits for the next task of the stream and returns its message; ids count from 1. The error is that of the context, or
// [ErrEnded] once the stream or the pool was closed.
func (s *Stream) Next(ctx context.Context) (*schedulerv1.WatchJobsResponse, error) {
	for {
		s.pool.mu.Lock()
		if s.over() {
			s.pool.mu.Unlock()
			return nil, ErrEnded
		}
		if s.next == nil {
			s.pull()
		}
		if t := s.next; t != nil {
			s.next, s.idle = nil, false
			s.id++
			t.state, t.id, t.sent = stateSent, s.id, s.pool.clock.Now()
			s.outstanding[s.id] = t
			s.pool.mu.Unlock()
			return &schedulerv1.WatchJobsResponse{Name: t.Name, Id: t.id, Data: t.Data, Metadata: t.Metadata}, nil
		}
		s.idle = true
		s.pool.mu.Unlock()
		select {
		case <-s.wake:
		case <-s.ended:
			return nil, ErrEnded
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// ErrEnded says that a stream was closed, or the pool was.
var ErrEnded = status.Error(codes.Unavailable, "the scheduler ended the stream")

// Ended is closed when the pool was closed or the stream was.
func (s *Stream) Ended() <-chan struct{} { return s.ended }

// Receive takes a message that came after the first one. An error is a gRPC status: the message is against the protocol and ends the stream
// (Dapr API, scheduler: WatchJobs stream).
func (s *Stream) Receive(m *schedulerv1.WatchJobsRequest) error {
	result := m.GetResult()
	switch {
	case m.GetInitial() != nil:
		return status.Error(codes.InvalidArgument, "the initial request came again: it may only be the first message of a stream")
	case result == nil:
		return status.Error(codes.InvalidArgument, "the message is neither an initial request nor a result")
	}
	var succeeded bool
	switch result.GetStatus() {
	case schedulerv1.WatchJobsRequestResultStatus_SUCCESS:
		succeeded = true
	case schedulerv1.WatchJobsRequestResultStatus_FAILED:
	default:
		return status.Errorf(codes.InvalidArgument, "the result of trigger %d has the unknown status %s", result.GetId(), result.GetStatus())
	}
	p := s.pool
	p.mu.Lock()
	if s.over() {
		p.unlock()
		return nil
	}
	t := s.outstanding[result.GetId()]
	if t == nil {
		p.unlock()
		return status.Errorf(codes.InvalidArgument, "a result came for trigger %d, which is not outstanding on this stream", result.GetId())
	}
	delete(s.outstanding, result.GetId())
	abandoned := t.state == stateAbandoned
	t.state = stateOver
	p.release(t)
	p.unlock()
	if !abandoned {
		t.Finisher.Finish(t, succeeded)
	}
	return nil
}

// Close takes the stream out of the pool. Tasks without a result go to other streams at once or are staged. Closing twice does no harm.
func (s *Stream) Close() {
	p := s.pool
	p.mu.Lock()
	defer p.unlock()
	if s.over() {
		return
	}
	delete(p.streams, s)
	close(s.ended)
	s.idle = false
	p.observer.Streams(-1)

	var left []*Task
	for _, r := range s.routes {
		r.streams = slices.DeleteFunc(r.streams, func(other *Stream) bool { return other == s })
		if len(r.streams) == 0 {
			left = append(left, p.strand(r)...)
		}
	}
	if s.next != nil {
		left = append(left, s.next)
		s.next = nil
	}
	for _, id := range slices.Sorted(maps.Keys(s.outstanding)) {
		t := s.outstanding[id]
		if t.state == stateAbandoned {
			t.state = stateOver
			p.release(t)
			continue
		}
		if len(t.route.streams) > 0 {
			p.observer.Undelivered(t.route.key.reminder) // place counts those that are staged
		}
		left = append(left, t)
	}
	s.outstanding = nil
	for _, t := range left {
		p.again(t)
	}
	for _, g := range s.gates {
		g.references--
		p.pump(g)
	}
	for _, r := range s.routes {
		p.tidy(r)
	}
}

// strand takes the tasks of a route that has lost its last stream from where they wait.
func (p *Pool) strand(r *route) []*Task {
	var left []*Task
	for t := r.waiting.pop(); t != nil; t = r.waiting.pop() {
		left = append(left, t)
	}
	if !r.key.reminder {
		return left
	}
	for key, g := range p.gates {
		if key.namespace != r.key.namespace || key.actorType != r.key.target {
			continue
		}
		for t := g.waiting.first; t != nil; {
			after := t.next
			if t.route == r {
				p.leaveGate(t)
				left = append(left, t)
			}
			t = after
		}
	}
	return left
}

// over reports whether the stream was closed. The lock is held.
func (s *Stream) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return s.pool.closed
	}
}

// assign gives an idle stream its next task.
func (s *Stream) assign(t *Task) {
	s.idle = false
	s.next, t.stream, t.state = t, s, stateAssigned
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// pull takes the first task that waits for one of the stream's routes, which have their turn one after the other.
func (s *Stream) pull() {
	for range s.routes {
		if s.turn >= len(s.routes) {
			s.turn = 0
		}
		r := s.routes[s.turn]
		s.turn++
		if t := r.waiting.pop(); t != nil {
			s.next, t.stream, t.state = t, s, stateAssigned
			return
		}
	}
}
