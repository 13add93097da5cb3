package redis

import (
	"context"
	"slices"
	"strings"
	"testing"

	"outrigger.dev/components/state"
	"outrigger.dev/test/servers"
)

// asJSON is the request metadata that asks for the JSON layout.
var asJSON = map[string]string{"contentType": "application/json"}

// TestJSONCommands checks what is sent to a server with RedisJSON.
func TestJSONCommands(t *testing.T) {
	documents := map[string]string{
		"doc":     `{"data":{"a":[1,"<x>"]},"version":3}`,
		"string":  `{"data":"text","version":1,"first-write":0}`,
		"null":    `{"data":null,"version":1}`,
		"foreign": `[1]`,
		"nodata":  `{"version":1}`,
	}
	f := newFakeServer(t, func(command []string) string {
		switch command[0] {
		case "JSON.GET":
			if len(command) == 1 {
				return "-ERR wrong number of arguments for 'JSON.GET' command\r\n"
			}
			if doc, ok := documents[command[1]]; ok {
				return bulk(doc)
			}
			return "_\r\n"
		case "EVALSHA":
			return "-NOSCRIPT No matching script.\r\n"
		case "EVAL":
			return ":1\r\n"
		case "HMGET":
			return "*2\r\n" + bulk("hash") + bulk("5")
		case "MULTI":
			return "+OK\r\n"
		case "EXEC":
			return "*2\r\n:1\r\n:-1\r\n"
		}
		return ""
	})
	s := connect(t, properties{"redisHost": f.address})
	if !slices.Contains(state.Capabilities(s), "QUERY_API") {
		t.Errorf("capabilities %v lack QUERY_API", state.Capabilities(s))
	}
	ctx := context.Background()
	for _, c := range []struct {
		key, want, etag, err string
	}{
		{"doc", `{"a":[1,"<x>"]}`, "3", ""},
		{"string", `"text"`, "1", ""},
		{"null", `null`, "1", ""},
		{"foreign", "", "", "not of the form"},
		{"nodata", "", "", "it has no data"},
	} {
		item, err := s.Get(ctx, state.GetRequest{Key: c.key, Metadata: asJSON})
		if c.err != "" {
			expectError(t, err, c.err)
			continue
		}
		if err != nil || string(item.Data) != c.want || item.ETag != c.etag || !item.Found {
			t.Errorf("Get(%q) = %+v, %v; want %s, etag %s", c.key, item, err, c.want, c.etag)
		}
	}
	if item, err := s.Get(ctx, state.GetRequest{Key: "missing", Metadata: asJSON}); err != nil || item.Found {
		t.Errorf("Get of a missing document = %+v, %v", item, err)
	}
	items, err := s.BulkGet(ctx, []state.GetRequest{{Key: "doc", Metadata: asJSON}, {Key: "hash"}})
	if err != nil || string(items[0].Data) != documents["doc"][8:23] || string(items[1].Data) != "hash" || items[1].ETag != "5" {
		t.Errorf("BulkGet = %+v, %v", items, err)
	}

	expect := func(what string, want ...[]string) {
		t.Helper()
		got := f.commands()
		for i, command := range got {
			for j, word := range command {
				for name, text := range map[string]string{"set hash": setHashText, "delete hash": deleteHashText, "set JSON": setJSONText, "delete JSON": deleteJSONText} {
					if word == text || word == newScript(text).sha {
						got[i][j] = name
					}
				}
			}
		}
		if !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s sent %q, want %q", what, got, want)
		}
	}
	f.commands()
	value := state.Value{Bytes: []byte(`{"a":1}`), JSON: true}
	if err := s.Set(ctx, state.SetRequest{Key: "k", Value: value, Metadata: asJSON, ETag: "7", Options: state.Options{Concurrency: state.FirstWrite}}); err != nil {
		t.Error(err)
	}
	expect("Set of JSON", []string{"EVALSHA", "set JSON", "1", "k", "7", `{"a":1}`, "1", ""}, []string{"EVAL", "set JSON", "1", "k", "7", `{"a":1}`, "1", ""})
	if err := s.Set(ctx, state.SetRequest{Key: "k", Value: value, Metadata: map[string]string{"contentType": "text/plain", "ttlInSeconds": "5"}}); err != nil {
		t.Error(err)
	}
	expect("Set of text", []string{"EVALSHA", "set hash", "1", "k", "0", `{"a":1}`, "0", "5"}, []string{"EVAL", "set hash", "1", "k", "0", `{"a":1}`, "0", "5"})
	if err := s.Delete(ctx, state.DeleteRequest{Key: "k", ETag: "7", Metadata: asJSON}); err != nil {
		t.Error(err)
	}
	expect("Delete", []string{"EVALSHA", "delete JSON", "1", "k", "7"}, []string{"EVAL", "delete JSON", "1", "k", "7"})

	err = s.Transact(ctx, state.TransactionRequest{Metadata: asJSON, Operations: []state.Operation{
		{Set: &state.SetRequest{Key: "k", Value: state.Value{Bytes: []byte("hi")}, Options: state.Options{Concurrency: state.FirstWrite}}},
		{Set: &state.SetRequest{Key: "l", Value: value, ETag: "2"}},
	}})
	if _, ok := state.AsETagError(err); !ok {
		t.Errorf("Transact = %v, want the mismatch of the second operation", err)
	}
	// Bytes are a string in base64; first-write has no effect here; the second call knows the script by name.
	expect("Transact", []string{"MULTI"}, []string{"EVAL", "set JSON", "1", "k", "0", `"aGk="`, "0", ""},
		[]string{"EVALSHA", "set JSON", "1", "l", "2", `{"a":1}`, "0", ""}, []string{"EXEC"})
}

