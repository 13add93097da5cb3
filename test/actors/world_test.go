// Package actors_test has actors, reminders and jobs end to end: sidecars with their apps, the placement service and the scheduler, all in one
// process and on loopback; and what Dapr has left behind in a scheduler and in a state store.
package actors_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/controlplane/placement"
	"outrigger.dev/controlplane/scheduler"
	"outrigger.dev/controlplane/scheduler/etcd"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
	"outrigger.dev/telemetry/logging"
	"outrigger.dev/test/servers"
)

// patience bounds waiting for what must happen.
const patience = 30 * time.Second

// startPlacement runs a placement service until the test ends, and returns its address.
func startPlacement(t testing.TB) string {
	t.Helper()
	started := make(chan placement.Addresses, 1)
	// A service that starts with its sidecars has none to gather first.
	o := placement.Options{Listen: placement.Address{Host: "127.0.0.1"}, RejoinWindow: -1, Started: func(a placement.Addresses) { started <- a }}
	o.Observed.Healthz = placement.Address{Host: "127.0.0.1"}
	stop := background(t, "placement", nil, func(ctx context.Context) error { return placement.Run(ctx, o) })
	t.Cleanup(stop)
	return wait(t, started, "the start of placement").GRPC.String()
}

// embedded is an etcd in a directory, for the scheduler or for who fills it.
func embedded(t testing.TB, dir string) *etcd.Embedded {
	e := &etcd.Embedded{
		InitialCluster: fmt.Sprintf("%s=http://127.0.0.1:%d", scheduler.DefaultID, servers.FreePort(t)), DataDir: dir, Namespace: "default",
		ClientListenAddress: "127.0.0.1", ClientPort: servers.FreePort(t), InitialElectionTickAdvance: true,
	}
	e.Defaults()
	return e
}

// startScheduler runs a scheduler on a directory until the test ends or stop is called, and returns its address.
func startScheduler(t testing.TB, dir string) (address string, stop func()) {
	t.Helper()
	started := make(chan scheduler.Addresses, 1)
	log := &sidecartest.Log{}
	o := scheduler.Options{
		Listen: scheduler.Address{Host: "127.0.0.1"}, Embedded: embedded(t, dir), Log: logging.New(logging.Options{Level: slog.LevelDebug, Out: log}),
		Started: func(a scheduler.Addresses) { started <- a },
	}
	o.Observed.Healthz = scheduler.Address{Host: "127.0.0.1"}
	stop = background(t, "the scheduler", log, func(ctx context.Context) error { return scheduler.Run(ctx, o) })
	t.Cleanup(stop)
	return wait(t, started, "the start of the scheduler").GRPC.String(), stop
}

// background runs a service until stop is called, and fails the test when it ends before, or with an error.
func background(t testing.TB, name string, log *sidecartest.Log, run func(ctx context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := run(ctx)
		if err != nil || ctx.Err() == nil {
			t.Errorf("%s ended: %v", name, err)
		}
	}()
	return sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Errorf("%s did not end within %s", name, patience)
		}
		if log != nil && t.Failed() {
			t.Logf("the log of %s:\n%s", name, log)
		}
	})
}

// wait waits for a channel.
func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %s in vain for %s", patience, what)
		panic("unreachable")
	}
}

// waitFor waits until a condition holds.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
	}
}

// world is placement and a scheduler, a state store and the network of the sidecars.
type world struct {
	t                    testing.TB
	appID                string
	placement, scheduler string
	network              *sidecartest.Network
	database             string
	// stopScheduler ends the scheduler before the test does.
	stopScheduler func()
}

// newWorld starts the services for sidecars of one app.
func newWorld(t testing.TB, appID string) *world {
	t.Helper()
	return newWorldOn(t, appID, t.TempDir())
}

// newWorldOn starts the services for sidecars of one app, with a scheduler on a directory that may have jobs already.
func newWorldOn(t testing.TB, appID, dir string) *world {
	t.Helper()
	w := &world{t: t, appID: appID, placement: startPlacement(t), network: sidecartest.NewNetwork(), database: filepath.Join(t.TempDir(), "actors.db")}
	w.scheduler, w.stopScheduler = startScheduler(t, dir)
	return w
}

// join starts a sidecar of the world's app.
func (w *world) join(options ...sidecartest.Option) *sidecartest.Sidecar {
	w.t.Helper()
	all := append([]sidecartest.Option{
		w.network.Join(w.appID),
		sidecartest.With(func(o *sidecar.Options) {
			o.PlacementAddresses, o.SchedulerAddresses = []string{w.placement}, []string{w.scheduler}
			o.InternalPort = servers.FreePort(w.t)
			o.GracefulShutdown = 20 * time.Second
		}),
		sidecartest.Resources(sidecartest.Component("actors", "state.sqlite", "connectionString", w.database, "busyTimeout", "15s", "actorStateStore", "true")),
	}, options...)
	s := sidecartest.Start(w.t, all...)
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("the log of a sidecar of %s:\n%s", w.appID, s.Log)
		}
	})
	return s
}

