package placement

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	placementv1 "outrigger.dev/api/gen/placement/v1"
	"outrigger.dev/controlplane/placement/dissemination"
	"outrigger.dev/identity"
)

// firstReport is how long a sidecar may take from opening a stream to its first message.
const firstReport = 30 * time.Second

// server is the service Placement.
type server struct {
	placementv1.UnimplementedPlacementServer
	o       Options
	metrics *metrics

	mu       sync.Mutex
	term     *term // nil on a follower
	stopping bool
}

// errNotLeader and errStopping end streams that this process cannot serve (Dapr API, placement: stream admission).
func (s *server) errNotLeader() error {
	return status.Errorf(codes.FailedPrecondition, "node id=%s is not a leader. Only the leader can serve requests", s.o.ID)
}

var errStopping = status.Error(codes.Unavailable, "placement server is shutting down")

// lead begins a term; a former one is ended.
func (s *server) lead() {
	s.follow()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping {
		s.term = newTerm(s.o)
		s.metrics.leads(true)
	}
}

// follow ends the term, if there is one, and with it all streams.
func (s *server) follow() {
	s.metrics.leads(false)
	if t := s.swap(false); t != nil {
		t.close(s.errNotLeader())
	}
}

// stop ends the term for good.
func (s *server) stop() {
	s.metrics.leads(false)
	if t := s.swap(true); t != nil {
		t.close(errStopping)
	}
}

func (s *server) swap(stopping bool) *term {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.term
	s.term, s.stopping = nil, s.stopping || stopping
	return t
}

// present is the present term, nil on a follower.
func (s *server) present() *term {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.term
}

// admit is the term of a new stream, which is counted into its tasks. The error is a status.
func (s *server) admit() (*term, error) {
	s.mu.Lock()
	t, stopping := s.term, s.stopping
	s.mu.Unlock()
	switch {
	case stopping:
		return nil, errStopping
	case t == nil || !t.enter():
		return nil, s.errNotLeader()
	}
	return t, nil
}

// stream is one sidecar.
type stream struct {
	grpc placementv1.Placement_ReportDaprStatusServer
	ctx  context.Context
	end  context.CancelCauseFunc
	out  outbox

	id        dissemination.ID // set by the loop of the namespace
	app, host string
}

// ReportDaprStatus serves a sidecar until one of both ends the stream.
func (s *server) ReportDaprStatus(g placementv1.Placement_ReportDaprStatusServer) error {
	t, err := s.admit()
	if err != nil {
		return err
	}
	defer t.tasks.Done()
	st := &stream{grpc: g, out: outbox{wake: make(chan struct{}, 1)}}
	st.ctx, st.end = context.WithCancelCause(g.Context())
	defer st.end(nil)
	// A call of Recv or Send ends only after this function does, so that two others make them.
	t.tasks.Add(2)
	go func() {
		defer t.tasks.Done()
		st.end(s.receive(t, st))
	}()
	go func() {
		defer t.tasks.Done()
		s.send(st)
	}()
	select {
	case <-st.ctx.Done():
		err = context.Cause(st.ctx)
	case <-t.ctx.Done():
		err = context.Cause(t.ctx)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// receive takes the messages of a sidecar until there is an end. The error is why: a status, or io.EOF.
func (s *server) receive(t *term, st *stream) error {
	peer := identity.PeerFromContext(st.ctx)
	secured := s.o.Security.Judges(peer)
	silent := s.o.Clock.AfterFunc(firstReport, func() {
		st.end(status.Errorf(codes.DeadlineExceeded, "no report came within %s", firstReport))
	})
	defer silent.Stop()
	next := func() (*placementv1.Host, error) {
		h, err := st.grpc.Recv()
		if err != nil {
			return nil, err
		}
		return h, authorise(secured, peer, h)
	}
	first, err := next()
	if err != nil {
		return err
	}
	silent.Stop()
	n, err := t.attach(first.Namespace)
	if err != nil {
		return err
	}
	st.app, st.host = first.Id, first.Name
	s.metrics.joined(n.name, len(first.Entities) > 0)
	defer func() {
		// Here t.ctx and not st.ctx, which has ended.
		n.do(t.ctx, func(now time.Time) { n.leave(now, st) })
		t.detach(n)
		s.metrics.left(n.name, len(first.Entities) > 0)
	}()
	n.do(t.ctx, func(now time.Time) { n.join(now, st, first) })
	for {
		h, err := next()
		if err != nil {
			return err
		}
		if h.Namespace != n.name {
			return status.Errorf(codes.InvalidArgument, "the namespace of a stream cannot change: it began in %q and now says %q; open another stream", n.name, h.Namespace)
		}
		n.do(t.ctx, func(now time.Time) { n.hear(now, st, h) })
	}
}

// send sends what is in the outbox. A sidecar that does not take an order within the time of a round is given up.
func (s *server) send(st *stream) {
	for {
		select {
		case <-st.out.wake:
		case <-st.ctx.Done():
			return
		}
		for o := st.out.take(); o != nil; o = st.out.take() {
			stuck := s.o.Clock.AfterFunc(s.o.DisseminateTimeout, func() { st.end(timedOut(s.o.DisseminateTimeout, o.order.Version)) })
			err := st.grpc.(grpc.ServerStream).SendMsg(o)
			stuck.Stop()
			if err != nil {
				st.end(err)
				return
			}
		}
	}
}

// outboxSize is how many orders may wait for a sidecar: those of its first table and of two rounds.
const outboxSize = 9

// outbox are the orders that a sidecar has not been sent yet. It never fills up: of a sidecar that is slower than rounds follow each other, the
// orders of the older ones are left out, as a round that begins before the last one ended makes that one void (Dapr API, placement: dissemination).
type outbox struct {
	wake chan struct{}

	mu     sync.Mutex
	orders []*encodedOrder
}

func (b *outbox) put(o *encodedOrder) {
	b.mu.Lock()
	if b.orders = append(b.orders, o); len(b.orders) > outboxSize {
		kept := b.orders[:0]
		for _, waiting := range b.orders {
			if waiting.order.Version == o.order.Version {
				kept = append(kept, waiting)
			}
		}
		clear(b.orders[len(kept):])
		b.orders = kept
	}
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take is the next order, nil if there is none.
func (b *outbox) take() *encodedOrder {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.orders) == 0 {
		return nil
	}
	o := b.orders[0]
	b.orders[0] = nil
	b.orders = b.orders[1:]
	return o
}
