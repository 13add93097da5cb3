package invoke

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/components/nameresolution"
	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/resiliency"
	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics/metricstest"
)

// within is a context for one test.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// listen serves on loopback until the test ends.
func listen(t testing.TB, s *grpc.Server) *grpc.ClientConn {
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

// upstream is what the block passes calls on to: an app of the test, reached after the failures in script.
type upstream struct {
	conn *grpc.ClientConn
	mu   sync.Mutex
	// script are the results of opening streams, one by one; nil opens it, as do all after them.
	script []error
	opened []mesh.Target
	// hang makes opening a stream wait for the end of its context.
	hang atomic.Bool
	// streams are those that are not ended.
	streams atomic.Int32
}

func (u *upstream) NewStream(ctx context.Context, target mesh.Target, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	u.mu.Lock()
	u.opened = append(u.opened, target)
	var err error
	if n := len(u.opened); n <= len(u.script) {
		err = u.script[n-1]
	}
	u.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if u.hang.Load() {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	u.streams.Add(1)
	options = append(options, grpc.ForceCodecV2(invocation.FrameCodec()), grpc.OnFinish(func(error) { u.streams.Add(-1) }))
	return u.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, options...)
}

// own is an upstream as the own app.
type own struct{ *upstream }

func (o own) NewStream(ctx context.Context, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return o.upstream.NewStream(ctx, mesh.Target{}, method, options...)
}

// testApp serves calls one by one as its script says, the last entry again and again.
type testApp struct {
	testpb.UnimplementedTestServiceServer
	calls  atomic.Int32
	script []func(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error
	seen   chan metadata.MD
}

func (a *testApp) FullDuplexCall(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	n := int(a.calls.Add(1))
	if a.seen != nil {
		md, _ := metadata.FromIncomingContext(s.Context())
		a.seen <- md
	}
	return a.script[min(n, len(a.script))-1](s)
}

type duplex = grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]

// proxyBench is a block between a client and an app.
type proxyBench struct {
	app    *testApp
	up     *upstream
	block  *Block
	client testpb.TestServiceClient
	// internal is a client of the internal port.
	internal testpb.TestServiceClient
}

func newProxyBench(t testing.TB, o Options, script ...func(duplex) error) *proxyBench {
	x := &proxyBench{app: &testApp{script: script}}
	s := grpc.NewServer()
	testpb.RegisterTestServiceServer(s, x.app)
	x.up = &upstream{conn: listen(t, s)}
	o.AppID, o.Namespace, o.Streams, o.Forward = "me", "default", x.up, own{x.up}
	if o.Resolver == nil {
		o.Resolver = &resolver{}
	}
	x.block = New(o)
	t.Cleanup(x.block.Close) // after the servers below
	codec := grpc.ForceServerCodecV2(invocation.FrameCodec())
	x.client = testpb.NewTestServiceClient(listen(t, grpc.NewServer(codec, grpc.UnknownServiceHandler(x.block.Proxy))))
	x.internal = testpb.NewTestServiceClient(listen(t, grpc.NewServer(codec, grpc.UnknownServiceHandler(x.block.ReceiveProxied))))
	return x
}

func message(text string) *testpb.StreamingOutputCallRequest {
	return &testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: []byte(text)}}
}

func replying(text string) func(duplex) error {
	return func(s duplex) error {
		if err := s.SetHeader(metadata.Pairs("x-head", text)); err != nil {
			return err
		}
		s.SetTrailer(metadata.Pairs("x-trail", text))
		for {
			in, err := s.Recv()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: append([]byte(text), in.GetPayload().GetBody()...)}}); err != nil {
				return err
			}
		}
	}
}

func refuse(code codes.Code, text string) func(duplex) error {
	return func(s duplex) error {
		_ = s.SetHeader(metadata.Pairs("x-head", text))
		s.SetTrailer(metadata.Pairs("x-trail", text))
		return status.Error(code, text)
	}
}