// call is a callback that an app got.
type call struct {
	Verb, Path, Query, Body string
	Header                  http.Header
}

// member is an app with its sidecar. The app hosts actors by the HTTP callbacks of the Dapr API, and does as its methods say:
//
//	tell       replies with the call
//	status-N   replies with a status
//
// and what else the test gives it; the method "job" is what it does with jobs, of which it gets the name in place of an id.
type member struct {
	*sidecartest.Sidecar
	t    testing.TB
	name string
	app  *sidecartest.App

	mu      sync.Mutex
	calls   []call
	methods map[string]func(w http.ResponseWriter, r *http.Request, id string)
}

// newMember starts an app that says config when it is asked for its actors, and its sidecar.
func (w *world) newMember(name, config string, methods map[string]func(rw http.ResponseWriter, r *http.Request, id string), options ...sidecartest.Option) *member {
	w.t.Helper()
	m := &member{t: w.t, name: name, methods: methods}
	m.app = sidecartest.NewApp(w.t, m.handler(config))
	m.Sidecar = w.join(append(options, sidecartest.WithApp(m.app))...)
	m.WaitHealthy()
	return m
}

func (m *member) handler(config string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dapr/config", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, config) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		c := call{r.Method, r.URL.Path, r.URL.RawQuery, string(body), r.Header.Clone()}
		m.mu.Lock()
		m.calls = append(m.calls, c)
		m.mu.Unlock()
		parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 5)
		if do := m.methods["job"]; do != nil && len(parts) == 2 && parts[0] == "job" {
			do(w, r, parts[1])
			return
		}
		if len(parts) < 5 { // DELETE /actors/T/id, and jobs
			return
		}
		method := parts[4]
		if do := m.methods[method]; do != nil {
			do(w, r, parts[2])
			return
		}
		first, rest, _ := strings.Cut(method, "-")
		switch kind, _, _ := strings.Cut(first, "/"); kind {
		case "tell":
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Member", m.name)
			_ = json.NewEncoder(w).Encode(c)
		case "status":
			var code int
			_, _ = fmt.Sscan(rest, &code)
			w.Header().Set("X-Member", m.name)
			w.WriteHeader(code)
			fmt.Fprintf(w, "body of %d", code)
		case "remind", "timer":
		default:
			http.NotFound(w, r)
		}
	})
	return mux
}

// seen are the calls of the app so far.
func (m *member) seen(verb, path string) (calls []call) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.calls {
		if c.Verb == verb && c.Path == path {
			calls = append(calls, c)
		}
	}
	return calls
}

// send is a POST request to the sidecar for what is not the test itself: apps, and calls at the same time.
func (m *member) send(path, body string) (sidecartest.Response, error) {
	resp, err := m.Client.Post(m.URL+path, "application/json", strings.NewReader(body))
	if err != nil {
		return sidecartest.Response{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return sidecartest.Response{Status: resp.StatusCode, Header: resp.Header, Body: string(text)}, err
}

// outcome is what became of a call.
type outcome struct {
	sidecartest.Response
	err error
}

// sending calls send at the same time as the test goes on.
func (m *member) sending(path, body string) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		r, err := m.send(path, body)
		done <- outcome{r, err}
	}()
	return done
}

// awaitCall waits until the app got a call, and returns the first.
func (m *member) awaitCall(verb, path string) call {
	m.t.Helper()
	waitFor(m.t, fmt.Sprintf("%s %s at %s", verb, path, m.name), func() bool { return len(m.seen(verb, path)) > 0 })
	return m.seen(verb, path)[0]
}

// place finds ids of actors of a type: those that live at each of the members, all of which host it.
func place(t testing.TB, actorType string, members ...*member) (ids map[*member][]string) {
	t.Helper()
	const each = 12
	waitFor(t, "all sidecars to have actors", func() bool {
		ids = map[*member][]string{}
		for i := range 200 {
			id := fmt.Sprint("id", i)
			r := members[0].Get("/v1.0/actors/" + actorType + "/" + id + "/method/tell")
			if r.Status != 200 {
				return false
			}
			at := slices.IndexFunc(members, func(m *member) bool { return m.name == r.Header.Get("X-Member") })
			ids[members[at]] = append(ids[members[at]], id)
			full := true
			for _, m := range members {
				full = full && len(ids[m]) >= each
			}
			if full {
				return true
			}
		}
		return false
	})
	return ids
}
