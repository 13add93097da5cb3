package state

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	stores "outrigger.dev/components/state"
)

// FuzzItems holds the reader of save bodies against encoding/json: the same bodies are accepted, and say the same.
func FuzzItems(f *testing.F) {
	for _, s := range []string{
		`[{"key":"k","value":{"b":[1,2.5],"a":null},"etag":"1","metadata":{"a":"1","b":null},"options":{"concurrency":"first-write","consistency":"strong"},"contentType":"x"}]`,
		`[{"KEY":"k","key":"l","Metadata":{"a":"1"},"metadata":{"b":"2"},"options":null,"options":{"Concurrency":"c"}},null,{"etag":null,"x":[{}]}] x`,
		`null`, `[]`, ``, `[{"key":1}]`, `[{"value":1e400}]`, `[{"x":1e400}]`, `{"key":"a"}`, "[{\"\xff\":\"\xff\"}]", `[{"options":{"consistency":1}}]`, `[{"metadata":{"a":{}}}]`, `[{"key":"a"},`,
	} {
		f.Add([]byte(s))
	}
	type item struct {
		Key      string            `json:"key"`
		Value    any               `json:"value"`
		ETag     *string           `json:"etag"`
		Metadata map[string]string `json:"metadata"`
		Options  struct {
			Concurrency string `json:"concurrency"`
			Consistency string `json:"consistency"`
		} `json:"options"`
		ContentType string `json:"contentType"`
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var want []item
		wantErr := json.NewDecoder(bytes.NewReader(body)).Decode(&want)
		got, err := readItems(bytes.Clone(body), new(buffer))
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("error %v, want %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if len(got) != len(want) {
			t.Fatalf("%d items, want %d", len(got), len(want))
		}
		for i, w := range want {
			g := got[i]
			var value any
			if err := json.Unmarshal(g.Value.Bytes, &value); err != nil || !g.Value.JSON {
				t.Fatalf("value %q: %v", g.Value.Bytes, err)
			}
			etag := ""
			if w.ETag != nil {
				etag = *w.ETag
			}
			same := stores.SetRequest{
				Key: w.Key, Value: g.Value, ETag: etag, Metadata: w.Metadata,
				Options: stores.Options{Concurrency: stores.Concurrency(w.Options.Concurrency), Consistency: stores.Consistency(w.Options.Consistency)},
			}
			if len(g.Metadata) == 0 && len(same.Metadata) == 0 {
				g.Metadata, same.Metadata = nil, nil
			}
			if !reflect.DeepEqual(g, same) || !reflect.DeepEqual(value, w.Value) {
				t.Fatalf("item %+v with value %v, want %+v", g, value, w)
			}
		}
	})
}

// FuzzBodies looks for bodies that bring the other readers down, or make them disagree with encoding/json.
func FuzzBodies(f *testing.F) {
	for _, s := range []string{
		`{"keys":["a","b"],"parallelism":3,"metadata":{"a":"b"}}`, `{"keys":null,"Keys":["a"],"parallelism":1e2}`, `null`, ``, `[]`,
		`{"operations":[{"operation":"upsert","request":{"key":"k","value":[1]}},null,{"operation":"delete","request":null}],"metadata":{"a":"b"}}`,
		`{"operations":[{"operation":1}]}`, `{"operations":{}}`, `{"parallelism":99999999999999999999}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var keys bulkGetBody
		wantErr := json.NewDecoder(bytes.NewReader(body)).Decode(&keys)
		got, err := readBulkGet(body)
		if (err == nil) != (wantErr == nil) || err == nil && (len(got.Keys) != len(keys.Keys) || got.Parallelism != keys.Parallelism || len(got.Metadata) != len(keys.Metadata)) {
			t.Fatalf("bulk get %+v, %v; want %+v, %v", got, err, keys, wantErr)
		}
		var want transactionBody
		wantErr = json.NewDecoder(bytes.NewReader(body)).Decode(&want)
		tx, err := readTransaction(body)
		if (err == nil) != (wantErr == nil) || err == nil && (len(tx.Operations) != len(want.Operations) || len(tx.Metadata) != len(want.Metadata)) {
			t.Fatalf("transaction %+v, %v; want %+v, %v", tx, err, want, wantErr)
		}
		if err != nil {
			return
		}
		for i, o := range tx.Operations {
			var item stores.SetRequest
			if o.Operation != want.Operations[i].Operation {
				t.Fatalf("operation %q, want %q", o.Operation, want.Operations[i].Operation)
			}
			if _, err := readRequest(i, o, &item, new(buffer)); err == nil && !json.Valid(item.Value.Bytes) {
				t.Fatalf("value %q", item.Value.Bytes)
			}
		}
	})
}
