package serving

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrigger.dev/identity"
	"outrigger.dev/identity/identitytest"
	"outrigger.dev/telemetry/logging/logtest"
)

// group is a group of a test, which ends with it.
func group(t *testing.T) (*Group, *logtest.Log) {
	t.Helper()
	log := &logtest.Log{}
	ctx, cancel := context.WithCancel(t.Context())
	g := NewGroup(ctx, "demo", log.Logger())
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(nil); err != nil {
			t.Error(err)
		}
		g.Close()
	})
	return g, log
}

func get(t *testing.T, method, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestObserve(t *testing.T) {
	g, log := group(t)
	local := Address{Host: "127.0.0.1"}
	part := g.Health.Target("a-part")
	healthz, metrics, err := g.Observe(Observed{Healthz: local, MetricsEnabled: true, Metrics: local}, MetricsHandler(NewMetrics()), map[string]http.Handler{
		"GET /panic": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("no") }),
	})
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + healthz.String()
	if code, body := get(t, "GET", base+"/healthz"); code != 503 || body != "not ready: [a-part]\n" {
		t.Errorf("%d %s", code, body)
	}
	part.Ready()
	if code, body := get(t, "GET", base+"/healthz"); code != 200 || body != "" {
		t.Errorf("%d %s", code, body)
	}
	if code, _ := get(t, "POST", base+"/healthz"); code != 405 {
		t.Errorf("POST: %d", code)
	}
	if code, body := get(t, "GET", base+"/panic"); code != 500 || body != "internal error of demo\n" || log.Count("Panic in an HTTP handler") != 1 {
		t.Errorf("%d %s", code, body)
	}
	if code, body := get(t, "GET", "http://"+metrics.String()+"/anything"); code != 200 || !strings.Contains(body, "go_goroutines") {
		t.Errorf("%d %s", code, body)
	}
}

func TestObserveWithoutMetrics(t *testing.T) {
	g, _ := group(t)
	_, metrics, err := g.Observe(Observed{Healthz: Address{Host: "127.0.0.1"}}, nil, nil)
	if ready, missing := g.Health.Status(); err != nil || metrics != nil || !ready {
		t.Errorf("%v %v %v", metrics, err, missing)
	}
}

func TestTakenPort(t *testing.T) {
	g, _ := group(t)
	taken, err := g.Listen("first", Address{Host: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.Listen("gRPC", Address{Host: "127.0.0.1", Port: taken.Addr().(*net.TCPAddr).Port})
	if err == nil || !strings.HasPrefix(err.Error(), "the gRPC port ") || !strings.HasSuffix(err.Error(), "; stop what holds it, or choose another") {
		t.Error(err)
	}
}

func TestGroupEnds(t *testing.T) {
	failure := errors.New("no luck")
	task := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	g := NewGroup(t.Context(), "demo", nil)
	g.Go(task)
	if err := g.Wait(failure); err != failure {
		t.Errorf("not started: %v", err)
	}
	g = NewGroup(t.Context(), "demo", nil)
	g.Go(task)
	g.Go(func(context.Context) error { return failure })
	if err := g.Wait(nil); err != failure {
		t.Errorf("failed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	g = NewGroup(ctx, "demo", nil)
	g.Go(task)
	cancel()
	if err := g.Wait(nil); err != nil {
		t.Errorf("ended: %v", err)
	}
}

// demo is a gRPC service that tells who calls, by Who and by the stream Whose.
var demo = grpc.ServiceDesc{
	ServiceName: "demo.Demo", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Who", Handler: func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		in := &wrapperspb.StringValue{}
		if err := decode(in); err != nil {
			return nil, err
		}
		return intercept(ctx, in, &grpc.UnaryServerInfo{FullMethod: "/demo.Demo/Who"}, func(ctx context.Context, _ any) (any, error) {
			switch p := identity.PeerFromContext(ctx); {
			case in.Value == "panic":
				panic("no")
			case in.Value == "wait":
				<-ctx.Done()
				return nil, status.FromContextError(ctx.Err()).Err()
			case p != nil:
				return wrapperspb.String(p.ID.AppID), nil
			}
			return wrapperspb.String("nobody"), nil
		})
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Whose", ServerStreams: true, Handler: func(any, grpc.ServerStream) error { panic("no") }}},
}

// serveDemo serves it and returns a connection.
func serveDemo(t *testing.T, g *Group, o GRPCOptions, client credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	listener, err := g.Listen("gRPC", Address{Host: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	server := NewGRPC(o)
	server.RegisterService(&demo, struct{}{})
	g.ServeGRPC(server, listener)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(client))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func who(t *testing.T, conn *grpc.ClientConn, text string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out := &wrapperspb.StringValue{}
	err := conn.Invoke(ctx, "/demo.Demo/Who", wrapperspb.String(text), out)
	return out.Value, err
}

func TestGRPC(t *testing.T) {
	g, log := group(t)
	conn := serveDemo(t, g, GRPCOptions{Name: "demo", MessageBytes: 1000, Request: 200 * time.Millisecond, Log: g.Log}, insecure.NewCredentials())
	if name, err := who(t, conn, ""); name != "nobody" || err != nil {
		t.Errorf("%s %v", name, err)
	}
	for text, code := range map[string]codes.Code{"panic": codes.Internal, "wait": codes.DeadlineExceeded, strings.Repeat("x", 1000): codes.ResourceExhausted} {
		if _, err := who(t, conn, text); status.Code(err) != code {
			t.Errorf("%.10s: %v, want %s", text, err, code)
		}
	}
	stream, err := conn.NewStream(t.Context(), &demo.Streams[0], "/demo.Demo/Whose")
	if err == nil {
		err = stream.CloseSend()
	}
	if err == nil {
		err = stream.RecvMsg(&emptypb.Empty{})
	}
	if status.Convert(err).Message() != "internal error of demo" || log.Count("Panic in /demo.Demo/") != 2 {
		t.Errorf("%v\n%s", err, log)
	}
}

func TestMutualTLS(t *testing.T) {
	g, _ := group(t)
	ca := identitytest.NewCA(t)
	id := identity.ID{TrustDomain: "td", Namespace: "ns", AppID: "dapr-demo"}
	s := MutualTLS(ca.NewSource(t, id.String()), id)
	if err := s.Start(g); err != nil {
		t.Fatal(err)
	}
	client := func(ca *identitytest.CA) credentials.TransportCredentials {
		return credentials.NewTLS(identity.NewTLS(ca.NewSource(t, "spiffe://td/ns/ns/shop"), nil).Client(identity.Exactly(id), "h2"))
	}
	if name, err := who(t, serveDemo(t, g, GRPCOptions{Credentials: s.GRPC()}, client(ca)), ""); name != "shop" || err != nil {
		t.Errorf("%s %v", name, err)
	}
	strangers := identitytest.NewCA(t)
	if name, err := who(t, serveDemo(t, g, GRPCOptions{Credentials: s.GRPC()}, client(strangers)), ""); err == nil {
		t.Errorf("a stranger is %s", name)
	}
}
