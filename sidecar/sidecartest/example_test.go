package sidecartest_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"outrigger.dev/sidecar/sidecartest"
)

// An app under test: it keeps a counter in the state store of its sidecar.
func counter(sidecarURL func() string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /visit", func(w http.ResponseWriter, _ *http.Request) {
		resp, err := http.Get(sidecarURL() + "/v1.0/state/store/visits")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		var visits int
		if resp.StatusCode == http.StatusOK {
			if err := json.NewDecoder(resp.Body).Decode(&visits); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
		}
		visits++
		_ = json.NewEncoder(w).Encode(visits)
	})
	return mux
}

// This is how a test of an app looks: an app behind its sidecar, a second sidecar that calls it, no process and no network.
func TestAnAppBehindItsSidecar(t *testing.T) {
	network := sidecartest.NewNetwork()

	var shop *sidecartest.Sidecar
	app := sidecartest.NewApp(t, counter(func() string { return shop.URL }))
	shop = sidecartest.Start(t, network.Join("shop"), sidecartest.WithApp(app),
		sidecartest.Resources(sidecartest.Component("store", "state.in-memory")))
	visitor := sidecartest.Start(t, network.Join("visitor"))
	shop.WaitHealthy()

	if r := shop.Post("/v1.0/state/store", `[{"key":"visits","value":41}]`); r.Status != 204 {
		t.Fatalf("saving: %+v", r)
	}
	if r := visitor.Get("/v1.0/invoke/shop/method/visit"); r.Status != 200 || r.Body != "42\n" {
		t.Errorf("visiting: %+v", r)
	}
}

// Sidecars can do without ports altogether.
func TestInMemory(t *testing.T) {
	network := sidecartest.NewNetwork()
	app := sidecartest.NewApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("hello " + r.Header.Get("Dapr-Caller-App-Id")))
	}))
	callee := sidecartest.Start(t, network.Join("callee"), network.InMemory(), sidecartest.WithApp(app))
	caller := sidecartest.Start(t, network.Join("caller"), network.InMemory(), sidecartest.Resources(sidecartest.Component("store", "state.in-memory")))
	callee.WaitHealthy()

	if r := caller.Get("/v1.0/invoke/callee/method/x"); r.Status != 200 || r.Body != "hello caller" {
		t.Errorf("invocation: %+v", r)
	}
	if r := caller.Post("/v1.0/state/store", `[{"key":"k","value":1}]`); r.Status != 204 {
		t.Errorf("state: %+v", r)
	}
	if err := callee.Stop(); err != nil {
		t.Fatal(err)
	}
	if r := caller.Get("/v1.0/invoke/callee/method/x"); r.Status != 500 {
		t.Errorf("after the callee has left: %+v", r)
	}
}

func TestAFailingStartIsReported(t *testing.T) {
	if _, err := sidecartest.TryStart(t, sidecartest.Resources(sidecartest.Component("x", "state.unknown"))); err == nil {
		t.Error("a sidecar with an unknown component started")
	}
}
