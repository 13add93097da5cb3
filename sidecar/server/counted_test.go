package server

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"outrigger.dev/api"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/metrics/metricstest"
	"outrigger.dev/telemetry/tracing"
)

// Requests count also when CORS, the token or the API refuse them, but not with bad baggage, which tracing refuses before.
func TestWhatIsCounted(t *testing.T) {
	m, err := metrics.New(metrics.Options{AppID: "a", Enabled: true, RecordErrorCodes: true, HTTP: metrics.HTTPOptions{IncreasedCardinality: true}})
	if err != nil {
		t.Fatal(err)
	}
	s := NewHTTP(HTTPOptions{
		Token: "secret", AllowedOrigins: "*", Tracer: tracing.PassThrough(), Metrics: m,
		Routes: []*api.Route{{Methods: []string{"GET", "POST"}, Path: "/v1.0/state/{storeName}", Handler: func(c *api.Call) error {
			if c.Method() == http.MethodPost {
				return &api.Error{HTTP: 400, Code: "ERR_STATE_GET", Category: api.CategoryState, Message: "no"}
			}
			c.NoContent()
			return nil
		}}},
	})
	send := func(method, path string, header ...string) {
		r := httptest.NewRequest(method, path, nil)
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		x := &h2Exchange{w: httptest.NewRecorder(), r: r, status: http.StatusOK}
		s.handle(x)
		x.finish()
	}
	token := []string{"Dapr-Api-Token", "secret"}
	send("GET", "/v1.0/state/st?metadata.x=y", token...)
	send("POST", "/v1.0/state/st", token...)
	send("GET", "/v1.0/state/st")
	send("OPTIONS", "/v1.0/state/st", "Origin", "https://a.example", "Access-Control-Request-Method", "GET")
	send("BREW", "/nowhere", token...)
	send("GET", "/v1.0/state/st", append(token, "Baggage", "=")...)
	got := metricstest.Counted(t, m, "dapr_http_server_request_count", "method", "path", "status")
	for series, want := range map[string]float64{
		"GET /v1.0/state/st 204": 1, "POST /v1.0/state/st 400": 1, "GET /v1.0/state/st 401": 1, "OPTIONS /v1.0/state/st 200": 1, "UNKNOWN /nowhere 404": 1,
	} {
		if got[series] != want {
			t.Errorf("%s: %v, want %v", series, got[series], want)
		}
		delete(got, series)
	}
	if len(got) > 0 {
		t.Errorf("counted too: %v", got)
	}
	if codes := metricstest.Counted(t, m, "dapr_error_code_total", "error_code", "category"); len(codes) != 1 || codes["ERR_STATE_GET state"] != 1 {
		t.Errorf("error codes: %v", codes)
	}
}
