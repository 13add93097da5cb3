// Package invocation holds what one service invocation carries between its stations: the API face that took it, the mesh
// that brings it to another sidecar, and the channel that hands it to the app (Dapr API, service invocation).
package invocation

import (
	"bytes"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"

	"outrigger.dev/identity"
)

// Field is one header or metadata entry. A repeated name stands repeatedly.
type Field struct{ Name, Value []byte }

// Header is a list of entries in the order they came. Names keep the spelling of their source: canonical for HTTP clients,
// lower case for gRPC clients; they are compared without regard to case. Values of gRPC "-bin" keys are standard base64.
type Header []Field

// Get is the first value of a name, nil when there is none.
func (h Header) Get(name string) []byte {
	for i := range h {
		if len(h[i].Name) == len(name) && bytes.EqualFold(h[i].Name, []byte(name)) {
			return h[i].Value
		}
	}
	return nil
}

// Add appends an entry.
func (h *Header) Add(name, value string) {
	*h = append(*h, Field{[]byte(name), []byte(value)})
}

// Set removes all entries of the name and appends one.
func (h *Header) Set(name, value string) {
	h.Del(name)
	h.Add(name, value)
}

// Del removes all entries of the name.
func (h *Header) Del(name string) {
	kept := (*h)[:0]
	for _, f := range *h {
		if len(f.Name) != len(name) || !bytes.EqualFold(f.Name, []byte(name)) {
			kept = append(kept, f)
		}
	}
	*h = kept
}

// Origin tells which kind of client made a request, for its header follows that protocol's conventions.
type Origin int

// The origins.
const (
	FromHTTP Origin = iota
	FromGRPC
)

// Request is a call of a method of an app.
type Request struct {
	// AppID and Namespace are the target's; both empty at the callee.
	AppID, Namespace string
	// Method is the cleaned method, without leading slash: the path for an HTTP app, the name for a gRPC app.
	Method string
	// Verb is the HTTP verb in upper case; "" (gRPC: NONE) when a gRPC client gave no HTTP extension.
	Verb string
	// Query is the query string without "?", as sent.
	Query string
	// Header holds the client's headers and what the caller's sidecar added. Hop-by-hop headers are taken out at the edge.
	// Content-Type is not among them: it is ContentType.
	Header      Header
	ContentType string
	// TypeURL is the type of a protobuf body of a gRPC client, else "".
	TypeURL string
	Origin  Origin

	// Body is the body in memory, used when Stream is nil. Requests with a stream cannot be sent twice.
	Body []byte
	// Stream is the body as it comes; it may have a method Abort() that makes a blocked Read return.
	Stream io.Reader
	// Length is the stream's length in bytes, -1 when unknown.
	Length int64
	// Caller is who called, from the certificate of the connection that the request came by; nil without mTLS, and for calls of
	// the own app.
	Caller *identity.Peer
	// EventStream is set when the client accepts exactly text/event-stream.
	EventStream bool
}

// Replayable reports whether the request can be sent a second time.
func (r *Request) Replayable() bool { return r.Stream == nil }

// ReadBody returns the whole body, reading the stream if there is one. limit bounds it in bytes; 0 or less means no limit.
func (r *Request) ReadBody(limit int64) ([]byte, error) {
	if r.Stream == nil {
		return r.Body, nil
	}
	return ReadAll(r.Stream, limit)
}

// ReadAll reads r to its end. More than limit bytes (if over 0) are an error.
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	if limit <= 0 {
		return io.ReadAll(r)
	}
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = ErrTooLarge
	}
	return body, err
}

// Response is the answer of an app.
type Response struct {
	// Status is an HTTP status (100 and above) or a gRPC code (below 100): that is how the sidecars' protocol tells them apart.
	Status int
	// Message and Details belong to the status of a gRPC app.
	Message string
	Details []*anypb.Any
	// Header and Trailer are the app's, without hop-by-hop headers, Content-Length and Content-Type.
	Header, Trailer Header
	ContentType     string
	TypeURL         string

	// Body is the body in memory, used when Stream is nil.
	Body []byte
	// Stream is the body as it comes; whoever has the response must close it. A read error other than io.EOF means that the
	// body was cut.
	Stream io.ReadCloser
	// Length is the stream's length in bytes, -1 when unknown.
	Length int64
}

// IsHTTP reports whether the status is an HTTP one.
func (r *Response) IsHTTP() bool { return r.Status >= 100 }

// Success reports whether the app's answer counts as a success for policies: HTTP 200 to 399, or gRPC OK.
func (r *Response) Success() bool {
	if r.IsHTTP() {
		return r.Status >= 200 && r.Status < 400
	}
	return r.Status == int(codes.OK)
}

// Close releases the stream, if any.
func (r *Response) Close() error {
	if r.Stream == nil {
		return nil
	}
	return r.Stream.Close()
}

// Buffer reads the stream, if any, into Body, up to limit bytes (no limit when 0 or less).
func (r *Response) Buffer(limit int64) error {
	if r.Stream == nil {
		return nil
	}
	body, err := ReadAll(r.Stream, limit)
	cerr := r.Stream.Close()
	r.Stream, r.Body, r.Length = nil, body, int64(len(body))
	if err != nil {
		return err
	}
	return cerr
}
