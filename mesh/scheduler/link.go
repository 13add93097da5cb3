package scheduler

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// link is one of the connections to a scheduler that triggers come by. One stream at a time is in use on it; one that it replaced may be
// finishing its deliveries.
type link struct {
	client  *Client
	address string
	leave   chan struct{} // closed when the scheduler is not listed any more

	conn    *grpc.ClientConn
	streams sync.WaitGroup
	// quiet keeps failures out of the log that repeat the one before.
	quiet bool
}

// lasting is how long a stream has to be open so that its end is news.
const lasting = 5 * time.Second

// run keeps a stream open while there is anything to accept (Dapr API, sidecar to scheduler: job streams).
func (l *link) run(ctx context.Context) {
	c := l.client
	conn, err := grpc.NewClient("passthrough:///"+l.address, c.dialOptions()...)
	if err != nil {
		c.options.Log.Error("the address of a scheduler cannot be used", "address", l.address, "error", err)
		return
	}
	l.conn = conn
	defer conn.Close()
	defer l.streams.Wait()

	var now *stream
	defer func() { now.retire() }()
	for {
		w, changed := c.wanted()
		if now == nil || now.want != w {
			// The new one first, so that there is always one that triggers can take.
			next, err := l.open(ctx, w, changed)
			now.retire()
			now = next
			if err != nil && ctx.Err() == nil {
				l.complain("cannot be opened", err)
			}
		}
		if now == nil {
			if !l.wait(ctx, changed, w.initial != nil) {
				return
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-l.leave:
			return
		case <-changed:
		case <-now.ended:
			if c.options.Clock.Since(now.since) >= lasting {
				l.quiet = false
			}
			l.complain("has ended", now.err)
			now = nil
			if !l.wait(ctx, changed, true) {
				return
			}
		}
	}
}

// wait waits until something else is wanted or, with retry, a short time has passed: a broken stream is opened again soon, and the others go on
// meanwhile. It is false when the link is to end.
func (l *link) wait(ctx context.Context, changed <-chan struct{}, retry bool) bool {
	var again <-chan time.Time
	if retry {
		timer := l.client.options.Clock.NewTimer(l.client.between(250*time.Millisecond, 750*time.Millisecond))
		defer timer.Stop()
		again = timer.Chan()
	}
	select {
	case <-ctx.Done():
		return false
	case <-l.leave:
		return false
	case <-changed:
	case <-again:
	}
	return true
}

func (l *link) complain(what string, err error) {
	log := l.client.options.Log.Warn
	if l.quiet {
		log = l.client.options.Log.Debug
	}
	l.quiet = true
	log("a stream of triggers "+what+", and is opened again", "scheduler", l.address, "error", err)
}

var errNotWanted = errors.New("something else is accepted now")

// open opens a stream for w, and returns nil when there is nothing to accept. It gives up when something else is wanted, or ctx or the link
// is to end.
func (l *link) open(ctx context.Context, w *want, changed <-chan struct{}) (*stream, error) {
	c := l.client
	if w.initial == nil || !c.begin(w) {
		return nil, nil
	}
	s, err := l.connect(ctx, w, changed)
	if err != nil {
		c.end()
		if errors.Is(err, errNotWanted) {
			return nil, nil
		}
		return nil, err
	}
	l.streams.Go(func() {
		defer c.end()
		s.receive()
	})
	return s, nil
}

// connect opens the stream once there is a connection. Its error tells why there is none.
func (l *link) connect(ctx context.Context, w *want, changed <-chan struct{}) (*stream, error) {
	connecting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.streams.Go(func() {
		select {
		case <-changed:
			cancel(errNotWanted)
		case <-l.leave:
			cancel(errNotWanted)
		case <-connecting.Done():
		}
	})
	for state := l.conn.GetState(); state != connectivity.Ready && state != connectivity.TransientFailure; state = l.conn.GetState() {
		l.conn.Connect()
		if !l.conn.WaitForStateChange(connecting, state) {
			return nil, context.Cause(connecting)
		}
	}
	// Ready, or it fails at once and says why there is no connection.
	ctx, end := context.WithCancel(ctx)
	rpc, err := schedulerv1.NewSchedulerClient(l.conn).WatchJobs(ctx)
	if err == nil {
		err = rpc.Send(&schedulerv1.WatchJobsRequest{WatchJobRequestType: &schedulerv1.WatchJobsRequest_Initial{Initial: w.initial}})
		if errors.Is(err, io.EOF) { // the reason comes with the next message
			_, err = rpc.Recv()
		}
	}
	if err != nil {
		end()
		return nil, err
	}
	return &stream{client: l.client, want: w, rpc: rpc, ctx: ctx, cancel: end, ended: make(chan struct{}), since: l.client.options.Clock.Now()}, nil
}
