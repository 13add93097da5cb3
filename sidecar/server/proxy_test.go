package server

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/tracing"
)

// serveAPI starts a server and returns a connection to it.
func serveAPI(t *testing.T, o GRPCOptions) *grpc.ClientConn {
	o.Dapr, o.MaxMessageBytes = &runtimev1.UnimplementedDaprServer{}, 1<<20
	s := NewGRPC(o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		<-done
	})
	return conn
}

// Methods that the server does not have go to the proxy, if they are for an app; the health of apps does too.
func TestProxied(t *testing.T) {
	proxied := make(chan metadata.MD, 1)
	proxy := func(_ any, ss grpc.ServerStream) error {
		var f invocation.Frame
		if err := ss.RecvMsg(&f); err != nil {
			return err
		}
		md, _ := metadata.FromIncomingContext(ss.Context())
		proxied <- md
		return ss.SendMsg(&f)
	}
	const (
		missing = "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"
		traced  = "cannot proxy request: missing dapr-callee-app-id or dapr-app-id metadata"
		early   = "failed to proxy request: proxy not initialized. daprd startup may be incomplete"
		check   = healthv1.Health_Check_FullMethodName
	)
	for _, c := range []struct {
		name   string
		o      GRPCOptions
		method string
		pairs  []string
		code   codes.Code
		text   string
		passed bool
	}{
		{name: "for an app", o: GRPCOptions{Proxy: proxy}, method: "/a.B/C", pairs: []string{"dapr-app-id", "x"}, passed: true},
		{name: "for a callee", o: GRPCOptions{Proxy: proxy}, method: "/a.B/C", pairs: []string{"dapr-callee-app-id", "x"}, passed: true},
		{name: "unknown method", o: GRPCOptions{Proxy: proxy}, method: "/dapr.proto.runtime.v1.Dapr/Nothing", pairs: []string{"dapr-app-id", "x"}, passed: true},
		{name: "an app's health", o: GRPCOptions{Proxy: proxy}, method: check, pairs: []string{"dapr-app-id", "x"}, passed: true},
		{name: "own health", o: GRPCOptions{Proxy: proxy}, method: check},
		{name: "own method", o: GRPCOptions{Proxy: proxy}, method: "/dapr.proto.runtime.v1.Dapr/GetState", pairs: []string{"dapr-app-id", "x"}, code: codes.Unimplemented, text: "method GetState not implemented"},
		{name: "for nobody", o: GRPCOptions{Proxy: proxy}, method: "/a.B/C", code: codes.Unknown, text: missing},
		{name: "for nobody, traced", o: GRPCOptions{Proxy: proxy, Tracer: tracing.PassThrough()}, method: "/a.B/C", code: codes.Unknown, text: traced},
		{name: "for nobody, Dapr's", o: GRPCOptions{Proxy: proxy, Tracer: tracing.PassThrough()}, method: "/dapr.proto.x/C", code: codes.Unknown, text: missing},
		{name: "too early", method: "/a.B/C", pairs: []string{"dapr-app-id", "x"}, code: codes.Unknown, text: early},
		{name: "without the token", o: GRPCOptions{Proxy: proxy, Token: "t"}, method: "/a.B/C", pairs: []string{"dapr-app-id", "x"}, code: codes.Unauthenticated, text: "Unauthorized"},
		{name: "health without the token", o: GRPCOptions{Proxy: proxy, Token: "t"}, method: check, pairs: []string{"dapr-app-id", "x"}, code: codes.Unauthenticated, text: "Unauthorized"},
		{name: "with the token", o: GRPCOptions{Proxy: proxy, Token: "t"}, method: "/a.B/C", pairs: []string{"dapr-app-id", "x", "dapr-api-token", "t"}, passed: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := serveAPI(t, c.o)
			ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), c.pairs...), 10*time.Second)
			defer cancel()
			err := conn.Invoke(ctx, c.method, &emptypb.Empty{}, &emptypb.Empty{})
			if st := status.Convert(err); st.Code() != c.code || st.Message() != c.text {
				t.Errorf("got %v, want %s %s", err, c.code, c.text)
			}
			select {
			case md := <-proxied:
				if !c.passed {
					t.Errorf("it was proxied")
				}
				if len(md["dapr-api-token"]) > 0 {
					t.Errorf("the token is passed on: %v", md)
				}
			default:
				if c.passed {
					t.Errorf("it was not proxied")
				}
			}
		})
	}
}
