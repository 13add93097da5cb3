package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"outrigger.dev/components"
	"outrigger.dev/components/state"
	"outrigger.dev/components/state/statetest"
)

// openStore opens a store the way a resource does.
func openStore(tb testing.TB, properties map[string]string) (*Store, error) {
	tb.Helper()
	return openWithClock(tb, clockwork.NewRealClock(), properties)
}

func openWithClock(tb testing.TB, clock clockwork.Clock, properties map[string]string) (*Store, error) {
	tb.Helper()
	var r components.Registry
	Register(&r)
	d, err := r.Lookup(components.State, "sqlite3", "")
	if err != nil {
		tb.Fatal(err)
	}
	c, err := d.Open(context.Background(), components.Instance{Name: "st", Properties: properties, Clock: clock, Log: slog.New(slog.DiscardHandler)})
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

// temporary opens a store on a new file, which is closed with the test.
func temporary(tb testing.TB) (s *Store, path string) {
	tb.Helper()
	path = filepath.Join(tb.TempDir(), "data.db")
	s = mustOpen(tb, map[string]string{"connectionString": path})
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return s, path
}

// database opens the file with database/sql, to look behind the store's back.
func database(tb testing.TB, path string) *sql.DB {
	tb.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		tb.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	tb.Cleanup(func() { _ = db.Close() })
	return db
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
	for name, properties := range map[string]map[string]string{
		"wal":      {"connectionString": "data.db"},
		"journal":  {"connectionString": "file:data.db", "disableWAL": "true", "busyTimeout": "10s"},
		"deferred": {"url": "data.db?_txlock=deferred", "tableName": "T1", "metadataTableName": "m_2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := map[string]string{}
			for k, v := range properties {
				p[k] = strings.Replace(v, "data.db", filepath.Join(dir, "data.db"), 1)
			}
			open := func(t *testing.T) state.Store { return mustOpen(t, p) }
			statetest.Run(t, statetest.Config{Reopen: open}, open)
		})
	}
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		statetest.Run(t, statetest.Config{}, func(t *testing.T) state.Store {
			return mustOpen(t, map[string]string{"connectionString": "file:conformance?mode=memory"})
		})
	})
}

