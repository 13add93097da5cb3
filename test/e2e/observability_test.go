package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app/apptest"
	"outrigger.dev/test/servers"
)

// metricTable are the metrics of the parts that exist: name, kind (C counter, H histogram of latencies, S histogram of sizes, G
// gauge) and labels but for app_id, which all have. Those marked * need certificates, and are not driven here.
const metricTable = `
http_server_request_count C method path status
http_server_response_count C method path status
http_server_latency H method path status
http_server_request_bytes S
http_server_response_bytes S
http_client_sent_bytes S method path status
http_client_completed_count C method path status
http_client_roundtrip_latency H method path status
http_client_received_bytes S
http_healthprobes_completed_count C status
http_healthprobes_roundtrip_latency H status
grpc_io_server_completed_rpcs C grpc_server_method grpc_server_status
grpc_io_server_server_latency H grpc_server_method grpc_server_status
grpc_io_server_received_bytes_per_rpc S grpc_server_method
grpc_io_server_sent_bytes_per_rpc S grpc_server_method
grpc_io_client_completed_rpcs C grpc_client_method grpc_client_status
grpc_io_client_roundtrip_latency H grpc_client_method grpc_client_status
grpc_io_client_sent_bytes_per_rpc S grpc_client_method
grpc_io_client_received_bytes_per_rpc S grpc_client_method
grpc_io_healthprobes_completed_count C grpc_client_status
grpc_io_healthprobes_roundtrip_latency H grpc_client_status
runtime_component_loaded C
runtime_component_init_total C component
runtime_component_init_fail_total C component componentName reason
runtime_mtls_init_total* C
runtime_mtls_init_fail_total* C
runtime_mtls_workload_cert_rotated_total* C
runtime_mtls_workload_cert_rotated_fail_total* C reason
runtime_acl_app_policy_action_allowed_total* C namespace trustDomain
runtime_acl_app_policy_action_blocked_total* C namespace trustDomain
runtime_acl_global_policy_action_allowed_total C namespace trustDomain
runtime_acl_global_policy_action_blocked_total C namespace trustDomain
runtime_service_invocation_req_sent_total C dst_app_id type
runtime_service_invocation_req_recv_total C src_app_id
runtime_service_invocation_res_sent_total C dst_app_id status
runtime_service_invocation_res_recv_total C src_app_id status type
runtime_service_invocation_res_recv_latency_ms H src_app_id status
component_pubsub_ingress_count C component namespace process_status status topic
component_pubsub_ingress_latencies H component namespace process_status status topic
component_pubsub_ingress_bulk_count C component namespace topic
component_pubsub_ingress_bulk_latencies H component namespace topic
component_pubsub_ingress_bulk_event_count C component namespace process_status topic
component_pubsub_egress_count C component namespace success topic
component_pubsub_egress_latencies H component namespace success topic
component_pubsub_egress_bulk_count C component namespace success topic
component_pubsub_egress_bulk_latencies H component namespace success topic
component_pubsub_egress_bulk_event_count C component namespace success topic
component_input_binding_count C component namespace success
component_input_binding_latencies H component namespace success
component_output_binding_count C component namespace operation success
component_output_binding_latencies H component namespace operation success
component_state_count C component namespace operation success
component_state_latencies H component namespace operation success
component_secret_count C component namespace operation success
component_secret_latencies H component namespace operation success
resiliency_loaded C name namespace
resiliency_count C flow_direction name namespace policy status target
resiliency_activations_total C flow_direction name namespace policy status target
resiliency_cb_state G flow_direction name namespace policy status target
error_code_total C category error_code
`

// metric is a metric as the table has it, or as it is exposed.
type metric struct{ kind, labels string }

