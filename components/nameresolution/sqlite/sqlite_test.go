package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

// logBuffer is a log that tests read.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) has(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.buf.String(), text)
}

type setup struct {
	id, host   string
	port       int
	clock      clockwork.Clock
	log        *logBuffer
	properties map[string]string
	mdns       OpenMDNS
}

func openWith(t testing.TB, file string, s setup) (*Resolver, error) {
	t.Helper()
	var reg components.Registry
	RegisterWith(&reg, s.mdns)
	d, err := reg.Lookup(components.NameResolution, "sqlite", "")
	if err != nil {
		t.Fatal(err)
	}
	properties := map[string]string{"connectionString": file}
	for k, v := range s.properties {
		properties[k] = v
	}
	inst := components.Instance{
		Properties: properties, Clock: s.clock,
		Sidecar: components.Sidecar{AppID: s.id, HostAddress: s.host, InternalPort: s.port},
	}
	if s.log != nil {
		inst.Log = slog.New(slog.NewTextHandler(s.log, nil))
	}
	c, err := d.Open(context.Background(), inst)
	if err != nil {
		return nil, err
	}
	return c.(*Resolver), nil
}

func join(t testing.TB, file string, s setup) *Resolver {
	t.Helper()
	if s.host == "" {
		s.host = "127.0.0.1"
	}
	r, err := openWith(t, file, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func resolve(t testing.TB, r *Resolver, id string) string {
	t.Helper()
	address, err := r.Resolve(t.Context(), nameresolution.Request{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func missing(t *testing.T, r *Resolver, id string) {
	t.Helper()
	address, err := r.Resolve(t.Context(), nameresolution.Request{ID: id})
	if err == nil || err.Error() != "no host found with the given ID" {
		t.Fatalf("got %q, %v", address, err)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatal("timed out: " + what)
		}
		time.Sleep(time.Millisecond)
	}
}

// table returns the rows of a query, columns joined by "|".
func table(t *testing.T, file, query string) []string {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(2000)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var all []string
	for rows.Next() {
		columns, _ := rows.Columns()
		cells := make([]string, len(columns))
		targets := make([]any, len(columns))
		for i := range cells {
			targets[i] = &cells[i]
		}
		if err := rows.Scan(targets...); err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Join(cells, "|"))
	}
	return all
}

func execute(t *testing.T, file, statement string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(2000)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.Exec(statement, args...); err != nil {
		t.Fatal(err)
	}
}

func TestLayout(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts.db")
	clock := clockwork.NewFakeClockAt(time.Unix(1_700_000_000, 999))
	r := join(t, file, setup{id: "app", host: "2001:db8::1", port: 50002, clock: clock})
	if got := table(t, file, `SELECT address, app_id, namespace, last_update, length(registration_id) FROM hosts`); !slices.Equal(got, []string{"[2001:db8::1]:50002|app||1700000000|36"}) {
		t.Errorf("row %q", got)
	}
	if got := table(t, file, `SELECT key, value FROM metadata ORDER BY key`); !slices.Equal(got, []string{"nr-migrations|1"}) {
		t.Errorf("metadata %q", got)
	}
	want := []string{"address|TEXT|1|0", "app_id|TEXT|1|0", "last_update|INTEGER|1|0", "namespace|TEXT|1|0", "registration_id|TEXT|1|1"}
	if got := table(t, file, `SELECT name, type, "notnull", pk FROM pragma_table_info('hosts') ORDER BY name`); !slices.Equal(got, want) {
		t.Errorf("columns %q", got)
	}
	if got := table(t, file, `SELECT name, "unique" FROM pragma_index_list('hosts') WHERE origin = 'c' ORDER BY name`); !slices.Equal(got, []string{"hosts_address_idx|1", "hosts_last_update_idx|0"}) {
		t.Errorf("indexes %q", got)
	}
	if got := table(t, file, `PRAGMA journal_mode`); !slices.Equal(got, []string{"wal"}) {
		t.Errorf("journal mode %q", got)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if got := table(t, file, `SELECT address FROM hosts`); got != nil {
		t.Errorf("after Close: %q", got)
	}
}

// The tables may have been made by a Dapr sidecar, and hold rows of such.
func TestExistingDatabase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts.db")
	now := time.Now().Unix()
	execute(t, file, `CREATE TABLE metadata (key text NOT NULL PRIMARY KEY, value text NOT NULL);
		INSERT INTO metadata VALUES ('nr-migrations', '1');
		CREATE TABLE hosts (registration_id TEXT NOT NULL, address TEXT NOT NULL, app_id TEXT NOT NULL, namespace TEXT NOT NULL, last_update INTEGER NOT NULL, PRIMARY KEY (registration_id));
		CREATE UNIQUE INDEX hosts_address_idx ON hosts (address);
		CREATE INDEX hosts_last_update_idx ON hosts (last_update);
		INSERT INTO hosts VALUES ('x', '127.0.0.1:1', 'dapr-app', '', ?), ('y', '127.0.0.1:2', 'dead-app', '', ?), ('z', '127.0.0.1:3', 'old-me', '', ?)`, now, now-5, now)
	r := join(t, file, setup{id: "me", port: 3})
	if got := resolve(t, r, "dapr-app"); got != "127.0.0.1:1" {
		t.Errorf("got %s", got)
	}
	missing(t, r, "dead-app")
	missing(t, r, "old-me") // its port is ours now
	if got := resolve(t, r, "me"); got != "127.0.0.1:3" {
		t.Errorf("got %s", got)
	}
}

func TestOtherTableNames(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts.db")
	a := join(t, file, setup{id: "app", port: 1})
	b := join(t, file, setup{id: "app", port: 2, properties: map[string]string{"tableName": "others"}})
	if got := resolve(t, a, "app"); got != "127.0.0.1:1" {
		t.Errorf("got %s", got)
	}
	if got := resolve(t, b, "app"); got != "127.0.0.1:2" {
		t.Errorf("got %s", got)
	}
}

func TestTakingTurnsAndForgetting(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts.db")
	clock := clockwork.NewFakeClockAt(time.Unix(1_700_000_000, 0))
	join(t, file, setup{id: "app", port: 1, clock: clock})
	second := join(t, file, setup{id: "app", port: 2, clock: clock})
	r := join(t, file, setup{id: "me", port: 3, clock: clock})
	counts := map[string]int{}
	for range 10 {
		counts[resolve(t, r, "app")]++
	}
	if counts["127.0.0.1:1"] != 5 || counts["127.0.0.1:2"] != 5 {
		t.Errorf("not in turns: %v", counts)
	}
	r.Forget("app", "127.0.0.1:1")
	for range 4 {
		if got := resolve(t, r, "app"); got != "127.0.0.1:2" {
			t.Errorf("got the forgotten %s", got)
		}
	}
	// Without another, the doubtful address is better than none.
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	r.Forget("app", "127.0.0.1:2")
	if got := resolve(t, r, "app"); got != "127.0.0.1:1" {
		t.Errorf("got %s", got)
	}
	// A renewal after the failure restores the trust.
	execute(t, file, `INSERT INTO hosts VALUES ('q', '127.0.0.1:9', 'app', '', 1700000000); UPDATE hosts SET last_update = 1700000001 WHERE app_id = 'app'`)
	clock.Advance(3 * time.Second)
	counts = map[string]int{}
	for range 10 {
		counts[resolve(t, r, "app")]++
	}
	if len(counts) != 2 {
		t.Errorf("a renewed address is still avoided: %v", counts)
	}
}

func TestCache(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts.db")
	clock := clockwork.NewFakeClockAt(time.Unix(1_700_000_000, 0))
	r := join(t, file, setup{id: "me", port: 3, clock: clock})
	execute(t, file, `INSERT INTO hosts VALUES ('x', '127.0.0.1:1', 'app', '', 1700000000)`)
	resolve(t, r, "app")
	execute(t, file, `UPDATE hosts SET address = '127.0.0.1:2' WHERE registration_id = 'x'`)
	clock.Advance(2 * time.Second)
	if got := resolve(t, r, "app"); got != "127.0.0.1:1" {
		t.Errorf("not remembered: got %s", got)
	}
	clock.Advance(500 * time.Millisecond)
	if got := resolve(t, r, "app"); got != "127.0.0.1:2" {
		t.Errorf("remembered for too long: got %s", got)
	}
	// Read at the age of 3 s (2.5 s by the clock, whole seconds in the table), it is valid for another 2 s only.
	clock.Advance(1500 * time.Millisecond)
	resolve(t, r, "app")
	clock.Advance(time.Second)
	missing(t, r, "app")
	r.tidy()
	if len(r.found) != 0 {
		t.Errorf("remembered: %v", r.found)
	}
}

func TestRenewal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts.db")
	clock := clockwork.NewFakeClockAt(time.Unix(1_700_000_000, 0))
	var log logBuffer
	join(t, file, setup{id: "app", port: 1, clock: clock, log: &log})
	updated := func(want string) func() bool {
		return func() bool { return slices.Equal(table(t, file, `SELECT last_update FROM hosts`), []string{want}) }
	}
	round := func() { // the renewal and the cleanup wait
		t.Helper()
		if err := clock.BlockUntilContext(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		clock.Advance(4 * time.Second)
	}
	round()
	eventually(t, "the renewal", updated("1700000004"))
	if log.has("WARN") {
		t.Errorf("log: %s", log.buf.String())
	}
	execute(t, file, `DELETE FROM hosts`)
	round()
	eventually(t, "the new registration", updated("1700000008"))
	eventually(t, "the warning", func() bool { return log.has("was lost and has been made again") })

	// A live sidecar with the same address wins until it goes.
	execute(t, file, `REPLACE INTO hosts VALUES ('x', '127.0.0.1:1', 'thief', '', 1700000012)`)
	round()
	eventually(t, "the warning", func() bool { return log.has("otherAppID=thief") })
	if got := table(t, file, `SELECT app_id FROM hosts`); !slices.Equal(got, []string{"thief"}) {
		t.Errorf("rows %q", got)
	}
	round()
	round()
	eventually(t, "the address to return", func() bool {
		return slices.Equal(table(t, file, `SELECT app_id FROM hosts`), []string{"app"})
	})
}

func TestCleanup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts.db")
	clock := clockwork.NewFakeClockAt(time.Unix(1_700_000_000, 0))
	r := join(t, file, setup{id: "app", port: 1, clock: clock, properties: map[string]string{"cleanupInterval": "0"}})
	insert := func() {
		execute(t, file, `INSERT INTO hosts VALUES ('x', 'h:1', 'dead', '', 1)`)
	}
	dead := func() bool { return len(table(t, file, `SELECT 1 FROM hosts WHERE app_id = 'dead'`)) > 0 }
	r.options.CleanupInterval = time.Hour
	for _, step := range []struct {
		advance time.Duration
		cleans  bool
	}{{0, true}, {59 * time.Minute, false}, {time.Minute, true}} {
		clock.Advance(step.advance)
		if !dead() {
			insert()
		}
		if err := r.clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		if dead() == step.cleans {
			t.Errorf("after %s: dead rows present: %v", step.advance, dead())
		}
	}
	if got := table(t, file, `SELECT value FROM metadata WHERE key = 'nr-last-cleanup'`); !slices.Equal(got, []string{"2023-11-14 23:13:20"}) {
		t.Errorf("note %q", got)
	}
}

func TestMemory(t *testing.T) {
	r := join(t, ":memory:", setup{id: "app", port: 1})
	if got := resolve(t, r, "app"); got != "127.0.0.1:1" {
		t.Errorf("got %s", got)
	}
}

func BenchmarkResolveCold(b *testing.B) {
	r := join(b, filepath.Join(b.TempDir(), "hosts.db"), setup{id: "me", port: 1})
	b.ReportAllocs()
	for b.Loop() {
		r.mu.Lock()
		clear(r.found)
		r.mu.Unlock()
		resolve(b, r, "me")
	}
}

func BenchmarkResolveWarm(b *testing.B) {
	r := join(b, filepath.Join(b.TempDir(), "hosts.db"), setup{id: "me", port: 1})
	b.ReportAllocs()
	for b.Loop() {
		resolve(b, r, "me")
	}
}

// A registration is renewed before it counts as dead, at whatever part of a second it was made, with time to spare.
func TestRenewalLeavesTime(t *testing.T) {
	for _, o := range []Options{
		{UpdateInterval: 5 * time.Second, Timeout: time.Second}, {UpdateInterval: 2 * time.Second, Timeout: time.Second}, {UpdateInterval: 10 * time.Second, Timeout: 3 * time.Second},
	} {
		made := time.Unix(100, 999_000_000)
		dead := time.Unix(made.Unix(), 0).Add(o.UpdateInterval)
		if left := dead.Sub(made.Add(o.renewal())); left < o.UpdateInterval/4 {
			t.Errorf("with an interval of %s and a timeout of %s a renewal has %s left", o.UpdateInterval, o.Timeout, left)
		}
	}
}
