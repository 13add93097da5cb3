package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jonboulle/clockwork"
	"outrigger.dev/components"
	"outrigger.dev/components/state"
	"outrigger.dev/components/state/statetest"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// openStore opens a store the way a resource does.
func openStore(tb testing.TB, properties map[string]string) (*Store, error) {
	tb.Helper()
	return openWithClock(tb, clockwork.NewRealClock(), properties)
}

func openWithClock(tb testing.TB, clock clockwork.Clock, properties map[string]string) (*Store, error) {
	tb.Helper()
	var r components.Registry
	Register(&r)
	d, err := r.Lookup(components.State, "mysql", "")
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

func mustOpen(tb testing.TB, properties map[string]string) *Store {
	tb.Helper()
	s, err := openStore(tb, properties)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// place is an empty database: the properties to open a store in it, and its data source name.
func place(tb testing.TB, server *servers.MariaDBServer) (properties map[string]string, dsn string) {
	tb.Helper()
	dsn = server.Database()
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	schema := config.DBName
	config.DBName = ""
	return map[string]string{"connectionString": config.FormatDSN(), "schemaName": schema}, dsn
}

// connect opens the database, to look behind the store's back.
func connect(tb testing.TB, dsn string) *sql.DB {
	tb.Helper()
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	config.MultiStatements = true
	connector, err := mysql.NewConnector(config)
	if err != nil {
		tb.Fatal(err)
	}
	db := sql.OpenDB(connector)
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

func exec(tb testing.TB, db *sql.DB, statement string) {
	tb.Helper()
	if _, err := db.Exec(statement); err != nil {
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
	p, _ := place(t, servers.MariaDB(t))
	open := func(t *testing.T) state.Store { return mustOpen(t, p) }
	statetest.Run(t, statetest.Config{FoldsKeys: true, Reopen: open}, open)
}

func TestOptions(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	const dsn = "user:se/cret@tcp(127.0.0.1:1)/"
	for _, tc := range []struct {
		name       string
		properties map[string]string
		err        string
	}{
		{"nothing", nil, `"connectionString" is required`},
		{"nonsense", map[string]string{"connectionString": "user@tcp(localhost:3306/"}, "is not a data source name"},
		{"database", map[string]string{"connectionString": dsn + "db?a=b"}, `names the database "db"`},
		{"schema", map[string]string{"connectionString": dsn, "schemaName": "a`b"}, `"schemaName"`},
		{"table", map[string]string{"connectionString": dsn, "tableName": "a b"}, `"tableName"`},
		{"metadata table", map[string]string{"connectionString": dsn, "metadataTableName": "a;"}, `"metadataTableName"`},
		{"timeout", map[string]string{"connectionString": dsn, "timeoutInSeconds": "-1"}, `"timeoutInSeconds" is -1s`},
		{"no pem", map[string]string{"connectionString": dsn + "?tls=custom"}, `needs "pemPath"`},
		{"pem missing", map[string]string{"connectionString": dsn, "pemPath": empty + "x"}, `"pemPath"`},
		{"pem empty", map[string]string{"connectionString": dsn, "pemPath": empty}, "has no certificate"},
		{"no server", map[string]string{"connectionString": dsn}, "127.0.0.1:1, database \"dapr_state_store\": cannot connect"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := openStore(t, tc.properties)
			if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "se/cret") {
				t.Errorf("error %v, want one with %q", err, tc.err)
			}
		})
	}
	o := Options{ConnectionString: "u:p@tcp([::1]:33)", SchemaName: "s", TableName: "t", MetadataTableName: "m"}
	if config, err := o.config(slog.New(slog.DiscardHandler)); err != nil || config.Addr != "[::1]:33" {
		t.Errorf("a connection string without a slash: %+v, %v", config, err)
	}
}

func TestLongKey(t *testing.T) {
	p, _ := place(t, servers.MariaDB(t))
	s := mustOpen(t, p)
	defer s.Close()
	fits := strings.Repeat("ž", 255)
	set(t, s, fits, "1")
	if got := get(t, s, fits); got != "1" {
		t.Errorf("a key of 255 characters reads %q", got)
	}
	err := s.Set(context.Background(), state.SetRequest{Key: fits + "x", Value: state.Value{Bytes: []byte("1"), JSON: true}})
	if err == nil || !strings.Contains(err.Error(), "has 256 characters") {
		t.Errorf("Set of a key of 256 characters = %v", err)
	}
}

func TestFoldedBulkGet(t *testing.T) {
	p, _ := place(t, servers.MariaDB(t))
	s := mustOpen(t, p)
	defer s.Close()
	set(t, s, "Key", "1")
	items, err := s.BulkGet(context.Background(), []state.GetRequest{{Key: "key"}, {Key: "other"}})
	if err != nil || len(items) != 2 || items[0].Key != "key" || string(items[0].Data) != "1" || items[1].Key != "other" || items[1].Found {
		t.Errorf("BulkGet = %+v, %v", items, err)
	}
}

func TestLikePattern(t *testing.T) {
	for in, want := range map[string]string{`a%_`: `a%_`, `50\%\_\\\!!`: `50!%!_\!!!!`, `\a`: `a`, `end\`: `end\`, ``: ``} {
		if got := likePattern(in); got != want {
			t.Errorf("likePattern(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestStartTogether(t *testing.T) {
	p, dsn := place(t, servers.MariaDB(t))
	exec(t, connect(t, dsn), "DROP DATABASE "+p["schemaName"])
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			s, err := openStore(t, p)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			set(t, s, fmt.Sprint("k", i), "1")
		})
	}
	all.Wait()
	var n int
	if err := connect(t, dsn).QueryRow("SELECT count(*) FROM state").Scan(&n); err != nil || n != 8 {
		t.Errorf("%d rows, %v", n, err)
	}
}

// TestOldTable brings a table of an older layout up to date, from several stores at once.
func TestOldTable(t *testing.T) {
	p, dsn := place(t, servers.MariaDB(t))
	db := connect(t, dsn)
	exec(t, db, "CREATE TABLE state (id VARCHAR(255) NOT NULL PRIMARY KEY, value JSON NOT NULL, isbinary BOOLEAN NOT NULL, insertDate TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, updateDate TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, eTag VARCHAR(36) NOT NULL)")
	exec(t, db, "INSERT INTO state (id, value, isbinary, eTag) VALUES ('old', '1', 0, 'e')")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			s, err := openStore(t, p)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if got := get(t, s, "old"); got != "1" {
				t.Errorf("old = %q", got)
			}
		})
	}
	all.Wait()
	s := mustOpen(t, p)
	defer s.Close()
	if err := s.Set(context.Background(), state.SetRequest{Key: "new", Value: state.Value{Bytes: []byte("x")}, Metadata: map[string]string{"ttlInSeconds": "100"}}); err != nil {
		t.Fatal(err)
	}
	if keys, _, err := s.KeysLike(context.Background(), "%", "", 0); err != nil || !slices.Equal(keys, []string{"old", "new"}) {
		t.Errorf("keys %v, %v", keys, err)
	}
}

func TestRestart(t *testing.T) {
	server := servers.MariaDB(t, servers.Own(), servers.Durable())
	p, _ := place(t, server)
	p["timeoutInSeconds"] = "5"
	s := mustOpen(t, p)
	defer s.Close()
	var all sync.WaitGroup
	for i := range 20 {
		set(t, s, fmt.Sprint("k", i), "1")
	}
	for i := range 20 { // several connections, all of which will be dead
		all.Go(func() { get(t, s, fmt.Sprint("k", i)) })
	}
	all.Wait()
	server.Kill()
	if _, err := s.Get(context.Background(), state.GetRequest{Key: "k1"}); err == nil || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("Get without a server = %v, want an error with its address", err)
	}
	_, err := openStore(t, p)
	if err == nil || !strings.Contains(err.Error(), "check that the server runs") || strings.Contains(err.Error(), server.Password) {
		t.Errorf("opening without a server = %v, want an error with a remedy and without the password", err)
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
	p, dsn := place(t, servers.MariaDB(t))
	p["cleanupInterval"] = "10m"
	clock := clockwork.NewFakeClock()
	s, err := openWithClock(t, clock, p)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db := connect(t, dsn)
	fill := func() {
		for i := range 3 {
			if err := s.Set(context.Background(), state.SetRequest{Key: fmt.Sprint("k", i), Metadata: map[string]string{"ttlInSeconds": "100"}}); err != nil {
				t.Fatal(err)
			}
		}
		exec(t, db, "UPDATE state SET expiredate = CURRENT_TIMESTAMP - INTERVAL 1 SECOND WHERE id <> 'k0'")
	}
	rows := func() (n int) {
		if err := db.QueryRow("SELECT count(*) FROM state").Scan(&n); err != nil {
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
	exec(t, db, "UPDATE dapr_metadata SET value = CURRENT_TIMESTAMP - INTERVAL 10 MINUTE WHERE id = 'last-cleanup'")
	if n, err := s.collect(context.Background()); err != nil || n != 2 {
		t.Errorf("a clean-up after the interval removed %d rows, %v; want 2", n, err)
	}
}

// written are the items of the database in testdata, which a Dapr sidecar wrote.
var written = []struct{ key, value, ttl string }{
	{"twice", `1`, ""},
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

// load makes a database of the dump in testdata, whose item that expires does so late.
func load(t *testing.T, schema, dsn string) *sql.DB {
	t.Helper()
	text, err := os.ReadFile("testdata/dapr.sql")
	if err != nil {
		t.Fatal(err)
	}
	// The names of the database are those of the test; LOCK TABLES would keep the rest of the test out.
	statements := regexp.MustCompile("(?m)^(CREATE DATABASE|USE|LOCK TABLES|UNLOCK TABLES).*$").ReplaceAllString(string(text), "")
	db := connect(t, dsn)
	exec(t, db, statements)
	exec(t, db, "SET time_zone = '+00:00'; UPDATE "+schema+".state SET expiredate = '2037-11-22 01:16:34' WHERE expiredate IS NOT NULL")
	return db
}

func TestReadsDapr(t *testing.T) {
	p, dsn := place(t, servers.MariaDB(t))
	load(t, p["schemaName"], dsn)
	s := mustOpen(t, p)
	defer s.Close()
	reqs := []state.GetRequest{{Key: "someapp||number"}}
	for _, w := range written[1:] {
		key := "someapp||" + w.key
		reqs = append(reqs, state.GetRequest{Key: key})
		item, err := s.Get(context.Background(), state.GetRequest{Key: key})
		if want := string(state.EscapeHTML([]byte(w.value))); err != nil || !item.Found || string(item.Data) != want {
			t.Errorf("%s = %s, found %v, %v; want %s", key, item.Data, item.Found, err, want)
		}
		if got := item.Metadata[state.MetadataTTLExpireTime]; (got == "2037-11-22T01:16:34Z") != (w.ttl != "") {
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
}

// TestWritesLikeDapr writes the same items and compares tables, indexes and rows.
func TestWritesLikeDapr(t *testing.T) {
	server := servers.MariaDB(t)
	q, dsn := place(t, server)
	theirs := load(t, q["schemaName"], dsn)
	p, dsn := place(t, server)
	s := mustOpen(t, p)
	defer s.Close()
	ours := connect(t, dsn)
	for _, w := range written {
		req := state.SetRequest{Key: "someapp||" + w.key, Value: state.Value{Bytes: []byte(w.value), JSON: true}}
		if w.ttl != "" {
			req.Metadata = map[string]string{"ttlInSeconds": w.ttl}
		}
		if err := s.Set(context.Background(), req); err != nil {
			t.Fatal(err)
		}
	}
	for _, query := range []string{
		`SELECT COLUMN_NAME, ORDINAL_POSITION, COLUMN_TYPE, IS_NULLABLE, coalesce(COLUMN_DEFAULT, ''), EXTRA, COLUMN_KEY FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = database() AND TABLE_NAME = 'state' ORDER BY 2`,
		`SELECT COLUMN_NAME, ORDINAL_POSITION, COLUMN_TYPE, IS_NULLABLE, COLUMN_KEY FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = database() AND TABLE_NAME = 'dapr_metadata' ORDER BY 2`,
		`SELECT INDEX_NAME, COLUMN_NAME, NON_UNIQUE FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = database() ORDER BY 1, 2, 3`,
		`SELECT * FROM dapr_metadata ORDER BY id`,
		`SELECT id, value, isbinary, length(eTag), expiredate IS NULL FROM state ORDER BY id`,
	} {
		want, got := table(t, theirs, query), table(t, ours, query)
		if !slices.Equal(got, want) {
			t.Errorf("%s\nours:\n%s\ntheirs:\n%s", query, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if err := s.Set(context.Background(), state.SetRequest{Key: "hi", Value: state.Value{Bytes: []byte("hi")}}); err != nil {
		t.Fatal(err)
	}
	if got := table(t, ours, "SELECT value, isbinary FROM state WHERE id = 'hi'"); !slices.Equal(got, []string{`"aGk=",1,`}) {
		t.Errorf("bytes are stored as %v", got)
	}
}

func table(t *testing.T, db *sql.DB, query string) (lines []string) {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values := make([]sql.RawBytes, len(names))
		dest := make([]any, len(names))
		for i := range values {
			dest[i] = &values[i]
		}
		if err := rows.Scan(dest...); err != nil {
			t.Fatal(err)
		}
		line := ""
		for _, v := range values {
			line += string(v) + ","
		}
		lines = append(lines, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}
