package invocation_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

// service is an app with methods of its own. Each field that is set serves the method of its kind.
type service struct {
	testpb.UnimplementedTestServiceServer
	unary  func(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error)
	output func(in *testpb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error
	input  func(s grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error
	duplex func(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error
}

func (s *service) UnaryCall(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return s.unary(ctx, in)
}

func (s *service) StreamingOutputCall(in *testpb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	return s.output(in, stream)
}

func (s *service) StreamingInputCall(stream grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	return s.input(stream)
}

func (s *service) FullDuplexCall(stream grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	return s.duplex(stream)
}

// startService serves the app and returns the option for its sidecar.
func startService(t testing.TB, s *service) sidecartest.Option {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.MaxSendMsgSize(64<<20))
	testpb.RegisterTestServiceServer(server, s)
	h := health.NewServer()
	h.SetServingStatus("of the app", healthv1.HealthCheckResponse_NOT_SERVING)
	healthv1.RegisterHealthServer(server, h)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	return appAt("grpc", l.Addr().(*net.TCPAddr).Port)
}

// proxyWorld is an app and two callers: another app's sidecar, and its own.
func proxyWorld(t *testing.T, s *service, each func(t *testing.T, c testpb.TestServiceClient, own bool), options ...sidecartest.Option) {
	d := newDirectory(t)
	callee := sidecartest.Start(t, append([]sidecartest.Option{d.join("app", false), startService(t, s)}, options...)...)
	caller := sidecartest.Start(t, append([]sidecartest.Option{d.join("caller", false)}, options...)...)
	callee.WaitHealthy()
	t.Run("remote", func(t *testing.T) { each(t, testpb.NewTestServiceClient(caller.Conn()), false) })
	t.Run("own", func(t *testing.T) { each(t, testpb.NewTestServiceClient(callee.Conn()), true) })
}

// to is a context of a call for an app, with more metadata in pairs.
func to(t testing.TB, target string, pairs ...string) context.Context {
	return metadata.AppendToOutgoingContext(withTimeout(t), append([]string{"dapr-app-id", target}, pairs...)...)
}

func body(text string) *testpb.Payload { return &testpb.Payload{Body: []byte(text)} }

// What apps see of a proxied call, and what clients see of its answer.
func TestProxiedMetadata(t *testing.T) {
	type visit struct {
		md       metadata.MD
		deadline bool
		method   string
	}
	visits := make(chan visit, 1)
	s := &service{unary: func(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		_, deadline := ctx.Deadline()
		method, _ := grpc.Method(ctx)
		visits <- visit{md, deadline, method}
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-head", "1", "x-head", "2", "x-head-bin", "\x00\xff"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trail", "t", "x-trail-bin", "\x01\xfe"))
		if in.GetResponseStatus() != nil {
			st, err := status.New(codes.Code(in.ResponseStatus.Code), in.ResponseStatus.Message).WithDetails(&errdetails.ErrorInfo{Reason: "R", Domain: "D"}, &emptypb.Empty{})
			if err != nil {
				return nil, err
			}
			return nil, st.Err()
		}
		return &testpb.SimpleResponse{Payload: in.GetPayload()}, nil
	}}
	tokens := sidecartest.With(func(o *sidecar.Options) { o.AppToken = "app's" })
	proxyWorld(t, s, func(t *testing.T, c testpb.TestServiceClient, own bool) {
		sent := []string{
			"x-twice", "1", "x-twice", "2", "x-data-bin", "\x00\x01\xff", "authorization", "Bearer b", "x-forwarded-for", "1.2.3.4",
			"dapr-caller-app-id", "forged", "dapr-caller-namespace", "forged", "dapr-callee-app-id", "other", "destination-app-id", "forged",
			"dapr-api-token", "client's", "dapr-stream", "false", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		}
		for _, failing := range []bool{false, true} {
			in := &testpb.SimpleRequest{Payload: body("hello")}
			if failing {
				in.ResponseStatus = &testpb.EchoStatus{Code: int32(codes.DataLoss), Message: "lost \u00e4"}
			}
			var header, trailer metadata.MD
			out, err := c.UnaryCall(to(t, "app", sent...), in, grpc.Header(&header), grpc.Trailer(&trailer))
			if failing {
				st := status.Convert(err)
				if st.Code() != codes.DataLoss || st.Message() != "lost \u00e4" || len(st.Details()) != 2 {
					t.Errorf("the app's error came as %v with %v", err, st.Details())
				}
			} else if err != nil || string(out.GetPayload().GetBody()) != "hello" {
				t.Fatalf("got %v, %v", out, err)
			}
			for name, want := range map[string][]string{"x-head": {"1", "2"}, "x-head-bin": {"\x00\xff"}} {
				if !slices.Equal(header[name], want) {
					t.Errorf("failing=%v: header %s is %q", failing, name, header[name])
				}
			}
			for name, want := range map[string][]string{"x-trail": {"t"}, "x-trail-bin": {"\x01\xfe"}} {
				if !slices.Equal(trailer[name], want) {
					t.Errorf("failing=%v: trailer %s is %q", failing, name, trailer[name])
				}
			}
			seen := wait(t, visits, "the call")
			want := map[string][]string{
				"x-twice": {"1", "2"}, "x-data-bin": {"\x00\x01\xff"}, "authorization": {"Bearer b"}, "x-forwarded-for": {"1.2.3.4"},
				"dapr-app-id": nil, "dapr-caller-namespace": nil, "destination-app-id": nil, "dapr-caller-app-id": {"caller"}, "dapr-callee-app-id": {"app"},
				"dapr-api-token": {"app's"}, "dapr-stream": {"false"}, ":authority": {seen.md[":authority"][0]},
			}
			if own {
				want["dapr-caller-app-id"], want["dapr-callee-app-id"] = nil, nil
			}
			for name, values := range want {
				if !slices.Equal(seen.md[name], values) {
					t.Errorf("the app sees %s: %q, want %q", name, seen.md[name], values)
				}
			}
			if parent := seen.md["traceparent"]; len(parent) != 1 || !strings.HasPrefix(parent[0], "00-0af7651916cd43dd8448eb211c80319c-") || len(seen.md["grpc-trace-bin"]) != 1 {
				t.Errorf("the app sees the trace %q, %q", parent, seen.md["grpc-trace-bin"])
			}
			if !seen.deadline || seen.method != testpb.TestService_UnaryCall_FullMethodName {
				t.Errorf("the app sees a deadline: %v, the method %s", seen.deadline, seen.method)
			}
		}
	}, tokens)
}