func TestLikeAsGlob(t *testing.T) {
	for like, want := range map[string]string{
		"":               "",
		"app||%":         "app||*",
		"a_c":            "a?c",
		`50\%\_\\`:       `50%_\`,
		"a*b?c[d]":       "a[*]b[?]c[[]d]",
		`\*%`:            "[*]*",
		`end\`:           `end\`,
		"ž_%":            "ž?*",
		`a||dapr.x||%\_`: "a||dapr.x||*_",
	} {
		if got := glob(like); got != want {
			t.Errorf("glob(%q) = %q, want %q", like, got, want)
		}
	}
}

// TestStartTogether opens one new database from many stores at once.
func TestStartTogether(t *testing.T) {
	for _, wal := range []string{"false", "true"} {
		path := filepath.Join(t.TempDir(), "data.db")
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				s, err := openStore(t, map[string]string{"connectionString": path, "disableWAL": wal, "busyTimeout": "20s"})
				if err != nil {
					t.Errorf("disableWAL %s: %v", wal, err)
					return
				}
				set(t, s, fmt.Sprint("k", i), "1")
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		var level string
		if err := database(t, path).QueryRow("SELECT value FROM metadata WHERE key = 'migrations'").Scan(&level); err != nil || level != "1" {
			t.Errorf("migrations = %q, %v", level, err)
		}
	}
}

// TestSharedFile has two stores write to one file as fast as they can: neither may starve or fail.
func TestSharedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.db")
	const writers, writes = 4, 50
	var all sync.WaitGroup
	for i := range 2 {
		s := mustOpen(t, map[string]string{"connectionString": path, "busyTimeout": "20s"})
		defer s.Close()
		for w := range writers {
			all.Go(func() {
				for n := range writes {
					set(t, s, fmt.Sprintf("%d-%d-%d", i, w, n), "1")
				}
			})
		}
	}
	all.Wait()
	var n int
	if err := database(t, path).QueryRow("SELECT count(*) FROM state").Scan(&n); err != nil || n != 2*writers*writes {
		t.Errorf("%d rows, %v; want %d", n, err, 2*writers*writes)
	}
}

// TestLocked holds the lock for longer than the store waits, and then lets go.
func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.db")
	s := mustOpen(t, map[string]string{"connectionString": path, "busyTimeout": "30ms"})
	defer s.Close()
	tx, err := database(t, path).Begin()
	if err != nil {
		t.Fatal(err)
	}
	req := state.SetRequest{Key: "k", Value: state.Value{Bytes: []byte("1"), JSON: true}}
	if err := s.Set(context.Background(), req); err == nil || !strings.Contains(err.Error(), "busyTimeout of 30ms") {
		t.Errorf("Set of a locked database = %v, want an error that names the busyTimeout", err)
	}
	if err := s.Transact(context.Background(), state.TransactionRequest{Operations: []state.Operation{{Set: &req}, {Delete: &state.DeleteRequest{Key: "x"}}}}); err == nil {
		t.Error("Transact of a locked database succeeded")
	}
	if got := get(t, s, "k"); got != "" { // readers do not wait
		t.Errorf("Get = %q", got)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	set(t, s, "k", "2")
	if got := get(t, s, "k"); got != "2" {
		t.Errorf("Get = %q", got)
	}
}

// TestGroupApart checks that a write which fails in a group does not take others with it.
func TestGroupApart(t *testing.T) {
	s, path := temporary(t)
	if _, err := database(t, path).Exec(`CREATE TRIGGER bad BEFORE INSERT ON state WHEN NEW.key = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'bad key'); END`); err != nil {
		t.Fatal(err)
	}
	set(t, s, "old", "0")
	one := func(key, etag string) step {
		st, err := s.set(&state.SetRequest{Key: key, Value: state.Value{Bytes: []byte("1"), JSON: true}, ETag: etag})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	w := newWriter(s, nil) // a second one, without its loop
	defer func() { _ = w.conn.close() }()
	group := []*write{
		w.one(one("a", "")), w.one(one("bad", "")), w.many([]step{one("b", ""), one("old", "wrong")}),
		w.one(one("old", "wrong")), w.many([]step{one("c", ""), one("d", "")}), w.many([]step{one("e", ""), one("bad", "")}),
	}
	for _, bad := range []bool{true, false} {
		if !bad { // a group in which only etags are wrong stays one transaction
			group = slices.Delete(group, 5, 6)
			group = slices.Delete(group, 1, 2)
		}
		w.group, w.errs = group, make([]error, len(group))
		w.commit()
		var got []string
		for _, err := range w.errs {
			_, mismatch := state.AsETagError(err)
			switch {
			case err == nil:
				got = append(got, "ok")
			case mismatch:
				got = append(got, "etag")
			default:
				got = append(got, "bad")
			}
		}
		want := []string{"ok", "etag", "etag", "ok"}
		if bad {
			want = []string{"ok", "bad", "etag", "etag", "ok", "bad"}
		}
		if !slices.Equal(got, want) {
			t.Errorf("outcomes %v, want %v (%v)", got, want, w.errs)
		}
		for key, value := range map[string]string{"a": "1", "b": "", "c": "1", "d": "1", "e": "", "bad": "", "old": "0"} {
			if got := get(t, s, key); got != value {
				t.Errorf("%s = %q, want %q", key, got, value)
			}
		}
	}
}

// TestAbandoned checks that a write whose caller left before it was begun is not done.
func TestAbandoned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.db")
	s := mustOpen(t, map[string]string{"connectionString": path, "busyTimeout": "20s"})
	defer s.Close()
	tx, err := database(t, path).Begin()
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan error, 1)
	go func() {
		first <- s.Set(context.Background(), state.SetRequest{Key: "first", Value: state.Value{Bytes: []byte("1"), JSON: true}})
	}()
	for s.writer.began.Load() == 0 { // the loop has the first write, and now waits for the lock
		runtime.Gosched()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Set(ctx, state.SetRequest{Key: "second", Value: state.Value{Bytes: []byte("1"), JSON: true}}); err != context.DeadlineExceeded {
		t.Errorf("Set = %v, want the context's error", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	set(t, s, "third", "1")
	if got := get(t, s, "second"); got != "" {
		t.Errorf("the abandoned write was done: %q", got)
	}
}

// TestTimeout checks that a write does not wait for its turn for longer than the timeout.
func TestTimeout(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.db")
	s := mustOpen(t, map[string]string{"connectionString": path, "busyTimeout": "20s", "timeout": "1s"})
	defer s.Close()
	tx, err := database(t, path).Begin()
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan error, 1)
	go func() {
		first <- s.Set(context.Background(), state.SetRequest{Key: "first", Value: state.Value{Bytes: []byte("1"), JSON: true}})
	}()
	for s.writer.began.Load() == 0 {
		runtime.Gosched()
	}
	err = s.Set(context.Background(), state.SetRequest{Key: "second", Value: state.Value{Bytes: []byte("1"), JSON: true}})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "timeout of 1s") {
		t.Errorf("Set = %v, want an error that names the timeout", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err != nil {
		t.Errorf("the write that had begun: %v", err)
	}
}

func TestCleanup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.db")
	db := database(t, path)
	clock := clockwork.NewFakeClock()
	s, err := openWithClock(t, clock, map[string]string{"connectionString": path, "cleanupInterval": "10m"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fill := func() {
		for i := range 3 {
			if err := s.Set(context.Background(), state.SetRequest{Key: fmt.Sprint("k", i), Metadata: map[string]string{"ttlInSeconds": "100"}}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := db.Exec("UPDATE state SET expiration_time = datetime('now', '-1 second') WHERE key <> 'k0'"); err != nil {
			t.Fatal(err)
		}
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
	var last string
	if err := db.QueryRow("SELECT value FROM metadata WHERE key = 'last-cleanup'").Scan(&last); err != nil {
		t.Fatal(err)
	}
	if at, err := time.Parse(time.DateTime, last); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("last-cleanup = %q, %v", last, err)
	}
	fill()
	if n, err := s.collect(context.Background()); err != nil || n != 0 || rows() != 3 {
		t.Errorf("a second clean-up within the interval removed %d rows, %v", n, err)
	}
	if _, err := db.Exec("UPDATE metadata SET value = datetime('now', '-11 minutes') WHERE key = 'last-cleanup'"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.collect(context.Background()); err != nil || n != 2 {
		t.Errorf("a clean-up after the interval removed %d rows, %v; want 2", n, err)
	}
}

func TestStartIsFast(t *testing.T) {
	best := time.Hour
	for range 5 {
		start := time.Now()
		s := mustOpen(t, map[string]string{"connectionString": filepath.Join(t.TempDir(), "data.db")})
		best = min(best, time.Since(start))
		_ = s.Close()
	}
	t.Logf("opened a new database in %s", best)
	if best > 250*time.Millisecond { // a budget of 10 ms, with room for a busy machine
		t.Errorf("opening a new database took %s", best)
	}
}

func TestMain(m *testing.M) {
	if path := os.Getenv(childDatabase); path != "" {
		writeForever(path)
		return
	}
	os.Exit(m.Run())
}
