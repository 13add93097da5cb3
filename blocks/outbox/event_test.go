package outbox_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"outrigger.dev/api"
	stores "outrigger.dev/components/state"
)

// upsert writes JSON; metadata are "name=value".
func upsert(key, value string, metadata ...string) stores.Operation {
	set := &stores.SetRequest{Key: key, Value: stores.Value{Bytes: []byte(value), JSON: true}}
	for _, m := range metadata {
		if set.Metadata == nil {
			set.Metadata = map[string]string{}
		}
		name, v, _ := strings.Cut(m, "=")
		set.Metadata[name] = v
	}
	return stores.Operation{Set: set}
}

// raw writes bytes.
func raw(key, value string, metadata ...string) stores.Operation {
	o := upsert(key, value, metadata...)
	o.Set.Value.JSON = false
	return o
}

// committed prepares a transaction and writes its markers. It returns the events on the internal topic.
func (f *fixture) committed(t *testing.T, name string, s stores.Transactor, operations ...stores.Operation) []message {
	t.Helper()
	kept, markers, err := f.Prepare(t.Context(), name, operations, nil, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Transact(t.Context(), stores.TransactionRequest{Operations: append(kept, markers...)}); err != nil {
		t.Fatal(err)
	}
	return f.broker.take()
}

func TestEvent(t *testing.T) {
	f := newFixture(t)
	f.add(t, "st", f.newStore(t))
	operation := upsert("shop||k", `{"qty":2}`)
	kept, markers, err := f.Prepare(t.Context(), "st", []stores.Operation{operation}, []string{"application/json"}, "00-1-2-01", "a=b")
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) != 1 || kept[0] != operation || len(markers) != 1 {
		t.Fatalf("kept %v, markers %v", kept, markers)
	}
	marker := markers[0].Set
	if !strings.HasPrefix(marker.Key, "outbox-") || len(marker.Key) != len("outbox-")+36 || string(marker.Value.Bytes) != `"0"` || !marker.Value.JSON || marker.Metadata != nil {
		t.Errorf("marker %+v", marker)
	}
	published := f.broker.take()
	if len(published) != 1 {
		t.Fatalf("%d events", len(published))
	}
	m := published[0]
	want := map[string]any{
		"id": marker.Key, "source": "shop", "type": "com.dapr.event.sent", "specversion": "1.0", "datacontenttype": "application/json",
		"time": "2030-01-02T03:04:05Z", "pubsubname": "detour", "topic": "", "traceid": "00-1-2-01", "traceparent": "", "tracestate": "a=b",
		"data": map[string]any{"qty": json.Number("2")},
	}
	if m.component != "detour" || m.topic != internalTopic || m.contentType != "application/cloudevents+json" || !reflect.DeepEqual(m.event, want) {
		t.Errorf("%s/%s %s %v\nwant %v", m.component, m.topic, m.contentType, m.event, want)
	}
}

