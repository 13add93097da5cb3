package http1

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/url"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"outrigger.dev/api"
	"outrigger.dev/telemetry/tracing"
)

// Exchange is one request on a [Server] and its reply; it implements [api.Exchange].
type Exchange struct {
	call    callContext
	fast    *fasthttp.RequestCtx
	server  *Server
	rawPath string
	path    string
	query   string

	length   int64 // of the request's body, -1 if unknown
	consumed int64
	bodyEnd  atomic.Bool // the body may be read while the reply is sent
	bodyErr  error
	stream   *replyStream
	atEnd    func()
	size     int64

	cookies     [][]byte // the lines of the Cookie header, once read
	cookiesRead bool
}

var _ api.Exchange = (*Exchange)(nil)

func newExchange(s *Server, ctx *fasthttp.RequestCtx) *Exchange {
	x := &Exchange{fast: ctx, server: s}
	x.call.Context = context.Background()
	x.call.watcher = &s.watch
	x.call.conn, _ = ctx.Conn().(*serverConn)
	target := string(ctx.Request.Header.RequestURI())
	target, x.query, _ = strings.Cut(target, "?")
	if !strings.HasPrefix(target, "/") { // absolute form, RFC 9112 section 3.2.2
		if _, rest, ok := strings.Cut(target, "://"); ok {
			if slash := strings.IndexByte(rest, '/'); slash >= 0 {
				target = rest[slash:]
			} else {
				target = "/"
			}
		}
	}
	x.rawPath = target
	x.length = int64(ctx.Request.Header.ContentLength())
	if x.length == -2 { // no body announced
		x.length = 0
	}
	if x.call.conn != nil {
		x.call.conn.meter(x.length < 0)
	}
	if x.length == 0 {
		x.bodyEnd.Store(true)
	} else if x.length < 0 || x.length > prefetched {
		// The rest of the body comes at the client's pace: only the header had a deadline.
		_ = ctx.Conn().SetReadDeadline(time.Time{})
	}
	return x
}

// prefetched is how much of a body of known length the library reads before the handler starts: as little as it can be told,
// for the rest may depend on the reply.
const prefetched = 1

// Context is the request's context.
func (x *Exchange) Context() context.Context { return &x.call }

// SetSpan makes a span the one of the request's context. It is called before anybody else has the context.
func (x *Exchange) SetSpan(s *tracing.Span) { x.call.span = s }

// BadPath reports whether the path has an invalid percent escape.
func (x *Exchange) BadPath() bool {
	if strings.IndexByte(x.rawPath, '%') < 0 {
		return false
	}
	_, err := url.PathUnescape(x.rawPath)
	return err != nil
}

// Method is the verb as sent.
func (x *Exchange) Method() string {
	switch m := x.fast.Request.Header.Method(); string(m) {
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	case "PUT":
		return "PUT"
	case "DELETE":
		return "DELETE"
	default:
		return string(m)
	}
}

// RawPath is the path as sent.
func (x *Exchange) RawPath() string { return x.rawPath }

// Path is the decoded path; one that cannot be decoded stays as it is.
func (x *Exchange) Path() string {
	if x.path == "" {
		x.path = x.rawPath
		if strings.IndexByte(x.rawPath, '%') >= 0 {
			if decoded, err := url.PathUnescape(x.rawPath); err == nil {
				x.path = decoded
			}
		}
	}
	return x.path
}

// RawQuery is the query as sent.
func (x *Exchange) RawQuery() string { return x.query }

// RemoteAddress is the client's address.
func (x *Exchange) RemoteAddress() string { return x.fast.RemoteAddr().String() }

// Conn is the connection that the request came by, as it was given to [Server.ServeConn]; it is not to be read or written.
func (x *Exchange) Conn() net.Conn { return x.call.conn.Conn }

// Host is the request's Host header.
func (x *Exchange) Host() string { return string(x.fast.Request.Header.Host()) }

// Header is the first value of a request header.
func (x *Exchange) Header(name string) []byte { return x.fast.Request.Header.Peek(name) }

// Headers are all request headers.
func (x *Exchange) Headers() iter.Seq2[[]byte, []byte] {
	h := &x.fast.Request.Header
	if !x.cookiesRead {
		// The library takes cookies apart and puts them together again without what it does not like of them: keep the lines.
		x.cookiesRead = true
		for _, line := range h.PeekAll("Cookie") {
			x.cookies = append(x.cookies, bytes.Clone(line))
		}
	}
	if x.cookies == nil {
		return h.All()
	}
	return func(yield func(name, value []byte) bool) {
		for _, line := range x.cookies {
			if !yield(nameCookie, line) {
				return
			}
		}
		for name, value := range h.All() {
			if !bytes.Equal(name, nameCookie) && !yield(name, value) {
				return
			}
		}
	}
}

