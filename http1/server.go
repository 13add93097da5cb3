package http1

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// ServerOptions of a server. Zero values mean the defaults given.
type ServerOptions struct {
	// Handler serves one exchange; the reply is sent when it returns.
	Handler func(*Exchange)
	// MaxHeaderBytes bounds a request's header; above it the answer is 431. Default 8 KiB.
	MaxHeaderBytes int
	// MaxBodyBytes bounds a request's body; 0 or less means no limit.
	MaxBodyBytes int64
	// HeaderTimeout bounds the time from the first byte of a request (or the start of the connection) to the end of its
	// header. Default 10 s.
	HeaderTimeout time.Duration
	Log           *slog.Logger
}

// Server serves HTTP/1.1 on connections handed to it. It watches the connections of requests that take long, so that the
// context of a request ends when its client goes away.
type Server struct {
	options ServerOptions
	fast    fasthttp.Server
	watch   watcher

	mu       sync.Mutex
	conns    map[*serverConn]struct{}
	stopping atomic.Bool
	idle     sync.Cond
}

// never is an idle timeout that stands for none; the library takes 0 for the header timeout.
const never = 100 * 365 * 24 * time.Hour

// NewServer makes a server.
func NewServer(o ServerOptions) *Server {
	if o.MaxHeaderBytes <= 0 {
		o.MaxHeaderBytes = 8 << 10
	}
	if o.HeaderTimeout <= 0 {
		o.HeaderTimeout = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{options: o, conns: map[*serverConn]struct{}{}}
	s.idle.L = &s.mu
	s.fast = fasthttp.Server{
		Handler:                      s.handle,
		ErrorHandler:                 refuse,
		ReadBufferSize:               o.MaxHeaderBytes,
		WriteBufferSize:              4096,
		ReadTimeout:                  o.HeaderTimeout,
		IdleTimeout:                  never,
		MaxRequestBodySize:           prefetched, // beyond it the body is a stream
		StreamRequestBody:            true,
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		Logger:                       quiet{o.Log},
		ConnState:                    s.connState,
	}
	return s
}

// quiet passes the library's messages on at debug level: they are about single connections of clients.
type quiet struct{ log *slog.Logger }

func (q quiet) Printf(format string, args ...any) { q.log.Debug(fmt.Sprintf(format, args...)) }

// refuse answers a request that cannot be parsed. A client that went away, or sent nothing for too long, gets no answer.
func refuse(ctx *fasthttp.RequestCtx, err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
		_ = ctx.Conn().Close()
	}
	status, text := 400, "400 Bad Request"
	if _, ok := err.(*fasthttp.ErrSmallBuffer); ok {
		status, text = 431, "431 Request Header Fields Too Large"
	}
	ctx.Response.Header.SetContentType("text/plain; charset=utf-8")
	ctx.Response.Header.SetConnectionClose()
	ctx.SetStatusCode(status)
	ctx.SetBodyString(text)
}

// serverConn is a client's connection: bytes already read from it come first.
type serverConn struct {
	net.Conn
	first []byte

	mu sync.Mutex
	// active tells that a request has begun, closing that no other one is wanted.
	active, closing bool
	requests        int
	// ended tells that the client's side is at its end.
	ended atomic.Bool
	// metered tells that a body in chunks is being read, and spare how many bytes may come for it.
	metered atomic.Bool
	spare   atomic.Int64
}

// What may come around the data of chunks: their lengths, line breaks and extensions, which the library reads away without a
// limit. Go's own server lets about as much pass.
const (
	chunkSlack    = 128 << 10 // in bytes, with room for what is read ahead
	chunkOverhead = 18        // in bytes for each of data
)

var errChunks = errors.New("the chunks of the body have too little in them")

// meter begins, or ends, to count what comes for a body in chunks.
func (c *serverConn) meter(on bool) {
	if on {
		c.spare.Store(chunkSlack)
	}
	c.metered.Store(on)
}

func (c *serverConn) Read(p []byte) (int, error) {
	if c.metered.Load() && c.spare.Load() < 0 {
		return 0, errChunks
	}
	n, err := c.read(p)
	if c.metered.Load() {
		c.spare.Add(-int64(n))
	}
	return n, err
}

func (c *serverConn) read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		if c.first = c.first[n:]; len(c.first) == 0 {
			c.first = nil
		}
		c.begun()
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.begun()
	}
	if err == io.EOF {
		c.ended.Store(true)
	}
	return n, err
}

func (c *serverConn) begun() {
	c.mu.Lock()
	c.active = true
	c.mu.Unlock()
}

// SetReadDeadline sets the deadline, except that a connection that is not wanted any more stays ended.
func (c *serverConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing && !c.active {
		t = longAgo
	}
	return c.Conn.SetReadDeadline(t)
}

