package sqlite

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Several sidecars start at once in several processes and all find all.
func TestProcesses(t *testing.T) {
	if file := os.Getenv("OUTRIGGER_TEST_SQLITE_CHILD"); file != "" {
		child(t, file)
		return
	}
	file := filepath.Join(t.TempDir(), "hosts.db")
	const children = 3
	var wg sync.WaitGroup
	for range children {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcesses$", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), "OUTRIGGER_TEST_SQLITE_CHILD="+file)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("child: %v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	if got := table(t, file, `SELECT address FROM hosts WHERE app_id <> 'done'`); got != nil {
		t.Errorf("left behind: %q", got)
	}
}

// child opens sidecars of the app "crowd" and ends when everybody has seen everybody.
func child(t *testing.T, file string) {
	const each, processes = 4, 3
	base := os.Getpid() % 10000 * each
	var wg sync.WaitGroup
	for i := range each {
		wg.Go(func() {
			r, err := openWith(t, file, setup{id: "crowd", host: "127.0.0.1", port: 1 + base + i})
			if err != nil {
				t.Error(err)
				return
			}
			eventually(t, "the crowd", func() bool {
				r.mu.Lock()
				clear(r.found)
				r.mu.Unlock()
				resolve(t, r, "crowd")
				r.mu.RLock()
				defer r.mu.RUnlock()
				h := r.found["crowd"]
				return h != nil && len(h.addresses) == each*processes
			})
			// Stay until all have seen all, which each notes under an address of its own.
			if _, err := r.handle.Load().db.Exec(`INSERT INTO hosts VALUES (?, ?, 'done', '', 1)`, r.row.id+"-done", "done-"+r.row.id); err != nil {
				t.Error(err)
			}
			eventually(t, "the others", func() bool {
				var n int
				return r.handle.Load().db.QueryRow(`SELECT count(*) FROM hosts WHERE app_id = 'done'`).Scan(&n) == nil && n == each*processes
			})
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
