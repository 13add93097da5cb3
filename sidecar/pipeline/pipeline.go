// Package pipeline runs HTTP requests through chains of middleware components (Dapr API, HTTP pipelines). The components come and
// go while requests run; a chain follows them.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"outrigger.dev/components/middleware"
	"outrigger.dev/resource"
)

// Middlewares are the middleware components that are loaded, and the chains made of them. It is safe for concurrent use.
type Middlewares struct {
	log *slog.Logger

	mu     sync.Mutex
	loaded map[string]*entry
	held   map[string]bool
	chains []*Chain
	ready  bool
}

// entry is a loaded component.
type entry struct {
	name, typ, version string
	mw                 middleware.Middleware

	mu      sync.Mutex
	users   int
	retired bool
	idle    chan struct{} // closed when a retired entry has no users
}

// enter counts a user; a retired entry takes none.
func (e *entry) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.retired {
		return false
	}
	e.users++
	return true
}

func (e *entry) leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.users--; e.users == 0 && e.retired {
		close(e.idle)
	}
}

// retire takes no new users and waits for those there are, or until ctx ends.
func (e *entry) retire(ctx context.Context) error {
	e.mu.Lock()
	if !e.retired {
		e.retired = true
		if e.users == 0 {
			close(e.idle)
		}
	}
	e.mu.Unlock()
	select {
	case <-e.idle:
		return nil
	default:
	}
	select {
	case <-e.idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("requests are still in the middleware %s: %w", e.name, ctx.Err())
	}
}

// New makes an empty set. A nil log discards.
func New(log *slog.Logger) *Middlewares {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Middlewares{log: log, loaded: map[string]*entry{}, held: map[string]bool{}}
}

// Add takes a component into service, in all chains that name it. typ is the full type as its resource has it
// ("middleware.http.bearer"); an empty version is v1. A name that is taken is an error.
func (m *Middlewares) Add(name, typ, version string, mw middleware.Middleware) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.loaded[name]; taken {
		return fmt.Errorf("there is already a middleware component named %q; give one of the two another name", name)
	}
	m.put(name, typ, version, mw)
	return nil
}

// Replace puts a component in the place of the one of the same name, without a moment in which requests see neither, and returns
// the old one, nil if there was none, once no request is in it. When ctx ends first the error says so; the old one is taken out
// all the same.
func (m *Middlewares) Replace(ctx context.Context, name, typ, version string, mw middleware.Middleware) (old middleware.Middleware, err error) {
	m.mu.Lock()
	e := m.loaded[name]
	m.put(name, typ, version, mw)
	m.mu.Unlock()
	if e == nil {
		return nil, nil
	}
	return e.mw, e.retire(ctx)
}

// Remove takes a component out of service. It returns when no request is in it, or with an error when ctx ends first; closing it is
// the caller's business. A name that is not there is no error.
func (m *Middlewares) Remove(ctx context.Context, name string) error {
	m.mu.Lock()
	e := m.loaded[name]
	delete(m.loaded, name)
	m.rebuild()
	m.mu.Unlock()
	if e == nil {
		return nil
	}
	return e.retire(ctx)
}

// Hold announces that the component of a name is about to be closed and opened again. From its removal until it is added again, or
// Release is called, requests that would have passed it are answered with 503, for none may slip by a check while that is changed.
func (m *Middlewares) Hold(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[name] = true
	m.rebuild()
}

// Release ends Hold: if the component is not there, requests pass without it.
func (m *Middlewares) Release(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, name)
	m.rebuild()
}

// unavailable stands in for a component that is being replaced.
type unavailable struct{ name string }

func (u unavailable) Handle(context.Context, *middleware.Request, middleware.Handler) (*middleware.Response, error) {
	return middleware.Text(http.StatusServiceUnavailable, "the middleware "+u.name+" is being replaced; try again"), nil
}

func (unavailable) Close() error { return nil }

