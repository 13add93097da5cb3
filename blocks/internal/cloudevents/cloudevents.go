// Package cloudevents makes and reads the envelope that messages travel in: a CloudEvents 1.0 event in JSON form, with the
// attributes that the Dapr API adds (Dapr API, publish: the CloudEvent envelope).
//
// Envelopes are made and taken apart as text. The data inside is never decoded: it passes through with every digit of its
// numbers.
package cloudevents

import (
	"encoding/base64"
	"strings"
	"time"

	"github.com/google/uuid"

	"outrigger.dev/jsontext"
)

// The attributes by name.
const (
	ID              = "id"
	SpecVersion     = "specversion"
	Source          = "source"
	Type            = "type"
	Subject         = "subject"
	DataContentType = "datacontenttype"
	Time            = "time"
	Topic           = "topic"
	PubsubName      = "pubsubname"
	TraceID         = "traceid"
	TraceParent     = "traceparent"
	TraceState      = "tracestate"
	Expiration      = "expiration"
	Data            = "data"
	DataBase64      = "data_base64"
)

// Values of attributes.
const (
	// Version is the specversion of every event.
	Version = "1.0"
	// DefaultType and DefaultSource stand in for what a publisher did not give.
	DefaultType   = "com.dapr.event.sent"
	DefaultSource = "Dapr"
	// BulkType is the type of the envelope around a bulk of events.
	BulkType = "com.dapr.event.sent.bulk"
)

// ContentType is the media type of an event in JSON form.
const ContentType = "application/cloudevents+json"

// Envelope holds the attributes of a new event. Empty ones get the defaults that the fields name.
type Envelope struct {
	// ID is unique for the source; default is a random UUID.
	ID string
	// Source is who sent the event; default "Dapr".
	Source string
	// Type is what happened; default "com.dapr.event.sent".
	Type string
	// Subject is left out when nil.
	Subject *string
	// DataContentType is the media type of Payload; default "text/plain".
	DataContentType string
	Time            time.Time
	Topic           string
	PubsubName      string
	// TraceID and TraceParent are the same text as a rule; the former is the name that older apps read.
	TraceID, TraceParent, TraceState string
	// Expires is when the event ceases to be of use; the zero time means never.
	Expires time.Time
	// Payload is the data as published.
	Payload []byte
}

