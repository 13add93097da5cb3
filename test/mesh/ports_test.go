package mesh_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	internalsv1 "outrigger.dev/api/gen/internals/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/mesh"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
	"outrigger.dev/test/servers"
)

// door is a port of ours, and how it is spoken to.
type door struct {
	name, address string
	// http1 and http2 tell what it speaks.
	http1, http2 bool
	// tls returns the configuration for a protocol; nil is clear text.
	tls func(protocol string) *tls.Config
	// path is one that it has, by HTTP.
	path string
	// method is one that it has, by gRPC.
	method string
	// well asks whether it serves others.
	well func() error
}

// dial opens a connection in a protocol, "http1", "http2" or "raw", which is before any security.
func (d *door) dial(t testing.TB, protocol string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", d.address, patience)
	if err != nil {
		t.Errorf("%s: %v", d.name, err)
		return nil
	}
	if d.tls == nil || protocol == "raw" {
		return c
	}
	name := mesh.ProtocolGRPC
	if protocol == "http1" {
		name = mesh.ProtocolExchange
	}
	secured := tls.Client(c, d.tls(name))
	_ = c.SetDeadline(time.Now().Add(patience))
	if err := secured.Handshake(); err != nil {
		t.Errorf("%s: %v", d.name, err)
		_ = c.Close()
		return nil
	}
	_ = c.SetDeadline(time.Time{})
	return secured
}

// estate is all that listens: a sidecar with every port there is, its neighbour with mTLS, and a Sentry.
type estate struct {
	doors []*door
	// busy is the sidecar with all the ports, secured the one with mTLS.
	busy, secured *sidecartest.Sidecar
	app           *recorder
}

