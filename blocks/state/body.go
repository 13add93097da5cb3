package state

import (
	"bytes"
	"encoding/json"
	"fmt"

	stores "outrigger.dev/components/state"
	"outrigger.dev/jsontext"
)

// This file reads the bodies of HTTP requests (Dapr API, state: HTTP routes). Only the first JSON value of a body counts, names
// are matched whatever their case, unknown ones are ignored. Values are sliced and brought into canonical form, not decoded.
// What cannot be read is read once more by encoding/json, whose messages clients know.

// readItems reads the body of a save: an array of items.
func readItems(body []byte, scratch *buffer) ([]stores.SetRequest, error) {
	w := jsontext.Walk(body)
	if w.Null() {
		return nil, nil
	}
	var items []stores.SetRequest
	for w.Array(); w.Element(); {
		items = append(items, stores.SetRequest{})
		readItem(&w, &items[len(items)-1], scratch)
	}
	if w.Err() != nil {
		return nil, itemsError(body, w.Err())
	}
	return items, nil
}

// readItem reads an item, or a null for an empty one. Its value is null when there is none. The content type beside the value
// means something only to the outbox; stores go by the one in the metadata.
func readItem(w *jsontext.Walker, item *stores.SetRequest, scratch *buffer) (contentType string) {
	item.Value.JSON = true
	if !w.Null() {
		for w.Object(); w.Member(); {
			switch {
			case w.Named("key"):
				item.Key = w.String()
			case w.Named("value"):
				// The canonical form is made where there is room and copied to what it takes, for the store may keep it.
				scratch.bytes = w.Canonical(scratch.bytes[:0])
				item.Value.Bytes = bytes.Clone(scratch.bytes)
			case w.Named("etag"):
				item.ETag = w.String()
			case w.Named("metadata"):
				item.Metadata = w.Strings(item.Metadata)
			case w.Named("options"):
				readOptions(w, &item.Options)
			case w.Named("contentType"):
				contentType = w.String()
			default:
				w.Skip()
			}
		}
	}
	if item.Value.Bytes == nil {
		item.Value.Bytes = []byte("null")
	}
	return contentType
}

func readOptions(w *jsontext.Walker, o *stores.Options) {
	if w.Null() {
		return
	}
	for w.Object(); w.Member(); {
		switch {
		case w.Named("concurrency"):
			o.Concurrency = stores.Concurrency(w.String())
		case w.Named("consistency"):
			o.Consistency = stores.Consistency(w.String())
		default:
			w.Skip()
		}
	}
}

// itemsError is what encoding/json says about the body of a save; found if it says nothing.
func itemsError(body []byte, found error) error {
	// The name of this type is a part of messages.
	type SetRequest struct {
		Key      string            `json:"key"`
		Value    any               `json:"value"`
		ETag     *string           `json:"etag"`
		Metadata map[string]string `json:"metadata"`
		Options  struct {
			Concurrency string `json:"concurrency"`
			Consistency string `json:"consistency"`
		} `json:"options"`
		ContentType *string `json:"contentType"`
	}
	var items []SetRequest
	return jsontext.Explain(body, &items, found)
}

// bulkGetBody is the body of a bulk get.
type bulkGetBody struct {
	Keys        []string          `json:"keys"`
	Parallelism int               `json:"parallelism"`
	Metadata    map[string]string `json:"metadata"`
}

func readBulkGet(body []byte) (bulkGetBody, error) {
	var b bulkGetBody
	w := jsontext.Walk(body)
	if w.Null() {
		return b, nil
	}
	for w.Object(); w.Member(); {
		switch {
		case w.Named("keys"):
			b.Keys = b.Keys[:0]
			if w.Null() {
				continue
			}
			for w.Array(); w.Element(); {
				b.Keys = append(b.Keys, w.String())
			}
		case w.Named("parallelism"):
			b.Parallelism = w.Int()
		case w.Named("metadata"):
			b.Metadata = w.Strings(b.Metadata)
		default:
			w.Skip()
		}
	}
	if w.Err() != nil {
		return b, jsontext.Explain(body, new(bulkGetBody), w.Err())
	}
	return b, nil
}

// transactionBody is the body of a transaction.
type transactionBody struct {
	Operations []operationBody   `json:"operations"`
	Metadata   map[string]string `json:"metadata"`
}

// operationBody is one operation, whose request is read only when its name is known to be right.
type operationBody struct {
	Operation string          `json:"operation"`
	Request   json.RawMessage `json:"request"`
}

func readTransaction(body []byte) (transactionBody, error) {
	var b transactionBody
	w := jsontext.Walk(body)
	if w.Null() {
		return b, nil
	}
	for w.Object(); w.Member(); {
		switch {
		case w.Named("operations"):
			b.Operations = b.Operations[:0]
			if w.Null() {
				continue
			}
			for w.Array(); w.Element(); {
				b.Operations = append(b.Operations, operationBody{})
				readOperation(&w, &b.Operations[len(b.Operations)-1])
			}
		case w.Named("metadata"):
			b.Metadata = w.Strings(b.Metadata)
		default:
			w.Skip()
		}
	}
	if w.Err() != nil {
		return b, jsontext.Explain(body, new(transactionBody), w.Err())
	}
	return b, nil
}

func readOperation(w *jsontext.Walker, o *operationBody) {
	if w.Null() {
		return
	}
	for w.Object(); w.Member(); {
		switch {
		case w.Named("operation"):
			o.Operation = w.String()
		case w.Named("request"):
			o.Request = w.Raw()
		default:
			w.Skip()
		}
	}
}

// readRequest reads the request of the i-th operation of a transaction, and its content type; see [readItem].
func readRequest(i int, o operationBody, item *stores.SetRequest, scratch *buffer) (contentType string, _ error) {
	request := []byte(o.Request)
	if request == nil {
		request = []byte("null")
	}
	w := jsontext.Walk(request)
	contentType = readItem(&w, item, scratch)
	if err := w.Err(); err != nil {
		return "", fmt.Errorf("request of operation %d (%s): %w, in %q", i+1, o.Operation, err, excerpt(request))
	}
	return contentType, nil
}

// excerpt shortens text for messages.
func excerpt(text []byte) []byte {
	const limit = 120
	if len(text) <= limit {
		return text
	}
	return append(bytes.Clone(text[:limit]), "..."...)
}
