package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/api"
	"outrigger.dev/components"
	"outrigger.dev/components/middleware"
	"outrigger.dev/components/middleware/http/oauth2"
	"outrigger.dev/components/middleware/http/ratelimit"
	"outrigger.dev/components/middleware/http/routeralias"
	"outrigger.dev/components/middleware/http/uppercase"
	"outrigger.dev/resource"
	"outrigger.dev/sidecar/pipeline"
)

// by makes a middleware of a function.
type by func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error)

func (f by) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	return f(ctx, req, next)
}
func (by) Close() error { return nil }

// chain makes a pipeline of middlewares.
func chain(t *testing.T, list ...by) *pipeline.Chain {
	m := pipeline.New(nil)
	var handlers []resource.PipelineHandler
	for i, f := range list {
		name := string(rune('a' + i))
		handlers = append(handlers, resource.PipelineHandler{Name: name, Type: "t"})
		if err := m.Add(name, "t", "v1", f); err != nil {
			t.Fatal(err)
		}
	}
	return m.Chain("spec.httpPipeline", handlers)
}

// testServer is a running server with a client for each protocol.
type testServer struct {
	url     string
	clients map[string]*http.Client
}

func serveHTTP(t *testing.T, o HTTPOptions) testServer {
	t.Helper()
	o.H2C, o.MaxHeaderBytes = true, 1<<16
	s := NewHTTP(o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	h1 := &http.Transport{}
	t.Cleanup(func() {
		h1.CloseIdleConnections()
		h2.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return testServer{"http://" + l.Addr().String(), map[string]*http.Client{"HTTP/1.1": {Transport: h1, Timeout: 20 * time.Second}, "h2c": {Transport: h2, Timeout: 20 * time.Second}}}
}

// echo answers with what a route sees.
func echo(call *api.Call) error {
	body, err := call.ReadBody()
	if err != nil {
		return err
	}
	call.AddHeader([]byte("X-Seen"), call.Header("X-Sent"))
	call.SetHeader("Content-Type", "text/plain")
	call.SetStatus(201)
	call.Reply([]byte(call.Method() + " " + call.RawPath() + "?" + call.RawQuery() + " " + call.Path() + " [" + string(body) + "]"))
	return nil
}

func echoRoutes() []*api.Route {
	return []*api.Route{
		{Methods: []string{"GET", "POST"}, Path: "/v1.0/echo/{rest...}", Name: "Echo", Handler: echo},
		{Methods: []string{"POST"}, Path: "/v1.0/stream", Name: "Stream", Handler: func(call *api.Call) error {
			call.ReplyStream(io.NopCloser(call.BodyReader()), -1)
			return nil
		}},
	}
}

func do(t *testing.T, c *http.Client, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func TestPipelineChangesTheRequest(t *testing.T) {
	s := serveHTTP(t, HTTPOptions{Routes: echoRoutes(), Pipeline: chain(t, func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
		if req.Method != "PUT" || req.Path != "/alias" || req.RawQuery != "a=1" || req.Host == "" || req.RemoteAddress == "" || string(req.Header.Get("x-sent")) != "client" || req.Header.Get("Host") != nil || req.Header.Get("Content-Length") != nil {
			t.Errorf("%+v", req)
		}
		body, err := req.ReadBody()
		if err != nil {
			return nil, err
		}
		req.Method, req.Path, req.RawQuery = "POST", "/v1.0/echo/a%2Fb", "b=2"
		req.Header.Set("x-sent", "middleware")
		req.SetBody(bytes.ToUpper(body))
		resp, err := next(ctx, req)
		if err != nil {
			return nil, err
		}
		resp.Status++
		resp.Header.Add("X-After", string(resp.Header.Get("X-Seen")))
		resp.Body = append(resp.Body, '!')
		return resp, nil
	})})
	for name, c := range s.clients {
		resp, text := do(t, c, "PUT", s.url+"/alias?a=1", "hello", "X-Sent: client")
		if resp.StatusCode != 202 || text != "POST /v1.0/echo/a%2Fb?b=2 /v1.0/echo/a/b [HELLO]!" || resp.Header.Get("X-After") != "middleware" || resp.Header.Get("Content-Type") != "text/plain" {
			t.Errorf("%s: %d %q %v", name, resp.StatusCode, text, resp.Header)
		}
	}
}

func TestPipelineOrder(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	var log bytes.Buffer
	refuse := func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
		mu.Lock()
		seen = append(seen, req.Path+" "+string(req.Header.Get("dapr-api-token")))
		mu.Unlock()
		if req.Path == "/refused" {
			return middleware.Text(http.StatusTeapot, ""), nil
		}
		return next(ctx, req)
	}
	lock := &lockedWriter{w: &log}
	s := serveHTTP(t, HTTPOptions{
		Routes: echoRoutes(), Pipeline: chain(t, refuse), Token: "secret", AllowedOrigins: "*",
		APILog: &APILog{HTTP: slog.New(slog.NewTextHandler(lock, nil))},
	})
	for name, c := range s.clients {
		mu.Lock()
		seen = nil
		mu.Unlock()
		lock.reset()
		if resp, _ := do(t, c, "GET", s.url+"/v1.0/echo/x", ""); resp.StatusCode != 401 {
			t.Errorf("%s: without a token: %d", name, resp.StatusCode)
		}
		if resp, _ := do(t, c, "OPTIONS", s.url+"/v1.0/echo/x", "", "Origin: http://o", "Access-Control-Request-Method: GET"); resp.StatusCode != 200 {
			t.Errorf("%s: preflight: %d", name, resp.StatusCode)
		}
		resp, text := do(t, c, "GET", s.url+"/refused", "", "dapr-api-token: secret", "Origin: http://o")
		if resp.StatusCode != 418 || text != "I'm a teapot\n" || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" || resp.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %q %v", name, resp.StatusCode, text, resp.Header)
		}
		// Unknown paths pass the pipeline too, and are then unknown.
		if resp, text := do(t, c, "GET", s.url+"/unknown", "", "dapr-api-token: secret"); resp.StatusCode != 404 || text != "404 page not found\n" {
			t.Errorf("%s: %d %q", name, resp.StatusCode, text)
		}
		if resp, _ := do(t, c, "DELETE", s.url+"/v1.0/echo/x", "", "dapr-api-token: secret"); resp.StatusCode != 405 || strings.Join(resp.Header["Allow"], ",") != "GET,POST" {
			t.Errorf("%s: %d %v", name, resp.StatusCode, resp.Header)
		}
		mu.Lock()
		if got := strings.Join(seen, "|"); got != "/refused |/unknown |/v1.0/echo/x " {
			t.Errorf("%s: the middleware saw %s", name, got)
		}
		mu.Unlock()
		waitFor(t, func() bool { return strings.Count(lock.String(), "HTTP API Called") == 2 })
		if strings.Contains(lock.String(), "refused") {
			t.Errorf("%s: a refused request is in the API log: %s", name, lock.String())
		}
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for too long")
		}
	}
}

