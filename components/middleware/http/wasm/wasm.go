// Package wasm is the middleware that has a guest in WebAssembly handle requests and responses, by the http-wasm handler ABI (Dapr
// API, middleware.http.wasm).
package wasm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/http-wasm/http-wasm-host-go/api"
	"github.com/http-wasm/http-wasm-host-go/handler"
	"github.com/tetratelabs/wazero"

	"outrigger.dev/components"
	"outrigger.dev/components/middleware"
	"outrigger.dev/invocation"
)

// Register adds the component type to r.
func Register(r *components.Registry) {
	middleware.Register(r, components.Info{
		Name: "http.wasm", Version: "v1", Status: components.Alpha,
		Description: "Has a guest in WebAssembly (http-wasm) handle requests and responses.",
	}, func(ctx context.Context, inst components.Instance, o Options) (middleware.Middleware, error) {
		guest, err := o.read(ctx)
		if err != nil {
			return nil, err
		}
		return New(ctx, inst.Log, guest, o)
	})
}

const (
	// guestTimeout bounds a guest's part of a request or a response.
	guestTimeout = 30 * time.Second
	// maxPages bounds the memory of an instance of a guest, in pages of 64 KiB.
	maxPages = 4096
)

// WASM is one instance.
type WASM struct {
	guest   []byte
	options Options
	log     *slog.Logger
	cache   wazero.CompilationCache
	timeout time.Duration

	mu      sync.Mutex
	current *program
	closed  bool
}

// program is a compiled guest with its pool of instances. One whose instances may be broken is replaced by another.
type program struct {
	handler.Middleware
	users   int
	retired bool
}

// New compiles a guest.
func New(ctx context.Context, log *slog.Logger, guest []byte, o Options) (*WASM, error) {
	w := &WASM{guest: guest, options: o, log: log, cache: wazero.NewCompilationCache(), timeout: guestTimeout}
	p, err := w.compile(ctx)
	if err != nil {
		return nil, errors.Join(err, w.cache.Close(ctx))
	}
	w.current = p
	return w, nil
}

func (w *WASM) compile(ctx context.Context) (*program, error) {
	output := logWriter{w.log}
	config := wazero.NewModuleConfig().WithStdout(output).WithStderr(output).WithStartFunctions("_start", "_initialize")
	if !w.options.StrictSandbox {
		config = config.WithSysWalltime().WithSysNanotime().WithSysNanosleep().WithRandSource(rand.Reader)
	}
	m, err := handler.NewMiddleware(ctx, w.guest, host{}, handler.GuestConfig([]byte(w.options.GuestConfig)), handler.ModuleConfig(config), handler.Logger(guestLog{w.log}),
		handler.Runtime(func(ctx context.Context) (wazero.Runtime, error) {
			return wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCompilationCache(w.cache).WithMemoryLimitPages(maxPages).WithCloseOnContextDone(true)), nil
		}))
	if err != nil {
		return nil, err
	}
	return &program{Middleware: m}, nil
}

// Handle implements [middleware.Middleware].
func (w *WASM) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	p, err := w.enter()
	if err != nil {
		return w.failure(req, err), nil
	}
	defer w.leave(p)
	x := &exchange{req: req, resp: middleware.Response{Status: http.StatusOK}}
	// A client that leaves does not end the guest in the middle of its work, for that instance could not be used again.
	calling := context.WithValue(context.WithoutCancel(ctx), exchangeKey{}, x)
	bounded, cancel := context.WithTimeout(calling, w.timeout)
	state, result, err := p.HandleRequest(bounded)
	cancel()
	if err != nil {
		return w.broken(p, x, err)
	}
	if uint32(result) == 0 { // the guest answered
		x.resp.Body = x.respBody.Bytes()
		return w.checked(x), nil
	}
	if x.reqBody.used {
		req.SetBody(x.reqBody.Bytes())
	}
	early, start := x.resp.Header, bytes.Clone(x.respBody.Bytes())
	resp, nextErr := next(ctx, req)
	if nextErr == nil {
		x.resp = *resp
		x.resp.Header = merge(early, resp.Header)
		if len(start) > 0 { // what it wrote of the body stands before the rest
			var rest []byte
			if rest, nextErr = x.resp.ReadBody(req.MaxBodyBytes); nextErr == nil {
				x.resp.Body = append(start, rest...)
			}
		}
	}
	x.respBody = bodyWriter{}
	bounded, cancel = context.WithTimeout(revived{Context: state, live: calling}, w.timeout)
	err = p.HandleResponse(bounded, uint32(result>>32), nextErr)
	cancel()
	switch {
	case nextErr != nil:
		if err != nil {
			w.retire(p)
		}
		return nil, nextErr
	case err != nil:
		_ = x.resp.Close()
		return w.broken(p, x, err)
	}
	if x.respBody.used {
		_ = x.resp.Close()
		x.resp.Stream, x.resp.Body = nil, x.respBody.Bytes()
	}
	return w.checked(x), nil
}

