package cloudevents

import (
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Class is how a payload is put into an envelope, by its media type.
type Class int

// The classes (Dapr API, publish: content-type classes).
const (
	// Text is everything that is no other class: a JSON string.
	Text Class = iota
	// String are the types that hold characters: text/* and application/xml. They are stored as Text is.
	String
	JSON
	Binary
	// CloudEvent is an event in JSON form.
	CloudEvent
	// Protobuf may be an event in binary form.
	Protobuf
)

// ClassOf is the class of a media type. Parameters and case do not matter.
func ClassOf(contentType string) Class {
	if i := strings.IndexByte(contentType, ';'); i >= 0 {
		contentType = contentType[:i]
	}
	contentType = strings.TrimSpace(contentType)
	switch {
	case is(contentType, "application/json"):
		return JSON
	case is(contentType, ContentType):
		return CloudEvent
	case is(contentType, "application/octet-stream"):
		return Binary
	case is(contentType, "application/xml"), len(contentType) >= 5 && is(contentType[:5], "text/"):
		return String
	case is(contentType, protobufEvent), is(contentType, protobuf):
		return Protobuf
	}
	return Text
}

const (
	protobufEvent = "application/cloudevents+protobuf"
	protobuf      = "application/x-protobuf"
)

func is(text, lower string) bool { return len(text) == len(lower) && strings.EqualFold(text, lower) }

// isProtobufEvent reports whether a payload of the Protobuf class is an event: by its type, or for the general type if it has
// the four obligatory attributes of io.cloudevents.v1.CloudEvent as non-empty strings and no field of another wire type.
func isProtobufEvent(contentType string, payload []byte) bool {
	if len(contentType) >= len(protobufEvent) && is(contentType[:len(protobufEvent)], protobufEvent) {
		return true
	}
	var required [5]bool
	for len(payload) > 0 {
		number, kind, n := protowire.ConsumeTag(payload)
		if n < 0 {
			return false
		}
		payload = payload[n:]
		if number >= 1 && number <= 8 && kind != protowire.BytesType {
			return false
		}
		n = protowire.ConsumeFieldValue(number, kind, payload)
		if n < 0 {
			return false
		}
		if number >= 1 && number <= 4 {
			value, _ := protowire.ConsumeBytes(payload)
			required[number] = len(value) > 0
		}
		payload = payload[n:]
	}
	return required[1] && required[2] && required[3] && required[4]
}
