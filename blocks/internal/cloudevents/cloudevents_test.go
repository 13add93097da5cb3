package cloudevents

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 5e8, time.FixedZone("", 3600))

func TestEnvelope(t *testing.T) {
	subject := ""
	for _, test := range []struct {
		name string
		in   Envelope
		want string
	}{
		{
			"all defaults",
			Envelope{ID: "i", Time: noon},
			`{"data":"","datacontenttype":"text/plain","id":"i","pubsubname":"","source":"Dapr","specversion":"1.0","time":"2026-03-01T12:00:00+01:00","topic":"","traceid":"","traceparent":"","tracestate":"","type":"com.dapr.event.sent"}`,
		},
		{
			"everything",
			Envelope{
				ID: "i", Source: "shop", Type: "t", Subject: &subject, DataContentType: "application/json; charset=utf-8", Time: noon, Topic: "a<b", PubsubName: "ps",
				TraceID: "p", TraceParent: "p", TraceState: "s", Expires: noon.Add(time.Minute), Payload: []byte(`{"n": 12345678901234567890, "x":"<&>"} trailing`),
			},
			`{"data":{"n":12345678901234567890,"x":"\u003c\u0026\u003e"},"datacontenttype":"application/json; charset=utf-8","expiration":"2026-03-01T11:01:00Z","id":"i","pubsubname":"ps","source":"shop","specversion":"1.0","subject":"","time":"2026-03-01T12:00:00+01:00","topic":"a\u003cb","traceid":"p","traceparent":"p","tracestate":"s","type":"t"}`,
		},
	} {
		if got := string(test.in.Append(nil)); got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, test.want)
		}
	}
	event, err := Parse((&Envelope{}).Append(nil))
	if err != nil || len(event.String(ID)) != 36 {
		t.Errorf("an event without ID got %q, %v", event.String(ID), err)
	}
}

func TestPayload(t *testing.T) {
	cloudEvent := "\x0a\x01i\x12\x01s\x1a\x031.0\x22\x01t"
	for _, test := range []struct{ contentType, payload, want, back string }{
		{"application/json", `"s"`, `"data":"s"`, `"s"`},
		{"APPLICATION/JSON", `null`, `"data":null`, `null`},
		{"application/json", ` [1, 2] `, `"data":[1,2]`, `[1,2]`},
		{"application/json", `12 x`, `"data":12`, `12`},
		{"application/json", `12x`, `"data":"12x"`, `"12x"`},
		{"application/json", `"a"b`, `"data":"\"a\"b"`, `"\"a\"b"`},
		{"application/json", `not json`, `"data":"not json"`, `"not json"`},
		{"application/json", ``, `"data":""`, `""`},
		{"application/json", "\"\xff\"", "\"data\":\"\uFFFD\"", "\"\uFFFD\""},
		{"application/vnd.x+json", `{"a":1}`, `"data":"{\"a\":1}"`, `{"a":1}`},
		{"text/json", `{"a":1}`, `"data":"{\"a\":1}"`, `{"a":1}`},
		{"application/xml", `<a/>`, `"data":"\u003ca/\u003e"`, `<a/>`},
		{"text/plain", "a\xffb", `"data":"a\ufffdb"`, "a\uFFFDb"},
		{"foo/bar", `x`, `"data":"x"`, `x`},
		{"application/octet-stream", "\x00\x01\xff", `"data_base64":"AAH/"`, "\x00\x01\xff"},
		{"application/cloudevents+protobuf", "anything", `"data_base64":"YW55dGhpbmc="`, "anything"},
		{"application/x-protobuf", cloudEvent, `"data_base64":"CgFpEgFzGgMxLjAiAXQ="`, cloudEvent},
		{"application/x-protobuf", "no event", `"data":"no event"`, "no event"},
	} {
		if got := string(AppendPayload(nil, test.contentType, []byte(test.payload))); got != test.want {
			t.Errorf("%s %q: got %s, want %s", test.contentType, test.payload, got, test.want)
		}
		event, err := Parse((&Envelope{DataContentType: test.contentType, Payload: []byte(test.payload)}).Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if back, err := event.Payload(); string(back) != test.back || err != nil {
			t.Errorf("%s %q comes back as %q, %v", test.contentType, test.payload, back, err)
		}
	}
}

func TestCompletion(t *testing.T) {
	c := Completion{Topic: "t", PubsubName: "p", Time: noon, TraceParent: "parent", TraceState: "state"}
	const times = `"time":"2026-03-01T12:00:00+01:00"`
	for _, test := range []struct{ in, want string }{
		{`{}`, `{"topic":"t","pubsubname":"p",` + times + `,"traceid":"parent","traceparent":"parent","tracestate":"state","source":"Dapr","type":"com.dapr.event.sent","specversion":"1.0"}`},
		{
			`{"id":"i","topic":"other","time":1,"traceid":"a","traceparent":"b","tracestate":"","source":null,"type":"x","specversion":"0.3","n":1.50,"e":"<"} {"x":1}`,
			`{"id":"i","time":1,"traceid":"a","traceparent":"b","tracestate":"","type":"x","specversion":"0.3","n":1.50,"e":"\u003c","topic":"t","pubsubname":"p","source":"Dapr"}`,
		},
		{
			`{"traceparent":"kept only with traceid","type":"t","source":"s","specversion":"1.0","tracestate":"","time":""}`,
			`{"type":"t","source":"s","specversion":"1.0","tracestate":"","time":"","topic":"t","pubsubname":"p","traceid":"parent","traceparent":"parent"}`,
		},
		{`{"a":1,"a":2,"source":"s","type":"t","specversion":"1","time":"","traceid":"","tracestate":""}`, `{"a":2,"source":"s","type":"t","specversion":"1","time":"","traceid":"","tracestate":"","topic":"t","pubsubname":"p"}`},
	} {
		if got, err := c.Append(nil, []byte(test.in)); string(got) != test.want || err != nil {
			t.Errorf("%s: %v\n got %s\nwant %s", test.in, err, got, test.want)
		}
	}
	for in, want := range map[string]string{
		"bad":  "invalid character 'b' looking for beginning of value",
		"null": "an event must be a JSON object, not null",
		"[]":   "an event must be a JSON object, not array",
		"":     "unexpected end of JSON input",
		`{"a`:  "unexpected end of JSON input",
	} {
		if _, err := c.Append(nil, []byte(in)); err == nil || err.Error() != want {
			t.Errorf("%q: error %v, want %s", in, err, want)
		}
	}
	c.Expires = noon
	if got, err := c.Append(nil, []byte(`{"expiration":"never"}`)); err != nil || !strings.Contains(string(got), `"expiration":"2026-03-01T11:00:00Z"`) {
		t.Errorf("expiration: %s, %v", got, err)
	}
}

func TestEventErrors(t *testing.T) {
	for _, text := range []string{"", "[]", "null", `"x"`, "{", `{"a":}`, `{"a":1}x`, `{"a":1}}`, `{"a":1} {}`} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%q passes for an event", text)
		}
	}
	for _, text := range []string{`{"data_base64":"*"}`, `{"data_base64":1}`, `{"datacontenttype":"text/plain","data":{"a":1}}`} {
		event, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if data, err := event.Payload(); err == nil {
			t.Errorf("%s has the data %q", text, data)
		}
	}
}

