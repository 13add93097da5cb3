package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"outrigger.dev/api"
	"outrigger.dev/blocks/internal/cloudevents"
	"outrigger.dev/components"
	stores "outrigger.dev/components/state"
	"outrigger.dev/jsontext"
)

// markerPrefix begins the keys of markers, which belong to no app.
const markerPrefix = "outbox-"

// projection is the name of the metadata entry of a write that is not to be stored: its value is what is published of the other
// write to the same key (Dapr API, transactional outbox: projections).
const projection = "outbox.projection"

// content is a value with its media type, "" when that was not given.
type content struct {
	value       stores.Value
	contentType string
}

// Prepare hands the event of every write in operations to the internal topic of the store, and returns the operations without
// projections, in place, and the markers that the transaction must write along. Operations have stored keys and clear values;
// contentTypes, unless nil, has the content type field of each. The error is an [*api.Error], after which the transaction must
// not run; what was handed over before it has no marker, and so is never published.
func (o *Outbox) Prepare(ctx context.Context, name string, operations []stores.Operation, contentTypes []string, traceParent, traceState string) (kept, markers []stores.Operation, err error) {
	e := o.stores.Use(name)
	if e == nil {
		return operations, nil, nil
	}
	defer e.Release()
	internal := e.Component.internal
	var projections map[string]content
	for i, op := range operations {
		if projects(op) {
			if projections == nil {
				projections = map[string]content{}
			}
			projections[op.Set.Key] = contentOf(op.Set, contentTypes, i)
		}
	}
	envelope := cloudevents.Envelope{
		Source: o.options.AppID, Time: o.options.Clock.Now(), PubsubName: internal.component, TraceID: traceParent, TraceState: traceState,
	}
	kept = operations[:0]
	for i, op := range operations {
		if projects(op) {
			continue
		}
		kept = append(kept, op)
		if op.Set == nil {
			continue
		}
		envelope.ID = string(cloudevents.AppendNewID([]byte(markerPrefix)))
		event, err := eventOf(envelope, op.Set, contentOf(op.Set, contentTypes, i), projections)
		if err == nil {
			err = o.options.Broker.PublishEvent(ctx, internal.component, internal.topic, event, cloudevents.ContentType)
		}
		if err != nil {
			return nil, nil, api.ErrPublishOutbox(o.options.AppID, err)
		}
		// The value is that of Dapr, whose sidecars may read the same store. They, too, look only whether there is one.
		markers = append(markers, stores.Operation{Set: &stores.SetRequest{Key: envelope.ID, Value: stores.Value{Bytes: []byte(`"0"`), JSON: true}}})
	}
	return kept, markers, nil
}

// projects reports whether an operation is a projection.
func projects(op stores.Operation) bool {
	return op.Set != nil && components.Truthy(op.Set.Metadata[projection])
}

// contentOf is the value of the i-th operation. The content type field of a request wins over the one in its metadata.
func contentOf(set *stores.SetRequest, contentTypes []string, i int) content {
	c := content{value: set.Value, contentType: set.Metadata[stores.MetadataContentType]}
	if i < len(contentTypes) && contentTypes[i] != "" {
		c.contentType = contentTypes[i]
	}
	return c
}

// eventOf makes the event of a write. The metadata of the write become attributes, but cannot replace its id and data (Dapr API,
// transactional outbox: the event). A projection without a content type has that of the write.
func eventOf(envelope cloudevents.Envelope, set *stores.SetRequest, c content, projections map[string]content) ([]byte, error) {
	if p, ok := projections[set.Key]; ok {
		c.value = p.value
		if p.contentType != "" {
			c.contentType = p.contentType
		}
	}
	var err error
	if envelope.Payload, err = payload(c); err != nil {
		return nil, fmt.Errorf("value of key %q: %w", set.Key, err)
	}
	envelope.DataContentType = c.contentType
	text := envelope.Append(make([]byte, 0, len(envelope.Payload)+len(envelope.Payload)/8+eventRoom))
	var attributes []cloudevents.Attribute
	for _, name := range slices.Sorted(maps.Keys(set.Metadata)) {
		if name != cloudevents.ID && name != cloudevents.Data {
			attributes = append(attributes, cloudevents.Attribute{Name: name, Value: jsontext.AppendString(nil, set.Metadata[name])})
		}
	}
	if attributes == nil {
		return text, nil
	}
	event, err := cloudevents.Parse(text)
	if err != nil {
		return nil, err
	}
	return event.AppendWith(make([]byte, 0, len(text)+eventRoom), attributes...), nil
}

// eventRoom is about what an event takes besides its data, in bytes.
const eventRoom = 448

// payload turns a value into the bytes that are published (Dapr API, transactional outbox: the event). Bytes are what they are.
// JSON stays JSON if the content type says that it is. For other types a string is its characters, and anything else is written
// the way fmt prints it: {"a":[1,true]} as map[a:[1 true]], a million as 1e+06. No one would choose that today, but it is what
// subscribers of such events have always got. Types with parameters, such as application/json; charset=utf-8, are an
// exception: what fmt prints is no JSON, so values other than strings stay JSON there.
func payload(c content) ([]byte, error) {
	if !c.value.JSON || strings.EqualFold(c.contentType, stores.ContentTypeJSON) {
		return c.value.Bytes, nil
	}
	if text, ok := jsontext.Unquote(c.value.Bytes); ok {
		return text, nil
	}
	if cloudevents.ClassOf(c.contentType) == cloudevents.JSON {
		return c.value.Bytes, nil
	}
	var v any
	if err := json.Unmarshal(c.value.Bytes, &v); err != nil {
		return nil, err
	}
	return fmt.Append(nil, v), nil
}

// finalEvent is an event of the internal topic as it is published.
func finalEvent(event *cloudevents.Event, to queue) []byte {
	return event.AppendWith(make([]byte, 0, len(event.Text)+len(to.topic)+len(to.component)),
		cloudevents.Attribute{Name: cloudevents.PubsubName, Value: jsontext.AppendString(nil, to.component)},
		cloudevents.Attribute{Name: cloudevents.Topic, Value: jsontext.AppendString(nil, to.topic)})
}
