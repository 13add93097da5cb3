package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"outrigger.dev/test/servers"
)

// An app may wait for its sidecar before it listens: the APIs are up first.
func TestOutboundBeforeTheApp(t *testing.T) {
	t.Parallel()
	port := servers.FreePort(t)
	d := start(t, memory(), appPort(port))
	if r := d.post("/v1.0/state/st", `[{"key":"k","value":1}]`); r.status != 204 {
		t.Errorf("state before the app listens: %+v", r)
	}
	d.get("/v1.0/healthz").isError(t, 500, "ERR_HEALTH_NOT_READY", "dapr is not ready: [runtime]")
	d.awaitLog(fmt.Sprintf("application protocol: http. waiting on port %d.  This will block until the app is listening on that port.", port))
	d.get("/v1.0/invoke/app/method/x").isError(t, 500, "ERR_DIRECT_INVOKE", "failed to invoke, id: app, err: ")
	end := serve(t, port, echo)
	d.awaitHealthy()
	d.awaitLog(fmt.Sprintf("application discovered on port %d", port))
	d.awaitLog("dapr initialized. Status: Running. Init Elapsed ")
	if r := d.get("/v1.0/invoke/app/method/x"); r.body != "GET /x 0" {
		t.Errorf("%+v", r)
	}
	// The app dies and comes back; the sidecar's health does not depend on it any more.
	end()
	d.get("/v1.0/invoke/app/method/x").isError(t, 500, "ERR_DIRECT_INVOKE", "failed to invoke, id: app, err: ")
	if r := d.get("/v1.0/healthz"); r.status != 204 {
		t.Errorf("health without the app: %+v", r)
	}
	serve(t, port, echo)
	if r := d.get("/v1.0/invoke/app/method/x"); r.status != 200 || r.body != "GET /x 0" {
		t.Errorf("after the app came back: %+v", r)
	}
	d.stop()
}

// Without health checks the sidecar is healthy when the app was asked for its configuration.
func TestAppIsAskedForItsConfiguration(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		flags []string
		asked int32
	}{
		"asked":    {nil, 1},
		"disabled": {[]string{"--disable-init-endpoints", " Config ,subscribe"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			port := servers.FreePort(t)
			s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/dapr/config" {
					asked.Add(1)
				}
				http.NotFound(w, r)
			})}
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- s.Serve(l) }()
			t.Cleanup(func() { _ = s.Close(); <-served })
			d := start(t, appPort(port), args(c.flags...))
			d.awaitHealthy()
			if n := asked.Load(); n != c.asked {
				t.Errorf("the app was asked %d times, want %d", n, c.asked)
			}
		})
	}
	launch(t, args("--disable-init-endpoints", "other")).fails("invalid value for 'disable-init-endpoints': other")
}

func TestAppHealthChecks(t *testing.T) {
	t.Parallel()
	var status atomic.Int32
	status.Store(500)
	d := start(t, appPort(app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/alive" {
			w.WriteHeader(int(status.Load()))
			return
		}
		echo(w, r)
	})), args("--enable-app-health-check", "--app-health-check-path", "alive", "--app-health-probe-interval", "1", "--app-health-threshold", "1"))
	d.awaitHealthy() // of the sidecar, which the app's health is no part of
	d.get("/v1.0/invoke/app/method/x").isError(t, 500, "ERR_DIRECT_INVOKE", "app is not in a healthy state")
	status.Store(204)
	d.awaitLog("App entered healthy status")
	if r := d.get("/v1.0/invoke/app/method/x"); r.body != "GET /x 0" {
		t.Errorf("healthy: %+v", r)
	}
	status.Store(503)
	d.awaitLog("App entered un-healthy status: Health check failed with status code: 503")
	d.get("/v1.0/invoke/app/method/x").isError(t, 500, "ERR_DIRECT_INVOKE", "app is not in a healthy state")
	if r := d.get("/v1.0/healthz"); r.status != 204 {
		t.Errorf("the sidecar's health: %+v", r)
	}
	d.stop()
}

