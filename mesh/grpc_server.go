package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/identity"
	"outrigger.dev/invocation"
)

// callServer is the service of the internal protocol.
type callServer struct {
	internalsv1.UnimplementedServiceInvocationServer
	options *ServerOptions
	// receivers are the goroutines that read the bodies of calls.
	receivers sync.WaitGroup
}

// badLeading is a call without what its first message must have.
func badLeading(text string) error {
	return status.Error(codes.InvalidArgument, "parsing InternalInvokeRequest error: "+text)
}

const missingFields = "request does not contain the required fields in the leading chunk"

// receive makes a call of its leading message.
func receive(in *internalsv1.InternalInvokeRequest) (*invocation.Request, int64, error) {
	if len(in.GetMetadata()) == 0 || in.GetMessage() == nil {
		return nil, 0, badLeading(missingFields)
	}
	if in.GetVer() != internalsv1.APIVersion_V1 {
		return nil, 0, status.Errorf(codes.Internal, "error invoking app channel: rpc error: code = Unimplemented desc = Unsupported spec version: %d", in.GetVer())
	}
	req, length, err := fromInternal(in)
	if err != nil {
		return nil, 0, status.Errorf(codes.Internal, "error invoking app channel: %s", err)
	}
	return req, length, nil
}

// CallLocal serves a call with the bodies in one piece.
func (c *callServer) CallLocal(ctx context.Context, in *internalsv1.InternalInvokeRequest) (out *internalsv1.InternalInvokeResponse, err error) {
	start := time.Now()
	defer func() {
		c.observe(internalsv1.ServiceInvocation_CallLocal_FullMethodName, err, start, in, out)
	}()
	req, _, err := receive(in)
	if err != nil {
		return nil, err
	}
	req.Body = in.GetMessage().GetData().GetValue()
	req.Caller = identity.PeerFromContext(ctx)
	resp, err := handle(ctx, c.options, req)
	if err != nil {
		return nil, toStatus(err).Err()
	}
	if err := resp.Buffer(c.options.MaxBodySize); err != nil {
		return nil, cutAnswer(err).Err()
	}
	out = toInternalResponse(resp)
	out.Message.Data.Value = resp.Body
	return out, nil
}

// CallLocalStream serves a call with the bodies in pieces.
func (c *callServer) CallLocalStream(stream grpc.BidiStreamingServer[internalsv1.InternalInvokeRequestStream, internalsv1.InternalInvokeResponseStream]) error {
	in, err := stream.Recv()
	if err != nil {
		if err == io.EOF {
			return badLeading(missingFields)
		}
		return err
	}
	req, length, err := receive(in.GetRequest())
	if err != nil {
		return err
	}
	body := &callBody{stream: stream, server: c, aborted: make(chan struct{})}
	defer body.Abort()
	if err := body.begin(in, req, length); err != nil {
		return status.Errorf(codes.Internal, "error invoking app channel: %s", err)
	}
	req.Caller = identity.PeerFromContext(stream.Context())
	resp, err := handle(stream.Context(), c.options, req)
	if err != nil {
		return toStatus(err).Err()
	}
	return answer(stream, resp)
}

// answer sends the answer of an app, each piece as it comes.
func answer(stream grpc.BidiStreamingServer[internalsv1.InternalInvokeRequestStream, internalsv1.InternalInvokeResponseStream], resp *invocation.Response) error {
	head := toInternalResponse(resp)
	leading := &internalsv1.InternalInvokeResponseStream{Response: head}
	if resp.Stream == nil {
		rest := resp.Body
		for seq := uint64(0); ; seq++ {
			n := min(len(rest), chunkSize)
			if n > 0 {
				leading.Payload = &commonv1.StreamPayload{Data: rest[:n], Seq: seq}
			}
			if err := stream.Send(leading); err != nil {
				return err
			}
			if rest = rest[n:]; len(rest) == 0 {
				return nil
			}
			leading = &internalsv1.InternalInvokeResponseStream{}
		}
	}
	defer resp.Stream.Close()
	block := chunks.Get().(*[chunkSize]byte)
	defer chunks.Put(block)
	seq := uint64(0)
	if resp.Length >= 0 && resp.Length <= smallBody {
		n, err := io.ReadFull(resp.Stream, block[:resp.Length])
		if err != nil {
			return cutAnswer(err).Err()
		}
		if n > 0 {
			leading.Payload = &commonv1.StreamPayload{Data: block[:n]}
		}
		return stream.Send(leading)
	}
	if err := stream.Send(leading); err != nil {
		return err
	}
	message := &internalsv1.InternalInvokeResponseStream{Payload: &commonv1.StreamPayload{}}
	for {
		n, err := resp.Stream.Read(block[:])
		if n > 0 {
			message.Payload.Data, message.Payload.Seq = block[:n], seq
			if err := stream.Send(message); err != nil {
				return err
			}
			seq++
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return cutAnswer(err).Err()
		}
	}
}

