package invoke

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
	"outrigger.dev/resiliency"
)

// underPolicy passes a call on to another sidecar under the policies for the target: they cover the whole call, or with
// dapr-stream only that its stream is opened (Dapr API, gRPC proxying: resiliency).
func (c *proxied) underPolicy(ctx context.Context, target string, open opener) error {
	engine := c.block.options.Resiliency
	if !engine.CoversApp(target) {
		return c.end(c.once(ctx, open))
	}
	policy := engine.App(target, target+":"+c.method)
	switch {
	case policy == nil:
		return c.end(c.once(ctx, open))
	case c.streaming:
		return c.end(c.openedUnder(ctx, policy, open))
	case policy.Retries():
		return c.end(c.repeatedly(ctx, policy, open))
	}
	return c.end(c.attempts(ctx, policy, func(ctx context.Context) error { return c.once(ctx, open) }))
}

// openedUnder opens the stream under the policy and then goes on without it.
func (c *proxied) openedUnder(ctx context.Context, policy *resiliency.Policy, open opener) error {
	ctx, end := c.endable(ctx)
	defer end()
	var upstream grpc.ClientStream
	err := c.attempts(ctx, policy, func(attempt context.Context) error {
		living, settled, cancel := resiliency.Outlive(ctx, attempt)
		stream, err := open(living)
		if !settled() || err != nil {
			cancel()
			if cause := attempt.Err(); cause != nil {
				err = cause
			}
			return err
		}
		upstream = stream
		return nil
	})
	if err != nil {
		return err
	}
	c.stream(upstream, end)
	return c.answer(upstream)
}

// attempts runs do under the policy, one at a time, and returns when the last has ended, which uses the client's stream.
func (c *proxied) attempts(ctx context.Context, policy *resiliency.Policy, do func(ctx context.Context) error) error {
	var turn sync.Mutex
	err := resiliency.Do(ctx, policy, func(attempt context.Context) error {
		turn.Lock()
		defer turn.Unlock()
		if err := attempt.Err(); err != nil {
			return err
		}
		err := do(attempt)
		if end, bounded := attempt.Deadline(); bounded && !end.After(time.Now()) && code(err) == codes.DeadlineExceeded {
			// The other sidecar knows the deadline, and may say so, in whatever words, a moment before the context here ends.
			err = context.DeadlineExceeded
		}
		switch {
		case err == nil:
			return nil
		case c.sentMessage, c.broke() != nil:
			return resiliency.Coded(err, -1) // cannot be made again
		}
		return resiliency.Coded(err, int(code(err)))
	})
	turn.Lock()
	defer turn.Unlock()
	if errors.Is(err, resiliency.ErrOpen) || errors.Is(err, resiliency.ErrTooManyRequests) {
		c.trailer = nil // an earlier attempt's
	}
	return err
}

// code is the gRPC code of an error that may be a context's.
func code(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return status.FromContextError(err).Code()
}

// errStreaming is a call whose client sends more than can be kept for a retry.
var errStreaming = status.Error(codes.FailedPrecondition, "cannot use resiliency policies with retries on streaming RPCs")

// repeatedly passes the call on until the policy is content. The client's message, of which there may be only one, is kept.
func (c *proxied) repeatedly(ctx context.Context, policy *resiliency.Policy, open opener) error {
	ctx, cancel := c.endable(ctx)
	defer cancel()
	c.held = true
	m := c.keep(cancel)
	return c.attempts(ctx, policy, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		upstream, err := open(ctx)
		if err != nil {
			return err
		}
		c.block.forwarders.Go(func() { m.feed(ctx, upstream) })
		return c.answer(upstream)
	})
}

// kept is the one message of a client.
type kept struct {
	frame invocation.Frame
	// came is closed when there is a message, or when it is certain that there is none.
	came, complete chan struct{}
	empty          bool
}

// keep receives the client's message, in a goroutine that the block owns.
func (c *proxied) keep(cancel context.CancelFunc) *kept {
	m := &kept{came: make(chan struct{}), complete: make(chan struct{})}
	c.block.forwarders.Go(func() {
		err := c.client.RecvMsg(&m.frame)
		if err == io.EOF {
			m.empty = true
			close(m.came)
			close(m.complete)
			return
		}
		if err == nil {
			err = c.limit(&m.frame)
		}
		if err == nil {
			close(m.came)
			var second invocation.Frame
			if err = c.client.RecvMsg(&second); err == io.EOF {
				close(m.complete)
				return
			}
			if err == nil {
				second.Free()
				err = errStreaming
			}
		}
		c.fail(err, cancel)
	})
	return m
}

// feed sends the message upstream. Its buffers are left to the garbage collector, for attempts share them.
func (m *kept) feed(ctx context.Context, upstream grpc.ClientStream) {
	select {
	case <-m.came:
	case <-ctx.Done():
		return
	}
	if !m.empty {
		if err := upstream.SendMsg(&m.frame); err != nil {
			return // whoever receives the answer knows why
		}
	}
	select {
	case <-m.complete:
		_ = upstream.CloseSend() // never fails
	case <-ctx.Done():
	}
}
