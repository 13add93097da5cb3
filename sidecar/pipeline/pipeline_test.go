package pipeline

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"outrigger.dev/components/middleware"
	"outrigger.dev/resource"
)

// mark adds its name to the path on the way in, and to the body on the way out.
type mark struct {
	name   string
	closed atomic.Bool
	enter  chan struct{} // if not nil: receives when a request is in
	leave  chan struct{} // and is waited for
}

func (m *mark) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	if m.closed.Load() {
		return nil, errors.New(m.name + " is closed")
	}
	if m.enter != nil {
		m.enter <- struct{}{}
		<-m.leave
	}
	req.Path += m.name
	resp, err := next(ctx, req)
	if err == nil {
		resp.Body = append(resp.Body, m.name...)
	}
	if m.closed.Load() {
		return nil, errors.New(m.name + " was closed while a request was in it")
	}
	return resp, err
}

func (m *mark) Close() error { m.closed.Store(true); return nil }

func handlers(names ...string) (list []resource.PipelineHandler) {
	for _, n := range names {
		list = append(list, resource.PipelineHandler{Name: n, Type: "middleware.http.mark"})
	}
	return list
}

func serve(t testing.TB, c *Chain) string {
	t.Helper()
	resp, err := c.Serve(t.Context(), &middleware.Request{Path: "/"}, func(_ context.Context, req *middleware.Request) (*middleware.Response, error) {
		return &middleware.Response{Body: []byte(req.Path + ">")}, nil
	})
	if err != nil {
		t.Error(err)
		return ""
	}
	return string(resp.Body)
}

func TestOrderAndMatching(t *testing.T) {
	m := New(nil)
	c := m.Chain("spec.httpPipeline", append(handlers("a", "b"), resource.PipelineHandler{Name: "c", Type: "middleware.http.mark", Version: "v2"}))
	if c.Active() || serve(t, c) != "/>" {
		t.Error("a chain without components is active")
	}
	for _, add := range []struct{ name, typ, version, want string }{
		{"b", "middleware.http.mark", "v1", "/b>b"},
		{"a", "middleware.http.Mark", "v1", "/b>b"}, // the case counts
		{"c", "middleware.http.mark", "v1", "/b>b"}, // another version
		{"d", "middleware.http.mark", "v1", "/b>b"}, // not named
	} {
		if err := m.Add(add.name, add.typ, add.version, &mark{name: add.name}); err != nil {
			t.Fatal(err)
		}
		if got := serve(t, c); got != add.want || !c.Active() {
			t.Errorf("with %s: %s", add.name, got)
		}
	}
	if err := m.Add("a", "x", "v1", &mark{}); err == nil || !strings.Contains(err.Error(), `named "a"`) {
		t.Error(err)
	}
	if err := m.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := m.Add("a", "middleware.http.mark", "", &mark{name: "a"}); err != nil {
		t.Fatal(err)
	}
	if got := serve(t, c); got != "/ab>ba" {
		t.Error(got)
	}
	if old, err := m.Replace(t.Context(), "c", "middleware.http.mark", "v2", &mark{name: "c"}); err != nil || old.(*mark).name != "c" {
		t.Error(old, err)
	}
	other := m.Chain("spec.appHttpPipeline", handlers("c", "b", "b"))
	if got := serve(t, c) + " " + serve(t, other); got != "/abc>cba /bb>bb" {
		t.Error(got)
	}
	if err := m.Remove(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	if got := serve(t, c); got != "/ac>ca" {
		t.Error(got)
	}
	if m.Chain("x", nil).Active() {
		t.Error("no handlers, and active")
	}
}

func TestWarnings(t *testing.T) {
	var log bytes.Buffer
	m := New(slog.New(slog.NewTextHandler(&log, nil)))
	m.Chain("spec.httpPipeline", handlers("a", "b"))
	if err := m.Add("b", "middleware.http.other", "", &mark{}); err != nil || log.Len() > 0 {
		t.Fatal("warned while components are still loading:", log.String())
	}
	lines := func() string { s := log.String(); log.Reset(); return s }
	m.Ready()
	if got := lines(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "spec.httpPipeline.handlers[0] names the middleware a (middleware.http.mark/v1), but no component of that name is loaded") ||
		!strings.Contains(got, "the component of that name is a middleware.http.other/v1") {
		t.Error(got)
	}
	m.Ready()
	_ = m.Add("x", "y", "", &mark{})
	if got := lines(); got != "" {
		t.Error("again:", got)
	}
	_ = m.Add("a", "middleware.http.mark", "v1", &mark{})
	_ = m.Remove(t.Context(), "a")
	if got := lines(); strings.Count(got, "\n") != 1 {
		t.Error("gone again:", got)
	}
}

func TestHold(t *testing.T) {
	m := New(nil)
	c := m.Chain("p", handlers("a"))
	add := func() { _ = m.Add("a", "middleware.http.mark", "v1", &mark{name: "a"}) }
	add()
	const replaced = "the middleware a is being replaced; try again\n"
	m.Hold("a")
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"still there", func() {}, "/a>a"},
		{"removed", func() { _ = m.Remove(t.Context(), "a") }, replaced},
		{"back", add, "/a>a"},
		{"removed for good", func() { _ = m.Remove(t.Context(), "a") }, "/>"},
		{"held late", func() { m.Hold("a") }, replaced},
		{"released", func() { m.Release("a") }, "/>"},
	} {
		step.do()
		if got := serve(t, c); got != step.want {
			t.Errorf("%s: %q", step.name, got)
		}
	}
}

