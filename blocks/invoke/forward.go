package invoke

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
)

// opener opens the stream that a proxied call goes on by. Its metadata are in ctx, with which it ends.
type opener func(ctx context.Context) (grpc.ClientStream, error)

// proxied is a gRPC call that is passed on without being decoded.
type proxied struct {
	block  *Block
	client grpc.ServerStream
	method string
	// options are those of the streams that it goes on by.
	options []grpc.CallOption
	// streaming tells that the client marked the call with dapr-stream.
	streaming bool
	start     time.Time
	// answered is when the first message of the answer came, as the time since start; 0 while there was none.
	answered time.Duration
	// held keeps the answer's header back until it is certain that the call is not made again.
	held bool
	// sentHeader and sentMessage tell what the client has got already.
	sentHeader, sentMessage bool
	header, trailer         metadata.MD
	// failure is why the client's side of the call broke; the first one counts.
	failure atomic.Pointer[error]
}

// fail notes why the client's side of the call broke, and ends what goes on.
func (c *proxied) fail(err error, cancel context.CancelFunc) {
	c.failure.CompareAndSwap(nil, &err)
	cancel()
}

// broke is why the client's side of the call broke, nil if it did not.
func (c *proxied) broke() error {
	if err := c.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// endable is a context for what is done for the call, which ends when the sidecar does.
func (c *proxied) endable(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.block.ending, func() {
		c.fail(status.Errorf(codes.Unavailable, "the sidecar of app %s is shutting down", c.block.options.AppID), cancel)
	})
	return ctx, func() {
		stop()
		cancel()
	}
}

// drainShare is how much of the time to shut down proxied calls may take that run then.
const drainShare = 0.8

// Drain announces the end: proxied calls that still run when most of the time until the deadline of ctx is over are ended, so
// that streams without an end do not make every shutdown fail. It does not wait for them.
func (b *Block) Drain(ctx context.Context) error {
	deadline, bounded := ctx.Deadline()
	if !bounded {
		return nil
	}
	timer := b.options.Clock.AfterFunc(time.Duration(drainShare*float64(time.Until(deadline))), b.end)
	context.AfterFunc(b.ending, func() { timer.Stop() })
	return nil
}

// Close waits for what still runs for calls; the servers that took them must have ended.
func (b *Block) Close() {
	b.end()
	b.forwarders.Wait()
}

// once passes the call on over one stream: the client's messages as they come.
func (c *proxied) once(ctx context.Context, open opener) error {
	ctx, cancel := c.endable(ctx)
	defer cancel()
	upstream, err := open(ctx)
	if err != nil {
		return err
	}
	c.stream(upstream, cancel)
	return c.answer(upstream)
}

// stream sends the client's messages to upstream, until there are no more, in a goroutine that the block owns: it can outlast
// the call, for only the call's end makes its last receive return.
func (c *proxied) stream(upstream grpc.ClientStream, cancel context.CancelFunc) {
	c.block.forwarders.Go(func() {
		var f invocation.Frame
		defer f.Free()
		for {
			if err := c.client.RecvMsg(&f); err != nil {
				if err == io.EOF {
					err = upstream.CloseSend()
				}
				if err != nil {
					c.fail(err, cancel)
				}
				return
			}
			err := c.limit(&f)
			if err == nil {
				err = upstream.SendMsg(&f)
			}
			f.Free()
			if err == io.EOF { // the answer is complete, and whoever receives it knows why
				return
			}
			if err != nil {
				c.fail(err, cancel)
				return
			}
		}
	})
}

// limit refuses a message of the client that is too large. gRPC would do it too, but end the stream with nobody knowing why.
func (c *proxied) limit(f *invocation.Frame) error {
	if limit := c.block.options.MaxBodyBytes; limit > 0 && int64(f.Len()) > limit {
		return status.Errorf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d); raise --max-body-size", f.Len(), limit)
	}
	return nil
}

// answer passes upstream's header and messages on to the client and keeps its trailer. The error is the call's result.
func (c *proxied) answer(upstream grpc.ClientStream) error {
	c.header, c.trailer = nil, nil
	header, err := upstream.Header()
	if err == nil && header != nil { // else the status comes without any, and is received below
		c.header = fit(header)
		if !c.held {
			if err := c.sendHeader(); err != nil {
				return err
			}
		}
	}
	var f invocation.Frame
	defer f.Free()
	for {
		if err := upstream.RecvMsg(&f); err != nil {
			c.trailer = fit(upstream.Trailer())
			if err == io.EOF {
				return nil
			}
			return err
		}
		if c.answered == 0 {
			c.answered = max(c.block.options.Clock.Since(c.start), 1)
		}
		if err := c.sendHeader(); err != nil {
			return err
		}
		c.sentMessage = true
		err := c.client.SendMsg(&f)
		f.Free()
		if err != nil {
			return err
		}
	}
}

func (c *proxied) sendHeader() error {
	if c.sentHeader {
		return nil
	}
	c.sentHeader = true
	return c.client.SendHeader(c.header)
}

// end is the call's result for the client, with what header and trailer are left to send.
func (c *proxied) end(err error) error {
	if !c.sentHeader && len(c.header) > 0 {
		_ = c.client.SetHeader(c.header) // cannot fail: it is fit, and nothing was sent
	}
	if len(c.trailer) > 0 {
		c.client.SetTrailer(c.trailer)
	}
	if err == nil {
		return nil
	}
	if cause := c.broke(); cause != nil {
		err = cause
	}
	if cause := c.client.Context().Err(); cause != nil {
		return status.FromContextError(cause).Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unknown, err.Error())
}

// fit takes out of metadata what gRPC would refuse to pass on, so that one odd entry of an app does not fail its calls. It
// changes md.
func fit(md metadata.MD) metadata.MD {
	for key, values := range md {
		if key == "" || !metadataKey([]byte(key)) && key[0] != ':' {
			delete(md, key)
			continue
		}
		if len(key) > 4 && key[len(key)-4:] == "-bin" {
			continue
		}
		for _, v := range values {
			if !printable(v) {
				delete(md, key)
				break
			}
		}
	}
	return md
}
