// Package middleware is the contract of HTTP middleware: components that stand around the requests of an app to its sidecar
// (httpPipeline) or of the sidecar to its app (appHttpPipeline), and may look at, change, answer or refuse them (Dapr API,
// HTTP pipelines).
package middleware

import (
	"context"
	"errors"
	"io"
	"net/http"

	"outrigger.dev/components"
	"outrigger.dev/invocation"
)

// Request is an HTTP request on its way through a pipeline. A middleware may change every field before it calls the next
// handler. Byte slices belong to the request: replace them, do not write into them.
type Request struct {
	// Method is the verb.
	Method string
	// Path is the path as sent, with its escapes, beginning with "/"; RawQuery is what follows the "?".
	Path, RawQuery string
	// Scheme is "http" or "https"; Host the value of the Host header.
	Scheme, Host string
	// RemoteAddress is the client's "ip:port", "" where there is none (calls to the app).
	RemoteAddress string
	// Header has every header but Host and Content-Length; names are compared without regard to case.
	Header invocation.Header
	// Body is the body as it comes, nil when there is none; Length is its length in bytes, -1 when unknown.
	Body   io.Reader
	Length int64
	// MaxBodyBytes bounds what ReadBody reads; 0 or less means no limit.
	MaxBodyBytes int64

	buffered []byte
}

// ReadBody reads the whole body and leaves it in place for those who come after, so that it may be called repeatedly.
func (r *Request) ReadBody() ([]byte, error) {
	if r.buffered != nil || r.Body == nil {
		return r.buffered, nil
	}
	body, err := invocation.ReadAll(r.Body, r.MaxBodyBytes)
	if err != nil {
		return nil, err
	}
	r.SetBody(body)
	return body, nil
}

// SetBody replaces the body by one in memory.
func (r *Request) SetBody(body []byte) {
	if body == nil {
		body = []byte{}
	}
	r.buffered, r.Body, r.Length = body, nil, int64(len(body))
}

// Buffered is the body when it is in memory (ReadBody or SetBody was called); Body is nil then.
func (r *Request) Buffered() (body []byte, ok bool) { return r.buffered, r.buffered != nil }

// Response is what comes back. Exactly one of Body and Stream is used.
type Response struct {
	// Status is the HTTP status.
	Status int
	// Header has every header but Content-Length.
	Header invocation.Header
	// Body is the body in memory.
	Body []byte
	// Stream is the body as it comes, to be closed by whoever takes it; Length is its length in bytes, -1 when unknown.
	Stream io.ReadCloser
	Length int64
}

// ReadBody reads the whole body into memory; limit bounds it in bytes (no limit when 0 or less).
func (r *Response) ReadBody(limit int64) ([]byte, error) {
	if r.Stream == nil {
		return r.Body, nil
	}
	body, err := invocation.ReadAll(r.Stream, limit)
	err = errors.Join(err, r.Stream.Close())
	r.Stream, r.Body, r.Length = nil, body, int64(len(body))
	return body, err
}

// Close releases the stream, if any. A middleware that answers in place of a response it has got must close that one.
func (r *Response) Close() error {
	if r.Stream == nil {
		return nil
	}
	return r.Stream.Close()
}

// Text is a refusal, or another answer in plain text, as Go's http.Error writes it: the text and a line feed. An empty text is that of
// the status.
func Text(status int, text string) *Response {
	if text == "" {
		text = http.StatusText(status)
	}
	r := &Response{Status: status, Body: []byte(text + "\n")}
	r.Header.Add("Content-Type", "text/plain; charset=utf-8")
	r.Header.Add("X-Content-Type-Options", "nosniff")
	return r
}

// Handler serves a request. An error is a failure of the surroundings (the app cannot be reached, the client went away), to
// be passed on as it is; a middleware refuses with a response.
type Handler func(ctx context.Context, req *Request) (*Response, error)

// Middleware stands around a handler. It is safe for concurrent use.
type Middleware interface {
	// Handle serves a request, usually by way of next, which may be called at most once.
	Handle(ctx context.Context, req *Request, next Handler) (*Response, error)
	// Close releases what the middleware holds. No request is being handled then.
	Close() error
}

// Register adds an HTTP middleware type to r. info.Name is what follows "middleware." in YAML, such as "http.bearer".
func Register[O any](r *components.Registry, info components.Info, open func(ctx context.Context, inst components.Instance, options O) (Middleware, error)) {
	components.Register(r, components.Middleware, info, open)
}
