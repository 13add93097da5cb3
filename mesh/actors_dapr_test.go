package mesh

import (
	"context"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
)

// daprHost is a Dapr sidecar that hosts actors.
type daprHost struct {
	peerServer
	got chan *internalsv1.InternalInvokeRequest
	md  chan metadata.MD
}

func (d *daprHost) CallActor(ctx context.Context, in *internalsv1.InternalInvokeRequest) (*internalsv1.InternalInvokeResponse, error) {
	d.got <- in
	md, _ := metadata.FromIncomingContext(ctx)
	d.md <- md
	return &internalsv1.InternalInvokeResponse{
		Status: &internalsv1.Status{Code: 200},
		Headers: map[string]*internalsv1.ListStringValue{
			"X-Daprerrorresponseheader": one("true"), "Content-Type": one("text/plain"), "Content-Length": one("2"),
		},
		Message: &commonv1.InvokeResponse{ContentType: "text/plain", Data: &anypb.Any{Value: []byte("ok")}},
	}, nil
}

func (d *daprHost) CallActorReminder(context.Context, *internalsv1.Reminder) (*emptypb.Empty, error) {
	return nil, status.Error(codes.Unknown, "remote actor moved")
}

// TestDaprHost calls an actor at a Dapr sidecar.
func TestDaprHost(t *testing.T) {
	d := &daprHost{got: make(chan *internalsv1.InternalInvokeRequest, 1), md: make(chan metadata.MD, 1)}
	l := listen(t, "127.0.0.1:0")
	server := grpc.NewServer()
	internalsv1.RegisterServiceInvocationServer(server, d)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	c := newClient(t, ClientOptions{})
	req := &invocation.Request{Method: "m", Query: "q=1", Verb: "POST", Body: []byte("body"), ContentType: "text/plain"}
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	req.Header.Add("Traceparent", parent)
	req.Header.Add("Dapr-Reentrancy-Id", "r")
	resp, err := c.CallActor(within(t), Target{Address: l.Addr().String()}, someActor, req)
	if err != nil || resp.Status != 200 || string(resp.Body) != "ok" || resp.ContentType != "text/plain" || !slices.Equal(headerLines(resp.Header), []string{"X-Daprerrorresponseheader: true"}) {
		t.Errorf("got %+v, %v", resp, err)
	}
	want := &internalsv1.InternalInvokeRequest{
		Ver: internalsv1.APIVersion_V1, Actor: &internalsv1.Actor{ActorType: "Cart", ActorId: "42"},
		Metadata: map[string]*internalsv1.ListStringValue{"Traceparent": one(parent), "Dapr-Reentrancy-Id": one("r"), "Content-Type": one("text/plain")},
		Message: &commonv1.InvokeRequest{
			Method: "m", ContentType: "text/plain", Data: &anypb.Any{Value: []byte("body")},
			HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST, Querystring: "q=1"},
		},
	}
	if got := receiveWithin(t, "the call", d.got); !proto.Equal(got, want) {
		t.Errorf("the peer sees %v", got)
	}
	if md := receiveWithin(t, "the metadata", d.md); !slices.Equal(md.Get("traceparent"), []string{parent}) || len(md.Get("grpc-trace-bin")) != 1 {
		t.Errorf("the peer sees the metadata %v", md)
	}
	if err := c.CallActorReminder(within(t), Target{Address: l.Addr().String()}, &internalsv1.Reminder{ActorType: "T"}); status.Code(err) != codes.Unknown || status.Convert(err).Message() != "remote actor moved" {
		t.Errorf("got %v", err)
	}
}

// TestDaprCallsActor plays a Dapr sidecar that calls.
func TestDaprCallsActor(t *testing.T) {
	got := make(chan *invocation.Request, 1)
	address := servedActors(t, ServerOptions{}, func(_ context.Context, _ Actor, req *invocation.Request) (*invocation.Response, error) {
		got <- req
		resp := &invocation.Response{Status: 200, Body: []byte("x"), ContentType: "text/plain"}
		resp.Header.Add("X-Daprerrorresponseheader", "true")
		return resp, nil
	})
	cc, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	out, err := internalsv1.NewServiceInvocationClient(cc).CallActor(within(t), &internalsv1.InternalInvokeRequest{
		Ver: internalsv1.APIVersion_V1, Actor: &internalsv1.Actor{ActorType: "T", ActorId: "1"},
		Metadata: map[string]*internalsv1.ListStringValue{"Content-Type": one("application/json"), "Content-Length": one("1"), "X-A": {Values: []string{"1", "2"}}},
		Message:  &commonv1.InvokeRequest{Method: "m", Data: &anypb.Any{Value: []byte("1")}, HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if out.GetStatus().GetCode() != 200 || string(out.GetMessage().GetData().GetValue()) != "x" || out.GetMessage().GetContentType() != "text/plain" ||
		out.GetHeaders()["X-Daprerrorresponseheader"].GetValues()[0] != "true" {
		t.Errorf("got %v", out)
	}
	req := receiveWithin(t, "the call", got)
	if req.Method != "m" || req.Verb != "GET" || req.ContentType != "application/json" || string(req.Body) != "1" || !slices.Equal(headerLines(req.Header), []string{"X-A: 1", "X-A: 2"}) {
		t.Errorf("the actor sees %+v", req)
	}
}
