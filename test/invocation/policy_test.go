package invocation_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/sidecar/sidecartest"
)

// A denied call is 403 for HTTP clients, Internal for InvokeService, and PermissionDenied when it is proxied.
func TestAccessDenied(t *testing.T) {
	d := newDirectory(t)
	deny := sidecartest.Config("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec:\n  accessControl:\n    defaultAction: deny\n    trustDomain: public\n")
	called := make(chan string, 8)
	web := sidecartest.Start(t, d.join("web", false), deny, startHTTP(t, "http", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/dapr/config" && r.URL.Path != "/dapr/subscribe" {
			called <- r.URL.Path
		}
	})))
	rpc := sidecartest.Start(t, d.join("rpc", false), deny, startService(t, &service{unary: func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		called <- "unary"
		return &testpb.SimpleResponse{}, nil
	}}))
	web.WaitHealthy()
	rpc.WaitHealthy()
	for _, relayed := range []bool{false, true} {
		caller := sidecartest.Start(t, d.join("caller", relayed))
		want := "rpc error: code = PermissionDenied desc = access control policy has denied access to id:  operation: a/c verb: "
		for verb, path := range map[string]string{"GET": "a/b/../c", "POST": "a%2F%2Fc"} {
			if r := caller.Do(verb, "/v1.0/invoke/web/method/"+path, ""); r.Status != 403 || message(t, r.Body) != "failed to invoke, id: web, err: "+want+verb {
				t.Errorf("%s: %+v", verb, r)
			}
		}
		_, err := caller.Dapr().InvokeService(withTimeout(t), &runtimev1.InvokeServiceRequest{Id: "web", Message: &commonv1.InvokeRequest{
			Method: "/a/c", HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_PUT},
		}})
		if status.Code(err) != codes.Internal || status.Convert(err).Message() != "failed to invoke, id: web, err: "+want+"PUT" {
			t.Errorf("InvokeService: %v", err)
		}
		_, err = testpb.NewTestServiceClient(caller.Conn()).UnaryCall(to(t, "rpc"), &testpb.SimpleRequest{})
		if want := "access control policy has denied access to id:  operation: " + testpb.TestService_UnaryCall_FullMethodName + " verb: NONE"; status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != want {
			t.Errorf("proxied: %v", err)
		}
	}
	if _, err := testpb.NewTestServiceClient(rpc.Conn()).UnaryCall(to(t, "rpc"), &testpb.SimpleRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("by the own app: %v", err)
	}
	if r := web.Get("/v1.0/invoke/web/method/m"); r.Status != 200 {
		t.Errorf("the own app over HTTP is not checked: %+v", r)
	}
	if path := wait(t, called, "the own call"); path != "/m" || len(called) != 0 {
		t.Errorf("the apps were called: %s, %d more", path, len(called))
	}
}

const resilience = `apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: r}
spec:
  policies:
    timeouts: {short: 300ms}
    retries: {thrice: {policy: constant, duration: 1ms, maxRetries: 2, matching: {httpStatusCodes: "500-599", gRPCStatusCodes: "10,14"}}}
    circuitBreakers: {breaker: {trip: consecutiveFailures >= 2, timeout: 1h}}
  targets:
    apps:
      flaky: {retry: thrice}
      slow: {timeout: short}
      broken: {circuitBreaker: breaker}
      outside: {retry: thrice}
`

