package metrics

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"
)

func TestHTTPServer(t *testing.T) {
	m := mustNew(t, base())
	s := m.HTTPServer()
	s.Observe("GET", "/v1.0/state/s/key", 200, 2999*time.Microsecond, -1, 100)
	s.Observe("GET", "/v1.0/state/s/other", 200, 500*time.Microsecond, 20, 3)
	s.Observe("BREW", "/v1.0/metadata", 404, 0, 0, 0)
	const get, brew = `{app_id="myapp",method="GET",path="/v1.0/state/s",status="200"}`, `{app_id="myapp",method="UNKNOWN",path="/v1.0/metadata",status="404"}`
	wantLines(
		t, m,
		`dapr_http_server_request_count`+get+` 2`,
		`dapr_http_server_response_count`+get+` 2`,
		`dapr_http_server_latency_count`+get+` 2`,
		`dapr_http_server_latency_sum`+get+` 2`,
		`dapr_http_server_request_count`+brew+` 1`,
		`dapr_http_server_response_count`+brew+` 1`,
		`dapr_http_server_latency_count`+brew+` 1`,
		`dapr_http_server_latency_sum`+brew+` 0`,
		`dapr_http_server_request_bytes_count{app_id="myapp"} 2`,
		`dapr_http_server_request_bytes_sum{app_id="myapp"} 20`,
		`dapr_http_server_response_bytes_count{app_id="myapp"} 3`,
		`dapr_http_server_response_bytes_sum{app_id="myapp"} 103`,
	)
}

func TestHTTPServerLowCardinality(t *testing.T) {
	o := base()
	o.HTTP = HTTPOptions{ExcludeVerbs: true}
	m := mustNew(t, o)
	m.HTTPServer().Observe("GET", "/v1.0/state/s/key", 200, 0, -1, -1)
	m.HTTPServer().Observe("POST", "/v1.0/publish/p/t", 200, 0, -1, -1)
	m.HTTPServer().Observe("WHAT", "/healthz", 200, 0, -1, -1)
	const none, health = `{app_id="myapp",method="",path="",status="200"}`, `{app_id="myapp",method="",path="/healthz",status="200"}`
	wantLines(
		t, m,
		`dapr_http_server_request_count`+none+` 2`,
		`dapr_http_server_latency_count`+none+` 2`,
		`dapr_http_server_latency_sum`+none+` 0`,
		`dapr_http_server_request_count`+health+` 1`,
		`dapr_http_server_latency_count`+health+` 1`,
		`dapr_http_server_latency_sum`+health+` 0`,
	)
}

func TestHTTPClient(t *testing.T) {
	m := mustNew(t, base())
	m.HTTPClient().Observe("PUT", "actors/Cart/17/method/add", 200, 7*time.Millisecond, 5, 6)
	m.HTTPClient().Observe("POST", "/streamed", 500, 0, -1, -1)
	m.HTTPProbe().Observe(200, 3*time.Millisecond)
	m.HTTPProbe().Observe(0, time.Second)
	const put = `{app_id="myapp",method="PUT",path="actors/Cart/{id}/method/add",status=`
	const post = `{app_id="myapp",method="POST",path="/streamed",status=`
	wantLines(
		t, m,
		`dapr_http_client_completed_count`+put+`"200"} 1`,
		`dapr_http_client_roundtrip_latency_count`+put+`"200"} 1`,
		`dapr_http_client_roundtrip_latency_sum`+put+`"200"} 7`,
		`dapr_http_client_sent_bytes_count`+put+`""} 1`,
		`dapr_http_client_sent_bytes_sum`+put+`""} 5`,
		`dapr_http_client_completed_count`+post+`"500"} 1`,
		`dapr_http_client_roundtrip_latency_count`+post+`"500"} 1`,
		`dapr_http_client_roundtrip_latency_sum`+post+`"500"} 0`,
		`dapr_http_client_received_bytes_count{app_id="myapp"} 1`,
		`dapr_http_client_received_bytes_sum{app_id="myapp"} 6`,
		`dapr_http_healthprobes_completed_count{app_id="myapp",status="200"} 1`,
		`dapr_http_healthprobes_roundtrip_latency_count{app_id="myapp",status="200"} 1`,
		`dapr_http_healthprobes_roundtrip_latency_sum{app_id="myapp",status="200"} 3`,
		`dapr_http_healthprobes_completed_count{app_id="myapp",status="500"} 1`,
		`dapr_http_healthprobes_roundtrip_latency_count{app_id="myapp",status="500"} 1`,
		`dapr_http_healthprobes_roundtrip_latency_sum{app_id="myapp",status="500"} 1000`,
	)
}