// exchange makes a call with some messages and returns what came back.
func (x *proxyBench) exchange(ctx context.Context, c testpb.TestServiceClient, messages ...string) (got []string, header, trailer metadata.MD, err error) {
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, m := range messages {
		if err := s.Send(message(m)); err != nil {
			break
		}
	}
	_ = s.CloseSend()
	for {
		m, err := s.Recv()
		if err != nil {
			header, _ := s.Header()
			if err == io.EOF {
				err = nil
			}
			return got, header, s.Trailer(), err
		}
		got = append(got, string(m.GetPayload().GetBody()))
	}
}

func TestProxyPolicies(t *testing.T) {
	gone := status.Error(codes.Unavailable, "gone")
	timeout := policies("other", func(p *resource.Policies, names *resource.AppTarget) { p.Timeouts["t"], names.Timeout = "100ms", "t" })
	both := policies("other", func(p *resource.Policies, names *resource.AppTarget) {
		n := 3
		p.Timeouts["t"], names.Timeout = "100ms", "t"
		p.Retries["r"], names.Retry = resource.Retry{Duration: "1ms", MaxRetries: &n}, "r"
	})
	slow := func(s duplex) error {
		<-s.Context().Done()
		return s.Context().Err()
	}
	for name, c := range map[string]struct {
		engine   *resiliency.Engine
		script   []func(duplex) error
		opening  []error
		stream   bool
		messages []string

		got          []string
		head, trail  string
		code         codes.Code
		text         string
		calls, opens int
	}{
		"without policies one call": {script: []func(duplex) error{refuse(codes.Unavailable, "no")}, messages: []string{"a"}, head: "no", trail: "no", code: codes.Unavailable, text: "no", calls: 1, opens: 1},
		"one more try to connect":   {script: []func(duplex) error{replying("r")}, opening: []error{gone}, messages: []string{"a", "b"}, got: []string{"ra", "rb"}, head: "r", trail: "r", calls: 1, opens: 2},
		"and not two":               {script: []func(duplex) error{replying("r")}, opening: []error{gone, gone}, messages: []string{"a"}, code: codes.Unavailable, text: "gone", opens: 2},
		"retried until it works": {
			engine: retrying("other", 5, "", ""), script: []func(duplex) error{refuse(codes.Aborted, "1"), refuse(codes.NotFound, "2"), replying("3")}, messages: []string{"a"},
			got: []string{"3a"}, head: "3", trail: "3", calls: 3, opens: 3,
		},
		"the last error": {
			engine: retrying("other", 1, "", ""), script: []func(duplex) error{refuse(codes.Aborted, "1"), refuse(codes.NotFound, "2")}, messages: []string{"a"},
			head: "2", trail: "2", code: codes.NotFound, text: "2", calls: 2, opens: 2,
		},
		"only these codes": {
			engine: retrying("other", 5, "", "10"), script: []func(duplex) error{refuse(codes.Aborted, "1"), refuse(codes.NotFound, "2")}, messages: []string{"a"},
			head: "2", trail: "2", code: codes.NotFound, text: "2", calls: 2, opens: 2,
		},
		"without a message": {engine: retrying("other", 5, "", ""), script: []func(duplex) error{refuse(codes.Aborted, "1"), replying("2")}, head: "2", trail: "2", calls: 2, opens: 2},
		"two messages cannot be kept": {
			engine: retrying("other", 5, "", ""), script: []func(duplex) error{slow}, messages: []string{"a", "b"},
			code: codes.FailedPrecondition, text: "cannot use resiliency policies with retries on streaming RPCs", calls: -1, opens: -1,
		},
		"half an answer is not repeated": {engine: retrying("other", 5, "", ""), script: []func(duplex) error{func(s duplex) error {
			if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: []byte("half")}}); err != nil {
				return err
			}
			return gone
		}}, messages: []string{"a"}, got: []string{"half"}, code: codes.Unavailable, text: "gone", calls: 1, opens: 1},
		"streams go on by themselves": {engine: retrying("other", 5, "", ""), stream: true, script: []func(duplex) error{replying("r")}, messages: []string{"a", "b"}, got: []string{"ra", "rb"}, head: "r", trail: "r", calls: 1, opens: 1},
		"connecting streams is retried": {
			engine: retrying("other", 5, "", ""), stream: true, opening: []error{gone, gone, gone, gone}, script: []func(duplex) error{replying("r")}, messages: []string{"a", "b"},
			got: []string{"ra", "rb"}, head: "r", trail: "r", calls: 1, opens: 5,
		},
		"calling streams is not": {engine: retrying("other", 5, "", ""), stream: true, script: []func(duplex) error{refuse(codes.Unavailable, "no")}, head: "no", trail: "no", code: codes.Unavailable, text: "no", calls: 1, opens: 1},
		"too late":               {engine: timeout, script: []func(duplex) error{slow}, messages: []string{"a"}, code: codes.DeadlineExceeded, text: "context deadline exceeded", calls: 1, opens: 1},
		"too late and again":     {engine: both, script: []func(duplex) error{slow, replying("r")}, messages: []string{"a"}, got: []string{"ra"}, head: "r", trail: "r", calls: 2, opens: 2},
		"streams have time": {engine: timeout, stream: true, script: []func(duplex) error{func(s duplex) error {
			<-time.After(200 * time.Millisecond)
			return replying("r")(s)
		}}, messages: []string{"a"}, got: []string{"ra"}, head: "r", trail: "r", calls: 1, opens: 1},
		"another app's policy": {engine: retrying("another", 5, "", ""), script: []func(duplex) error{refuse(codes.Aborted, "1")}, head: "1", trail: "1", code: codes.Aborted, text: "1", calls: 1, opens: 1},
	} {
		t.Run(name, func(t *testing.T) {
			x := newProxyBench(t, Options{Resiliency: c.engine}, c.script...)
			x.up.script = c.opening
			ctx := metadata.AppendToOutgoingContext(within(t), "dapr-app-id", "other")
			if c.stream {
				ctx = metadata.AppendToOutgoingContext(ctx, "dapr-stream", "Yes")
			}
			got, header, trailer, err := x.exchange(ctx, x.client, c.messages...)
			if status.Code(err) != c.code || err != nil && status.Convert(err).Message() != c.text {
				t.Errorf("got %v, want %s %s", err, c.code, c.text)
			}
			if !slices.Equal(got, c.got) {
				t.Errorf("got %q, want %q", got, c.got)
			}
			for what, v := range map[string][2]string{"header": {first(header, "x-head"), c.head}, "trailer": {first(trailer, "x-trail"), c.trail}} {
				if v[0] != v[1] {
					t.Errorf("the %s is %q, want %q", what, v[0], v[1])
				}
			}
			if n := len(header["x-head"]) + len(trailer["x-trail"]); n > 2 {
				t.Errorf("repeated: %v, %v", header, trailer)
			}
			x.up.mu.Lock()
			if n := int(x.app.calls.Load()); c.calls >= 0 && (n != c.calls || len(x.up.opened) != c.opens) {
				t.Errorf("%d calls, %d streams opened, want %d, %d", n, len(x.up.opened), c.calls, c.opens)
			}
			x.up.mu.Unlock()
			for deadline := time.Now().Add(5 * time.Second); x.up.streams.Load() != 0; {
				if time.Now().After(deadline) {
					t.Fatalf("%d streams go on", x.up.streams.Load())
				}
				<-time.After(time.Millisecond)
			}
		})
	}
}

