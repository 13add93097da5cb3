// Package tracing follows a call through apps and sidecars: the trace context that travels with it (W3C Trace Context, the binary
// form of gRPC, W3C Baggage), and the spans that a sidecar makes of its part (Dapr API, tracing).
//
// A [Tracer] starts spans. Nil is one that is off: it starts none, and headers are left alone. A tracer that passes through starts
// spans that are nothing but the context that came in. Every method of [Span] works on nil, so that code that traces reads the same
// in all modes; what costs something to find out about a call is guarded by [Span.Recording].
//
//	span := tracer.Start(parent, tracing.Client, path)
//	defer span.End()
//	if span.Recording() {
//		span.Set("db.name", component)
//	}
//
// Package export makes the tracer that a Configuration asks for.
package tracing

import "context"

// Name is the tracer's name, the instrumentation scope of its spans (Dapr API, tracing: configuration).
const Name = "dapr-diagnostics"

// Key is the key under which contexts hold the span of their call, a *Span. A context that knows its span itself answers to it.
type Key struct{}

// FromContext is the span of the call that ctx belongs to, nil when there is none.
func FromContext(ctx context.Context) *Span {
	s, _ := ctx.Value(Key{}).(*Span)
	return s
}

// NewContext is ctx with a span; ctx itself when the span is nil.
func NewContext(ctx context.Context, s *Span) context.Context {
	if s == nil {
		return ctx
	}
	return context.WithValue(ctx, Key{}, s)
}
