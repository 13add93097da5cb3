package mesh_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

const (
	apiToken = "the-token-of-the-api"
	appToken = "the-token-of-the-app"
)

// eavesdropper is a sidecar of a hostile app: it notes all that reaches its internal port.
type eavesdropper struct {
	internalsv1.UnimplementedServiceInvocationServer
	heard chan string
}

func (e *eavesdropper) CallLocal(ctx context.Context, in *internalsv1.InternalInvokeRequest) (*internalsv1.InternalInvokeResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	e.heard <- fmt.Sprint(md, in)
	return &internalsv1.InternalInvokeResponse{Status: &internalsv1.Status{Code: 200}, Message: &commonv1.InvokeResponse{}}, nil
}

func (e *eavesdropper) CallLocalStream(s grpc.BidiStreamingServer[internalsv1.InternalInvokeRequestStream, internalsv1.InternalInvokeResponseStream]) error {
	in, err := s.Recv()
	if err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(s.Context())
	e.heard <- fmt.Sprint(md, in)
	return s.Send(&internalsv1.InternalInvokeResponseStream{Response: &internalsv1.InternalInvokeResponse{Status: &internalsv1.Status{Code: 200}, Message: &commonv1.InvokeResponse{}}})
}

// The token of the API opens the API and goes nowhere; the token of the app goes to the app alone.
func TestTokensStayWhereTheyBelong(t *testing.T) {
	t.Parallel()
	a := startAuthority(t, ca.Settings{})
	g := &guide{}
	outside, own := &recorder{}, &recorder{}
	world := httptest.NewServer(outside)
	defer world.Close()
	tokens := sidecartest.With(func(o *sidecar.Options) { o.APIToken, o.AppToken = apiToken, appToken })
	s := sidecartest.Start(t, g.join("caller"), a.member(), tokens, sidecartest.WithApp(sidecartest.NewApp(t, own)), sidecartest.Resources(
		"apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: outside}\nspec: {baseUrl: \""+world.URL+"\"}\n",
		sidecartest.Component("ps", "pubsub.in-memory"), sidecartest.Component("out", "bindings.http", "url", world.URL),
		"apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: s}\nspec: {pubsubname: ps, topic: t, routes: {default: /events}}\n",
	))
	s.WaitHealthy()
	peerHTTP, peerRPC := &recorder{}, &rpc{}
	web := sidecartest.Start(t, g.join("web"), a.member(), sidecartest.WithApp(sidecartest.NewApp(t, peerHTTP)))
	web.WaitHealthy()
	sidecartest.Start(t, g.join("service"), a.member(), withGRPCApp(grpcApp(t, func(s *grpc.Server) { testpb.RegisterTestServiceServer(s, peerRPC) }))).WaitHealthy()
	// What goes over the wire to a peer, not only what its app is told. This one is in clear text, as is its caller.
	ears := &eavesdropper{heard: make(chan string, 16)}
	g.put("ears", fmt.Sprintf("127.0.0.1:%d", grpcApp(t, func(s *grpc.Server) {
		internalsv1.RegisterServiceInvocationServer(s, ears)
		testpb.RegisterTestServiceServer(s, peerRPC)
	})))
	bare := sidecartest.Start(t, g.join("bare"), tokens)

	secret := func(what, text string) {
		if strings.Contains(text, apiToken) || strings.Contains(text, appToken) {
			t.Errorf("%s: a token is in %s", what, text)
		}
	}
	for _, from := range []*sidecartest.Sidecar{s, bare} {
		for _, path := range []string{
			"/v1.0/invoke/outside/method/m", "/v1.0/invoke/" + world.URL + "/method/m", "/v1.0/invoke/web/method/m", "/v1.0/invoke/ears/method/m", "/v1.0/invoke/caller/method/m",
		} {
			if from == bare && !strings.Contains(path, "ears") {
				continue
			}
			if from == s && strings.Contains(path, "ears") {
				continue
			}
			for _, wrong := range [][]string{nil, {"Dapr-Api-Token", appToken}, {"Authorization", "Bearer " + apiToken}} {
				if r := from.Get(path, wrong...); r.Status != 401 {
					t.Errorf("%s with %v: %d", path, wrong, r.Status)
				}
			}
			if r := from.Get(path, "Dapr-Api-Token", apiToken, "X-Kept", "kept"); r.Status != 200 {
				t.Errorf("%s: %+v", path, r)
			}
		}
	}
	for _, r := range append(outside.take(), peerHTTP.take()...) {
		secret("HTTP", fmt.Sprint(r))
		if r.header.Get("X-Kept") != "kept" {
			t.Errorf("a header is missing: %+v", r)
		}
	}
	if r := own.one(t); fmt.Sprint(values(r.header, "dapr-api-token")) != "["+appToken+"]" || strings.Contains(fmt.Sprint(r), apiToken) {
		t.Errorf("the own app got %+v", r)
	}

	open := metadata.AppendToOutgoingContext(to(t, "ears"), "dapr-api-token", apiToken)
	if _, err := bare.Dapr().InvokeService(open, &runtimev1.InvokeServiceRequest{Id: "ears", Message: &commonv1.InvokeRequest{Method: "m"}}); err != nil {
		t.Error(err)
	}
	if _, err := testpb.NewTestServiceClient(bare.Conn()).UnaryCall(open, &testpb.SimpleRequest{}); err != nil {
		t.Error(err)
	}
	open = metadata.AppendToOutgoingContext(to(t, "service"), "dapr-api-token", apiToken, "dapr-api-token", apiToken)
	if _, err := testpb.NewTestServiceClient(s.Conn()).UnaryCall(open, &testpb.SimpleRequest{}); err != nil {
		t.Error(err)
	}
	close(ears.heard)
	n := 0
	for heard := range ears.heard {
		n++
		secret("the internal protocol", heard)
	}
	calls := peerRPC.take()
	if n != 2 || len(calls) != 2 {
		t.Errorf("%d calls of the internal protocol, %d proxied ones", n, len(calls))
	}
	for _, md := range calls {
		secret("proxied", fmt.Sprint(md))
	}

	if r := s.Post("/v1.0/bindings/out", `{"operation":"get","metadata":{"path":"/b"}}`, "Dapr-Api-Token", apiToken); r.Status >= 400 {
		t.Errorf("binding: %+v", r)
	}
	secret("binding", fmt.Sprint(outside.one(t)))
	if r := s.Post("/v1.0/publish/ps/t", `{"n":1}`, "Dapr-Api-Token", apiToken); r.Status != 204 {
		t.Errorf("publishing: %+v", r)
	}
	if _, err := s.Dapr().PublishEvent(open, &runtimev1.PublishEventRequest{PubsubName: "ps", Topic: "t", Data: []byte(`{"n":2}`), DataContentType: "application/json"}); err != nil {
		t.Error(err)
	}
	var events []seen
	eventually(t, "two events arrive", func() bool { events = append(events, own.take()...); return len(events) >= 2 })
	for _, e := range events {
		if secret("event", e.body+e.target); fmt.Sprint(values(e.header, "dapr-api-token")) != "["+appToken+"]" {
			t.Errorf("the app got an event with the token %v", values(e.header, "dapr-api-token"))
		}
	}
	if text := s.Log.String() + bare.Log.String(); strings.Contains(text, apiToken) || strings.Contains(text, appToken) {
		t.Error("a token is in the log")
	}
	for _, path := range []string{"/v1.0/metadata"} {
		secret(path, s.Get(path, "Dapr-Api-Token", apiToken).Body)
	}
}
