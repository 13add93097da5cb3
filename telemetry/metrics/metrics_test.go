package metrics

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// useAll touches every family once.
func useAll(m *Metrics) {
	m.HTTPServer().Observe("GET", "/v1.0/metadata", 200, time.Millisecond, 1, 2)
	m.HTTPClient().Observe("GET", "/x", 200, time.Millisecond, 1, 2)
	m.HTTPProbe().Observe(200, time.Millisecond)
	m.GRPCServer().Observe("/a.B/C", codes.OK, time.Millisecond, 1, 2)
	m.GRPCClient().Observe("/a.B/C", codes.OK, time.Millisecond, 1, 2)
	m.GRPCProbe().Observe(codes.OK, time.Millisecond)
	m.Invocation().ReqSent("other", false)
	m.Invocation().ReqRecv("other")
	m.Invocation().ResSent("other", 200)
	m.Invocation().ResRecv("other", 200, true, time.Millisecond)
	m.Components().Loaded()
	m.Components().Init("state.redis")
	m.Components().InitFailed("state.redis", ReasonInit, "store")
	m.State().Observe("store", "get", true, time.Millisecond)
	m.Secrets().Observe("vault", "get", true, time.Millisecond)
	m.OutputBindings().Observe("mail", "create", true, time.Millisecond)
	m.InputBindings().Observe("clock", true, time.Millisecond)
	m.OutputBindings().Refused("none", "create", time.Millisecond)
	m.PubSub().Published("broker", "topic", true, time.Millisecond)
	m.PubSub().BulkPublished("broker", "topic", true, 2, time.Millisecond)
	m.PubSub().Delivered("broker", "topic", Processed, Processed, time.Millisecond)
	m.PubSub().BulkDelivered("broker", "topic", time.Millisecond)
	m.PubSub().BulkEntries("broker", "topic", Processed, 2)
	m.Resiliency().Loaded("rules", "ns")
	m.Resiliency().Applied(ResiliencyTarget{Target: "app_x"}, PolicyRetry, "")
	m.Resiliency().Activated(ResiliencyTarget{Target: "app_x"}, PolicyRetry, "")
	m.Resiliency().BreakerState(ResiliencyTarget{Target: "app_x"}, "open")
	m.MTLS().Init()
	m.MTLS().InitFailed()
	m.MTLS().Rotated()
	m.MTLS().RotateFailed(ReasonSign)
	m.AccessControl().Observe("myapp", "public", "ns", true, true)
	m.Actors().Type("Cart").Pending(1)
	m.Actors().Type("Cart").Timers(1)
	m.Actors().Type("Cart").TimerFired(true)
	m.Actors().Type("Cart").ReminderFired(false)
	m.Actors().Type("Cart").Rebalanced()
	m.Actors().Type("Cart").Deactivated(true)
	m.Jobs().Triggered(true, time.Millisecond)
	m.ErrorCode("ERR_STATE_GET", "state")
}

func TestNilDoesNothing(t *testing.T) {
	var m *Metrics
	useAll(m)
	if m.Enabled() {
		t.Error("a nil Metrics says it is enabled")
	}
	if got := exposition(t, m); len(got) != 0 {
		t.Errorf("exposed %v", got)
	}
}

