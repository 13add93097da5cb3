package mesh_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/identity/identitytest"
	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/sidecar/sidecartest"
)

// onlyFriend lets nobody in but the app friend of namespace default.
const onlyFriend = `
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: c}
spec:
  accessControl:
    defaultAction: deny
    trustDomain: public
    policies:
    - {appId: friend, namespace: default, trustDomain: public, defaultAction: allow}
`

const friend = "spiffe://public/ns/default/friend"

// rpc is a gRPC app that remembers the metadata of its calls.
type rpc struct {
	testpb.UnimplementedTestServiceServer
	mu   sync.Mutex
	seen []metadata.MD
}

func (r *rpc) record(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, md)
}

func (r *rpc) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	r.record(ctx)
	return &testpb.SimpleResponse{}, nil
}

func (r *rpc) FullDuplexCall(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	r.record(s.Context())
	return nil
}

func (r *rpc) take() []metadata.MD {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.seen
	r.seen = nil
	return taken
}

// mansion is an authority and two sidecars under it, one before an HTTP app and one before a gRPC app.
type mansion struct {
	*authority
	web, service *sidecartest.Sidecar
	app          *recorder
	rpc          *rpc
}

func newMansion(t testing.TB, network *sidecartest.Network, options ...sidecartest.Option) *mansion {
	m := &mansion{authority: startAuthority(t, ca.Settings{}), app: &recorder{}, rpc: &rpc{}}
	options = append(options, m.member())
	m.web = sidecartest.Start(t, append([]sidecartest.Option{network.Join("web"), sidecartest.WithApp(sidecartest.NewApp(t, m.app))}, options...)...)
	m.service = sidecartest.Start(t, append([]sidecartest.Option{network.Join("service"), withGRPCApp(grpcApp(t, func(s *grpc.Server) { testpb.RegisterTestServiceServer(s, m.rpc) }))}, options...)...)
	m.web.WaitHealthy()
	m.service.WaitHealthy()
	return m
}

// Nobody gets through the internal port with a certificate that is not theirs, in any protocol; what a good one may do is for
// access control to say, which goes by the certificate alone.
func TestForgedClients(t *testing.T) {
	t.Parallel()
	m := newMansion(t, sidecartest.NewNetwork(), sidecartest.Config(onlyFriend))
	foreign := identitytest.NewCA(t)
	spliced := foreign.Issue(t, friend, nil)
	spliced.Certificates = append(spliced.Certificates[:1], m.certificates("issuer.crt")...)
	spliced.Certificates = append(spliced.Certificates, m.certificates("ca.crt")...)
	issuer, issuerKey := m.issuer()
	stolen := m.forge(friend, nil)
	stolen.PrivateKey = foreign.Issue(t, friend, nil).PrivateKey
	for _, test := range []struct {
		name string
		svid *x509svid.SVID
		want string // "": it gets through; "denied": access control refuses it; "refused": there is no connection
	}{
		{"friend", m.forge(friend, nil), ""},
		{"expired", m.forge(friend, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}), "refused"},
		{"not valid yet", m.forge(friend, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }), "refused"},
		{"foreign authority", foreign.Issue(t, friend, nil), "refused"},
		{"foreign authority with the real issuer behind it", spliced, "refused"},
		{"self-made", identitytest.SelfSigned(t, friend), "refused"},
		{"with the key of another", stolen, "refused"},
		{"the issuer itself", &x509svid.SVID{Certificates: []*x509.Certificate{issuer}, PrivateKey: issuerKey}, "refused"},
		{"without an ID", m.forge(friend, func(c *x509.Certificate) { c.URIs = nil }), "refused"},
		{"with two IDs", m.forge(friend, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), "refused"},
		{"none", nil, "refused"},
		{"another app", m.forge("spiffe://public/ns/default/enemy", nil), "denied"},
		{"the name in other letters", m.forge("spiffe://public/ns/default/Friend", nil), "denied"},
		{"another namespace", m.forge("spiffe://public/ns/other/friend", nil), "denied"},
		{"another trust domain", m.forge("spiffe://private/ns/default/friend", nil), "denied"},
		{"malformed ID", m.forge("spiffe://public/friend", nil), "denied"},
		{"the control plane", m.forge("spiffe://localhost/ns/default/dapr-sentry", nil), "denied"},
	} {
		// Whatever the certificate is, the caller says that it is the friend.
		says := [][2]string{{"dapr-caller-app-id", "friend"}, {"dapr-caller-namespace", "default"}, {"dapr-callee-app-id", "web"}}
		web, service := m.attack(t, m.web, test.svid), m.attack(t, m.service, test.svid)
		for _, way := range ways {
			got := web.call(way, call{verb: "GET", method: "/m", header: says})
			requests := m.app.take()
			switch {
			case test.want == "" && (got.err != "" || len(requests) != 1 || fmt.Sprint(values(requests[0].header, "dapr-caller-app-id")) != "[friend]"):
				t.Errorf("%s, %s: %s; the app got %+v", test.name, way, got, requests)
			case test.want != "" && (got.err == "" || len(requests) != 0):
				t.Errorf("%s, %s: %s; the app got %+v", test.name, way, got, requests)
			case got.denied() != (test.want == "denied"):
				t.Errorf("%s, %s: %s, want it to be %s", test.name, way, got, test.want)
			}
		}
		client := testpb.NewTestServiceClient(service.conn())
		_, unary := client.UnaryCall(to(t, "service", "dapr-caller-app-id", "friend"), &testpb.SimpleRequest{})
		stream, streamed := client.FullDuplexCall(to(t, "service", "dapr-callee-app-id", "service", "dapr-caller-app-id", "friend"))
		if streamed == nil {
			_ = stream.CloseSend()
			if _, streamed = stream.Recv(); streamed != nil && streamed.Error() == "EOF" {
				streamed = nil
			}
		}
		want := map[string]codes.Code{"": codes.OK, "refused": codes.Unavailable, "denied": codes.PermissionDenied}[test.want]
		for what, err := range map[string]error{"unary": unary, "stream": streamed} {
			if status.Code(err) != want {
				t.Errorf("%s, proxied %s: %v, want %s", test.name, what, err, want)
			}
		}
		calls := m.rpc.take()
		if (len(calls) == 0) != (test.want != "") {
			t.Errorf("%s: the gRPC app got %v", test.name, calls)
		}
		for _, md := range calls {
			if got := md.Get("dapr-caller-app-id"); fmt.Sprint(got) != "[friend]" {
				t.Errorf("%s: the gRPC app was called by %v", test.name, got)
			}
		}
	}
	// In clear text there is no identity, and no connection.
	clear := &attacker{t: t, address: m.web.InternalAddress()}
	for _, way := range ways {
		if got := clear.call(way, call{verb: "GET", method: "/m"}); got.err == "" || got.denied() {
			t.Errorf("clear text, %s: %s", way, got)
		}
	}
	if requests := m.app.take(); len(requests) != 0 {
		t.Errorf("in clear text the app got %+v", requests)
	}
}

