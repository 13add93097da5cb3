package actors

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/telemetry/tracing"
)

func TestCallFromElsewhere(t *testing.T) {
	b := newBench(t)
	var seen Call
	b.host.invoke = func(_ context.Context, call *Call) (*invocation.Response, error) {
		seen = *call
		resp := answer("ok")
		resp.Header.Add(ErrorHeader, "true")
		return resp, nil
	}
	req := &invocation.Request{Method: "a/../../b", Body: []byte("x")}
	req.Header.Add("x-dapr-remote", "no")
	resp, err := b.CallActor(context.Background(), mesh.Actor{Type: "T", ID: "1"}, req)
	if err != nil || string(resp.Body) != "ok" || resp.Header.Get(ErrorHeader) == nil {
		t.Errorf("got %+v, %v", resp, err)
	}
	if seen.Method != "b" || !seen.Remote || string(seen.Request.Header.Get(RemoteHeader)) != "true" || len(seen.Request.Header) != 1 {
		t.Errorf("the host saw %+v", seen)
	}
	remoteAt(b, "2")
	_, err = b.CallActor(context.Background(), mesh.Actor{Type: "T", ID: "2"}, &invocation.Request{Method: "m"})
	if s := status.Convert(err); s.Code() != codes.Internal || s.Message() != "error invoke actor method: remote actor moved" {
		t.Errorf("got %v", err)
	}
	b.SetStore(false)
	_, err = b.CallActor(context.Background(), mesh.Actor{Type: "T", ID: "1"}, &invocation.Request{Method: "m"})
	if s := status.Convert(err); s.Code() != codes.Internal || s.Message() != "error invoke actor method: remote actor moved" {
		t.Errorf("got %v", err)
	}
}

func TestSpanOfACallFromElsewhere(t *testing.T) {
	b := newBench(t, func(o *Options) {
		n := uint64(0)
		o.Tracer = tracing.New(tracing.Options{Rate: 1, Random: func() uint64 { n++; return n }})
	})
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	var header string
	var span *tracing.Span
	b.host.invoke = func(ctx context.Context, call *Call) (*invocation.Response, error) {
		header, span = string(call.Request.Header.Get(tracing.HeaderParent)), tracing.FromContext(ctx)
		return answer("ok"), nil
	}
	req := &invocation.Request{Method: "m"}
	req.Header.Add(tracing.HeaderParent, parent)
	req.Header.Add(tracing.HeaderState, "a=b")
	if _, err := b.CallActor(context.Background(), mesh.Actor{Type: "T", ID: "1"}, req); err != nil {
		t.Fatal(err)
	}
	if header == parent || header[:36] != parent[:36] || span.Parent() != header || span.State() != "a=b" {
		t.Errorf("header %q, span %q", header, span.Parent())
	}
}