// All kinds of calls go through, message by message.
func TestProxiedStreams(t *testing.T) {
	s := &service{
		output: func(in *testpb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
			for i := range 3 {
				if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: body(fmt.Sprint(string(in.GetPayload().GetBody()), i))}); err != nil {
					return err
				}
			}
			return nil
		},
		input: func(s grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
			n := 0
			for {
				in, err := s.Recv()
				if err == io.EOF {
					return s.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(n)})
				}
				if err != nil {
					return err
				}
				n += len(in.GetPayload().GetBody())
			}
		},
		duplex: func(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
			// The header is sent before the client says anything.
			if err := s.SendHeader(metadata.Pairs("x-early", "yes")); err != nil {
				return err
			}
			for {
				in, err := s.Recv()
				if err == io.EOF {
					s.SetTrailer(metadata.Pairs("x-trail", "t"))
					return s.Send(&testpb.StreamingOutputCallResponse{Payload: body("after the end")})
				}
				if err != nil {
					return err
				}
				if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
					return err
				}
			}
		},
	}
	proxyWorld(t, s, func(t *testing.T, c testpb.TestServiceClient, _ bool) {
		out, err := c.StreamingOutputCall(to(t, "app"), &testpb.StreamingOutputCallRequest{Payload: body("m")})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			m, err := out.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(m.GetPayload().GetBody()))
		}
		if want := []string{"m0", "m1", "m2"}; !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}

		in, err := c.StreamingInputCall(to(t, "app.default"))
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if err := in.Send(&testpb.StreamingInputCallRequest{Payload: body("four")}); err != nil {
				t.Fatal(err)
			}
		}
		if m, err := in.CloseAndRecv(); err != nil || m.AggregatedPayloadSize != 20 {
			t.Errorf("got %v, %v", m, err)
		}

		both, err := c.FullDuplexCall(to(t, "app", "dapr-stream", "true"))
		if err != nil {
			t.Fatal(err)
		}
		if header, err := both.Header(); err != nil || !slices.Equal(header["x-early"], []string{"yes"}) {
			t.Errorf("the early header: %v, %v", header, err)
		}
		for i := range 3 { // each answer before the next message
			text := fmt.Sprint(i)
			if err := both.Send(&testpb.StreamingOutputCallRequest{Payload: body(text)}); err != nil {
				t.Fatal(err)
			}
			if m, err := both.Recv(); err != nil || string(m.GetPayload().GetBody()) != text {
				t.Fatalf("got %v, %v", m, err)
			}
		}
		if err := both.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if m, err := both.Recv(); err != nil || string(m.GetPayload().GetBody()) != "after the end" {
			t.Errorf("after half-close: %v, %v", m, err)
		}
		if _, err := both.Recv(); err != io.EOF || !slices.Equal(both.Trailer()["x-trail"], []string{"t"}) {
			t.Errorf("the end: %v, %v", err, both.Trailer())
		}
	})
}