// Policies for apps and endpoints, in the sidecar of the caller.
func TestResiliency(t *testing.T) {
	d := newDirectory(t)
	var calls atomic.Int32
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		switch {
		case !strings.HasPrefix(r.URL.Path, "/m/"):
		case strings.HasSuffix(r.URL.Path, "/hang"):
			<-r.Context().Done()
		default:
			n := calls.Add(1)
			if n < 3 && strings.HasSuffix(r.URL.Path, "/third") {
				w.WriteHeader(503)
			}
			if strings.HasSuffix(r.URL.Path, "/never") {
				w.WriteHeader(500 + int(n))
			}
			fmt.Fprintf(w, "%d %s", n, text)
		}
	})
	for _, id := range []string{"flaky", "slow", "broken"} {
		sidecartest.Start(t, d.join(id, false), startHTTP(t, "http", app)).WaitHealthy()
	}
	outside := sidecartest.NewApp(t, app)
	for _, relayed := range []bool{false, true} {
		s := sidecartest.Start(t, d.join("caller", relayed), sidecartest.Resources(resilience, fmt.Sprintf("apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: outside}\nspec: {baseUrl: %q}\n", outside.URL)))
		for _, id := range []string{"flaky", "outside"} {
			for path, want := range map[string]string{"third": "200 3 body", "never": "503 3 body"} {
				calls.Store(0)
				if r := s.Post("/v1.0/invoke/"+id+"/method/m/"+path, "body"); fmt.Sprint(r.Status, " ", r.Body) != want {
					t.Errorf("%s %s: %d %q, want %s", id, path, r.Status, r.Body, want)
				}
			}
			// A body in chunks cannot be sent again.
			calls.Store(0)
			resp, text := mustRaw(t, s, "POST /v1.0/invoke/"+id+"/method/m/third HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
			if resp.StatusCode != 503 || text != "1 body" {
				t.Errorf("%s in chunks: %d %q", id, resp.StatusCode, text)
			}
		}
		start := time.Now()
		if r := s.Get("/v1.0/invoke/slow/method/m/hang"); r.Status != 500 || message(t, r.Body) != "failed to invoke, id: slow, err: context deadline exceeded" {
			t.Errorf("too late: %+v", r)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the timeout took %s", took)
		}
		for i := range 3 {
			r := s.Get("/v1.0/invoke/broken/method/m/never")
			if i < 2 && !strings.Contains(r.Body, " ") || i == 2 && (r.Status != 500 || message(t, r.Body) != "failed to invoke, id: broken, err: circuit breaker is open") {
				t.Errorf("call %d: %+v", i, r)
			}
		}
	}
}

// Policies for proxied calls, and a peer that dies in the middle of one.
func TestProxiedResiliency(t *testing.T) {
	d := newDirectory(t)
	var calls atomic.Int32
	began := make(chan struct{}, 1)
	s := &service{
		unary: func(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			if calls.Add(1) < 3 {
				return nil, status.Error(codes.Aborted, "not yet")
			}
			return &testpb.SimpleResponse{Payload: in.GetPayload()}, nil
		},
		duplex: func(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
			if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: body("first")}); err != nil {
				return err
			}
			began <- struct{}{}
			<-s.Context().Done()
			return s.Context().Err()
		},
	}
	sidecartest.Start(t, d.join("flaky", false), startService(t, s)).WaitHealthy()
	// The caller reaches it over a connection that can be cut.
	address, conns := d.address("flaky", false), make(chan net.Conn, 16)
	d.put("flaky", tcpRelay(t, func() (net.Conn, error) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			conns <- c
		}
		return c, err
	}, func(string) bool { return true }))
	c := testpb.NewTestServiceClient(sidecartest.Start(t, d.join("caller", false), sidecartest.Resources(resilience)).Conn())
	if out, err := c.UnaryCall(to(t, "flaky"), &testpb.SimpleRequest{Payload: body("kept")}); err != nil || string(out.GetPayload().GetBody()) != "kept" {
		t.Errorf("got %v, %v", out, err)
	}
	if n := calls.Load(); n != 3 {
		t.Errorf("%d calls", n)
	}
	both, err := c.FullDuplexCall(to(t, "flaky", "dapr-stream", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := both.Recv(); err != nil {
		t.Fatal(err)
	}
	wait(t, began, "the stream")
	for len(conns) > 0 {
		_ = (<-conns).Close()
	}
	if _, err := both.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the connection was cut: %v", err)
	}
	if out, err := c.UnaryCall(to(t, "flaky"), &testpb.SimpleRequest{Payload: body("again")}); err != nil || string(out.GetPayload().GetBody()) != "again" {
		t.Errorf("after that: %v, %v", out, err)
	}
}
