package placement

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	placementv1 "outrigger.dev/api/gen/placement/v1"
	"outrigger.dev/controlplane/placement/placementtest"
	"outrigger.dev/identity"
	"outrigger.dev/identity/identitytest"
)

// serve serves only the gRPC server of a service, on loopback.
func serve(t testing.TB, s *server) *running {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := newGRPCServer(s, s.o)
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	t.Cleanup(func() {
		s.stop()
		g.Stop()
		<-done
	})
	inner, _ := t.(*testing.T)
	return &running{t: inner, addresses: Addresses{GRPC: listener.Addr()}}
}

var authorisations = []struct {
	name    string
	secured bool
	peer    *identity.Peer
	host    *placementv1.Host
	code    codes.Code
	message string
}{
	{"clear text", false, nil, &placementv1.Host{Id: "app", Namespace: "ns", Entities: []string{"T", "dapr", "dapr.internalx", "internal.dapr"}}, codes.OK, ""},
	{"no identity", true, nil, &placementv1.Host{Id: "app", Namespace: "ns"}, codes.Unauthenticated, "failed to get client ID from context"},
	{"malformed identity", true, &identity.Peer{URI: "spiffe://td/x", Err: &identity.MalformedError{}}, &placementv1.Host{Id: "app", Namespace: "ns"}, codes.Unauthenticated, "failed to get client ID from context"},
	{"version without operation", false, nil, &placementv1.Host{Id: "app", Namespace: "ns", Version: proto.Uint64(0)}, codes.InvalidArgument, "both operation and version must be set or both must be unset"},
	{"operation without version", false, nil, &placementv1.Host{Id: "app", Namespace: "ns", Operation: placementv1.HostOperation_REPORT}, codes.OK, ""},
	{"no app ID", false, nil, &placementv1.Host{Namespace: "ns"}, codes.InvalidArgument, "host ID and namespace must be provided"},
	{"no namespace", false, nil, &placementv1.Host{Id: "app"}, codes.InvalidArgument, "host ID and namespace must be provided"},
	{"own identity", true, peer("ns", "app"), &placementv1.Host{Id: "app", Namespace: "ns", Entities: []string{"dapr.internal.ns.app.workflow", "T"}}, codes.OK, ""},
	{"another app", true, peer("ns", "shop"), &placementv1.Host{Id: "app", Namespace: "ns"}, codes.PermissionDenied, "provided app ID app doesn't match the one in the SPIFFE ID (shop)"},
	{"another namespace", true, peer("mesh", "app"), &placementv1.Host{Id: "app", Namespace: "ns"}, codes.PermissionDenied, "provided client namespace ns doesn't match the one in the SPIFFE ID (mesh)"},
	{"type of another app", false, nil, &placementv1.Host{Id: "app", Namespace: "ns", Entities: []string{"T", "dapr.internal.ns.shop.workflow"}}, codes.PermissionDenied, "entity dapr.internal.ns.shop.workflow is not allowed for app ID app in namespace ns"},
	{"type of another namespace", false, nil, &placementv1.Host{Id: "app", Namespace: "ns", Entities: []string{"dapr.internal.mesh.app.workflow"}}, codes.PermissionDenied, "entity dapr.internal.mesh.app.workflow is not allowed for app ID app in namespace ns"},
	{"reserved and short", false, nil, &placementv1.Host{Id: "app", Namespace: "ns", Entities: []string{"dapr.internal"}}, codes.PermissionDenied, "entity dapr.internal is not allowed for app ID app in namespace ns"},
	{"reserved without app", false, nil, &placementv1.Host{Id: "app", Namespace: "ns", Entities: []string{"dapr.internal.ns"}}, codes.PermissionDenied, "entity dapr.internal.ns is not allowed for app ID app in namespace ns"},
	{"reserved, app a prefix", false, nil, &placementv1.Host{Id: "app", Namespace: "ns", Entities: []string{"dapr.internal.ns.appx.workflow"}}, codes.PermissionDenied, "entity dapr.internal.ns.appx.workflow is not allowed for app ID app in namespace ns"},
	{"app with a dot", false, nil, &placementv1.Host{Id: "a.b", Namespace: "ns", Entities: []string{"dapr.internal.ns.a.b.workflow"}}, codes.PermissionDenied, "entity dapr.internal.ns.a.b.workflow is not allowed for app ID a.b in namespace ns"},
}

func peer(namespace, app string) *identity.Peer {
	id := identity.ID{TrustDomain: "td", Namespace: namespace, AppID: app}
	return &identity.Peer{URI: id.String(), ID: id}
}

func TestAuthorise(t *testing.T) {
	for _, tt := range authorisations {
		t.Run(tt.name, func(t *testing.T) {
			expect(t, status.Convert(authorise(tt.secured, tt.peer, tt.host)), tt.code, tt.message)
		})
	}
}

func TestMutualTLS(t *testing.T) {
	ca, strangers := identitytest.NewCA(t), identitytest.NewCA(t)
	r := launch(t, func(o *Options) { o.Security = secured(t, ca, placementID) })
	host := func(creds credentials.TransportCredentials) *placementtest.Host {
		return run(t, &placementtest.Host{Addresses: []string{r.addresses.GRPC.String()}, Credentials: creds, Name: "a", AppID: "app", Namespace: "ns", Types: []string{"T"}})
	}
	await(t, "T:a", host(credentialsOf(t, ca, "spiffe://localhost/ns/ns/app")))
	for _, tt := range []struct {
		name  string
		creds credentials.TransportCredentials
		code  codes.Code
	}{
		{"another app", credentialsOf(t, ca, "spiffe://localhost/ns/ns/shop"), codes.PermissionDenied},
		{"another namespace", credentialsOf(t, ca, "spiffe://localhost/ns/mesh/app"), codes.PermissionDenied},
		{"malformed", credentialsOf(t, ca, "spiffe://localhost/app"), codes.Unauthenticated},
		{"another authority", credentialsOf(t, strangers, "spiffe://localhost/ns/ns/app"), codes.Unavailable},
		{"clear text", nil, codes.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			stream, err := r.dial(tt.creds).ReportDaprStatus(ctx)
			if err == nil {
				_ = stream.Send(report("a", "T"))
				_, err = stream.Recv()
			}
			if status.Code(err) != tt.code {
				t.Errorf("%v, want %s", err, tt.code)
			}
		})
	}
}

// FuzzFirstMessage gives a service the first message of a stream, whatever it is: it is either refused by one of the rules, or answered by
// an order.
func FuzzFirstMessage(f *testing.F) {
	for _, tt := range authorisations {
		b, err := proto.Marshal(tt.host)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	o, err := Options{DisseminateTimeout: 50 * time.Millisecond}.normalised()
	if err != nil {
		f.Fatal(err)
	}
	s := &server{o: o, metrics: newMetrics()}
	r := serve(f, s)
	s.lead()
	f.Fuzz(func(t *testing.T, b []byte) {
		var h placementv1.Host
		if proto.Unmarshal(b, &h) != nil {
			return
		}
		r := &running{t: t, addresses: r.addresses}
		stream := open(t, r.dial(nil), &h)
		order, err := stream.Recv()
		switch allowed := authorise(false, nil, &h); {
		case allowed != nil && status.Code(err) != status.Code(allowed):
			t.Errorf("%v: %v, want %v", &h, err, allowed)
		case allowed == nil && err != nil:
			t.Errorf("%v: %v", &h, err)
		case allowed == nil && order.Operation != "lock":
			t.Errorf("%v: %v", &h, order)
		}
	})
}