// put is called with the lock held.
func (m *Middlewares) put(name, typ, version string, mw middleware.Middleware) {
	if version == "" {
		version = "v1"
	}
	delete(m.held, name)
	m.loaded[name] = &entry{name: name, typ: typ, version: version, mw: mw, idle: make(chan struct{})}
	m.rebuild()
}

// Ready is called once the components of the start are loaded. From now on handlers that have no component are warned of, each once
// until it is there again: they are skipped, and requests pass without them.
func (m *Middlewares) Ready() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready = true
	m.rebuild()
}

// Chain makes a chain of the components that handlers name, the first outermost. field is where the Configuration names them
// ("spec.httpPipeline"), for warnings. Without handlers the chain is nil, which is never active.
func (m *Middlewares) Chain(field string, handlers []resource.PipelineHandler) *Chain {
	if len(handlers) == 0 {
		return nil
	}
	c := &Chain{field: field, handlers: slices.Clone(handlers), warned: make([]bool, len(handlers))}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.chains = append(m.chains, c)
	m.rebuild()
	return c
}

// rebuild is called with the lock held.
func (m *Middlewares) rebuild() {
	for _, c := range m.chains {
		var list []*entry
		for i := range c.handlers {
			h := &c.handlers[i]
			e := m.loaded[h.Name]
			if e != nil && e.typ == h.Type && e.version == h.VersionOrDefault() {
				list = append(list, e)
				c.warned[i] = false
				continue
			}
			if e == nil && m.held[h.Name] {
				list = append(list, &entry{name: h.Name, mw: unavailable{h.Name}})
				continue
			}
			if !m.ready || c.warned[i] {
				continue
			}
			c.warned[i] = true
			reason := "no component of that name is loaded"
			if e != nil {
				reason = fmt.Sprintf("the component of that name is a %s/%s", e.typ, e.version)
			}
			m.log.Warn(fmt.Sprintf("%s.handlers[%d] names the middleware %s (%s/%s), but %s: requests pass without it; add the component or correct the Configuration",
				c.field, i, h.Name, h.Type, h.VersionOrDefault(), reason), "middleware", h.Name)
		}
		c.list.Store(&list)
	}
}

// Chain is a chain of middlewares around HTTP requests. It is safe for concurrent use; nil is a chain without any.
type Chain struct {
	field    string
	handlers []resource.PipelineHandler
	warned   []bool // guarded by the owner's lock
	list     atomic.Pointer[[]*entry]
}

// Active reports whether there is a middleware for a request to pass.
func (c *Chain) Active() bool { return c != nil && len(*c.list.Load()) > 0 }

// Serve runs a request through the chain, with final at its end.
func (c *Chain) Serve(ctx context.Context, req *middleware.Request, final middleware.Handler) (*middleware.Response, error) {
	if !c.Active() {
		return final(ctx, req)
	}
	list := c.enter()
	defer func() {
		for _, e := range list {
			e.leave()
		}
	}()
	resp, err := (&run{list: list, final: final}).next(ctx, req)
	if err == nil && resp == nil {
		err = errNoResponse
	}
	return resp, err
}

var errNoResponse = errors.New("the middleware pipeline returned neither a response nor an error")

// enter uses the middlewares that are in service now.
func (c *Chain) enter() []*entry {
	for {
		list := *c.list.Load()
		entered := 0
		for _, e := range list {
			if !e.enter() {
				break
			}
			entered++
		}
		if entered == len(list) {
			return list
		}
		// One was taken out since: the list without it is there already.
		for _, e := range list[:entered] {
			e.leave()
		}
	}
}

// run is one request's way along a chain.
type run struct {
	list  []*entry
	final middleware.Handler
}

func (r *run) next(ctx context.Context, req *middleware.Request) (*middleware.Response, error) {
	if len(r.list) == 0 {
		return r.final(ctx, req)
	}
	rest := &run{list: r.list[1:], final: r.final}
	return r.list[0].mw.Handle(ctx, req, rest.next)
}
