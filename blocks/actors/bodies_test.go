package actors

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	stores "outrigger.dev/components/state"
	"outrigger.dev/jsontext"
)

// jsonReads reports whether encoding/json reads the first value of a body into v.
func jsonReads(body []byte, v any) bool {
	return json.NewDecoder(bytes.NewReader(body)).Decode(v) == nil
}

// FuzzActorTransaction holds the reader of transactions against encoding/json: both take the same bodies, and find the same in them.
func FuzzActorTransaction(f *testing.F) {
	for _, s := range []string{
		`[{"operation":"upsert","request":{"key":"k","value":{"a":[1e400,12345678901234567890]},"etag":"1","metadata":{"ttlInSeconds":"1"}}},{"operation":"delete","request":{"KEY":"k"}}]`,
		`null`, `[null]`, `[{}]`, `{`, ``, `[{"operation":1}]`, `[{"OPERATION":"delete","request":null}] x`, `[{"operation":"upsert","request":[]}]`, `[{"operation":"upsert","request":{"key":"\ud800","value":"` + "\xff" + `"}}]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var want []struct {
			Operation string          `json:"operation"`
			Request   json.RawMessage `json:"request"`
		}
		reads := jsonReads(body, &want)
		got, err := readTransaction(body)
		if (err == nil) != reads {
			t.Fatalf("%q: %v, while encoding/json takes it: %t", body, err, reads)
		}
		if err != nil {
			return
		}
		if len(got) != len(want) {
			t.Fatalf("%d operations, want %d", len(got), len(want))
		}
		for i := range got {
			if got[i].Operation != want[i].Operation || !bytes.Equal(got[i].Request, want[i].Request) {
				t.Fatalf("operation %d: %+v, want %+v", i, got[i], want[i])
			}
		}
		operations, err := storeOperations(got)
		if err != nil {
			return
		}
		for _, o := range operations {
			if o.Key() == "" || (o.Set == nil) == (o.Delete == nil) {
				t.Fatalf("%+v", o)
			}
			if o.Set != nil && (!json.Valid(o.Set.Value.Bytes) || !o.Set.Value.JSON) {
				t.Fatalf("value %q", o.Set.Value.Bytes)
			}
		}
	})
}

// FuzzActorTimer and FuzzActorReminder hold the readers of these bodies against encoding/json.
func FuzzActorTimer(f *testing.F) {
	for _, s := range []string{`{"dueTime":"1s","period":"R2/PT1S","ttl":"1h","callback":"c","data":{"a":1}}`, `{"DUETIME":null,"data":null}`, `null`, `[]`, `{"data":`, `{"callback":1}`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var want timerBody
		reads := jsonReads(body, &want)
		got, err := readTimer(body)
		if (err == nil) != reads {
			t.Fatalf("%q: %v, while encoding/json takes it: %t", body, err, reads)
		}
		if err == nil && (got.Callback != want.Callback && !twice(body, "callback") || !bytes.Equal(got.Data, want.Data)) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func FuzzActorReminder(f *testing.F) {
	for _, s := range []string{
		`{"dueTime":"1s","period":"R2/PT1S","ttl":"1h","overwrite":false,"data":{"a":1},"failure_policy":{"constant":{"interval":"3s","maxRetries":5}}}`,
		`{"OVERWRITE":true,"data":null,"failurePolicy":{"drop":{}}}`, `{"overwrite":null}`, `null`, `[]`, `{"overwrite":"x"}`, `{"failure_policy":{"constant":{"interval":"x"}}}`, `{"overwrite":1,`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var want reminderBody
		reads := jsonReads(body, &want)
		got, err := readReminder(body)
		if (err == nil) != reads {
			t.Fatalf("%q: %v, while encoding/json takes it: %t", body, err, reads)
		}
		if err != nil {
			return
		}
		if !bytes.Equal(got.Data, want.Data) || (got.Overwrite == nil) != (want.Overwrite == nil) || got.Overwrite != nil && *got.Overwrite != *want.Overwrite {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		if p, err := got.failurePolicy(); err == nil && p != nil && p.GetPolicy() == nil {
			t.Fatalf("an empty policy: %v", p)
		}
		if data := jsonData(got.Data); data != nil {
			out, some, err := appendDataJSON(nil, data)
			if err != nil || !some || !jsontext.Valid(out) {
				t.Fatalf("data %q came back as %q, %v", got.Data, out, err)
			}
		}
	})
}

// twice reports whether a member may stand repeatedly in a body: null does not undo what encoding/json read before.
func twice(body []byte, name string) bool {
	return strings.Count(strings.ToLower(string(body)), name) > 1 || bytes.ContainsRune(body, '\\')
}

func BenchmarkActorTransactionBody(b *testing.B) {
	body := []byte(`[{"operation":"upsert","request":{"key":"state","value":{"items":[{"id":1,"name":"boat"},{"id":2,"name":"paddle"}],"total":12.5}}}]`)
	b.ReportAllocs()
	for b.Loop() {
		read, err := readTransaction(body)
		if err != nil {
			b.Fatal(err)
		}
		var operations []stores.Operation
		if operations, err = storeOperations(read); err != nil || len(operations) != 1 {
			b.Fatal(err)
		}
	}
}
