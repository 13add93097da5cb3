package jetstream

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestEnvelopeID(t *testing.T) {
	for _, tt := range []struct{ data, want string }{
		{`{"specversion":"1.0","id":"a-1","data":{}}`, "a-1"},
		{`{"id":"a-1","data":{"id":"inner"},"specversion":"1.0"}`, "a-1"},
		{" {\n\t\"data\" : \"a \\\"quoted\\\\\" , \"x\":[1,{\"id\":\"no\"},-2.5e3,null], \"id\" :\"ü\\n\\u00e9\", \"specversion\":\"1.0\" } ", "ü\né"},
		{`{"data":{"id":"inner","specversion":"1.0"}}`, ""},
		{`{"id":"an order of the app's own"}`, ""}, // no envelope: equal orders are not the same message
		{`{"specversion":"1.0"}`, ""},
		{`{"specversion":"1.0","id":7}`, ""},
		{`{"specversion":"1.0","id":""}`, ""},
		{`["id"]`, ""},
		{`"id"`, ""},
		{``, ""},
		{`{`, ""},
		{`{"id"`, ""},
		{`{"id":`, ""},
		{`{"id":"a`, ""},
		{`{"specversion":"1.0","id":"\u00"}`, ""},
	} {
		if got := envelopeID([]byte(tt.data)); got != tt.want {
			t.Errorf("id of %s is %q, want %q", tt.data, got, tt.want)
		}
	}
}

// An event of any text is read in one pass: half a million escapes took minutes when each looked for the end of the string anew.
func TestEnvelopeIDManyEscapes(t *testing.T) {
	for _, escape := range []string{`\u0000`, `\"`, `\\`} {
		data := []byte(`{"data":"` + strings.Repeat(escape, 1<<19) + `","id":"a-1","specversion":"1.0"}`)
		began := time.Now()
		if got := envelopeID(data); got != "a-1" {
			t.Errorf("id of an event full of %s is %q, want a-1", escape, got)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("an event full of %s took %v to read", escape, took)
		}
	}
}

func FuzzEnvelopeID(f *testing.F) {
	f.Add([]byte(`{"specversion":"1.0","id":"a-1","data":{"x":[1,"\"]"]}}`))
	f.Add([]byte(`{"id":"a\\","specversion":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := envelopeID(data)
		// For events as they are, a full decoding must agree. Names written with escapes or twice are no such.
		var members map[string]json.RawMessage
		if json.Unmarshal(data, &members) != nil || strings.Contains(string(data), `\u`) || strings.Count(string(data), `"id"`) != 1 || strings.Count(string(data), `"specversion"`) != 1 {
			return
		}
		want := ""
		if _, event := members["specversion"]; event {
			var id string
			if json.Unmarshal(members["id"], &id) == nil {
				want = id
			}
		}
		if string([]rune(got)) != want { // decoding replaces each byte that is no UTF-8
			t.Errorf("id of %q is %q, want %q", data, got, want)
		}
	})
}

func BenchmarkEnvelopeID(b *testing.B) {
	data := []byte(`{"data":"` + strings.Repeat("x", 1000) + `","datacontenttype":"text/plain","id":"3b1f0b1e-5f51-4e9f-8ac4-9a3c9ad30a52","pubsubname":"pubsub","source":"app","specversion":"1.0","time":"2026-01-01T00:00:00Z","topic":"orders","type":"com.dapr.event.sent"}`)
	for b.Loop() {
		if envelopeID(data) == "" {
			b.Fatal("no id")
		}
	}
}

func TestEscape(t *testing.T) {
	seen := map[string]string{}
	for _, tt := range []struct{ text, want string }{
		{"orders", "orders"},
		{"orders.created", "orders%2Ecreated"},
		{"a/b\\c", "a%2Fb%5Cc"},
		{"50%", "50%25"},
		{"orders%2Ecreated", "orders%252Ecreated"},
		{"*.>", "%2A%2E%3E"},
		{"größe", "größe"},
		{"a:b|c\"<?", "a%3Ab%7Cc%22%3C%3F"},
		{"", ""},
	} {
		got := escape(tt.text)
		if got != tt.want {
			t.Errorf("escape(%q) = %q, want %q", tt.text, got, tt.want)
		}
		if back, err := url.PathUnescape(got); err != nil || back != tt.text {
			t.Errorf("%q reads back as %q, error %v", got, back, err)
		}
		if other, twice := seen[got]; twice {
			t.Errorf("%q and %q have the same name", other, tt.text)
		}
		seen[got] = tt.text
	}
}

func TestCheckTopic(t *testing.T) {
	for _, tt := range []struct {
		topic            string
		publish, pattern bool
	}{
		{"orders", true, true},
		{"orders.created", true, true},
		{"a/b-c_d", true, true},
		{"größe", true, true},
		{"a*b", true, true},
		{"orders.*", false, true},
		{"orders.>", false, true},
		{">", false, true},
		{">.a", false, false},
		{"", false, false},
		{"a b", false, false},
		{"a\tb", false, false},
		{"a\nb", false, false},
		{"a\x00", false, false},
		{".a", false, false},
		{"a.", false, false},
		{"a..b", false, false},
	} {
		if err := checkTopic(tt.topic, false); (err == nil) != tt.publish {
			t.Errorf("publishing to %q: %v", tt.topic, err)
		}
		if err := checkTopic(tt.topic, true); (err == nil) != tt.pattern {
			t.Errorf("subscribing to %q: %v", tt.topic, err)
		}
	}
}
