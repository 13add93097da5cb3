package redis

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"

	"outrigger.dev/components/state"
	"outrigger.dev/test/servers"
)

// daprRows is testdata/dapr-rows.json.
type daprRows struct {
	Written []struct {
		Key      string            `json:"key"`
		Value    json.RawMessage   `json:"value"`
		Metadata map[string]string `json:"metadata"`
	} `json:"written"`
	Rows []struct {
		Key     string            `json:"key"`
		Expires bool              `json:"expires"`
		Fields  map[string]string `json:"fields"`
	} `json:"rows"`
}

func readRows(t *testing.T) daprRows {
	t.Helper()
	text, err := os.ReadFile("testdata/dapr-rows.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows daprRows
	if err := json.Unmarshal(text, &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows.Rows) == 0 || len(rows.Written) == 0 {
		t.Fatal("testdata/dapr-rows.json is empty")
	}
	return rows
}

// meaning decodes JSON.
func meaning(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

// TestReadsDaprRows loads what Dapr stored and reads it back.
func TestReadsDaprRows(t *testing.T) {
	s := connect(t, properties{"redisHost": servers.Redis(t, servers.Own()).Addr})
	ctx := context.Background()
	rows := readRows(t)
	want := map[string]any{"myapp||twice": 2.0, "myapp||tx": map[string]any{"t": 1.0}}
	for _, w := range rows.Written {
		if k := "myapp||" + w.Key; want[k] == nil && w.Key != "number" {
			want[k] = meaning(t, w.Value)
		}
	}
	for _, row := range rows.Rows {
		b := s.client.B().Hset().Key(row.Key).FieldValue()
		for f, v := range row.Fields {
			b = b.FieldValue(f, v)
		}
		if err := s.client.Do(ctx, b.Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range rows.Rows {
		item, err := s.Get(ctx, state.GetRequest{Key: row.Key})
		if err != nil || !item.Found {
			t.Errorf("Get(%q) = found %v, %v", row.Key, item.Found, err)
			continue
		}
		expected, known := want[row.Key]
		if !known || !reflect.DeepEqual(meaning(t, item.Data), expected) {
			t.Errorf("Get(%q) = %s, want %v", row.Key, item.Data, expected)
		}
		if item.ETag != row.Fields["version"] {
			t.Errorf("Get(%q) has the etag %q, want %q", row.Key, item.ETag, row.Fields["version"])
		}
		// The item goes on from the version it has.
		if err := s.Set(ctx, state.SetRequest{Key: row.Key, ETag: item.ETag, Value: state.Value{Bytes: item.Data, JSON: true}}); err != nil {
			t.Errorf("Set(%q) with its etag: %v", row.Key, err)
		}
	}
	keys, _, err := s.KeysLike(ctx, "myapp||%", "", 0)
	if err != nil || len(keys) != len(rows.Rows) {
		t.Errorf("KeysLike = %q, %v; want %d keys", keys, err, len(rows.Rows))
	}
}

// TestWritesDaprRows saves the items that Dapr saved and compares the hashes.
func TestWritesDaprRows(t *testing.T) {
	s := connect(t, properties{"redisHost": servers.Redis(t, servers.Own()).Addr})
	ctx := context.Background()
	rows := readRows(t)
	set := func(key, value string, metadata map[string]string) *state.SetRequest {
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(value)); err != nil {
			t.Fatal(err)
		}
		return &state.SetRequest{Key: "myapp||" + key, Value: state.Value{Bytes: compact.Bytes(), JSON: true}, Metadata: metadata}
	}
	for _, w := range rows.Written {
		if err := s.Set(ctx, *set(w.Key, string(w.Value), w.Metadata)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Set(ctx, *set("twice", "2", nil)); err != nil {
		t.Fatal(err)
	}
	if err := s.Transact(ctx, state.TransactionRequest{Operations: []state.Operation{
		{Set: set("tx", `{"t":1}`, nil)}, {Delete: &state.DeleteRequest{Key: "myapp||number"}},
	}}); err != nil {
		t.Fatal(err)
	}
	stored, _, err := s.KeysLike(ctx, "%", "", 0)
	if err != nil || len(stored) != len(rows.Rows) {
		t.Errorf("the database has the keys %q, %v; want %d", stored, err, len(rows.Rows))
	}
	for _, row := range rows.Rows {
		got, err := s.client.Do(ctx, s.client.B().Hgetall().Key(row.Key).Build()).AsStrMap()
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(meaning(t, []byte(got["data"])), meaning(t, []byte(row.Fields["data"]))) {
			t.Errorf("%s has the data %s, want %s", row.Key, got["data"], row.Fields["data"])
		}
		want := maps.Clone(row.Fields)
		delete(got, "data")
		delete(want, "data")
		if !maps.Equal(got, want) {
			t.Errorf("%s has the further fields %v, want %v", row.Key, got, want)
		}
		left, err := s.client.Do(ctx, s.client.B().Ttl().Key(row.Key).Build()).AsInt64()
		if err != nil || row.Expires != (left > 0) {
			t.Errorf("%s has %d seconds left, %v; expires is to be %v", row.Key, left, err, row.Expires)
		}
	}
}

// TestHashLayout checks the fields after each kind of write, and how foreign keys are treated.
func TestHashLayout(t *testing.T) {
	s := connect(t, properties{"redisHost": servers.Redis(t, servers.Own()).Addr})
	ctx := context.Background()
	do := func(words ...string) {
		t.Helper()
		if err := s.client.Do(ctx, s.client.B().Arbitrary(words...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	set := func(change func(*state.SetRequest)) error {
		req := state.SetRequest{Key: "k", Value: state.Value{Bytes: []byte("v")}}
		change(&req)
		return s.Set(ctx, req)
	}
	plainSet := func(*state.SetRequest) {}
	firstSet := func(r *state.SetRequest) { r.Options.Concurrency = state.FirstWrite }
	etagSet := func(etag string) func(*state.SetRequest) { return func(r *state.SetRequest) { r.ETag = etag } }
	for _, c := range []struct {
		name    string
		prepare []string
		change  func(*state.SetRequest)
		// want are the fields in their order; "" says that the write is refused.
		want string
	}{
		{"new", nil, plainSet, "data v version 1"},
		{"new first-write", nil, firstSet, "data v first-write 0 version 1"},
		{"new with etag", nil, etagSet("7"), "data v version 1"},
		{"again", []string{"HSET k data o version 4"}, plainSet, "data v version 5"},
		{"etag", []string{"HSET k data o version 4"}, etagSet("4"), "data v version 5"},
		{"etag with a plus", []string{"HSET k data o version 4"}, etagSet("+4"), "data v version 5"},
		{"old etag", []string{"HSET k data o version 4"}, etagSet("3"), ""},
		{"first-write over a plain item", []string{"HSET k data o version 4"}, firstSet, "data v version 5 first-write 0"},
		{"over a first-written item", []string{"HSET k data o version 4 first-write 0"}, plainSet, ""},
		{"etag over a first-written item", []string{"HSET k data o version 4 first-write 0"}, etagSet("4"), "data v version 5 first-write 0"},
		{"string", []string{"SET k text"}, plainSet, "data v version 1"},
		{"list with etag", []string{"RPUSH k a"}, etagSet("4"), "data v version 1"},
		{"foreign hash", []string{"HSET k other x"}, plainSet, "other x data v version 1"},
	} {
		do("DEL", "k")
		for _, p := range c.prepare {
			do(strings.Fields(p)...)
		}
		err := set(c.change)
		if c.want == "" {
			if err == nil {
				t.Errorf("%s: the write was not refused", c.name)
			}
			continue
		}
		got, gotErr := s.client.Do(ctx, s.client.B().Arbitrary("EVAL", "return redis.call('HGETALL', KEYS[1])", "1").Keys("k").Build()).AsStrSlice()
		if err != nil || gotErr != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, %v, fields %q; want %q", c.name, err, gotErr, got, c.want)
		}
	}
	for _, c := range []struct {
		name, prepare string
		want          string
		etag          bool
		err           string
	}{
		{"plain string", "SET k text", "text", false, ""},
		{"no version", "HSET k data v", "", false, "required hash field 'data' or 'version' was not found"},
		{"no data", "HSET k version 1", "", false, "required hash field 'data' or 'version' was not found"},
		{"list", "RPUSH k a", "", false, "WRONGTYPE"},
	} {
		do("DEL", "k")
		do(strings.Fields(c.prepare)...)
		item, err := s.Get(ctx, state.GetRequest{Key: "k"})
		if c.err != "" {
			expectError(t, err, c.err)
			continue
		}
		if err != nil || string(item.Data) != c.want || item.HasETag != c.etag || !item.Found {
			t.Errorf("%s: Get = %+v, %v; want %q", c.name, item, err, c.want)
		}
	}
	for _, c := range []struct {
		name, prepare, etag string
		refused             bool
	}{
		{"any version", "HSET k data v version 4", "", false},
		{"its version", "HSET k data v version 4", "4", false},
		{"another version", "HSET k data v version 4", "5", true},
		{"first-written without etag", "HSET k data v version 4 first-write 0", "", false},
		{"no version", "HSET k data v", "5", false},
		{"string", "SET k text", "5", false},
	} {
		do("DEL", "k")
		do(strings.Fields(c.prepare)...)
		err := s.Delete(ctx, state.DeleteRequest{Key: "k", ETag: c.etag})
		n, _ := s.client.Do(ctx, s.client.B().Exists().Key("k").Build()).AsInt64()
		if (err != nil) != c.refused || (n == 1) != c.refused {
			t.Errorf("%s: Delete = %v, the key exists: %v; refused is to be %v", c.name, err, n == 1, c.refused)
		}
	}
}

func BenchmarkGet(b *testing.B) { benchmark(b, true) }
func BenchmarkSet(b *testing.B) { benchmark(b, false) }

func benchmark(b *testing.B, get bool) {
	s, err := Open(context.Background(), optionsFor(servers.Redis(b).Addr), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req := state.SetRequest{Key: "bench", Value: state.Value{Bytes: bytes.Repeat([]byte("x"), 1024)}}
	if err := s.Set(ctx, req); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			var err error
			if get {
				_, err = s.Get(ctx, state.GetRequest{Key: "bench"})
			} else {
				err = s.Set(ctx, req)
			}
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// optionsFor are options as decoded from redisHost alone.
func optionsFor(address string) Options {
	var o Options
	o.Host, o.Type, o.MaxRetries = address, "node", 3
	return o
}
