package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"outrigger.dev/api"
	"outrigger.dev/components/middleware"
	"outrigger.dev/invocation"
)

// Pipeline is a chain of middlewares around requests (Dapr API, HTTP pipelines).
type Pipeline interface {
	// Active reports whether there is any middleware at the moment; without one a request goes straight to its route.
	Active() bool
	// Serve runs a request through the chain, with final at its end.
	Serve(ctx context.Context, req *middleware.Request, final middleware.Handler) (*middleware.Response, error)
}

// throughPipeline serves a request by way of the pipeline. route is what stands at its end.
func (s *HTTP) throughPipeline(x exchange, route func(exchange)) {
	path, ok := pipelinePath(x.RawPath())
	if !ok {
		x.SetHeader("Connection", "close")
		text(x, http.StatusBadRequest, "400 Bad Request")
		return
	}
	req := &middleware.Request{
		Method: x.Method(), Path: path, RawQuery: x.RawQuery(), Scheme: "http", RemoteAddress: x.RemoteAddress(),
		Length: x.ContentLength(), MaxBodyBytes: s.options.MaxBodyBytes,
	}
	var announced bool
	req.Header, req.Host, announced = requestHeader(x)
	if req.Length != 0 {
		req.Body = x.BodyReader()
	}
	original := req.Body
	var inner *pipedExchange
	replied := false
	defer func() {
		// A middleware that fails or panics must not keep what the route opened.
		if !replied && inner != nil && inner.stream != nil {
			_ = inner.stream.Close()
		}
	}()
	resp, err := s.options.Pipeline.Serve(x.Context(), req, func(ctx context.Context, req *middleware.Request) (*middleware.Response, error) {
		p := &pipedExchange{outer: x, ctx: ctx, req: req, original: original, announced: announced, resp: middleware.Response{Status: http.StatusOK}}
		inner = p
		p.canonicalise()
		if p.BadPath() {
			text(p, http.StatusBadRequest, "400 Bad Request")
		} else {
			route(p)
		}
		return &p.resp, nil
	})
	if err != nil {
		s.failPipeline(x, err)
		return
	}
	replied = true
	x.SetStatus(resp.Status)
	for i := range resp.Header {
		x.AddHeader(resp.Header[i].Name, resp.Header[i].Value)
	}
	if resp.Stream != nil {
		x.ReplyStream(resp.Stream, resp.Length)
		return
	}
	x.Reply(resp.Body)
}

// failPipeline answers a request that a middleware could not handle.
func (s *HTTP) failPipeline(x exchange, err error) {
	x.SetHeader("X-Content-Type-Options", "nosniff")
	if errors.Is(err, api.ErrBodyTooLarge) || errors.Is(err, invocation.ErrTooLarge) {
		x.SetHeader("Connection", "close")
		text(x, http.StatusRequestEntityTooLarge, "the request body is larger than the limit of "+strconv.FormatInt(s.options.MaxBodyBytes, 10)+" bytes; raise --max-body-size\n")
		return
	}
	if x.Context().Err() == nil {
		s.options.Log.Error("a request failed in the HTTP pipeline", "path", x.RawPath(), "error", err)
	}
	text(x, http.StatusInternalServerError, http.StatusText(http.StatusInternalServerError)+"\n")
}

// pipelinePath is the one spelling of a path that middlewares decide by and that is routed afterwards: cleaned, and without escapes
// that mean nothing. ok is false for a path that hides dot segments behind escaped slashes, which would be another path once
// decoded.
func pipelinePath(raw string) (path string, ok bool) {
	path = cleanPath(unescapeUnreserved(raw))
	// The target of an invocation may be a URL.
	if rest, found := strings.CutPrefix(path, "/v1.0/invoke/http"); found {
		if after, found := strings.CutPrefix(rest, ":/"); found {
			path = "/v1.0/invoke/http://" + after
		} else if after, found := strings.CutPrefix(rest, "s:/"); found {
			path = "/v1.0/invoke/https://" + after
		}
	}
	if strings.IndexByte(path, '%') >= 0 {
		decoded, err := url.PathUnescape(path)
		if err != nil {
			return path, false
		}
		for segment := range strings.SplitSeq(decoded, "/") {
			if segment == "." || segment == ".." {
				return path, false
			}
		}
	}
	return path, true
}

// unescapeUnreserved replaces the escapes of letters, digits and -._~, which mean the same as these (RFC 3986, section 2.3).
func unescapeUnreserved(p string) string {
	if strings.IndexByte(p, '%') < 0 {
		return p
	}
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] == '%' && i+2 < len(p) {
			if n, err := strconv.ParseUint(p[i+1:i+3], 16, 8); err == nil {
				if c := byte(n); 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~' {
					b.WriteByte(c)
					i += 2
					continue
				}
			}
		}
		b.WriteByte(p[i])
	}
	return b.String()
}

// requestHeader copies the header of a request. announced tells that it has a Content-Length.
func requestHeader(x exchange) (header invocation.Header, host string, announced bool) {
	fields, size := 0, 0
	for name, value := range x.Headers() {
		fields++
		size += len(name) + len(value)
	}
	header = make(invocation.Header, 0, fields+2)
	text := make([]byte, 0, size)
	for name, value := range x.Headers() {
		switch {
		case invocation.Is(name, "host"):
			host = string(value)
			continue
		case invocation.Is(name, "content-length"):
			announced = true
			continue
		}
		start := len(text)
		text = append(append(text, name...), value...)
		middle := start + len(name)
		header = append(header, invocation.Field{Name: text[start:middle:middle], Value: text[middle:len(text):len(text)]})
	}
	return header, host, announced
}