type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (l *lockedWriter) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.String()
}

func (l *lockedWriter) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w.Reset()
}

func TestPipelineStreams(t *testing.T) {
	closed := make(chan struct{}, 2)
	s := serveHTTP(t, HTTPOptions{Routes: echoRoutes(), Pipeline: chain(t, func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
		resp, err := next(ctx, req)
		if err != nil {
			return nil, err
		}
		if string(req.Header.Get("X-Replace")) != "" {
			_ = resp.Close()
			return middleware.Text(500, "replaced"), nil
		}
		resp.Stream = &upper{resp.Stream, closed}
		return resp, nil
	})})
	for name, c := range s.clients {
		// Both directions at the same time: a piece is answered before the next one is sent.
		r, w := io.Pipe()
		req, _ := http.NewRequestWithContext(t.Context(), "POST", s.url+"/v1.0/stream", r)
		go func() { _, _ = io.WriteString(w, "first") }()
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(name, err)
		}
		block := make([]byte, 100)
		for _, piece := range []string{"FIRST", "SECOND"} {
			n, err := io.ReadAtLeast(resp.Body, block, len(piece))
			if err != nil || string(block[:n]) != piece {
				t.Fatalf("%s: %q %v", name, block[:n], err)
			}
			if piece == "FIRST" {
				go func() { _, _ = io.WriteString(w, "second"); _ = w.Close() }()
			}
		}
		if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
			t.Errorf("%s: %q %v", name, rest, err)
		}
		_ = resp.Body.Close()
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the stream stays open", name)
		}
		if resp, text := do(t, c, "POST", s.url+"/v1.0/stream", "x", "X-Replace: 1"); resp.StatusCode != 500 || text != "replaced\n" {
			t.Errorf("%s: %d %q", name, resp.StatusCode, text)
		}
	}
}

type upper struct {
	io.ReadCloser
	closed chan struct{}
}

func (u *upper) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	copy(p, bytes.ToUpper(p[:n]))
	return n, err
}

func (u *upper) Close() error { u.closed <- struct{}{}; return u.ReadCloser.Close() }

