// Package apitest helps testing the HTTP faces of building blocks without a server: a request and its reply in memory, and
// a router over a face's routes.
package apitest

import (
	"bytes"
	"context"
	"io"
	"iter"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"outrigger.dev/api"
	"outrigger.dev/telemetry/tracing"
)

// Exchange is an [api.Exchange] in memory. Its fields may be set before it is served.
type Exchange struct {
	// Ctx is the context; nil means context.Background. A trace context of the request is added, as the server does by default.
	Ctx context.Context
	// Verb is the method, Target the path and query as sent.
	Verb, Target string
	Remote       string
	// RequestHeaders are the headers of the request in order, under their canonical names.
	RequestHeaders [][2]string
	Body           []byte
	// Chunked makes the length of the body unknown.
	Chunked bool
	// BodyError, when set, is what reading the body ends with.
	BodyError error

	Answer Reply
}

// Reply is what a handler answered.
type Reply struct {
	Status int
	Header http.Header
	// Body is the whole body, streamed or not.
	Body []byte
	// Stream is true when the body was streamed, Length what was announced of it, StreamError how it was cut.
	Stream      bool
	Length      int64
	StreamError error
	// Error is what the handler returned; status and body are then those that the server makes of it.
	Error error
	// Unrouted is true when no route was found; the status is then 404.
	Unrouted bool

	stream io.ReadCloser
}

var _ api.Exchange = (*Exchange)(nil)

// New makes a request. Headers are given as name, value, name, value.
func New(method, target, body string, headers ...string) *Exchange {
	x := &Exchange{Verb: method, Target: target, Body: []byte(body), Remote: "127.0.0.1:50001"}
	for pair := range slices.Chunk(headers, 2) {
		x.RequestHeaders = append(x.RequestHeaders, [2]string{textproto.CanonicalMIMEHeaderKey(pair[0]), pair[1]})
	}
	return x
}

// Context implements api.Exchange, as all methods below.
func (x *Exchange) Context() context.Context {
	ctx := x.Ctx
	if ctx == nil {
		ctx = context.Background()
	}
	if tracing.FromContext(ctx) == nil {
		came := tracing.FromHeader(x.Header("Traceparent"), x.Header("Tracestate"))
		ctx = tracing.NewContext(ctx, tracing.PassThrough().Start(came, tracing.Client, ""))
	}
	return ctx
}

// Method is the verb.
func (x *Exchange) Method() string { return x.Verb }

// Path is the decoded path; what cannot be decoded stays as it is.
func (x *Exchange) Path() string {
	raw := x.RawPath()
	if path, err := url.PathUnescape(raw); err == nil {
		return path
	}
	return raw
}

// RawPath is the target up to the query.
func (x *Exchange) RawPath() string {
	path, _, _ := strings.Cut(x.Target, "?")
	return path
}

// RawQuery is the target behind the path.
func (x *Exchange) RawQuery() string {
	_, query, _ := strings.Cut(x.Target, "?")
	return query
}

// RemoteAddress is the client's.
func (x *Exchange) RemoteAddress() string { return x.Remote }

// Header is the first value of a request header.
func (x *Exchange) Header(name string) []byte {
	for _, h := range x.RequestHeaders {
		if h[0] == name {
			return append(make([]byte, 0, len(h[1])), h[1]...)
		}
	}
	return nil
}

// Headers are all request headers.
func (x *Exchange) Headers() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for _, h := range x.RequestHeaders {
			if !yield([]byte(h[0]), []byte(h[1])) {
				return
			}
		}
	}
}

// RemoveHeader takes all headers of the name out of the request.
func (x *Exchange) RemoveHeader(name string) {
	x.RequestHeaders = slices.DeleteFunc(x.RequestHeaders, func(h [2]string) bool { return h[0] == name })
}

// ContentLength is the length of the body, -1 if it is chunked.
func (x *Exchange) ContentLength() int64 {
	if x.Chunked {
		return -1
	}
	return int64(len(x.Body))
}

// ReadBody is the whole body, or BodyError.
func (x *Exchange) ReadBody() ([]byte, error) {
	if x.BodyError != nil {
		return nil, x.BodyError
	}
	return x.Body, nil
}

// BodyReader reads the body; behind it comes BodyError if there is one.
func (x *Exchange) BodyReader() io.Reader {
	if x.BodyError != nil {
		return io.MultiReader(bytes.NewReader(x.Body), failing{x.BodyError})
	}
	return bytes.NewReader(x.Body)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func (x *Exchange) header() http.Header {
	if x.Answer.Header == nil {
		x.Answer.Header = http.Header{}
	}
	return x.Answer.Header
}

// SetHeader sets a reply header.
func (x *Exchange) SetHeader(name, value string) { x.header().Set(name, value) }

// AddHeader adds a reply header.
func (x *Exchange) AddHeader(name, value []byte) { x.header().Add(string(name), string(value)) }

// SetStatus sets the reply's status.
func (x *Exchange) SetStatus(status int) { x.Answer.Status = status }

// Reply sets the reply's body.
func (x *Exchange) Reply(body []byte) {
	x.closeStream()
	x.Answer.Body = bytes.Clone(body)
}

// ReplyStream sets the reply's body; it is read after the handler has returned.
func (x *Exchange) ReplyStream(body io.ReadCloser, length int64) {
	x.closeStream()
	x.Answer.Body, x.Answer.Stream, x.Answer.Length, x.Answer.stream = nil, true, length, body
}

// closeStream drops a stream that another body replaces.
func (x *Exchange) closeStream() {
	if s := x.Answer.stream; s != nil {
		_ = s.Close() // nobody reads it, so nobody misses anything
		x.Answer.stream, x.Answer.Stream, x.Answer.Length = nil, false, 0
	}
}
