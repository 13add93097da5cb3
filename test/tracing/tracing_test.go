// Package tracing_test follows calls through real sidecars into real collectors: what arrives there is what is asserted.
package tracing_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
	"outrigger.dev/telemetry/tracing"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// patience bounds waiting for what must happen.
const patience = 20 * time.Second

// Kinds of spans as OTLP numbers them.
const (
	server   = 2
	client   = 3
	producer = 4
)

// trace is a trace from outside: the traceparent that an app sends, and its IDs.
type trace struct{ id, span, parent string }

func newTrace(n int) trace {
	t := trace{id: fmt.Sprintf("%032x", 0xa000000000000000+uint64(n)), span: fmt.Sprintf("%016x", 0xb000000000000000+uint64(n))}
	t.id = fmt.Sprintf("%016x", uint64(time.Now().UnixNano())) + t.id[16:]
	t.parent = "00-" + t.id + "-" + t.span + "-01"
	return t
}

// request is what an app got.
type request struct {
	path   string
	header http.Header
	body   string
}

// app is an HTTP app that remembers what it gets. Paths that start with /fail fail.
type app struct {
	*sidecartest.App
	requests chan request
}

func newApp(t *testing.T) *app {
	a := &app{requests: make(chan request, 100)}
	a.App = sidecartest.NewApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/dapr/subscribe":
			_, _ = io.WriteString(w, `[{"pubsubname":"ps","topic":"orders","route":"/orders"},{"pubsubname":"ps","topic":"many","route":"/many","bulkSubscribe":{"enabled":true,"maxMessagesCount":2,"maxAwaitDurationMs":500}}]`)
			return
		case r.Method == http.MethodOptions, strings.HasPrefix(r.URL.Path, "/dapr/"):
			if r.URL.Path != "/tick" {
				http.NotFound(w, r)
			}
			return
		case strings.HasPrefix(r.URL.Path, "/fail"):
			w.WriteHeader(http.StatusTeapot)
		}
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/many" {
			var bulk struct{ Entries []struct{ EntryID string } }
			_ = json.Unmarshal(body, &bulk)
			for i, e := range bulk.Entries {
				fmt.Fprintf(w, `%s{"entryId":%q,"status":"SUCCESS"}`, [...]string{`{"statuses":[`, ","}[min(i, 1)], e.EntryID)
			}
			_, _ = io.WriteString(w, "]}")
		}
		a.requests <- request{r.URL.Path, r.Header, string(body)}
	}))
	return a
}

// next is the next request for a path; others are passed over.
func (a *app) next(t *testing.T, path string) request {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case r := <-a.requests:
			if r.path == path {
				return r
			}
		case <-deadline:
			t.Fatalf("the app was not called at %s within %s", path, patience)
		}
	}
}

