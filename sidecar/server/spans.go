package server

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/api"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/tracing"
)

// served is a request as its connection offers it.
type served interface {
	exchange
	// SetSpan makes a span the one of the request's context.
	SetSpan(s *tracing.Span)
	// HasReplyHeader reports whether the reply has a header of this name, which must be in canonical form.
	HasReplyHeader(name string) bool
}

// begin starts the span of a request (Dapr API, tracing: spans). It is nil when there is nothing to pass on.
func (s *HTTP) begin(x served) *tracing.Span {
	parent := x.Header("Traceparent")
	if len(parent) == 0 && !s.options.Tracer.Spans() || strings.Contains(x.RawPath(), "/healthz") {
		return nil
	}
	var came tracing.Context
	if len(parent) > 0 {
		came = tracing.FromHeader(parent, x.Header("Tracestate"))
	}
	span := s.options.Tracer.Start(came, tracing.Client, x.Path())
	if span == nil {
		return nil
	}
	x.SetSpan(span)
	if !span.Recording() {
		return span
	}
	uri := x.RawPath()
	if query := x.RawQuery(); query != "" {
		uri += "?" + query
	}
	host, port, _ := net.SplitHostPort(x.RemoteAddress())
	span.Set("dapr.protocol", "http", "dapr.api", x.Method()+" "+x.Path(), "http.request.method", x.Method(), "url.full", uri, "server.address", host, "server.port", port)
	for name, value := range x.Headers() {
		if len(name) > len(daprHeader) && invocation.Is(name[:len(daprHeader)], daprHeader) {
			daprAttribute(span, strings.ToLower(string(name)), string(value))
		}
	}
	return span
}

// daprHeader begins the headers and metadata keys that become attributes.
const daprHeader = "dapr-"

// daprAttribute sets a header as attribute; tokens stay out of traces.
func daprAttribute(span *tracing.Span, name, value string) {
	if name != tokenKey {
		span.Set(name, value)
	}
}

// replySpan puts the context of a request's span into its reply, unless whoever answered has put one there.
func replySpan(x served, span *tracing.Span) {
	if x.HasReplyHeader("Traceparent") {
		return
	}
	x.SetHeader("Traceparent", span.Parent())
	if state := span.State(); state != "" && len(state) <= tracing.MaxResponseState {
		x.SetHeader("Tracestate", state)
	}
}

// endSpan ends the span of a request.
func endSpan(x exchange, span *tracing.Span) {
	if !span.Recording() {
		return
	}
	code := x.Status()
	span.Set("dapr.status_code", strconv.Itoa(code))
	if code >= 400 {
		span.Fail("Code(" + strconv.Itoa(code) + "): " + http.StatusText(code))
	}
	span.End()
}

// describe sets the attributes of a request's span that follow from its route; invocation has its own. The first parameter of
// these routes is the component's name, the second one a topic.
func describe(span *tracing.Span, call *api.Call) {
	_, block, _ := strings.Cut(call.Route.Group, "/")
	parameters := call.Route.Parameters()
	switch {
	case len(parameters) > 0 && (block == "state" || block == "secrets" || block == "bindings"):
		database(span, block, call.Parameter(parameters[0]), call.Method()+" "+call.Path())
	case len(parameters) > 1 && block == "publish":
		messaging(span, call.Parameter(parameters[1]))
	}
}

func database(span *tracing.Span, system, component, statement string) {
	span.Set("db.system", system, "db.connection_string", system, "db.name", component, "db.statement", statement)
}

func messaging(span *tracing.Span, topic string) {
	span.Set("messaging.system", "pubsub", "messaging.destination.name", topic)
}

// begin starts the span of a call, and puts it into the returned context. Of a proxied call neither the message is known nor the
// answer's header this server's.
func (s *GRPC) begin(ctx context.Context, fullMethod string, req any, proxied bool) (context.Context, *tracing.Span) {
	kind := tracing.Client
	if proxied && s.isForOwnApp(ctx) {
		kind = tracing.Server
	}
	span := s.options.Tracer.Start(tracing.FromIncoming(ctx), kind, fullMethod)
	if span == nil {
		return ctx, nil
	}
	ctx = tracing.NewContext(ctx, span)
	if !proxied && fullMethod != runtimev1.Dapr_InvokeService_FullMethodName { // the block answers that one
		_ = grpc.SetHeader(ctx, metadata.MD{tracing.HeaderBinary: {span.Binary()}}) // nothing was sent yet
	}
	if !span.Recording() {
		return ctx, span
	}
	span.Set("dapr.protocol", "grpc", "dapr.api", fullMethod)
	md, _ := metadata.FromIncomingContext(ctx)
	for key, values := range md {
		if strings.HasPrefix(key, daprHeader) && !strings.HasSuffix(key, "-bin") && len(values) > 0 {
			daprAttribute(span, key, values[0])
		}
	}
	describeMessage(span, fullMethod, req)
	return ctx, span
}

func (s *GRPC) isForOwnApp(ctx context.Context) bool {
	for _, key := range []string{invocation.AppID, invocation.CalleeAppID} {
		if values := metadata.ValueFromIncomingContext(ctx, key); len(values) > 0 {
			id, _, _ := strings.Cut(values[0], ".")
			return id == s.options.AppID
		}
	}
	return false
}

// describeMessage sets the attributes of a call's span that follow from its message; invocation has its own.
func describeMessage(span *tracing.Span, fullMethod string, req any) {
	switch in := req.(type) {
	case *runtimev1.GetStateRequest:
		store(span, "state", in.GetStoreName(), fullMethod)
	case *runtimev1.GetBulkStateRequest:
		store(span, "state", in.GetStoreName(), fullMethod)
	case *runtimev1.SaveStateRequest:
		store(span, "state", in.GetStoreName(), fullMethod)
	case *runtimev1.DeleteStateRequest:
		store(span, "state", in.GetStoreName(), fullMethod)
	case *runtimev1.DeleteBulkStateRequest:
		store(span, "state", in.GetStoreName(), fullMethod)
	case *runtimev1.ExecuteStateTransactionRequest:
		store(span, "state", in.GetStoreName(), fullMethod)
	case *runtimev1.GetSecretRequest:
		store(span, "secrets", in.GetStoreName(), fullMethod)
	case *runtimev1.GetBulkSecretRequest:
		store(span, "secrets", in.GetStoreName(), fullMethod)
	case *runtimev1.InvokeBindingRequest:
		store(span, "bindings", in.GetName(), fullMethod)
	case *runtimev1.PublishEventRequest:
		span.Set("rpc.service", "Dapr")
		messaging(span, in.GetTopic())
	case *runtimev1.BulkPublishRequest:
		span.Set("rpc.service", "Dapr")
		messaging(span, in.GetTopic())
	}
}

func store(span *tracing.Span, system, component, statement string) {
	span.Set("rpc.service", "Dapr")
	database(span, system, component, statement)
}

// endCall ends the span of a call.
func endCall(span *tracing.Span, err error) {
	if !span.Recording() {
		return
	}
	if err != nil {
		span.Fail(status.Convert(err).Message())
	}
	span.End()
}
