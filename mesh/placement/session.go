package placement

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"

	placementv1 "outrigger.dev/api/gen/placement/v1"
)

// apiLevel is the level of the actors API that is reported (Dapr API, placement: messages).
const apiLevel = 20

// maxBacklog bounds the orders that wait while instances are being halted.
const maxBacklog = 4096

// stream is what a session needs of the connection to the placement service.
type stream = grpc.BidiStreamingClient[placementv1.Host, placementv1.PlacementOrder]

type arrival struct {
	order *placementv1.PlacementOrder
	err   error
}

// session is one stream with the placement service, from its first report to its end. Its methods run in the goroutine of Run.
type session struct {
	client *Client
	stream stream

	sent []string // the types of the last report
	// worked tells that the service took this sidecar: an order came.
	worked bool
	// timer bounds the time from LOCK to UPDATE; nil when nothing is bounded.
	timer clockwork.Timer

	// halted is closed when the instances that an UPDATE moves away are gone; nil when none is under way.
	halted chan struct{}
	// after is the acknowledgement that follows; none when the halt is that of the stream before.
	after step
	// backlog are the orders that came meanwhile.
	backlog []*placementv1.PlacementOrder

	tasks sync.WaitGroup
}

// streamError is the end of a stream that the service or the network has brought about.
type streamError struct{ error }

func (e *streamError) Unwrap() error { return e.error }

// run talks with the service until the stream or ctx ends, and returns why. When it is this side that ends the stream, all instances are halted
// before it returns: the stream is to be closed only then, for the service gives the actors to others as soon as it is. When the stream was lost,
// they are halted while the next one is opened already: a service that was restarted has to know of this sidecar before it gives its actors away,
// and the first UPDATE of the next stream is acknowledged only when they have ended.
func (s *session) run(ctx context.Context) error {
	arrivals, stop := make(chan arrival), make(chan struct{})
	s.tasks.Go(func() { receive(s.stream, arrivals, stop) })
	err := s.report()
	if err == nil {
		err = s.serve(ctx, arrivals)
	}
	if errors.Is(err, io.EOF) { // a failed Send: the stream has ended, and receiving tells why
		err = &streamError{reason(arrivals)}
	}
	close(stop)
	s.bound(0)
	s.client.connected.Store(false)
	s.client.core.lost()
	if before := s.halted; s.worked || before != nil {
		ended := make(chan struct{})
		s.client.halting = ended
		s.client.tasks.Go(func() {
			defer close(ended)
			if s.worked {
				s.client.halt(ctx, nil)
			}
			if before != nil {
				<-before
			}
		})
		if lost := (*streamError)(nil); !errors.As(err, &lost) || ctx.Err() != nil {
			<-ended
		}
	}
	return err
}

// reason is why a stream has ended.
func reason(arrivals <-chan arrival) error {
	for a := range arrivals {
		if a.err != nil {
			return a.err
		}
	}
	return nil
}

// receive passes on what comes, until the stream ends or nobody wants it.
func receive(in stream, out chan<- arrival, stop <-chan struct{}) {
	for {
		order, err := in.Recv()
		if err == io.EOF {
			err = errEnded
		}
		select {
		case out <- arrival{order, err}:
		case <-stop:
			return
		}
		if err != nil {
			return
		}
	}
}

var errEnded = errors.New("the placement service ended the stream")

func (s *session) serve(ctx context.Context, arrivals <-chan arrival) error {
	for {
		var expired <-chan time.Time
		if s.timer != nil {
			expired = s.timer.Chan()
		}
		var err error
		select {
		case a := <-arrivals:
			if a.err != nil {
				return &streamError{a.err}
			}
			s.worked = true
			if s.halted == nil {
				err = s.handle(ctx, a.order)
			} else if s.backlog = append(s.backlog, a.order); len(s.backlog) > maxBacklog {
				err = fmt.Errorf("the placement service sent %d orders without waiting for the acknowledgement of one", len(s.backlog))
			}
		case <-s.halted:
			s.halted, s.client.halting = nil, nil
			if s.after.ack != placementv1.HostOperation_UNKNOWN {
				err = s.acknowledge(s.after)
			}
			for err == nil && s.halted == nil && len(s.backlog) > 0 {
				next := s.backlog[0]
				s.backlog = s.backlog[1:]
				err = s.handle(ctx, next)
			}
		case <-s.client.advertised:
			if !slices.Equal(s.client.current(), s.sent) {
				err = s.report()
			}
		case <-expired:
			return fmt.Errorf("dissemination timeout after %s for version %d", s.client.options.DisseminateTimeout, s.client.core.locked)
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// handle carries out an order.
func (s *session) handle(ctx context.Context, o *placementv1.PlacementOrder) error {
	c := s.client
	next, err := c.core.order(o)
	if err != nil {
		return err
	}
	switch next.ack {
	case placementv1.HostOperation_LOCK:
		s.bound(c.options.DisseminateTimeout)
	case placementv1.HostOperation_UPDATE:
		s.bound(0)
		halted := make(chan struct{})
		s.halted, s.after = halted, next
		c.tasks.Go(func() {
			defer close(halted)
			c.halt(ctx, next.stays)
		})
		return nil
	case placementv1.HostOperation_UNLOCK:
		c.options.Hooks.Settled(c.core.view.Load().newest.hosted(s.sent))
		if !c.connected.Swap(true) {
			c.options.Log.Info("placement is connected: actors can be called", "app", c.options.AppID, "version", next.version)
		}
		c.core.settle()
		c.readyOnce.Do(func() { close(c.ready) })
	default:
		return nil
	}
	return s.acknowledge(next)
}

// bound sets the time in which an UPDATE has to come; 0 is none.
func (s *session) bound(d time.Duration) {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if d > 0 {
		s.timer = s.client.options.Clock.NewTimer(d)
	}
}

func (s *session) acknowledge(done step) error {
	o := &s.client.options
	return s.stream.Send(&placementv1.Host{Id: o.AppID, Namespace: o.Namespace, Operation: done.ack, Version: &done.version})
}

// report tells the service about this sidecar.
func (s *session) report() error {
	o := &s.client.options
	s.sent = s.client.current()
	return s.stream.Send(&placementv1.Host{
		Name: o.HostName, Id: o.AppID, Namespace: o.Namespace, Entities: s.sent, ApiLevel: apiLevel, Operation: placementv1.HostOperation_REPORT,
	})
}

// halt calls the hook. The end of the client does not cut it short: turns are drained then, too.
func (c *Client) halt(ctx context.Context, stays func(actorType, id string) bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.options.DisseminateTimeout)
	defer cancel()
	c.options.Hooks.Halt(ctx, stays)
}
