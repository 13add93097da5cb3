package mesh_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/sidecar/sidecartest"
)

// lies are what a client says that it must not be believed in, under every spelling.
var lies = [][2]string{
	{"dapr-caller-app-id", "admin"},
	{"Dapr-Caller-App-Id", "root"},
	{"DAPR-CALLER-APP-ID", "web"},
	{"dapr-caller-namespace", "kube-system"},
	{"Dapr-Caller-Namespace", "prod"},
	{"dapr-callee-app-id", "bank"},
	{"Dapr-Callee-App-Id", "vault"},
	{"destination-app-id", "bank"},
	{"x-forwarded-for", "6.6.6.6"},
	{"X-Forwarded-Host", "evil"},
	{"forwarded", "for=6.6.6.6;host=evil"},
	{"traceparent", "00-zz-\xc3\xa9-99-garbage"},
	{"tracestate", "=,=,,=;"},
	{"grpc-trace-bin", "AAAA"},
}

// lower is the lies as metadata.
func lower() (pairs []string) {
	for _, lie := range lies {
		value := lie[1]
		if strings.HasPrefix(value, "00-") {
			value = "00-garbage" // no metadata otherwise
		}
		pairs = append(pairs, strings.ToLower(lie[0]), value)
	}
	return pairs
}

// honest checks what an HTTP app or a gRPC app is told about its caller.
func honest(t *testing.T, what string, header map[string][]string, caller string, namespaced bool) {
	t.Helper()
	h := http.Header(header)
	if got := values(h, "dapr-caller-app-id"); !slices.Equal(got, []string{caller}) {
		t.Errorf("%s: the caller is %q", what, got)
	}
	want := []string{"default"}
	if !namespaced {
		want = nil
	}
	if got := values(h, "dapr-caller-namespace"); !slices.Equal(got, want) {
		t.Errorf("%s: the caller's namespace is %q", what, got)
	}
	if got := values(h, "destination-app-id"); len(got) != 0 && namespaced { // nothing to sidecars that proxy
		t.Errorf("%s: the destination is %q", what, got)
	}
	if got := values(h, "traceparent"); strings.HasPrefix(what, "traced") && (len(got) != 1 || !strings.HasPrefix(got[0], "00-") || len(got[0]) != 55) {
		t.Errorf("%s: the traceparent is %q", what, got)
	}
}

// Clients of the APIs cannot say for whom they call, or who they are; what they say of those before them stands before what
// the sidecar says of itself.
func TestSpoofedHeaders(t *testing.T) {
	t.Parallel()
	for _, config := range []struct{ name, text string }{
		{"plain", "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\n"},
		{"traced", "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec: {tracing: {samplingRate: \"1\"}}\n"},
	} {
		t.Run(config.name, func(t *testing.T) {
			t.Parallel()
			network := sidecartest.NewNetwork()
			m := newMansion(t, network, sidecartest.Config(config.text))
			caller := sidecartest.Start(t, network.Join("caller"), m.member(), sidecartest.Config(config.text))

			lines := ""
			for _, lie := range lies {
				lines += lie[0] + ": " + lie[1] + "\r\n"
			}
			for what, from := range map[string]*sidecartest.Sidecar{"HTTP API": caller, "HTTP API, own app": m.web} {
				resp, body, err := raw(t, from.HTTPAddress(), "GET /v1.0/invoke/web/method/m HTTP/1.1\r\nHost: x\r\n"+lines+"Connection: close\r\n\r\n")
				if err != nil || resp.StatusCode != 200 {
					t.Fatalf("%s: %v %v %s", what, err, resp, body)
				}
				got := m.app.one(t)
				if from == m.web {
					if n := values(got.header, "dapr-caller-app-id"); len(n) != 0 {
						t.Errorf("%s: the caller is %q", what, n)
					}
					continue
				}
				honest(t, config.name+", "+what, got.header, "caller", true)
				if n := values(got.header, "dapr-callee-app-id"); !slices.Equal(n, []string{"web"}) {
					t.Errorf("%s: the callee is %q", what, n)
				}
				for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "Forwarded"} {
					if n := got.header[name]; len(n) != 2 || strings.Contains(n[1], "6.6.6.6") || strings.Contains(n[1], "evil") {
						t.Errorf("%s: %s is %q, want the sidecar's own at the end", what, name, n)
					}
				}
			}

			ctx := to(t, "web", lower()...)
			if _, err := caller.Dapr().InvokeService(ctx, &runtimev1.InvokeServiceRequest{Id: "web", Message: &commonv1.InvokeRequest{Method: "m", HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET}}}); err != nil {
				t.Fatal(err)
			}
			got := m.app.one(t)
			honest(t, config.name+", InvokeService", got.header, "caller", true)
			if n := values(got.header, "dapr-callee-app-id"); !slices.Equal(n, []string{"web"}) {
				t.Errorf("InvokeService: the callee is %q", n)
			}

			if _, err := testpb.NewTestServiceClient(caller.Conn()).UnaryCall(to(t, "service", lower()...), &testpb.SimpleRequest{}); err != nil {
				t.Fatal(err)
			}
			calls := m.rpc.take()
			if len(calls) != 1 {
				t.Fatalf("%d calls", len(calls))
			}
			honest(t, config.name+", proxied", calls[0], "caller", false)
			if n := calls[0].Get("dapr-callee-app-id"); !slices.Equal(n, []string{"service"}) {
				t.Errorf("proxied: the callee is %q", n)
			}

			// By the own app, proxied to itself: nobody is the caller.
			if _, err := testpb.NewTestServiceClient(m.service.Conn()).UnaryCall(to(t, "service", lower()...), &testpb.SimpleRequest{}); err != nil {
				t.Fatal(err)
			}
			if calls := m.rpc.take(); len(calls) != 1 || len(calls[0].Get("dapr-caller-app-id"))+len(calls[0].Get("dapr-caller-namespace"))+len(calls[0].Get("dapr-callee-app-id")) != 0 {
				t.Errorf("proxied to the own app: %v", calls)
			}
		})
	}
}

