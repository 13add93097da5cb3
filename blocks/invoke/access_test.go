package invoke

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/identity"
	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
)

// On the API port dapr-app-id says where a call goes, on the internal port dapr-callee-app-id. Who calls is what the peer says,
// or what its certificate says.
func TestProxyIdentity(t *testing.T) {
	x := newProxyBench(t, Options{}, replying("r"))
	x.app.seen = make(chan metadata.MD, 1)
	call := func(c testpb.TestServiceClient, pairs ...string) (metadata.MD, error) {
		_, _, _, err := x.exchange(metadata.AppendToOutgoingContext(within(t), pairs...), c)
		if err != nil {
			return nil, err
		}
		return <-x.app.seen, nil
	}
	target := func() mesh.Target {
		x.up.mu.Lock()
		defer x.up.mu.Unlock()
		return x.up.opened[len(x.up.opened)-1]
	}
	if _, err := call(x.client, "dapr-app-id", "other.ns2", "dapr-callee-app-id", "me"); err != nil || target() != (mesh.Target{Address: "other.ns2:1", AppID: "other", Namespace: "ns2"}) {
		t.Errorf("%v, called %v", err, target())
	}
	if _, err := call(x.client, "dapr-callee-app-id", "me"); err != nil || target() != (mesh.Target{}) {
		t.Errorf("%v, called %v", err, target())
	}
	md, err := call(x.internal, "dapr-app-id", "other", "dapr-callee-app-id", "me", "dapr-caller-app-id", "forged", "dapr-caller-app-id", "peer", "dapr-caller-namespace", "forged")
	if err != nil || !slices.Equal(md["dapr-caller-app-id"], []string{"peer"}) || len(md["dapr-caller-namespace"]) > 0 || len(md["dapr-app-id"]) > 0 || !slices.Equal(md["dapr-callee-app-id"], []string{"me"}) {
		t.Errorf("%v, the app sees %v", err, md)
	}
	if _, err := call(x.internal, "dapr-callee-app-id", "other", "dapr-app-id", "me"); status.Code(err) != codes.Unavailable {
		t.Errorf("a call for another app: %v", err)
	}
	if _, err := call(x.internal); status.Code(err) != codes.Unknown || status.Convert(err).Message() != "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found" {
		t.Errorf("a call for nobody: %v", err)
	}

	certified := func(p *identity.Peer) testpb.TestServiceClient {
		return testpb.NewTestServiceClient(listen(t, grpc.NewServer(grpc.ForceServerCodecV2(invocation.FrameCodec()), grpc.UnknownServiceHandler(func(srv any, ss grpc.ServerStream) error {
			return x.block.ReceiveProxied(srv, &spanStream{ss, identity.WithPeer(ss.Context(), p)})
		}))))
	}
	known := &identity.Peer{URI: "spiffe://td/ns/n/real", ID: identity.ID{TrustDomain: "td", Namespace: "n", AppID: "real"}}
	for _, c := range []struct {
		peer *identity.Peer
		want []string
	}{{known, []string{"real"}}, {&identity.Peer{URI: "spiffe://td/x", Err: &identity.MalformedError{URI: "spiffe://td/x"}}, nil}} {
		md, err := call(certified(c.peer), "dapr-callee-app-id", "me", "dapr-caller-app-id", "forged")
		if err != nil || !slices.Equal(md["dapr-caller-app-id"], c.want) {
			t.Errorf("%v, the app sees %v", err, md)
		}
	}
}

// access notes what it is asked and refuses some.
type access struct {
	asked []string
	allow bool
}

func (a *access) Check(caller *identity.Peer, operation, verb string) error {
	who := ""
	if caller != nil {
		who = caller.URI
	}
	a.asked = append(a.asked, fmt.Sprintf("%s|%s|%s", who, operation, verb))
	if a.allow {
		return nil
	}
	return status.Error(codes.PermissionDenied, "access control policy has denied access to id: "+who+" operation: "+operation+" verb: "+verb)
}

