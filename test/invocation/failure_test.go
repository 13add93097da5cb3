package invocation_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
	"outrigger.dev/test/servers"
)

// Texts of calls that get no answer, for apps that are absent, down or unhealthy.
func TestNoAnswer(t *testing.T) {
	d := newDirectory(t)
	down := servers.FreePort(t)
	withPort := func(port int) sidecartest.Option {
		return sidecartest.With(func(o *sidecar.Options) { o.AppPort = port })
	}
	sidecartest.Start(t, d.join("none", false))
	sidecartest.Start(t, d.join("down", false), withPort(down))
	sick := sidecartest.NewApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	sidecartest.Start(t, d.join("sick", false), sidecartest.WithApp(sick), sidecartest.With(func(o *sidecar.Options) {
		o.EnableAppHealthCheck, o.AppHealthProbeInterval, o.AppHealthProbeTimeout = true, time.Hour, time.Second
	}))
	caller := sidecartest.Start(t, d.join("caller", false))
	byGRPC := sidecartest.Start(t, d.join("caller", true))
	refused := fmt.Sprintf(`Get "http://127.0.0.1:%d/m": dial tcp 127.0.0.1:%d: connect: connection refused`, down, down)
	for target, want := range map[string]string{
		"none":   "rpc error: code = Internal desc = app channel is not initialized",
		"down":   "rpc error: code = Internal desc = error invoking app channel: " + refused,
		"sick":   "rpc error: code = Internal desc = error invoking app channel: rpc error: code = Internal desc = app is not in a healthy state",
		"a.b.c":  "invalid app id a.b.c",
		"nobody": "couldn't find service: nobody",
	} {
		for _, s := range []*sidecartest.Sidecar{caller, byGRPC} {
			r := s.Get("/v1.0/invoke/" + target + "/method/m")
			if got := message(t, r.Body); r.Status != 500 || got != "failed to invoke, id: "+target+", err: "+want {
				t.Errorf("%s: %d %s\nwant ... %s", target, r.Status, got, want)
			}
		}
	}
}

// A peer that cannot be reached is tried four times, a second apart, and found again where it then is.
func TestUnreachablePeer(t *testing.T) {
	d := newDirectory(t)
	nobody := net.JoinHostPort("127.0.0.1", fmt.Sprint(servers.FreePort(t)))
	app := sidecartest.NewApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("here")) }))
	moved := sidecartest.Start(t, d.join("moved", false), sidecartest.WithApp(app))
	moved.WaitHealthy()
	address := d.address("moved", false)
	d.put("moved", nobody)
	d.put("gone", nobody)
	caller := sidecartest.Start(t, d.join("caller", false))

	back := time.AfterFunc(500*time.Millisecond, func() { d.put("moved", address) })
	defer back.Stop()
	if r := caller.Get("/v1.0/invoke/moved/method/m"); r.Status != 200 || r.Body != "here" {
		t.Errorf("moved: %+v", r)
	}
	start := time.Now()
	r := caller.Get("/v1.0/invoke/gone/method/m")
	if got := message(t, r.Body); r.Status != 500 || !strings.HasPrefix(got, "failed to invoke, id: gone, err: failed to invoke target gone after 3 retries. Error: rpc error: code = Unavailable desc = ") {
		t.Errorf("gone: %d %s", r.Status, got)
	}
	if took := time.Since(start); took < 3*time.Second || took > 8*time.Second {
		t.Errorf("three retries took %s", took)
	}
}

// An app that dies and returns is called again, without a restart of the sidecar.
func TestAppReturns(t *testing.T) {
	d := newDirectory(t)
	port := servers.FreePort(t)
	serve := func(text string) *httptest.Server {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) })}}
		s.Start()
		return s
	}
	first := serve("first")
	callee := sidecartest.Start(t, d.join("app", false), sidecartest.With(func(o *sidecar.Options) { o.AppPort = port }))
	caller := sidecartest.Start(t, d.join("caller", false))
	callee.WaitHealthy()
	if r := caller.Get("/v1.0/invoke/app/method/m"); r.Body != "first" {
		t.Fatalf("got %+v", r)
	}
	first.CloseClientConnections()
	first.Close()
	if r := caller.Get("/v1.0/invoke/app/method/m"); r.Status != 500 || !strings.Contains(message(t, r.Body), "connection refused") {
		t.Errorf("while it is down: %+v", r)
	}
	second := serve("second")
	defer second.Close()
	if r := caller.Get("/v1.0/invoke/app/method/m"); r.Body != "second" {
		t.Errorf("after its return: %+v", r)
	}
}

