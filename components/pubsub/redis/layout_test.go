package redis

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/test/servers"
)

// TestStoredForm checks what other implementations of the API read: the entries, the group and the consumer.
func TestStoredForm(t *testing.T) {
	b := open(t, properties{"redisHost": servers.Redis(t).Addr, "consumerID": "orders"})
	topic := freshTopic(t)
	binary := "\x00\xff{\"a\": 1}\r\n"
	for _, req := range []pubsub.PublishRequest{
		{Data: []byte(binary)},
		{Data: []byte(`{"id":"1"}`), Metadata: map[string]string{"a": "1"}},
		{Data: nil, Metadata: map[string]string{}},
		{Data: []byte("x"), Metadata: map[string]string{"ttlInSeconds": "10", "quoted \"é\"": "a\\b\n<&>\u2028"}, ContentType: "text/plain"},
	} {
		req.Topic = topic
		if err := b.Publish(limited(t), req); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := command(t, b, "XRANGE", topic, "-", "+").AsXRangeSlices()
	if err != nil || len(entries) != 4 {
		t.Fatalf("%d entries, %v; want 4", len(entries), err)
	}
	for n, want := range [][]string{
		{"data", binary},
		{"data", `{"id":"1"}`, "metadata", `{"a":"1"}`},
		{"data", "", "metadata", "{}"},
		{"data", "x", "metadata", ""},
	} {
		var got []string
		for _, f := range entries[n].FieldValues {
			got = append(got, f.Field, f.Value)
		}
		if n == 3 { // the order of the object is not fixed
			var m map[string]string
			if err := json.Unmarshal([]byte(got[3]), &m); err != nil || m["ttlInSeconds"] != "10" || m["quoted \"é\""] != "a\\b\n<&>\u2028" || len(m) != 2 {
				t.Errorf("metadata %s, %v", got[3], err)
			}
			got[3] = ""
		}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("entry %d has the fields %q, want %q", n, got, want)
		}
		if _, err := strconv.ParseInt(strings.Split(entries[n].ID, "-")[0], 10, 64); err != nil {
			t.Errorf("entry %d has the id %q", n, entries[n].ID)
		}
	}

	// A group that is new gets what is there already, and the consumer has the group's name.
	var c tally
	subscribe(t, b, topic, c.handler(nil))
	c.await(t, binary, `{"id":"1"}`, "", "x")
	waitFor(t, "acknowledgements", func() bool { return pending(t, b, topic, "orders") == 0 })
	if got := names(t, b, "XINFO", "GROUPS", topic); !slices.Equal(got, []string{"orders"}) {
		t.Errorf("groups %q, want orders", got)
	}
	if got := names(t, b, "XINFO", "CONSUMERS", topic, "orders"); !slices.Equal(got, []string{"orders"}) {
		t.Errorf("consumers %q, want orders", got)
	}
}

// names are the fields "name" in the reply to a command.
func names(t *testing.T, b *Broker, words ...string) (all []string) {
	t.Helper()
	rows, err := command(t, b, words...).ToArray()
	if err != nil {
		t.Fatalf("%q: %v", words, err)
	}
	for _, row := range rows {
		m, err := row.AsMap()
		if err != nil {
			t.Fatal(err)
		}
		field := m["name"]
		name, err := field.ToString()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, name)
	}
	return all
}