// spans waits until n spans of a trace have arrived.
func spans(t *testing.T, collector *servers.OTelServer, id string, n int) []servers.OTelSpan {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		found := collector.Trace(id)
		if len(found) >= n {
			if len(found) > n {
				t.Errorf("trace %s has %d spans, want %d: %+v", id, len(found), n, found)
			}
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d spans of trace %s arrived, want %d: %+v", len(found), id, n, found)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// want is what a span must be.
type want struct {
	name, service, parent string
	kind                  int
	failure               string // the status message; "" for no error
	attributes            map[string]string
}

// expect finds the span of a name and service and compares it. Attributes about the connection are taken for granted.
func expect(t *testing.T, found []servers.OTelSpan, w want) servers.OTelSpan {
	t.Helper()
	i := slices.IndexFunc(found, func(s servers.OTelSpan) bool {
		return s.Name == w.name && s.Service == w.service && (w.parent == "" || s.ParentSpanID == w.parent)
	})
	if i < 0 {
		t.Fatalf("there is no span %q of %s below %s among %+v", w.name, w.service, w.parent, found)
	}
	s := found[i]
	code := 0
	if w.failure != "" {
		code = 2
	}
	if s.Kind != w.kind || s.StatusCode != code || s.StatusMessage != w.failure || s.Scope != tracing.Name {
		t.Errorf("span %q: kind %d, status %d %q, scope %q, want kind %d, status %d %q", w.name, s.Kind, s.StatusCode, s.StatusMessage, s.Scope, w.kind, code, w.failure)
	}
	got := maps.Clone(s.Attributes)
	if host, port := got["server.address"], got["server.port"]; got["dapr.protocol"] == "http" && (host != "127.0.0.1" || port == "") {
		t.Errorf("span %q: the client is %q port %q", w.name, host, port)
	}
	delete(got, "server.address")
	delete(got, "server.port")
	if !maps.Equal(got, w.attributes) {
		t.Errorf("span %q has the attributes\n%v, want\n%v", w.name, got, w.attributes)
	}
	return s
}

// parentOf is the traceparent that names a span.
func parentOf(s servers.OTelSpan) string { return "00-" + s.TraceID + "-" + s.SpanID + "-01" }

// rpcApp is a gRPC app that remembers the metadata of its calls.
type rpcApp struct {
	testpb.UnimplementedTestServiceServer
	runtimev1.UnimplementedAppCallbackServer
	port int
	seen chan metadata.MD
}

func newRPCApp(t *testing.T) *rpcApp {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &rpcApp{port: l.Addr().(*net.TCPAddr).Port, seen: make(chan metadata.MD, 10)}
	s := grpc.NewServer()
	testpb.RegisterTestServiceServer(s, a)
	runtimev1.RegisterAppCallbackServer(s, a)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return a
}

func (a *rpcApp) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	a.seen <- md
	return nil, status.Error(codes.NotFound, "not here")
}

func (a *rpcApp) OnInvoke(ctx context.Context, _ *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	a.seen <- md
	return &commonv1.InvokeResponse{}, nil
}

// checkMetadata holds the metadata that an app got against a span.
func checkMetadata(t *testing.T, md metadata.MD, s servers.OTelSpan) {
	t.Helper()
	c, _ := tracing.ParseParent(parentOf(s))
	if !slices.Equal(md.Get("traceparent"), []string{parentOf(s)}) || !slices.Equal(md.Get("grpc-trace-bin"), []string{c.Binary()}) {
		t.Errorf("the app got %v, want the span %s", md, parentOf(s))
	}
}

// house is two sidecars whose spans go to a collector: front, without an app, and back.
type house struct {
	collector   *servers.OTelServer
	front, back *sidecartest.Sidecar
	app         *app
	// network and config are for further sidecars.
	network *sidecartest.Network
	config  sidecartest.Option
}

func newHouse(t *testing.T) *house {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20") // ms
	h := &house{collector: servers.OTelCollector(t), app: newApp(t)}
	config := sidecartest.Config(fmt.Sprintf(`
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: traced}
spec:
  tracing:
    samplingRate: "1"
    otel: {endpointAddress: %q, protocol: grpc, isSecure: false}
`, h.collector.Addr))
	resources := sidecartest.Resources(
		sidecartest.Component("store", "state.in-memory"), sidecartest.Component("ps", "pubsub.in-memory"),
		sidecartest.Component("out", "bindings.http", "url", h.app.URL), sidecartest.Component("vault", "secretstores.local.env"),
		sidecartest.Component("tick", "bindings.cron", "schedule", "@every 1s", "direction", "input"),
	)
	network := sidecartest.NewNetwork()
	h.network, h.config = network, config
	h.back = sidecartest.Start(t, network.Join("back"), sidecartest.WithApp(h.app.App), config, resources)
	h.front = sidecartest.Start(t, network.Join("front"), config)
	h.back.WaitHealthy()
	return h
}

func TestSpans(t *testing.T) {
	h := newHouse(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()

	t.Run("invocation", func(t *testing.T) {
		from := newTrace(1)
		r := h.front.Get("/v1.0/invoke/back/method/a/b?q=1", "Traceparent", from.parent, "Tracestate", "vendor=value", "Dapr-Mine", "yes", "Baggage", "k=v")
		if r.Status != 200 {
			t.Fatalf("%d %s", r.Status, r.Body)
		}
		got := h.app.next(t, "/a/b")
		found := spans(t, h.collector, from.id, 2)
		api := expect(t, found, want{"CallLocal/back/a/b", "front", from.span, client, "", map[string]string{
			"dapr.protocol": "http", "dapr.api": "GET /v1.0/invoke/back/method/a/b", "dapr.status_code": "200", "http.request.method": "GET", "url.full": "/v1.0/invoke/back/method/a/b?q=1",
			"rpc.service": "ServiceInvocation", "net.peer.name": "back", "dapr-mine": "yes",
		}})
		called := expect(t, found, want{"CallLocal/back/a/b", "back", api.SpanID, server, "", map[string]string{"rpc.service": "ServiceInvocation", "dapr.invoke_method": "a/b"}})
		if r.Header.Get("Traceparent") != parentOf(api) || r.Header.Get("Tracestate") != "vendor=value" || r.Header.Get("Baggage") != "k=v" {
			t.Errorf("the reply has %v, want the span %s", r.Header, parentOf(api))
		}
		if got.header.Get("Traceparent") != parentOf(called) || got.header.Get("Tracestate") != "vendor=value" || got.header.Get("Baggage") != "k=v" || len(got.header["Traceparent"]) != 1 {
			t.Errorf("the app got %v, want the span %s", got.header, parentOf(called))
		}
	})

	t.Run("invocation that fails", func(t *testing.T) {
		from := newTrace(2)
		h.front.Get("/v1.0/invoke/back/method/fail", "Traceparent", from.parent)
		found := spans(t, h.collector, from.id, 2)
		api := expect(t, found, want{"CallLocal/back/fail", "front", from.span, client, "Code(418): I'm a teapot", map[string]string{
			"dapr.protocol": "http", "dapr.api": "GET /v1.0/invoke/back/method/fail", "dapr.status_code": "418", "http.request.method": "GET", "url.full": "/v1.0/invoke/back/method/fail",
			"rpc.service": "ServiceInvocation", "net.peer.name": "back",
		}})
		expect(t, found, want{"CallLocal/back/fail", "back", api.SpanID, server, "", map[string]string{"rpc.service": "ServiceInvocation", "dapr.invoke_method": "fail"}})
	})

	t.Run("invocation by gRPC", func(t *testing.T) {
		from := newTrace(3)
		parent, _ := tracing.ParseParent(from.parent)
		var header metadata.MD
		_, err := h.front.Dapr().InvokeService(metadata.AppendToOutgoingContext(ctx, "grpc-trace-bin", parent.Binary(), "dapr-mine", "yes"), &runtimev1.InvokeServiceRequest{
			Id: "back", Message: &commonv1.InvokeRequest{Method: "rpc", Data: &anypb.Any{}, HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET}},
		}, grpc.Header(&header))
		if err != nil {
			t.Fatal(err)
		}
		got := h.app.next(t, "/rpc")
		found := spans(t, h.collector, from.id, 2)
		api := expect(t, found, want{"CallLocal/back/rpc", "front", from.span, client, "", map[string]string{
			"dapr.protocol": "grpc", "dapr.api": runtimev1.Dapr_InvokeService_FullMethodName, "rpc.service": "ServiceInvocation", "net.peer.name": "back", "dapr-mine": "yes",
		}})
		called := expect(t, found, want{"CallLocal/back/rpc", "back", api.SpanID, server, "", map[string]string{"rpc.service": "ServiceInvocation", "dapr.invoke_method": "rpc"}})
		if got.header.Get("Traceparent") != parentOf(called) {
			t.Errorf("the app got %v, want the span %s", got.header, parentOf(called))
		}
		c, _ := tracing.ParseParent(parentOf(api))
		if !slices.Equal(header.Get("traceparent"), []string{parentOf(api)}) || !slices.Equal(header.Get("grpc-trace-bin"), []string{c.Binary()}) {
			t.Errorf("the header of the answer is %v, want the span %s", header, parentOf(api))
		}
	})

	t.Run("gRPC app", func(t *testing.T) {
		app := newRPCApp(t)
		sidecartest.Start(t, h.network.Join("rpc"), h.config, sidecartest.With(func(o *sidecar.Options) { o.AppProtocol, o.AppPort = "grpc", app.port })).WaitHealthy()
		from := newTrace(8)
		if r := h.front.Post("/v1.0/invoke/rpc/method/m", "{}", "Traceparent", from.parent); r.Status != 200 {
			t.Fatalf("%d %s", r.Status, r.Body)
		}
		found := spans(t, h.collector, from.id, 2)
		i := slices.IndexFunc(found, func(s servers.OTelSpan) bool { return s.Kind == server })
		checkMetadata(t, <-app.seen, found[max(i, 0)])

		const method = testpb.TestService_UnaryCall_FullMethodName
		from = newTrace(9)
		_, err := testpb.NewTestServiceClient(h.front.Conn()).UnaryCall(metadata.AppendToOutgoingContext(ctx, "dapr-app-id", "rpc", "traceparent", from.parent), &testpb.SimpleRequest{})
		if status.Code(err) != codes.NotFound {
			t.Fatal(err)
		}
		found = spans(t, h.collector, from.id, 2)
		api := expect(t, found, want{method, "front", from.span, client, "not here", map[string]string{"dapr.protocol": "grpc", "dapr.api": method, "dapr-app-id": "rpc"}})
		called := expect(t, found, want{method, "rpc", api.SpanID, server, "not here", map[string]string{}})
		checkMetadata(t, <-app.seen, called)
	})

	t.Run("state and secrets", func(t *testing.T) {
		from := newTrace(4)
		h.back.Post("/v1.0/state/store", `[{"key":"k","value":1}]`, "Traceparent", from.parent)
		h.back.Get("/v1.0/state/none/k", "Traceparent", from.parent)
		grpcCtx := metadata.AppendToOutgoingContext(ctx, "traceparent", from.parent, "dapr-api-token", "secret")
		var header metadata.MD
		if _, err := h.back.Dapr().GetState(grpcCtx, &runtimev1.GetStateRequest{StoreName: "store", Key: "k"}, grpc.Header(&header)); err != nil {
			t.Fatal(err)
		}
		_, failure := h.back.Dapr().GetSecret(grpcCtx, &runtimev1.GetSecretRequest{StoreName: "novault", Key: "k"})
		h.back.Get("/v1.0/healthz", "Traceparent", from.parent) // not traced
		found := spans(t, h.collector, from.id, 4)
		database := func(system, name, statement string, more ...string) map[string]string {
			m := map[string]string{"db.system": system, "db.connection_string": system, "db.name": name, "db.statement": statement}
			for pair := range slices.Chunk(more, 2) {
				m[pair[0]] = pair[1]
			}
			return m
		}
		expect(t, found, want{"/v1.0/state/store", "back", from.span, client, "", database("state", "store", "POST /v1.0/state/store",
			"dapr.protocol", "http", "dapr.api", "POST /v1.0/state/store", "dapr.status_code", "204", "http.request.method", "POST", "url.full", "/v1.0/state/store")})
		expect(t, found, want{"/v1.0/state/none/k", "back", from.span, client, "Code(400): Bad Request", database("state", "none", "GET /v1.0/state/none/k",
			"dapr.protocol", "http", "dapr.api", "GET /v1.0/state/none/k", "dapr.status_code", "400", "http.request.method", "GET", "url.full", "/v1.0/state/none/k")})
		get := expect(t, found, want{runtimev1.Dapr_GetState_FullMethodName, "back", from.span, client, "", database("state", "store", runtimev1.Dapr_GetState_FullMethodName,
			"dapr.protocol", "grpc", "dapr.api", runtimev1.Dapr_GetState_FullMethodName, "rpc.service", "Dapr")})
		if c, _ := tracing.ParseParent(parentOf(get)); !slices.Equal(header.Get("grpc-trace-bin"), []string{c.Binary()}) {
			t.Errorf("the header of the answer is %v, want the span %s", header, parentOf(get))
		}
		_, message, _ := strings.Cut(failure.Error(), "desc = ")
		expect(t, found, want{runtimev1.Dapr_GetSecret_FullMethodName, "back", from.span, client, message, database("secrets", "novault", runtimev1.Dapr_GetSecret_FullMethodName,
			"dapr.protocol", "grpc", "dapr.api", runtimev1.Dapr_GetSecret_FullMethodName, "rpc.service", "Dapr")})
	})

	t.Run("publish and deliver", func(t *testing.T) {
		from := newTrace(5)
		if r := h.back.Post("/v1.0/publish/ps/orders", `{"n":1}`, "Traceparent", from.parent, "Tracestate", "vendor=value"); r.Status != 204 {
			t.Fatalf("%d %s", r.Status, r.Body)
		}
		got := h.app.next(t, "/orders")
		found := spans(t, h.collector, from.id, 2)
		published := expect(t, found, want{"/v1.0/publish/ps/orders", "back", from.span, client, "", map[string]string{
			"dapr.protocol": "http", "dapr.api": "POST /v1.0/publish/ps/orders", "dapr.status_code": "204", "http.request.method": "POST", "url.full": "/v1.0/publish/ps/orders",
			"messaging.system": "pubsub", "messaging.destination.name": "orders",
		}})
		delivered := expect(t, found, want{"pubsub/orders", "back", published.SpanID, client, "", map[string]string{"messaging.system": "pubsub", "messaging.destination.name": "orders"}})
		var event map[string]any
		if err := json.Unmarshal([]byte(got.body), &event); err != nil {
			t.Fatal(err)
		}
		if event["traceparent"] != parentOf(published) || event["traceid"] != parentOf(published) || event["tracestate"] != "vendor=value" {
			t.Errorf("the event is %s, want the span %s", got.body, parentOf(published))
		}
		if got.header.Get("Traceparent") != parentOf(delivered) || got.header.Get("Tracestate") != "vendor=value" {
			t.Errorf("the app got %v, want the span %s", got.header, parentOf(delivered))
		}
	})

	t.Run("bulk", func(t *testing.T) {
		from := newTrace(6)
		grpcCtx := metadata.AppendToOutgoingContext(ctx, "traceparent", from.parent)
		_, err := h.back.Dapr().BulkPublishEvent(grpcCtx, &runtimev1.BulkPublishRequest{PubsubName: "ps", Topic: "many", Entries: []*runtimev1.BulkPublishRequestEntry{
			{EntryId: "1", Event: []byte("a"), ContentType: "text/plain"}, {EntryId: "2", Event: []byte("b"), ContentType: "text/plain"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		var bulks []request
		var bodies string
		for strings.Count(bodies, `"data":`) < 2 { // the entries may come apart
			bulks = append(bulks, h.app.next(t, "/many"))
			bodies += bulks[len(bulks)-1].body
		}
		found := spans(t, h.collector, from.id, 5)
		attributes := map[string]string{"messaging.system": "pubsub", "messaging.destination.name": "many"}
		call := expect(t, found, want{runtimev1.Dapr_BulkPublishEvent_FullMethodName, "back", from.span, client, "", map[string]string{
			"dapr.protocol": "grpc", "dapr.api": runtimev1.Dapr_BulkPublishEvent_FullMethodName, "rpc.service": "Dapr", "messaging.system": "pubsub", "messaging.destination.name": "many",
		}})
		parents := map[string]bool{}
		for _, s := range found {
			if s.Kind == producer {
				expect(t, []servers.OTelSpan{s}, want{runtimev1.Dapr_BulkPublishEvent_FullMethodName + "/", "back", call.SpanID, producer, "", attributes})
				parents[parentOf(s)] = true
				delivered := expect(t, found, want{"pubsub/many", "back", s.SpanID, client, "", attributes})
				parents[parentOf(delivered)] = false
			}
		}
		if len(parents) != 4 {
			t.Errorf("the entries and their deliveries have %d spans, want 4", len(parents))
		}
		for _, got := range bulks {
			if published, ok := parents[got.header.Get("Traceparent")]; !ok || published {
				t.Errorf("the app got %v, want the span of a delivery", got.header)
			}
		}
		for parent, published := range parents {
			if published && !strings.Contains(bodies, parent) {
				t.Errorf("no event of %s carries %s", bodies, parent)
			}
		}
	})

	t.Run("bindings", func(t *testing.T) {
		from := newTrace(7)
		if r := h.back.Post("/v1.0/bindings/out", `{"operation":"get","metadata":{"path":"/bound","traceparent":"own"}}`, "Traceparent", from.parent, "Baggage", "k=v"); r.Status != 200 {
			t.Fatalf("%d %s", r.Status, r.Body)
		}
		got := h.app.next(t, "/bound")
		bound := expect(t, spans(t, h.collector, from.id, 1), want{"/v1.0/bindings/out", "back", from.span, client, "", map[string]string{
			"dapr.protocol": "http", "dapr.api": "POST /v1.0/bindings/out", "dapr.status_code": "200", "http.request.method": "POST", "url.full": "/v1.0/bindings/out",
			"db.system": "bindings", "db.connection_string": "bindings", "db.name": "out", "db.statement": "POST /v1.0/bindings/out",
		}})
		if got.header.Get("Traceparent") != parentOf(bound) || got.header.Get("Baggage") != "k=v" {
			t.Errorf("the endpoint got %v, want the span %s", got.header, parentOf(bound))
		}
		tick := h.app.next(t, "/tick")
		event, ok := tracing.ParseParent(tick.header.Get("Traceparent"))
		if !ok {
			t.Fatalf("the event has no trace: %v", tick.header)
		}
		expect(t, spans(t, h.collector, event.TraceID.String(), 1), want{"bindings/tick", "back", "", client, "", map[string]string{
			"rpc.service": "Dapr", "db.system": "bindings", "db.name": "tick", "db.connection_string": "POST /tick",
		}})
	})
}

// A trace that nobody wants recorded has its spans' identities all the same, and none of them arrives.
func TestUnsampled(t *testing.T) {
	h := newHouse(t)
	from := newTrace(20)
	off := strings.TrimSuffix(from.parent, "01") + "00"
	r := h.front.Get("/v1.0/invoke/back/method/quiet", "Traceparent", off)
	got := h.app.next(t, "/quiet")
	answered, ok := tracing.ParseParent(r.Header.Get("Traceparent"))
	seen, ok2 := tracing.ParseParent(got.header.Get("Traceparent"))
	if !ok || !ok2 || answered.TraceID.String() != from.id || seen.TraceID != answered.TraceID || answered.SpanID == seen.SpanID || seen.Sampled() || answered.Sampled() || answered.SpanID.String() == from.span {
		t.Errorf("%s became %s in the reply and %s at the app", off, answered.Parent(), seen.Parent())
	}
	marker := newTrace(21)
	h.front.Get("/v1.0/invoke/back/method/loud", "Traceparent", marker.parent)
	spans(t, h.collector, marker.id, 2)
	if found := h.collector.Trace(from.id); len(found) > 0 {
		t.Errorf("spans of an unsampled trace arrived: %+v", found)
	}
}

// By default contexts pass through as they came, and with the rate 0 nothing is touched.
func TestModes(t *testing.T) {
	a := newApp(t)
	ps := sidecartest.Resources(sidecartest.Component("ps", "pubsub.in-memory"))
	config := func(rate string) sidecartest.Option {
		return sidecartest.Config("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec: {tracing: {samplingRate: \"" + rate + "\"}}\n")
	}
	for name, test := range map[string]struct {
		option                 sidecartest.Option
		reply, app, own, event bool // has the context; it is a span of the sidecar
		checked                bool // the baggage
	}{
		"default":      {config(""), true, true, false, true, true},
		"off":          {config("0"), false, true, false, false, false},
		"spans":        {config("1"), true, true, true, true, true},
		"spans of few": {config("0.000001"), true, true, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			network := sidecartest.NewNetwork()
			back := sidecartest.Start(t, network.Join("back"), sidecartest.WithApp(a.App), test.option, ps)
			front := sidecartest.Start(t, network.Join("front"), test.option)
			back.WaitHealthy()
			from := newTrace(30)
			r := front.Get("/v1.0/invoke/back/method/x", "Traceparent", from.parent, "Tracestate", "a=b")
			got := a.next(t, "/x")
			check := func(where, parent string, present bool) {
				t.Helper()
				switch {
				case !present && parent == "":
				case present && !test.own && parent == from.parent:
				case present && test.own && strings.HasPrefix(parent, "00-"+from.id) && parent != from.parent:
				default:
					t.Errorf("%s has %q of %q", where, parent, from.parent)
				}
			}
			check("the reply", r.Header.Get("Traceparent"), test.reply)
			check("the app", got.header.Get("Traceparent"), test.app)
			if got.header.Get("Tracestate") != "a=b" {
				t.Errorf("the app got the tracestate %q", got.header.Get("Tracestate"))
			}
			back.Post("/v1.0/publish/ps/orders", `1`, "Traceparent", from.parent)
			var event struct{ TraceParent string }
			if err := json.Unmarshal([]byte(a.next(t, "/orders").body), &event); err != nil {
				t.Fatal(err)
			}
			check("the event", event.TraceParent, test.event)
			if r := front.Get("/v1.0/metadata", "Baggage", "no value"); (r.Status == 400) != test.checked {
				t.Errorf("a malformed baggage is answered with %d %s", r.Status, r.Body)
			}
			if r := front.Get("/v1.0/metadata"); (r.Header.Get("Traceparent") != "") != test.own {
				t.Errorf("a request without a trace is answered with %v", r.Header)
			}
			long := strings.Repeat("a", 250)
			state := "x=" + long + ",y=" + long + ",z=" + long
			r = front.Get("/v1.0/metadata", "Traceparent", from.parent, "Tracestate", state)
			if r.Header.Get("Tracestate") != "" || (r.Header.Get("Traceparent") != "") != test.reply {
				t.Errorf("a long tracestate is answered with %v", r.Header)
			}
			front.Get("/v1.0/invoke/back/method/long", "Traceparent", from.parent, "Tracestate", state)
			if got := a.next(t, "/long"); got.header.Get("Tracestate") != state {
				t.Errorf("the app got the tracestate %q", got.header.Get("Tracestate"))
			}
		})
	}
}

// A collector that never answers neither slows calls nor makes the end of the sidecar an abrupt one.
func TestCollectorHangs(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	l, err := net.Listen("tcp", "127.0.0.1:0") // which nobody accepts from
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, exporter := range []string{
		"zipkin: {endpointAddress: \"http://" + l.Addr().String() + "/api/v2/spans\"}",
		"otel: {protocol: grpc, isSecure: false, endpointAddress: \"" + l.Addr().String() + "\"}",
		"otel: {protocol: http, isSecure: false, endpointAddress: \"" + l.Addr().String() + "\"}",
	} {
		s := sidecartest.Start(t, sidecartest.Config("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec: {tracing: {samplingRate: \"1\", "+exporter+"}}\n"),
			sidecartest.With(func(o *sidecar.Options) { o.GracefulShutdown = 4 * time.Second }))
		for range 100 {
			start := time.Now()
			if r := s.Get("/v1.0/metadata"); r.Status != 200 || time.Since(start) > 5*time.Second {
				t.Fatalf("%s: %d after %s", exporter, r.Status, time.Since(start))
			}
		}
		start := time.Now()
		if err := s.Stop(); err != nil || time.Since(start) > 4*time.Second {
			t.Errorf("%s: stopping took %s: %v", exporter, time.Since(start), err)
		}
		if !strings.Contains(s.Log.String(), "spans cannot be sent to ") {
			t.Errorf("%s: the log says nothing of it:\n%s", exporter, s.Log)
		}
	}
}

// What the environment and a Configuration get wrong keeps the sidecar from starting, with the reason.
func TestMistakes(t *testing.T) {
	_, err := sidecartest.TryStart(t, sidecartest.Config("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec: {tracing: {otel: {endpointAddress: \"c:1\", protocol: udp}}}\n"))
	if err == nil || !strings.Contains(err.Error(), "invalid protocol udp provided for Otel endpoint") {
		t.Errorf("the error is %v", err)
	}
}

// Zipkin gets the same spans.
func TestZipkin(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	z := servers.Zipkin(t)
	a := newApp(t)
	config := sidecartest.Config("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec: {tracing: {samplingRate: \"1\", zipkin: {endpointAddress: \"" + z.Endpoint + "\"}}}\n")
	network := sidecartest.NewNetwork()
	sidecartest.Start(t, network.Join("back"), sidecartest.WithApp(a.App), config).WaitHealthy()
	front := sidecartest.Start(t, network.Join("front"), config)
	from := newTrace(40)
	front.Get("/v1.0/invoke/back/method/fail", "Traceparent", from.parent)
	var found []servers.ZipkinSpan
	for deadline := time.Now().Add(patience); len(found) < 2; {
		if time.Now().After(deadline) {
			t.Fatalf("only %+v arrived", found)
		}
		time.Sleep(10 * time.Millisecond)
		found = z.Trace(t.Context(), from.id)
	}
	slices.SortFunc(found, func(a, b servers.ZipkinSpan) int { return strings.Compare(a.Kind, b.Kind) })
	c, s := found[0], found[1]
	if c.Kind != "CLIENT" || c.ParentID != from.span || c.LocalEndpoint.ServiceName != "front" || c.RemoteEndpoint.ServiceName != "back" || c.Tags["error"] != "Code(418): I'm a teapot" || c.Tags["dapr.status_code"] != "418" {
		t.Errorf("the caller's span is %+v", c)
	}
	if s.Kind != "SERVER" || s.ParentID != c.ID || s.LocalEndpoint.ServiceName != "back" || s.Tags["dapr.invoke_method"] != "fail" {
		t.Errorf("the callee's span is %+v", s)
	}
}
