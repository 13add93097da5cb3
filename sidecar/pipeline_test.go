package sidecar_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

// Middlewares that the Configuration names stand around the API and around the app, in this order, and those that are gone or
// changed are followed.
func TestPipelines(t *testing.T) {
	f := newFolder(t)
	f.write("upper.yaml", sidecartest.Component("upper", "middleware.http.uppercase", "direction", "request"))
	f.write("check.yaml", sidecartest.Component("check", "middleware.http.routerchecker", "rule", "^/v1.0/"))
	f.write("down.yaml", sidecartest.Component("down", "middleware.http.uppercase", "direction", "response"))
	f.write("state.yaml", sidecartest.Component("st", "state.in-memory"))
	app := sidecartest.NewApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "got %s", body)
	}))
	s := sidecartest.Start(t, f.option(), sidecartest.WithApp(app), sidecartest.Config(`spec:
  httpPipeline:
    handlers:
    - {name: check, type: middleware.http.routerchecker}
    - {name: upper, type: middleware.http.uppercase}
    - {name: absent, type: middleware.http.bearer}
  appHttpPipeline:
    handlers:
    - {name: down, type: middleware.http.uppercase}
`))
	s.WaitHealthy()
	if r := s.Post("/v1.0/invoke/app/method/x", "body"); r.Body != "GOT BODY" {
		t.Errorf("through both pipelines: %+v", r)
	}
	if r := s.Get("/elsewhere", "dapr-app-id", "app"); r.Status != 400 || r.Body != "invalid router\n" {
		t.Errorf("a path that the router check refuses: %+v", r)
	}
	logged(t, s, "names the middleware absent")

	f.write("check.yaml", sidecartest.Component("check", "middleware.http.routerchecker", "rule", "^/(v1.0|elsewhere)"))
	eventually(t, "the changed rule counts", s, func() bool { return s.Get("/elsewhere", "dapr-app-id", "app").Status == 200 })
	f.write("check.yaml", sidecartest.Component("check", "middleware.http.routerchecker", "rule", "("))
	logged(t, s, "check (middleware.http.routerchecker/v1) stays as it was")
	f.remove("upper.yaml")
	eventually(t, "the middleware is gone", s, func() bool { return s.Post("/v1.0/invoke/app/method/x", "body").Body == "GOT BODY" })
	if r := s.Post("/v1.0/invoke/app/method/x", "body"); r.Status != 200 {
		t.Errorf("without the middleware: %+v", r)
	}
}

// Policies of Resiliency resources stand around calls of the app, of components and of endpoints.
func TestResiliency(t *testing.T) {
	var calls atomic.Int64
	flaky := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1)%3 != 0 {
			w.WriteHeader(503)
			return
		}
		fmt.Fprint(w, "at last")
	})
	outside := httptest.NewServer(flaky)
	defer outside.Close()
	s := sidecartest.Start(t, sidecartest.WithApp(sidecartest.NewApp(t, flaky)), sidecartest.Resources(
		"apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: outside}\nspec: {baseUrl: '"+outside.URL+"'}\n",
		`apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: r}
spec:
  policies:
    retries:
      again: {policy: constant, duration: 1ms, maxRetries: 2}
      never: {policy: constant, duration: 1ms, maxRetries: 2, matching: {httpStatusCodes: "500"}}
  targets:
    apps:
      app: {retry: again}
      outside: {retry: nowhere}
`))
	s.WaitHealthy()
	if r := s.Post("/v1.0/invoke/app/method/x", "body"); r.Status != 200 || r.Body != "at last" {
		t.Errorf("the app: %+v", r)
	}
	if r := s.Post("/v1.0/invoke/outside/method/x", "body"); r.Status != 503 {
		t.Errorf("an endpoint whose policy does not exist: %+v", r)
	}
	if !strings.Contains(s.Log.String(), "nowhere") {
		t.Error("the log does not name the policy that does not exist")
	}
}

// Any change of Resiliency resources has the sidecar made anew.
func TestReloadOfResiliency(t *testing.T) {
	f := newFolder(t)
	s := sidecartest.Start(t, f.option())
	f.write("r.yaml", "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\nspec: {policies: {timeouts: {a: 1s}}}\n")
	if err := s.Stopped(); err == nil || err.Error() != sidecar.ErrRestart.Error() {
		t.Errorf("it ended with %v", err)
	}
}
