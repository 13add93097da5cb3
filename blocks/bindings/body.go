package bindings

import (
	"bytes"
	"encoding/json"

	contract "outrigger.dev/components/bindings"
	"outrigger.dev/jsontext"
)

// This file reads the bodies of HTTP requests (Dapr API, bindings: output bindings). Only the first JSON value of a body counts, names
// are matched whatever their case, unknown ones are ignored.

// readRequest reads the body of an operation. Its metadata is never nil, its data null when there is none.
func readRequest(body []byte) (contract.Request, error) {
	var req contract.Request
	w := jsontext.Walk(body)
	if !w.Null() {
		for w.Object(); w.Member(); {
			switch {
			case w.Named("operation"):
				req.Operation = w.String()
			case w.Named("data"):
				req.Data = w.Canonical(nil)
			case w.Named("metadata"):
				req.Metadata = w.Strings(req.Metadata)
			default:
				w.Skip()
			}
		}
	}
	if w.Err() != nil {
		return req, requestError(body, w.Err())
	}
	if req.Metadata == nil {
		req.Metadata = map[string]string{}
	}
	if req.Data == nil {
		req.Data = []byte("null")
	}
	req.Data = escapeHTML(req.Data)
	return req, nil
}

// requestError is what encoding/json says about a body, for clients know its texts; found if it says nothing.
func requestError(body []byte, found error) error {
	// The name of this type is a part of messages.
	type OutputBindingRequest struct {
		Metadata  map[string]string `json:"metadata"`
		Data      any               `json:"data"`
		Operation string            `json:"operation"`
	}
	var req OutputBindingRequest
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&req); err != nil {
		return err
	}
	return found
}

// recode brings JSON into the form in which bindings get it: compact, names sorted, and what means something in HTML escaped. Stored
// files and signatures made elsewhere depend on these very bytes. Only numbers keep the digits that decoding would lose. It is null for
// what is no JSON.
func recode(text []byte) []byte {
	canonical, err := jsontext.Canonical(text)
	if err != nil {
		return []byte("null")
	}
	return escapeHTML(canonical)
}

// escapeHTML escapes canonical JSON as encoding/json does. Text without anything to escape is returned as it is.
func escapeHTML(canonical []byte) []byte {
	if bytes.IndexByte(canonical, '<') < 0 && bytes.IndexByte(canonical, '>') < 0 && bytes.IndexByte(canonical, '&') < 0 &&
		!bytes.Contains(canonical, []byte("\u2028")) && !bytes.Contains(canonical, []byte("\u2029")) {
		return canonical
	}
	escaped, ok := jsontext.AppendEmbedded(make([]byte, 0, len(canonical)+16), canonical)
	if !ok {
		return canonical
	}
	return escaped
}