// A sidecar with a certificate of its own that claims to be another one is the one of its certificate, to access control and
// to the app.
func TestSpoofingPeer(t *testing.T) {
	t.Parallel()
	m := newMansion(t, sidecartest.NewNetwork(), sidecartest.Config(strings.Replace(onlyFriend, "{appId: friend", "{appId: bank, namespace: default, trustDomain: public, defaultAction: deny}\n    - {appId: friend", 1)))
	enemy, real := m.forge("spiffe://public/ns/default/enemy", nil), m.forge(friend, nil)
	claims := [][2]string{
		{"dapr-caller-app-id", "friend"},
		{"Dapr-Caller-App-Id", "friend"},
		{"DAPR-CALLER-APP-ID", "bank"},
		{"dapr-caller-app-id", "enemy"},
		{"dapr-caller-namespace", "default"},
		{"Dapr-Caller-Namespace", "prod"},
		{"dapr-callee-app-id", "bank"},
		{"dapr-app-id", "bank"},
		{"x-forwarded-client-cert", "By=spiffe://public/ns/default/web;URI=" + friend},
		{"forwarded", "for=friend"},
		{":authority", "friend"},
		{"dapr-api-token", "guess"},
	}
	proxied := []string{"dapr-caller-namespace", "prod"}
	for _, claim := range claims {
		if claim[0] == "dapr-caller-app-id" {
			proxied = append(proxied, claim[0], claim[1])
		}
	}
	for _, way := range ways {
		said := claims
		if way == "exchange" { // where a line cannot begin with a colon
			said = slices.DeleteFunc(slices.Clone(claims), func(c [2]string) bool { return c[0] == ":authority" })
		}
		if got := m.attack(t, m.web, enemy).call(way, call{verb: "GET", method: "/m", header: said}); !got.denied() || !strings.Contains(got.err, "/ns/default/enemy operation: m verb: GET") {
			t.Errorf("%s: %s", way, got)
		}
		if got := m.app.take(); len(got) != 0 {
			t.Errorf("%s: the app got %+v", way, got)
		}
		// A friend may call, but does not become another by what it says.
		if got := m.attack(t, m.web, real).call(way, call{verb: "GET", method: "/m", header: said}); got.status != 200 {
			t.Errorf("%s: %s", way, got)
		}
		honest(t, way, m.app.one(t).header, "friend", true)
	}
	for _, named := range []string{"dapr-callee-app-id", "dapr-app-id"} {
		call := func(as *attacker, callee string) error {
			ctx := metadata.AppendToOutgoingContext(to(t, "service", proxied...), "dapr-callee-app-id", callee)
			if named == "dapr-app-id" {
				ctx = to(t, callee, proxied...)
			}
			_, err := testpb.NewTestServiceClient(as.conn()).UnaryCall(ctx, &testpb.SimpleRequest{})
			return err
		}
		if err := call(m.attack(t, m.service, enemy), "service"); !strings.Contains(fmt.Sprint(err), "has denied access to id: spiffe://public/ns/default/enemy") {
			t.Errorf("%s: %v", named, err)
		}
		// To have a sidecar pass a call on would make it that sidecar's call.
		if err := call(m.attack(t, m.service, real), "web"); err == nil {
			t.Errorf("%s: a sidecar passed a call on to another app", named)
		}
		if calls := m.rpc.take(); len(calls) != 0 {
			t.Errorf("%s: the app got %v", named, calls)
		}
		if err := call(m.attack(t, m.service, real), "service"); err != nil {
			t.Errorf("%s: %v", named, err)
		}
		calls := m.rpc.take()
		if len(calls) != 1 {
			t.Fatalf("%d calls", len(calls))
		}
		honest(t, "proxied", calls[0], "friend", false)
	}
}