var nameCookie = []byte("Cookie")

// RemoveHeader takes a header out of the request.
func (x *Exchange) RemoveHeader(name string) {
	x.fast.Request.Header.Del(name)
	if name == "Cookie" {
		x.cookies, x.cookiesRead = nil, true
	}
}

// ContentLength is the length of the request's body, -1 if unknown.
func (x *Exchange) ContentLength() int64 { return x.length }

// ReadBody reads the whole body.
func (x *Exchange) ReadBody() ([]byte, error) {
	if x.bodyEnd.Load() {
		return nil, x.bodyErr
	}
	limit := x.server.options.MaxBodyBytes
	if x.length >= 0 {
		if limit > 0 && x.length > limit {
			x.bodyErr = api.ErrBodyTooLarge
			return nil, x.bodyErr
		}
		// Memory follows the bytes that came, not the length that was announced.
		if x.length <= 1<<20 {
			body := make([]byte, x.length)
			n, err := io.ReadFull(x.BodyReader(), body)
			if err == io.ErrUnexpectedEOF || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return body[:n], err
		}
	}
	return io.ReadAll(x.BodyReader())
}

// BodyReader streams the body.
func (x *Exchange) BodyReader() io.Reader { return (*bodyReader)(x) }

// bodyReader is the request body's reader: it enforces the limit, and tells a body that was cut from one that ended.
type bodyReader Exchange

func (b *bodyReader) Read(p []byte) (int, error) {
	if b.bodyErr != nil {
		return 0, b.bodyErr
	}
	if b.bodyEnd.Load() {
		return 0, io.EOF
	}
	limit := b.server.options.MaxBodyBytes
	if limit > 0 {
		if b.consumed > limit {
			b.bodyErr = api.ErrBodyTooLarge
			return 0, b.bodyErr
		}
		if room := limit + 1 - b.consumed; int64(len(p)) > room {
			p = p[:room]
		}
	}
	stream := b.fast.RequestBodyStream()
	n, err := stream.Read(p)
	if n == prefetched && b.consumed == 0 && err == nil && n < len(p) && b.length > prefetched {
		// The byte read ahead would make a piece of its own.
		var m int
		m, err = stream.Read(p[n:])
		n += m
	}
	b.consumed += int64(n)
	if b.length < 0 && b.call.conn != nil {
		b.call.conn.spare.Add((1 + chunkOverhead) * int64(n))
		if err == io.EOF {
			b.call.conn.meter(false) // the next request may have come with it
		}
	}
	if limit > 0 && b.consumed > limit {
		b.bodyErr = api.ErrBodyTooLarge
		return n - int(b.consumed-limit), b.bodyErr
	}
	if err == io.EOF {
		// The library calls a connection that ends between two chunks the end of the body.
		if b.length >= 0 && b.consumed < b.length || b.length < 0 && b.call.conn != nil && b.call.conn.ended.Load() {
			b.bodyErr = io.ErrUnexpectedEOF
			return n, b.bodyErr
		}
		b.bodyEnd.Store(true)
	} else if err != nil {
		b.bodyErr = err
	}
	return n, err
}

// Abort makes a blocked Read return; the connection is not used for another request.
func (b *bodyReader) Abort() {
	if !b.bodyEnd.Load() {
		_ = b.fast.Conn().SetReadDeadline(longAgo)
	}
}

// SetHeader sets a reply header.
func (x *Exchange) SetHeader(name, value string) { x.fast.Response.Header.Set(name, value) }

// AddHeader adds a reply header.
func (x *Exchange) AddHeader(name, value []byte) { x.fast.Response.Header.AddBytesKV(name, value) }

// HasReplyHeader reports whether the reply has a header of this name, which must be in canonical form.
func (x *Exchange) HasReplyHeader(name string) bool {
	return len(x.fast.Response.Header.Peek(name)) > 0
}

// SetStatus sets the reply's status.
func (x *Exchange) SetStatus(status int) { x.fast.Response.SetStatusCode(status) }

// Status is the reply's status so far.
func (x *Exchange) Status() int { return x.fast.Response.StatusCode() }