func TestProxyBreaker(t *testing.T) {
	engine := policies("other", func(p *resource.Policies, names *resource.AppTarget) {
		p.CircuitBreakers["c"], names.CircuitBreaker = resource.CircuitBreaker{Trip: "consecutiveFailures >= 2", Timeout: "1h"}, "c"
	})
	x := newProxyBench(t, Options{Resiliency: engine}, refuse(codes.Aborted, "no"))
	ctx := metadata.AppendToOutgoingContext(within(t), "dapr-app-id", "other")
	for i, want := range []codes.Code{codes.Aborted, codes.Aborted, codes.Unknown} {
		_, _, trailer, err := x.exchange(ctx, x.client, "a")
		if status.Code(err) != want {
			t.Errorf("call %d: %v", i, err)
		}
		if want == codes.Unknown && (status.Convert(err).Message() != "circuit breaker is open" || len(trailer["x-trail"]) > 0) {
			t.Errorf("got %v with %v", err, trailer)
		}
	}
}

// A stream that cannot be set up in time fails, though once set up it has no limit.
func TestProxyStreamTimeout(t *testing.T) {
	engine := policies("other", func(p *resource.Policies, names *resource.AppTarget) { p.Timeouts["t"], names.Timeout = "50ms", "t" })
	x := newProxyBench(t, Options{Resiliency: engine}, replying("r"))
	x.up.hang.Store(true)
	ctx := metadata.AppendToOutgoingContext(within(t), "dapr-app-id", "other", "dapr-stream", "true")
	if _, _, _, err := x.exchange(ctx, x.client, "a"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

// A client that goes away ends the call upstream, under each kind of policy.
func TestProxyClientGone(t *testing.T) {
	for name, engine := range map[string]*resiliency.Engine{"none": nil, "retries": retrying("other", 5, "", "")} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 8)
			x := newProxyBench(t, Options{Resiliency: engine}, func(s duplex) error {
				_, _ = s.Recv()
				<-s.Context().Done()
				ended <- s.Context().Err()
				return nil
			})
			ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(within(t), "dapr-app-id", "other"))
			s, err := x.client.FullDuplexCall(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Send(message("a")); err != nil {
				t.Fatal(err)
			}
			for x.app.calls.Load() == 0 {
				<-time.After(time.Millisecond)
			}
			cancel()
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("the app's call goes on")
			}
			if n := x.app.calls.Load(); n != 1 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// The client's encoding of messages is named to the app, and compressed messages arrive.
func TestProxyEncodings(t *testing.T) {
	x := newProxyBench(t, Options{}, replying("r"))
	x.app.seen = make(chan metadata.MD, 1)
	for _, key := range []string{"other", "me"} {
		s, err := x.client.FullDuplexCall(metadata.AppendToOutgoingContext(within(t), "dapr-app-id", key), grpc.CallContentSubtype("proto"), grpc.UseCompressor(gzip.Name))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(message("a")); err != nil {
			t.Fatal(err)
		}
		if m, err := s.Recv(); err != nil || string(m.GetPayload().GetBody()) != "ra" {
			t.Errorf("%s: got %v, %v", key, m, err)
		}
		if md := <-x.app.seen; !slices.Equal(md["content-type"], []string{"application/grpc+proto"}) {
			t.Errorf("%s: the app sees %v", key, md)
		}
		_ = s.CloseSend()
		if _, err := s.Recv(); err != io.EOF {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// Each message is bounded, whichever side sends it.
func TestProxyLimit(t *testing.T) {
	for name, engine := range map[string]*resiliency.Engine{"none": nil, "retries": retrying("other", 5, "", "")} {
		x := newProxyBench(t, Options{Resiliency: engine, MaxBodyBytes: 100}, replying("r"))
		_, _, _, err := x.exchange(metadata.AppendToOutgoingContext(within(t), "dapr-app-id", "other"), x.client, strings.Repeat("x", 101))
		if status.Code(err) != codes.ResourceExhausted || !strings.HasPrefix(status.Convert(err).Message(), "grpc: received message larger than max (") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Proxied calls of other apps count as invocations at the caller, and all as gRPC calls: of the server there, of the client at
// the callee.
func TestProxyMetrics(t *testing.T) {
	m := metricstest.New(t, "me")
	x := newProxyBench(t, Options{Metrics: m}, replying("r"), replying("r"), replying("r"), refuse(codes.Aborted, "no"))
	for _, pairs := range [][]string{{"dapr-app-id", "other"}, {"dapr-app-id", "other", "dapr-stream", "t"}, {"dapr-app-id", "me"}, {"dapr-app-id", "other"}} {
		_, _, _, _ = x.exchange(metadata.AppendToOutgoingContext(within(t), pairs...), x.client, "a")
	}
	if _, _, _, err := x.exchange(metadata.AppendToOutgoingContext(within(t), "dapr-callee-app-id", "me"), x.internal); status.Code(err) != codes.Aborted {
		t.Errorf("got %v", err)
	}
	for _, c := range []struct {
		name   string
		labels []string
		want   map[string]float64
	}{
		{"dapr_runtime_service_invocation_req_sent_total", []string{"dst_app_id", "type"}, map[string]float64{"other unary": 2, "other streaming": 1}},
		{"dapr_runtime_service_invocation_res_recv_total", []string{"src_app_id", "status", "type"}, map[string]float64{"other 0 unary": 1, "other 0 streaming": 1, "other 10 unary": 1}},
		{"dapr_runtime_service_invocation_req_recv_total", []string{"src_app_id"}, map[string]float64{}},
		{"dapr_grpc_io_server_completed_rpcs", []string{"grpc_server_method", "grpc_server_status"}, map[string]float64{testpb.TestService_FullDuplexCall_FullMethodName + " OK": 3, testpb.TestService_FullDuplexCall_FullMethodName + " Aborted": 1}},
		{"dapr_grpc_io_client_completed_rpcs", []string{"grpc_client_method", "grpc_client_status"}, map[string]float64{testpb.TestService_FullDuplexCall_FullMethodName + " Aborted": 1}},
	} {
		got := metricstest.Counted(t, m, c.name, c.labels...)
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// Streams without an end are ended when the sidecar has to, under each kind of policy, and calls before that are not.
func TestDrain(t *testing.T) {
	for name, c := range map[string]struct {
		engine *resiliency.Engine
		pairs  []string
	}{
		"own":       {nil, []string{"dapr-app-id", "me"}},
		"other":     {nil, []string{"dapr-app-id", "other"}},
		"retries":   {retrying("other", 5, "", ""), []string{"dapr-app-id", "other"}},
		"streaming": {retrying("other", 5, "", ""), []string{"dapr-app-id", "other", "dapr-stream", "true"}},
	} {
		t.Run(name, func(t *testing.T) {
			clock := clockwork.NewFakeClock()
			x := newProxyBench(t, Options{Resiliency: c.engine, Clock: clock}, replying("r"))
			s, err := x.client.FullDuplexCall(metadata.AppendToOutgoingContext(within(t), c.pairs...))
			if err != nil {
				t.Fatal(err)
			}
			ask := func() error {
				_, err := s.Recv()
				return err
			}
			if err := s.Send(message("a")); err != nil {
				t.Fatal(err)
			}
			if err := ask(); err != nil {
				t.Fatal(err)
			}
			if err := x.block.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			if err := x.block.Drain(ctx); err != nil {
				t.Fatal(err)
			}
			clock.Advance(40 * time.Minute)
			if x.block.ending.Err() != nil {
				t.Error("ended too early")
			}
			clock.Advance(10 * time.Minute)
			if err := ask(); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "the sidecar of app me is shutting down" {
				t.Errorf("got %v", err)
			}
		})
	}
}

// lost is a resolver that finds nobody.
type lost struct{}

func (lost) Resolve(context.Context, nameresolution.Request) (string, error) {
	return "", errors.New("couldn't find service: other")
}

func (lost) Forget(nameresolution.Request, string) {}

func TestProxyUnresolved(t *testing.T) {
	x := newProxyBench(t, Options{Resolver: lost{}}, replying("r"))
	_, _, _, err := x.exchange(metadata.AppendToOutgoingContext(within(t), "dapr-app-id", "other"), x.client)
	if status.Code(err) != codes.Unknown || status.Convert(err).Message() != "couldn't find service: other" {
		t.Errorf("got %v", err)
	}
}

func TestSubtype(t *testing.T) {
	for text, want := range map[string]string{"application/grpc": "", "application/grpc+proto": "proto", "application/grpc+json; charset=utf-8": "json", "text/plain": "", "": ""} {
		if got := subtype(metadata.Pairs("content-type", text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func FuzzFit(f *testing.F) {
	f.Add("x-a", "b")
	f.Add("x-bin", "\x00")
	f.Add("ü", "\xff")
	f.Fuzz(func(t *testing.T, key, value string) {
		md := fit(metadata.MD{key: {value}, "kept": {"1"}})
		if _, ok := md["kept"]; !ok {
			t.Error("a good entry is lost")
		}
		for k, vs := range md {
			if k[0] != ':' && !metadataKey([]byte(k)) {
				t.Errorf("%q is kept", k)
			}
			for _, v := range vs {
				if !printable(v) && !(len(k) > 4 && k[len(k)-4:] == "-bin") {
					t.Errorf("%q: %q is kept", k, v)
				}
			}
		}
	})
}
