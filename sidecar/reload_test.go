package sidecar_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

// folder is a resources directory that a test changes while a sidecar runs.
type folder struct {
	t   *testing.T
	dir string
}

func newFolder(t *testing.T) folder { return folder{t, t.TempDir()} }

// write puts a file in place in one step, as careful tools do.
func (f folder) write(name, text string) {
	f.t.Helper()
	draft := filepath.Join(f.dir, "."+name+".draft")
	if err := os.WriteFile(draft, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(draft, filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f folder) remove(name string) {
	f.t.Helper()
	if err := os.Remove(filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f folder) option() sidecartest.Option {
	return sidecartest.With(func(o *sidecar.Options) { o.ResourcesPaths = []string{f.dir} })
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, s *sidecartest.Sidecar, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not so: %s\n%s", what, s.Log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func saves(s *sidecartest.Sidecar, store string) bool {
	return s.Post("/v1.0/state/"+store, `[{"key":"k","value":1}]`).Status == 204
}

func logged(t *testing.T, s *sidecartest.Sidecar, text string) {
	t.Helper()
	eventually(t, "logged "+text, s, func() bool { return strings.Contains(s.Log.String(), text) })
}

func TestReloadOfComponents(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", sidecartest.Component("a", "state.in-memory"))
	s := sidecartest.Start(t, f.option())

	f.write("b.yaml", sidecartest.Component("b", "state.in-memory"))
	eventually(t, "b is in service", s, func() bool { return saves(s, "b") })
	if !saves(s, "a") {
		t.Fatal("a is not in service any more")
	}

	// A file that cannot be read, a version that cannot be used and a name that is taken leave everything as it was.
	f.write("a.yaml", "kind: Component\nspec: [")
	logged(t, s, "a.yaml")
	f.write("b.yaml", sidecartest.Component("b", "state.nowhere"))
	logged(t, s, "Component b (state.in-memory/v1) stays as it was")
	f.write("c.yaml", sidecartest.Component("b", "state.in-memory", "keyPrefix", "none"))
	logged(t, s, "duplicate definition of Component name b")
	if !saves(s, "a") || !saves(s, "b") {
		t.Fatalf("a or b is not in service any more\n%s", s.Log)
	}

	// Unchanged files replace nothing, so what a store holds in memory stays.
	f.remove("c.yaml")
	f.write("b.yaml", sidecartest.Component("b", "state.in-memory"))
	f.write("a.yaml", "# a comment\n"+sidecartest.Component("a", "state.in-memory"))
	f.write("d.yaml", sidecartest.Component("d", "state.in-memory"))
	eventually(t, "d is in service", s, func() bool { return saves(s, "d") })
	if r := s.Get("/v1.0/state/a/k"); r.Body != "1" {
		t.Errorf("a lost what it held: %+v", r)
	}
	if strings.Contains(s.Log.String(), "is replaced") {
		t.Errorf("something unchanged was replaced\n%s", s.Log)
	}

	f.write("a.yaml", sidecartest.Component("a", "state.in-memory", "keyPrefix", "none"))
	logged(t, s, "Component a (state.in-memory/v1) changed and is replaced")
	eventually(t, "a is back", s, func() bool { return saves(s, "a") })

	f.remove("a.yaml")
	eventually(t, "a is gone", s, func() bool {
		return strings.Contains(s.Post("/v1.0/state/a", `[{"key":"k","value":1}]`).Body, "ERR_STATE_STORE_NOT_FOUND")
	})
	metadata := s.Get("/v1.0/metadata").Body
	if strings.Contains(metadata, `"name":"a"`) || !strings.Contains(metadata, `"name":"d"`) {
		t.Errorf("metadata lists %s", metadata)
	}
}

// A component that passes every check and still does not open leaves the one before in service.
func TestReloadFallsBack(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", sidecartest.Component("a", "state.in-memory"))
	s := sidecartest.Start(t, f.option())
	broken := sidecartest.Component("a", "state.sqlite", "connectionString", filepath.Join(f.dir, "absent", "deep", "a.db"))
	f.write("a.yaml", broken)
	logged(t, s, "is as it was before the change, which failed")
	if !saves(s, "a") {
		t.Fatalf("a is out of service\n%s", s.Log)
	}
}

func TestReloadOfASecretStore(t *testing.T) {
	f := newFolder(t)
	path := filepath.Join(t.TempDir(), "secrets.json")
	if err := os.WriteFile(path, []byte(`{"prefix":"none"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	f.write("a.yaml", "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: a}\nauth: {secretStore: vault}\n"+
		"spec: {type: state.in-memory, version: v1, metadata: [{name: keyPrefix, secretKeyRef: {name: prefix, key: prefix}}]}\n")
	s := sidecartest.Start(t, f.option())
	if saves(s, "a") {
		t.Fatal("a works without its secret store")
	}
	f.write("vault.yaml", sidecartest.Component("vault", "secretstores.local.file", "secretsFile", path))
	eventually(t, "a is opened once its secret store is there", s, func() bool { return saves(s, "a") })
}

func TestReloadOfSubscriptions(t *testing.T) {
	f := newFolder(t)
	f.write("p.yaml", sidecartest.Component("p", "pubsub.in-memory"))
	var mu sync.Mutex
	got := map[string]int{}
	app := sidecartest.NewApp(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got[r.URL.Path]++
	}))
	count := func(path string) int {
		mu.Lock()
		defer mu.Unlock()
		return got[path]
	}
	s := sidecartest.Start(t, f.option(), sidecartest.WithApp(app))
	s.WaitHealthy()
	subscribe := func(path, match string) {
		f.write("s.yaml", fmt.Sprintf("apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: s}\nspec: {pubsubname: p, topic: t, routes: {default: %s, rules: [{match: %q, path: /never}]}}\n", path, match))
	}
	arrives := func(path string) {
		t.Helper()
		eventually(t, "events arrive at "+path, s, func() bool {
			before := count(path)
			if r := s.Post("/v1.0/publish/p/t", "x"); r.Status != 204 {
				t.Fatalf("publish: %+v", r)
			}
			for range 20 {
				if count(path) > before {
					return true
				}
				time.Sleep(2 * time.Millisecond)
			}
			return false
		})
	}
	subscribe("/one", "event.type == 'no'")
	arrives("/one")
	subscribe("/two", "event.type == 'no'")
	arrives("/two")
	subscribe("/three", "event.type == ")
	logged(t, s, "Subscription s in")
	arrives("/two")
	f.remove("s.yaml")
	eventually(t, "the subscription is gone", s, func() bool { return !strings.Contains(s.Get("/v1.0/metadata").Body, `"topic":"t"`) })
}

func TestReloadOfHTTPEndpoints(t *testing.T) {
	serve := func(name string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
		t.Cleanup(server.Close)
		return "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: shop}\nspec: {baseUrl: '" + server.URL + "'}\n"
	}
	f := newFolder(t)
	f.write("shop.yaml", serve("first"))
	s := sidecartest.Start(t, f.option())
	call := func() string { return s.Get("/v1.0/invoke/shop/method/x").Body }
	if got := call(); got != "first" {
		t.Fatalf("got %q", got)
	}
	f.write("shop.yaml", serve("second"))
	eventually(t, "calls go to the second", s, func() bool { return call() == "second" })
	select {
	case <-s.Done():
		t.Fatal("the sidecar ended")
	default:
	}
}

func TestReloadOfTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	put := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	document := "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec: {features: [{name: X, enabled: true}], logging: {apiLogging: {enabled: LOGGED}}}\n"
	put(strings.Replace(document, "LOGGED", "false", 1))
	s := sidecartest.Start(t, sidecartest.With(func(o *sidecar.Options) { o.ConfigPaths = []string{path} }))
	put("")
	logged(t, s, path+" is empty; restart the sidecar if it is to have no Configuration")
	put("# the same\n" + strings.Replace(document, "LOGGED", "false", 1))
	put("spec: {features: 3}")
	logged(t, s, "the present one stays in force")
	select {
	case <-s.Done():
		t.Fatalf("the sidecar ended\n%s", s.Log)
	default:
	}
	put(strings.Replace(document, "LOGGED", "true", 1))
	if err := s.Stopped(); !errors.Is(err, sidecar.ErrRestart) {
		t.Errorf("it ended with %v", err)
	}
}

func TestReloadSwitchedOff(t *testing.T) {
	f := newFolder(t)
	s := sidecartest.Start(t, f.option(), sidecartest.Config("spec: {features: [{name: HotReload, enabled: false}]}"))
	f.write("a.yaml", sidecartest.Component("a", "state.in-memory"))
	time.Sleep(100 * time.Millisecond) // long enough for hot reload, were it on
	if saves(s, "a") {
		t.Error("a is in service")
	}
}
