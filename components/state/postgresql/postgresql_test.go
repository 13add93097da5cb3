package postgresql

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jonboulle/clockwork"
	"outrigger.dev/components"
	"outrigger.dev/components/state"
	"outrigger.dev/components/state/statetest"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// openStore opens a store the way a resource does.
func openStore(tb testing.TB, name, version string, properties map[string]string) (*Store, error) {
	tb.Helper()
	return openWithClock(tb, clockwork.NewRealClock(), name, version, properties)
}

func openWithClock(tb testing.TB, clock clockwork.Clock, name, version string, properties map[string]string) (*Store, error) {
	tb.Helper()
	var r components.Registry
	Register(&r)
	d, err := r.Lookup(components.State, name, version)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := d.Open(ctx, components.Instance{Name: "st", Properties: properties, Clock: clock, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return c.(*Store), nil
}

func mustOpen(tb testing.TB, version string, properties map[string]string) *Store {
	tb.Helper()
	s, err := openStore(tb, "postgres", version, properties)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// connect gives a connection of the test's own, to look behind the store's back.
func connect(tb testing.TB, url string) *pgx.Conn {
	tb.Helper()
	c, err := pgx.Connect(context.Background(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func exec(tb testing.TB, c *pgx.Conn, statement string, args ...any) {
	tb.Helper()
	if _, err := c.Exec(context.Background(), statement, args...); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
}

func set(tb testing.TB, s *Store, key, value string) {
	tb.Helper()
	if err := s.Set(context.Background(), state.SetRequest{Key: key, Value: state.Value{Bytes: []byte(value), JSON: true}}); err != nil {
		tb.Fatalf("Set(%q): %v", key, err)
	}
}

func get(tb testing.TB, s *Store, key string) string {
	tb.Helper()
	item, err := s.Get(context.Background(), state.GetRequest{Key: key})
	if err != nil {
		tb.Fatalf("Get(%q): %v", key, err)
	}
	return string(item.Data)
}

func TestConformance(t *testing.T) {
	server := servers.Postgres(t)
	for _, tc := range []struct {
		version, mode string
		properties    map[string]string
	}{
		{"v1", "", nil},
		{"v2", "", nil},
		{"v1", "simple_protocol", map[string]string{"tableName": `"Odd ""name"`, "metadataTableName": "public.meta"}},
		{"v2", "exec", map[string]string{"tablePrefix": "public.App_"}},
		{"v1", "describe_exec", map[string]string{"maxConns": "2"}},
		{"v2", "cache_describe", nil},
	} {
		t.Run(tc.version+tc.mode, func(t *testing.T) {
			t.Parallel()
			p := map[string]string{"connectionString": server.Database(), "queryExecMode": tc.mode}
			maps.Copy(p, tc.properties)
			open := func(t *testing.T) state.Store { return mustOpen(t, tc.version, p) }
			cfg := statetest.Config{FirstWriteErrorGeneric: true, Reopen: open}
			if tc.version == "v1" {
				cfg.InvalidETag = "not-a-number"
			}
			statetest.Run(t, cfg, open)
		})
	}
}

func TestStartTogether(t *testing.T) {
	server := servers.Postgres(t)
	for _, version := range []string{"v1", "v2"} {
		url := server.Database()
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				s, err := openStore(t, "postgresql", version, map[string]string{"url": url, "maxConns": "2"})
				if err != nil {
					t.Errorf("%s: %v", version, err)
					return
				}
				defer s.Close()
				set(t, s, fmt.Sprint("k", i), "1")
			})
		}
		all.Wait()
		var n int
		if err := connect(t, url).QueryRow(context.Background(), "SELECT count(*) FROM state").Scan(&n); err != nil || n != 8 {
			t.Errorf("%s: %d rows, %v", version, n, err)
		}
	}
}

// TestOldTable brings a table of the first layout up to date.
func TestOldTable(t *testing.T) {
	url := servers.Postgres(t).Database()
	c := connect(t, url)
	exec(t, c, `CREATE SCHEMA own`)
	exec(t, c, `CREATE TABLE own.old (key text NOT NULL PRIMARY KEY, value jsonb NOT NULL, isbinary boolean NOT NULL,
		insertdate timestamptz NOT NULL DEFAULT now(), updatedate timestamptz NULL)`)
	exec(t, c, `CREATE TABLE own.meta (key text NOT NULL PRIMARY KEY, value text NOT NULL)`)
	exec(t, c, `INSERT INTO own.meta VALUES ('migrations', '1')`)
	exec(t, c, `INSERT INTO own.old VALUES ('second', '2', false, now()), ('first', '1', false, now() - interval '1 day'), ('b', '4', false, now() + interval '1 h'), ('a', '3', false, now() + interval '1 h')`)
	s := mustOpen(t, "v1", map[string]string{"connectionString": url, "tableName": "own.old", "metadataTableName": "OWN.meta"})
	defer s.Close()
	set(t, s, "new", "5")
	keys, _, err := s.KeysLike(context.Background(), "%", "", 0)
	if want := []string{"first", "second", "a", "b", "new"}; err != nil || !slices.Equal(keys, want) {
		t.Errorf("keys %v, %v; want %v", keys, err, want)
	}
	if got := get(t, s, "second"); got != "2" {
		t.Errorf("second = %q", got)
	}
}

func TestRestart(t *testing.T) {
	server := servers.Postgres(t, servers.Own(), servers.Durable())
	s := mustOpen(t, "v2", map[string]string{"connectionString": server.ConnectionString(), "timeout": "5s"})
	defer s.Close()
	for i := range 20 {
		set(t, s, fmt.Sprint("k", i), "1")
	}
	// Several connections, all of which will be dead.
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() { get(t, s, fmt.Sprint("k", i)) })
	}
	all.Wait()
	server.Kill()
	if _, err := s.Get(context.Background(), state.GetRequest{Key: "k1"}); err == nil || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("Get without a server = %v, want an error with its address", err)
	}
	_, err := openStore(t, "postgresql", "", map[string]string{"connectionString": server.ConnectionString()})
	if err == nil || !strings.Contains(err.Error(), "check that the server runs") || !strings.Contains(err.Error(), "127.0.0.1:") || strings.Contains(err.Error(), server.Password) {
		t.Errorf("opening without a server = %v, want an error with address and remedy and without the password", err)
	}
	server.Start()
	for i := range 20 {
		if got := get(t, s, fmt.Sprint("k", i)); got != "1" {
			t.Errorf("k%d = %q after a restart", i, got)
		}
	}
	set(t, s, "k1", "2")
}

