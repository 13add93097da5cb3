package http1

import (
	"context"
	"io"
	"iter"
	"net/url"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"outrigger.dev/api"
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
	bodyEnd  bool
	bodyErr  error
	stream   *replyStream
	atEnd    func()
	size     int64
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
	if x.length == 0 {
		x.bodyEnd = true
	} else if x.length < 0 || x.length > prefetched {
		// The rest of the body comes at the client's pace: only the header had a deadline.
		_ = ctx.Conn().SetReadDeadline(time.Time{})
	}
	return x
}

// prefetched is the length up to which the library has read a body before the handler starts.
const prefetched = 8 << 10

// Context is the request's context.
func (x *Exchange) Context() context.Context { return &x.call }

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

// Host is the request's Host header.
func (x *Exchange) Host() string { return string(x.fast.Request.Header.Host()) }

// Header is the first value of a request header.
func (x *Exchange) Header(name string) []byte { return x.fast.Request.Header.Peek(name) }

// Headers are all request headers.
func (x *Exchange) Headers() iter.Seq2[[]byte, []byte] { return x.fast.Request.Header.All() }

// RemoveHeader takes a header out of the request.
func (x *Exchange) RemoveHeader(name string) { x.fast.Request.Header.Del(name) }

// ContentLength is the length of the request's body, -1 if unknown.
func (x *Exchange) ContentLength() int64 { return x.length }

// ReadBody reads the whole body.
func (x *Exchange) ReadBody() ([]byte, error) {
	if x.bodyEnd {
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
	if b.bodyEnd {
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
	n, err := b.fast.RequestBodyStream().Read(p)
	b.consumed += int64(n)
	if limit > 0 && b.consumed > limit {
		b.bodyErr = api.ErrBodyTooLarge
		return n - int(b.consumed-limit), b.bodyErr
	}
	if err == io.EOF {
		if b.length >= 0 && b.consumed < b.length {
			b.bodyErr = io.ErrUnexpectedEOF
			return n, b.bodyErr
		}
		b.bodyEnd = true
	} else if err != nil {
		b.bodyErr = err
	}
	return n, err
}

// Abort makes a blocked Read return; the connection is not used for another request.
func (b *bodyReader) Abort() {
	if !b.bodyEnd {
		_ = b.fast.Conn().SetReadDeadline(longAgo)
	}
}

// SetHeader sets a reply header.
func (x *Exchange) SetHeader(name, value string) { x.fast.Response.Header.Set(name, value) }

// AddHeader adds a reply header.
func (x *Exchange) AddHeader(name, value []byte) { x.fast.Response.Header.AddBytesKV(name, value) }

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
	x.stream = &replyStream{x: x, body: body}
	x.fast.Response.ImmediateHeaderFlush = true
	x.fast.Response.SetBodyStream(x.stream, int(length))
}

func (x *Exchange) reset() {
	if x.stream != nil {
		s := x.stream
		x.stream = nil
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
	if x.stream == nil {
		x.settle()
		return
	}
	if !x.bodyEnd && (x.length < 0 || x.length > prefetched) {
		// The handler may still be reading the request while it replies; whatever is left, the connection ends after it.
		x.fast.SetConnectionClose()
	}
}

// settle ends the exchange: the context, and what is left of the request's body.
func (x *Exchange) settle() {
	x.call.cancel(context.Canceled)
	if x.atEnd != nil {
		x.atEnd()
		x.atEnd = nil
	}
	if x.stream != nil || x.bodyEnd || x.length >= 0 && x.length <= prefetched && x.bodyErr == nil {
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
	return err == nil && x.bodyEnd
}

// replyStream is a reply's body on its way to the client, flushed after each read.
type replyStream struct {
	x    *Exchange
	body io.ReadCloser
	done bool
}

// Read reads from the body.
func (s *replyStream) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	s.x.size += int64(n)
	return n, err
}

// SupportsBodyWriteTo tells the library to use WriteTo.
func (s *replyStream) SupportsBodyWriteTo() bool { return true }

// WriteTo sends the body to w.
func (s *replyStream) WriteTo(w io.Writer) (int64, error) {
	flusher, _ := w.(interface{ Flush() error })
	block := blocks.Get().(*[blockSize]byte)
	defer blocks.Put(block)
	var written int64
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
