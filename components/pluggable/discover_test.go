//go:build unix

package pluggable

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/state"
)

// stale leaves a socket behind that nobody listens on.
func stale(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
}

// mute listens and takes connections without ever saying a word.
func mute(t testing.TB, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

// chatty answers with what is not HTTP/2.
func chatty(t testing.TB, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("220 smtp ready\r\n"))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

func write(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func socketNamed(t testing.TB, sockets []Socket, file string) Socket {
	t.Helper()
	for _, s := range sockets {
		if filepath.Base(s.Path) == file {
			return s
		}
	}
	t.Fatalf("%s is not among %v", file, sockets)
	return Socket{}
}

// Sockets of all kinds beside each other: what is wrong with one keeps neither the others nor the start-up.
func TestDiscover(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "notes.txt"))
	if err := os.Mkdir(filepath.Join(dir, "sub.sock"), 0o700); err != nil {
		t.Fatal(err)
	}
	stale(t, filepath.Join(dir, "stale.sock"))
	mute(t, filepath.Join(dir, "mute.sock"))
	chatty(t, filepath.Join(dir, "chatty.sock"))
	stale(t, filepath.Join(dir, ".sock"))
	startProcess(t, dir, "good.store.v2.sock", (&stateService{backend: memory(t)}).register)
	startProcess(t, dir, "plain", (&stateService{backend: memory(t)}).register)
	startProcess(t, dir, "both.sock", func(g *grpc.Server, l *life) {
		(&stateService{backend: memory(t)}).register(g, l)
		componentsv1.RegisterSecretStoreServer(g, &secretService{life: l})
		componentsv1.RegisterPubSubServer(g, componentsv1.UnimplementedPubSubServer{})
	})
	startProcess(t, dir, "other.sock", func(*grpc.Server, *life) {})
	blind := &process{t: t, path: filepath.Join(dir, "blind.sock"), register: (&stateService{backend: memory(t)}).register, mute: true}
	blind.start()
	t.Cleanup(blind.stop)
	old := &process{t: t, path: filepath.Join(dir, "old.sock"), mute: true, register: func(g *grpc.Server, l *life) {
		(&stateService{backend: memory(t)}).register(g, l)
		desc := reflectionv1.ServerReflection_ServiceDesc
		desc.ServiceName = "grpc.reflection.v1alpha.ServerReflection"
		g.RegisterService(&desc, reflection.NewServerV1(reflection.ServerOptions{Services: g}))
	}}
	old.start()
	t.Cleanup(old.stop)

	var log logText
	began := time.Now()
	f, r, sockets := found(t, dir, func(o *Options) { o.Bound, o.Log = time.Second, log.logger() })
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("discovery took %s", took)
	}
	const stateName = "dapr.proto.components.v1.StateStore"
	for file, want := range map[string]struct {
		name     string
		services []string
		err      string
	}{
		"stale.sock":         {name: "stale", err: "no process listens on it"},
		"mute.sock":          {name: "mute", err: "did not answer within 1s"},
		"chatty.sock":        {name: "chatty", err: "its services cannot be listed"},
		".sock":              {err: "rename it"},
		"good.store.v2.sock": {name: "good.store.v2", services: []string{stateName}},
		"plain":              {name: "plain", services: []string{stateName}},
		"both.sock":          {name: "both", services: []string{"dapr.proto.components.v1.PubSub", "dapr.proto.components.v1.SecretStore", stateName}},
		"other.sock":         {name: "other", err: "it offers no component service"},
		"blind.sock":         {name: "blind", err: "turn reflection on"},
		"old.sock":           {name: "old", services: []string{stateName}},
	} {
		s := socketNamed(t, sockets, file)
		if s.Name != want.name || !slices.Equal(s.Services, want.services) && len(s.Services)+len(want.services) > 0 || (s.Err == nil) != (want.err == "") || s.Err != nil && !strings.Contains(s.Err.Error(), want.err) {
			t.Errorf("%s: %+v, want %+v", file, s, want)
		}
		if s.Err != nil && !log.has("could not initialize pluggable components of "+s.Path) {
			t.Errorf("the log says nothing of %s", file)
		}
	}
	if len(sockets) != 10 {
		t.Errorf("%d sockets: %v", len(sockets), sockets)
	}
	for _, text := range []string{"notes.txt is not a socket", "pluggable component 'good.store.v2' was successfully registered for '" + stateName + "'"} {
		if !log.has(text) {
			t.Errorf("the log does not have %q", text)
		}
	}
	if log.has("sub.sock") {
		t.Error("the log tells of a folder")
	}
	for typ, category := range map[string]components.Category{"good.store.v2": components.State, "PLAIN": components.State, "both": components.PubSub, "old": components.State} {
		for _, version := range []string{"", "v0", "v1"} {
			if d, err := f.Lookup(within(t), category, typ, version); err != nil || !d.FreeForm {
				t.Errorf("%s %q: %v", typ, version, err)
			}
		}
	}
	if _, err := r.Lookup(components.State, "plain", "v2"); err == nil {
		t.Error("a pluggable component has a version v2")
	}

	// Again: nothing is told twice, nothing is registered twice.
	before := strings.Count(log.String(), "successfully registered")
	types := len(r.All())
	if _, err := f.Discover(within(t)); err != nil {
		t.Fatal(err)
	}
	if after := strings.Count(log.String(), "successfully registered"); after != before || len(r.All()) != types {
		t.Errorf("%d registrations became %d, %d types %d", before, after, types, len(r.All()))
	}
}

func TestNoFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	if _, r, sockets := found(t, dir); len(sockets) != 0 || len(r.All()) != 0 {
		t.Errorf("a missing folder has %v", sockets)
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file)
	f := New(Options{Folder: file, Registry: &components.Registry{}})
	if _, err := f.Discover(within(t)); !errors.Is(err, syscall.ENOTDIR) || !strings.Contains(err.Error(), "DAPR_COMPONENTS_SOCKETS_FOLDER") {
		t.Errorf("a file as the folder: %v", err)
	}
}

func TestReplaces(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"plain", "alias", "versioned", "later"} {
		startProcess(t, dir, name+".sock", (&stateService{backend: memory(t)}).register)
	}
	shared := &components.Registry{}
	built := func(info components.Info) {
		state.Register(shared, info, func(context.Context, components.Instance, struct{}) (state.Store, error) {
			return nil, errors.New("built in")
		})
	}
	built(components.Info{Name: "plain", Version: "v1"})
	built(components.Info{Name: "aliased", Aliases: []string{"alias"}, Version: "v1"})
	built(components.Info{Name: "versioned", Version: "v1", Default: true})
	built(components.Info{Name: "versioned", Version: "v2"})
	built(components.Info{Name: "later", Version: "v2"})
	own := shared.Clone()
	_, _, sockets := found(t, dir, func(o *Options) { o.Registry = own })
	for name, pluggable := range map[string]bool{"plain": true, "alias": true, "aliased": false, "versioned": false} {
		d, err := own.Lookup(components.State, name, "")
		if err != nil || d.FreeForm != pluggable {
			t.Errorf("%s: pluggable %t, %v", name, d != nil && d.FreeForm, err)
		}
		if d, err := shared.Lookup(components.State, name, ""); err != nil || d.FreeForm {
			t.Errorf("%s came into the registry that was cloned: %v", name, err)
		}
	}
	for _, file := range []string{"versioned.sock", "later.sock"} {
		if s := socketNamed(t, sockets, file); s.Err == nil || !strings.Contains(s.Err.Error(), "give the component another name") || len(s.Services) > 0 {
			t.Errorf("%s: %+v", file, s)
		}
	}
	names := map[string]int{}
	for _, d := range own.All() {
		names[d.Type()]++
	}
	if names["state.plain"] != 1 || names["state.versioned"] != 2 || names["state.aliased"] != 1 || names["state.alias"] != 1 {
		t.Errorf("types: %v", names)
	}
}

