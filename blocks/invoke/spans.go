package invoke

import (
	"context"
	"encoding/base64"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/tracing"
)

var (
	headerParent = []byte(tracing.HeaderParent)
	headerState  = []byte(tracing.HeaderState)
	headerBinary = []byte(tracing.HeaderBinary)
)

// callee gives the span of an API call the name and the attributes of an invocation (Dapr API, tracing: spans).
func callee(span *tracing.Span, target, method string) {
	if span.Recording() {
		span.SetName("CallLocal/" + target + "/" + method)
		span.Set("rpc.service", "ServiceInvocation", "net.peer.name", target)
	}
}

// passOn puts a span's context into the header of a call in place of what is there. A context that merely came with the call
// stays as it is (Dapr API, service invocation: request headers).
func passOn(h *invocation.Header, span *tracing.Span, origin invocation.Origin) {
	if span.Own() {
		replaceTrace(h, span, origin)
	}
}

// replaceTrace puts a span's context into a header in place of what is there.
func replaceTrace(h *invocation.Header, span *tracing.Span, origin invocation.Origin) {
	kept := (*h)[:0]
	for _, f := range *h {
		if !isTrace(f.Name) {
			kept = append(kept, f)
		}
	}
	room := make([]byte, 0, 64)
	kept = append(kept, invocation.Field{Name: headerParent, Value: span.AppendParent(room)})
	if state := span.State(); state != "" {
		kept = append(kept, invocation.Field{Name: headerState, Value: []byte(state)})
	}
	if origin == invocation.FromGRPC {
		kept = append(kept, invocation.Field{Name: headerBinary, Value: base64.StdEncoding.AppendEncode(nil, []byte(span.Binary()))})
	}
	*h = kept
}

// isTrace reports whether a header is one of those that carry a trace context.
func isTrace(name []byte) bool {
	switch len(name) {
	case len(tracing.HeaderState):
		return invocation.Is(name, tracing.HeaderState)
	case len(tracing.HeaderParent):
		return invocation.Is(name, tracing.HeaderParent)
	case len(tracing.HeaderBinary): // and of stateBinary
		return invocation.Is(name, tracing.HeaderBinary) || invocation.Is(name, stateBinary)
	}
	return false
}

// stateBinary is how gRPC clients may send a tracestate.
const stateBinary = "tracestate-bin"

// receivedSpan starts the span of a call that came from another sidecar, and puts it into the call's header. Its parent is in the
// metadata of the call itself; in the exchange of two Outriggers it is in the header.
func (b *Block) receivedSpan(ctx context.Context, req *invocation.Request) *tracing.Span {
	t := b.options.Tracer
	if !t.On() {
		return nil
	}
	parent := tracing.FromIncoming(ctx)
	if text := req.Header.Get(tracing.HeaderParent); parent.Valid() && parent.State == "" && text != nil {
		// The metadata of calls have no tracestate. The one in the header is good for the trace that it came with.
		if c := tracing.FromHeader(text, req.Header.Get(tracing.HeaderState)); c.TraceID == parent.TraceID {
			parent.State = c.State
		}
	}
	if !t.Spans() {
		// A Dapr peer sends its own span with the call, and the client's in the header.
		if parent.Valid() {
			replaceTrace(&req.Header, t.Start(parent, tracing.Server, ""), req.Origin)
		}
		return nil
	}
	if !parent.Valid() {
		parent = tracing.FromHeader(req.Header.Get(tracing.HeaderParent), req.Header.Get(tracing.HeaderState))
	}
	span := t.Start(parent, tracing.Server, "CallLocal")
	if span.Recording() {
		method := invocation.CleanMethod(req.Method)
		span.SetName("CallLocal/" + b.options.AppID + "/" + method)
		span.Set("rpc.service", "ServiceInvocation", "dapr.invoke_method", method)
	}
	passOn(&req.Header, span, req.Origin)
	return span
}

// finish ends a span with the result of what it was for.
func finish(span *tracing.Span, err error) {
	if !span.Recording() {
		return
	}
	if err != nil {
		span.Fail(status.Convert(err).Message())
	}
	span.End()
}

// spanStream is a call with a span in its context.
type spanStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *spanStream) Context() context.Context { return s.ctx }