// emulation makes a script believe that strings are JSON documents, as far as the scripts of this package ask.
const emulation = `local server = redis
local redis = {}
function redis.call(name, key, path, a, b)
  if name == 'TYPE' then
    local kind = server.call('TYPE', key)
    if kind.ok == 'string' then return {ok = 'ReJSON-RL'} end
    return kind
  elseif name == 'JSON.GET' then
    local doc = cjson.decode(server.call('GET', key))
    local version, first = '', ''
    if doc.version then version = doc.version end
    if doc['first-write'] then first = doc['first-write'] end
    assert(path == '$["version"]' and a == '$["first-write"]')
    return '{"$[\\"version\\"]":[' .. version .. '],"$[\\"first-write\\"]":[' .. first .. ']}'
  elseif name == 'JSON.SET' then
    if path == '$' then return server.call('SET', key, a, 'KEEPTTL') end
    local doc = cjson.decode(server.call('GET', key))
    doc[string.match(path, '^%$%["(.+)"%]$')] = cjson.decode('[' .. a .. ']')[1]
    return server.call('SET', key, cjson.encode(doc), 'KEEPTTL')
  end
  if path == nil then return server.call(name, key) end
  return server.call(name, key, path)
end
`

// TestJSONScripts checks the rules of the JSON scripts on a real server with emulated documents.
func TestJSONScripts(t *testing.T) {
	s := connect(t, properties{"redisHost": servers.Redis(t, servers.Own()).Addr})
	ctx := context.Background()
	for _, c := range []struct {
		name, prepare string
		version, mark string
		expiry        string
		refused       bool
		want          string
	}{
		{"new", "", "0", "0", "", false, `{"data":{"n":1},"version":1}`},
		{"new with etag", "", "6", "0", "", false, `{"data":{"n":1},"version":7}`},
		{"new first-write", "", "0", "1", "", false, `{"data":{"n":1},"version":1,"first-write":0}`},
		{"again", `SET k {"data":5,"version":4}`, "0", "0", "", false, `{"data":{"n":1},"version":5}`},
		{"etag", `SET k {"data":5,"version":4}`, "4", "0", "", false, `{"data":{"n":1},"version":5}`},
		{"old etag", `SET k {"data":5,"version":4}`, "3", "0", "", true, ""},
		{"first-write over", `SET k {"data":5,"version":4}`, "0", "1", "", false, `{"data":{"n":1},"version":5,"first-write":0}`},
		{"over first-write", `SET k {"data":5,"version":4,"first-write":0}`, "0", "0", "", true, ""},
		{"etag over first-write", `SET k {"data":5,"version":4,"first-write":0}`, "4", "0", "", false, `{"data":{"n":1},"version":5,"first-write":0}`},
		{"over a hash", `HSET k data v`, "3", "0", "", false, `{"data":{"n":1},"version":4}`},
		{"life", "", "0", "0", "100", false, `{"data":{"n":1},"version":1}`},
		{"life kept", `SET k {"data":5,"version":4} EX 50`, "0", "0", "", false, `{"data":{"n":1},"version":5}`},
		{"life ended", `SET k {"data":5,"version":4} EX 50`, "0", "0", "-1", false, `{"data":{"n":1},"version":5}`},
		{"big version", `SET k {"data":5,"version":12345678901234}`, "12345678901234", "0", "", false, `{"data":{"n":1},"version":12345678901235}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := s.client.B()
			s.client.Do(ctx, b.Del().Key("k").Build())
			if c.prepare != "" {
				if err := s.client.Do(ctx, b.Arbitrary(strings.Fields(c.prepare)...).Build()).Error(); err != nil {
					t.Fatal(err)
				}
			}
			n, err := s.client.Do(ctx, b.Eval().Script(emulation+setJSONText).Numkeys(1).Key("k").Arg(c.version, `{"n":1}`, c.mark, c.expiry).Build()).AsInt64()
			if err != nil || (n < 0) != c.refused {
				t.Fatalf("the script returned %d, %v; refused is to be %v", n, err, c.refused)
			}
			if c.refused {
				return
			}
			text, err := s.client.Do(ctx, b.Get().Key("k").Build()).AsBytes()
			if err != nil {
				t.Fatal(err)
			}
			got, want := meaning(t, text).(map[string]any), meaning(t, []byte(c.want)).(map[string]any)
			for _, name := range []string{"version", "first-write"} {
				if got[name] != want[name] {
					t.Errorf("%s is %v, want %v", name, got[name], want[name])
				}
			}
			if item, err := parseDocument(text); err != nil || string(item.Data) != `{"n":1}` {
				t.Errorf("the document is %s, %v", text, err)
			}
			left, err := s.client.Do(ctx, b.Ttl().Key("k").Build()).AsInt64()
			if lives := c.expiry == "100" || c.name == "life kept"; err != nil || (left > 0) != lives {
				t.Errorf("%d seconds left, %v", left, err)
			}
		})
	}
	for _, c := range []struct {
		name, prepare, version string
		want                   int64
	}{
		{"missing", "", "3", 0},
		{"its version", `SET k {"data":5,"version":4}`, "4", 1},
		{"another version", `SET k {"data":5,"version":4}`, "3", -1},
		{"any version", `SET k {"data":5,"version":4,"first-write":0}`, "0", 1},
		{"a hash", "HSET k data v", "3", 1},
	} {
		b := s.client.B()
		s.client.Do(ctx, b.Del().Key("k").Build())
		if c.prepare != "" {
			if err := s.client.Do(ctx, b.Arbitrary(strings.Fields(c.prepare)...).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		n, err := s.client.Do(ctx, b.Eval().Script(emulation+deleteJSONText).Numkeys(1).Key("k").Arg(c.version).Build()).AsInt64()
		if err != nil || n != c.want {
			t.Errorf("delete of %s returned %d, %v; want %d", c.name, n, err, c.want)
		}
	}
}