// A socket that comes after the discovery is found when a resource asks for its type, also if its process is still starting.
func TestLookup(t *testing.T) {
	dir := t.TempDir()
	f, r, _ := found(t, dir)
	if _, err := f.Lookup(within(t), components.State, "mystore", "v1"); err == nil || !strings.Contains(err.Error(), "couldn't find state store state.mystore/v1") {
		t.Fatalf("without a socket: %v", err)
	}
	p := startProcess(t, dir, "mystore.sock", (&stateService{backend: memory(t)}).register)
	if d, err := f.Lookup(within(t), components.State, "MyStore", ""); err != nil || d.Name != "mystore" {
		t.Fatalf("with a socket: %v", err)
	}
	if _, err := r.Lookup(components.State, "mystore", ""); err != nil {
		t.Error(err)
	}
	if _, err := f.Lookup(within(t), components.PubSub, "mystore", ""); err == nil || !strings.Contains(err.Error(), "couldn't find message bus") {
		t.Errorf("of another category: %v", err)
	}
	if _, err := f.Lookup(within(t), components.State, "mystore", "v2"); err == nil {
		t.Error("there is a version v2")
	}
	if _, err := f.Lookup(within(t), components.Lock, "mystore", ""); err == nil {
		t.Error("there is a pluggable lock")
	}
	p.stop()

	path := filepath.Join(dir, "starting.sock")
	stale(t, path)
	type result struct {
		d   *components.Descriptor
		err error
	}
	results := make(chan result, 1)
	go func() { // ends with its result, which is waited for
		d, err := f.Lookup(within(t), components.State, "starting", "")
		results <- result{d, err}
	}()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	startProcess(t, dir, "starting.sock", (&stateService{backend: memory(t)}).register)
	if got := <-results; got.err != nil {
		// The look-up may have come at the moment when there was no file at all.
		if _, err := f.Lookup(within(t), components.State, "starting", ""); err != nil {
			t.Errorf("a socket whose process was starting: %v, and then %v", got.err, err)
		}
	}

	stale(t, filepath.Join(dir, "dead.sock"))
	short := New(Options{Folder: dir, Registry: &components.Registry{}, Bound: 250 * time.Millisecond})
	if _, err := short.Lookup(within(t), components.State, "dead", ""); err == nil || !strings.Contains(err.Error(), "dead.sock: no process listens on it") {
		t.Errorf("a stale socket: %v", err)
	}
}

// Two files with one name: the first one counts, and the other is told of.
func TestSameName(t *testing.T) {
	dir := t.TempDir()
	startProcess(t, dir, "twin.a", (&stateService{backend: memory(t)}).register)
	startProcess(t, dir, "twin.b", (&stateService{backend: memory(t)}).register)
	_, _, sockets := found(t, dir)
	if a, b := socketNamed(t, sockets, "twin.a"), socketNamed(t, sockets, "twin.b"); a.Err != nil || b.Err == nil || !strings.Contains(b.Err.Error(), "twin.a") || len(b.Services) != 0 {
		t.Errorf("%+v and %+v", a, b)
	}
}

// A path that is too long for a socket's address is reached all the same.
func TestLongPath(t *testing.T) {
	short := t.TempDir()
	long := filepath.Join(short, strings.Repeat("a", 60), strings.Repeat("b", 60))
	if err := os.MkdirAll(filepath.Dir(long), 0o700); err != nil {
		t.Fatal(err)
	}
	startProcess(t, short, "far.sock", (&stateService{backend: memory(t)}).register)
	if err := os.Symlink(short, long); err != nil {
		t.Fatal(err)
	}
	_, _, sockets := found(t, long)
	s := socketNamed(t, sockets, "far.sock")
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		if s.Err == nil || !strings.Contains(s.Err.Error(), "move the folder") {
			t.Errorf("without /proc: %+v", s)
		}
		return
	}
	if s.Err != nil || len(s.Services) != 1 {
		t.Fatalf("%+v", s)
	}
	store := openStore(t, long, "far", components.Instance{})
	defer store.Close()
	if err := store.Set(within(t), state.SetRequest{Key: "k"}); err != nil {
		t.Error(err)
	}
}

// Types may be looked up while they are found anew.
func TestDiscoverWhileLookingUp(t *testing.T) {
	dir := t.TempDir()
	startProcess(t, dir, "s.sock", (&stateService{backend: memory(t)}).register)
	f, r, _ := found(t, dir)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 5 {
			if _, err := f.Discover(within(t)); err != nil {
				t.Error(err)
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if _, err := r.Lookup(components.State, "s", ""); err != nil || len(r.All()) != 1 || len(r.Clone().All()) != 1 {
			t.Fatal(err)
		}
	}
}