func TestCleanup(t *testing.T) {
	server := servers.Postgres(t)
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			url := server.Database()
			clock := clockwork.NewFakeClock()
			s, err := openWithClock(t, clock, "postgresql", version, map[string]string{"connectionString": url, "cleanupIntervalInSeconds": "600"})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			c := connect(t, url)
			column, key := "expiredate", "last-cleanup"
			if version == "v2" {
				column, key = "expires_at", "last-cleanup-state-v2-"
			}
			fill := func() {
				for i := range 3 {
					if err := s.Set(context.Background(), state.SetRequest{Key: fmt.Sprint("k", i), Metadata: map[string]string{"ttlInSeconds": "100"}, Value: state.Value{Bytes: []byte("x")}}); err != nil {
						t.Fatal(err)
					}
				}
				exec(t, c, "UPDATE state SET "+column+" = now() - interval '1 second' WHERE key <> 'k0'")
			}
			rows := func() (n int) {
				if err := c.QueryRow(context.Background(), "SELECT count(*) FROM state").Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			fill()
			clock.Advance(10 * time.Minute)
			for deadline := time.Now().Add(10 * time.Second); rows() != 1; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d rows are left, want 1", rows())
				}
			}
			fill()
			if n, err := s.collect(context.Background()); err != nil || n != 0 || rows() != 3 {
				t.Errorf("a second clean-up within the interval removed %d rows, %v", n, err)
			}
			exec(t, c, "UPDATE dapr_metadata SET value = (CURRENT_TIMESTAMP - interval '599.95 seconds')::text WHERE key = $1", key)
			if n, err := s.collect(context.Background()); err != nil || n != 2 {
				t.Errorf("a clean-up after the interval removed %d rows, %v; want 2", n, err)
			}
		})
	}
}

// written are the items of the database in testdata, which a Dapr sidecar wrote.
var written = []struct{ key, value, v1, ttl string }{
	{"twice", `1`, `1`, ""},
	{"object", `{"item":"pizza","nested":{"a":[1,2.5,null,true]},"qty":2}`, `{"qty": 2, "item": "pizza", "nested": {"a": [1, 2.5, null, true]}}`, ""},
	{"string", `"plain"`, `"plain"`, ""},
	{"null", `null`, `null`, ""},
	{"unicode", `"žluťoučký 🐎"`, `"žluťoučký 🐎"`, ""},
	{"html", `"<a>&"`, `"<a>&"`, ""},
	{"ttl", `"expires"`, `"expires"`, "86400"},
	{"text", `"words"`, `"words"`, ""},
	{"twice", `2`, `2`, ""},
	{"tx", `{"t":1}`, `{"t": 1}`, ""},
}

// load makes a database of the dump in testdata and returns a connection to it.
func load(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	text, err := os.ReadFile("testdata/dapr.sql")
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, url)
	if _, err := c.PgConn().Exec(context.Background(), string(text)).ReadAll(); err != nil {
		t.Fatal(err)
	}
	exec(t, c, "SET search_path = public")
	exec(t, c, "UPDATE v1_state SET expiredate = '2099-11-22 01:16:34.5+00' WHERE expiredate IS NOT NULL")
	exec(t, c, "UPDATE v2_state SET expires_at = '2099-11-22 01:16:34.5+00' WHERE expires_at IS NOT NULL")
	return c
}

