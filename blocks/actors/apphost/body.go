package apphost

import (
	"encoding/base64"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"outrigger.dev/blocks/actors"
	"outrigger.dev/jsontext"
)

// reminderBody is the body of the callback of a reminder or timer (Dapr API, actors: callbacks to the app, bodies). Its keys have one
// order, and there is no data if none was registered. It fails on data of a message type that is not known here.
func reminderBody(r *actors.Reminder) ([]byte, error) {
	data, err := dataText(r.Data)
	if err != nil {
		return nil, fmt.Errorf("the data of %q of actor %s/%s cannot be delivered over HTTP: %w", r.Name, r.Type, r.ID, err)
	}
	body := make([]byte, 0, len(data)+len(r.Callback)+len(r.DueTime)+len(r.Period)+64)
	body = append(body, '{')
	if len(data) > 0 {
		body = append(body, `"data":`...)
		body = append(body, data...)
		body = append(body, ',')
	}
	if r.Timer {
		body = append(body, `"callback":`...)
		body = jsontext.AppendString(body, r.Callback)
		body = append(body, ',')
	}
	body = append(body, `"dueTime":`...)
	body = jsontext.AppendString(body, r.DueTime)
	body = append(body, `,"period":`...)
	body = jsontext.AppendString(body, r.Period)
	return append(body, '}'), nil
}

// dataText is registered data as JSON; empty for none. Bytes are JSON text already (Dapr API, actors: reminder data): those that are
// not become a string of their base64 form. Any other message is its protobuf JSON.
func dataText(data *anypb.Any) ([]byte, error) {
	if data == nil {
		return nil, nil
	}
	if name := data.GetTypeUrl(); name[strings.LastIndexByte(name, '/')+1:] == "google.protobuf.BytesValue" {
		text, err := bytesValue(data.GetValue())
		if err != nil || len(text) == 0 || jsontext.Valid(text) {
			return text, err
		}
		encoded := make([]byte, 0, base64.StdEncoding.EncodedLen(len(text))+2)
		encoded = base64.StdEncoding.AppendEncode(append(encoded, '"'), text)
		return append(encoded, '"'), nil
	}
	if data.GetTypeUrl() == "" && len(data.GetValue()) == 0 {
		return nil, nil
	}
	message, err := data.UnmarshalNew()
	if err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(message)
	if err != nil {
		return nil, err
	}
	// The library's white space changes from build to build.
	compact, _ := jsontext.AppendEmbedded(make([]byte, 0, len(text)), text)
	return compact, nil
}

// bytesValue is the content of an encoded google.protobuf.BytesValue, without a copy.
func bytesValue(encoded []byte) (value []byte, err error) {
	for len(encoded) > 0 {
		number, kind, n := protowire.ConsumeTag(encoded)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		encoded = encoded[n:]
		if number == 1 && kind == protowire.BytesType {
			value, n = protowire.ConsumeBytes(encoded)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, encoded)
		}
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		encoded = encoded[n:]
	}
	return value, nil
}