// close ends the connection now if it is unused, else after its request.
func (c *serverConn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	if !c.active {
		_ = c.Conn.SetReadDeadline(longAgo)
	}
}

func (s *Server) connState(c net.Conn, state fasthttp.ConnState) {
	sc, ok := c.(*serverConn)
	if !ok {
		return
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	switch state {
	case fasthttp.StateActive:
		// The library calls a new connection active before its first byte.
		sc.active = sc.active || sc.requests > 0
	case fasthttp.StateIdle:
		sc.active = false
		sc.requests++
		if sc.closing {
			_ = sc.Conn.SetReadDeadline(longAgo)
		}
	}
}

// ServeConn serves requests on c until either side closes it, and closes it. first are bytes already read from c. It is to
// be called on a goroutine of its own.
func (s *Server) ServeConn(c net.Conn, first []byte) {
	sc := &serverConn{Conn: c, first: first}
	s.mu.Lock()
	if s.stopping.Load() {
		s.mu.Unlock()
		_ = c.Close()
		return
	}
	s.conns[sc] = struct{}{}
	s.mu.Unlock()
	_ = s.fast.ServeConn(sc) // errors are about this client alone and were answered
	s.mu.Lock()
	delete(s.conns, sc)
	if len(s.conns) == 0 {
		s.idle.Broadcast()
	}
	s.mu.Unlock()
}

// Shutdown refuses new requests, closes unused connections and waits until the others are done. When ctx ends first, they
// are broken off, and it returns the context's error; handlers that do not notice are waited for only a moment more.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopping.Store(true)
	for c := range s.conns {
		c.close()
	}
	s.mu.Unlock()
	broken := make(chan struct{})
	gaveUp := false
	stop := context.AfterFunc(ctx, func() {
		defer close(broken)
		s.mu.Lock()
		for c := range s.conns {
			_ = c.Conn.Close()
		}
		s.watch.cancelAll()
		s.mu.Unlock()
		patience := time.AfterFunc(afterBreak, func() {
			s.mu.Lock()
			gaveUp = true
			s.idle.Broadcast()
			s.mu.Unlock()
		})
		defer patience.Stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		for len(s.conns) > 0 && !gaveUp {
			s.idle.Wait()
		}
	})
	s.mu.Lock()
	for len(s.conns) > 0 && !gaveUp {
		s.idle.Wait()
	}
	left := len(s.conns)
	s.mu.Unlock()
	var err error
	if !stop() {
		<-broken
		err = ctx.Err()
	}
	s.watch.stop()
	if left > 0 {
		return fmt.Errorf("%d requests did not end when they were broken off: %w", left, err)
	}
	return err
}

// afterBreak is how long handlers have to notice that their requests were broken off.
const afterBreak = time.Second

// handle runs the handler for one request and sees to it that the connection is in a known state afterwards.
func (s *Server) handle(ctx *fasthttp.RequestCtx) {
	x := newExchange(s, ctx)
	defer func() {
		if p := recover(); p != nil {
			s.options.Log.Error("a request handler panicked", "path", x.RawPath(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			x.reset()
			x.SetStatus(500)
			x.SetHeader("Content-Type", "application/json")
			x.Reply([]byte(`{"errorCode":"ERROR","message":"internal error: the request handler failed; see the sidecar's log"}`))
		}
		x.handled()
	}()
	s.options.Handler(x)
}

// Sniff reads the first bytes of a connection, to tell its protocol. The bytes belong to the caller.
func Sniff(c net.Conn, timeout time.Duration) ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	buffer := make([]byte, 4096)
	n := 0
	for n < len(http2Preface) {
		m, err := c.Read(buffer[n:])
		n += m
		if err != nil {
			if err == io.EOF && n > 0 {
				break
			}
			return nil, err
		}
		if !bytes.HasPrefix(buffer[:n], http2Preface[:min(n, len(http2Preface))]) {
			break
		}
	}
	// What has arrived counts even if the peer has closed since: a connection that takes no deadline any more says so at its next read.
	_ = c.SetReadDeadline(time.Time{})
	return buffer[:n], nil
}

// http2Preface begins every HTTP/2 connection with prior knowledge (RFC 9113, section 3.4).
var http2Preface = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

// IsHTTP2 reports whether the first bytes of a connection are those of HTTP/2.
func IsHTTP2(first []byte) bool {
	return len(first) >= 3 && bytes.HasPrefix(http2Preface, first[:min(len(first), len(http2Preface))])
}

// WantsH2C reports whether the first bytes of a connection are a request to go over to HTTP/2 in clear text.
func WantsH2C(first []byte) bool {
	head, _, _ := bytes.Cut(first, []byte("\r\n\r\n"))
	lowered := bytes.ToLower(head)
	return bytes.Contains(lowered, []byte("\r\nupgrade: h2c")) && bytes.Contains(lowered, []byte("http2-settings"))
}
