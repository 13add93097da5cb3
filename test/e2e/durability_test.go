package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"outrigger.dev/test/servers"
)

// writers save items over HTTP until told to stop, and remember which ones were acknowledged.
type writers struct {
	group sync.WaitGroup
	end   chan struct{}

	mu    sync.Mutex
	acked map[string]string
}

// startWriters writes new keys, and the same key again and again.
func startWriters(d *daprd) *writers {
	w := &writers{end: make(chan struct{}), acked: map[string]string{}}
	for n := range 4 {
		w.group.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: limit}
			defer client.CloseIdleConnections()
			for i := 0; ; i++ {
				select {
				case <-w.end:
					return
				default:
				}
				key, again, value := fmt.Sprintf("k-%d-%d", n, i), fmt.Sprintf("again-%d", n), fmt.Sprint(i)
				body := fmt.Sprintf(`[{"key":%q,"value":%s},{"key":%q,"value":%s}]`, key, value, again, value)
				if r, err := request(client, "POST", d.url+"/v1.0/state/st", strings.NewReader(body)); err == nil && r.status == 204 {
					w.mu.Lock()
					w.acked[key], w.acked[again] = value, value
					w.mu.Unlock()
				} else if err != nil {
					return // the sidecar is gone
				}
			}
		})
	}
	return w
}

func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

func (w *writers) stop() {
	close(w.end)
	w.group.Wait()
}

// check expects everything that was acknowledged; of a key written again and again the last value or a later one, for a write
// may have arrived whose answer did not.
func (w *writers) check(d *daprd) {
	d.t.Helper()
	lost := 0
	for key, want := range w.acked {
		r := d.get("/v1.0/state/st/" + key)
		var got, least int
		_, _ = fmt.Sscan(want, &least)
		_, err := fmt.Sscan(r.body, &got)
		if r.status != 200 || err != nil || got != least && !(strings.HasPrefix(key, "again-") && got > least) {
			if lost++; lost < 5 {
				d.t.Errorf("%s was acknowledged as %s and is %d %q", key, want, r.status, r.body)
			}
		}
	}
	d.t.Logf("%d of %d acknowledged items are lost", lost, len(w.acked))
}

const enough = 100 // acknowledged items before the kill

// Killing the sidecar in the middle of writes loses nothing that it acknowledged.
func TestKilledSidecarLosesNothing(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(t *testing.T) string{
		"sqlite": func(t *testing.T) string {
			return component("st", "state.sqlite", "connectionString", filepath.Join(t.TempDir(), "state.db"))
		},
		"redis": func(t *testing.T) string {
			return component("st", "state.redis", "redisHost", servers.Redis(t, servers.Own()).Addr)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			yaml := resources(store(t))
			for round := range 3 {
				d := start(t, yaml)
				w := startWriters(d)
				d.await("some writes", func() bool { return w.count() > enough*(round+1) })
				d.signal(syscall.SIGKILL)
				d.exit()
				w.stop()
				again := start(t, yaml)
				w.check(again)
				again.stop()
			}
		})
	}
}

// Killing the server under the sidecar loses nothing that was acknowledged, and the sidecar goes on once the server is back.
func TestKilledServerLosesNothing(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) (*servers.Server, string){
		"redis": func(t *testing.T) (*servers.Server, string) {
			s := servers.Redis(t, servers.Own(), servers.Durable())
			return &s.Server, component("st", "state.redis", "redisHost", s.Addr)
		},
		"postgresql": func(t *testing.T) (*servers.Server, string) {
			s := servers.Postgres(t, servers.Own(), servers.Durable())
			return &s.Server, component("st", "state.postgresql", "connectionString", s.ConnectionString())
		},
		"mysql": func(t *testing.T) (*servers.Server, string) {
			s := servers.MariaDB(t, servers.Own(), servers.Durable())
			return &s.Server, component("st", "state.mysql", "connectionString", strings.Replace(s.ConnectionString(), "/outrigger", "/", 1), "schemaName", "outrigger")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, yaml := open(t)
			d := start(t, resources(yaml))
			w := startWriters(d)
			d.await("some writes", func() bool { return w.count() > enough })
			server.Kill()
			server.Start()
			before := w.count()
			d.await("writes to work again", func() bool { return w.count() > before })
			w.stop()
			w.check(d)
			d.stop()
		})
	}
}
