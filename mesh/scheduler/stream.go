package scheduler

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// phase is how far a stream is on its way to its end.
type phase int

const (
	// taking handles every trigger.
	taking phase = iota
	// retiring has been replaced: it handles what is still accepted, for as long as deliveries run.
	retiring
	// holding leaves new triggers unanswered, so that the last deliveries are soon the last.
	holding
	// finished has had its last result, and waits for the scheduler to end it.
	finished
)

// stream is one stream of triggers. A trigger that it leaves unanswered goes to another stream, of this or another sidecar, as soon as this
// one ends (Dapr API, scheduler: undeliverable).
type stream struct {
	client *Client
	want   *want
	rpc    grpc.BidiStreamingClient[schedulerv1.WatchJobsRequest, schedulerv1.WatchJobsResponse]
	// ctx is that of the stream and all its deliveries.
	ctx    context.Context
	cancel context.CancelFunc
	since  time.Time
	// ended is closed when nothing comes any more; err says why.
	ended chan struct{}
	err   error

	sending sync.Mutex
	tasks   sync.WaitGroup

	mu      sync.Mutex
	phase   phase
	running int
	timer   clockwork.Timer // for the next phase, nil while taking
}

// receive takes triggers until the stream ends, and returns when their deliveries have ended, too: those that still run are cancelled, for
// their results would be of no use.
func (s *stream) receive() {
	for {
		job, err := s.rpc.Recv()
		if err != nil {
			s.err = err
			break
		}
		s.take(job)
	}
	s.cancel()
	s.mu.Lock()
	s.phase = finished
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	close(s.ended)
	s.tasks.Wait()
}

// take begins the delivery of a trigger, in a task of its own.
func (s *stream) take(job *schedulerv1.WatchJobsResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != taking {
		if now, _ := s.client.wanted(); s.phase != retiring || !now.takes(job) {
			// Somebody else has to have it, so this stream may not last.
			s.hold()
			return
		}
	}
	s.running++
	s.tasks.Go(func() { s.handle(job) })
}

// handle delivers a trigger and answers it.
func (s *stream) handle(job *schedulerv1.WatchJobsResponse) {
	result := s.trigger(job)
	if s.ctx.Err() == nil {
		s.sending.Lock()
		// A failure to send ends the stream, and is seen there.
		_ = s.rpc.Send(&schedulerv1.WatchJobsRequest{WatchJobRequestType: &schedulerv1.WatchJobsRequest_Result{
			Result: &schedulerv1.WatchJobsRequestResult{Id: job.GetId(), Status: result},
		}})
		s.sending.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	s.finishIdle()
}

// trigger calls the handler. A panic over one trigger is its failure.
func (s *stream) trigger(job *schedulerv1.WatchJobsResponse) (result schedulerv1.WatchJobsRequestResultStatus) {
	result = schedulerv1.WatchJobsRequestResultStatus_FAILED
	defer func() {
		if p := recover(); p != nil {
			s.client.options.Log.Error(fmt.Sprintf("the sidecar panicked over a trigger of job %s: %v; please report this defect", job.GetName(), p), "stack", string(debug.Stack()))
		}
	}()
	if handler := s.client.options.Trigger; handler != nil {
		return handler(s.ctx, job)
	}
	return result
}

// retire lets a stream end for which there is another, or none is wanted: at once when no delivery runs. It does nothing to nil.
func (s *stream) retire() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != taking {
		return
	}
	s.phase = retiring
	s.timer = s.client.options.Clock.AfterFunc(s.client.options.Grace, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hold()
	})
	s.finishIdle()
}

// hold begins the last moments of a stream. The caller holds mu.
func (s *stream) hold() {
	if s.phase == retiring {
		s.phase = holding
		s.last()
	}
}

// finishIdle ends a stream that is on its way out when nothing runs. The caller holds mu.
func (s *stream) finishIdle() {
	if s.running > 0 || s.phase == taking || s.phase == finished {
		return
	}
	s.phase = finished
	// Not cancelled yet: that could overtake the last results. The scheduler ends its side when it has had them.
	_ = s.rpc.CloseSend() // it never fails
	s.last()
}

// last cancels the stream after a last moment. The caller holds mu.
func (s *stream) last() {
	s.timer.Stop()
	s.timer = s.client.options.Clock.AfterFunc(settleTime, s.cancel)
}
