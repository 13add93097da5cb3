package placement

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	placementv1 "outrigger.dev/api/gen/placement/v1"
	"outrigger.dev/controlplane/placement/dissemination"
)

// term is one time of leading: what is known of the sidecars. It begins empty, and sidecars fill it by connecting (Dapr API, placement: stream
// admission).
type term struct {
	o   Options
	ctx context.Context
	// end ends all streams with a status.
	end   context.CancelCauseFunc
	tasks sync.WaitGroup // loops of namespaces and the parts of streams

	mu         sync.Mutex
	closed     bool
	namespaces map[string]*namespace
	// begun is when the term did, left when the last sidecar of a namespace went: since then nobody was there.
	begun time.Time
	left  map[string]time.Time
}

func newTerm(o Options) *term {
	t := &term{o: o, namespaces: map[string]*namespace{}, begun: o.Clock.Now(), left: map[string]time.Time{}}
	t.ctx, t.end = context.WithCancelCause(context.Background())
	return t
}

// enter counts a task in, unless the term is over.
func (t *term) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.tasks.Add(1)
	return true
}

// close ends all streams with a status and waits until nothing runs any more.
func (t *term) close(because error) {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.end(because)
	t.tasks.Wait()
}

// attach is the namespace of a new stream, which has to detach in the end.
func (t *term) attach(name string) (*namespace, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, context.Cause(t.ctx)
	}
	n := t.namespaces[name]
	if n == nil {
		n = &namespace{
			name: name, o: t.o, streams: map[dissemination.ID]*stream{}, events: make(chan func(time.Time), 64), stop: make(chan struct{}),
		}
		n.machine = dissemination.New(dissemination.Options{
			ReplicationFactor: t.o.ReplicationFactor, Timeout: t.o.DisseminateTimeout, Window: t.o.CoalesceWindow, Gather: t.gather(name),
		}, n)
		t.namespaces[name] = n
		t.tasks.Add(1)
		go func() {
			defer t.tasks.Done()
			n.run(t.ctx)
		}()
	}
	n.streamCount++
	return n, nil
}

// detach forgets the namespace of a stream if it was the last one.
func (t *term) detach(n *namespace) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.streamCount--; n.streamCount == 0 {
		delete(t.namespaces, n.name)
		close(n.stop)
		t.left[n.name] = t.o.Clock.Now()
	}
}

// gather is until when the sidecars of a namespace may return before its first round; zero when they have had their time. Called with mu held.
func (t *term) gather(name string) time.Time {
	now := t.o.Clock.Now()
	maps.DeleteFunc(t.left, func(_ string, at time.Time) bool { return !at.Add(t.o.RejoinWindow).After(now) })
	since := t.begun
	if at, ok := t.left[name]; ok {
		since = at
	}
	if until := since.Add(t.o.RejoinWindow); until.After(now) {
		return until
	}
	return time.Time{}
}

// state are the tables of all namespaces.
func (t *term) state(ctx context.Context) (*placementv1.StatePlacementTables, error) {
	t.mu.Lock()
	all := make([]*namespace, 0, len(t.namespaces))
	for _, n := range t.namespaces {
		all = append(all, n)
	}
	t.mu.Unlock()
	state := &placementv1.StatePlacementTables{Tables: map[string]*placementv1.StatePlacementTable{}}
	for _, n := range all {
		table := make(chan *placementv1.StatePlacementTable, 1)
		n.do(ctx, func(time.Time) {
			table <- &placementv1.StatePlacementTable{Hosts: n.machine.Hosts(), Version: n.machine.Version()}
		})
		select {
		case s := <-table:
			state.Tables[n.name] = s
		case <-n.stop:
		case <-t.ctx.Done():
			return nil, context.Cause(t.ctx)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return state, nil
}

// namespace is the loop around one state machine. Nothing but the loop touches the fields below events.
type namespace struct {
	name        string
	o           Options
	streamCount int // guarded by term.mu
	stop        chan struct{}
	events      chan func(now time.Time)

	machine *dissemination.Namespace
	streams map[dissemination.ID]*stream
	next    dissemination.ID
	// encoded are the newest orders of each phase.
	encoded [dissemination.Unlock + 1]*encodedOrder
}

// do has the loop do something. It is left out when the loop, or ctx, has ended.
func (n *namespace) do(ctx context.Context, event func(now time.Time)) {
	select {
	case n.events <- event:
	case <-n.stop:
	case <-ctx.Done():
	}
}

// run is the loop.
func (n *namespace) run(ctx context.Context) {
	timer := n.o.Clock.NewTimer(time.Hour)
	defer timer.Stop()
	var armed time.Time
	for {
		if due := n.machine.Deadline(); due != armed {
			armed = due
			if wait := time.Hour; due.IsZero() {
				timer.Reset(wait)
			} else {
				timer.Reset(max(0, due.Sub(n.o.Clock.Now())))
			}
		}
		select {
		case event := <-n.events:
			event(n.o.Clock.Now())
		case <-timer.Chan():
			armed = time.Time{}
			n.machine.Tick(n.o.Clock.Now())
		case <-n.stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

// join adds a stream by its first report.
func (n *namespace) join(now time.Time, s *stream, report *placementv1.Host) {
	n.next++
	s.id = n.next
	n.streams[s.id] = s
	n.machine.Join(now, s.id, report)
}

// hear takes a later message of a stream.
func (n *namespace) hear(now time.Time, s *stream, h *placementv1.Host) {
	switch h.Operation {
	case placementv1.HostOperation_REPORT:
		n.machine.Report(now, s.id, h)
	case placementv1.HostOperation_LOCK:
		n.machine.Ack(now, s.id, dissemination.Lock, h.GetVersion())
	case placementv1.HostOperation_UPDATE:
		n.machine.Ack(now, s.id, dissemination.Update, h.GetVersion())
	case placementv1.HostOperation_UNLOCK:
		n.machine.Ack(now, s.id, dissemination.Unlock, h.GetVersion())
	default:
		n.machine.Unversioned(now, s.id, h)
	}
}

// leave removes a stream that has ended.
func (n *namespace) leave(now time.Time, s *stream) {
	delete(n.streams, s.id)
	n.machine.Close(now, s.id)
}

// Send implements [dissemination.Receiver].
func (n *namespace) Send(id dissemination.ID, o dissemination.Order) {
	s := n.streams[id]
	e := n.encoded[o.Phase]
	if e == nil || e.order != o {
		var err error
		if e, err = encode(o); err != nil {
			s.end(status.Errorf(codes.Internal, "the table of version %d cannot be encoded: %s", o.Version, err))
			return
		}
		n.encoded[o.Phase] = e
	}
	s.out.put(e)
}

// Expel implements [dissemination.Receiver].
func (n *namespace) Expel(id dissemination.ID, version uint64) {
	s := n.streams[id]
	delete(n.streams, id)
	n.o.Log.Warn("A sidecar does not answer and is left out of the tables", "namespace", n.name, "app_id", s.app, "host", s.host, "version", version, "timeout", n.o.DisseminateTimeout)
	s.end(timedOut(n.o.DisseminateTimeout, version))
}

// timedOut is the end of a stream that did not answer, or does not read.
func timedOut(timeout time.Duration, version uint64) error {
	return status.Error(codes.DeadlineExceeded, fmt.Sprintf("dissemination timeout after %s for version %d", timeout, version))
}
