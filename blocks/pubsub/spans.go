package pubsub

import (
	"outrigger.dev/telemetry/tracing"
)

// spanTrace is the context of a span as events carry it; empty when there is none.
func spanTrace(s *tracing.Span) Trace { return Trace{Parent: s.Parent(), State: s.State()} }

// parse is the context as spans have it; not valid when it is none.
func (t Trace) parse() tracing.Context {
	c, ok := tracing.ParseParent(t.Parent)
	if ok {
		c.State = tracing.ParseState(t.State)
	}
	return c
}

// entrySpans begins the spans of the entries of a bulk, one each, below that of the call; nil when there are no spans. Raw entries
// have none, for nothing carries it.
func (p *PubSub) entrySpans(parent *tracing.Span, m *BulkPublication, raw bool) []*tracing.Span {
	if raw || !p.options.Tracer.Spans() {
		return nil
	}
	spans := make([]*tracing.Span, len(m.Entries))
	for i := range spans {
		spans[i] = p.options.Tracer.Child(parent, tracing.Producer, m.SpanName)
		topicSpan(spans[i], m.Topic)
	}
	return spans
}

func topicSpan(s *tracing.Span, topic string) {
	if s.Recording() {
		s.Set("messaging.system", "pubsub", "messaging.destination.name", topic)
	}
}

func endSpans(spans []*tracing.Span, err error) {
	for _, s := range spans {
		endSpan(s, err)
	}
}

func endSpan(s *tracing.Span, err error) {
	if !s.Recording() {
		return
	}
	if err != nil {
		s.Fail(err.Error())
	}
	s.End()
}

// deliverySpan begins the span of a delivery below the one that its event names, or as a root of its own, and puts its context in
// place of the event's; without spans that goes on as it is (Dapr API, tracing: pub/sub).
func (r *running) deliverySpan(trace *Trace, topic string) *tracing.Span {
	t := r.block.options.Tracer
	if !t.Spans() {
		return nil
	}
	span := t.Start(trace.parse(), tracing.Client, "pubsub")
	if span.Recording() {
		span.SetName("pubsub/" + topic)
		topicSpan(span, topic)
	}
	*trace = spanTrace(span)
	return span
}

// bulkSpans begins the spans of those entries of a bulk that carry a trace context, in the order of the entries. The request goes on
// with the last one (Dapr API, tracing: pub/sub).
func (r *running) bulkSpans(d *bulkDelivery) []*tracing.Span {
	var spans []*tracing.Span
	if r.block.options.Tracer.Spans() {
		spans = make([]*tracing.Span, len(d.entries))
	}
	for i, e := range d.entries {
		if e.event == nil {
			continue
		}
		trace := traceOf(e.event, nil)
		if trace.Parent == "" {
			continue
		}
		if spans != nil {
			spans[i] = r.deliverySpan(&trace, d.topic)
		}
		d.trace = trace
	}
	return spans
}