// exposed reads the metrics of an exposition that begin with dapr_, without that, and their series.
func exposed(t *testing.T, text string) (found map[string]metric, series []string) {
	t.Helper()
	found = map[string]metric{}
	kinds := map[string]string{}
	line := regexp.MustCompile(`^dapr_([a-z0-9_]+)\{(.*)\} [0-9.e+-]+$`)
	label := regexp.MustCompile(`([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"`)
	bounds := map[string][]string{}
	for l := range strings.Lines(text) {
		l = strings.TrimSuffix(l, "\n")
		if rest, ok := strings.CutPrefix(l, "# TYPE dapr_"); ok {
			name, kind, _ := strings.Cut(rest, " ")
			kinds[name] = kind
			continue
		}
		m := line.FindStringSubmatch(l)
		if m == nil {
			if strings.HasPrefix(l, "dapr_") {
				t.Errorf("odd line %s", l)
			}
			continue
		}
		series = append(series, l)
		name := m[1]
		if kinds[name] == "" {
			name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		}
		var labels []string
		id := false
		for _, pair := range label.FindAllStringSubmatch(m[2], -1) {
			switch pair[1] {
			case "le":
				if !slices.Contains(bounds[name], pair[2]) {
					bounds[name] = append(bounds[name], pair[2])
				}
			case "app_id":
				id = true
			default:
				labels = append(labels, pair[1])
			}
		}
		if !id {
			t.Errorf("no app_id in %s", l)
		}
		slices.Sort(labels)
		kind := map[string]string{"counter": "C", "gauge": "G", "histogram": strings.Join(bounds[name], " ")}[kinds[name]]
		now := metric{kind, strings.Join(labels, " ")}
		if before, ok := found[name]; ok && before.labels != now.labels {
			t.Errorf("%s has the labels %s and %s", name, before.labels, now.labels)
		}
		found[name] = now
	}
	const latencies = "1 2 3 4 5 6 8 10 13 16 20 25 30 40 50 65 80 100 130 160 200 250 300 400 500 650 800 1000 2000 5000 10000 20000 50000 100000 +Inf"
	const sizes = "1024 2048 4096 16384 65536 262144 1.048576e+06 4.194304e+06 1.6777216e+07 6.7108864e+07 2.68435456e+08 1.073741824e+09 4.294967296e+09 +Inf"
	for name, m := range found {
		switch m.kind {
		case latencies:
			m.kind = "H"
		case sizes:
			m.kind = "S"
		}
		found[name] = m
	}
	return found, series
}