// Deadlines and cancellations of clients reach the app; the end of the app's call reaches a client that still sends.
func TestProxiedEnds(t *testing.T) {
	ended := make(chan error, 1)
	s := &service{
		unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		},
		duplex: func(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
			if _, err := s.Recv(); err != nil {
				return err
			}
			return status.Error(codes.OutOfRange, "enough")
		},
	}
	proxyWorld(t, s, func(t *testing.T, c testpb.TestServiceClient, _ bool) {
		ctx, cancel := context.WithCancel(to(t, "app"))
		stop := time.AfterFunc(50*time.Millisecond, cancel)
		defer stop.Stop()
		if _, err := c.UnaryCall(ctx, &testpb.SimpleRequest{}); status.Code(err) != codes.Canceled {
			t.Errorf("cancelled: %v", err)
		}
		if err := wait(t, ended, "the cancellation"); !errors.Is(err, context.Canceled) {
			t.Errorf("the app saw %v", err)
		}
		ctx, cancel = context.WithTimeout(to(t, "app"), 100*time.Millisecond)
		defer cancel()
		if _, err := c.UnaryCall(ctx, &testpb.SimpleRequest{}); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("too late: %v", err)
		}
		wait(t, ended, "the deadline")
		both, err := c.FullDuplexCall(to(t, "app"))
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			err = both.Send(&testpb.StreamingOutputCallRequest{Payload: body("more")})
		}
		if _, err := both.Recv(); status.Code(err) != codes.OutOfRange || status.Convert(err).Message() != "enough" {
			t.Errorf("got %v", err)
		}
	})
}

// --max-body-size bounds every message in both directions.
func TestProxiedLimit(t *testing.T) {
	s := &service{
		unary: func(_ context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			return &testpb.SimpleResponse{Payload: body(strings.Repeat("x", int(in.GetResponseSize())))}, nil
		},
	}
	limit := sidecartest.With(func(o *sidecar.Options) { o.MaxBodySize = 100 << 10 })
	proxyWorld(t, s, func(t *testing.T, c testpb.TestServiceClient, _ bool) {
		for name, c1 := range map[string]struct {
			sent, received int
			want           codes.Code
		}{
			"within":             {99 << 10, 99 << 10, codes.OK},
			"request too large":  {101 << 10, 0, codes.ResourceExhausted},
			"response too large": {0, 101 << 10, codes.ResourceExhausted},
		} {
			_, err := c.UnaryCall(to(t, "app"), &testpb.SimpleRequest{Payload: body(strings.Repeat("x", c1.sent)), ResponseSize: int32(c1.received)})
			if status.Code(err) != c1.want {
				t.Errorf("%s: %v", name, err)
			}
		}
	}, limit)
}

// Texts and codes of calls that cannot be proxied.
func TestProxyErrors(t *testing.T) {
	d := newDirectory(t)
	webApp := sidecartest.Start(t, d.join("web", false), startHTTP(t, "http", http.HandlerFunc(httpApp)))
	webApp.WaitHealthy()
	sidecartest.Start(t, d.join("none", false))
	lied := sidecartest.Start(t, d.join("liar", false))
	_ = lied
	d.put("victim", d.address("liar", false))
	d.put("gone", "127.0.0.1:1")
	caller := sidecartest.Start(t, d.join("caller", false))
	c := testpb.NewTestServiceClient(caller.Conn())
	for target, want := range map[string]struct {
		code codes.Code
		text string
	}{
		"nobody": {codes.Unknown, "couldn't find service: nobody"},
		"a.b.c":  {codes.Unknown, "invalid app id a.b.c"},
		"web":    {codes.Unavailable, "--app-protocol http"},
		"none":   {codes.Unavailable, "without --app-port"},
		"caller": {codes.Unavailable, "without --app-port"},
		"gone":   {codes.Unavailable, "connection refused"},
		"victim": {codes.Unavailable, "this is the sidecar of app liar, not of victim"},
	} {
		_, err := c.UnaryCall(to(t, target), &testpb.SimpleRequest{})
		if st := status.Convert(err); st.Code() != want.code || !strings.Contains(st.Message(), want.text) {
			t.Errorf("%s: %v, want %s %s", target, err, want.code, want.text)
		}
	}
	_, err := c.UnaryCall(withTimeout(t), &testpb.SimpleRequest{})
	if st := status.Convert(err); st.Code() != codes.Unknown || st.Message() != "cannot proxy request: missing dapr-callee-app-id or dapr-app-id metadata" {
		t.Errorf("without a target: %v", err)
	}
	internal, err := grpc.NewClient("passthrough:///"+d.address("web", false), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer internal.Close()
	err = internal.Invoke(metadata.AppendToOutgoingContext(withTimeout(t), "dapr-callee-app-id", "web"), "/a/b%01?c", &emptypb.Empty{}, &emptypb.Empty{})
	if status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), "invalid method: ") {
		t.Errorf("an invalid method: %v", err)
	}
}

