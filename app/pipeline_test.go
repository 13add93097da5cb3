package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"outrigger.dev/app/apptest"
	"outrigger.dev/components/middleware"
	"outrigger.dev/invocation"
	"outrigger.dev/resource"
)

// around is a pipeline of one function; nil is a pipeline without any middleware at the moment.
type around func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error)

func (f around) Active() bool { return f != nil }
func (f around) Serve(ctx context.Context, req *middleware.Request, final middleware.Handler) (*middleware.Response, error) {
	return f(ctx, req, final)
}

// echoApp answers with what came.
func echoApp(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Sent", r.Header.Get("X-Sent"))
	w.Header().Set("X-Type", r.Header.Get("Content-Type"))
	w.Header().Set("X-Token", r.Header.Get("Dapr-Api-Token"))
	w.Header().Set("Content-Type", "text/echo")
	w.WriteHeader(201)
	_, _ = io.WriteString(w, r.Method+" "+r.RequestURI+" "+string(body))
}

func TestPipeline(t *testing.T) {
	change := around(func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
		body, err := req.ReadBody()
		if err != nil {
			return nil, err
		}
		if req.Method != "POST" || req.Path != "/a%20b/c" || req.RawQuery != "q=1" || req.Host == "" || req.RemoteAddress != "" || string(req.Header.Get("X-Sent")) != "client" ||
			string(req.Header.Get("content-type")) != "text/in" || req.Header.Get("dapr-api-token") != nil || string(body) != "hello" {
			t.Errorf("%+v %q", req, body)
		}
		req.Method, req.Path, req.RawQuery = "PUT", "/x%2Fy//z", "q=2"
		req.Header.Set("X-Sent", "middleware")
		req.Header.Set("Content-Type", "text/changed")
		req.SetBody(bytes.ToUpper(body))
		resp, err := next(ctx, req)
		if err != nil {
			return nil, err
		}
		if string(resp.Header.Get("Content-Type")) != "text/echo" {
			t.Errorf("%q", resp.Header)
		}
		text, err := resp.ReadBody(0)
		resp.Body = append(text, '!')
		resp.Status++
		resp.Header.Set("X-New", "1")
		resp.Header.Set("Content-Type", "text/out")
		return resp, err
	})
	for _, protocol := range []Protocol{HTTP, HTTPS, H2C} {
		c := serve(t, Options{Protocol: protocol, APIToken: "token", Pipeline: change}, echoApp)
		for _, streamed := range []bool{false, true} {
			req := &invocation.Request{Verb: "POST", Method: "a b/c", Query: "q=1", ContentType: "text/in", Header: header("X-Sent: client", "Host: h"), Body: []byte("hello")}
			if streamed {
				req.Body, req.Stream, req.Length = nil, strings.NewReader("hello"), -1
			}
			resp, err := c.Invoke(t.Context(), req)
			if err != nil {
				t.Fatal(protocol, err)
			}
			if text := body(t, resp); resp.Status != 202 || text != "PUT /x/y/z?q=2 HELLO!" || resp.ContentType != "text/out" {
				t.Errorf("%s: %d %q %s", protocol, resp.Status, text, resp.ContentType)
			}
			for name, want := range map[string]string{"X-Sent": "middleware", "X-Type": "text/changed", "X-Token": "token", "X-New": "1", "Content-Type": ""} {
				if got := string(resp.Header.Get(name)); got != want {
					t.Errorf("%s: %s is %q", protocol, name, got)
				}
			}
			// A policy may send the same request again.
			if req.Verb != "POST" || req.Method != "a b/c" || req.Query != "q=1" || req.ContentType != "text/in" || strings.Join(lines(req.Header), "|") != "Host: h|X-Sent: client" {
				t.Errorf("%s: the request was changed: %+v", protocol, req)
			}
		}
	}
}

