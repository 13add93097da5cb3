package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"outrigger.dev/components/state"
)

// written are the items of the database in testdata, which a Dapr sidecar wrote: what it was given in JSON.
var written = []struct{ key, value, ttl string }{
	{"object", `{"item":"pizza","nested":{"a":[1,2.5,null,true]},"qty":2}`, ""},
	{"string", `"plain"`, ""},
	{"null", `null`, ""},
	{"unicode", `"žluťoučký 🐎"`, ""},
	{"html", `"<a>&"`, ""},
	{"ttl", `"expires"`, "86400"},
	{"text", `"words"`, ""},
	{"twice", `2`, ""},
	{"tx", `{"t":1}`, ""},
}

// TestReadsDapr opens a database that Dapr wrote.
func TestReadsDapr(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.db")
	load(t, path)
	s := mustOpen(t, map[string]string{"connectionString": path})
	defer s.Close()
	var reqs []state.GetRequest
	for _, w := range written {
		key := "someapp||" + w.key
		reqs = append(reqs, state.GetRequest{Key: key})
		item, err := s.Get(context.Background(), reqs[len(reqs)-1])
		if err != nil || !item.Found {
			t.Errorf("%s: found %v, %v", key, item.Found, err)
			continue
		}
		if want := string(state.EscapeHTML([]byte(w.value))); string(item.Data) != want {
			t.Errorf("%s = %s, want %s", key, item.Data, want)
		}
		if len(item.ETag) != 36 {
			t.Errorf("%s has the etag %q", key, item.ETag)
		}
		if got := item.Metadata[state.MetadataTTLExpireTime]; (got == "2099-11-22T01:16:34Z") != (w.ttl != "") {
			t.Errorf("%s expires %q", key, got)
		}
		if err := s.Set(context.Background(), state.SetRequest{Key: key, Value: state.Value{Bytes: []byte("1"), JSON: true}, ETag: item.ETag}); err != nil {
			t.Errorf("Set(%q) with its etag: %v", key, err)
		}
	}
	items, err := s.BulkGet(context.Background(), append([]state.GetRequest{{Key: "someapp||number"}}, reqs...))
	if err != nil || len(items) != len(written)+1 || items[len(items)-1].Key != "someapp||number" {
		t.Errorf("BulkGet = %v, %v; want the missing key behind the others", items, err)
	}
}

// TestWritesLikeDapr writes the same items and compares tables and rows.
func TestWritesLikeDapr(t *testing.T) {
	dir := t.TempDir()
	theirs, ours := filepath.Join(dir, "theirs.db"), filepath.Join(dir, "ours.db")
	load(t, theirs)
	s := mustOpen(t, map[string]string{"connectionString": ours})
	defer s.Close()
	for _, w := range written {
		req := state.SetRequest{Key: "someapp||" + w.key, Value: state.Value{Bytes: []byte(w.value), JSON: true}}
		if w.ttl != "" {
			req.Metadata = map[string]string{"ttlInSeconds": w.ttl}
		}
		if err := s.Set(context.Background(), req); err != nil {
			t.Fatal(err)
		}
	}
	want, got := dump(t, theirs), dump(t, ours)
	if !slices.Equal(got, want) {
		t.Errorf("our database:\n%v\ntheirs:\n%v", got, want)
	}
	// Bytes are bare base64.
	if err := s.Set(context.Background(), state.SetRequest{Key: "hi", Value: state.Value{Bytes: []byte("hi")}}); err != nil {
		t.Fatal(err)
	}
	var value string
	var binary int
	if err := database(t, ours).QueryRow("SELECT value, is_binary FROM state WHERE key = 'hi'").Scan(&value, &binary); err != nil || value != "aGk=" || binary != 1 {
		t.Errorf("bytes are stored as %q, %d, %v", value, binary, err)
	}
}

// load makes a database of the dump in testdata; the item that expires does so in a far future.
func load(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile("testdata/dapr.sql")
	if err != nil {
		t.Fatal(err)
	}
	db := database(t, path)
	if _, err := db.Exec(string(text)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("UPDATE state SET expiration_time = '2099-11-22 01:16:34' WHERE expiration_time IS NOT NULL"); err != nil {
		t.Fatal(err)
	}
}

// dump describes columns and rows, without what differs from run to run: etags and times become their form.
func dump(t *testing.T, path string) (lines []string) {
	t.Helper()
	db := database(t, path)
	for _, table := range []string{"metadata", "state"} {
		lines = append(lines, each(t, db, fmt.Sprintf("SELECT name, upper(type), \"notnull\", dflt_value, pk FROM pragma_table_info('%s')", table))...)
	}
	lines = append(lines, each(t, db, "SELECT name, tbl_name FROM sqlite_master WHERE type = 'index'")...)
	lines = append(lines, each(t, db, "SELECT * FROM metadata ORDER BY key")...)
	return append(lines, each(t, db, "SELECT key, typeof(value), value, typeof(is_binary), is_binary, etag, typeof(expiration_time), expiration_time || '', update_time || '' FROM state ORDER BY key")...)
}

var (
	anyUUID = regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b`)
	anyTime = regexp.MustCompile(`\b20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\b`)
)

func each(t *testing.T, db *sql.DB, query string) (lines []string) {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values := make([]any, len(names))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		line := ""
		for _, v := range values {
			v := *v.(*any)
			if at, ok := v.(time.Time); ok {
				v = at.UTC().Format(time.DateTime)
			}
			line += fmt.Sprintf("%v|", v)
		}
		line = anyTime.ReplaceAllString(anyUUID.ReplaceAllString(line, "<uuid>"), "<time>")
		lines = append(lines, line+"\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}
