package kafkaclient

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kfake"
)

const orderSchema = `{"type":"record","name":"Order","fields":[
	{"name":"id","type":"int"},{"name":"price","type":"double"},
	{"name":"note","type":["null","string"],"default":null},
	{"name":"tags","type":{"type":"array","items":"string"}}]}`

const order = `{"id":7,"price":1.5,"note":"quick","tags":["a","b"]}`

// schemas is a schema registry.
type schemas struct {
	*httptest.Server
	mu       sync.Mutex
	schemas  []map[string]any // of number 1 and on
	latest   map[string]int
	requests []string
	login    string
	status   int
}

func newSchemas(t testing.TB) *schemas {
	t.Helper()
	s := &schemas{latest: map[string]int{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *schemas) add(subject, schema string, more map[string]any) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry := map[string]any{"schema": schema}
	for k, v := range more {
		entry[k] = v
	}
	s.schemas = append(s.schemas, entry)
	s.latest[subject] = len(s.schemas)
	return len(s.schemas)
}

func (s *schemas) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func (s *schemas) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.URL.Path)
	user, password, _ := r.BasicAuth()
	s.login = user + ":" + password
	fail := func(status int, text string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"error_code": status * 100, "message": text})
	}
	if s.status != 0 {
		fail(s.status, "not today")
		return
	}
	var id int
	var subject, version string
	if _, err := fmt.Sscanf(r.URL.Path, "/schemas/ids/%d", &id); err != nil {
		parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
		if len(parts) == 4 && parts[0] == "subjects" && parts[2] == "versions" {
			subject, version = parts[1], parts[3]
			id = s.latest[subject]
		}
	}
	if id < 1 || id > len(s.schemas) {
		fail(http.StatusNotFound, "nothing at "+r.URL.Path+version)
		return
	}
	reply := map[string]any{"subject": subject, "id": id, "version": 1}
	for k, v := range s.schemas[id-1] {
		reply[k] = v
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(reply)
}

// avroClient is a client with a schema registry and a clock.
func avroClient(t testing.TB, s *schemas, properties map[string]string) (*Client, *clockwork.FakeClock) {
	t.Helper()
	all := map[string]string{"brokers": "localhost:1", "authType": "none", "schemaRegistryURL": s.URL}
	for k, v := range properties {
		all[k] = v
	}
	c := mustClient(t, all)
	clock := clockwork.NewFakeClock()
	c.registry.clock = clock
	t.Cleanup(c.close)
	return c, clock
}

