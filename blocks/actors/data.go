package actors

import (
	"encoding/base64"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrigger.dev/jsontext"
)

// bytesValue is the type of the data of timers and reminders: JSON text in a google.protobuf.BytesValue (Dapr API, actors: data).
const bytesValue = "type.googleapis.com/google.protobuf.BytesValue"

// jsonData makes the data of a timer or reminder of JSON text; nil for none.
func jsonData(text []byte) *anypb.Any {
	if len(text) == 0 {
		return nil
	}
	data, _ := anypb.New(wrapperspb.Bytes(text)) // bytes can always be encoded
	return data
}

// appendDataJSON appends the data of a reminder as JSON: the text that was registered, or the protobuf JSON of another message. It
// reports false, and appends nothing, when there is none.
func appendDataJSON(dst []byte, data *anypb.Any) ([]byte, bool, error) {
	if data == nil {
		return dst, false, nil
	}
	if data.GetTypeUrl() != bytesValue {
		text, err := protojson.Marshal(data)
		if err != nil {
			return dst, false, fmt.Errorf("the data of type %q cannot be written as JSON: %w", data.GetTypeUrl(), err)
		}
		return append(dst, text...), true, nil
	}
	text, err := bytesOf(data)
	if err != nil || len(text) == 0 {
		return dst, false, err
	}
	return jsontext.AppendData(dst, text), true, nil
}

// bytesOf is the content of a google.protobuf.BytesValue.
func bytesOf(data *anypb.Any) ([]byte, error) {
	var v wrapperspb.BytesValue
	if err := data.UnmarshalTo(&v); err != nil {
		return nil, fmt.Errorf("the data cannot be read: %w", err)
	}
	return v.GetValue(), nil
}

// rawData makes the data of a timer or reminder of the bytes that a gRPC client gives: JSON text with their base64 form (Dapr API,
// actors: data); nil for none.
func rawData(raw []byte) *anypb.Any {
	if len(raw) == 0 {
		return nil
	}
	text := make([]byte, 0, base64.StdEncoding.EncodedLen(len(raw))+2)
	text = append(text, '"')
	text = base64.StdEncoding.AppendEncode(text, raw)
	return jsonData(append(text, '"'))
}