// The sidecar's health is its own, unless an app's is asked for.
func TestProxiedHealth(t *testing.T) {
	d := newDirectory(t)
	app := sidecartest.Start(t, d.join("app", false), startService(t, &service{}))
	app.WaitHealthy()
	caller := sidecartest.Start(t, d.join("caller", false))
	h := healthv1.NewHealthClient(caller.Conn())
	if out, err := h.Check(withTimeout(t), &healthv1.HealthCheckRequest{}); err != nil || out.Status != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("the sidecar's own: %v, %v", out, err)
	}
	if _, err := h.Check(withTimeout(t), &healthv1.HealthCheckRequest{Service: "of the app"}); status.Code(err) != codes.NotFound {
		t.Errorf("the sidecar does not know it: %v", err)
	}
	if out, err := h.Check(to(t, "app"), &healthv1.HealthCheckRequest{Service: "of the app"}); err != nil || out.Status != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("the app's: %v, %v", out, err)
	}
	for _, c := range []struct {
		ctx  context.Context
		want healthv1.HealthCheckResponse_ServingStatus
	}{{withTimeout(t), healthv1.HealthCheckResponse_SERVICE_UNKNOWN}, {to(t, "app"), healthv1.HealthCheckResponse_NOT_SERVING}} {
		w, err := h.Watch(c.ctx, &healthv1.HealthCheckRequest{Service: "of the app"})
		if err != nil {
			t.Fatal(err)
		}
		if out, err := w.Recv(); err != nil || out.Status != c.want {
			t.Errorf("watching: %v, %v, want %s", out, err, c.want)
		}
	}
}

// A stream without an end does not keep either sidecar from a clean end.
func TestProxiedShutdown(t *testing.T) {
	s := &service{duplex: func(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
		if err := s.SendHeader(metadata.Pairs("x-began", "yes")); err != nil {
			return err
		}
		<-s.Context().Done()
		return s.Context().Err()
	}}
	for _, which := range []string{"caller", "callee"} {
		d := newDirectory(t)
		grace := sidecartest.With(func(o *sidecar.Options) { o.GracefulShutdown = 2 * time.Second })
		callee := sidecartest.Start(t, d.join("app", false), startService(t, s), grace)
		callee.WaitHealthy()
		caller := sidecartest.Start(t, d.join("caller", false), grace)
		conn, err := grpc.NewClient(caller.Conn().Target(), grpc.WithTransportCredentials(insecure.NewCredentials())) // one that Stop does not close
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		both, err := testpb.NewTestServiceClient(conn).FullDuplexCall(to(t, "app"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := both.Header(); err != nil {
			t.Fatal(err)
		}
		stopping := map[string]*sidecartest.Sidecar{"caller": caller, "callee": callee}[which]
		stopped := make(chan error, 1)
		go func() { stopped <- stopping.Stop() }()
		if _, err := both.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(status.Convert(err).Message(), "is shutting down") {
			t.Errorf("%s: %v", which, err)
		}
		if err := wait(t, stopped, "the end of the "+which); err != nil {
			t.Errorf("%s: %v", which, err)
		}
	}
}

// BenchmarkProxied is a unary call of 1 KiB through two sidecars, beside the same call made directly.
func BenchmarkProxied(b *testing.B) {
	s := &service{unary: func(_ context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		return &testpb.SimpleResponse{Payload: in.GetPayload()}, nil
	}}
	d := newDirectory(b)
	var port int
	serve := startService(b, s)
	callee := sidecartest.Start(b, d.join("app", false), serve, sidecartest.With(func(o *sidecar.Options) { port = o.AppPort }))
	callee.WaitHealthy()
	direct, err := grpc.NewClient(fmt.Sprintf("passthrough:///127.0.0.1:%d", port), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer direct.Close()
	caller := sidecartest.Start(b, d.join("caller", false))
	in := &testpb.SimpleRequest{Payload: body(strings.Repeat("x", 1<<10))}
	for _, c := range []struct {
		name string
		conn *grpc.ClientConn
	}{{"direct", direct}, {"proxied", caller.Conn()}} {
		client := testpb.NewTestServiceClient(c.conn)
		ctx := metadata.AppendToOutgoingContext(context.Background(), "dapr-app-id", "app")
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := client.UnaryCall(ctx, in); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