// newEstate starts them.
func newEstate(t testing.TB) *estate {
	t.Helper()
	a := startAuthority(t, ca.Settings{JWT: ca.JWTSettings{Enabled: true}}, func(o *sentry.Options) {
		o.MetricsEnabled, o.MetricsListenAddress = true, "127.0.0.1"
		o.OIDC = sentry.OIDCOptions{Enabled: true, ListenAddress: "127.0.0.1"}
	})
	e := &estate{app: &recorder{}}
	public, metrics, profile := servers.FreePort(t), servers.FreePort(t), servers.FreePort(t)
	app := sidecartest.NewApp(t, e.app)
	e.busy = sidecartest.Start(t, sidecartest.NewNetwork().Join("busy"), sidecartest.WithApp(app), sidecartest.Resources(sidecartest.Component("store", "state.in-memory")), sidecartest.With(func(o *sidecar.Options) {
		o.PublicPort, o.PublicListenAddress = public, "127.0.0.1"
		o.EnableMetrics, o.MetricsPort, o.MetricsListenAddress = true, metrics, "127.0.0.1"
		o.EnableProfiling, o.ProfilePort = true, profile
	}))
	e.secured = sidecartest.Start(t, sidecartest.NewNetwork().Join("secured"), sidecartest.WithApp(app), a.member())
	e.busy.WaitHealthy()
	e.secured.WaitHealthy()

	at := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	get := func(address, path string) func() error {
		return func() error {
			resp, body, err := raw(t, address, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if err != nil {
				return err
			}
			if resp.StatusCode >= 300 {
				return fmt.Errorf("%d %s", resp.StatusCode, body)
			}
			return nil
		}
	}
	peer := a.attack(t, e.secured, a.forge(friend, nil))
	clear := &attacker{t: t, address: e.busy.InternalAddress()}
	calls := func(p *attacker) func() error {
		return func() error {
			for _, way := range ways {
				if got := p.call(way, call{verb: "GET", method: "/m"}); got.status != 200 {
					return fmt.Errorf("%s: %s", way, got)
				}
			}
			return nil
		}
	}
	sentryTLS := a.attack(t, e.secured, nil).tls
	asks := a.client()
	const callLocal = internalsv1.ServiceInvocation_CallLocalStream_FullMethodName
	e.doors = []*door{
		{name: "HTTP API", address: e.busy.HTTPAddress(), http1: true, http2: true, path: "/v1.0/metadata", well: get(e.busy.HTTPAddress(), "/v1.0/metadata")},
		{name: "gRPC API", address: e.busy.GRPCAddress(), http2: true, method: healthv1.Health_Watch_FullMethodName, well: e.healthy(t)},
		{name: "internal port", address: e.busy.InternalAddress(), http1: true, http2: true, path: "/m", method: callLocal, well: calls(clear)},
		{name: "internal port with mTLS", address: e.secured.InternalAddress(), http1: true, http2: true, tls: peer.tls, path: "/m", method: callLocal, well: calls(peer)},
		{name: "public port", address: at(public), http1: true, path: "/v1.0/healthz", well: get(at(public), "/v1.0/healthz")},
		{name: "metrics port", address: at(metrics), http1: true, path: "/metrics", well: get(at(metrics), "/metrics")},
		{name: "profiling port", address: at(profile), http1: true, path: "/debug/pprof/cmdline", well: get(at(profile), "/debug/pprof/cmdline")},
		{name: "Sentry's gRPC", address: a.address, http2: true, tls: sentryTLS, method: sentryv1.CA_SignCertificate_FullMethodName, well: func() error {
			ask, _ := request(t, "somebody", "")
			ask.TokenValidator = sentryv1.SignCertificateRequest_INSECURE
			_, err := asks.SignCertificate(t.Context(), ask)
			return err
		}},
		{name: "Sentry's healthz", address: a.addresses.Healthz.String(), http1: true, path: "/healthz", well: get(a.addresses.Healthz.String(), "/healthz")},
		{name: "Sentry's metrics", address: a.addresses.Metrics.String(), http1: true, path: "/metrics", well: get(a.addresses.Metrics.String(), "/metrics")},
		{name: "Sentry's OIDC", address: a.addresses.OIDC.String(), http1: true, path: "/jwks.json", well: get(a.addresses.OIDC.String(), "/jwks.json")},
	}
	e.well(t, "before")
	return e
}

// healthy asks the gRPC API by a connection that is new each time.
func (e *estate) healthy(t testing.TB) func() error {
	return func() error {
		cc, err := grpc.NewClient("passthrough:///"+e.busy.GRPCAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer cc.Close()
		_, err = healthv1.NewHealthClient(cc).Check(t.Context(), &healthv1.HealthCheckRequest{})
		return err
	}
}

// well fails the test unless every port serves.
func (e *estate) well(t testing.TB, when string) {
	t.Helper()
	for _, d := range e.doors {
		if err := d.well(); err != nil {
			t.Errorf("%s does not serve others %s: %v", d.name, when, err)
		}
	}
}

// A message that unfolds to more than the limit is not unfolded, whoever it is for.
func TestCompressedMessages(t *testing.T) {
	m := newMansion(t, sidecartest.NewNetwork())
	zeros := &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, 8<<20)}}
	peer := m.attack(t, m.service, m.forge(friend, nil)).conn()
	sentry, err := grpc.NewClient("passthrough:///"+m.address, grpc.WithTransportCredentials(credentials.NewTLS(m.attack(t, m.service, nil).tls(mesh.ProtocolGRPC))))
	if err != nil {
		t.Fatal(err)
	}
	defer sentry.Close()
	for name, target := range map[string]struct {
		cc     *grpc.ClientConn
		method string
	}{
		"gRPC API":               {m.service.Conn(), runtimev1.Dapr_PublishEvent_FullMethodName},
		"gRPC API, health":       {m.web.Conn(), healthv1.Health_Check_FullMethodName},
		"gRPC API, own app":      {m.service.Conn(), testpb.TestService_UnaryCall_FullMethodName},
		"internal port":          {peer, internalsv1.ServiceInvocation_CallLocal_FullMethodName},
		"internal port, stream":  {peer, internalsv1.ServiceInvocation_CallLocalStream_FullMethodName},
		"internal port, proxied": {peer, testpb.TestService_UnaryCall_FullMethodName},
		"internal port, actors":  {peer, internalsv1.ServiceInvocation_CallActor_FullMethodName},
		"Sentry":                 {sentry, sentryv1.CA_SignCertificate_FullMethodName},
	} {
		ctx := to(t, "service")
		if strings.HasSuffix(name, "health") {
			ctx = t.Context()
		}
		err := target.cc.Invoke(ctx, target.method, zeros, &testpb.SimpleResponse{}, grpc.UseCompressor("gzip"))
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", name, err)
		}
	}
	if calls := m.rpc.take(); len(calls) != 0 {
		t.Errorf("the app got %d calls", len(calls))
	}
}