// chunks are blocks for the pieces of bodies; a message is encoded when Send returns, so they can be used again.
var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// callBody is the body of a streamed call. It reads messages ahead, one at a time, so that Abort can end a blocked Read.
type callBody struct {
	stream  grpc.BidiStreamingServer[internalsv1.InternalInvokeRequestStream, internalsv1.InternalInvokeResponseStream]
	server  *callServer
	payload payloads
	rest    []byte
	err     error

	pieces  chan piece
	started bool
	once    sync.Once
	aborted chan struct{}
}

type piece struct {
	data []byte
	err  error
}

// begin decides how the handler gets the body: in memory when all of it came with the leading message, else as a stream.
func (b *callBody) begin(in *internalsv1.InternalInvokeRequestStream, req *invocation.Request, length int64) error {
	data, err := b.payload.next(in.GetPayload())
	if err != nil {
		return err
	}
	if length >= 0 && int64(len(data)) == length {
		req.Body = data
		return nil
	}
	if length < 0 && len(data) == 0 && bodyless(req.Verb) {
		// Most probably there is none, and the end of the call is next; apps should not see an empty body in chunks.
		in, err := b.stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if data, err = b.later(in); err != nil {
			return err
		}
	}
	b.rest = data
	b.pieces = make(chan piece)
	req.Stream, req.Length = b, length
	return nil
}

func bodyless(verb string) bool {
	return verb == "GET" || verb == "HEAD" || verb == "DELETE" || verb == "OPTIONS" || verb == "TRACE"
}

var errLaterMetadata = errors.New("request metadata found in non-leading chunk")

func (b *callBody) later(in *internalsv1.InternalInvokeRequestStream) ([]byte, error) {
	if len(in.GetRequest().GetMetadata()) > 0 || in.GetRequest().GetMessage() != nil {
		return nil, errLaterMetadata
	}
	return b.payload.next(in.GetPayload())
}

// Read returns the bytes of the next message.
func (b *callBody) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		if !b.started {
			b.started = true
			b.server.receivers.Go(b.run)
		}
		select {
		case next := <-b.pieces:
			b.rest, b.err = next.data, next.err
		case <-b.aborted:
			b.err = context.Canceled
		case <-b.stream.Context().Done():
			b.err = context.Canceled
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// run receives messages until the body or the call ends.
func (b *callBody) run() {
	for {
		var next piece
		in, err := b.stream.Recv()
		switch {
		case err == io.EOF:
			next.err = io.EOF
		case err != nil:
			next.err = fmt.Errorf("error receiving message: %w", err)
		default:
			next.data, next.err = b.later(in)
		}
		select {
		case b.pieces <- next:
		case <-b.aborted:
			return
		case <-b.stream.Context().Done():
			return
		}
		if next.err != nil {
			return
		}
	}
}

// Abort makes a blocked Read return.
func (b *callBody) Abort() { b.once.Do(func() { close(b.aborted) }) }

// payloads checks the order of the pieces of a body.
type payloads struct{ seq uint64 }

func (s *payloads) next(payload *commonv1.StreamPayload) ([]byte, error) {
	if payload == nil {
		return nil, nil
	}
	if payload.GetSeq() != s.seq {
		return nil, fmt.Errorf("invalid sequence number received: %d (expected: %d)", payload.GetSeq(), s.seq)
	}
	s.seq++
	return payload.GetData(), nil
}
