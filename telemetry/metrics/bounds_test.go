package metrics

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// wantSome looks for lines without minding others.
func wantSome(t *testing.T, m *Metrics, want ...string) {
	t.Helper()
	got := daprLines(t, m)
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s is missing", line)
		}
	}
	if t.Failed() {
		t.Logf("exposed\n  %s", strings.Join(got, "\n  "))
	}
}

// TestInventedNamesTakeNoRoom fills families with names that clients can invent, and then uses for the first time what exists.
func TestInventedNamesTakeNoRoom(t *testing.T) {
	o := base()
	o.MaxSeries = 10
	m := mustNew(t, o)
	for i := range 50 {
		m.OutputBindings().Refused(fmt.Sprintf("none%d", i), "create", time.Millisecond)
		m.GRPCServer().Observe(fmt.Sprintf("/invented/%d", i), codes.Unimplemented, time.Millisecond, -1, -1)
		m.GRPCClient().Observe(fmt.Sprintf("/invented/%d", i), codes.Unimplemented, time.Millisecond, -1, -1)
		m.PubSub().Published("broker", fmt.Sprintf("topic%d", i), true, time.Millisecond)
		m.PubSub().Delivered("broker", fmt.Sprintf("topic%d", i), Retried, Retried, time.Millisecond)
		m.PubSub().BulkDelivered("broker", fmt.Sprintf("topic%d", i), time.Millisecond)
		m.PubSub().BulkPublished("broker", fmt.Sprintf("topic%d", i), false, 0, time.Millisecond)
	}
	m.OutputBindings().Observe("mail", "create", true, time.Millisecond)
	m.GRPCServer().Observe("/dapr.proto.runtime.v1.Dapr/GetState", codes.OK, time.Millisecond, 1, 1)
	m.GRPCClient().Observe("/dapr.proto.runtime.v1.AppCallback/OnInvoke", codes.OK, time.Millisecond, 1, 1)
	const a, ns = `{app_id="myapp",`, `namespace="ns",`
	wantSome(
		t, m,
		`dapr_component_output_binding_count`+a+`component="mail",`+ns+`operation="create",success="true"} 1`,
		`dapr_component_output_binding_count`+a+`component="none0",`+ns+`operation="create",success="false"} 1`,
		`dapr_component_output_binding_count`+a+`component="",`+ns+`operation="",success="false"} 49`,
		`dapr_grpc_io_server_completed_rpcs`+a+`grpc_server_method="/dapr.proto.runtime.v1.Dapr/GetState",grpc_server_status="OK"} 1`,
		`dapr_grpc_io_server_completed_rpcs`+a+`grpc_server_method="",grpc_server_status="Unimplemented"} 40`,
		`dapr_grpc_io_client_completed_rpcs`+a+`grpc_client_method="/dapr.proto.runtime.v1.AppCallback/OnInvoke",grpc_client_status="OK"} 1`,
		`dapr_component_pubsub_egress_count`+a+`component="broker",`+ns+`success="true",topic="topic9"} 1`,
		`dapr_component_pubsub_egress_count`+a+`component="broker",`+ns+`success="true",topic=""} 40`,
		`dapr_component_pubsub_ingress_count`+a+`component="broker",`+ns+`process_status="retry",status="retry",topic=""} 40`,
		`dapr_component_pubsub_ingress_bulk_count`+a+`component="broker",`+ns+`topic=""} 40`,
		`dapr_component_pubsub_egress_bulk_count`+a+`component="broker",`+ns+`success="false",topic=""} 40`,
	)
}

// TestStatusesAreBounded has an app answer every path with another status.
func TestStatusesAreBounded(t *testing.T) {
	o := base()
	o.MaxSeries = 4
	m := mustNew(t, o)
	for status := 200; status < 300; status++ {
		m.HTTPClient().Observe("GET", "/p", status, 0, -1, -1)
	}
	lines := 0
	for _, line := range daprLines(t, m) {
		if strings.HasPrefix(line, `dapr_http_client_completed_count{app_id="myapp",method="GET",path="/p",`) {
			lines++
		}
	}
	if lines != seriesPerPath*4 {
		t.Errorf("%d series of one path, want %d", lines, seriesPerPath*4)
	}
	wantSome(t, m, `dapr_http_client_completed_count{app_id="myapp",method="GET",path="",status="299"} 1`)
}

// TestExpositionIsBounded publishes to more topics, asks for more bindings and calls more paths than anybody has.
func TestExpositionIsBounded(t *testing.T) {
	m := mustNew(t, base())
	for i := range 20 * DefaultMaxSeries {
		m.PubSub().Published("broker", fmt.Sprintf("a-topic-with-a-name-of-usual-length-%d", i), true, time.Millisecond)
		m.OutputBindings().Refused(fmt.Sprintf("binding%d", i), "create", time.Millisecond)
		m.HTTPServer().Observe("POST", fmt.Sprintf("/v1.0/invoke/app/method/orders/%d", i), 200, time.Millisecond, 10, 10)
	}
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	const most = 20 << 20
	if size := rec.Body.Len(); rec.Code != 200 || size > most {
		t.Errorf("status %d, %d bytes, want at most %d", rec.Code, size, most)
	}
}

