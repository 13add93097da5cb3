package invoke

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/tracing"
)

// spanAbove are contexts from outside: of the metadata of a call, and of its header.
const (
	aboveCall   = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	aboveHeader = "00-1af7651916cd43dd8448eb211c80319c-17ad6b7169203331-01"
)

// recording is a tracer whose spans can be looked at.
func recording(t *testing.T) (*tracing.Tracer, *tracetest.SpanRecorder) {
	spans := tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithIDGenerator(tracing.IDs{}))
	t.Cleanup(func() { _ = p.Shutdown(context.Background()) })
	return tracing.New(tracing.Options{Rate: 1, Recorder: p.Tracer(tracing.Name), Random: rand.Uint64}), spans
}

// remembering is an app that remembers the header of its last call.
type remembering struct {
	header invocation.Header
	err    error
}

func (a *remembering) Invoke(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
	a.header = req.Header
	return &invocation.Response{Status: 404}, a.err
}

// all are the values of a name.
func all(h invocation.Header, name string) (values []string) {
	for _, f := range h {
		if invocation.Is(f.Name, name) {
			values = append(values, string(f.Value))
		}
	}
	return values
}

func TestSpanOfReceivedCalls(t *testing.T) {
	tracer, spans := recording(t)
	for name, test := range map[string]struct {
		md      metadata.MD
		header  []string
		origin  invocation.Origin
		parent  string
		state   string
		failing bool
	}{
		"Dapr peer":          {md: metadata.Pairs("traceparent", aboveCall), header: []string{"Traceparent", aboveHeader, "Tracestate", "old=1"}, parent: aboveCall},
		"peer of one trace":  {md: metadata.Pairs("traceparent", aboveCall), header: []string{"traceparent", aboveCall[:36] + "1111111111111111-01", "tracestate", "a=b"}, parent: aboveCall, state: "a=b"},
		"exchange":           {header: []string{"traceparent", aboveHeader, "tracestate", "a=b"}, parent: aboveHeader, state: "a=b"},
		"gRPC client":        {header: []string{"grpc-trace-bin", "AAAK92UZFs1D3YRI6yEcgDGcAbeta3FpIDMxAgE=", "traceparent", aboveHeader, "tracestate-bin", "YT1i"}, origin: invocation.FromGRPC, parent: aboveHeader},
		"nobody":             {},
		"nothing to be read": {md: metadata.Pairs("traceparent", "junk"), header: []string{"traceparent", "junk", "tracestate", "a=b"}},
		"failure":            {md: metadata.Pairs("traceparent", aboveCall), parent: aboveCall, failing: true},
	} {
		t.Run(name, func(t *testing.T) {
			app := &remembering{}
			if test.failing {
				app.err = fmt.Errorf("no app")
			}
			b := New(Options{AppID: "me", App: app, Tracer: tracer})
			req := &invocation.Request{Method: "/a//b", Origin: test.origin, Header: invocation.Header{{Name: []byte("X-Other"), Value: []byte("1")}}}
			for i := 0; i < len(test.header); i += 2 {
				req.Header.Add(test.header[i], test.header[i+1])
			}
			before := len(spans.Ended())
			_, err := b.Receive(metadata.NewIncomingContext(t.Context(), test.md), req)
			ended := spans.Ended()[before:]
			if len(ended) != 1 {
				t.Fatalf("%d spans", len(ended))
			}
			s := ended[0]
			parent, _ := tracing.ParseParent(test.parent)
			if s.Name() != "CallLocal/me/a/b" || s.SpanKind() != tracing.Server || s.Parent().SpanID() != parent.SpanID || parent.Valid() && s.Parent().TraceID() != parent.TraceID {
				t.Errorf("span %q, %v, below %v", s.Name(), s.SpanKind(), s.Parent())
			}
			if want := status.Convert(err).Message(); s.Status().Description != want {
				t.Errorf("its status is %q, want %q", s.Status().Description, want)
			}
			c := tracing.Context{TraceID: s.SpanContext().TraceID(), SpanID: s.SpanContext().SpanID(), Flags: s.SpanContext().TraceFlags()}
			if got := all(app.header, "traceparent"); len(got) != 1 || got[0] != c.Parent() {
				t.Errorf("the app got traceparent %q, want %s", got, c.Parent())
			}
			if got := string(app.header.Get("tracestate")); got != test.state || len(all(app.header, "tracestate-bin")) > 0 {
				t.Errorf("the app got tracestate %q, want %q", got, test.state)
			}
			got := all(app.header, "grpc-trace-bin")
			if again, _ := tracing.ParseBase64(string(app.header.Get("grpc-trace-bin"))); test.origin == invocation.FromGRPC && (len(got) != 1 || again.Parent() != c.Parent()) || test.origin == invocation.FromHTTP && len(got) > 0 {
				t.Errorf("the app got grpc-trace-bin %q", got)
			}
			if string(app.header.Get("x-other")) != "1" {
				t.Error("another header is gone")
			}
		})
	}
}

// Without spans of its own a sidecar hands on what came: the context of the call, which a Dapr peer has made, before that of its
// client; with tracing off it looks at neither.
func TestNoSpanOfReceivedCalls(t *testing.T) {
	for name, test := range map[string]struct {
		tracer *tracing.Tracer
		want   string
	}{"off": {nil, aboveHeader}, "passing through": {tracing.PassThrough(), aboveCall}} {
		app := &remembering{}
		b := New(Options{AppID: "me", App: app, Tracer: test.tracer})
		req := &invocation.Request{Method: "m"}
		req.Header.Add("Traceparent", aboveHeader)
		if _, err := b.Receive(metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", aboveCall)), req); err != nil {
			t.Fatal(err)
		}
		if got := all(app.header, "traceparent"); len(got) != 1 || got[0] != test.want {
			t.Errorf("%s: the app got %q", name, got)
		}
	}
}

func TestSpanOfReceivedProxiedCalls(t *testing.T) {
	tracer, spans := recording(t)
	x := newProxyBench(t, Options{Tracer: tracer}, replying("r"), refuse(codes.NotFound, "not here"))
	x.app.seen = make(chan metadata.MD, 2)
	for i, want := range []string{"", "not here"} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "dapr-callee-app-id", "me", "traceparent", aboveCall)
		_, _, _, err := x.exchange(ctx, x.internal, "a")
		if got := status.Convert(err).Message(); got != want {
			t.Fatalf("%v, want %q", err, want)
		}
		md := <-x.app.seen
		above, _ := tracing.ParseParent(aboveCall)
		ended := spans.Ended()
		if len(ended) != i+1 {
			t.Fatalf("%d spans", len(ended))
		}
		s := ended[i]
		if s.Name() != "/grpc.testing.TestService/FullDuplexCall" || s.SpanKind() != tracing.Server || s.Parent().SpanID() != above.SpanID || s.Status().Description != want {
			t.Errorf("span %q, %v, below %v: %v", s.Name(), s.SpanKind(), s.Parent(), s.Status())
		}
		c := tracing.Context{TraceID: s.SpanContext().TraceID(), SpanID: s.SpanContext().SpanID(), Flags: s.SpanContext().TraceFlags()}
		if got := md.Get("traceparent"); len(got) != 1 || got[0] != c.Parent() || first(md, "grpc-trace-bin") != c.Binary() {
			t.Errorf("the app got %v, want %s", md, c.Parent())
		}
	}
}