// pipedExchange is a request that has passed a pipeline, and the reply that goes back through it.
type pipedExchange struct {
	outer     exchange
	ctx       context.Context
	req       *middleware.Request
	original  io.Reader
	announced bool
	path      string
	resp      middleware.Response
	stream    *closedOnce // the body that the route replied with, if that is a stream
	atEnd     func()
}

// closedOnce is a stream that is closed once, however often it is asked to.
type closedOnce struct {
	io.ReadCloser
	closed bool
}

// Close closes the stream the first time.
func (c *closedOnce) Close() error {
	if c.closed {
		return nil
	}
	c.closed = true
	return c.ReadCloser.Close()
}

// canonicalise gives the header names that middlewares may have set the spelling that routes expect.
func (x *pipedExchange) canonicalise() {
	for i := range x.req.Header {
		f := &x.req.Header[i]
		if canonical := textproto.CanonicalMIMEHeaderKey(string(f.Name)); canonical != string(f.Name) {
			f.Name = []byte(canonical)
		}
	}
}

func (x *pipedExchange) Context() context.Context { return x.ctx }
func (x *pipedExchange) Method() string           { return x.req.Method }
func (x *pipedExchange) RawPath() string          { return x.req.Path }
func (x *pipedExchange) RawQuery() string         { return x.req.RawQuery }
func (x *pipedExchange) RemoteAddress() string    { return x.req.RemoteAddress }
func (x *pipedExchange) RemoveHeader(name string) { x.req.Header.Del(name) }
func (x *pipedExchange) Status() int              { return x.resp.Status }
func (x *pipedExchange) Size() int64              { return int64(len(x.resp.Body)) }
func (x *pipedExchange) AtEnd(f func())           { x.atEnd = f }
func (x *pipedExchange) SetStatus(status int)     { x.resp.Status = status }

func (x *pipedExchange) Path() string {
	if x.path == "" {
		x.path = x.req.Path
		if decoded, err := url.PathUnescape(x.path); err == nil {
			x.path = decoded
		}
	}
	return x.path
}

// BadPath reports whether a middleware left a path that cannot be decoded.
func (x *pipedExchange) BadPath() bool {
	if strings.IndexByte(x.req.Path, '%') < 0 {
		return false
	}
	_, err := url.PathUnescape(x.req.Path)
	return err != nil
}

func (x *pipedExchange) Header(name string) []byte {
	switch name {
	case "Host":
		return []byte(x.req.Host)
	case "Content-Length":
		return x.contentLength()
	}
	return x.req.Header.Get(name)
}

// contentLength is the value of the header Content-Length, nil when there is none.
func (x *pipedExchange) contentLength() []byte {
	if length := x.ContentLength(); x.announced && length >= 0 {
		return strconv.AppendInt(nil, length, 10)
	}
	return nil
}

func (x *pipedExchange) Headers() iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		if !yield([]byte("Host"), []byte(x.req.Host)) {
			return
		}
		if length := x.contentLength(); length != nil && !yield([]byte("Content-Length"), length) {
			return
		}
		for i := range x.req.Header {
			if !yield(x.req.Header[i].Name, x.req.Header[i].Value) {
				return
			}
		}
	}
}

func (x *pipedExchange) ContentLength() int64 {
	if body, ok := x.req.Buffered(); ok {
		return int64(len(body))
	}
	if x.req.Body == nil {
		return 0
	}
	return x.req.Length
}

func (x *pipedExchange) ReadBody() ([]byte, error) {
	if body, ok := x.req.Buffered(); ok {
		return body, nil
	}
	switch x.req.Body {
	case nil:
		return nil, nil
	case x.original:
		return x.outer.ReadBody()
	}
	body, err := invocation.ReadAll(x.req.Body, x.req.MaxBodyBytes)
	if errors.Is(err, invocation.ErrTooLarge) {
		err = api.ErrBodyTooLarge
	}
	return body, err
}

func (x *pipedExchange) BodyReader() io.Reader {
	if body, ok := x.req.Buffered(); ok {
		return bytes.NewReader(body)
	}
	if x.req.Body == nil {
		return http.NoBody
	}
	if a, ok := x.original.(interface{ Abort() }); ok {
		if _, can := x.req.Body.(interface{ Abort() }); !can {
			return &abortable{Reader: x.req.Body, abort: a.Abort}
		}
	}
	return x.req.Body
}

// abortable is a body that a middleware made of one that can be aborted.
type abortable struct {
	io.Reader
	abort func()
}

// Abort makes a blocked Read return.
func (a *abortable) Abort() { a.abort() }

func (x *pipedExchange) SetHeader(name, value string) { x.resp.Header.Set(name, value) }
func (x *pipedExchange) AddHeader(name, value []byte) { x.resp.Header.Add(string(name), string(value)) }
func (x *pipedExchange) Reply(body []byte)            { x.resp.Body = bytes.Clone(body) }
func (x *pipedExchange) ReplyStream(body io.ReadCloser, length int64) {
	x.stream = &closedOnce{ReadCloser: body}
	x.resp.Stream, x.resp.Length = x.stream, length
}
