package actors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	stores "outrigger.dev/components/state"
	"outrigger.dev/jsontext"
)

// This file reads the bodies of HTTP requests (Dapr API, actors: operations). Only the first JSON value of a body counts, names are
// matched whatever their case, unknown ones are ignored. What cannot be read is read once more by encoding/json, whose messages
// clients know. Nothing that is read refers to the body's memory.

// stateOperation is one operation of a transaction, whose request is read only later: what is wrong with it is another error.
type stateOperation struct {
	Operation string          `json:"operation"`
	Request   json.RawMessage `json:"request"`
}

// The names of operations in transactions.
const (
	upsert = "upsert"
	remove = "delete"
)

// readTransaction reads the body of a transaction: an array of operations. Their requests are parts of the body.
func readTransaction(body []byte) ([]stateOperation, error) {
	w := jsontext.Walk(body)
	if w.Null() {
		return nil, nil
	}
	var operations []stateOperation
	for w.Array(); w.Element(); {
		operations = append(operations, stateOperation{})
		if w.Null() {
			continue
		}
		o := &operations[len(operations)-1]
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
	if w.Err() != nil {
		return nil, jsontext.Explain(body, new([]stateOperation), w.Err())
	}
	return operations, nil
}

// What is wrong with single operations (Dapr API, actors: state).
var (
	errRequestEmpty   = errors.New("request data is empty")
	errOperationEmpty = errors.New("operation is empty")
)

// storeOperations reads the requests of a transaction. Values are brought into canonical form and keep all digits of their numbers.
func storeOperations(operations []stateOperation) ([]stores.Operation, error) {
	out := make([]stores.Operation, len(operations))
	for i, o := range operations {
		switch o.Operation {
		case upsert, remove:
		case "":
			return nil, errOperationEmpty
		default:
			return nil, fmt.Errorf("operation type %s not supported", o.Operation)
		}
		if len(o.Request) == 0 || o.Request[0] == 'n' {
			return nil, errRequestEmpty
		}
		item, err := readStateRequest(o.Request)
		if err != nil {
			return nil, fmt.Errorf("request of operation %d (%s): %w", i+1, o.Operation, err)
		}
		if item.Key == "" {
			return nil, errKeyMissing
		}
		if o.Operation == upsert {
			out[i].Set = &item
		} else {
			out[i].Delete = &stores.DeleteRequest{Key: item.Key, ETag: item.ETag, Metadata: item.Metadata}
		}
	}
	return out, nil
}

// readStateRequest reads the request of one operation. Its value is null when there is none.
func readStateRequest(request []byte) (item stores.SetRequest, err error) {
	item.Value.JSON = true
	w := jsontext.Walk(request)
	for w.Object(); w.Member(); {
		switch {
		case w.Named("key"):
			item.Key = w.String()
		case w.Named("value"):
			item.Value.Bytes = w.Canonical(nil)
		case w.Named("etag"):
			item.ETag = w.String()
		case w.Named("metadata"):
			item.Metadata = w.Strings(item.Metadata)
		default:
			w.Skip()
		}
	}
	if item.Value.Bytes == nil {
		item.Value.Bytes = []byte("null")
	}
	return item, w.Err()
}

// timerBody is the body of a request to set a timer.
type timerBody struct {
	DueTime  string          `json:"dueTime"`
	Period   string          `json:"period"`
	TTL      string          `json:"ttl"`
	Callback string          `json:"callback"`
	Data     json.RawMessage `json:"data"`
}

func readTimer(body []byte) (timerBody, error) {
	var b timerBody
	w := jsontext.Walk(body)
	if w.Null() {
		return b, nil
	}
	for w.Object(); w.Member(); {
		switch {
		case w.Named("dueTime"):
			b.DueTime = w.String()
		case w.Named("period"):
			b.Period = w.String()
		case w.Named("ttl"):
			b.TTL = w.String()
		case w.Named("callback"):
			b.Callback = w.String()
		case w.Named("data"):
			b.Data = bytes.Clone(w.Raw())
		default:
			w.Skip()
		}
	}
	if w.Err() != nil {
		return b, jsontext.Explain(body, new(timerBody), w.Err())
	}
	return b, nil
}

// reminderBody is the body of a request to register a reminder.
type reminderBody struct {
	DueTime       string          `json:"dueTime"`
	Period        string          `json:"period"`
	TTL           string          `json:"ttl"`
	Data          json.RawMessage `json:"data"`
	Overwrite     *bool           `json:"overwrite"`
	FailurePolicy json.RawMessage `json:"failure_policy"`
}

func readReminder(body []byte) (reminderBody, error) {
	var b reminderBody
	w := jsontext.Walk(body)
	if w.Null() {
		return b, nil
	}
	wrong := false
	for w.Object(); w.Member(); {
		switch {
		case w.Named("dueTime"):
			b.DueTime = w.String()
		case w.Named("period"):
			b.Period = w.String()
		case w.Named("ttl"):
			b.TTL = w.String()
		case w.Named("data"):
			b.Data = bytes.Clone(w.Raw())
		case w.Named("overwrite"):
			switch text := string(w.Raw()); text {
			case "true", "false":
				b.Overwrite = new(bool)
				*b.Overwrite = text == "true"
			case "null":
				b.Overwrite = nil
			default:
				wrong = true
			}
		case w.Named("failure_policy"), w.Named("failurePolicy"):
			b.FailurePolicy = bytes.Clone(w.Raw())
		default:
			w.Skip()
		}
	}
	if wrong || w.Err() != nil {
		found := w.Err()
		if found == nil {
			found = errors.New("overwrite must be true or false")
		}
		return b, jsontext.Explain(body, new(reminderBody), found)
	}
	return b, nil
}

// failurePolicy reads a failure policy as jobs have it: {"constant":{"interval":"3s","maxRetries":5}} or {"drop":{}}. Nil is none.
func (b *reminderBody) failurePolicy() (*commonv1.JobFailurePolicy, error) {
	if len(b.FailurePolicy) == 0 || b.FailurePolicy[0] == 'n' {
		return nil, nil
	}
	policy := new(commonv1.JobFailurePolicy)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(inSeconds(b.FailurePolicy), policy); err != nil {
		return nil, fmt.Errorf(`failure_policy %s: %w; use {"constant":{"interval":"3s","maxRetries":5}} or {"drop":{}}`, b.FailurePolicy, err)
	}
	if policy.GetPolicy() == nil {
		return nil, nil
	}
	return policy, nil
}

// inSeconds writes the interval of a failure policy as protobuf wants it if it is a Go duration such as 1m30s, which is how the Python SDK writes
// it. All else stays as it is, for the reader to judge.
func inSeconds(text json.RawMessage) json.RawMessage {
	var policy, constant map[string]json.RawMessage
	var interval string
	if json.Unmarshal(text, &policy) != nil || json.Unmarshal(policy["constant"], &constant) != nil || json.Unmarshal(constant["interval"], &interval) != nil {
		return text
	}
	d, err := time.ParseDuration(interval)
	if err != nil {
		return text
	}
	constant["interval"], _ = protojson.Marshal(durationpb.New(d)) // a duration of Go's is a valid one
	policy["constant"], _ = json.Marshal(constant)                 // these were JSON before
	out, err := json.Marshal(policy)
	if err != nil {
		return text
	}
	return out
}

// checkUnusedBody refuses bodies that are no JSON object, of requests that need none (Dapr API, actors: validation).
func checkUnusedBody(body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	w := jsontext.Walk(body)
	if w.Null() {
		return nil
	}
	for w.Object(); w.Member(); {
		w.Skip()
	}
	if w.Err() != nil {
		return jsontext.Explain(body, new(struct{}), w.Err())
	}
	return nil
}