func TestVerbs(t *testing.T) {
	for _, v := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"} {
		if verb(v) != v {
			t.Errorf("%s became %s", v, verb(v))
		}
	}
	for _, v := range []string{"", "get", "PROPFIND"} {
		if verb(v) != "UNKNOWN" {
			t.Errorf("%q became %s", v, verb(v))
		}
	}
}

// counts are the values of http_server_request_count by path.
func counts(t *testing.T, m *Metrics) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, line := range daprLines(t, m) {
		if rest, ok := strings.CutPrefix(line, `dapr_http_server_request_count{app_id="myapp",method="GET",path="`); ok {
			path, rest, _ := strings.Cut(rest, `"`)
			_, value, _ := strings.Cut(rest, "} ")
			out[path] = value
		}
	}
	return out
}

func TestPathsAreBounded(t *testing.T) {
	o := base()
	o.MaxSeries = 4
	m := mustNew(t, o)
	for range 2 {
		for i := range 10 {
			m.HTTPServer().Observe("GET", fmt.Sprintf("/p%d", i), 200, 0, -1, -1)
		}
	}
	m.HTTPServer().Observe("GET", "/p0", 500, 0, -1, -1) // a new status of a known path is still told apart
	got := fmt.Sprint(counts(t, m))
	if want := "map[:12 /p0:1 /p1:2 /p2:2 /p3:2]"; got != want {
		t.Errorf("got %s want %s (of /p0, the line with status 500 is the last)", got, want)
	}
	if want := `dapr_http_server_request_count{app_id="myapp",method="GET",path="/p0",status="200"} 2`; !slices.Contains(daprLines(t, m), want) {
		t.Errorf("%s is missing", want)
	}
}

func TestRuleThatFoldsPathsSavesTheBound(t *testing.T) {
	o := base()
	o.MaxSeries = 3
	for _, metric := range []string{"http_server_request_count", "http_server_response_count", "http_server_latency"} {
		o.Rules = append(o.Rules, Rule{Name: metric, Labels: []RuleLabel{{Name: "path", Regex: map[string]string{"/orders/N": `/orders/\d+`}}}})
	}
	m := mustNew(t, o)
	for i := range 10 {
		m.HTTPServer().Observe("GET", fmt.Sprintf("/orders/%d", i), 200, 0, -1, -1)
	}
	for _, p := range []string{"/a", "/b", "/c", "/d", "/a"} {
		m.HTTPServer().Observe("GET", p, 200, 0, -1, -1)
	}
	if got, want := fmt.Sprint(counts(t, m)), "map[:2 /a:2 /b:1 /orders/N:10]"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
}

// TestRuleOnOneMetric folds paths of one metric only: the others keep theirs.
func TestRuleOnOneMetric(t *testing.T) {
	o := base()
	o.Rules = []Rule{{Name: "dapr_http_server_latency", Labels: []RuleLabel{{Name: "path", Regex: map[string]string{"": ".*"}}}}}
	m := mustNew(t, o)
	m.HTTPServer().Observe("GET", "/a", 200, 0, -1, -1)
	m.HTTPServer().Observe("GET", "/b", 200, 0, -1, -1)
	if got, want := fmt.Sprint(counts(t, m)), "map[/a:1 /b:1]"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	if want := `dapr_http_server_latency_count{app_id="myapp",method="GET",path="",status="200"} 2`; !slices.Contains(daprLines(t, m), want) {
		t.Errorf("%s is missing in %v", want, daprLines(t, m))
	}
}

