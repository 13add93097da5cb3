package mesh

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"strconv"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/http1"
	"outrigger.dev/invocation"
)

// serveExchange serves one request of the exchange.
func (s *Server) serveExchange(x *http1.Exchange) {
	version := x.Header(headerExchange)
	origin, ok := parseOrigin(version)
	switch {
	case string(version) == exchangeUnary:
		s.exchangeUnary(x)
	case !ok:
		x.SetStatus(404)
		x.SetHeader("Content-Type", "text/plain; charset=utf-8")
		x.Reply([]byte("404 not found: this port is for other sidecars; apps use the HTTP or gRPC API port of their own sidecar\n"))
	case x.Method() == "OPTIONS" && x.RawPath() == "*":
		x.SetHeader(headerExchange, exchangeVersion)
		x.SetHeader(headerLimit, strconv.Itoa(s.limit))
	case x.BadPath():
		replyError(x, status.Newf(codes.InvalidArgument, "invalid method: %q has an invalid escape", x.RawPath()))
	default:
		s.exchange(x, origin)
	}
}

func (s *Server) exchange(x *http1.Exchange, origin invocation.Origin) {
	req := parseRequest(x.Method(), x.Path(), x.RawQuery(), x.Headers(), origin)
	if s.options.Security != nil {
		req.Caller = peerOf(x.Conn())
	}
	switch length := x.ContentLength(); {
	case length == 0:
	case length > 0 && length <= smallBody:
		body, err := x.ReadBody()
		if err != nil {
			replyError(x, status.Newf(codes.Internal, "error invoking app channel: the body of the request was cut: %s", err))
			return
		}
		req.Body = body
	default:
		req.Stream, req.Length = x.BodyReader(), length
	}
	resp, err := s.handle(x.Context(), req)
	if err != nil {
		replyError(x, toStatus(err))
		return
	}
	if resp.Stream != nil && resp.Length >= 0 && resp.Length <= smallBody {
		block := smallBodies.Get().(*[smallBody]byte)
		defer smallBodies.Put(block)
		_, err := io.ReadFull(resp.Stream, block[:resp.Length])
		if cerr := resp.Stream.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			replyError(x, cutAnswer(err))
			return
		}
		resp.Stream, resp.Body = nil, block[:resp.Length]
	}
	replyApp(x, resp)
}

// smallBodies are blocks for bodies on their way from a stream to the reply, which copies them.
var smallBodies = sync.Pool{New: func() any { return new([smallBody]byte) }}

// cutAnswer is the failure of an app to complete its answer.
func cutAnswer(err error) *status.Status {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return status.Newf(codes.Internal, "error invoking app channel: the body of the app's answer was cut: %s", err)
}

// handle calls the handler and turns a panic into an error.
func (s *Server) handle(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	return handle(ctx, &s.options, req)
}

func handle(ctx context.Context, o *ServerOptions, req *invocation.Request) (resp *invocation.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			o.Log.Error("the handler of a call from another sidecar panicked", "app", o.AppID, "method", req.Method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			resp, err = nil, status.Error(codes.Internal, "internal error: the call's handler failed; see the log of the sidecar of the called app")
		}
	}()
	return o.Handler(ctx, req)
}

func replyError(x *http1.Exchange, s *status.Status) {
	x.SetStatus(500)
	x.SetHeader(headerExchange, kindError)
	setStatus(x, s.Code(), s.Message(), s.Proto().GetDetails())
}

func setStatus(x *http1.Exchange, code codes.Code, message string, details []*anyMessage) {
	x.SetHeader(headerStatus, strconv.Itoa(int(code)))
	if message != "" {
		x.SetHeader(headerMessage, encodeText(clip(message)))
	}
	if encoded := encodeDetails(details); encoded != "" {
		x.SetHeader(headerDetails, encoded)
	}
}

// replyApp sends the answer of an app.
func replyApp(x *http1.Exchange, resp *invocation.Response) {
	switch {
	case !resp.IsHTTP():
		x.SetHeader(headerExchange, kindGRPC)
		setStatus(x, codes.Code(resp.Status), resp.Message, resp.Details)
	case resp.Status < 200 || resp.Status > 599:
		// No status that HTTP could carry as a final one.
		x.SetHeader(headerExchange, kindApp)
		x.SetHeader(headerStatus, strconv.Itoa(resp.Status))
	default:
		x.SetHeader(headerExchange, kindApp)
		x.SetStatus(resp.Status)
	}
	if resp.ContentType != "" {
		x.SetHeader("Content-Type", resp.ContentType)
	}
	if resp.TypeURL != "" {
		x.SetHeader(headerTypeURL, encodeText(resp.TypeURL))
	}
	for _, f := range resp.Header {
		if !passed(f.Name) || !sendable(f) {
			continue
		}
		x.AddHeader(f.Name, f.Value)
	}
	for _, f := range resp.Trailer {
		if sendable(f) {
			x.AddHeader(append([]byte(headerTrailer), f.Name...), f.Value)
		}
	}
	if resp.Stream != nil {
		x.ReplyStream(resp.Stream, resp.Length)
		return
	}
	x.Reply(resp.Body)
}

// sendable reports whether an entry can be a line of an HTTP header: a token, and a value without line breaks.
func sendable(f invocation.Field) bool {
	if len(f.Name) == 0 {
		return false
	}
	for _, c := range f.Name {
		if !tokenByte[c] {
			return false
		}
	}
	for _, c := range f.Value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

var tokenByte = byteSet("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
