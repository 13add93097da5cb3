package sqlite

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components/nameresolution"
)

// TestFileReplaced deletes the database under sidecars that run, as uninstalling does.
func TestFileReplaced(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "hosts.db")
	clock := clockwork.NewFakeClockAt(time.Unix(1_700_000_000, 0))
	var log logBuffer
	one := join(t, file, setup{id: "one", port: 1, clock: clock, log: &log})
	two := join(t, file, setup{id: "two", port: 2, clock: clock})
	if got := resolve(t, one, "two"); got != "127.0.0.1:2" {
		t.Fatal(got)
	}
	remove := func() {
		t.Helper()
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.Remove(file + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	round := func() { // renewals and cleanups wait
		t.Helper()
		if err := clock.BlockUntilContext(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		clock.Advance(4 * time.Second)
	}
	remove()
	round()
	eventually(t, "both are in the new file", func() bool {
		_, err := os.Stat(file)
		return err == nil && len(table(t, file, `SELECT 1 FROM sqlite_master WHERE name = 'hosts'`)) == 1 &&
			slices.Equal(table(t, file, `SELECT app_id FROM hosts ORDER BY app_id`), []string{"one", "two"})
	})
	if !log.has("was deleted or replaced") {
		t.Errorf("log: %s", log.buf.String())
	}
	late := join(t, file, setup{id: "late", port: 3, clock: clock})
	for _, r := range []*Resolver{one, two, late} {
		for id, want := range map[string]string{"one": "127.0.0.1:1", "two": "127.0.0.1:2", "late": "127.0.0.1:3"} {
			if got := resolve(t, r, id); got != want {
				t.Errorf("%s: %s", id, got)
			}
		}
	}
}

func TestFolderGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sub")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	clock := clockwork.NewFakeClock()
	var log logBuffer
	r := join(t, filepath.Join(dir, "hosts.db"), setup{id: "app", port: 1, clock: clock, log: &log, properties: map[string]string{"cleanupInterval": "0"}})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	clock.Advance(4 * time.Second)
	eventually(t, "the warning", func() bool { return log.has("is gone and cannot be made again") })
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	clock.Advance(4 * time.Second)
	eventually(t, "it is registered again", func() bool {
		_, err := os.Stat(filepath.Join(dir, "hosts.db"))
		return err == nil && log.has("was deleted or replaced") && log.has("has been made again")
	})
	if got := resolve(t, r, "app"); got != "127.0.0.1:1" {
		t.Error(got)
	}
}

// TestCallerGivesUp has a reader wait for a connection that somebody holds.
func TestCallerGivesUp(t *testing.T) {
	r := join(t, filepath.Join(t.TempDir(), "hosts.db"), setup{id: "app", port: 1})
	db := r.handle.Load().db
	for range db.Stats().MaxOpenConnections {
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(20*time.Millisecond, cancel).Stop()
	// The resolver's own bound would be a deadline.
	if _, err := r.Resolve(ctx, nameresolution.Request{ID: "app"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts.db")
	before := runtime.NumGoroutine()
	for range 5 {
		r, err := openWith(t, file, setup{id: "app", host: "127.0.0.1", port: 1})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		for range 10 {
			go func() {
				_, _ = r.Resolve(context.Background(), nameresolution.Request{ID: "app"})
				done <- struct{}{}
			}()
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
		for range 10 {
			<-done
		}
		if _, err := r.Resolve(context.Background(), nameresolution.Request{ID: "other"}); !errors.Is(err, errClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	eventually(t, "all goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}