// A sidecar says nothing to whoever answers at a peer's address without being that peer.
func TestForgedServers(t *testing.T) {
	t.Parallel()
	a := startAuthority(t, ca.Settings{})
	foreign := identitytest.NewCA(t)
	g := &guide{}
	caller := sidecartest.Start(t, g.join("caller"), a.member())
	caller.Conn() // before the goroutines below share it
	uri := func(id string) string { return "spiffe://public/ns/default/" + id }
	var group sync.WaitGroup
	defer group.Wait()
	for id, svid := range map[string]*x509svid.SVID{
		"genuine":   a.forge(uri("genuine"), nil),
		"otherland": a.forge("spiffe://private/ns/default/otherland", nil), // trust domains of callees are not compared
		"expired": a.forge(uri("expired"), func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}),
		"early":     a.forge(uri("early"), func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }),
		"foreign":   foreign.Issue(t, uri("foreign"), nil),
		"selfmade":  identitytest.SelfSigned(t, uri("selfmade")),
		"another":   a.forge(uri("enemy"), nil),
		"elsewhere": a.forge("spiffe://public/ns/other/elsewhere", nil),
		"longer":    a.forge(uri("longer/more"), nil),
		"sentry":    a.forge("spiffe://localhost/ns/default/dapr-sentry", nil),
	} {
		for _, grpcOnly := range []bool{false, true} {
			target := id
			if grpcOnly {
				target = id + "-grpc"
				if id == "genuine" {
					svid = a.forge(uri(target), nil)
				}
			}
			got := make(chan string, 8)
			address := serveMesh(t, mesh.ServerOptions{
				Security: mesh.NewMTLS(a.source(svid), nil), GRPCOnly: grpcOnly,
				Handler: func(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
					got <- req.Method
					return &invocation.Response{Status: 200}, nil
				},
				Proxy: func(_ any, s grpc.ServerStream) error {
					got <- "proxied"
					return nil
				},
			})
			g.put(target, address)
			good := id == "genuine" || id == "otherland" && !grpcOnly
			group.Go(func() {
				r := caller.Post("/v1.0/invoke/"+target+"/method/secret", "secret")
				if (r.Status == 200) != good {
					t.Errorf("%s: %d %s", target, r.Status, r.Body)
				}
				stream, err := caller.Conn().NewStream(to(t, target), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/secret.Service/Method")
				if err == nil {
					_ = stream.CloseSend()
					err = stream.RecvMsg(&testpb.SimpleResponse{})
				}
				if text := fmt.Sprint(err); (text == "EOF") != good || !good && status.Code(err) != codes.Unavailable {
					t.Errorf("%s, proxied: %v", target, err)
				}
				if n := len(got); (n == 2) != good || (n == 0) == good {
					t.Errorf("%s: the server got %d calls", target, n)
				}
			})
		}
	}
}

// serveMesh runs an internal port of a test.
func serveMesh(t testing.TB, o mesh.ServerOptions) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := mesh.NewServer(o)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = s.Shutdown(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}