func TestPipelinePaths(t *testing.T) {
	paths := make(chan string, 1)
	fallback := &api.Route{Path: "/v1.0/invoke/{target...}", Name: "InvokeService", Handler: func(call *api.Call) error {
		call.Reply([]byte(call.Path()))
		return nil
	}}
	s := serveHTTP(t, HTTPOptions{Fallback: fallback, Pipeline: chain(t, func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
		paths <- req.Path
		if req.Path == "/bad" {
			req.Path = "/%zz"
		}
		return next(ctx, req)
	})})
	for _, c := range []struct{ sent, seen, routed string }{
		{"/v1.0/invoke/a/method/b", "/v1.0/invoke/a/method/b", "/v1.0/invoke/a/method/b"},
		{"//v1.0//invoke/a/method/x/../b/", "/v1.0/invoke/a/method/b", "/v1.0/invoke/a/method/b"},
		{"/v1.0/invoke/a/method/x/%2e%2E/%62", "/v1.0/invoke/a/method/b", "/v1.0/invoke/a/method/b"},
		{"/v1.0/invoke/a/method/b%2Fc%20d", "/v1.0/invoke/a/method/b%2Fc%20d", "/v1.0/invoke/a/method/b/c d"},
		{"/v1.0/invoke/https://host:1/method/b", "/v1.0/invoke/https://host:1/method/b", "/v1.0/invoke/https://host:1/method/b"},
		{"/v1.0/invoke/a/method/public%2F..%2Fadmin", "", "400 Bad Request"},
		{"/v1.0/invoke/a/method/..%2f..%2f..", "", "400 Bad Request"},
		{"/bad", "/bad", "400 Bad Request"},
	} {
		for name, client := range s.clients {
			_, text := do(t, client, "GET", s.url+c.sent, "")
			var seen string
			select {
			case seen = <-paths:
			default:
			}
			if seen != c.seen || text != c.routed {
				t.Errorf("%s: %s: the middleware saw %q, the route %q", name, c.sent, seen, text)
			}
		}
	}
}

func TestPipelineFailures(t *testing.T) {
	s := serveHTTP(t, HTTPOptions{Routes: echoRoutes(), MaxBodyBytes: 10, Pipeline: chain(t, func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
		switch req.Path {
		case "/error":
			return nil, errors.New("secret detail")
		case "/panic":
			panic("in a middleware")
		case "/v1.0/echo/read":
			if _, err := req.ReadBody(); err != nil {
				return nil, err
			}
		}
		return next(ctx, req)
	})})
	for name, c := range s.clients {
		for path, want := range map[string]struct {
			status int
			text   string
		}{
			"/error":          {500, "Internal Server Error\n"},
			"/panic":          {500, ""},
			"/v1.0/echo/read": {413, "the request body is larger than the limit of 10 bytes; raise --max-body-size\n"},
			"/v1.0/echo/pass": {500, ""}, // the route reads it and says so in its own way
		} {
			resp, text := do(t, c, "POST", s.url+path, "more than ten bytes")
			if resp.StatusCode != want.status || want.text != "" && text != want.text || strings.Contains(text, "secret") {
				t.Errorf("%s: %s: %d %q", name, path, resp.StatusCode, text)
			}
		}
		if resp, text := do(t, c, "POST", s.url+"/v1.0/echo/read", "short"); resp.StatusCode != 201 || !strings.HasSuffix(text, "[short]") {
			t.Errorf("%s: %d %q", name, resp.StatusCode, text)
		}
	}
}

func TestPipelineFailuresCloseStreams(t *testing.T) {
	closed := make(chan struct{}, 1)
	route := &api.Route{Methods: []string{"GET"}, Path: "/v1.0/{how}", Name: "Stream", Handler: func(call *api.Call) error {
		call.ReplyStream(&upper{io.NopCloser(strings.NewReader("text")), closed}, 4)
		return nil
	}}
	s := serveHTTP(t, HTTPOptions{Routes: []*api.Route{route}, Pipeline: chain(t, func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
		resp, err := next(ctx, req)
		switch req.Path {
		case "/v1.0/error":
			return nil, errors.New("after the route")
		case "/v1.0/closed":
			return nil, errors.Join(errors.New("after the route"), resp.Close())
		case "/v1.0/panic":
			panic("after the route")
		}
		return resp, err
	})})
	for name, c := range s.clients {
		for path, want := range map[string]int{"/v1.0/error": 500, "/v1.0/closed": 500, "/v1.0/panic": 500, "/v1.0/fine": 200} {
			if resp, _ := do(t, c, "GET", s.url+path, ""); resp.StatusCode != want {
				t.Errorf("%s: %s: %d", name, path, resp.StatusCode)
			}
			select {
			case <-closed:
			case <-time.After(10 * time.Second):
				t.Errorf("%s: %s: the stream stays open", name, path)
			}
			select {
			case <-closed:
				t.Errorf("%s: %s: the stream was closed twice", name, path)
			default:
			}
		}
	}
}

