package pubsub

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"outrigger.dev/blocks/internal/cloudevents"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/jsontext"
	"outrigger.dev/telemetry/tracing"
)

func quoted(text string) []byte { return jsontext.AppendString(nil, text) }

func base64String(data []byte) []byte {
	text := make([]byte, 0, base64.StdEncoding.EncodedLen(len(data))+2)
	text = append(text, '"')
	text = base64.StdEncoding.AppendEncode(text, data)
	return append(text, '"')
}

// binaryEvent makes the event of a message in binary mode: its attributes are metadata entries (Dapr API, delivery: decoding).
func binaryEvent(msg *pubsub.Message) *cloudevents.Event {
	event := &cloudevents.Event{}
	add := func(name string, value []byte) {
		event.Attributes = append(event.Attributes, cloudevents.Attribute{Name: name, Value: value})
	}
	for key, value := range msg.Metadata {
		if len(key) > len(keyAttribute) && strings.EqualFold(key[:len(keyAttribute)], keyAttribute) {
			add(strings.ToLower(key[len(keyAttribute):]), quoted(value))
		}
	}
	add(cloudevents.DataContentType, quoted(msg.Metadata[keyContentType]))
	// Rules see the bytes as text; the receiver gets them as they are.
	add(cloudevents.Data, quoted(string(msg.Data)))
	return event
}

// traceOf is the trace context that a delivery goes on with: the event's, else the message's (Dapr API, tracing: pub/sub).
func traceOf(event *cloudevents.Event, metadata map[string]string) Trace {
	t := Trace{Parent: event.String(cloudevents.TraceParent), State: event.String(cloudevents.TraceState)}
	if t.Parent == "" {
		t.Parent = event.String(cloudevents.TraceID)
	}
	if t.Parent == "" {
		if t.Parent = metadata[cloudevents.TraceParent]; t.Parent == "" {
			t.Parent = metadata[cloudevents.TraceID]
		}
	}
	if t.State == "" {
		t.State = metadata[cloudevents.TraceState]
	}
	if !isTraceParent(t.Parent) {
		return Trace{}
	}
	return t
}

// isTraceParent reports whether a text is a traceparent that names a trace and a span.
func isTraceParent(text string) bool {
	_, ok := tracing.ParseParent(text)
	return ok
}

// inheritTrace gives an event the trace context of its message where it has none of its own (Dapr API, delivery: decoding).
func inheritTrace(event *cloudevents.Event, metadata map[string]string) {
	lacked := func(name string) bool { return event.Raw(name) == nil }
	id, parent, state := lacked(cloudevents.TraceID), lacked(cloudevents.TraceParent), lacked(cloudevents.TraceState)
	add := func(name, value string) {
		event.Attributes = append(event.Attributes, cloudevents.Attribute{Name: name, Value: quoted(value)})
	}
	if value, ok := metadata[cloudevents.TraceID]; ok && id {
		add(cloudevents.TraceID, value)
	}
	if value, ok := metadata[cloudevents.TraceParent]; ok && parent {
		add(cloudevents.TraceID, value)
		add(cloudevents.TraceParent, value)
	}
	if value, ok := metadata[cloudevents.TraceState]; ok && state {
		add(cloudevents.TraceState, value)
	}
}

// extensions are the attributes of an event that have no field of their own in gRPC messages.
func extensions(event *cloudevents.Event) *structpb.Struct {
	s := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(event.Attributes))}
	for _, a := range event.Attributes {
		switch a.Name {
		case cloudevents.ID, cloudevents.Source, cloudevents.Type, cloudevents.SpecVersion, cloudevents.DataContentType, cloudevents.Data, cloudevents.DataBase64:
			continue
		}
		if text, ok := jsontext.Unquote(a.Value); ok {
			s.Fields[utf8(a.Name)] = structpb.NewStringValue(utf8(string(text)))
			continue
		}
		var v any
		if json.Unmarshal(a.Value, &v) != nil {
			continue // which was parsed before
		}
		if value, err := structpb.NewValue(v); err == nil {
			s.Fields[utf8(a.Name)] = value
		}
	}
	return s
}

// payload is the data of a delivery as gRPC receivers get it.
func (d *delivery) payload() ([]byte, error) {
	if d.binary {
		return d.message.Data, nil
	}
	return d.event.Payload()
}
