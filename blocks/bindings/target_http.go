package bindings

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"outrigger.dev/app"
	contract "outrigger.dev/components/bindings"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/tracing"
)

// httpTarget is an app that speaks HTTP (Dapr API, bindings: delivery, HTTP app).
type httpTarget struct {
	channel app.Channel
	limit   int64 // of replies, in bytes
}

const contentTypeJSON = "application/json"

// wants makes an OPTIONS request to the binding's route: success means yes, and so does a route that exists but has no such verb.
func (t *httpTarget) wants(ctx context.Context, in *input) (bool, error) {
	resp, err := t.channel.Invoke(ctx, &invocation.Request{Verb: "OPTIONS", Method: in.path, Query: in.query, ContentType: contentTypeJSON})
	if err != nil {
		return false, err
	}
	if err := resp.Close(); err != nil {
		return false, err
	}
	return success(resp.Status) || resp.Status == 405, nil
}

func success(status int) bool { return status >= 200 && status < 300 }

// StatusError is an event that an HTTP app answered with another status than 200.
type StatusError struct {
	// Status is the HTTP status.
	Status int
	Body   []byte
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("fails to send binding event to http app channel, status code: %d body: %s", e.Status, e.Body)
}

// deliver posts the event. Any status but 200 is an error for policies.
func (t *httpTarget) deliver(ctx context.Context, in *input, event *contract.Event) (answer, error) {
	resp, err := t.channel.Invoke(ctx, &invocation.Request{
		Verb: "POST", Method: in.path, Query: in.query, ContentType: contentTypeJSON, Header: eventHeader(event.Metadata, tracing.FromContext(ctx)), Body: event.Data,
	})
	if err != nil {
		return answer{}, err
	}
	if err := resp.Buffer(t.limit); err != nil {
		if errors.Is(err, invocation.ErrTooLarge) {
			err = fmt.Errorf("the app's reply to an event of binding %s is larger than %d bytes; raise --max-body-size, or reply less: %w", in.name, t.limit, err)
		}
		return answer{}, err
	}
	if resp.Status != 200 {
		return answer{data: resp.Body}, &StatusError{Status: resp.Status, Body: resp.Body}
	}
	return answer{data: resp.Body}, nil
}

// verdict lets other successes than 200 pass, for only a retry policy minds them (Dapr API, bindings: delivery, HTTP app).
func (t *httpTarget) verdict(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := errors.AsType[*StatusError](err); ok {
		if success(s.Status) {
			return nil
		}
		return err
	}
	return fmt.Errorf("error invoking app: %w", err)
}

// eventTrace is the trace context that an event is delivered with: that of the delivery's span, else what the event carries.
func eventTrace(metadata map[string]string, span *tracing.Span) (parent, state string) {
	if span.Valid() {
		return span.Parent(), span.State()
	}
	return app.EventTrace(metadata)
}

// eventHeader turns an event's metadata into the header of its delivery. The channel leaves out what may not be passed on.
func eventHeader(metadata map[string]string, span *tracing.Span) invocation.Header {
	if len(metadata) == 0 && !span.Valid() {
		return nil
	}
	header := make(invocation.Header, 0, len(metadata)+2)
	for name, value := range metadata {
		switch strings.ToLower(name) {
		case traceparent, tracestate, traceBinary:
		default:
			header.Add(name, value)
		}
	}
	if parent, state := eventTrace(metadata, span); parent != "" {
		header.Add(traceparent, parent)
		if state != "" {
			header.Add(tracestate, state)
		}
	}
	return header
}

// traceBinary is the key of the binary form of a trace context.
const traceBinary = "grpc-trace-bin"