func TestValues(t *testing.T) {
	f := newFixture(t)
	f.add(t, "st", f.newStore(t))
	const jsonType = "application/json"
	for _, tc := range []struct {
		operation   stores.Operation
		contentType string
		// want is the data as JSON; it is data_base64 for base64.
		want   string
		base64 bool
	}{
		{operation: upsert("k", `{"b":1,"a":"<x>&"}`), contentType: jsonType, want: `{"b":1,"a":"<x>&"}`},
		{operation: upsert("k", `{"a":1}`), contentType: "Application/JSON", want: `{"a":1}`},
		{operation: upsert("k", `"text"`), contentType: jsonType, want: `"text"`},
		{operation: upsert("k", `"{\"a\":1}"`), contentType: jsonType, want: `"{\"a\":1}"`},
		{operation: upsert("k", `12345678901234567890.5`), contentType: jsonType, want: `12345678901234567890.5`},
		{operation: upsert("k", `null`), contentType: jsonType, want: `null`},
		// Without JSON in the content type, the text is what fmt prints.
		{operation: upsert("k", `{"b":1.5,"a":{"x":null}}`), want: `"map[a:map[x:<nil>] b:1.5]"`},
		{operation: upsert("k", `[1,"<t>",true,[]]`), want: `"[1 <t> true []]"`},
		{operation: upsert("k", `{}`), contentType: "text/plain", want: `"map[]"`},
		{operation: upsert("k", `"<text>\n\u00e4"`), want: `"<text>\nä"`},
		{operation: upsert("k", `123456`), want: `"123456"`},
		{operation: upsert("k", `12345678`), want: `"1.2345678e+07"`},
		{operation: upsert("k", `0.25`), want: `"0.25"`},
		{operation: upsert("k", `true`), want: `"true"`},
		{operation: upsert("k", `null`), want: `"<nil>"`},
		{operation: upsert("k", `"abc"`), contentType: "application/octet-stream", want: `"YWJj"`, base64: true},
		// Parameters: JSON all the same, except that a string is its characters.
		{operation: upsert("k", `{"a":[1]}`), contentType: "application/json; charset=utf-8", want: `{"a":[1]}`},
		{operation: upsert("k", `12345678`), contentType: "application/json;v=1", want: `12345678`},
		{operation: upsert("k", `"{\"a\":1}"`), contentType: "application/json;v=1", want: `{"a":1}`},
		{operation: upsert("k", `"text"`), contentType: "application/json;v=1", want: `"text"`},
		// Bytes are what they are.
		{operation: raw("k", `{"a":1}`), want: `"{\"a\":1}"`},
		{operation: raw("k", `{"a": 1}`), contentType: jsonType, want: `{"a":1}`},
		{operation: raw("k", `no JSON`), contentType: jsonType, want: `"no JSON"`},
		{operation: raw("k", "\x00\xff"), contentType: "application/octet-stream", want: `"AP8="`, base64: true},
		{operation: raw("k", ""), want: `""`},
		// The content type of the metadata counts, too, but less.
		{operation: upsert("k", `{"a":1}`, "contentType=application/json"), want: `{"a":1}`},
		{operation: upsert("k", `{"a":1}`, "contentType=application/json"), contentType: "text/plain", want: `"map[a:1]"`},
	} {
		given := string(tc.operation.Set.Value.Bytes)
		if _, _, err := f.Prepare(t.Context(), "st", []stores.Operation{tc.operation}, []string{tc.contentType}, "", ""); err != nil {
			t.Fatal(err)
		}
		event := f.broker.take()[0].event
		have, not := "data", "data_base64"
		if tc.base64 {
			have, not = not, have
		}
		var want any
		decoder := json.NewDecoder(strings.NewReader(tc.want))
		decoder.UseNumber()
		if err := decoder.Decode(&want); err != nil {
			t.Fatal(err)
		}
		wantType := tc.contentType
		if wantType == "" {
			wantType = tc.operation.Set.Metadata["contentType"]
		}
		if wantType == "" {
			wantType = "text/plain"
		}
		got, ok := event[have]
		if _, both := event[not]; both || !ok || !reflect.DeepEqual(got, want) || event["datacontenttype"] != wantType {
			t.Errorf("%s as %q: %v\nwant %s %s as %s", given, tc.contentType, event, have, tc.want, wantType)
		}
	}
}

func TestMetadataAreAttributes(t *testing.T) {
	f := newFixture(t)
	f.add(t, "st", f.newStore(t))
	operation := upsert("k", `"v"`, "type=order.made", "source=elsewhere", "subject=s", "traceparent=tp", "traceid=ti", "custom=<ä>", "contentType=text/html",
		"ttlInSeconds=10", "id=mine", "data=mine", "outbox.projection=no")
	_, markers, err := f.Prepare(t.Context(), "st", []stores.Operation{operation}, nil, "from-the-span", "state")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"id": markers[0].Set.Key, "source": "elsewhere", "type": "order.made", "subject": "s", "specversion": "1.0", "datacontenttype": "text/html",
		"time": "2030-01-02T03:04:05Z", "pubsubname": "detour", "topic": "", "traceid": "ti", "traceparent": "tp", "tracestate": "state",
		"custom": "<ä>", "contentType": "text/html", "ttlInSeconds": "10", "outbox.projection": "no", "data": "v",
	}
	if got := f.broker.take()[0].event; !reflect.DeepEqual(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
}