// The access control list is asked about what is then called, and by whom; calls of the own app by proxying count as nobody's.
func TestAccess(t *testing.T) {
	a := &access{}
	x := newProxyBench(t, Options{Access: a}, replying("r"))
	for _, c := range []struct {
		client testpb.TestServiceClient
		key    string
	}{{x.client, "dapr-app-id"}, {x.internal, "dapr-callee-app-id"}} {
		if _, _, _, err := x.exchange(metadata.AppendToOutgoingContext(within(t), c.key, "me"), c.client); status.Code(err) != codes.PermissionDenied {
			t.Errorf("got %v", err)
		}
	}
	if n := x.app.calls.Load(); n != 0 {
		t.Errorf("%d calls reached the app", n)
	}
	app := &channel{}
	b := New(Options{AppID: "me", Namespace: "default", App: app, Access: a})
	peer := &identity.Peer{URI: "spiffe://td/ns/n/real", ID: identity.ID{TrustDomain: "td", Namespace: "n", AppID: "real"}}
	for _, req := range []*invocation.Request{
		{Method: "a/../b//c", Verb: "PUT", Caller: peer},
		{Method: "m"},
	} {
		if _, err := b.Receive(t.Context(), req); status.Code(err) != codes.PermissionDenied {
			t.Errorf("got %v", err)
		}
	}
	if app.calls != 0 {
		t.Errorf("%d calls reached the app", app.calls)
	}
	a.allow = true
	req := &invocation.Request{Method: "ok", Verb: "GET", Caller: peer, Header: invocation.Header{
		{Name: []byte("Dapr-Caller-App-Id"), Value: []byte("forged")}, {Name: []byte("dapr-caller-namespace"), Value: []byte("forged")}, {Name: []byte("dapr-callee-app-id"), Value: []byte("me")},
	}}
	if _, err := b.Receive(t.Context(), req); err != nil || app.calls != 1 {
		t.Errorf("%v, %d calls", err, app.calls)
	}
	for name, want := range map[string]string{"dapr-caller-app-id": "real", "dapr-caller-namespace": "n", "dapr-callee-app-id": "me"} {
		if got := string(req.Header.Get(name)); got != want {
			t.Errorf("the app sees %s: %q, want %q", name, got, want)
		}
	}
	// OnInvoke calls what its message says, which the list cannot see.
	conn := listen(t, grpc.NewServer(grpc.ForceServerCodecV2(invocation.FrameCodec()), grpc.UnknownServiceHandler(x.block.ReceiveProxied)))
	err := conn.Invoke(metadata.AppendToOutgoingContext(within(t), "dapr-callee-app-id", "me"), "//dapr.proto.runtime.v1.AppCallback/./OnInvoke", &testpb.Empty{}, &testpb.Empty{})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("OnInvoke: %v", err)
	}
	a.asked = slices.DeleteFunc(a.asked, func(what string) bool { return what == "|/dapr.proto.runtime.v1.AppCallback/OnInvoke|" })
	if len(req.Header) != 3 {
		t.Errorf("the app sees %s", req.Header)
	}
	if _, err := b.Invoke(t.Context(), "me", &invocation.Request{Method: "own", Verb: "GET"}); err != nil {
		t.Errorf("calls of the own app over HTTP are not checked: %v", err)
	}
	method := testpb.TestService_FullDuplexCall_FullMethodName
	want := []string{"|" + method + "|", "|" + method + "|", peer.URI + "|b/c|PUT", "|m|", peer.URI + "|ok|GET"}
	if !slices.Equal(a.asked, want) {
		t.Errorf("asked %q, want %q", a.asked, want)
	}
}

// What says who calls is the certificate's, however it came.
func TestVouch(t *testing.T) {
	peer := &identity.Peer{ID: identity.ID{TrustDomain: "td", Namespace: "n", AppID: "real"}}
	malformed := &identity.Peer{Err: errors.New("malformed")}
	for name, c := range map[string]struct {
		peer *identity.Peer
		sent []string
		want []string
	}{
		"clear text":     {nil, []string{"dapr-caller-app-id", "said"}, []string{"dapr-caller-app-id=said"}},
		"honest":         {peer, []string{"dapr-caller-namespace", "n", "x", "1", "dapr-caller-app-id", "real"}, []string{"dapr-caller-namespace=n", "x=1", "dapr-caller-app-id=real"}},
		"silent":         {peer, []string{"x", "1"}, []string{"x=1", "dapr-caller-app-id=real", "dapr-caller-namespace=n"}},
		"forged":         {peer, []string{"DAPR-caller-App-Id", "forged", "dapr-caller-namespace", "n"}, []string{"dapr-caller-app-id=real", "dapr-caller-namespace=n"}},
		"forged besides": {peer, []string{"dapr-caller-app-id", "real", "Dapr-Caller-App-Id", "forged", "dapr-caller-namespace", "n"}, []string{"dapr-caller-app-id=real", "dapr-caller-namespace=n"}},
		"malformed":      {malformed, []string{"dapr-caller-app-id", "forged", "dapr-caller-namespace", "n"}, nil},
	} {
		var h invocation.Header
		for i := 0; i < len(c.sent); i += 2 {
			h.Add(c.sent[i], c.sent[i+1])
		}
		vouch(&h, c.peer)
		var got []string
		for _, f := range h {
			got = append(got, string(f.Name)+"="+string(f.Value))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
