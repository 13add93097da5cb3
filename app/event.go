package app

import (
	"strings"

	"google.golang.org/grpc/metadata"
)

// EventTrace is the trace context that an event from outside carries in its metadata: that of grpc-trace-bin, in base64, else
// traceparent and tracestate as they are (Dapr API, tracing: input bindings). Both are empty when there is none.
func EventTrace(event map[string]string) (traceparent, tracestate string) {
	if value := event["grpc-trace-bin"]; value != "" {
		if text, ok := textTraceContext([]byte(value)); ok {
			return text, ""
		}
	}
	if parent := event["traceparent"]; parent != "" {
		return parent, event["tracestate"]
	}
	return "", ""
}

// TraceMetadata is the gRPC metadata that carries a trace context to an app: traceparent, grpc-trace-bin of the same content, and
// tracestate. It is nil when traceparent is none.
func TraceMetadata(traceparent, tracestate string) metadata.MD {
	traceparent = strings.TrimSpace(traceparent)
	binary, ok := binaryTraceContext([]byte(traceparent))
	if !ok {
		return nil
	}
	md := metadata.MD{"traceparent": {traceparent}, "grpc-trace-bin": {binary}}
	if tracestate != "" && printable(tracestate) {
		md["tracestate"] = []string{tracestate}
	}
	return md
}
