package mesh

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/http1"
	"outrigger.dev/invocation"
)

// lostError is an exchange that got no answer of a peer.
type lostError struct {
	status error
	// foreign tells that somebody answered who does not speak the exchange.
	foreign bool
}

func (e *lostError) Error() string { return e.status.Error() }

// goesOn reports, with nil, that a call whose exchange was lost goes on over gRPC: the peer, whose protocol was forgotten, may have been replaced
// by one that speaks only that, and then it has not seen the call.
func (p *peer) goesOn(ctx context.Context, lost *lostError) error {
	protocol, err := p.protocol(ctx)
	if err != nil {
		return err
	}
	if protocol != speaksGRPC && !lost.foreign {
		return lost.status
	}
	return nil
}

// headerSize is about how long a request's header is on the wire, in bytes.
func headerSize(req *invocation.Request) int {
	size := 256 + 3*len(req.Method) + 3*len(req.Query) + len(req.ContentType) + 3*len(req.TypeURL)
	for i := range req.Header {
		size += len(req.Header[i].Name) + len(req.Header[i].Value) + 4
	}
	return size
}

// exchange makes a call over the exchange.
func (p *peer) exchange(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	out := p.request(req)
	in, err := p.http.Do(ctx, out)
	if err != nil {
		out.Release()
		return nil, p.broken(ctx, err)
	}
	in.Header.SetNoDefaultContentType(true)
	resp, failure, err := parseResponse(in.Status(), in.Header.All())
	switch length := in.Length(); {
	case err != nil:
		_ = in.Close()
		out.Release()
		return nil, &lostError{status: status.Errorf(codes.Unavailable, "the sidecar at %s answered with HTTP status %d: %s", p.target.Address, in.Status(), err), foreign: true}
	case failure != nil:
		_ = in.Close()
		out.Release()
		return nil, failure
	case length == 0:
		err = in.Close()
		out.Release()
		return resp, err
	case length > 0 && length <= smallBody:
		body := make([]byte, length)
		_, err := io.ReadFull(in, body)
		_ = in.Close()
		out.Release()
		if err != nil {
			if cause := ctx.Err(); cause != nil {
				return nil, cause
			}
			return nil, status.Errorf(codes.Internal, "error receiving message: the body of the answer was cut: %s", err)
		}
		resp.Body = body
		return resp, nil
	default:
		resp.Stream, resp.Length = &exchangeBody{in: in, out: out}, length
		return resp, nil
	}
}

// request is a call as an HTTP request.
func (p *peer) request(req *invocation.Request) *http1.Request {
	verb := req.Verb
	if !direct(verb) {
		verb = "POST"
	}
	var space [256]byte
	out := http1.NewRequest(verb, appendTarget(space[:0], req.Method, req.Query), p.host)
	if req.Origin == invocation.FromGRPC {
		out.AddHeaderString(headerExchange, exchangeFromGRPC)
	} else {
		out.AddHeaderString(headerExchange, exchangeVersion)
	}
	if verb != req.Verb {
		if req.Verb == "" {
			out.AddHeaderString(headerVerb, verbNone)
		} else {
			out.AddHeaderString(headerVerb, req.Verb)
		}
	}
	if req.TypeURL != "" {
		out.AddHeaderString(headerTypeURL, encodeText(req.TypeURL))
	}
	if req.ContentType != "" {
		out.AddHeaderString("Content-Type", req.ContentType)
	}
	for i := range req.Header {
		f := &req.Header[i]
		if len(f.Name) > 1 && f.Name[0] == ':' {
			// The pseudo-headers of a gRPC client cannot be lines here; apps get them under these names anyway.
			if name := append([]byte("dapr-"), f.Name[1:]...); sendable(invocation.Field{Name: name, Value: f.Value}) {
				out.AddHeader(name, f.Value)
			}
			continue
		}
		if isReserved(f.Name) || invocation.HopByHop(f.Name) || framing(f.Name) || !sendable(*f) {
			continue
		}
		out.AddHeader(f.Name, f.Value)
	}
	out.Body, out.Stream, out.StreamLength = req.Body, req.Stream, req.Length
	return out
}

// framing reports whether a header belongs to the HTTP message that carries a call, not to the call.
func framing(name []byte) bool {
	return invocation.Is(name, "host") || invocation.Is(name, "content-length") || invocation.Is(name, "content-type") || invocation.Is(name, "expect")
}

// broken is what the caller sees of an exchange without an answer.
func (p *peer) broken(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	var body *http1.BodyError
	var dial *http1.DialError
	switch {
	case errors.As(err, &body):
		return body.Err
	case errors.Is(err, http1.ErrClosed):
		return ErrClosed
	case errors.As(err, &dial):
		return &lostError{status: unreachable(dial.Err)}
	}
	return &lostError{status: status.Errorf(codes.Unavailable, "the connection to the sidecar at %s broke: %s", p.target.Address, err)}
}

// exchangeBody is the body of an answer on its connection.
type exchangeBody struct {
	in   *http1.Response
	out  *http1.Request
	done bool
}

func (b *exchangeBody) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		err = status.Errorf(codes.Unavailable, "error receiving message: the connection broke: %s", err)
	}
	return n, err
}

// Close ends the exchange; the connection is kept when all of it was read.
func (b *exchangeBody) Close() error {
	if b.done {
		return nil
	}
	b.done = true
	err := b.in.Close()
	b.out.Release()
	return err
}
