package server

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
	//lint:ignore SA1019 the standard library has no upgrade from HTTP/1.1 to HTTP/2
	"golang.org/x/net/http2/h2c"

	"outrigger.dev/api"
	"outrigger.dev/http1"
	"outrigger.dev/telemetry/tracing"
)

// newH2 serves HTTP/2 in clear text, with prior knowledge or by upgrade, through the standard library: it is rare, so it
// may cost more than HTTP/1.1.
func newH2(s *HTTP) *http.Server {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.h2Calls.begin()
		defer s.h2Calls.end()
		x := &h2Exchange{w: w, r: r, limit: s.options.MaxBodyBytes, status: http.StatusOK}
		s.handleH2(x)
		x.finish()
	})
	h2 := &http.Server{
		//lint:ignore SA1019 for the upgrade from HTTP/1.1, which the standard library does not have
		Handler:   boundUpgrade(h2c.NewHandler(handler, &http2.Server{ReadIdleTimeout: h2PingAfter, PingTimeout: h2PingTimeout}), s.options.MaxBodyBytes),
		Protocols: new(http.Protocols),
		// The pings end connections whose header never ends too: until it does, no answer to a ping is read.
		HTTP2:             &http.HTTP2Config{SendPingTimeout: h2PingAfter, PingTimeout: h2PingTimeout},
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    s.options.MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.options.Log.Handler(), slog.LevelDebug),
	}
	h2.Protocols.SetHTTP1(true)
	h2.Protocols.SetUnencryptedHTTP2(true)
	return h2
}

// h2PingAfter is after how long without a frame a client is asked whether it is there, and h2PingTimeout how long it may take
// to answer; they are those of gRPC connections.
const (
	h2PingAfter   = 10 * time.Second
	h2PingTimeout = 5 * time.Second
)

// upgradeBody bounds the body of a request to go over to HTTP/2 when nothing else does, in bytes.
const upgradeBody = 4 << 20

// boundUpgrade limits the body of a request to go over to HTTP/2: the library reads all of it into memory, before any rule
// looks at the request.
func boundUpgrade(h http.Handler, limit int64) http.Handler {
	if limit <= 0 {
		limit = upgradeBody
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 && r.Header.Get("Upgrade") != "" {
			r.Body = http.MaxBytesReader(w, r.Body, limit)
		}
		h.ServeHTTP(w, r)
	})
}

// handleH2 serves a request; a handler that panics answers with an error.
func (s *HTTP) handleH2(x *h2Exchange) {
	defer func() {
		if p := recover(); p != nil {
			s.options.Log.Error("a request handler panicked", "path", x.RawPath(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			if x.stream != nil {
				_ = x.stream.Close()
				x.stream = nil
			}
			clear(x.w.Header())
			x.status = http.StatusInternalServerError
			x.SetHeader("Content-Type", "application/json")
			x.Reply([]byte(`{"errorCode":"ERROR","message":"internal error: the request handler failed; see the sidecar's log"}`))
		}
	}()
	s.handle(x)
}

// running counts requests that are being served.
type running struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when n falls to 0; nil when nobody waits
}

func (r *running) begin() {
	r.mu.Lock()
	r.n++
	r.mu.Unlock()
}

func (r *running) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n--; r.n == 0 && r.none != nil {
		close(r.none)
		r.none = nil
	}
}

