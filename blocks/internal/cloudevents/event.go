package cloudevents

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"outrigger.dev/jsontext"
)

// Attribute is a member of an event: a name and a JSON value as text.
type Attribute struct {
	Name  string
	Value []byte
}

// Event is an event in JSON form, taken apart by its attributes.
type Event struct {
	// Text is the whole event.
	Text []byte
	// Attributes are the members in order, with unescaped names; of a repeated one the last counts.
	Attributes []Attribute
}

// Parse takes an event apart. Any JSON object passes for one; the error tells of other text (Dapr API, delivery: decoding).
func Parse(text []byte) (*Event, error) {
	w := jsontext.Walk(text)
	if kind := w.Kind(); kind != jsontext.Object && jsontext.Valid(text) {
		return nil, fmt.Errorf("an event must be a JSON object, not %s", kind)
	}
	e := &Event{Text: text, Attributes: make([]Attribute, 0, 16)}
	for w.Object(); w.Member(); {
		e.Attributes = append(e.Attributes, Attribute{attributeName(w.Name()), w.Raw()})
	}
	w.End()
	if w.Err() != nil {
		return nil, syntaxError(text)
	}
	return e, nil
}

// syntaxError says why text is no JSON, in the words of the standard library.
func syntaxError(text []byte) error {
	var v json.RawMessage
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	return errors.New("malformed JSON")
}

// attributeName is the name as a string, without a copy for those that almost every event has.
func attributeName(name []byte) string {
	switch string(name) {
	case ID:
		return ID
	case SpecVersion:
		return SpecVersion
	case Source:
		return Source
	case Type:
		return Type
	case DataContentType:
		return DataContentType
	case Time:
		return Time
	case Topic:
		return Topic
	case PubsubName:
		return PubsubName
	case TraceID:
		return TraceID
	case TraceParent:
		return TraceParent
	case TraceState:
		return TraceState
	case Data:
		return Data
	case DataBase64:
		return DataBase64
	}
	return string(name)
}

// Raw is the JSON text of an attribute, nil when the event lacks it.
func (e *Event) Raw(name string) []byte {
	for i := len(e.Attributes) - 1; i >= 0; i-- {
		if e.Attributes[i].Name == name {
			return e.Attributes[i].Value
		}
	}
	return nil
}

// String is the value of an attribute that is a string; otherwise, or when the event lacks it, it is empty.
func (e *Event) String(name string) string {
	text, _ := jsontext.Unquote(e.Raw(name))
	return string(text)
}

// Expired reports whether the event has an expiration that is past. One that is no time is ignored (Dapr API, delivery:
// expiry).
func (e *Event) Expired(now time.Time) bool {
	raw := e.Raw(Expiration)
	if raw == nil {
		return false
	}
	text, ok := jsontext.Unquote(raw)
	if !ok {
		return false
	}
	expires, err := time.Parse(time.RFC3339, string(text))
	return err == nil && expires.Before(now)
}

// Payload is the data as it was published: what data_base64 decodes to, the characters of a string for types that hold
// characters, and the JSON text of data for all others. An event without data has none. (Dapr API, delivery to gRPC apps; unlike
// Dapr, which hands over nothing, data of types of no known class is what it was when it was published.)
func (e *Event) Payload() ([]byte, error) {
	if raw := e.Raw(DataBase64); raw != nil && string(raw) != "null" {
		text, ok := jsontext.Unquote(raw)
		if !ok {
			return nil, fmt.Errorf("data_base64 of event %s must be a string of base64", e.Raw(ID))
		}
		data, err := base64.StdEncoding.AppendDecode(nil, text)
		if err != nil {
			return nil, fmt.Errorf("data_base64 of event %s is no base64: %w", e.Raw(ID), err)
		}
		return data, nil
	}
	raw := e.Raw(Data)
	if raw == nil {
		return nil, nil
	}
	class := ClassOf(e.String(DataContentType))
	if class == JSON || class == CloudEvent {
		return raw, nil
	}
	text, ok := jsontext.Unquote(raw)
	switch {
	case ok:
		return text, nil
	case class == String:
		return nil, fmt.Errorf("data of event %s must be a string for the content type %s", e.Raw(ID), e.String(DataContentType))
	}
	return raw, nil
}

// Map decodes the event for expressions: numbers become float64.
func (e *Event) Map() (map[string]any, error) {
	m := make(map[string]any, len(e.Attributes))
	for _, a := range e.Attributes {
		var v any
		if err := json.Unmarshal(a.Value, &v); err != nil {
			return nil, fmt.Errorf("attribute %s: %w", a.Name, err)
		}
		m[a.Name] = v
	}
	return m, nil
}

// manyAttributes is from how many attributes on a map finds the repeated ones: to compare each with each other of a large event
// would take minutes.
const manyAttributes = 64

// latest are the places of the last attribute of each name; nil when there are few.
func latest(list []Attribute) map[string]int {
	if len(list) < manyAttributes {
		return nil
	}
	last := make(map[string]int, len(list))
	for i, a := range list {
		last[a.Name] = i
	}
	return last
}

// repeated reports whether the name of the i-th attribute comes again. last is [latest] of the list.
func repeated(list []Attribute, last map[string]int, i int) bool {
	if last != nil {
		return last[list[i].Name] != i
	}
	return slices.ContainsFunc(list[i+1:], func(later Attribute) bool { return later.Name == list[i].Name })
}

// AppendWith appends the event with attributes replaced, or added at the end.
func (e *Event) AppendWith(dst []byte, set ...Attribute) []byte {
	dst = append(dst, '{')
	first := true
	add := func(name string, value []byte) {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(jsontext.AppendString(dst, name), ':')
		dst, _ = jsontext.AppendEmbedded(dst, valid(value)) // the values were parsed
	}
	own, others := latest(e.Attributes), latest(set)
	for i, a := range e.Attributes {
		_, replaced := others[a.Name]
		if others == nil {
			replaced = slices.ContainsFunc(set, func(s Attribute) bool { return s.Name == a.Name })
		}
		if !replaced && !repeated(e.Attributes, own, i) {
			add(a.Name, a.Value)
		}
	}
	for i, s := range set {
		if !repeated(set, others, i) {
			add(s.Name, s.Value)
		}
	}
	return append(dst, '}')
}