// Size is the number of reply body bytes sent so far.
func (x *Exchange) Size() int64 { return x.size }

// AtEnd has f called when the reply is complete, or broken off.
func (x *Exchange) AtEnd(f func()) { x.atEnd = f }

// Reply sets the reply's body.
func (x *Exchange) Reply(body []byte) {
	x.fast.Response.SetBody(body)
	x.size = int64(len(body))
}

// ReplyStream makes body the reply's body.
func (x *Exchange) ReplyStream(body io.ReadCloser, length int64) {
	x.stream = &replyStream{x: x, body: body, length: length}
	x.fast.Response.ImmediateHeaderFlush = true
	x.fast.Response.SetBodyStream(x.stream, int(length))
}

func (x *Exchange) reset() {
	if x.stream != nil {
		s := x.stream
		x.stream = nil
		s.done = true
		_ = s.body.Close()
	}
	x.fast.Response.Reset()
}

// drainLimit is how much of an unread request body is read away to keep the connection.
const drainLimit = 256 << 10

// handled is called when the handler has returned.
func (x *Exchange) handled() {
	if x.server.stopping.Load() {
		x.fast.SetConnectionClose()
	}
	if x.stream != nil && x.bodiless() {
		x.dropStream()
	}
	if x.stream == nil {
		x.settle()
		return
	}
	if !x.bodyEnd.Load() && (x.length < 0 || x.length > prefetched) {
		// The handler may still be reading the request while it replies; whatever is left, the connection ends after it.
		x.fast.SetConnectionClose()
	}
}

// bodiless reports whether the reply must not have a body (RFC 9110, section 6.4.1).
func (x *Exchange) bodiless() bool {
	status := x.Status()
	return x.fast.IsHead() || status < 200 || status == 204 || status == 304
}

// dropStream closes a reply's body that is not sent. The library would end its header twice.
func (x *Exchange) dropStream() {
	s := x.stream
	x.stream = nil
	s.done = true
	_ = s.body.Close()
	x.fast.Response.ResetBody()
	x.fast.Response.ImmediateHeaderFlush = false
	if s.length >= 0 {
		x.fast.Response.Header.SetContentLength(int(s.length))
	}
}

// settle ends the exchange: the context, and what is left of the request's body.
func (x *Exchange) settle() {
	x.call.cancel(context.Canceled)
	if x.atEnd != nil {
		x.atEnd()
		x.atEnd = nil
	}
	if x.stream != nil || x.bodyEnd.Load() || x.length >= 0 && x.length <= prefetched && x.bodyErr == nil {
		return
	}
	if x.bodyErr != nil || x.length > drainLimit || !x.drain() {
		x.fast.SetConnectionClose()
	}
}

// drain reads away a short rest of the body, for a moment only.
func (x *Exchange) drain() bool {
	_ = x.fast.Conn().SetReadDeadline(time.Now().Add(time.Second))
	_, err := io.Copy(io.Discard, io.LimitReader(x.BodyReader(), drainLimit))
	return err == nil && x.bodyEnd.Load()
}

// replyStream is a reply's body on its way to the client, flushed after each read.
type replyStream struct {
	x    *Exchange
	body io.ReadCloser
	// length is the body's, -1 when unknown.
	length int64
	done   bool
}

// Read reads from the body.
func (s *replyStream) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	s.x.size += int64(n)
	return n, err
}

// SupportsBodyWriteTo tells the library to use WriteTo.
func (s *replyStream) SupportsBodyWriteTo() bool { return true }

// WriteTo sends the body to w. A panic of the body's reader is its failure: the exchange has to be ended.
func (s *replyStream) WriteTo(w io.Writer) (written int64, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.x.server.options.Log.Error("the reader of a reply's body panicked", "path", s.x.RawPath(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errors.New("the reader of the reply's body panicked")
		}
	}()
	flusher, _ := w.(interface{ Flush() error })
	block := blocks.Get().(*[blockSize]byte)
	defer blocks.Put(block)
	for {
		n, err := s.Read(block[:])
		if n > 0 {
			m, werr := w.Write(block[:n])
			written += int64(m)
			if werr == nil && flusher != nil {
				werr = flusher.Flush()
			}
			if werr != nil {
				return written, werr
			}
		}
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
	}
}

// Close ends the body and the exchange.
func (s *replyStream) Close() error {
	if s.done {
		return nil
	}
	s.done = true
	err := s.body.Close()
	s.x.settle()
	return err
}