// names are the components that the metadata API lists.
func (d *daprd) names() string {
	d.t.Helper()
	var names []string
	for i, part := range strings.Split(d.get("/v1.0/metadata").body, `{"name":"`) {
		if i > 0 {
			name, _, _ := strings.Cut(part, `"`)
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

func TestComponentFailures(t *testing.T) {
	t.Parallel()
	const ignore = "  ignoreErrors: true\n"
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for _, c := range []struct {
		name, typ, spec string
		metadata        []string
		fatal           []string
	}{
		{"unknown type", "state.nosuch", "", nil, []string{"Fatal error from runtime: process component c error: [CREATE_COMPONENT_FAILURE]: initialization error occurred for c (state.nosuch/v1): couldn't find state store state.nosuch/v1"}},
		{"unknown category", "nonsense.x", "", nil, []string{"Fatal error from runtime: process component c error: incorrect type nonsense.x"}},
		{"category of the Configuration", "nameresolution.mdns", "", nil, []string{"process component c error: incorrect type nameresolution.mdns"}},
		{"missing property", "state.sqlite", "", nil, []string{"process component c error: [INIT_COMPONENT_FAILURE]: initialization error occurred for c (state.sqlite/v1): ", "connectionString"}},
		{"init failure", "state.sqlite", "", []string{"connectionString", "/no/such/folder/x.db"}, []string{"[INIT_COMPONENT_FAILURE]: initialization error occurred for c (state.sqlite/v1): ", "/no/such/folder"}},
		{"server down", "state.redis", "", []string{"redisHost", fmt.Sprintf("127.0.0.1:%d", servers.FreePort(t))}, []string{"[INIT_COMPONENT_FAILURE]: initialization error occurred for c (state.redis/v1): ", "connection refused"}},
		{"timeout", "state.redis", "  initTimeout: 300ms\n", []string{"redisHost", silent.Addr().String()}, []string{"[INIT_COMPONENT_FAILURE]", "init timeout for component c (state.redis/v1)"}},
		{"bad value", "state.redis", "", []string{"redisHost", "127.0.0.1:1", "redisDB", "many"}, []string{"[INIT_COMPONENT_FAILURE]", "redisDB", "many"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := launch(t, memory(), resources(componentWith("c", c.typ, c.spec, c.metadata...)))
			d.fails(c.fatal...)
			if took := time.Since(d.started); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
			if strings.Contains(d.out.String(), "HTTP server is running") {
				t.Error("the API was up before the components were")
			}
			d = start(t, memory(), resources(componentWith("c", c.typ, c.spec+ignore, c.metadata...)))
			d.awaitLog("Ignoring error processing component: ")
			d.awaitLog("Failed to init component c (" + c.typ + "/v1): ")
			if n := d.names(); n != "st" {
				t.Errorf("components: %s", n)
			}
			d.get("/v1.0/state/c/k").isError(t, 400, "ERR_STATE_STORE_NOT_FOUND", "state store c is not found")
			d.awaitHealthy()
			d.stop()
		})
	}
}

func TestServerGoesAndReturns(t *testing.T) {
	t.Parallel()
	redis := servers.Redis(t, servers.Own())
	d := start(t, resources(component("st", "state.redis", "redisHost", redis.Addr, "redisMaxRetries", "1", "readTimeout", "2s", "writeTimeout", "2s", "dialTimeout", "2s")))
	save := func() reply { return d.post("/v1.0/state/st", `[{"key":"k","value":1}]`) }
	if r := save(); r.status != 204 {
		t.Fatalf("%+v", r)
	}
	redis.Stop()
	save().isError(t, 500, "ERR_STATE_SAVE", "failed saving state in state store st: ")
	d.get("/v1.0/state/st/k").isError(t, 500, "ERR_STATE_GET", "fail to get k from state store st: ")
	if r := d.get("/v1.0/healthz"); r.status != 204 {
		t.Errorf("health: %+v", r)
	}
	redis.Start()
	d.await("the store to work again", func() bool { return save().status == 204 })
	if r := d.get("/v1.0/state/st/k"); r.body != "1" {
		t.Errorf("%+v", r)
	}
	d.stop()
}

func TestBrokenResources(t *testing.T) {
	t.Parallel()
	d := start(t, resources(component("good", "state.in-memory")+"---\nkind: Component\napiVersion: dapr.io/v1alpha1\nmetadata:\n  name: [broken\n---\n"+component("last", "state.in-memory"),
		`apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: typo}
spec:
  type: state.in-memory
  version: v1
  ignoreErorrs: true
`, "# nothing\n", "apiVersion: example.org/v1\nkind: Other\n"))
	if n := d.names(); n != "good last typo" {
		t.Errorf("components: %s", n)
	}
	d.awaitLog("daprd load Component error when parsing manifests yaml resource in ")
	broken, typo := "", ""
	for _, e := range d.entries() {
		msg := fmt.Sprint(e["msg"])
		if strings.Contains(msg, "error when parsing manifests") {
			broken = msg
		}
		if strings.Contains(msg, "ignoreErorrs") {
			typo = msg
		}
	}
	for _, text := range []string{"00.yaml", "document 2", "line 1"} { // the line is one of 10 to 12
		if !strings.Contains(broken, text) {
			t.Errorf("%q does not tell %q", broken, text)
		}
	}
	for _, text := range []string{"01.yaml", "line 7", "ignoreErrors"} {
		if !strings.Contains(typo, text) {
			t.Errorf("%q does not tell %q", typo, text)
		}
	}
	d.stop()
}

func TestFatalResources(t *testing.T) {
	t.Parallel()
	launch(t, resources(component("a", "state.in-memory"), component("a", "secretstores.local.env"))).
		fails("Fatal error from runtime: failed to load components: duplicate definition of Component name a (secretstores.local.env/v1) with existing a (state.in-memory/v1)", "00.yaml", "01.yaml")
	missing := filepath.Join(t.TempDir(), "missing")
	launch(t, resourceDir(missing)).fails("Fatal error from runtime: failed to create watcher: failed to add target " + missing + ": no such file or directory")
	launch(t, resourceDir(missing), config("spec:\n  features: [{name: HotReload, enabled: false}]\n")).fails("Fatal error from runtime: failed to load components: ", missing, "no such file or directory")
	launch(t, args("--config", missing)).fails("Fatal error from runtime: error loading configuration: ", missing, "no such file or directory")
	launch(t, config("spec:\n  features: 7\n")).fails("Fatal error from runtime: error loading configuration: ", "config.yaml")
	launch(t, config("spec: [\n")).fails("Fatal error from runtime: error loading configuration: ", "config.yaml")
}

func TestSecretsOfComponents(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "secrets.json"), fmt.Sprintf(`{"path": %q}`, filepath.Join(dir, "state.db")))
	withSecret := func(name, store, secret, key string) string {
		return fmt.Sprintf(`
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: %s}
spec:
  type: state.sqlite
  version: v1
  ignoreErrors: true
  metadata:
  - name: connectionString
    secretKeyRef: {name: %s, key: %s}
auth: {secretStore: %s}
`, name, secret, key, store)
	}
	// The store comes after the components that need it.
	d := start(t, resources(withSecret("found", "files", "path", "path"), withSecret("parked", "nowhere", "path", "path"), withSecret("nosecret", "files", "other", "other"),
		withSecret("nokey", "files", "path", "other"), component("files", "secretstores.local.file", "secretsFile", filepath.Join(dir, "secrets.json"))))
	if n := d.names(); n != "found files" {
		t.Errorf("components: %s", n)
	}
	if r := d.post("/v1.0/state/found", `[{"key":"k","value":1}]`); r.status != 204 {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, "state.db")); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"Component parked references a secret store that isn't loaded: nowhere", "Error getting secret: ", "has no value under the key"} {
		d.awaitLog(text)
	}
	d.awaitHealthy()
	d.stop()
}

// A machine without a network, such as a laptop on a journey, still runs apps that reach each other there.
func TestNoNetwork(t *testing.T) {
	t.Parallel()
	isolated := []string{"unshare", "--map-root-user", "--net", "sh", "-c", `ip link set lo up && exec "$@"`, "sh"}
	if out, err := exec.Command(isolated[0], append(isolated[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("this machine does not let a test have a network of its own: %v: %s", err, out)
	}
	d := launch(t, memory(), env("DAPR_HOST_IP="), args("--dapr-internal-grpc-listen-address", "0.0.0.0"),
		func(s *setup) { s.wrapper = isolated })
	d.awaitLog("Only sidecars on this host reach this one; set DAPR_HOST_IP if there are others")
	d.awaitLog("dapr initialized. Status: Running. Init Elapsed ")
	d.stop()
}
