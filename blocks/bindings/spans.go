package bindings

import (
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	contract "outrigger.dev/components/bindings"
	"outrigger.dev/telemetry/tracing"
)

// span begins the span of an event on its way to the app, below the one that the event names (Dapr API, tracing: spans).
func (r *reader) span(event *contract.Event) *tracing.Span {
	t := r.block.options.Tracer
	if !t.On() {
		return nil
	}
	span := t.Start(tracing.FromEvent(event.Metadata), tracing.Client, "bindings")
	if span.Recording() {
		statement := "POST /" + r.in.name
		if _, ok := r.target.(*grpcTarget); ok {
			statement = runtimev1.AppCallback_OnBindingEvent_FullMethodName
		}
		span.SetName("bindings/" + r.in.name)
		span.Set("rpc.service", "Dapr", "db.system", "bindings", "db.name", r.in.name, "db.connection_string", statement)
	}
	return span
}

func endSpan(span *tracing.Span, err error) {
	if !span.Recording() {
		return
	}
	if err != nil {
		span.Fail(err.Error())
	}
	span.End()
}