func TestExpired(t *testing.T) {
	for expiration, want := range map[string]bool{`"2026-03-01T10:00:00Z"`: true, `"2026-03-01T13:00:00Z"`: false, `"soon"`: false, `17`: false, `null`: false} {
		event, err := Parse([]byte(`{"expiration":` + expiration + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := event.Expired(noon); got != want {
			t.Errorf("expiration %s: expired %v", expiration, got)
		}
	}
}

func FuzzCompletion(f *testing.F) {
	f.Add([]byte(`{"id":"1","data":{"a":[1,2,{}]},"traceparent":"x"}`))
	f.Add([]byte(`{"a":"\u00e9\ud83d","topic":null} x`))
	f.Add([]byte("{\"\xff\":\"\xff\"}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		out, err := (&Completion{Topic: "t", PubsubName: "p"}).Append(nil, text)
		if err != nil {
			return
		}
		var got map[string]any
		if err := json.Unmarshal(out, &got); err != nil || got[Topic] != "t" || got[PubsubName] != "p" || !utf8.Valid(out) {
			t.Fatalf("%q became %q: %v", text, out, err)
		}
		event, err := Parse(out)
		if err != nil {
			t.Fatalf("%q became %q, which does not parse: %v", text, out, err)
		}
		decoded, err := event.Map()
		if err != nil || !reflect.DeepEqual(decoded, got) {
			t.Fatalf("%q: attributes %v, want %v, %v", out, decoded, got, err)
		}
	})
}

func FuzzPayload(f *testing.F) {
	f.Add("application/json", []byte(`{"a":1}`))
	f.Add("text/plain", []byte("\xff"))
	f.Add("application/x-protobuf", []byte("\x0a\x01i"))
	f.Fuzz(func(t *testing.T, contentType string, payload []byte) {
		out := (&Envelope{ID: "i", DataContentType: contentType, Payload: payload}).Append(nil)
		if !json.Valid(out) {
			t.Fatalf("%q %q became %q", contentType, payload, out)
		}
		if _, err := Parse(out); err != nil {
			t.Fatal(err)
		}
	})
}