// TestRequestBuffersAreReused hands in strings that change afterwards, as strings that lie in a server's buffer do.
func TestRequestBuffersAreReused(t *testing.T) {
	m := mustNew(t, base())
	buf := []byte("GET/first")
	observe := func() {
		s := unsafe.String(&buf[0], len(buf))
		m.HTTPServer().Observe(s[:3], s[3:], 200, 0, -1, -1)
	}
	observe()
	copy(buf[3:], "/other")
	observe()
	copy(buf[3:], "/first")
	observe()
	if got, want := fmt.Sprint(counts(t, m)), "map[/first:2 /other:1]"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	o := base()
	o.HTTP.PathMatching = []string{"/orders/{id}"}
	m := mustNew(t, o)
	server, state := m.HTTPServer(), m.State()
	for _, path := range []string{"/v1.0/state/s/key", "/v1.0/publish/p/t", "/orders/17", "/v1.0/invoke/a/method/orders/1"} {
		if n := testing.AllocsPerRun(100, func() { server.Observe("GET", path, 200, time.Millisecond, 10, 10) }); n != 0 {
			t.Errorf("%s: %v allocations", path, n)
		}
	}
	if n := testing.AllocsPerRun(100, func() { server.Observe("GET", "/v1.0/actors/T/1/method/m", 200, 0, 1, 1) }); n > 1 {
		t.Errorf("actor path: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { state.Observe("s", "get", true, time.Millisecond) }); n != 0 {
		t.Errorf("state: %v allocations", n)
	}
}

func BenchmarkHTTPServer(b *testing.B) {
	o := base()
	o.HTTP.PathMatching = nil
	matching := base()
	matching.HTTP.PathMatching = []string{"/orders/{id}", "/orders/{id}/items", "/users/{id}"}
	for _, bb := range []struct {
		name, path string
		o          Options
	}{
		{"state", "/v1.0/state/store/key", o},
		{"invoke", "/v1.0/invoke/app/method/orders/17/items", o},
		{"actor", "/v1.0/actors/Cart/17/method/add", o},
		{"matched", "/v1.0/invoke/app/method/orders/17/items", matching},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s := mustNew(b, bb.o).HTTPServer()
			b.ReportAllocs()
			for b.Loop() {
				s.Observe("GET", bb.path, 200, 3*time.Millisecond, 1024, 2048)
			}
		})
	}
}

func BenchmarkHTTPServerParallel(b *testing.B) {
	s := mustNew(b, base()).HTTPServer()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.Observe("GET", "/v1.0/state/store/key", 200, 3*time.Millisecond, 1024, 2048)
		}
	})
}

func BenchmarkState(b *testing.B) {
	s := mustNew(b, base()).State()
	b.ReportAllocs()
	for b.Loop() {
		s.Observe("store", "get", true, 1500*time.Microsecond)
	}
}

// TestFamiliesOwnTheirKeys does the same with families whose keys hold strings.
func TestFamiliesOwnTheirKeys(t *testing.T) {
	m := mustNew(t, base())
	buf := []byte("app1")
	name := unsafe.String(&buf[0], len(buf))
	for _, last := range []byte("1213") {
		buf[3] = last
		m.Invocation().ReqRecv(name)
		m.Components().Init(name)
	}
	const recv, init = `dapr_runtime_service_invocation_req_recv_total{app_id="myapp",src_app_id=`, `dapr_runtime_component_init_total{app_id="myapp",component=`
	wantLines(
		t, m,
		recv+`"app1"} 2`, recv+`"app2"} 1`, recv+`"app3"} 1`,
		init+`"app1"} 2`, init+`"app2"} 1`, init+`"app3"} 1`,
	)
}