func TestAvroRoundTrip(t *testing.T) {
	s := newSchemas(t)
	id := s.add("t-value", orderSchema, nil)
	for _, tc := range []struct {
		name       string
		properties map[string]string
		in, out    string
	}{
		{"plain", nil, order, order},
		{"null", nil, `{"id":7,"price":2,"note":null,"tags":[]}`, `{"id":7,"price":2,"note":null,"tags":[]}`},
		{"Avro JSON", map[string]string{"useAvroJSON": "true"}, `{"id":7,"price":1.5,"note":{"string":"quick"},"tags":["a","b"]}`, `{"id":7,"price":1.5,"note":{"string":"quick"},"tags":["a","b"]}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, _ := avroClient(t, s, tc.properties)
			framed, err := c.encode(within(t), "t", []byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if want := []byte{0, 0, 0, 0, byte(id)}; !bytes.HasPrefix(framed, want) {
				t.Errorf("the value begins with % x, want % x", framed[:5], want)
			}
			out, err := c.decode(within(t), framed)
			if err != nil {
				t.Fatal(err)
			}
			var got, want any
			if json.Unmarshal(out, &got) != nil || json.Unmarshal([]byte(tc.out), &want) != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("decoded %s, want %s", out, tc.out)
			}
		})
	}
}

// The value is what Avro's specification says, and not only what we read ourselves.
func TestAvroBytes(t *testing.T) {
	s := newSchemas(t)
	s.add("t-value", orderSchema, nil)
	c, _ := avroClient(t, s, nil)
	framed, err := c.encode(within(t), "t", []byte(order))
	want := "\x00\x00\x00\x00\x01" + "\x0e" + "\x00\x00\x00\x00\x00\x00\xf8\x3f" + "\x02\x0aquick" + "\x04\x02a\x02b\x00"
	if err != nil || string(framed) != want {
		t.Errorf("encoded % x, %v\nwant    % x", framed, err, want)
	}
}

func TestAvroReferences(t *testing.T) {
	s := newSchemas(t)
	s.add("address", `{"type":"record","name":"Address","fields":[{"name":"city","type":"string"}]}`, nil)
	s.add("t-value", `{"type":"record","name":"Person","fields":[{"name":"home","type":"Address"}]}`, map[string]any{
		"references": []map[string]any{{"name": "Address", "subject": "address", "version": 1}},
	})
	c, _ := avroClient(t, s, nil)
	const in = `{"home":{"city":"Bergen"}}`
	framed, err := c.encode(within(t), "t", []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := c.decode(within(t), framed); err != nil || string(out) != in {
		t.Errorf("decoded %s, %v", out, err)
	}
	// A schema that refers to itself ends.
	s.add("loop", `"int"`, map[string]any{"references": []map[string]any{{"name": "loop", "subject": "loop", "version": 1}}})
	s.add("l-value", `"int"`, map[string]any{"references": []map[string]any{{"name": "loop", "subject": "loop", "version": 1}}})
	_, err = c.encode(within(t), "l", []byte("1"))
	expectError(t, err, "l-value", "16 deep")
}

func TestAvroCaching(t *testing.T) {
	s := newSchemas(t)
	s.add("t-value", orderSchema, nil)
	encode := func(c *Client) {
		t.Helper()
		if _, err := c.encode(within(t), "t", []byte(order)); err != nil {
			t.Fatal(err)
		}
	}
	c, clock := avroClient(t, s, map[string]string{"schemaLatestVersionCacheTTL": "1m", "schemaRegistryAPIKey": "user", "schemaRegistryAPISecret": "word"})
	encode(c)
	if s.login != "user:word" {
		t.Errorf("logged in with %q", s.login)
	}
	before := s.count()
	encode(c)
	if got := s.count() - before; got != 0 {
		t.Errorf("%d requests for a schema that is known", got)
	}
	clock.Advance(61 * time.Second)
	s.add("t-value", orderSchema, nil)
	framed, err := c.encode(within(t), "t", []byte(order))
	if err != nil || framed[4] != 2 {
		t.Errorf("schema %d is used after schemaLatestVersionCacheTTL, want the new one, 2: %v", framed[4], err)
	}
	before = s.count()
	if _, err := c.decode(within(t), framed); err != nil || s.count() != before {
		t.Errorf("%d requests to decode by a schema that is known, %v", s.count()-before, err)
	}
	c, _ = avroClient(t, s, map[string]string{"schemaCachingEnabled": "false"})
	before = s.count()
	encode(c)
	encode(c)
	if _, err := c.decode(within(t), framed); err != nil {
		t.Fatal(err)
	}
	if got := s.count() - before; got != 3 {
		t.Errorf("%d requests without caching, want 3", got)
	}
}

func TestAvroRefused(t *testing.T) {
	s := newSchemas(t)
	s.add("t-value", orderSchema, nil)
	s.add("p-value", `syntax = "proto3";`, map[string]any{"schemaType": "PROTOBUF"})
	s.add("b-value", `{"type":"nonsense"}`, nil)
	c, _ := avroClient(t, s, map[string]string{"consumeRetryInterval": "10ms"})
	for _, tc := range []struct {
		topic, data string
		permanent   bool
		words       []string
	}{
		{"t", `{"id":"seven"}`, true, []string{`"t"`, "t-value"}},
		{"t", `not JSON`, true, []string{"t-value"}},
		{"none", order, false, []string{`"none"`, "none-value", s.URL}},
		{"p", order, false, []string{"PROTOBUF", "not Avro"}},
		{"b", order, false, []string{"b-value", "nonsense"}},
	} {
		_, err := c.encode(within(t), tc.topic, []byte(tc.data))
		if expectError(t, err, tc.words...); Permanent(err) != tc.permanent {
			t.Errorf("%s: Permanent = %v: %v", tc.topic, !tc.permanent, err)
		}
	}
	for _, tc := range []struct {
		value string
		words []string
	}{
		{"{}", []string{"not Avro"}},
		{"\x01\x00\x00\x00\x01\x0e", []string{"not Avro"}},
		{"\x00\x00\x00\x01", []string{"not Avro"}},
		{"\x00\x00\x00\x00\x63\x0e", []string{"schema 99", s.URL}},
		{"\x00\x00\x00\x00\x01\x0e", []string{"schema 1"}},
	} {
		_, err := c.decode(within(t), []byte(tc.value))
		expectError(t, err, tc.words...)
	}
	if out, err := c.decode(within(t), nil); out != nil || err != nil {
		t.Errorf("a tombstone is decoded to %q, %v", out, err)
	}
}

func TestAvroOverKafka(t *testing.T) {
	_, addr := cluster(t, kfake.SeedTopics(1, "t"))
	s := newSchemas(t)
	s.add("t-value", orderSchema, nil)
	cl := mustClient(t, map[string]string{"brokers": addr, "schemaRegistryURL": s.URL})
	t.Cleanup(cl.close)
	p, k, in := producer(t, cl), consumer(t, cl, "g", true), newInbox()
	subscribe(t, k, Subscribe{Topic: "t", SchemaType: "Avro", Handler: in.accept})
	metadata := map[string]string{"valueSchemaType": "AVRO"}
	publish(t, p, "t", metadata, order)
	if d := in.next(t); string(d.Data) != order || d.Metadata["valueSchemaType"] != "AVRO" {
		t.Errorf("came %s with %v", d.Data, d.Metadata)
	}
	if r := records(t, addr, "t", 1)[0]; r.Value[0] != 0 || r.Value[4] != 1 {
		t.Errorf("the record is % x", r.Value)
	}
	results, err := p.PublishAll(within(t), "t", []Message{{Data: []byte(order)}, {Data: []byte("{}")}}, metadata)
	if expectError(t, err, "t-value"); results[0] != nil || results[1] == nil {
		t.Errorf("results %v", results)
	}
}

// A message that cannot be decoded waits in place, and those before it in its bulk are processed.
func TestBulkOfBrokenAvro(t *testing.T) {
	c, addr := cluster(t, kfake.SeedTopics(1, "t"))
	s := newSchemas(t)
	s.add("t-value", orderSchema, nil)
	cl := mustClient(t, map[string]string{"brokers": addr, "schemaRegistryURL": s.URL, "initialOffset": "oldest", "backOffMaxRetries": "2"})
	t.Cleanup(cl.close)
	p, k := producer(t, cl), consumer(t, cl, "g", true)
	avro := map[string]string{"valueSchemaType": "avro"}
	publish(t, p, "t", avro, order)
	publish(t, p, "t", nil, "broken")
	publish(t, p, "t", avro, order)
	sizes := make(chan int, 10)
	subscribe(t, k, Subscribe{Topic: "t", SchemaType: "avro", Most: 3, Await: 10 * time.Millisecond, Bulk: func(_ context.Context, ds []Delivery) []error {
		sizes <- len(ds)
		return nil
	}})
	awaitCommit(t, c, "g", "t", 3)
	if a, b := <-sizes, <-sizes; a != 1 || b != 1 {
		t.Errorf("bulks of %d and %d, want two of 1", a, b)
	}
}

// FuzzDecode: whatever bytes come as a value, there is JSON or an error.
func FuzzDecode(f *testing.F) {
	schema, err := avro.Parse(orderSchema)
	if err != nil {
		f.Fatal(err)
	}
	recursive, err := avro.Parse(`{"type":"record","name":"Node","fields":[{"name":"next","type":["null","Node"]},{"name":"m","type":{"type":"map","values":"bytes"}},{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}]}`)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"", "\x00", "plain", "\x00\x00\x00\x00\x01\x0e\x00\x00\x00\x00\x00\x00\xf8\x3f\x02\x0aquick\x04\x02a\x02b\x00", "\x00\x00\x00\x00\x02\x00\x00\x00", "\x00\x00\x00\x00\x01\x0e\x00\x00\x00\x00\x00\x00\xf8\x7f\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff\x7f"} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, value []byte, tagged bool) {
		// No schema but these is asked for, so the registry is never reached.
		r := &registry{caching: true, avroJSON: tagged, byID: map[int]*avro.Schema{1: schema, 2: recursive}}
		if len(value) >= 5 {
			value = append([]byte{value[0], 0, 0, 0, 1 + value[4]&1}, value[5:]...)
		}
		out, err := (&Client{registry: r}).decode(t.Context(), value)
		if err == nil && len(value) > 0 && !json.Valid(out) {
			t.Errorf("% x is decoded to %q, which is not JSON", value, out)
		}
	})
}
