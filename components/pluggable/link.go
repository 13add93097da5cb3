package pluggable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/components"
)

// The pauses between attempts to reach a component whose process has gone.
const (
	firstPause = 50 * time.Millisecond
	longestGap = time.Second
)

// errClosed is what a link that was closed answers.
var errClosed = errors.New("component is closed")

// link is the connection of one component to its process. Behind it are any number of conns, one after the other, each of them
// initialised before it is used: a process that was restarted knows nothing of the component.
type link[C any] struct {
	name, path string
	// stub makes the clients of the component's services.
	stub func(cc grpc.ClientConnInterface) C
	// start initialises the component.
	start func(ctx context.Context, client C) error
	// bound is how long an attempt to connect and initialise may take, wait how long a call waits for one to succeed.
	bound, wait time.Duration
	headers     func(ctx context.Context) []string
	log         *slog.Logger
	clock       clockwork.Clock

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	current atomic.Pointer[live[C]]

	mu sync.Mutex
	// changed is closed when there is a new conn.
	changed chan struct{}
	// failure is why there is none, nil when there is one.
	failure error
	closed  bool
}

// live is an initialised conn with the clients on it.
type live[C any] struct {
	*conn
	client C
}

// unreachable says that the process behind a component's socket does not answer.
type unreachable struct {
	name, path string
	cause      error
	remedy     string
}

func (e *unreachable) Error() string {
	return fmt.Sprintf("the pluggable component %s cannot be reached on its socket %s: %s; %s, and the sidecar connects to it by itself", e.name, e.path, e.cause, e.remedy)
}

// startAgain is the usual remedy.
const startAgain = "start its process again"

func (e *unreachable) Unwrap() error { return e.cause }

// GRPCStatus has the code Unavailable.
func (e *unreachable) GRPCStatus() *status.Status { return status.New(codes.Unavailable, e.Error()) }

// openLink connects to a socket and initialises the component, within ctx, or the folder's bound if that has no end. A socket that
// refuses connections, or is missing, is tried until then, for its process may be about to start.
func openLink[C any](ctx context.Context, f *Folder, path string, inst components.Instance, stub func(cc grpc.ClientConnInterface) C, start func(ctx context.Context, client C) error) (*link[C], error) {
	l := &link[C]{
		name: inst.Name, path: path, stub: stub, start: start, bound: f.options.Bound, wait: f.options.Bound,
		log: inst.Log, clock: inst.Clock, changed: make(chan struct{}),
	}
	more := f.options.Headers
	l.headers = func(ctx context.Context) []string {
		if more == nil {
			return []string{instanceHeader, inst.Name}
		}
		return append([]string{instanceHeader, inst.Name}, more(ctx)...)
	}
	if deadline, ok := ctx.Deadline(); ok {
		l.bound = max(l.bound, time.Until(deadline))
	}
	ctx, cancel := context.WithTimeout(ctx, l.bound)
	defer cancel()
	var first *live[C]
	for {
		var err error
		if first, err = l.connect(ctx); err == nil {
			break
		}
		if starting := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist); !starting || !f.sleep(ctx, retryInterval) {
			return nil, err
		}
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.current.Store(first)
	l.running.Go(func() { l.keep(first) })
	return l, nil
}

// connect makes a conn and initialises the component on it.
func (l *link[C]) connect(ctx context.Context) (*live[C], error) {
	raw, err := dial(ctx, l.path)
	if err != nil {
		remedy, cause := explainDial(err)
		return nil, &unreachable{l.name, l.path, cause, remedy}
	}
	c, err := newConn(raw, l.headers)
	if err != nil {
		return nil, &unreachable{l.name, l.path, err, startAgain}
	}
	alive := &live[C]{conn: c, client: l.stub(c.cc)}
	if err := l.start(ctx, alive.client); err != nil {
		gone := c.isLost.Load()
		c.close()
		cause := ended(ctx, err)
		switch {
		case cause != nil:
			return nil, &unreachable{l.name, l.path, fmt.Errorf("it did not initialise in time: %w", errors.Join(cause, componentError(ctx, err))), startAgain}
		case gone && status.Code(err) == codes.Unavailable:
			return nil, &unreachable{l.name, l.path, componentError(ctx, err), startAgain}
		}
		return nil, fmt.Errorf("the pluggable component %s on the socket %s did not initialise: %w", l.name, l.path, componentError(ctx, err))
	}
	return alive, nil
}