var versions = []struct {
	version    string
	properties map[string]string
}{
	{"v1", map[string]string{"tableName": "v1_state", "metadataTableName": "v1_meta"}},
	{"v2", map[string]string{"tablePrefix": "v2_"}},
}

func TestReadsDapr(t *testing.T) {
	for _, v := range versions {
		t.Run(v.version, func(t *testing.T) {
			url := servers.Postgres(t).Database()
			load(t, url)
			p := maps.Clone(v.properties)
			p["connectionString"] = url
			s := mustOpen(t, v.version, p)
			defer s.Close()
			reqs := []state.GetRequest{{Key: "someapp||number"}}
			for _, w := range written[1:] {
				key := "someapp||" + w.key
				reqs = append(reqs, state.GetRequest{Key: key})
				item, err := s.Get(context.Background(), state.GetRequest{Key: key})
				want := w.v1
				if v.version == "v2" {
					want = string(state.EscapeHTML([]byte(w.value)))
				}
				if err != nil || !item.Found || string(item.Data) != want {
					t.Errorf("%s = %s, found %v, %v; want %s", key, item.Data, item.Found, err, want)
				}
				if got := item.Metadata[state.MetadataTTLExpireTime]; (got == "2099-11-22T01:16:34Z") != (w.ttl != "") {
					t.Errorf("%s expires %q", key, got)
				}
				if err := s.Set(context.Background(), state.SetRequest{Key: key, Value: state.Value{Bytes: []byte("1"), JSON: true}, ETag: item.ETag}); err != nil {
					t.Errorf("Set(%q) with its etag: %v", key, err)
				}
			}
			items, err := s.BulkGet(context.Background(), reqs)
			if err != nil || len(items) != len(reqs) || items[len(items)-1].Key != "someapp||number" {
				t.Errorf("BulkGet = %v, %v; want the missing key behind the others", items, err)
			}
			set(t, s, "someapp||after", "1") // the numbering of rows goes on
		})
	}
}

// TestWritesLikeDapr writes the same items and compares tables, indexes and rows.
func TestWritesLikeDapr(t *testing.T) {
	server := servers.Postgres(t)
	theirs := load(t, server.Database())
	url := server.Database()
	for _, v := range versions {
		p := maps.Clone(v.properties)
		p["connectionString"] = url
		s := mustOpen(t, v.version, p)
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
	}
	ours := connect(t, url)
	for _, query := range []string{
		`SELECT table_name, column_name, ordinal_position, data_type, is_nullable, coalesce(column_default, ''), is_identity, coalesce(identity_generation, '')
			FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 3`,
		`SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1`,
		`SELECT * FROM dapr_metadata ORDER BY key`,
		`SELECT * FROM v1_meta ORDER BY key`,
		`SELECT key, value::text, isbinary, updatedate IS NULL, expiredate IS NULL FROM v1_state ORDER BY key`,
		`SELECT key, encode(value, 'hex'), length(etag::text), updated_at IS NULL, expires_at IS NULL FROM v2_state ORDER BY key`,
	} {
		want, got := table(t, theirs, query), table(t, ours, query)
		if !slices.Equal(got, want) {
			t.Errorf("%s\nours:\n%s\ntheirs:\n%s", query, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	s := mustOpen(t, "v1", map[string]string{"connectionString": url, "tableName": "v1_state", "metadataTableName": "v1_meta"})
	defer s.Close()
	if err := s.Set(context.Background(), state.SetRequest{Key: "hi", Value: state.Value{Bytes: []byte("hi")}}); err != nil {
		t.Fatal(err)
	}
	if got := table(t, ours, "SELECT value::text, isbinary FROM v1_state WHERE key = 'hi'"); !slices.Equal(got, []string{`["aGk=" true]`}) {
		t.Errorf("bytes are stored as %v", got)
	}
}

func table(t *testing.T, c *pgx.Conn, query string) (lines []string) {
	t.Helper()
	rows, err := c.Query(context.Background(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprint(values))
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return lines
}

func TestCapabilities(t *testing.T) {
	url := servers.Postgres(t).Database()
	for version, want := range map[string][]string{
		"v1": {"ETAG", "TRANSACTIONAL", "TTL", "QUERY_API", "KEYS_LIKE", "ACTOR"},
		"v2": {"ETAG", "TRANSACTIONAL", "TTL", "KEYS_LIKE", "ACTOR"},
	} {
		s := mustOpen(t, version, map[string]string{"connectionString": url, "tableName": "a", "tablePrefix": "b_", "metadataTableName": "m"})
		defer s.Close()
		if got := state.Capabilities(s); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", version, got, want)
		}
	}
}
