package chaos

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/test/servers"
)

// The size of the world.
const (
	podCount   = 5
	actorCount = 24
)

// appID is that of all sidecars.
const appID = "chaos"

// world is all that runs: pods, placement and the scheduler, with a referee and one state store.
type world struct {
	t         *testing.T
	referee   *referee
	pods      []*pod
	placement *process
	scheduler *process
	database  string // the file of the state store
}

// pod is a sidecar with its app.
type pod struct {
	name         string
	app, sidecar *process
	base         string // of the HTTP API of the sidecar
}

// newWorld starts everything and waits until every pod can call.
func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	if keep := os.Getenv("CHAOS_DIR"); keep != "" { // to look at the logs afterwards
		dir = keep
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, referee: newReferee(t), database: filepath.Join(dir, "actors.db")}
	resources := filepath.Join(dir, "resources")
	if err := os.MkdirAll(resources, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(resources, "store.yaml"), fmt.Sprintf(`apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: actors
spec:
  type: state.sqlite
  version: v1
  metadata:
  - name: connectionString
    value: %q
  - name: busyTimeout
    value: 15s
  - name: actorStateStore
    value: "true"
`, w.database))
	config := filepath.Join(dir, "config.yaml")
	write(t, config, fmt.Sprintf("spec:\n  nameResolution:\n    component: sqlite\n    version: v1\n    configuration: {connectionString: %q}\n", filepath.Join(dir, "names.db")))

	at := func() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(servers.FreePort(t))) }
	port := func(address string) string { _, p, _ := net.SplitHostPort(address); return p }
	placement, scheduler := at(), at()
	w.placement = newProcess(t, dir, "placement", "placement",
		"--port", port(placement), "--listen-address", "127.0.0.1", "--healthz-port", port(at()), "--healthz-listen-address", "127.0.0.1", "--enable-metrics=false")
	w.scheduler = newProcess(t, dir, "scheduler", "scheduler",
		"--port", port(scheduler), "--listen-address", "127.0.0.1", "--healthz-port", port(at()), "--healthz-listen-address", "127.0.0.1", "--enable-metrics=false",
		"--etcd-data-dir", filepath.Join(dir, "scheduler"), "--etcd-initial-cluster", "dapr-scheduler-server-0=http://"+at(),
		"--etcd-client-port", port(at()), "--etcd-client-listen-address", "127.0.0.1")
	w.placement.start()
	w.scheduler.start()
	for i := range podCount {
		name, app, api := fmt.Sprintf("pod-%d", i), at(), at()
		p := &pod{
			name: name, base: "http://" + api,
			app: newProcess(t, dir, name+"-app", "app", "-listen", app, "-sidecar", api, "-referee", w.referee.listener.Addr().String(), "-name", name),
			sidecar: newProcess(t, dir, name+"-sidecar", "daprd", "--app-id", appID, "--app-port", port(app),
				"--dapr-http-port", port(api), "--dapr-grpc-port", port(at()), "--dapr-internal-grpc-port", port(at()),
				"--dapr-listen-addresses", "127.0.0.1", "--dapr-internal-grpc-listen-address", "127.0.0.1", "--enable-metrics=false",
				"--dapr-graceful-shutdown-seconds", "20", "--config", config, "--resources-path", resources,
				"--placement-host-address", placement, "--scheduler-host-address", scheduler),
		}
		p.start()
		w.pods = append(w.pods, p)
	}
	for _, p := range w.pods {
		await(t, p.name+" to be healthy", func() bool {
			resp, err := http.Get(p.base + "/v1.0/healthz")
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			return resp.StatusCode == http.StatusNoContent
		})
	}
	return w
}

func (p *pod) start() {
	p.app.start()
	p.sidecar.start()
}

// kill ends app and sidecar as the loss of their node does.
func (w *world) kill(p *pod) {
	w.referee.condemn(p.app.pid())
	p.app.signal(syscall.SIGKILL)
	p.sidecar.signal(syscall.SIGKILL)
	p.app.kill()
	p.sidecar.kill()
}

// processes are all of them.
func (w *world) processes() []*process {
	all := []*process{w.placement, w.scheduler}
	for _, p := range w.pods {
		all = append(all, p.app, p.sidecar)
	}
	return all
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// await waits until a condition holds.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", limit, what)
		}
	}
}

// caller speaks to the HTTP API of sidecars.
type caller struct{ client *http.Client }

func newCaller(timeout time.Duration) *caller {
	return &caller{&http.Client{Timeout: timeout, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}}
}

func (c *caller) close() { c.client.CloseIdleConnections() }

// do is the status and the body of the reply; status 0 means that there was none.
func (c *caller) do(method, url, body string) (status int, reply string) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}