// checked is the response, unless the guest gave it a status that HTTP does not have.
func (w *WASM) checked(x *exchange) *middleware.Response {
	if x.resp.Status < 200 || x.resp.Status > 999 {
		_ = x.resp.Close()
		return w.failure(x.req, fmt.Errorf("it set the status %d; HTTP has 200 to 599", x.resp.Status))
	}
	return &x.resp
}

// revived has the values of a context that has ended, and lives on with another.
type revived struct {
	context.Context
	live context.Context
}

func (r revived) Deadline() (time.Time, bool) { return r.live.Deadline() }
func (r revived) Done() <-chan struct{}       { return r.live.Done() }
func (r revived) Err() error                  { return r.live.Err() }

// merge puts what a guest said before the next handler was called in front of what that one answered.
func merge(early, header invocation.Header) invocation.Header {
	var merged invocation.Header
	for _, f := range early {
		if header.Get(string(f.Name)) == nil {
			merged = append(merged, f)
		}
	}
	return append(merged, header...)
}

// broken answers a request whose guest failed. Its instance may be beyond use, so the whole program is replaced.
func (w *WASM) broken(p *program, x *exchange, err error) (*middleware.Response, error) {
	w.retire(p)
	if x.failed != nil {
		return nil, x.failed
	}
	return w.failure(x.req, err), nil
}

func (w *WASM) failure(req *middleware.Request, err error) *middleware.Response {
	w.log.Error("the guest in WebAssembly failed, and the request with it", "path", req.Path, "error", err)
	return middleware.Text(http.StatusInternalServerError, "")
}

var errClosed = errors.New("the middleware is closed")

// enter uses the program, which it compiles when there is none.
func (w *WASM) enter() (*program, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, errClosed
	}
	if w.current == nil {
		ctx, cancel := context.WithTimeout(context.Background(), w.timeout)
		defer cancel()
		p, err := w.compile(ctx) // out of the cache
		if err != nil {
			return nil, err
		}
		w.current = p
	}
	w.current.users++
	return w.current, nil
}

func (w *WASM) leave(p *program) {
	w.mu.Lock()
	p.users--
	last := p.retired && p.users == 0
	w.mu.Unlock()
	if last {
		_ = p.Close(context.Background())
	}
}

// retire takes a program out of use; its last user closes it.
func (w *WASM) retire(p *program) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.retired = true; w.current == p {
		w.current = nil
	}
}

// Close ends the guest. It implements [middleware.Middleware].
func (w *WASM) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	var err error
	if w.current != nil {
		err = w.current.Close(context.Background())
		w.current = nil
	}
	return errors.Join(err, w.cache.Close(context.Background()))
}

// logWriter writes what a guest prints to the debug log.
type logWriter struct{ log *slog.Logger }

func (l logWriter) Write(p []byte) (int, error) {
	if text := strings.TrimSpace(string(p)); text != "" {
		l.log.Debug("the guest prints: " + text)
	}
	return len(p), nil
}

// guestLog is the log of a guest.
type guestLog struct{ log *slog.Logger }

// IsEnabled implements the library's logger.
func (l guestLog) IsEnabled(level api.LogLevel) bool {
	return level < api.LogLevelNone && l.log.Enabled(context.Background(), levelOf(level))
}

// Log implements the library's logger.
func (l guestLog) Log(ctx context.Context, level api.LogLevel, message string) {
	l.log.Log(ctx, levelOf(level), message)
}

func levelOf(level api.LogLevel) slog.Level {
	switch level {
	case api.LogLevelDebug:
		return slog.LevelDebug
	case api.LogLevelWarn:
		return slog.LevelWarn
	case api.LogLevelError:
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}