// TestMetricsOfEverything has three sidecars do what they can, and compares all that they count with the table.
func TestMetricsOfEverything(t *testing.T) {
	t.Parallel()
	names := filepath.Join(t.TempDir(), "names.db")
	ports := map[string]int{}
	common := func(id, more string) option {
		ports[id] = servers.FreePort(t)
		return func(s *setup) {
			for _, o := range []option{
				appID(id), env("SECRET_OF_TEST=x", "NAMESPACE=ns"),
				config(fmt.Sprintf("spec:\n  metrics: {recordErrorCodes: true}\n  nameResolution: {component: sqlite, version: v1, configuration: {connectionString: %q}}\n%s", names, more)),
				args("--enable-metrics=true", "--metrics-port", strconv.Itoa(ports[id]), "--metrics-listen-address", "127.0.0.1"),
			} {
				o(s)
			}
		}
	}
	const list = "  accessControl:\n    defaultAction: %s\n    policies:\n    - {appId: someone, trustDomain: public, namespace: ns, defaultAction: deny}\n"
	everyApp := func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/flaky":
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/bulk":
			var bulk struct{ Entries []struct{ EntryID string } }
			if err := json.NewDecoder(r.Body).Decode(&bulk); err != nil {
				http.Error(w, err.Error(), 400)
				return
			}
			type verdict struct {
				EntryID string `json:"entryId"`
				Status  string `json:"status"`
			}
			var reply struct {
				Statuses []verdict `json:"statuses"`
			}
			for _, e := range bulk.Entries {
				reply.Statuses = append(reply.Statuses, verdict{e.EntryID, "SUCCESS"})
			}
			_ = json.NewEncoder(w).Encode(reply)
		default:
			echo(w, r)
		}
	}
	subscription := func(topic, more string) string {
		return "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: " + topic + "}\nspec:\n  pubsubname: broker\n  topic: " + topic + "\n  routes: {default: /" + topic + "}\n" + more
	}
	back := start(t, common("back", fmt.Sprintf(list, "allow")), appPort(app(t, everyApp)))
	locked := start(t, common("locked", fmt.Sprintf(list, "deny")), appPort(app(t, everyApp)))
	rpcApp := &apptest.Callbacks{
		Invoke: func(context.Context, *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
			return &commonv1.InvokeResponse{}, nil
		},
		Health: func() error { return nil },
		InputBindings: func(context.Context) (*runtimev1.ListInputBindingsResponse, error) {
			return &runtimev1.ListInputBindingsResponse{Bindings: []string{"tick"}}, nil
		},
		BindingEvent: func(context.Context, *runtimev1.BindingEventRequest) (*runtimev1.BindingEventResponse, error) {
			return &runtimev1.BindingEventResponse{}, nil
		},
	}
	rpc := start(t, common("rpc", ""), appPort(apptest.ServeGRPC(t, "", rpcApp)), args("--app-protocol", "grpc", "--enable-app-health-check"),
		resources(component("tick", "bindings.cron", "schedule", "@every 1s")))
	front := start(t, common("front", ""), memory(), appPort(app(t, everyApp)), args("--enable-app-health-check"),
		resources(component("env", "secretstores.local.env"), component("broker", "pubsub.in-memory"), component("tick", "bindings.cron", "schedule", "@every 1s"),
			component("files", "bindings.localstorage", "rootPath", t.TempDir()),
			componentWith("bad", "state.sqlite", "  ignoreErrors: true\n", "connectionString", "/no/such/folder/x.db"),
			subscription("one", ""), subscription("bulk", "  bulkSubscribe: {enabled: true, maxAwaitDurationMs: 10}\n"),
			`
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: rules, namespace: ns}
spec:
  policies:
    retries: {often: {policy: constant, duration: 1ms, maxRetries: 2}}
    timeouts: {long: 20s}
    circuitBreakers: {fuse: {maxRequests: 1, timeout: 60s, trip: consecutiveFailures >= 6}}
  targets:
    apps: {back: {retry: often, timeout: long, circuitBreaker: fuse}}
    components: {st: {outbound: {retry: often}}}
`))
	for _, d := range []*daprd{back, locked, rpc, front} {
		d.awaitHealthy()
	}
	front.await("the app to be healthy and the others to be found", func() bool {
		return front.get("/v1.0/invoke/front/method/x").status == 200 && front.get("/v1.0/invoke/back/method/x").status == 200 &&
			front.post("/v1.0/invoke/rpc/method/x", "b").status == 200
	})
	front.post("/v1.0/state/st", `[{"key":"k","value":1}]`)
	front.get("/v1.0/state/st/k")
	front.get("/v1.0/state/none/k")
	front.get("/v1.0/secrets/env/SECRET_OF_TEST")
	front.post("/v1.0/publish/broker/one", `{"n":1}`)
	front.post("/v1.0/publish/bulk/broker/bulk", `[{"entryId":"a","event":"x","contentType":"text/plain"},{"entryId":"b","event":"y","contentType":"text/plain"}]`)
	front.post("/v1.0/bindings/files", `{"operation":"create","data":"x","metadata":{"fileName":"f"}}`)
	front.post("/v1.0/bindings/none", `{"operation":"create"}`)
	for range 2 { // three attempts each: the sixth failure opens the breaker
		if r := front.get("/v1.0/invoke/back/method/flaky"); r.status != 503 {
			t.Errorf("flaky: %+v", r)
		}
	}
	front.get("/v1.0/invoke/back/method/flaky").isError(t, 500, "ERR_DIRECT_INVOKE", "circuit breaker is open")
	front.get("/v1.0/invoke/locked/method/x").isError(t, 403, "ERR_DIRECT_INVOKE", "access control policy has denied access")
	if _, err := front.dapr().GetState(within(t), &runtimev1.GetStateRequest{StoreName: "st", Key: "k"}); err != nil {
		t.Error(err)
	}
	// The app does not have the method, which is an answer too.
	if err := front.grpc().Invoke(metadata.AppendToOutgoingContext(within(t), "dapr-app-id", "rpc"), "/my.Service/Method", &emptypb.Empty{}, &emptypb.Empty{}); err == nil {
		t.Error("no error of a method that does not exist")
	}

	want, elsewhere := map[string]metric{}, map[string]bool{}
	for row := range strings.Lines(strings.TrimSpace(metricTable)) {
		fields := strings.Fields(row)
		name, marked := strings.CutSuffix(fields[0], "*")
		elsewhere[name] = marked
		want[name] = metric{fields[1], strings.Join(fields[2:], " ")}
	}
	wanted := []string{
		`dapr_http_client_sent_bytes_count{app_id="back",method="GET",path="/flaky",status=""} 6`,
		`dapr_http_client_completed_count{app_id="back",method="GET",path="/flaky",status="503"} 6`,
		`dapr_http_healthprobes_completed_count{app_id="front",status="200"} `,
		`dapr_grpc_io_healthprobes_completed_count{app_id="rpc",grpc_client_status="OK"} `,
		`dapr_grpc_io_server_completed_rpcs{app_id="front",grpc_server_method="/dapr.proto.runtime.v1.Dapr/GetState",grpc_server_status="OK"} 1`,
		`dapr_grpc_io_server_completed_rpcs{app_id="front",grpc_server_method="/my.Service/Method",grpc_server_status="Unimplemented"} 1`,
		`dapr_grpc_io_client_completed_rpcs{app_id="rpc",grpc_client_method="/my.Service/Method",grpc_client_status="Unimplemented"} 1`,
		`dapr_grpc_io_client_completed_rpcs{app_id="rpc",grpc_client_method="/dapr.proto.runtime.v1.AppCallback/OnInvoke",grpc_client_status="OK"} `,
		`dapr_grpc_io_server_completed_rpcs{app_id="rpc",grpc_server_method="/dapr.proto.runtime.v1.AppCallback/OnBindingEvent",grpc_server_status="OK"} `,
		`dapr_runtime_component_loaded{app_id="front"} 5`,
		`dapr_runtime_component_init_fail_total{app_id="front",component="state.sqlite",componentName="bad",reason="init"} 1`,
		`dapr_runtime_acl_global_policy_action_allowed_total{app_id="",namespace="",trustDomain=""} `,
		`dapr_runtime_acl_global_policy_action_blocked_total{app_id="",namespace="",trustDomain=""} 1`,
		`dapr_runtime_service_invocation_req_sent_total{app_id="front",dst_app_id="locked",type="unary"} 1`,
		`dapr_runtime_service_invocation_req_recv_total{app_id="locked",src_app_id="front"} 1`,
		`dapr_runtime_service_invocation_res_sent_total{app_id="locked",dst_app_id="front",status="7"} 1`,
		`dapr_runtime_service_invocation_res_recv_total{app_id="front",src_app_id="back",status="503",type="unary"} 6`,
		`dapr_component_pubsub_egress_count{app_id="front",component="broker",namespace="ns",success="true",topic="one"} 1`,
		`dapr_component_pubsub_ingress_count{app_id="front",component="broker",namespace="ns",process_status="success",status="success",topic="one"} 1`,
		`dapr_component_pubsub_ingress_bulk_event_count{app_id="front",component="broker",namespace="ns",process_status="SUCCESS",topic="bulk"} 2`,
		`dapr_component_pubsub_egress_bulk_count{app_id="front",component="broker",namespace="ns",success="true",topic="bulk"} 1`,
		`dapr_component_input_binding_count{app_id="front",component="tick",namespace="ns",success="true"} `,
		`dapr_component_output_binding_count{app_id="front",component="files",namespace="ns",operation="create",success="true"} 1`,
		`dapr_component_output_binding_count{app_id="front",component="none",namespace="ns",operation="create",success="false"} 1`,
		`dapr_component_secret_count{app_id="front",component="env",namespace="ns",operation="get",success="true"} 1`,
		`dapr_resiliency_loaded{app_id="front",name="rules",namespace="ns"} 1`,
		`dapr_resiliency_count{app_id="front",flow_direction="outbound",name="rules",namespace="ns",policy="retry",status="",target="Statestore_st"} 3`,
		`dapr_resiliency_activations_total{app_id="front",flow_direction="outbound",name="rules",namespace="ns",policy="retry",status="",target="app_back"} 2`,
		`dapr_resiliency_activations_total{app_id="front",flow_direction="outbound",name="rules",namespace="ns",policy="circuitbreaker",status="open",target="app_back"} 1`,
		`dapr_resiliency_cb_state{app_id="front",flow_direction="outbound",name="rules",namespace="ns",policy="circuitbreaker",status="open",target="app_back"} 1`,
		`dapr_resiliency_cb_state{app_id="front",flow_direction="outbound",name="rules",namespace="ns",policy="circuitbreaker",status="closed",target="app_back"} 0`,
		`dapr_error_code_total{app_id="front",category="state",error_code="ERR_STATE_STORE_NOT_FOUND"} 1`,
		`dapr_error_code_total{app_id="front",category="binding",error_code="ERR_INVOKE_OUTPUT_BINDING"} 1`,
	}
	var series, missing []string
	wrong := map[string]metric{}
	gather := func() (complete bool) {
		got := map[string]bool{}
		series, missing = nil, nil
		for _, id := range sorted(ports) {
			r, err := request(front.client, "GET", fmt.Sprintf("http://127.0.0.1:%d/metrics", ports[id]), nil)
			if err != nil || r.status != 200 {
				t.Fatalf("%s: %+v, %v", id, r.status, err)
			}
			found, lines := exposed(t, r.body)
			series = append(series, lines...)
			for name, m := range found {
				if got[name] = true; m != want[name] {
					wrong[name] = m
				}
			}
		}
		for name := range want {
			if !got[name] && !elsewhere[name] {
				missing = append(missing, name)
			}
		}
		for _, w := range wanted {
			if !slices.ContainsFunc(series, func(l string) bool { return l == w || strings.HasSuffix(w, " ") && strings.HasPrefix(l, w) }) {
				missing = append(missing, w)
			}
		}
		return len(missing) == 0
	}
	if !holdsWithin(limit, gather) {
		slices.Sort(missing)
		for _, m := range missing {
			name, _, _ := strings.Cut(m, "{")
			t.Errorf("%s is not exposed, but\n  %s", m, strings.Join(slices.DeleteFunc(slices.Clone(series), func(l string) bool { return !strings.HasPrefix(l, name+"{") }), "\n  "))
		}
	}
	for name, m := range wrong {
		t.Errorf("%s is %v, want %v", name, m, want[name])
	}
	for _, d := range []*daprd{front, rpc, locked, back} {
		d.stop()
	}
}