// Append appends the event as one JSON object with its names in byte order.
func (e *Envelope) Append(dst []byte) []byte {
	contentType := e.DataContentType
	if contentType == "" {
		contentType = "text/plain"
	}
	dst = append(dst, '{')
	dst = AppendPayload(dst, contentType, e.Payload)
	dst = appendAttribute(dst, `,"datacontenttype":`, contentType)
	if !e.Expires.IsZero() {
		dst = append(dst, `,"expiration":"`...)
		dst = append(e.Expires.UTC().AppendFormat(dst, time.RFC3339), '"')
	}
	if e.ID != "" {
		dst = appendAttribute(dst, `,"id":`, e.ID)
	} else {
		dst = append(dst, `,"id":"`...)
		dst = append(AppendNewID(dst), '"')
	}
	dst = appendAttribute(dst, `,"pubsubname":`, e.PubsubName)
	dst = appendAttribute(dst, `,"source":`, or(e.Source, DefaultSource))
	dst = append(dst, `,"specversion":"1.0"`...)
	if e.Subject != nil {
		dst = appendAttribute(dst, `,"subject":`, *e.Subject)
	}
	dst = append(dst, `,"time":"`...)
	dst = append(e.Time.AppendFormat(dst, time.RFC3339), '"')
	dst = appendAttribute(dst, `,"topic":`, e.Topic)
	dst = appendAttribute(dst, `,"traceid":`, e.TraceID)
	dst = appendAttribute(dst, `,"traceparent":`, e.TraceParent)
	dst = appendAttribute(dst, `,"tracestate":`, e.TraceState)
	dst = appendAttribute(dst, `,"type":`, or(e.Type, DefaultType))
	return append(dst, '}')
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func appendAttribute(dst []byte, name, value string) []byte {
	return jsontext.AppendString(append(dst, name...), value)
}

// AppendNewID appends a random UUID.
func AppendNewID(dst []byte) []byte {
	id := uuid.New()
	text, _ := id.MarshalText() // which cannot fail
	return append(dst, text...)
}

// AppendPayload appends the member that holds the payload: "data" or "data_base64" (Dapr API, publish: data). JSON that cannot
// be parsed, and everything that is neither JSON nor binary, becomes a JSON string.
func AppendPayload(dst []byte, contentType string, payload []byte) []byte {
	switch ClassOf(contentType) {
	case JSON:
		dst = append(dst, `"data":`...)
		if value, ok := firstValue(payload); ok {
			if out, ok := jsontext.AppendEmbedded(dst, valid(value)); ok {
				return out
			}
		}
		return jsontext.AppendString(dst, string(payload))
	case Binary:
		return appendBase64(dst, payload)
	case Protobuf:
		if isProtobufEvent(contentType, payload) {
			return appendBase64(dst, payload)
		}
	}
	return jsontext.AppendString(append(dst, `"data":`...), string(payload))
}

func appendBase64(dst, payload []byte) []byte {
	dst = append(dst, `"data_base64":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, payload)
	return append(dst, '"')
}

// firstValue is the first JSON value of a text. What follows an object or array does not count; behind a scalar there must be
// white space or nothing.
func firstValue(text []byte) ([]byte, bool) {
	w := jsontext.Walk(text)
	kind := w.Kind()
	value := w.Raw()
	if w.Err() != nil {
		return nil, false
	}
	if kind == jsontext.Object || kind == jsontext.Array {
		return value, true
	}
	end := len(text) - len(trimLeft(text)) + len(value)
	if end < len(text) {
		switch text[end] {
		case ' ', '\t', '\r', '\n':
		default:
			return nil, false
		}
	}
	return value, true
}

func trimLeft(text []byte) []byte {
	for len(text) > 0 && (text[0] == ' ' || text[0] == '\t' || text[0] == '\r' || text[0] == '\n') {
		text = text[1:]
	}
	return text
}

// valid replaces bytes that are no UTF-8, each by U+FFFD.
func valid(text []byte) []byte {
	if s := string(text); strings.ToValidUTF8(s, "") != s {
		return []byte(string([]rune(s)))
	}
	return text
}

// Completion is what is put into an event that a publisher made itself (Dapr API, publish: pass-through of a CloudEvent).
type Completion struct {
	Topic, PubsubName string
	// Time, TraceParent and TraceState are for events that have none. Without a traceid both it and traceparent are set.
	Time                    time.Time
	TraceParent, TraceState string
	// Expires, unless zero, sets the expiration.
	Expires time.Time
}

// Append appends the event that text holds, completed: topic and pubsubname are those of the publication, time, traceid,
// tracestate, source, type and specversion are added where they are missing, everything else stays as it is. It fails when
// text does not start with a JSON object.
func (c *Completion) Append(dst, text []byte) ([]byte, error) {
	value, ok := firstValue(text)
	if !ok {
		return nil, syntaxError(text)
	}
	event, err := Parse(value)
	if err != nil {
		return nil, err
	}
	set := []Attribute{{Topic, quoted(c.Topic)}, {PubsubName, quoted(c.PubsubName)}}
	if event.Raw(Time) == nil {
		set = append(set, Attribute{Time, quoted(c.Time.Format(time.RFC3339))})
	}
	if event.Raw(TraceID) == nil {
		set = append(set, Attribute{TraceID, quoted(c.TraceParent)}, Attribute{TraceParent, quoted(c.TraceParent)})
	}
	if event.Raw(TraceState) == nil {
		set = append(set, Attribute{TraceState, quoted(c.TraceState)})
	}
	for _, d := range [...][2]string{{Source, DefaultSource}, {Type, DefaultType}, {SpecVersion, Version}} {
		if raw := event.Raw(d[0]); raw == nil || string(raw) == "null" {
			set = append(set, Attribute{d[0], quoted(d[1])})
		}
	}
	if !c.Expires.IsZero() {
		set = append(set, Attribute{Expiration, quoted(c.Expires.UTC().Format(time.RFC3339))})
	}
	return event.AppendWith(dst, set...), nil
}

func quoted(text string) []byte { return jsontext.AppendString(nil, text) }