func TestPipelineAnswers(t *testing.T) {
	var asked atomic.Int32
	refuse := around(func(_ context.Context, req *middleware.Request, _ middleware.Handler) (*middleware.Response, error) {
		if req.Path == "/fail" {
			return nil, errors.New("failure")
		}
		return middleware.Text(403, ""), nil
	})
	c := serve(t, Options{Pipeline: refuse, MaxConcurrency: 1}, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	for range 3 {
		resp, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET", Method: "x"})
		if err != nil || resp.Status != 403 || body(t, resp) != "Forbidden\n" || resp.ContentType != "text/plain; charset=utf-8" {
			t.Error(resp, err)
		}
	}
	if _, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET", Method: "fail"}); err == nil || err.Error() != "failure" {
		t.Error(err)
	}
	// Its configuration is asked for through the pipeline as well.
	if config, err := c.Config(t.Context()); config != nil || err != nil || asked.Load() != 0 {
		t.Error(config, err, asked.Load())
	}
	if _, err := c.Invoke(t.Context(), &invocation.Request{Method: "x"}); err != ErrInvalidVerb {
		t.Error(err)
	}
}

func TestPipelineIsNotForProbes(t *testing.T) {
	var seen atomic.Int32
	count := around(func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
		seen.Add(1)
		return next(ctx, req)
	})
	probed := make(chan string, 100)
	c := serve(t, Options{Pipeline: count, Health: &HealthOptions{Path: "/healthz", Interval: 10 * time.Millisecond, Timeout: time.Second, Threshold: 1}},
		func(_ http.ResponseWriter, r *http.Request) {
			select {
			case probed <- r.URL.Path:
			default:
			}
		})
	if _, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET"}); err != ErrUnhealthy {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.Health().Run(ctx); close(done) }()
	for range 2 {
		if path := apptest.Receive(t, "a probe", probed); path != "/healthz" {
			t.Error(path)
		}
	}
	cancel()
	<-done
	if n := seen.Load(); n != 0 {
		t.Errorf("the middleware saw %d probes", n)
	}
}

func TestPipelineStreams(t *testing.T) {
	pass := around(func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
		return next(ctx, req)
	})
	for _, p := range []Pipeline{pass, around(nil), nil} {
		release := make(chan struct{})
		c := serve(t, Options{Pipeline: p}, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "first")
			w.(http.Flusher).Flush()
			<-release
			_, _ = io.WriteString(w, "second")
		})
		resp, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET", Method: "x"})
		if err != nil {
			t.Fatal(err)
		}
		block := make([]byte, 5)
		if _, err := io.ReadFull(resp.Stream, block); err != nil || string(block) != "first" {
			t.Fatalf("%q %v", block, err)
		}
		close(release)
		if text := body(t, resp); text != "second" {
			t.Errorf("%q", text)
		}
	}
}

func TestPipelineFailureFreesTheApp(t *testing.T) {
	fail := around(func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
		resp, err := next(ctx, req)
		switch req.Path {
		case "/error":
			return nil, errors.New("after the app")
		case "/panic":
			panic("after the app")
		}
		return resp, err
	})
	c := serve(t, Options{Pipeline: fail, MaxConcurrency: 1}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
	})
	for _, method := range []string{"error", "panic", "fine"} {
		func() {
			defer func() { _ = recover() }()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			resp, err := c.Invoke(ctx, &invocation.Request{Verb: "GET", Method: method})
			if (err == nil) != (method == "fine") || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", method, err)
			}
			if err == nil && len(body(t, resp)) != 1<<20 {
				t.Error("cut")
			}
		}()
	}
}

func TestPipelineOfEndpoints(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(echoApp))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	mark := around(func(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
		if req.Scheme != "http" || req.Host != host || req.Path != "/m" {
			t.Errorf("%+v", req)
		}
		req.Header.Set("X-Sent", "middleware")
		return next(ctx, req)
	})
	x := apptest.Open(t, NewExternal, ExternalOptions{Endpoints: []*resource.HTTPEndpoint{endpointOf("ep", s.URL+"/base")}, Pipeline: mark})
	for target, want := range map[string]string{"ep": "GET /base/m ", s.URL: "GET /m "} {
		resp, err := x.Invoke(t.Context(), target, &invocation.Request{Verb: "GET", Method: "m"})
		if err != nil {
			t.Fatal(err)
		}
		if text := body(t, resp); text != want || string(resp.Header.Get("X-Sent")) != "middleware" || string(resp.Header.Get("X-Token")) != "" {
			t.Errorf("%s: %q %q", target, text, resp.Header)
		}
	}
	if _, err := x.Invoke(t.Context(), "nobody", &invocation.Request{Verb: "GET"}); err == nil {
		t.Error("an endpoint that is not there")
	}
}
