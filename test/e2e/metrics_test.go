package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/test/servers"
)

// scrape reads the metrics as name{labels} and value.
func scrape(t *testing.T, d *daprd, port int) map[string]string {
	t.Helper()
	r, err := request(d.client, "GET", fmt.Sprintf("http://127.0.0.1:%d/any/path", port), nil)
	if err != nil || r.status != 200 || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") {
		t.Fatalf("scrape: %+v, %v", r.status, err)
	}
	series := map[string]string{}
	for line := range strings.Lines(r.body) {
		if i := strings.LastIndexByte(strings.TrimSpace(line), ' '); i > 0 && line[0] != '#' {
			series[line[:i]] = strings.TrimSpace(line[i:])
		}
	}
	return series
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	port := servers.FreePort(t)
	d := start(t, memory(), env("SECRET_OF_TEST=x", "NAMESPACE=ns"),
		resources(component("env", "secretstores.local.env"), componentWith("bad", "state.sqlite", "  ignoreErrors: true\n", "connectionString", "/no/such/folder/x.db")),
		appPort(app(t, echo)), config("spec:\n  metrics: {recordErrorCodes: true}\n"),
		args("--enable-metrics=true", "--metrics-port", strconv.Itoa(port), "--metrics-listen-address", "127.0.0.1"))
	d.awaitHealthy()
	before := scrape(t, d, port)
	for i := range 3 {
		d.post("/v1.0/state/st", fmt.Sprintf(`[{"key":"k%d","value":1}]`, i))
	}
	d.get("/v1.0/state/st/k1")
	d.get("/v1.0/state/none/k1")
	d.do("DELETE", "/v1.0/state/st/k1", "")
	d.get("/v1.0/secrets/env/SECRET_OF_TEST")
	d.post("/v1.0/invoke/app/method/x", "body")
	d.do("DELETE", "/nowhere", "")
	if _, err := d.dapr().GetState(within(t), &runtimev1.GetStateRequest{StoreName: "st", Key: "k2"}); err != nil {
		t.Fatal(err)
	}
	after := scrape(t, d, port)
	for series, want := range map[string]string{
		`dapr_http_server_request_count{app_id="app",method="POST",path="/v1.0/state/st",status="204"}`:                                            "3",
		`dapr_http_server_response_count{app_id="app",method="POST",path="/v1.0/state/st",status="204"}`:                                           "3",
		`dapr_http_server_latency_count{app_id="app",method="POST",path="/v1.0/state/st",status="204"}`:                                            "3",
		`dapr_http_server_request_count{app_id="app",method="GET",path="/v1.0/state/none",status="400"}`:                                           "1",
		`dapr_http_server_request_count{app_id="app",method="DELETE",path="/nowhere",status="404"}`:                                                "1",
		`dapr_component_state_count{app_id="app",component="st",namespace="ns",operation="set",success="true"}`:                                    "3",
		`dapr_component_state_count{app_id="app",component="st",namespace="ns",operation="get",success="true"}`:                                    "2",
		`dapr_component_state_count{app_id="app",component="st",namespace="ns",operation="delete",success="true"}`:                                 "1",
		`dapr_component_state_latencies_count{app_id="app",component="st",namespace="ns",operation="set",success="true"}`:                          "3",
		`dapr_component_secret_count{app_id="app",component="env",namespace="ns",operation="get",success="true"}`:                                  "1",
		`dapr_grpc_io_server_completed_rpcs{app_id="app",grpc_server_method="/dapr.proto.runtime.v1.Dapr/GetState",grpc_server_status="OK"}`:       "1",
		`dapr_grpc_io_server_server_latency_count{app_id="app",grpc_server_method="/dapr.proto.runtime.v1.Dapr/GetState",grpc_server_status="OK"}`: "1",
		`dapr_grpc_io_server_received_bytes_per_rpc_count{app_id="app",grpc_server_method="/dapr.proto.runtime.v1.Dapr/GetState"}`:                 "1",
		`dapr_http_client_completed_count{app_id="app",method="POST",path="/x",status="200"}`:                                                      "1",
		`dapr_runtime_component_loaded{app_id="app"}`:                                                                                              "2",
		`dapr_runtime_component_init_total{app_id="app",component="state.in-memory"}`:                                                              "1",
		`dapr_runtime_component_init_fail_total{app_id="app",component="state.sqlite",componentName="bad",reason="init"}`:                          "1",
		`dapr_error_code_total{app_id="app",category="state",error_code="ERR_STATE_STORE_NOT_FOUND"}`:                                              "1",
		`dapr_error_code_total{app_id="app",category="service-invocation",error_code="ERR_DIRECT_INVOKE"}`:                                         "1",
	} {
		if after[series] != want {
			t.Errorf("%s is %q, want %s", series, after[series], want)
		}
	}
	for _, prefix := range []string{"go_goroutines", "process_open_fds", `dapr_http_server_response_bytes_count{app_id="app"}`, `dapr_http_server_request_bytes_bucket{app_id="app",le="1024"}`} {
		if after[prefix] == "" {
			t.Errorf("no series %s", prefix)
		}
	}
	odd := regexp.MustCompile(`^(dapr|go|process|promhttp)_`)
	for series := range after {
		if !odd.MatchString(series) || strings.HasPrefix(series, "dapr_") && !strings.Contains(series, `app_id="app"`) {
			t.Errorf("odd series %s", series)
		}
	}
	for series := range before {
		if strings.Contains(series, `path="/v1.0/state`) {
			t.Errorf("%s before any traffic", series)
		}
	}
	d.stop()
}

func TestMetricsOff(t *testing.T) {
	t.Parallel()
	port := servers.FreePort(t)
	d := start(t, config("spec:\n  metrics: {enabled: false}\n"), args("--enable-metrics=true", "--metrics-port", strconv.Itoa(port), "--metrics-listen-address", "127.0.0.1"))
	d.get("/v1.0/metadata")
	series := scrape(t, d, port)
	if series["go_goroutines"] == "" {
		t.Error("the Go collector is missing")
	}
	for s := range series {
		if strings.HasPrefix(s, "dapr_") {
			t.Errorf("%s although the Configuration switches metrics off", s)
		}
	}
	off := servers.FreePort(t)
	none := start(t, args("--enable-metrics=false", "--metrics-port", strconv.Itoa(off)))
	if _, err := request(none.client, "GET", fmt.Sprintf("http://127.0.0.1:%d/", off), nil); err == nil {
		t.Error("--enable-metrics=false still serves metrics")
	}
}