func TestRemoveWaitsForRequests(t *testing.T) {
	m := New(nil)
	c := m.Chain("p", handlers("a"))
	a := &mark{name: "a", enter: make(chan struct{}), leave: make(chan struct{})}
	_ = m.Add("a", "middleware.http.mark", "v1", a)
	var group sync.WaitGroup
	group.Go(func() { serve(t, c) })
	<-a.enter
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Remove(ended, "a"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	_ = m.Add("a", "middleware.http.mark", "v1", &mark{name: "A"})
	if got := serve(t, c); got != "/A>A" {
		t.Error(got)
	}
	close(a.leave)
	group.Wait()
}

// TestSwapUnderLoad replaces, removes and adds while requests run: none is in a closed middleware, and with Replace none misses it.
func TestSwapUnderLoad(t *testing.T) {
	m := New(nil)
	c := m.Chain("p", handlers("a", "b"))
	add := func(name string) { _ = m.Add(name, "middleware.http.mark", "v1", &mark{name: name}) }
	add("a")
	add("b")
	var stop atomic.Bool
	var served atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for !stop.Load() {
				if got := serve(t, c); got != "/ab>ba" && got != "/a>a" {
					t.Errorf("%q", got)
				}
				served.Add(1)
			}
		})
	}
	for i := 0; i < 300 || served.Load() < 1000; i++ {
		old, err := m.Replace(t.Context(), "a", "middleware.http.mark", "v1", &mark{name: "a"})
		if err != nil {
			t.Error(err)
		}
		_ = old.Close()
		m.mu.Lock()
		b := m.loaded["b"].mw
		m.mu.Unlock()
		if err := m.Remove(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		_ = b.Close()
		add("b")
	}
	stop.Store(true)
	group.Wait()
}

func TestFaults(t *testing.T) {
	m := New(nil)
	c := m.Chain("p", handlers("a"))
	_ = m.Add("a", "middleware.http.mark", "v1", nothing{})
	if _, err := c.Serve(t.Context(), &middleware.Request{Path: "/none"}, nil); err != errNoResponse {
		t.Error(err)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = c.Serve(t.Context(), &middleware.Request{Path: "/panic"}, nil)
	}()
	if err := m.Remove(t.Context(), "a"); err != nil {
		t.Error("a panic is counted as a user for ever:", err)
	}
}

type nothing struct{}

func (nothing) Handle(_ context.Context, req *middleware.Request, _ middleware.Handler) (*middleware.Response, error) {
	if req.Path == "/panic" {
		panic("x")
	}
	return nil, nil
}
func (nothing) Close() error { return nil }

func BenchmarkServe(b *testing.B) {
	m := New(nil)
	final := func(context.Context, *middleware.Request) (*middleware.Response, error) {
		return &middleware.Response{}, nil
	}
	for _, n := range []string{"none", "two"} {
		c := m.Chain("p", handlers("a", "b"))
		b.Run(n, func(b *testing.B) {
			req := &middleware.Request{}
			for b.Loop() {
				if c.Active() {
					_, _ = c.Serve(b.Context(), req, final)
				}
			}
		})
		_ = m.Add("a", "middleware.http.mark", "v1", pass{})
		_ = m.Add("b", "middleware.http.mark", "v1", pass{})
	}
}

type pass struct{}

func (pass) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	return next(ctx, req)
}
func (pass) Close() error { return nil }
