package app

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app/apptest"
	"outrigger.dev/invocation"
)

// serveGRPC starts a gRPC app and the channel to it.
func serveGRPC(t testing.TB, o Options, callbacks *apptest.Callbacks) *GRPCChannel {
	t.Helper()
	if o.Protocol == "" {
		o.Protocol = GRPC
	}
	o.Port = apptest.ServeGRPC(t, string(o.Protocol), callbacks)
	return apptest.Open(t, New, o).(*GRPCChannel)
}

func TestOnInvoke(t *testing.T) {
	const trace = "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01"
	for _, p := range []Protocol{GRPC, GRPCS} {
		t.Run(string(p), func(t *testing.T) {
			var got *commonv1.InvokeRequest
			var md metadata.MD
			app := &apptest.Callbacks{Invoke: func(ctx context.Context, r *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
				got = r
				md, _ = metadata.FromIncomingContext(ctx)
				_ = grpc.SetHeader(ctx, metadata.Pairs("x-head", "1", "x-head", "2", "h-bin", "\x00\x01"))
				_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trail", "t"))
				if r.GetMethod() == "fail" {
					s, _ := status.New(codes.NotFound, "nf").WithDetails(&errdetails.ErrorInfo{Reason: "R"})
					return nil, s.Err()
				}
				return &commonv1.InvokeResponse{ContentType: "a/b", Data: &anypb.Any{TypeUrl: "type/x", Value: []byte("out")}}, nil
			}}
			c := serveGRPC(t, Options{Protocol: p, APIToken: "secret"}, app)
			req := &invocation.Request{
				Method: "m/n", Verb: "PUT", Query: "a=b", ContentType: "text/x", TypeURL: "type/y", Stream: strings.NewReader("in"), Length: -1,
				Header: header("Accept: x", "Content-Type: no", "X-A: 1", "X-A: 2", "Destination-App-Id: d", "K-Bin: AAE=", "Dapr-Api-Token: client",
					"Te: trailers", "Connection: X-Hop", "Traceparent: "+trace, "Bad!Name: x", "X-Text: ä", "Via: v"),
			}
			resp, err := c.Invoke(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if got.GetMethod() != "m/n" || string(got.GetData().GetValue()) != "in" || got.GetData().GetTypeUrl() != "type/y" ||
				got.GetContentType() != "text/x" || got.GetHttpExtension().GetVerb() != commonv1.HTTPExtension_PUT ||
				got.GetHttpExtension().GetQuerystring() != "a=b" {
				t.Errorf("request %v", got)
			}
			binary, _ := binaryTraceContext([]byte(trace))
			want := map[string][]string{
				"dapr-accept": {"x"}, "x-a": {"1", "2"}, "k-bin": {"\x00\x01"}, "dapr-api-token": {"secret"},
				"traceparent": {trace}, "grpc-trace-bin": {binary}, "dapr-via": {"v"}, "dapr-connection": {"X-Hop"},
			}
			for key, values := range want {
				if !slices.Equal(md[key], values) {
					t.Errorf("%s: %q, want %q", key, md[key], values)
				}
			}
			for _, key := range []string{"destination-app-id", "te", "bad!name", "x-text", "connection", "dapr-te"} {
				if _, ok := md[key]; ok {
					t.Errorf("%s was sent", key)
				}
			}
			if resp.Status != 0 || resp.ContentType != "a/b" || resp.TypeURL != "type/x" || string(resp.Body) != "out" ||
				!slices.Equal(lines(resp.Header), []string{"h-bin: AAE=", "x-head: 1", "x-head: 2"}) ||
				!slices.Equal(lines(resp.Trailer), []string{"x-trail: t"}) {
				t.Errorf("response %+v, header %q, trailer %q", resp, lines(resp.Header), lines(resp.Trailer))
			}

			// A gRPC client's names get no prefix, and without a verb there is no HTTP extension.
			resp, err = c.Invoke(t.Context(), &invocation.Request{
				Method: "fail", Origin: invocation.FromGRPC,
				Header: header(":authority: a", "accept: y", "user-agent: u", "grpc-trace-bin: AAABAgMEBQYHCAkKCwwNDg8QAQECAwQFBgcIAgE="),
			})
			if err != nil || resp.Status != int(codes.NotFound) || resp.Message != "nf" || len(resp.Details) != 1 ||
				!slices.Contains(lines(resp.Trailer), "x-trail: t") {
				t.Errorf("%+v %v", resp, err)
			}
			if got.GetHttpExtension() != nil || !slices.Equal(md["accept"], []string{"y"}) || !slices.Equal(md["traceparent"], []string{trace}) {
				t.Errorf("%v %v", got, md)
			}
		})
	}
}

func TestGRPCFailures(t *testing.T) {
	returned, ended := make(chan struct{}), make(chan struct{}, 1)
	c := serveGRPC(t, Options{MaxBodySize: 1000, MaxConcurrency: 1}, &apptest.Callbacks{Invoke: func(ctx context.Context, r *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
		switch r.GetMethod() {
		case "wait":
			<-ctx.Done()
			<-returned // the app knows the deadline too, and may answer a moment before it has passed here
			ended <- struct{}{}
		case "large":
			return &commonv1.InvokeResponse{Data: &anypb.Any{Value: make([]byte, 2000)}}, nil
		case "odd":
			return nil, status.Error(200, "odd")
		}
		return &commonv1.InvokeResponse{}, nil
	}})
	for method, want := range map[string]codes.Code{"": codes.OK, "large": codes.ResourceExhausted, "odd": codes.Unknown} {
		if resp, err := c.Invoke(t.Context(), &invocation.Request{Method: method}); err != nil || resp.Status != int(want) {
			t.Errorf("%s: %+v %v", method, resp, err)
		}
	}
	_, err := c.Invoke(t.Context(), &invocation.Request{Stream: strings.NewReader(strings.Repeat("x", 1001)), Length: -1})
	if !errors.Is(err, invocation.ErrTooLarge) {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := c.Invoke(ctx, &invocation.Request{Method: "wait"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	close(returned)
	<-ended
	if resp, err := c.Invoke(t.Context(), &invocation.Request{}); err != nil || resp.Status != 0 { // the slot is free again
		t.Error(resp, err)
	}

	none := serveGRPC(t, Options{}, &apptest.Callbacks{})
	if resp, err := none.Invoke(t.Context(), &invocation.Request{}); err != nil || resp.Status != int(codes.Unimplemented) {
		t.Error(resp, err)
	}
	down, err := New(Options{Protocol: GRPC, Port: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer down.Close(t.Context())
	if resp, err := down.Invoke(t.Context(), &invocation.Request{}); err != nil || resp.Status != int(codes.Unavailable) {
		t.Error(resp, err)
	}
}

func TestPool(t *testing.T) {
	release := make(chan struct{})
	app := &apptest.Callbacks{
		Invoke: func(ctx context.Context, r *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
			<-release
			return &commonv1.InvokeResponse{}, nil
		},
		Subscriptions: func(ctx context.Context) (*runtimev1.ListTopicSubscriptionsResponse, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			return nil, status.Error(codes.DataLoss, strings.Join(md["dapr-api-token"], ","))
		},
	}
	c := serveGRPC(t, Options{APIToken: "secret"}, app)
	var calls sync.WaitGroup
	for range 150 {
		calls.Go(func() {
			if resp, err := c.Invoke(t.Context(), &invocation.Request{}); err != nil || resp.Status != 0 {
				t.Error(resp, err)
			}
		})
	}
	count := func() (conns, calls int) {
		c.conns.mu.Lock()
		defer c.conns.mu.Unlock()
		for _, p := range c.conns.conns {
			calls += p.calls
		}
		return len(c.conns.conns), calls
	}
	apptest.Until(t, "all calls run", func() bool { _, n := count(); return n == 150 })
	if n, _ := count(); n != 2 {
		t.Errorf("%d connections for 150 calls", n)
	}
	close(release)
	calls.Wait()
	c.conns.mu.Lock()
	c.conns.closeUnused(time.Now().Add(connIdle - time.Minute))
	early := len(c.conns.conns)
	c.conns.closeUnused(time.Now().Add(connIdle))
	c.conns.mu.Unlock()
	if n, _ := count(); early != 2 || n != 1 {
		t.Errorf("%d, then %d connections are left", early, n)
	}

	// Other callbacks get the token too, in place of what the caller gave.
	ctx := metadata.AppendToOutgoingContext(t.Context(), "dapr-api-token", "client")
	_, err := runtimev1.NewAppCallbackClient(c.Conns()).ListTopicSubscriptions(ctx, &emptypb.Empty{})
	if status.Code(err) != codes.DataLoss || status.Convert(err).Message() != "secret" {
		t.Error(err)
	}

	// A stream counts until it ends.
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.Conns().NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, runtimev1.AppCallback_OnInvoke_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	if _, n := count(); n != 1 {
		t.Errorf("%d calls", n)
	}
	cancel()
	_ = stream.RecvMsg(&emptypb.Empty{})
	apptest.Until(t, "the stream is gone", func() bool { _, n := count(); return n == 0 })
}

func TestTraceContext(t *testing.T) {
	for _, bad := range []string{
		"", "x", "00-00000000000000000000000000000000-0102030405060708-01", "00-0102030405060708090a0b0c0d0e0f10-0000000000000000-01",
		"ff-0102030405060708090a0b0c0d0e0f10-0102030405060708-01", "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01-x", "00-zz02030405060708090a0b0c0d0e0f10-0102030405060708-01",
	} {
		if b, ok := binaryTraceContext([]byte(bad)); ok {
			t.Errorf("%s became %q", bad, b)
		}
	}
	for _, bad := range []string{"", "!", "AA==", "AQABAgMEBQYHCAkKCwwNDg8QAQECAwQFBgcIAgE="} {
		if s, ok := textTraceContext([]byte(bad)); ok {
			t.Errorf("%s became %s", bad, s)
		}
	}
}

func FuzzTraceContext(f *testing.F) {
	f.Add([]byte("AAABAgMEBQYHCAkKCwwNDg8QAQECAwQFBgcIAgE="))
	f.Fuzz(func(t *testing.T, value []byte) {
		text, ok := textTraceContext(value)
		if !ok {
			binaryTraceContext(value)
			return
		}
		binary, ok := binaryTraceContext([]byte(text))
		if !ok || len(binary) != 29 {
			t.Fatalf("%s does not go back", text)
		}
		if again, ok := textTraceContext(base64Of(binary)); !ok || again != text {
			t.Errorf("%s became %s", text, again)
		}
	})
}

func base64Of(text string) []byte {
	return fromMetadata(metadata.MD{"x-bin": {text}})[0].Value
}