// TestForeignEntries reads entries as other programs write them, and others that nobody should.
func TestForeignEntries(t *testing.T) {
	b := open(t, properties{"redisHost": servers.Redis(t).Addr, "consumerID": "app"})
	for name, tc := range map[string]struct {
		fields   []string
		data     string
		metadata map[string]string
	}{
		"escaped":      {[]string{"data", "d", "metadata", `{"a":"\u003c\u00e9","b":""}`}, "d", map[string]string{"a": "<é", "b": ""}},
		"other order":  {[]string{"metadata", ` {"a" : "1"} `, "data", "d"}, "d", map[string]string{"a": "1"}},
		"more fields":  {[]string{"x", "y", "data", "d"}, "d", nil},
		"no data":      {[]string{"x", "y"}, "", nil},
		"no metadata":  {[]string{"data", "d", "metadata", ""}, "d", nil},
		"null":         {[]string{"data", "d", "metadata", "null"}, "d", nil},
		"no object":    {[]string{"data", "d", "metadata", "[1]"}, "d", nil},
		"no strings":   {[]string{"data", "d", "metadata", `{"a":{"b":1}}`}, "d", nil},
		"broken":       {[]string{"data", "d", "metadata", `{"a":`}, "d", nil},
		"more than it": {[]string{"data", "d", "metadata", `{"a":"1"} x`}, "d", nil},
	} {
		t.Run(name, func(t *testing.T) {
			topic := freshTopic(t)
			got := make(chan pubsub.Message, 10)
			s := subscribe(t, b, topic, func(_ context.Context, msg *pubsub.Message) error {
				got <- *msg
				return nil
			})
			defer s.Close()
			if err := command(t, b, append([]string{"XADD", topic, "*"}, tc.fields...)...).Error(); err != nil {
				t.Fatal(err)
			}
			select {
			case msg := <-got:
				if string(msg.Data) != tc.data || !maps.Equal(msg.Metadata, tc.metadata) || msg.Topic != topic || msg.ContentType != "" {
					t.Errorf("got %+v with data %q", msg, msg.Data)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("no message came")
			}
			waitFor(t, "the acknowledgement", func() bool { return pending(t, b, topic, "app") == 0 })
		})
	}
}

// TestTrimming checks that publishing keeps streams short, and young.
func TestTrimming(t *testing.T) {
	// Nodes of 10 entries make the approximate limits nearly exact.
	server := servers.Redis(t, servers.Own(), servers.Setting("stream-node-max-entries", "10"))
	length := func(b *Broker, topic string) int64 {
		t.Helper()
		n, err := command(t, b, "XLEN", topic).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	many := strings.Split(strings.Repeat("x,", 299)+"x", ",")
	// Entries of an hour ago have such ids.
	old := func(b *Broker, topic string) {
		t.Helper()
		then := time.Now().Add(-time.Hour).UnixMilli()
		for n := range 100 {
			if err := command(t, b, "XADD", topic, strconv.FormatInt(then, 10)+"-"+strconv.Itoa(n+1), "data", "old").Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tc := range map[string]struct {
		more        properties
		least, most int64
	}{
		"neither":      {nil, 400, 400},
		"maxLenApprox": {properties{"maxLenApprox": "50"}, 50, 60},
		"streamTTL":    {properties{"streamTTL": "30m"}, 300, 310},
		"longer TTL":   {properties{"streamTTL": "7200"}, 400, 400},
		"both":         {properties{"maxLenApprox": "350", "streamTTL": "30m"}, 300, 310},
		"both, few":    {properties{"maxLenApprox": "50", "streamTTL": "30m"}, 50, 61},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, properties{"redisHost": server.Addr, "consumerID": "app"}.with(tc.more))
			topic := freshTopic(t)
			old(b, topic)
			publish(t, b, topic, many...)
			if n := length(b, topic); n < tc.least || n > tc.most {
				t.Errorf("the stream has %d entries, want %d to %d", n, tc.least, tc.most)
			}
		})
	}
}

func TestMetadataRoundTrip(t *testing.T) {
	for _, m := range []map[string]string{{}, {"a": "b"}, {"": "", "\"": "\\", "é\u2028": "\x00\x1f"}, {"long": strings.Repeat("x", 10_000)}} {
		text := appendMetadata(nil, m)
		var std map[string]string
		if err := json.Unmarshal(text, &std); err != nil || !maps.Equal(std, m) {
			t.Errorf("%v is written as %s, read by others as %v, %v", m, text, std, err)
		}
		if got, err := parseMetadata(string(text)); err != nil || !maps.Equal(got, m) {
			t.Errorf("%v is written as %s, read as %v, %v", m, text, got, err)
		}
	}
}

func FuzzParseMetadata(f *testing.F) {
	f.Add(`{"a":"b"}`)
	f.Add(` { "\u00e9" : "\ud83d\ude00" , "x":""} `)
	f.Add(`{"a":1}`)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseMetadata(text)
		if err != nil {
			return
		}
		var std map[string]string
		if json.Valid([]byte(text)) && json.Unmarshal([]byte(text), &std) == nil && !maps.Equal(got, std) {
			t.Errorf("%q is read as %q, by others as %q", text, got, std)
		}
		again, err := parseMetadata(string(appendMetadata(nil, got)))
		if err != nil || !maps.Equal(again, got) {
			t.Errorf("%q is read as %q, and that, written, as %q, %v", text, got, again, err)
		}
	})
}

func TestFollowing(t *testing.T) {
	for id, want := range map[string]string{
		"1-0": "1-1", "1700000000000-9": "1700000000000-10", "1-18446744073709551615": "2-0",
		"18446744073709551615-18446744073709551615": "", "18446744073709551615-1": "18446744073709551615-2", "x": "", "x-18446744073709551615": "",
	} {
		if got := following(id); got != want {
			t.Errorf("following(%q) = %q, want %q", id, got, want)
		}
	}
}