// TestLongValuesAreCut uses names as long as requests may be, cut inside a character.
func TestLongValuesAreCut(t *testing.T) {
	m := mustNew(t, base())
	long := strings.Repeat("x", maxLabel-1) + strings.Repeat("ü", 1<<20)
	const want = "\uFFFD"
	cut := strings.Repeat("x", maxLabel-1) + want
	for range 3 {
		m.HTTPServer().Observe("GET", "/"+long, 200, time.Millisecond, 1, 1)
		m.OutputBindings().Refused("mail", long, time.Millisecond)
		m.PubSub().Published("broker", long, true, time.Millisecond)
		m.GRPCServer().Observe("/"+long, codes.OK, time.Millisecond, -1, -1)
		m.Invocation().ReqRecv(long)
		m.ErrorCode(long, long)
	}
	wantSome(
		t, m,
		`dapr_component_output_binding_count{app_id="myapp",component="mail",namespace="ns",operation="`+cut+`",success="false"} 3`,
		`dapr_component_pubsub_egress_count{app_id="myapp",component="broker",namespace="ns",success="true",topic="`+cut+`"} 3`,
		`dapr_runtime_service_invocation_req_recv_total{app_id="myapp",src_app_id="`+cut+`"} 3`,
		`dapr_http_server_request_count{app_id="myapp",method="GET",path="/`+strings.Repeat("x", maxLabel-1)+`",status="200"} 3`,
	)
	for _, line := range exposition(t, m) {
		if len(line) > 1024 {
			t.Fatalf("a line of %d bytes", len(line))
		}
	}
}

// slowReader is a client that does not take what it asked for, until it is let go.
type slowReader struct {
	*httptest.ResponseRecorder
	asked sync.Once
	begun *sync.WaitGroup
	hold  <-chan struct{}
}

func (w *slowReader) Write(p []byte) (int, error) {
	w.asked.Do(w.begun.Done)
	<-w.hold
	return len(p), nil
}

func TestScrapesAtATimeAreBounded(t *testing.T) {
	h := mustNew(t, base()).Handler()
	hold := make(chan struct{})
	var begun, ended sync.WaitGroup
	begun.Add(maxScrapes)
	for range maxScrapes {
		ended.Go(func() {
			h.ServeHTTP(&slowReader{ResponseRecorder: httptest.NewRecorder(), begun: &begun, hold: hold}, httptest.NewRequest("GET", "/", nil))
		})
	}
	begun.Wait()
	scrape := func() int {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		return rec.Code
	}
	if code := scrape(); code != 503 {
		t.Errorf("status %d of one too many", code)
	}
	close(hold)
	ended.Wait()
	if code := scrape(); code != 200 {
		t.Errorf("status %d afterwards", code)
	}
}

// TestRulesThatFoldTopicsSaveTheBound: what a rule makes one topic counts as one.
func TestRulesThatFoldTopicsSaveTheBound(t *testing.T) {
	o := base()
	o.MaxSeries = 3
	for _, metric := range []string{"egress", "egress_bulk", "ingress", "ingress_bulk"} {
		for _, kind := range []string{"count", "latencies", "event_count"} {
			o.Rules = append(o.Rules, Rule{Name: "component_pubsub_" + metric + "_" + kind, Labels: []RuleLabel{{Name: "topic", Regex: map[string]string{"orders-N": `orders-\d+`}}}})
		}
	}
	m := mustNew(t, o)
	observe := func(topic string) {
		m.PubSub().Published("b", topic, true, time.Millisecond)
		m.PubSub().BulkPublished("b", topic, true, 2, time.Millisecond)
		m.PubSub().Delivered("b", topic, Processed, Processed, time.Millisecond)
		m.PubSub().BulkDelivered("b", topic, time.Millisecond)
		m.PubSub().BulkEntries("b", topic, Processed, 2)
	}
	for i := range 10 {
		observe(fmt.Sprintf("orders-%d", i))
	}
	for _, topic := range []string{"x", "y", "z", "x"} {
		observe(topic)
	}
	const all = `{app_id="myapp",component="b",namespace="ns",`
	for topic, n := range map[string]int{"orders-N": 10, "x": 2, "y": 1, "": 1} {
		end := fmt.Sprintf(`topic=%q} `, topic)
		wantSome(
			t, m,
			"dapr_component_pubsub_egress_count"+all+`success="true",`+end+fmt.Sprint(n),
			"dapr_component_pubsub_egress_bulk_event_count"+all+`success="true",`+end+fmt.Sprint(2*n),
			"dapr_component_pubsub_ingress_count"+all+`process_status="success",status="success",`+end+fmt.Sprint(n),
			"dapr_component_pubsub_ingress_bulk_count"+all+end+fmt.Sprint(n),
			"dapr_component_pubsub_ingress_bulk_event_count"+all+`process_status="SUCCESS",`+end+fmt.Sprint(2*n),
		)
	}
}