func TestDisabledExposesProcessOnly(t *testing.T) {
	o := base()
	o.Enabled = false
	o.RecordErrorCodes = true
	m := mustNew(t, o)
	useAll(m)
	wantLines(t, m)
	if m.Enabled() {
		t.Error("disabled metrics say they are enabled")
	}
	all := strings.Join(exposition(t, m), "\n")
	for _, name := range []string{"go_goroutines ", "process_start_time_seconds "} {
		if !strings.Contains(all, "\n"+name) {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestNothingBeforeTheFirstSample(t *testing.T) {
	m := mustNew(t, base())
	wantLines(t, m)
	if !m.Enabled() {
		t.Error("not enabled")
	}
}

func TestEveryDaprMetricHasAppID(t *testing.T) {
	o := base()
	o.RecordErrorCodes = true
	m := mustNew(t, o)
	useAll(m)
	lines := daprLines(t, m)
	if len(lines) < 40 {
		t.Fatalf("only %d lines", len(lines))
	}
	for _, line := range lines {
		if !strings.Contains(line, `app_id="myapp"`) {
			t.Errorf("no app_id: %s", line)
		}
	}
}

func TestTwoSidecarsDoNotMeet(t *testing.T) {
	a, b := mustNew(t, base()), mustNew(t, base())
	a.Components().Loaded()
	a.Components().Loaded()
	b.Components().Loaded()
	wantLines(t, a, `dapr_runtime_component_loaded{app_id="myapp"} 2`)
	wantLines(t, b, `dapr_runtime_component_loaded{app_id="myapp"} 1`)
}

func TestComponents(t *testing.T) {
	m := mustNew(t, base())
	m.Components().Loaded()
	m.Components().Init("state.redis")
	m.Components().Init("state.redis")
	m.Components().InitFailed("pubsub.kafka", ReasonInit, "bus")
	m.Components().InitFailed("nameResolution", ReasonCreation, "consul")
	wantLines(
		t, m,
		`dapr_runtime_component_loaded{app_id="myapp"} 1`,
		`dapr_runtime_component_init_total{app_id="myapp",component="state.redis"} 2`,
		`dapr_runtime_component_init_fail_total{app_id="myapp",component="pubsub.kafka",componentName="bus",reason="init"} 1`,
		`dapr_runtime_component_init_fail_total{app_id="myapp",component="nameResolution",componentName="consul",reason="creation"} 1`,
	)
}

func TestOperations(t *testing.T) {
	o := base()
	o.LatencyBuckets = []int{1, 2}
	m := mustNew(t, o)
	m.State().Observe("store", "get", true, 1500*time.Microsecond)
	m.State().Observe("store", "get", true, 250*time.Microsecond)
	m.State().Observe("store", "bulk_get", false, 0)
	m.Secrets().Observe("vault", "get", true, 2*time.Millisecond)
	state, secret := `{app_id="myapp",component="store",namespace="ns",operation=`, `{app_id="myapp",component="vault",namespace="ns",operation=`
	wantLines(
		t, m,
		`dapr_component_state_count`+state+`"get",success="true"} 2`,
		`dapr_component_state_count`+state+`"bulk_get",success="false"} 1`,
		`dapr_component_state_latencies_count`+state+`"get",success="true"} 2`,
		`dapr_component_state_latencies_sum`+state+`"get",success="true"} 1.75`,
		`dapr_component_state_latencies_count`+state+`"bulk_get",success="false"} 1`,
		`dapr_component_state_latencies_sum`+state+`"bulk_get",success="false"} 0`,
		`dapr_component_secret_count`+secret+`"get",success="true"} 1`,
		`dapr_component_secret_latencies_count`+secret+`"get",success="true"} 1`,
		`dapr_component_secret_latencies_sum`+secret+`"get",success="true"} 2`,
	)
	// Fractions count: 0.25 ms is within the first bucket, 1.5 ms is not.
	want := `dapr_component_state_latencies_bucket{app_id="myapp",component="store",namespace="ns",operation="get",success="true",le="1"} 1`
	if !slices.Contains(exposition(t, m), want) {
		t.Errorf("%s is missing", want)
	}
}

func TestNamespaceMayBeEmpty(t *testing.T) {
	o := base()
	o.Namespace = ""
	m := mustNew(t, o)
	m.State().Observe("s", "get", true, 0)
	if got := daprLines(t, m)[0]; got != `dapr_component_state_count{app_id="myapp",component="s",namespace="",operation="get",success="true"} 1` {
		t.Errorf("got %s", got)
	}
}

func TestInvocation(t *testing.T) {
	m := mustNew(t, base())
	i := m.Invocation()
	i.ReqSent("b", false)
	i.ReqSent("b", true)
	i.ReqSent("b", true)
	i.ReqRecv("c")
	i.ReqRecv("")
	i.ResSent("c", 404)
	i.ResSent("c", 0)
	i.ResRecv("b", 200, false, 1500*time.Microsecond)
	i.ResRecv("b", 200, true, time.Millisecond)
	i.ResRecv("b", -7, false, 0)
	const p = `dapr_runtime_service_invocation_`
	wantLines(
		t, m,
		p+`req_sent_total{app_id="myapp",dst_app_id="b",type="unary"} 1`,
		p+`req_sent_total{app_id="myapp",dst_app_id="b",type="streaming"} 2`,
		p+`req_recv_total{app_id="myapp",src_app_id="c"} 1`,
		p+`req_recv_total{app_id="myapp",src_app_id="unknown"} 1`,
		p+`res_sent_total{app_id="myapp",dst_app_id="c",status="404"} 1`,
		p+`res_sent_total{app_id="myapp",dst_app_id="c",status="0"} 1`,
		p+`res_recv_total{app_id="myapp",src_app_id="b",status="200",type="unary"} 1`,
		p+`res_recv_total{app_id="myapp",src_app_id="b",status="200",type="streaming"} 1`,
		p+`res_recv_total{app_id="myapp",src_app_id="b",status="0",type="unary"} 1`,
		p+`res_recv_latency_ms_count{app_id="myapp",src_app_id="b",status="200"} 2`,
		p+`res_recv_latency_ms_sum{app_id="myapp",src_app_id="b",status="200"} 2.5`,
		p+`res_recv_latency_ms_count{app_id="myapp",src_app_id="b",status="0"} 1`,
		p+`res_recv_latency_ms_sum{app_id="myapp",src_app_id="b",status="0"} 0`,
	)
}

func TestErrorCodes(t *testing.T) {
	m := mustNew(t, base())
	m.ErrorCode("ERR_STATE_GET", "state")
	wantLines(t, m) // not asked for

	o := base()
	o.RecordErrorCodes = true
	m = mustNew(t, o)
	m.ErrorCode("ERR_STATE_STORE_NOT_FOUND", "state")
	m.ErrorCode("ERR_STATE_STORE_NOT_FOUND", "state")
	m.ErrorCode("ERR_ACTOR_NO_PLACEMENT", "actor")
	wantLines(
		t, m,
		`dapr_error_code_total{app_id="myapp",category="state",error_code="ERR_STATE_STORE_NOT_FOUND"} 2`,
		`dapr_error_code_total{app_id="myapp",category="actor",error_code="ERR_ACTOR_NO_PLACEMENT"} 1`,
	)
}

func TestGRPC(t *testing.T) {
	m := mustNew(t, base())
	m.GRPCServer().Observe("/d.Dapr/GetState", codes.OK, 1999*time.Microsecond, 10, 2000)
	m.GRPCServer().Observe("/d.Dapr/Stream", codes.InvalidArgument, time.Millisecond, -1, -1)
	m.GRPCClient().Observe("/d.App/OnInvoke", codes.Code(4711), 3*time.Millisecond, 7, 9)
	m.GRPCProbe().Observe(codes.Unavailable, 5*time.Millisecond)
	m.GRPCProbe().Observe(codes.Code(4711), 0)
	const s, c, h = `dapr_grpc_io_server_`, `dapr_grpc_io_client_`, `dapr_grpc_io_healthprobes_`
	wantLines(
		t, m,
		s+`completed_rpcs{app_id="myapp",grpc_server_method="/d.Dapr/GetState",grpc_server_status="OK"} 1`,
		s+`completed_rpcs{app_id="myapp",grpc_server_method="/d.Dapr/Stream",grpc_server_status="InvalidArgument"} 1`,
		s+`server_latency_count{app_id="myapp",grpc_server_method="/d.Dapr/GetState",grpc_server_status="OK"} 1`,
		s+`server_latency_sum{app_id="myapp",grpc_server_method="/d.Dapr/GetState",grpc_server_status="OK"} 1`,
		s+`server_latency_count{app_id="myapp",grpc_server_method="/d.Dapr/Stream",grpc_server_status="InvalidArgument"} 1`,
		s+`server_latency_sum{app_id="myapp",grpc_server_method="/d.Dapr/Stream",grpc_server_status="InvalidArgument"} 1`,
		s+`received_bytes_per_rpc_count{app_id="myapp",grpc_server_method="/d.Dapr/GetState"} 1`,
		s+`received_bytes_per_rpc_sum{app_id="myapp",grpc_server_method="/d.Dapr/GetState"} 10`,
		s+`sent_bytes_per_rpc_count{app_id="myapp",grpc_server_method="/d.Dapr/GetState"} 1`,
		s+`sent_bytes_per_rpc_sum{app_id="myapp",grpc_server_method="/d.Dapr/GetState"} 2000`,
		c+`completed_rpcs{app_id="myapp",grpc_client_method="/d.App/OnInvoke",grpc_client_status="Unknown"} 1`,
		c+`roundtrip_latency_count{app_id="myapp",grpc_client_method="/d.App/OnInvoke",grpc_client_status="Unknown"} 1`,
		c+`roundtrip_latency_sum{app_id="myapp",grpc_client_method="/d.App/OnInvoke",grpc_client_status="Unknown"} 3`,
		c+`sent_bytes_per_rpc_count{app_id="myapp",grpc_client_method="/d.App/OnInvoke"} 1`,
		c+`sent_bytes_per_rpc_sum{app_id="myapp",grpc_client_method="/d.App/OnInvoke"} 7`,
		c+`received_bytes_per_rpc_count{app_id="myapp",grpc_client_method="/d.App/OnInvoke"} 1`,
		c+`received_bytes_per_rpc_sum{app_id="myapp",grpc_client_method="/d.App/OnInvoke"} 9`,
		h+`completed_count{app_id="myapp",grpc_client_status="Unavailable"} 1`,
		h+`roundtrip_latency_count{app_id="myapp",grpc_client_status="Unavailable"} 1`,
		h+`roundtrip_latency_sum{app_id="myapp",grpc_client_status="Unavailable"} 5`,
		h+`completed_count{app_id="myapp",grpc_client_status="Unknown"} 1`,
		h+`roundtrip_latency_count{app_id="myapp",grpc_client_status="Unknown"} 1`,
		h+`roundtrip_latency_sum{app_id="myapp",grpc_client_status="Unknown"} 0`,
	)
}

// bounds are the le labels of a histogram.
func bounds(t *testing.T, m *Metrics, histogram string) string {
	t.Helper()
	var out []string
	for _, line := range exposition(t, m) {
		if strings.HasPrefix(line, histogram+"_bucket{") {
			_, le, _ := strings.Cut(line, `le="`)
			le, _, _ = strings.Cut(le, `"`)
			out = append(out, le)
		}
	}
	return strings.Join(out, " ")
}

func TestBuckets(t *testing.T) {
	const sizes = "1024 2048 4096 16384 65536 262144 1.048576e+06 4.194304e+06 1.6777216e+07 6.7108864e+07 2.68435456e+08 1.073741824e+09 4.294967296e+09 +Inf"
	tests := []struct {
		configured []int
		latency    string
	}{
		{nil, "1 2 3 4 5 6 8 10 13 16 20 25 30 40 50 65 80 100 130 160 200 250 300 400 500 650 800 1000 2000 5000 10000 20000 50000 100000 +Inf"},
		{[]int{10, 5, 10, 500}, "5 10 500 +Inf"},
	}
	for _, tt := range tests {
		o := base()
		o.LatencyBuckets = tt.configured
		m := mustNew(t, o)
		useAll(m)
		for _, name := range []string{"dapr_http_server_latency", "dapr_component_state_latencies", "dapr_grpc_io_client_roundtrip_latency"} {
			if got := bounds(t, m, name); got != tt.latency {
				t.Errorf("%v: %s has buckets %s", tt.configured, name, got)
			}
		}
		for _, name := range []string{"dapr_http_server_request_bytes", "dapr_http_client_sent_bytes", "dapr_grpc_io_server_sent_bytes_per_rpc"} {
			if got := bounds(t, m, name); got != sizes {
				t.Errorf("%s has buckets %s", name, got)
			}
		}
	}
	o := base()
	o.LatencyBuckets = []int{1, -2}
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "latencyDistributionBuckets has -2") {
		t.Errorf("got %v", err)
	}
}

func TestRules(t *testing.T) {
	rule := func(metric, label, to, from string) Rule {
		return Rule{Name: metric, Labels: []RuleLabel{{Name: label, Regex: map[string]string{to: from}}}}
	}
	o := base()
	o.RecordErrorCodes = true
	o.Rules = []Rule{
		rule("dapr_runtime_service_invocation_req_sent_total", "dst_app_id", "$1-x", `^(\w+)-\d+$`),
		rule("runtime_service_invocation_req_recv_total", "app_id", "APP", `my`),
		rule("grpc.io_server_completed_rpcs", "grpc_server_method", "/M", `/[A-Z]\w+$`),
		rule("dapr_component_state_count", "namespace", "", `n`),
		{Name: "error_code_total", Labels: []RuleLabel{{Name: "error_code", Regex: map[string]string{"2": "1", "3": "2"}}}},
		rule("no_such_metric", "a", "b", "c"),
	}
	m := mustNew(t, o)
	m.Invocation().ReqSent("shop-17", false)
	m.Invocation().ReqSent("shop-18", false)
	m.Invocation().ReqRecv("a")
	m.GRPCServer().Observe("/p.S/Get", codes.OK, 0, -1, -1)
	m.GRPCServer().Observe("/p.S/Set", codes.OK, 0, -1, -1)
	m.State().Observe("s", "get", true, 0)
	m.ErrorCode("1", "c")
	got := daprLines(t, m)
	for _, want := range []string{
		`dapr_runtime_service_invocation_req_sent_total{app_id="myapp",dst_app_id="shop-x",type="unary"} 2`,
		`dapr_runtime_service_invocation_req_recv_total{app_id="APPapp",src_app_id="a"} 1`,
		`dapr_grpc_io_server_completed_rpcs{app_id="myapp",grpc_server_method="/p.S/M",grpc_server_status="OK"} 2`,
		`dapr_grpc_io_server_server_latency_count{app_id="myapp",grpc_server_method="/p.S/Get",grpc_server_status="OK"} 1`,
		`dapr_component_state_count{app_id="myapp",component="s",namespace="s",operation="get",success="true"} 1`,
		`dapr_component_state_latencies_count{app_id="myapp",component="s",namespace="ns",operation="get",success="true"} 1`,
		`dapr_error_code_total{app_id="myapp",category="c",error_code="3"} 1`,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("missing %s in\n%s", want, strings.Join(got, "\n"))
		}
	}
}

func TestBadRuleDisablesAll(t *testing.T) {
	var log bytes.Buffer
	o := base()
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	o.Rules = []Rule{
		{Name: "http_server_request_count", Labels: []RuleLabel{{Name: "path", Regex: map[string]string{"x": "a"}}}},
		{Name: "dapr_http_server_latency", Labels: []RuleLabel{{Name: "path", Regex: map[string]string{"x": "(oops"}}}},
	}
	m := mustNew(t, o)
	m.HTTPServer().Observe("GET", "/a", 200, 0, -1, -1)
	if want := `dapr_http_server_request_count{app_id="myapp",method="GET",path="/a",status="200"} 1`; !slices.Contains(daprLines(t, m), want) {
		t.Errorf("a rule was applied: %v", daprLines(t, m))
	}
	for _, want := range []string{"level=ERROR", "(oops", "dapr_http_server_latency", "path"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log: %s", want, log.String())
		}
	}
}

func TestSeriesAreBounded(t *testing.T) {
	o := base()
	o.MaxSeries = 3
	m := mustNew(t, o)
	for range 2 {
		for _, app := range []string{"a", "b", "c", "d", "e", "f"} {
			m.Invocation().ReqSent(app, false)
		}
	}
	m.Invocation().ReqSent("g", true)
	const p = `dapr_runtime_service_invocation_req_sent_total{app_id="myapp",dst_app_id=`
	wantLines(
		t, m,
		p+`"a",type="unary"} 2`, p+`"b",type="unary"} 2`, p+`"c",type="unary"} 2`,
		p+`"",type="unary"} 6`, p+`"",type="streaming"} 1`,
	)
}

func TestLabelValuesAreMadeUTF8(t *testing.T) {
	m := mustNew(t, base())
	m.Invocation().ReqRecv("a\xffb")
	wantLines(t, m, `dapr_runtime_service_invocation_req_recv_total{app_id="myapp",src_app_id="a`+"\uFFFD"+`b"} 1`)
}