// keep replaces the conn when it is lost, until the link is closed.
func (l *link[C]) keep(c *live[C]) {
	pause := time.Duration(0) // before the next attempt; none after a conn that was of use for a while
	for {
		began := l.clock.Now()
		select {
		case <-c.lost:
		case <-l.ctx.Done():
			c.close()
			return
		}
		if l.clock.Since(began) >= longestGap {
			pause = 0
		}
		l.log.Warn(fmt.Sprintf("the connection to the pluggable component %s on the socket %s was lost; it is made again", l.name, l.path))
		l.fail(errUsedUp)
		old := c
		l.running.Go(func() { // calls that it has begun may end, as when the other side only takes no new ones
			select {
			case <-old.ended:
			case <-l.ctx.Done():
			}
			old.close()
		})
		l.sleep(pause)
		pause = min(max(2*pause, firstPause), longestGap)
		if c = l.reconnect(); c == nil {
			return
		}
		l.log.Info(fmt.Sprintf("the pluggable component %s on the socket %s is connected and initialised again", l.name, l.path))
	}
}

// reconnect tries until there is a new conn; nil when the link is closed.
func (l *link[C]) reconnect() *live[C] {
	pause := firstPause
	told := ""
	for l.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(l.ctx, l.bound)
		c, err := l.connect(ctx)
		cancel()
		if err == nil {
			l.mu.Lock()
			l.failure = nil
			l.current.Store(c)
			close(l.changed)
			l.changed = make(chan struct{})
			l.mu.Unlock()
			return c
		}
		l.fail(err)
		if text := err.Error(); l.ctx.Err() == nil && text != told { // once, not with every attempt
			l.log.Error(text)
			told = text
		}
		l.sleep(pause)
		pause = min(2*pause, longestGap)
	}
	return nil
}

// sleep waits, or until the link is closed.
func (l *link[C]) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := l.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
	case <-l.ctx.Done():
	}
}

func (l *link[C]) fail(err error) {
	l.mu.Lock()
	l.failure = err
	l.mu.Unlock()
}

// get returns the conn, which it waits for within ctx and the link's own limit.
func (l *link[C]) get(ctx context.Context) (*live[C], error) {
	if c := l.current.Load(); !c.isLost.Load() {
		return c, nil
	}
	return l.await(ctx)
}

func (l *link[C]) await(ctx context.Context) (*live[C], error) {
	limit := l.clock.NewTimer(l.wait)
	defer limit.Stop()
	for {
		l.mu.Lock()
		c, changed, closed := l.current.Load(), l.changed, l.closed
		l.mu.Unlock()
		if closed {
			return nil, errClosed
		}
		if !c.isLost.Load() {
			return c, nil
		}
		select {
		case <-changed:
		case <-l.ctx.Done():
			return nil, errClosed
		case <-ctx.Done():
			return nil, fmt.Errorf("%w, while %w", ctx.Err(), l.away())
		case <-limit.Chan():
			return nil, l.away()
		}
	}
}

// away is the error for the time without a conn.
func (l *link[C]) away() error {
	l.mu.Lock()
	cause := l.failure
	l.mu.Unlock()
	if known, ok := errors.AsType[*unreachable](cause); ok {
		return known
	}
	if cause == nil {
		cause = errUsedUp
	}
	return &unreachable{l.name, l.path, cause, startAgain}
}

// close ends the connection and returns when nothing of the link runs any more.
func (l *link[C]) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.running.Wait()
}

// attempts bounds how often a call goes on over a new connection.
const attempts = 3

// call makes one call. A call that certainly did not reach the process, or can be made twice, is made again when the connection
// breaks. The error is the component's as [componentError] says, or an [*unreachable].
func call[C, R any](ctx context.Context, l *link[C], repeatable bool, f func(ctx context.Context, client C) (R, error)) (R, error) {
	var none R
	for n := 1; ; n++ {
		c, err := l.get(ctx)
		if err != nil {
			return none, err
		}
		r, err := f(ctx, c.client)
		if err == nil {
			return r, nil
		}
		if !c.isLost.Load() || ctx.Err() != nil {
			return r, componentError(ctx, err)
		}
		s := status.Convert(err)
		unsent := strings.Contains(s.Message(), errUsedUp.Error()) || s.Code() == codes.Canceled
		broken := unsent || s.Code() == codes.Unavailable
		switch {
		case l.ctx.Err() != nil:
			return none, errClosed
		case !broken:
			return r, componentError(ctx, err)
		case n == attempts || !unsent && !repeatable:
			return none, &unreachable{l.name, l.path, errors.New(s.Message()), startAgain}
		}
	}
}

// deadlineSkew is how much earlier than the caller a process may let their common deadline pass.
const deadlineSkew = 100 * time.Millisecond

// ended is the end of the call's context when that is why it failed with err, nil otherwise. The process has the same deadline,
// and may let it pass, and break the call off, a moment before this side does.
func ended(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	deadline, has := ctx.Deadline()
	if code := status.Code(err); has && (code == codes.DeadlineExceeded || code == codes.Canceled) && time.Until(deadline) < deadlineSkew {
		return context.DeadlineExceeded
	}
	return nil
}
