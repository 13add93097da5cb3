package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Kind is what part in a call a span plays.
type Kind = trace.SpanKind

// The kinds of spans.
const (
	Client   = trace.SpanKindClient
	Server   = trace.SpanKindServer
	Producer = trace.SpanKindProducer
	Internal = trace.SpanKindInternal
)

// Span is one operation of a trace. Nil is a span that does not exist; all methods work on it. A span is used by the goroutines of
// one call, and its methods are safe for concurrent use.
type Span struct {
	context  Context
	recorded trace.Span // nil when nobody will see the span
	own      bool       // the sidecar's, not the one of who called
}

// Context is the span's context, for what is called from within it; not valid for nil.
func (s *Span) Context() Context {
	if s == nil {
		return Context{}
	}
	return s.context
}

// Valid reports whether there is a context to pass on.
func (s *Span) Valid() bool { return s != nil && s.context.Valid() }

// Own reports whether the span is one of the sidecar's, not just the context that a caller sent.
func (s *Span) Own() bool { return s != nil && s.own }

// Recording reports whether the span will be seen by anybody: only then are names, attributes and status worth making.
func (s *Span) Recording() bool { return s != nil && s.recorded != nil }

// Parent is the traceparent, "" when there is none.
func (s *Span) Parent() string {
	if s == nil {
		return ""
	}
	return s.context.Parent()
}

// AppendParent appends the traceparent to dst, nothing when there is none.
func (s *Span) AppendParent(dst []byte) []byte {
	if !s.Valid() {
		return dst
	}
	return s.context.AppendParent(dst)
}

// Binary are the bytes of the grpc-trace-bin, "" when there are none.
func (s *Span) Binary() string {
	if s == nil {
		return ""
	}
	return s.context.Binary()
}

// State is the tracestate, "" when there is none.
func (s *Span) State() string {
	if s == nil {
		return ""
	}
	return s.context.State
}

// SetName renames the span.
func (s *Span) SetName(name string) {
	if s.Recording() {
		s.recorded.SetName(name)
	}
}

// Set sets attributes, given as key, value, key, value; those with an empty value are left out (Dapr API, tracing: spans).
func (s *Span) Set(pairs ...string) {
	if !s.Recording() {
		return
	}
	attributes := make([]attribute.KeyValue, 0, len(pairs)/2)
	for i := 1; i < len(pairs); i += 2 {
		if pairs[i] != "" {
			attributes = append(attributes, attribute.String(pairs[i-1], pairs[i]))
		}
	}
	if len(attributes) > 0 {
		s.recorded.SetAttributes(attributes...)
	}
}

// Fail sets the status to error.
func (s *Span) Fail(description string) {
	if s.Recording() {
		s.recorded.SetStatus(codes.Error, description)
	}
}

// End ends the span; what is set afterwards is lost.
func (s *Span) End() {
	if s.Recording() {
		s.recorded.End()
	}
}

// Tracer starts spans; nil is off. It is safe for concurrent use.
type Tracer struct {
	passing  bool
	bound    uint64 // traces whose ID is below are sampled
	recorder trace.Tracer
	random   func() uint64
}

// Options of a [Tracer] that makes spans.
type Options struct {
	// Rate is the share of the traces that begin here that are sampled, from 0 to 1. A trace that comes from outside is sampled if
	// its caller says so (Dapr API, tracing: configuration).
	Rate float64
	// Recorder takes the sampled spans. It has to record whatever it is asked to start, under the IDs of [IDs]. Nil drops them: then
	// only identities are made.
	Recorder trace.Tracer
	// Random is where IDs come from: any number of 64 bits, each equally likely. It is called concurrently.
	Random func() uint64
}

// New makes a tracer that makes spans.
func New(o Options) *Tracer {
	t := &Tracer{recorder: o.Recorder, random: o.Random}
	switch {
	case o.Rate >= 1:
		t.bound = 1 << 63
	case o.Rate > 0:
		t.bound = uint64(o.Rate * (1 << 63))
	}
	return t
}

// PassThrough makes a tracer that makes no spans of its own: contexts go on as they came.
func PassThrough() *Tracer { return &Tracer{passing: true} }

// On reports whether trace headers are handled at all.
func (t *Tracer) On() bool { return t != nil }

// Spans reports whether spans are made.
func (t *Tracer) Spans() bool { return t != nil && !t.passing }

// Start begins a span whose parent is the context that came with a call; one that is not valid makes it the root of a new trace. It
// returns nil when tracing is off, and when it passes through and nothing came.
func (t *Tracer) Start(parent Context, kind Kind, name string) *Span {
	return t.start(parent, true, kind, name)
}

// Child begins a span below another of this sidecar; below nil it is the root of a new trace.
func (t *Tracer) Child(parent *Span, kind Kind, name string) *Span {
	return t.start(parent.Context(), !parent.Own(), kind, name)
}

func (t *Tracer) start(parent Context, remote bool, kind Kind, name string) *Span {
	if t == nil {
		return nil
	}
	known := parent.Valid()
	if t.passing {
		if !known {
			return nil
		}
		return &Span{context: parent}
	}
	s := &Span{own: true}
	if known {
		s.context = parent
	} else {
		for !s.context.TraceID.IsValid() {
			put(s.context.TraceID[:8], t.random())
			put(s.context.TraceID[8:], t.random())
		}
		if s.sample() < t.bound {
			s.context.Flags = trace.FlagsSampled
		}
	}
	for s.context.SpanID = (trace.SpanID{}); !s.context.SpanID.IsValid(); {
		put(s.context.SpanID[:], t.random())
	}
	if t.recorder != nil && s.context.Sampled() {
		s.record(t.recorder, parent, known, remote, kind, name)
	}
	return s
}

// sample is the number that decides about a new trace, as the sampler by ratio of OpenTelemetry has it, so that all that take part
// in a trace decide alike.
func (s *Span) sample() uint64 {
	var x uint64
	for _, b := range s.context.TraceID[8:] {
		x = x<<8 | uint64(b)
	}
	return x >> 1
}

func put(dst []byte, x uint64) {
	for i := range 8 {
		dst[i] = byte(x >> (8 * i))
	}
}

func (s *Span) record(recorder trace.Tracer, parent Context, known, remote bool, kind Kind, name string) {
	ctx := context.Context(&plan{context.Background(), s.context})
	if known {
		state, err := trace.ParseTraceState(parent.State)
		if err != nil {
			s.context.State = ""
		}
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: parent.TraceID, SpanID: parent.SpanID, TraceFlags: parent.Flags, TraceState: state, Remote: remote,
		}))
	}
	_, s.recorded = recorder.Start(ctx, name, trace.WithSpanKind(kind))
}

// plan is the context in which a recorder is asked for a span: it knows the IDs.
type plan struct {
	context.Context
	span Context
}

type planKey struct{}

func (p *plan) Value(key any) any {
	if key == (planKey{}) {
		return p
	}
	return nil
}

// IDs gives the spans of a recorder the IDs that their [Tracer] has chosen; it is the SDK's IDGenerator for one.
type IDs struct{}

// NewIDs are the IDs of a root.
func (IDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	p, _ := ctx.Value(planKey{}).(*plan)
	if p == nil {
		return trace.TraceID{}, trace.SpanID{}
	}
	return p.span.TraceID, p.span.SpanID
}

// NewSpanID is the ID of a child.
func (IDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	p, _ := ctx.Value(planKey{}).(*plan)
	if p == nil {
		return trace.SpanID{}
	}
	return p.span.SpanID
}
