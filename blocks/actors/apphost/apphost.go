// Package apphost is where the actors of an app live: the app itself, which the sidecar calls back over HTTP, or over streams that the
// app opened (Dapr API, actors: callbacks to the app). It knows what an app says about the actors that it hosts, and runs their turns;
// which turn runs when is not its matter.
package apphost

import (
	"context"
	"fmt"

	"outrigger.dev/blocks/actors"
	"outrigger.dev/components"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/tracing"
)

// Headers and their values that the sidecar adds to callbacks.
var (
	nameAPICall         = []byte(actors.APICallHeader)
	nameRemote          = []byte(actors.RemoteHeader)
	nameReentrancy      = []byte(actors.ReentrancyHeader)
	nameCallerAppID     = []byte(invocation.CallerAppID)
	nameCallerNamespace = []byte(invocation.CallerNamespace)
	nameError           = []byte(actors.ErrorHeader)
	nameParent          = []byte(tracing.HeaderParent)
	nameState           = []byte(tracing.HeaderState)
	yes                 = []byte("true")
)

// stateBinary is how gRPC clients may send a tracestate.
const stateBinary = "tracestate-bin"

// identity is what apps are told about the sidecar that calls them (Dapr API, actors: callbacks to the app): with actors, the caller is
// the sidecar that hosts them.
type identity struct{ appID, namespace []byte }

func newIdentity(appID, namespace string) identity {
	return identity{[]byte(appID), []byte(namespace)}
}

// header is the header of a call as the app gets it: that of the caller without what only the sidecar may say, and what the sidecar says.
func (id identity) header(ctx context.Context, call *actors.Call) invocation.Header {
	span := tracing.FromContext(ctx)
	// A context that merely came with the call stays as it is.
	trace := span.Own() || span.Valid() && call.Request.Header.Get(tracing.HeaderParent) == nil
	header := make(invocation.Header, 0, len(call.Request.Header)+7)
	for _, f := range call.Request.Header {
		if !replaced(f.Name, trace, call.ReentrancyID != "") {
			header = append(header, f)
		}
	}
	header = append(header, invocation.Field{Name: nameAPICall, Value: yes})
	if call.Remote {
		header = append(header, invocation.Field{Name: nameRemote, Value: yes})
	}
	header = append(header, invocation.Field{Name: nameCallerAppID, Value: id.appID}, invocation.Field{Name: nameCallerNamespace, Value: id.namespace})
	if trace {
		header = appendTrace(header, span)
	}
	if call.ReentrancyID != "" {
		header = append(header, invocation.Field{Name: nameReentrancy, Value: []byte(call.ReentrancyID)})
	}
	return header
}

// replaced reports whether the sidecar says itself what a header of the caller says.
func replaced(name []byte, trace, reentrant bool) bool {
	switch len(name) {
	case len(tracing.HeaderState):
		return trace && invocation.Is(name, tracing.HeaderState)
	case len(tracing.HeaderParent):
		return trace && invocation.Is(name, tracing.HeaderParent)
	case 13:
		return invocation.Is(name, "dapr-api-call") || invocation.Is(name, "x-dapr-remote")
	case len(tracing.HeaderBinary): // and of stateBinary
		return trace && (invocation.Is(name, tracing.HeaderBinary) || invocation.Is(name, stateBinary))
	case len(invocation.CallerAppID): // and of the reentrancy header
		return invocation.Is(name, invocation.CallerAppID) || reentrant && invocation.Is(name, "dapr-reentrancy-id")
	case len(invocation.CallerNamespace):
		return invocation.Is(name, invocation.CallerNamespace)
	}
	return false
}

// traceHeader is a header with nothing but the trace context of ctx, if it has one.
func traceHeader(ctx context.Context) invocation.Header {
	return appendTrace(nil, tracing.FromContext(ctx))
}

// appendTrace appends a span's context, if it has one.
func appendTrace(header invocation.Header, span *tracing.Span) invocation.Header {
	if !span.Valid() {
		return header
	}
	header = append(header, invocation.Field{Name: nameParent, Value: span.AppendParent(make([]byte, 0, 64))})
	if state := span.State(); state != "" {
		header = append(header, invocation.Field{Name: nameState, Value: []byte(state)})
	}
	return header
}

// methodNotFound is the error of a method that the actor does not have.
type methodNotFound struct{ method string }

func (e *methodNotFound) Error() string { return "actor method not found: " + e.method }

// Unwrap makes it an [actors.ErrMethodNotFound].
func (e *methodNotFound) Unwrap() error { return actors.ErrMethodNotFound }

// AppError is a callback that the app answered, but not with success. Its text is known to other sidecars.
type AppError struct {
	// Status is the HTTP status, 0 for answers over a stream.
	Status int
	// Message is the body of the response, or what the app said on the stream.
	Message string
}

func (e *AppError) Error() string {
	if e.Status == 0 {
		return "error from actor service: " + e.Message
	}
	return fmt.Sprintf("error from actor service: (%d) %s", e.Status, e.Message)
}

// canceled reports whether the value of [actors.ReminderCancelHeader] means yes.
func canceled(value []byte) bool { return len(value) > 0 && components.Truthy(string(value)) }
