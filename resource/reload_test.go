package resource

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const reloadStore = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: NAME}\nspec: {type: state.in-memory, version: v1, metadata: [{name: x, value: VALUE}]}\n"

func reloadComponent(name, value string) string {
	return strings.NewReplacer("NAME", name, "VALUE", value).Replace(reloadStore)
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// names are the loaded components as name=value.
func names(s *Set) []string {
	var list []string
	for _, c := range s.Components {
		list = append(list, c.Metadata.Name+"="+c.Spec.Metadata[0].Value.String())
	}
	slices.Sort(list)
	return list
}

func TestReloadKeepsWhatCannotBeRead(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(t *testing.T, dir string)
		want   string
		says   string
	}{
		{"changed", func(t *testing.T, dir string) { write(t, dir, "a.yaml", reloadComponent("a", "2")) }, "a=2 b=1", ""},
		{"removed", func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, "a.yaml")) }, "b=1", ""},
		{"renamed", func(t *testing.T, dir string) { write(t, dir, "a.yaml", reloadComponent("c", "1")) }, "b=1 c=1", ""},
		{"not YAML", func(t *testing.T, dir string) { write(t, dir, "a.yaml", "kind: Component\nspec: [") }, "a=1 b=1", "a.yaml"},
		{"wrong type", func(t *testing.T, dir string) {
			write(t, dir, "a.yaml", strings.Replace(reloadComponent("a", "2"), "type: state.in-memory", "type: [1]", 1))
		}, "a=1 b=1", "a.yaml"},
		{"empty", func(t *testing.T, dir string) { write(t, dir, "a.yaml", "") }, "a=1 b=1", ""},
		{"only a comment", func(t *testing.T, dir string) { write(t, dir, "a.yaml", "# nothing\n") }, "b=1", ""},
		{"one document broken, one changed", func(t *testing.T, dir string) {
			write(t, dir, "a.yaml", "kind: [\n---\n"+reloadComponent("d", "1"))
		}, "a=1 b=1 d=1", "a.yaml"},
		{"duplicate before", func(t *testing.T, dir string) { write(t, dir, "0.yaml", reloadComponent("a", "9")) }, "a=1 b=1", "0.yaml"},
		{"duplicate behind", func(t *testing.T, dir string) { write(t, dir, "z.yaml", reloadComponent("a", "9")) }, "a=1 b=1", "z.yaml"},
		{"duplicate of a changed one", func(t *testing.T, dir string) {
			write(t, dir, "0.yaml", reloadComponent("a", "9"))
			write(t, dir, "a.yaml", reloadComponent("a", "3"))
		}, "a=3 b=1", "0.yaml"},
		{"moved", func(t *testing.T, dir string) {
			_ = os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "z.yaml"))
		}, "a=1 b=1", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "a.yaml", reloadComponent("a", "1"))
			write(t, dir, "b.yaml", reloadComponent("b", "1"))
			opts := Options{Dirs: []string{dir}, AppID: "app"}
			before, _, err := Load(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			test.change(t, dir)
			after, problems, err := Reload(t.Context(), opts, before)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(names(after), " "); got != test.want {
				t.Errorf("components are %s, want %s", got, test.want)
			}
			said := ""
			for _, p := range problems {
				if p.Severity == Error {
					said += p.String() + "\n"
				}
			}
			if (test.says == "") != (said == "") || !strings.Contains(said, test.says) {
				t.Errorf("problems are %q, want one about %q", said, test.says)
			}
		})
	}
}

func TestReloadOfADirectoryThatIsGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "resources")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	opts := Options{Dirs: []string{dir}}
	before, _, err := Load(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if after, _, err := Reload(t.Context(), opts, before); err == nil {
		t.Errorf("no error, and %v", after)
	}
}

func TestWatch(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	write(t, other, "config.yaml", "a: 1")
	w, err := Watch(WatchOptions{Dirs: []string{dir}, Files: []string{filepath.Join(other, "config.yaml")}})
	if err != nil {
		t.Fatal(err)
	}
	notice := func(what string) {
		t.Helper()
		select {
		case <-w.C:
		case <-time.After(10 * time.Second):
			t.Fatalf("no notice after %s", what)
		}
	}
	write(t, dir, "a.yaml", "a: 1")
	notice("a new file")
	write(t, dir, "a.yaml", "a: 2")
	notice("a change")
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	notice("a removal")
	write(t, other, "unrelated.yaml", "a: 1")
	select {
	case <-w.C:
		t.Error("a file that is not watched is noticed")
	case <-time.After(50 * time.Millisecond): // it would have come by then
	}
	write(t, other, "new", "a: 2")
	if err := os.Rename(filepath.Join(other, "new"), filepath.Join(other, "config.yaml")); err != nil {
		t.Fatal(err)
	}
	notice("a file was replaced")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Watch(WatchOptions{Dirs: []string{filepath.Join(dir, "absent")}}); err == nil || !strings.Contains(err.Error(), "failed to create watcher: failed to add target") {
		t.Errorf("watching what is not there: %v", err)
	}
}