// wait returns when there is none, or ctx ends.
func (r *running) wait(ctx context.Context) error {
	r.mu.Lock()
	if r.n == 0 {
		r.mu.Unlock()
		return nil
	}
	if r.none == nil {
		r.none = make(chan struct{})
	}
	none := r.none
	r.mu.Unlock()
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// h2Exchange is a request that came by HTTP/2.
type h2Exchange struct {
	w      http.ResponseWriter
	r      *http.Request
	limit  int64
	status int
	size   int64
	body   []byte
	stream io.ReadCloser
	atEnd  func()
}

func (x *h2Exchange) Context() context.Context { return x.r.Context() }
func (x *h2Exchange) Method() string           { return x.r.Method }
func (x *h2Exchange) Path() string             { return x.r.URL.Path }
func (x *h2Exchange) RawPath() string          { return x.r.URL.EscapedPath() }
func (x *h2Exchange) RawQuery() string         { return x.r.URL.RawQuery }
func (x *h2Exchange) RemoteAddress() string    { return x.r.RemoteAddr }
func (x *h2Exchange) BadPath() bool            { return false }
func (x *h2Exchange) RemoveHeader(name string) { x.r.Header.Del(name) }
func (x *h2Exchange) ContentLength() int64     { return x.r.ContentLength }
func (x *h2Exchange) Status() int              { return x.status }
func (x *h2Exchange) Size() int64              { return x.size }
func (x *h2Exchange) AtEnd(f func())           { x.atEnd = f }
func (x *h2Exchange) SetStatus(status int)     { x.status = status }
func (x *h2Exchange) Reply(body []byte)        { x.body = append([]byte(nil), body...) }

func (x *h2Exchange) Header(name string) []byte {
	if name == "Host" {
		return []byte(x.r.Host)
	}
	if v := x.r.Header[name]; len(v) > 0 {
		return []byte(v[0])
	}
	return nil
}

func (x *h2Exchange) Headers() iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		if !yield([]byte("Host"), []byte(x.r.Host)) {
			return
		}
		for name, values := range x.r.Header {
			for _, v := range values {
				if !yield([]byte(name), []byte(v)) {
					return
				}
			}
		}
	}
}

func (x *h2Exchange) ReadBody() ([]byte, error) {
	if x.limit > 0 && x.r.ContentLength > x.limit {
		return nil, api.ErrBodyTooLarge
	}
	return io.ReadAll(x.BodyReader())
}

func (x *h2Exchange) BodyReader() io.Reader {
	if x.limit <= 0 {
		return x.r.Body
	}
	return &limitedReader{r: x.r.Body, left: x.limit}
}

// limitedReader fails when more than its limit is read.
type limitedReader struct {
	r    io.ReadCloser
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, api.ErrBodyTooLarge
	}
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n - 1, api.ErrBodyTooLarge
	}
	return n, err
}

// Abort makes a blocked Read return.
func (l *limitedReader) Abort() { _ = l.r.Close() }

func (x *h2Exchange) SetHeader(name, value string) { x.w.Header().Set(name, value) }

// SetSpan makes a span the one of the request's context.
func (x *h2Exchange) SetSpan(s *tracing.Span) {
	x.r = x.r.WithContext(tracing.NewContext(x.r.Context(), s))
}

// HasReplyHeader reports whether the reply has a header of this name.
func (x *h2Exchange) HasReplyHeader(name string) bool { return len(x.w.Header()[name]) > 0 }

func (x *h2Exchange) AddHeader(name, value []byte) { x.w.Header().Add(string(name), string(value)) }

func (x *h2Exchange) ReplyStream(body io.ReadCloser, _ int64) { x.stream = body }

// finish sends the reply.
func (x *h2Exchange) finish() {
	defer func() {
		if x.atEnd != nil {
			x.atEnd()
		}
	}()
	if x.stream == nil {
		x.w.WriteHeader(x.status)
		n, _ := x.w.Write(x.body) // a client that left does not hear of errors
		x.size = int64(n)
		return
	}
	defer x.stream.Close()
	x.w.WriteHeader(x.status)
	flusher, _ := x.w.(http.Flusher)
	block := make([]byte, 32<<10)
	for {
		if flusher != nil {
			flusher.Flush()
		}
		n, err := x.stream.Read(block)
		x.size += int64(n)
		if _, werr := x.w.Write(block[:n]); werr != nil {
			return
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // resets the stream, so that the client sees a cut
		}
	}
}

// h2Conns is the listener of the HTTP/2 server. It knows the connections that are open.
type h2Conns struct {
	*http1.Handover

	mu   sync.Mutex
	open map[*h2Conn]struct{}
}

func newH2Conns() *h2Conns {
	return &h2Conns{Handover: http1.NewHandover(), open: map[*h2Conn]struct{}{}}
}

// give hands a connection over of which the first bytes were read already.
func (h *h2Conns) give(c net.Conn, first []byte) {
	t := &h2Conn{Conn: http1.Replay(c, first), owner: h}
	h.mu.Lock()
	h.open[t] = struct{}{}
	h.mu.Unlock()
	h.Give(t)
}

func (h *h2Conns) closeAll() {
	h.mu.Lock()
	open := slices.Collect(maps.Keys(h.open))
	h.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

// h2Conn is a connection that its owner knows until it is closed.
type h2Conn struct {
	net.Conn
	owner *h2Conns
}

// Close closes the connection.
func (c *h2Conn) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.open, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}
