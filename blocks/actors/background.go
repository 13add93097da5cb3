package actors

import (
	"context"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// crew counts the goroutines of a runtime, for whoever waits for them. The zero value is ready.
type crew struct {
	mu   sync.Mutex
	n    int
	gone chan struct{} // made by who waits, closed when n is 0
}

// run runs f on a goroutine of its own.
func (c *crew) run(f func()) {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	go func() {
		defer c.done()
		f()
	}()
}

func (c *crew) done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.n == 0 && c.gone != nil {
		close(c.gone)
		c.gone = nil
	}
}

// wait waits until none runs, or ctx ends.
func (c *crew) wait(ctx context.Context) error {
	c.mu.Lock()
	if c.n == 0 {
		c.mu.Unlock()
		return nil
	}
	if c.gone == nil {
		c.gone = make(chan struct{})
	}
	gone := c.gone
	c.mu.Unlock()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// never is a wait without an end.
const never = -1

// alarm rings after d, which may be [never].
func alarm(clock clockwork.Clock, d time.Duration) (rings <-chan time.Time, stop func()) {
	if d < 0 {
		return nil, func() {}
	}
	timer := clock.NewTimer(d)
	return timer.Chan(), func() { timer.Stop() }
}

// within is ctx with a time limit by a clock; its cause is then context.DeadlineExceeded.
func within(ctx context.Context, clock clockwork.Clock, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := clock.AfterFunc(d, func() { cancel(context.DeadlineExceeded) })
	return ctx, func() {
		timer.Stop()
		cancel(context.Canceled)
	}
}