func TestClientLeavesThePipeline(t *testing.T) {
	entered, left := make(chan struct{}, 1), make(chan error, 1)
	s := serveHTTP(t, HTTPOptions{Routes: echoRoutes(), Pipeline: chain(t, func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
		entered <- struct{}{}
		select {
		case <-ctx.Done():
			left <- nil
		case <-time.After(20 * time.Second):
			left <- errors.New("the context lives on")
		}
		return nil, ctx.Err()
	})})
	for name, c := range s.clients {
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", s.url+"/v1.0/echo/x", nil)
		go func() { <-entered; cancel() }()
		if _, err := c.Do(req); err == nil {
			t.Error(name, "an answer")
		}
		if err := <-left; err != nil {
			t.Error(name, err)
		}
	}
}

// TestComponents runs requests through components of the real kinds.
func TestComponents(t *testing.T) {
	var r components.Registry
	routeralias.Register(&r)
	ratelimit.Register(&r)
	uppercase.Register(&r)
	oauth2.Register(&r)
	m := pipeline.New(nil)
	var handlers []resource.PipelineHandler
	for _, c := range []struct {
		name       string
		properties map[string]string
	}{
		{"ratelimit", map[string]string{"maxRequestsPerSecond": "1000"}},
		{"oauth2", map[string]string{"clientID": "me", "authURL": "https://login.test/auth", "tokenURL": "https://login.test/token", "pathFilter": "^/private"}},
		{"routeralias", map[string]string{"routes": `{"/e/{x}": "/v1.0/echo/alias", "/s": "/v1.0/stream"}`}},
		{"uppercase", map[string]string{"direction": "both"}},
	} {
		d, err := r.Lookup(components.Middleware, "http."+c.name, "")
		if err != nil {
			t.Fatal(err)
		}
		mw, err := d.Open(t.Context(), components.Instance{Name: c.name, Properties: c.properties})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Add(c.name, d.Type(), "", mw.(middleware.Middleware)); err != nil {
			t.Fatal(err)
		}
		handlers = append(handlers, resource.PipelineHandler{Name: c.name, Type: d.Type()})
	}
	s := serveHTTP(t, HTTPOptions{Routes: echoRoutes(), Pipeline: m.Chain("spec.httpPipeline", handlers)})
	for name, c := range s.clients {
		resp, text := do(t, c, "POST", s.url+"/e/1?a=b", "body")
		if resp.StatusCode != 201 || text != "POST /V1.0/ECHO/ALIAS?A=B&X=1 /V1.0/ECHO/ALIAS [BODY]" || resp.Header.Get("RateLimit-Limit") != "1000" {
			t.Errorf("%s: %d %q %v", name, resp.StatusCode, text, resp.Header)
		}
		if resp, text := do(t, c, "POST", s.url+"/s", strings.Repeat("stream ", 10000)); resp.StatusCode != 200 || text != strings.Repeat("STREAM ", 10000) {
			t.Errorf("%s: %d, %d bytes", name, resp.StatusCode, len(text))
		}
		req, _ := http.NewRequestWithContext(t.Context(), "GET", s.url+"/%70rivate/x", nil)
		resp, err := c.Transport.RoundTrip(req)
		if err != nil {
			t.Fatal(name, err)
		}
		_ = resp.Body.Close()
		if cookies := resp.Cookies(); resp.StatusCode != 302 || !strings.HasPrefix(resp.Header.Get("Location"), "https://login.test/auth?") || len(cookies) != 1 || !cookies[0].HttpOnly {
			t.Errorf("%s: %d %v", name, resp.StatusCode, resp.Header)
		}
	}
}

func FuzzPipelinePath(f *testing.F) {
	f.Add("/v1.0/invoke/a/method/%2e%2e%2fx")
	f.Add("/v1.0/invoke/http:///x")
	f.Fuzz(func(t *testing.T, raw string) {
		path, ok := pipelinePath(raw)
		if !ok {
			return
		}
		if again, ok := pipelinePath(path); !ok || again != path {
			t.Errorf("%q: %q, then %q", raw, path, again)
		}
		decoded := (&middleware.Request{Path: path}).DecodedPath()
		for segment := range strings.SplitSeq(decoded, "/") {
			if segment == ".." || segment == "." {
				t.Errorf("%q has dot segments", decoded)
			}
		}
	})
}

func BenchmarkPipelinePath(b *testing.B) {
	for b.Loop() {
		pipelinePath("/v1.0/invoke/app/method/orders/1")
	}
}