// --app-max-concurrency bounds the calls the app gets at a time; the others wait for their turn.
func TestMaxConcurrency(t *testing.T) {
	var running, most atomic.Int32
	release := make(chan struct{})
	limit := sidecartest.With(func(o *sidecar.Options) { o.AppMaxConcurrency = 2 })
	w := newWorld(t, []string{"http"}, func(p string) sidecartest.Option {
		return startHTTP(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/m") {
				return
			}
			n := running.Add(1)
			defer running.Add(-1)
			for {
				m := most.Load()
				if n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
			<-release
		}))
	}, limit)
	const calls = 6
	done := make(chan int, calls)
	for range calls {
		go func() {
			resp, err := http.Get(w.byExchange.URL + "/v1.0/invoke/app-http/method/m")
			if err != nil {
				done <- 0
				return
			}
			_ = resp.Body.Close()
			done <- resp.StatusCode
		}()
	}
	waitFor(t, "two calls in the app", func() bool { return running.Load() == 2 })
	for range calls {
		release <- struct{}{}
	}
	for range calls {
		if status := wait(t, done, "a call"); status != 200 {
			t.Errorf("status %d", status)
		}
	}
	if most.Load() != 2 {
		t.Errorf("%d calls at a time", most.Load())
	}
}

// HTTPEndpoint resources and absolute URLs are called like apps.
func TestEndpoints(t *testing.T) {
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/base/redirect" {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return
		}
		fmt.Fprintf(w, "%s %s fixed=%s token=%s caller=%s", r.Method, r.URL.RequestURI(), r.Header.Get("X-Fixed"), r.Header.Get("Dapr-Api-Token"), r.Header.Get("Dapr-Caller-App-Id"))
	}))
	defer outside.Close()
	s := sidecartest.Start(t, newDirectory(t).join("caller", false), sidecartest.With(func(o *sidecar.Options) { o.AppToken = "secret" }), sidecartest.Resources(
		"apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: outside}\nspec:\n  baseUrl: "+outside.URL+"/base\n  headers:\n  - {name: X-Fixed, value: \"yes\"}\n"))
	for path, want := range map[string]string{
		"/v1.0/invoke/outside/method/a/b?c=d":                                                            "GET /base/a/b?c=d fixed=yes token= caller=",
		"/v1.0/invoke/outside/method/redirect":                                                           "GET /elsewhere fixed=yes token= caller=",
		"/v1.0/invoke/" + outside.URL + "/method/x":                                                      "GET /x fixed= token= caller=",
		"/v1.0/invoke/" + strings.NewReplacer(":", "%3A", "/", "%2F").Replace(outside.URL) + "/method/x": "GET /x fixed= token= caller=",
	} {
		if r := s.Get(path, "X-Fixed", ""); r.Status != 200 || r.Body != want {
			t.Errorf("%s: %d %q, want %q", path, r.Status, r.Body, want)
		}
	}
	if resp, _ := mustRaw(t, s, "GET /base/redirect HTTP/1.1\r\nHost: x\r\ndapr-app-id: "+outside.URL+"\r\nConnection: close\r\n\r\n"); resp.StatusCode != http.StatusFound || resp.Header.Get("Location") != "/elsewhere" {
		t.Errorf("a redirect of a URL is not followed: %d %v", resp.StatusCode, resp.Header)
	}
	r := s.Get("/v1.0/metadata")
	if !strings.Contains(r.Body, `"httpEndpoints":[{"name":"outside"}]`) {
		t.Errorf("the endpoint is not in the metadata: %s", r.Body)
	}
	if r := s.Get("/v1.0/invoke/http:%2F%2F127.0.0.1:1/method/x"); r.Status != 500 || !strings.Contains(r.Body, "connection refused") {
		t.Errorf("nobody there: %+v", r)
	}
}
