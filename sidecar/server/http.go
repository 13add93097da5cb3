// Package server holds the sidecar's listeners: the HTTP API, the public port and the gRPC API, with the rules that hold
// for every route: token, limits, lists, CORS, API log, metrics and the shape of errors.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"outrigger.dev/api"
	"outrigger.dev/http1"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/tracing"
)

// HTTPOptions of an HTTP listener of the sidecar.
type HTTPOptions struct {
	// Routes are the endpoints served. Lists and the choice for the public port are applied before.
	Routes []*api.Route
	// Fallback serves what no route matches (service invocation); nil answers 404 or 405 in plain text.
	Fallback *api.Route
	// Token must be in the dapr-api-token header of requests; empty means none.
	Token string
	// Tracer makes the spans of requests; unless it is nil, the baggage header is checked and echoed.
	Tracer *tracing.Tracer
	// AllowedOrigins is the --allowed-origins value; empty means no CORS handling.
	AllowedOrigins string
	// MaxBodyBytes bounds request bodies; 0 or less means no limit.
	MaxBodyBytes int64
	// MaxHeaderBytes bounds request headers.
	MaxHeaderBytes int
	// H2C accepts HTTP/2 in clear text too.
	H2C bool
	// Pipeline stands around the requests that have passed the checks above; nil is none.
	Pipeline Pipeline
	// APILog writes a line per request; nil writes none.
	APILog  *APILog
	Metrics *metrics.Metrics
	Log     *slog.Logger
}

// HTTP is a server for HTTP/1.1 and, if wanted, HTTP/2 in clear text. One HTTP serves any number of listeners.
type HTTP struct {
	options HTTPOptions
	router  *router
	cors    *cors
	fast    *http1.Server
	h2      *http.Server
	h2Conns *h2Conns
	h2Calls running
	h2Done  sync.WaitGroup
	conns   sync.WaitGroup

	mu        sync.Mutex
	listeners []net.Listener
	sniffing  map[net.Conn]struct{}
	stopping  bool
}

// headerTimeout is how long a client may take to send the header of a request (Dapr API, HTTP server: limits).
const headerTimeout = 10 * time.Second

// NewHTTP makes a server.
func NewHTTP(o HTTPOptions) *HTTP {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Fallback != nil {
		o.Fallback.Parameters()
	}
	s := &HTTP{options: o, router: newRouter(o.Routes), sniffing: map[net.Conn]struct{}{}}
	if o.AllowedOrigins != "" {
		s.cors = newCORS(o.AllowedOrigins)
	}
	s.fast = http1.NewServer(http1.ServerOptions{
		Handler:        func(x *http1.Exchange) { s.handle(x) },
		MaxHeaderBytes: o.MaxHeaderBytes,
		MaxBodyBytes:   o.MaxBodyBytes,
		HeaderTimeout:  headerTimeout,
		Log:            o.Log,
	})
	if o.H2C {
		s.h2 = newH2(s)
		s.h2Conns = newH2Conns()
	}
	return s
}

// Serve accepts connections until the listener is closed by Shutdown.
func (s *HTTP) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return l.Close()
	}
	s.listeners = append(s.listeners, l)
	if s.h2 != nil && len(s.listeners) == 1 {
		s.h2Done.Go(func() { _ = s.h2.Serve(s.h2Conns) })
	}
	s.mu.Unlock()
	for {
		c, err := l.Accept()
		if err != nil {
			if s.isStopping() || errors.Is(err, net.ErrClosed) {
				return nil
			}
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || temporary(err) {
				time.Sleep(10 * time.Millisecond) // out of file descriptors, for example
				continue
			}
			return err
		}
		s.mu.Lock()
		if s.stopping {
			s.mu.Unlock()
			_ = c.Close()
			continue
		}
		s.sniffing[c] = struct{}{}
		s.conns.Add(1)
		s.mu.Unlock()
		go s.serveConn(c)
	}
}

func (s *HTTP) serveConn(c net.Conn) {
	defer s.conns.Done()
	var first []byte
	var err error
	if s.h2 != nil {
		first, err = http1.Sniff(c, headerTimeout)
	}
	s.mu.Lock()
	delete(s.sniffing, c)
	s.mu.Unlock()
	if err != nil {
		_ = c.Close()
		return
	}
	if s.h2 != nil && (http1.IsHTTP2(first) || http1.WantsH2C(first)) {
		s.h2Conns.give(c, first)
		return
	}
	s.fast.ServeConn(&lingeringConn{c, s}, first)
}

