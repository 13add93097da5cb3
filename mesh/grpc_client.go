package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/tracing"
)

// call makes a call over gRPC.
func (p *peer) call(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	conn, err := p.take()
	if err != nil {
		return nil, err
	}
	c := &grpcCall{peer: p, conn: conn, outer: ctx, req: req}
	c.ctx, c.cancel = context.WithCancel(outgoing(ctx, req))
	resp, err := c.begin()
	if err == nil {
		return resp, nil
	}
	c.end()
	if cause := invocation.Ended(ctx, err); cause != nil {
		return nil, cause
	}
	if c.sender != nil && c.sender.bodyErr != nil {
		return nil, c.sender.bodyErr
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Unauthenticated:
		p.drop(conn)
		p.forget()
	case codes.Unimplemented:
		if !req.Replayable() {
			return nil, fmt.Errorf("target app '%s' is running a version of Dapr that does not support streaming-based service invocation", req.AppID)
		}
		return p.callUnary(ctx, req)
	}
	return nil, err
}

// outgoing adds the metadata of the caller's span.
func outgoing(ctx context.Context, req *invocation.Request) context.Context {
	parent := req.Header.Get(tracing.HeaderParent)
	if parent == nil {
		return ctx
	}
	pairs := []string{tracing.HeaderParent, string(parent)}
	if c, ok := tracing.ParseParent(parent); ok {
		pairs = append(pairs, tracing.HeaderBinary, c.Binary())
	}
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

// callUnary makes a call by the older method, for peers without the newer one.
func (p *peer) callUnary(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	in, out := toInternal(req), &internalsv1.InternalInvokeResponse{}
	in.Message.Data.Value = req.Body
	if err := p.grpcUnary(outgoing(ctx, req), internalsv1.ServiceInvocation_CallLocal_FullMethodName, in, out); err != nil {
		return nil, err
	}
	if out.GetStatus() == nil {
		return nil, errMissingStatus
	}
	resp := fromInternalResponse(out, req)
	resp.Body = out.GetMessage().GetData().GetValue()
	return resp, nil
}

var (
	errMissingStatus = errors.New("response does not contain the required fields in the leading chunk")
	errLaterResponse = errors.New("response metadata found in non-leading chunk")
)

// grpcCall is a call on a gRPC connection until its answer is read or given up. It is the stream of the answer's body.
type grpcCall struct {
	peer   *peer
	conn   *grpcConn
	req    *invocation.Request
	outer  context.Context // the caller's
	ctx    context.Context // the call's
	cancel context.CancelFunc
	stream grpc.BidiStreamingClient[internalsv1.InternalInvokeRequestStream, internalsv1.InternalInvokeResponseStream]
	sender *callSender

	payload payloads
	rest    []byte
	err     error
	once    sync.Once
}

// inlineBody is how much of a body is sent before the answer is read: it fits into what a peer takes without reading it.
const inlineBody = 2 * chunkSize

// begin sends the call and receives the head of its answer. Longer bodies and streams are sent meanwhile.
func (c *grpcCall) begin() (*invocation.Response, error) {
	var err error
	if c.stream, err = c.conn.calls.CallLocalStream(c.ctx); err != nil {
		return nil, err
	}
	leading := &internalsv1.InternalInvokeRequestStream{Request: toInternal(c.req)}
	rest, seq := c.req.Body, uint64(0)
	if c.req.Stream == nil && len(rest) > 0 {
		n := min(len(rest), chunkSize)
		leading.Payload = &commonv1.StreamPayload{Data: rest[:n]}
		rest, seq = rest[n:], 1
	}
	if err = c.stream.Send(leading); err == nil {
		c.sender = &callSender{call: c, seq: seq, rest: rest, done: make(chan struct{})}
		if c.req.Stream == nil && len(c.req.Body) <= inlineBody {
			err = c.sender.send()
			close(c.sender.done)
		} else {
			go c.sender.run()
		}
	}
	if err != nil && err != io.EOF { // io.EOF: the answer says what is wrong
		return nil, err
	}
	out, err := c.stream.Recv()
	if err == io.EOF && c.req.EventStream { // a Dapr peer whose app sent no event
		c.end()
		return &invocation.Response{Status: 200, ContentType: "text/event-stream"}, nil
	}
	if err == io.EOF {
		return nil, status.Error(codes.Internal, "the other sidecar ended the call without an answer")
	}
	if err != nil {
		return nil, err
	}
	if out.GetResponse().GetStatus() == nil {
		return nil, errMissingStatus
	}
	if c.rest, err = c.payload.next(out.GetPayload()); err != nil {
		return nil, err
	}
	resp := fromInternalResponse(out.GetResponse(), c.req)
	if c.req.Verb == "HEAD" || resp.Status == 204 || resp.Status == 304 {
		c.end()
		return resp, nil
	}
	resp.Stream, resp.Length = c, -1
	return resp, nil
}

// Read reads the body of the answer.
func (c *grpcCall) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		out, err := c.stream.Recv()
		switch {
		case err == io.EOF:
			c.err = io.EOF
			c.end()
		case err != nil:
			c.err = fmt.Errorf("error receiving message: %w", err)
			if cause := invocation.Ended(c.outer, err); cause != nil {
				c.err = cause
			}
			c.end()
		case out.GetResponse().GetStatus() != nil || len(out.GetResponse().GetHeaders()) > 0 || out.GetResponse().GetMessage() != nil:
			c.err = errLaterResponse
		default:
			c.rest, c.err = c.payload.next(out.GetPayload())
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Close ends the call.
func (c *grpcCall) Close() error {
	c.end()
	return nil
}

// end ends the call, what still sends its body, and its use of the connection.
func (c *grpcCall) end() {
	c.once.Do(func() {
		c.cancel()
		if c.sender != nil {
			c.sender.stop()
		}
		c.peer.give(c.conn)
	})
}

// callSender sends the body of a call after its first piece.
type callSender struct {
	call *grpcCall
	seq  uint64
	rest []byte
	done chan struct{}
	// bodyErr is a failure of the reader that supplied the body.
	bodyErr error
	// stopped tells that the rest of the body is not wanted any more: what its reader then says means nothing.
	stopped atomic.Bool
}

func (s *callSender) run() {
	defer close(s.done)
	if err := s.send(); err != nil && s.bodyErr != nil {
		s.call.cancel() // the peer waits for a body that will never be complete
	}
}

func (s *callSender) send() error {
	stream := s.call.stream
	message := &internalsv1.InternalInvokeRequestStream{Payload: &commonv1.StreamPayload{}}
	for len(s.rest) > 0 {
		n := min(len(s.rest), chunkSize)
		message.Payload.Data, message.Payload.Seq = s.rest[:n], s.seq
		if err := stream.Send(message); err != nil {
			return err
		}
		s.seq, s.rest = s.seq+1, s.rest[n:]
	}
	body := s.call.req.Stream
	if body == nil {
		return stream.CloseSend()
	}
	block := chunks.Get().(*[chunkSize]byte)
	defer chunks.Put(block)
	sent := int64(0)
	for {
		n, err := body.Read(block[:])
		if n > 0 {
			message.Payload.Data, message.Payload.Seq = block[:n], s.seq
			if err := stream.Send(message); err != nil {
				return err
			}
			s.seq++
			sent += int64(n)
		}
		if err == io.EOF {
			if length := s.call.req.Length; length >= 0 && sent < length {
				err = io.ErrUnexpectedEOF
			} else {
				return stream.CloseSend()
			}
		}
		if err != nil {
			if !s.stopped.Load() {
				s.bodyErr = err
			}
			return err
		}
	}
}

// stop makes the sender end, and waits for it. The call is cancelled already.
func (s *callSender) stop() {
	select {
	case <-s.done:
		return
	default:
	}
	s.stopped.Store(true)
	if a, ok := s.call.req.Stream.(interface{ Abort() }); ok {
		a.Abort()
	}
	<-s.done
}
