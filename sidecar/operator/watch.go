package operator

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// settle is how long after the start everything is looked at once more: the operator does not say from when on a stream tells of
// changes, so that one between the first list and that moment would be noticed only at the end of the interval.
const settle = 5 * time.Second

// Watch begins to follow changes. The channel has a value after changes, after a stream had to be opened anew, for what happened
// meanwhile is not told, once after some seconds, and at every interval (60 s when 0 or less). It holds one value, however many
// changes there were.
func (c *Client) Watch(interval time.Duration) <-chan struct{} {
	if interval <= 0 {
		interval = time.Minute
	}
	for _, k := range kinds() {
		c.tasks.Go(func() { c.follow(k) })
	}
	ticker, settled := c.options.Clock.NewTicker(interval), c.options.Clock.NewTimer(settle)
	c.tasks.Go(func() {
		defer ticker.Stop()
		defer settled.Stop()
		for {
			select {
			case <-c.ctx.Done():
				return
			case <-settled.Chan():
				c.notice()
			case <-ticker.Chan():
				c.notice()
			}
		}
	})
	return c.out
}

func (c *Client) notice() {
	select {
	case c.out <- struct{}{}:
	default:
	}
}

// follow keeps the stream of changes of a kind open.
func (c *Client) follow(k kind) {
	wait := firstReconnect
	for first := true; ; first = false {
		opened := c.options.Clock.Now()
		err := c.receive(k, !first)
		if c.ctx.Err() != nil || k.newer && status.Code(err) == codes.Unimplemented {
			return
		}
		if c.options.Clock.Since(opened) > lastReconnect {
			wait = firstReconnect
		}
		c.options.Log.Debug("the operator's changes are not followed for a moment", "kind", k.name, "wait", wait, "error", err)
		select {
		case <-c.options.Clock.After(wait):
		case <-c.ctx.Done():
			return
		}
		wait = min(2*wait, lastReconnect)
	}
}

// receive follows one stream to its end.
func (c *Client) receive(k kind, again bool) error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	next, err := k.watch(ctx, c)
	if err != nil {
		return err
	}
	if again {
		c.notice()
	}
	for {
		if err := next(); err != nil {
			return err
		}
		c.notice()
	}
}
