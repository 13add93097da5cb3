package mesh

import (
	"context"
	"errors"
	"io"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/http1"
	"outrigger.dev/identity"
	"outrigger.dev/invocation"
)

// exchangeUnary is unary over the exchange.
func (p *peer) exchangeUnary(ctx context.Context, method string, call unaryCall) error {
	raw, err := call.encode()
	if err != nil {
		return status.Errorf(codes.Internal, "error while marshaling: %s", err)
	}
	request := http1.NewRequest("POST", []byte(method), p.host)
	defer request.Release()
	request.AddHeaderString(headerExchange, exchangeUnary)
	request.Body = raw
	answer, err := p.http.Do(ctx, request)
	if err != nil {
		return p.broken(ctx, err)
	}
	defer answer.Close()
	answer.Header.SetNoDefaultContentType(true)
	_, failure, err := parseResponse(answer.Status(), answer.Header.All())
	if err != nil {
		return &lostError{status: status.Errorf(codes.Unavailable, "the sidecar at %s answered with HTTP status %d: %s", p.target.Address, answer.Status(), err), foreign: true}
	}
	if failure != nil && answer.Length() == 0 {
		return failure
	}
	body, err := readMessage(answer, answer.Length(), int64(messageLimit(p.client.options.MaxBodySize)))
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			return cause
		}
		if failure != nil {
			return failure
		}
		if _, is := status.FromError(err); is {
			return err
		}
		return status.Errorf(codes.Unavailable, "error receiving message: the connection to the sidecar at %s broke: %s", p.target.Address, err)
	}
	if failure != nil {
		return longFailure(failure, body)
	}
	if err := call.decode(body); err != nil {
		return status.Errorf(codes.Internal, "the answer of the sidecar at %s cannot be decoded: %s", p.target.Address, err)
	}
	return nil
}

// readMessage reads a body that is length bytes long, or -1 if that is not known.
func readMessage(r io.Reader, length, limit int64) ([]byte, error) {
	if length > limit {
		return nil, tooLarge(length, limit)
	}
	if length >= 0 && length <= 1<<20 { // memory follows the bytes that came, not a length that was announced
		body := make([]byte, length)
		_, err := io.ReadFull(r, body)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return body, err
	}
	body, err := invocation.ReadAll(r, limit)
	if errors.Is(err, invocation.ErrTooLarge) {
		return nil, tooLarge(limit+1, limit)
	}
	if err == nil && length >= 0 && int64(len(body)) < length {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}

// tooLarge is a message over the limit, as gRPC has it.
func tooLarge(size, limit int64) error {
	return status.Errorf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", size, limit)
}

// longFailure is a failure of which the header of the answer holds only a part.
func longFailure(short error, body []byte) error {
	var s spb.Status
	if proto.Unmarshal(body, &s) != nil || codes.Code(uint32(s.GetCode())) != status.Code(short) {
		return short
	}
	return status.ErrorProto(&s)
}

// exchangeUnary serves a method of the internal protocol.
func (s *Server) exchangeUnary(x *http1.Exchange) {
	body, err := readMessage(x.BodyReader(), x.ContentLength(), int64(messageLimit(s.options.MaxBodySize)))
	if err != nil {
		if _, is := status.FromError(err); !is {
			err = status.Errorf(codes.Internal, "the body of the request was cut: %s", err)
		}
		replyFailure(x, err)
		return
	}
	ctx := x.Context()
	if s.options.Security != nil {
		ctx = identity.WithPeer(ctx, peerOf(x.Conn()))
	}
	var raw []byte
	switch x.RawPath() {
	case internalsv1.ServiceInvocation_CallActor_FullMethodName:
		raw, err = s.calls.exchangeActor(ctx, body)
	case internalsv1.ServiceInvocation_CallActorReminder_FullMethodName:
		reminder := &internalsv1.Reminder{}
		if err = proto.Unmarshal(body, reminder); err != nil {
			err = undecodable(err)
		} else {
			_, err = s.calls.CallActorReminder(ctx, reminder)
		}
	default:
		err = status.Errorf(codes.Unimplemented, "unknown method %.200s", x.RawPath())
	}
	if err != nil {
		replyFailure(x, err)
		return
	}
	x.SetHeader(headerExchange, kindApp)
	x.Reply(raw)
}

// exchangeActor serves a call of an actor: its message and that of the answer.
func (c *callServer) exchangeActor(ctx context.Context, body []byte) ([]byte, error) {
	in := &internalsv1.InternalInvokeRequest{}
	h, rest, err := splitHeader(body)
	direct := !errors.Is(err, errManyEntries)
	if !direct {
		rest, err = body, nil
	}
	if err == nil {
		err = proto.Unmarshal(rest, in)
	}
	if err != nil {
		return nil, undecodable(err)
	}
	req := fromActorCall(in)
	if direct {
		contentTypeOf(req, string(h.Get("content-type")))
		req.Header = onlyPassed(h)
	}
	resp, err := c.serveActor(ctx, in, req)
	if err != nil {
		return nil, err
	}
	header := resp.Header
	resp.Header = nil
	raw := make([]byte, 0, len(resp.Body)+512)
	raw, err = proto.MarshalOptions{}.MarshalAppend(raw, toActorResponse(resp))
	if err != nil {
		return nil, status.Errorf(codes.Internal, "grpc: error while marshaling: %s", err)
	}
	return appendHeader(raw, header), nil
}

// undecodable is the failure of a message that is none.
func undecodable(err error) error {
	return status.Errorf(codes.Internal, "grpc: error unmarshalling request: %s", err)
}

// replyFailure sends an error whole: in the header, and in the body if it does not fit there.
func replyFailure(x *http1.Exchange, err error) {
	s := status.Convert(err)
	replyError(x, s)
	details := s.Proto().GetDetails()
	if len(s.Message()) <= maxMessage && (len(details) == 0 || encodeDetails(details) != "") {
		return
	}
	if raw, err := proto.Marshal(s.Proto()); err == nil {
		x.Reply(raw)
	}
}
