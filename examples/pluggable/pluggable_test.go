//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/api"
	"outrigger.dev/components"
	"outrigger.dev/components/pluggable"
	"outrigger.dev/components/state"
	"outrigger.dev/components/state/statetest"
	"outrigger.dev/resource"
)

const patience = 30 * time.Second

// output collects what the process prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// run starts the example as the README says, with its socket in the folder.
func run(t *testing.T, binary, folder string) *exec.Cmd {
	t.Helper()
	out := &output{}
	cmd := exec.Command(binary)
	cmd.Env = append(cmd.Environ(), "DAPR_COMPONENT_SOCKETS_FOLDER="+folder)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	deadline, tick := time.NewTimer(patience), time.NewTicker(5*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !strings.Contains(out.String(), "serving on") {
		select {
		case <-deadline.C:
			t.Fatalf("it did not start: %s", out)
		case <-tick.C:
		}
	}
	return cmd
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "pluggable")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if text, err := exec.CommandContext(ctx, "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	return binary
}

// statestore opens the component of resources/memstore.yaml, with other properties if there are any.
func statestore(t *testing.T, folder string, properties map[string]string) (state.Store, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	set, problems, err := resource.Load(ctx, resource.Options{Dirs: []string{"resources"}})
	if err != nil || len(problems) > 0 || len(set.Components) != 1 {
		t.Fatalf("resources: %v, %v", problems, err)
	}
	c := set.Components[0]
	if properties == nil {
		properties = resource.Properties(c.Spec.Metadata)
	}
	registry := &components.Registry{}
	sockets := pluggable.New(pluggable.Options{Folder: folder, Registry: registry})
	if _, err := sockets.Discover(ctx); err != nil {
		t.Fatal(err)
	}
	category, name, _ := components.SplitType(c.Spec.Type)
	d, err := sockets.Lookup(ctx, category, name, c.Spec.Version)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Open(ctx, components.Instance{Name: c.Metadata.Name, Type: c.Spec.Type, Version: c.Spec.Version, Properties: properties})
	if err != nil {
		return nil, err
	}
	return s.(state.Store), nil
}

func TestExample(t *testing.T) {
	binary, folder := build(t), t.TempDir()
	process := run(t, binary, folder)

	t.Run("Conformance", func(t *testing.T) {
		statetest.Run(t, statetest.Config{IgnoresOptions: true}, func(t *testing.T) state.Store {
			s, err := statestore(t, folder, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := state.Capabilities(s), []string{"ETAG", "TRANSACTIONAL", "ACTOR"}; !slices.Equal(got, want) {
				t.Errorf("capabilities %v, want %v", got, want)
			}
			return s
		})
	})

	if _, err := statestore(t, folder, map[string]string{"maxItems": "many"}); err == nil || !strings.Contains(err.Error(), `"maxItems" is "many"`) {
		t.Errorf("a wrong property: %v", err)
	}

	// Killed and started again, the process replaces its stale socket, and the component comes back with it.
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait()
	process = run(t, binary, folder)
	s, err := statestore(t, folder, map[string]string{"maxItems": "1"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_ = process.Process.Kill()
	_ = process.Wait()
	process = run(t, binary, folder)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := s.Get(ctx, state.GetRequest{Key: "a"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(ctx, state.SetRequest{Key: "a", Value: state.Value{Bytes: []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	var own *api.Error
	if err := s.Set(ctx, state.SetRequest{Key: "b", Value: state.Value{Bytes: []byte("2")}}); !errors.As(err, &own) || own.HTTP != 507 || own.Code != "ERR_MEMSTORE_FULL" {
		t.Errorf("a full store: %v", err)
	}

	// A second one on the same socket says what is wrong.
	again := exec.Command(binary, "-socket", filepath.Join(folder, "memstore.sock"))
	if text, err := again.CombinedOutput(); err == nil || !strings.Contains(string(text), "another process serves on") {
		t.Errorf("a second process: %v, %s", err, text)
	}

	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := process.Wait(); err != nil {
		t.Errorf("ended by SIGTERM: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(folder, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