// Shutdown stops accepting, lets running requests finish and then closes their connections; when ctx ends first they are
// broken off.
func (s *HTTP) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	started := len(s.listeners) > 0
	for _, l := range s.listeners {
		_ = l.Close()
	}
	for c := range s.sniffing {
		_ = c.Close()
	}
	s.mu.Unlock()
	var err error
	if s.h2 != nil && started {
		_ = s.h2Conns.Close()
		// The library does not know the connections that were upgraded, so their requests are waited for here.
		if err = errors.Join(s.h2.Shutdown(ctx), s.h2Calls.wait(ctx)); err != nil {
			_ = s.h2.Close()
		}
		s.h2Conns.closeAll()
		s.h2Done.Wait()
	}
	if fastErr := s.fast.Shutdown(ctx); fastErr != nil {
		return errors.Join(err, fastErr) // some handlers may still be at it
	}
	s.conns.Wait()
	return err
}

// exchange is what both kinds of connections offer beyond the API's view of a request.
type exchange interface {
	api.Exchange
	// Status and Size describe the reply so far.
	Status() int
	Size() int64
	// AtEnd has f called when the reply is complete.
	AtEnd(f func())
	// BadPath reports an invalid escape in the path.
	BadPath() bool
}

// handle serves one request: the rules that all routes share, in the order of the Dapr API (HTTP server: middleware order).
func (s *HTTP) handle(x served) {
	if x.BadPath() {
		x.SetHeader("Connection", "close")
		text(x, http.StatusBadRequest, "400 Bad Request")
		return
	}
	start := time.Now()
	call := &api.Call{Exchange: x}
	var counted, logged bool
	var span *tracing.Span
	x.AtEnd(func() {
		took := time.Since(start)
		if counted && s.options.Metrics != nil {
			s.options.Metrics.HTTPServer().Observe(x.Method(), x.Path(), x.Status(), took, max(x.ContentLength(), 0), x.Size())
		}
		if logged {
			s.options.APILog.http(call, x.Status(), x.Size(), took)
		}
		endSpan(x, span)
	})
	if s.options.Tracer.On() {
		if baggage(x) {
			return
		}
		if span = s.begin(x); span.Valid() {
			defer replySpan(x, span)
		}
	}
	counted = true
	if s.cors != nil && s.cors.handle(x) {
		return
	}
	if s.options.Token != "" && !s.authorised(x) {
		x.SetHeader("X-Content-Type-Options", "nosniff")
		text(x, http.StatusUnauthorized, "invalid api token\n")
		return
	}
	if s.options.Pipeline != nil && s.options.Pipeline.Active() {
		s.throughPipeline(x, func(x exchange) {
			call.Exchange, logged = x, s.options.APILog != nil
			s.route(x, call)
		})
		return
	}
	logged = s.options.APILog != nil
	s.route(x, call)
}

// route finds the route of a request and has it served.
func (s *HTTP) route(x exchange, call *api.Call) {
	m := s.router.find(x.Method(), cleanPath(x.RawPath()))
	call.Route = m.route
	switch {
	case m.route != nil:
		if !m.bind(call) {
			text(x, http.StatusBadRequest, "400 Bad Request")
			return
		}
	case s.options.Fallback != nil:
		call.Route = s.options.Fallback
	case len(m.allowed) > 0:
		for _, verb := range m.allow() {
			x.AddHeader([]byte("Allow"), []byte(verb))
		}
		x.SetStatus(http.StatusMethodNotAllowed)
		return
	default:
		x.SetHeader("X-Content-Type-Options", "nosniff")
		text(x, http.StatusNotFound, "404 page not found\n")
		return
	}
	if s.options.Tracer.Spans() {
		if span := tracing.FromContext(x.Context()); span.Recording() {
			describe(span, call)
		}
	}
	if err := call.Route.Handler(call); err != nil {
		s.fail(x, err)
	}
}

// fail writes an error as the API does.
func (s *HTTP) fail(x exchange, err error) {
	e := api.AsError(err)
	s.options.Metrics.ErrorCode(e.Code, string(e.Category))
	x.SetHeader("Content-Type", "application/json")
	x.SetStatus(e.HTTP)
	x.Reply(e.AppendJSON(make([]byte, 0, 256)))
}

func text(x exchange, status int, body string) {
	x.SetHeader("Content-Type", "text/plain; charset=utf-8")
	x.SetStatus(status)
	x.Reply([]byte(body))
}

// temporary reports whether accepting may succeed again soon.
func temporary(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary()
}