func TestOperations(t *testing.T) {
	remove := stores.Operation{Delete: &stores.DeleteRequest{Key: "gone"}}
	const isProjection = "outbox.projection=true"
	for _, tc := range []struct {
		name         string
		operations   []stores.Operation
		contentTypes []string
		// kept are the keys of the operations to be run, data what is published.
		kept, data string
	}{
		{name: "none"},
		{"only a deletion", []stores.Operation{remove}, nil, "gone", ""},
		{"in order", []stores.Operation{upsert("b", `"1"`), remove, upsert("a", `"2"`), upsert("b", `"3"`)}, nil, "b gone a b", "1 2 3"},
		{"projection before", []stores.Operation{upsert("a", `"p"`, isProjection), upsert("a", `"v"`)}, nil, "a", "p"},
		{"projection behind", []stores.Operation{upsert("a", `"v"`), upsert("a", `"p"`, "outbox.projection=Y")}, nil, "a", "p"},
		{
			"several",
			[]stores.Operation{upsert("a", `"1"`), upsert("b", `"2"`), upsert("c", `"3"`), upsert("b", `"q"`, isProjection), upsert("a", `"p"`, isProjection)},
			nil, "a b c", "p q 3",
		},
		{"the last one", []stores.Operation{upsert("a", `"p"`, isProjection), upsert("a", `"v"`), upsert("a", `"q"`, isProjection)}, nil, "a", "q"},
		{"of nothing", []stores.Operation{upsert("x", `"p"`, isProjection), remove}, nil, "gone", ""},
		{"of a deletion", []stores.Operation{upsert("gone", `"p"`, isProjection), remove}, nil, "gone", ""},
		{"no projections", []stores.Operation{upsert("a", `"1"`, "outbox.projection=false"), upsert("a", `"2"`, "Outbox.Projection=true")}, nil, "a a", "1 2"},
		{
			"content type of the projection",
			[]stores.Operation{upsert("a", `"p"`, isProjection), upsert("a", `"v"`)},
			[]string{"application/octet-stream", "text/plain"},
			"a", "base64:cA==",
		},
		{
			"content type of the write", // the index of a write is not that of what is kept
			[]stores.Operation{upsert("a", `"p"`, isProjection), upsert("a", `"v"`)},
			[]string{"", "application/octet-stream"},
			"a", "base64:cA==",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			f.add(t, "st", f.newStore(t))
			kept, markers, err := f.Prepare(t.Context(), "st", tc.operations, tc.contentTypes, "", "")
			if err != nil {
				t.Fatal(err)
			}
			var keys, data []string
			for _, o := range kept {
				keys = append(keys, o.Key())
			}
			seen := map[string]bool{}
			published := f.broker.take()
			for i, m := range published {
				text, _ := m.event["data"].(string)
				if encoded, ok := m.event["data_base64"].(string); ok {
					text = "base64:" + encoded
				}
				data = append(data, text)
				if _, ok := m.event["outbox.projection"]; ok && strings.Contains(tc.data, "p") {
					t.Error("the event has the metadata of the projection")
				}
				if i >= len(markers) || m.event["id"] != markers[i].Set.Key || seen[markers[i].Set.Key] {
					t.Fatalf("event %d has the id %v, markers are %v", i, m.event["id"], markers)
				}
				seen[markers[i].Set.Key] = true
			}
			if len(markers) != len(published) || strings.Join(keys, " ") != tc.kept || strings.Join(data, " ") != tc.data {
				t.Errorf("kept %v, published %v, %d markers", keys, data, len(markers))
			}
		})
	}
}

func TestPublishFails(t *testing.T) {
	f := newFixture(t)
	f.add(t, "st", f.newStore(t))
	broken := errors.New("topic t is not allowed for app id shop")
	n := 0
	f.broker.fail = func(string, string) error {
		if n++; n == 2 {
			return broken
		}
		return nil
	}
	kept, markers, err := f.Prepare(t.Context(), "st", []stores.Operation{upsert("a", `1`), upsert("b", `2`), upsert("c", `3`)}, nil, "", "")
	var e *api.Error
	if kept != nil || markers != nil || !errors.As(err, &e) || !errors.Is(err, broken) {
		t.Fatalf("%v %v %v", kept, markers, err)
	}
	const want = `{"errorCode":"ERR_PUBLISH_OUTBOX","message":"error while publishing outbox message: topic t is not allowed for app id shop",` +
		`"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":{"appID":"shop","error":"topic t is not allowed for app id shop"},"reason":"DAPR_PUBSUB_OUTBOX"}]}`
	if got := string(e.AppendJSON(nil)); got != want || e.HTTP != 500 || e.Category != api.CategoryPubSub {
		t.Errorf("%d %s\nwant %s", e.HTTP, got, want)
	}
	if got := e.GRPCStatus().String(); !strings.Contains(got, "code = Internal desc = error while publishing outbox message: topic t") {
		t.Error(got)
	}
	if n != 2 {
		t.Errorf("%d events were published", n)
	}
}
