package localstorage

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
)

// openBinding opens the binding the way a resource does.
func openBinding(tb testing.TB, properties map[string]string) (*Binding, error) {
	tb.Helper()
	var r components.Registry
	Register(&r)
	d, err := r.Lookup(components.Bindings, "localstorage", "")
	if err != nil {
		tb.Fatal(err)
	}
	c, err := d.Open(context.Background(), components.Instance{Name: "files", Properties: properties})
	if err != nil {
		return nil, err
	}
	tb.Cleanup(func() { _ = c.(*Binding).Close() })
	return c.(*Binding), nil
}

func mustOpen(tb testing.TB, properties map[string]string) *Binding {
	tb.Helper()
	b, err := openBinding(tb, properties)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func invoke(b *Binding, operation, name, data string) (string, error) {
	m := map[string]string{}
	if name != "" {
		m["fileName"] = name
	}
	resp, err := b.Invoke(context.Background(), bindings.Request{Operation: operation, Data: []byte(data), Metadata: m})
	if err != nil || resp == nil {
		return "", err
	}
	return string(resp.Data), nil
}

func TestFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for it")
	b := mustOpen(t, map[string]string{"rootPath": dir})
	for _, tc := range []struct{ operation, name, data, want, err string }{
		{"create", "a.txt", `"Hello \"World\""`, `{"fileName":"a.txt"}`, ""},
		{"get", "a.txt", "", `Hello "World"`, ""},
		{"create", "a.txt", `{"k":1}`, `{"fileName":"a.txt"}`, ""},
		{"get", "/a.txt", "", `{"k":1}`, ""},
		{"create", "my/cool/b.bin", "\x00\xff", `{"fileName":"my/cool/b.bin"}`, ""},
		{"get", "my/cool/../cool/b.bin", "", "\x00\xff", ""},
		{"get", filepath.Join(dir, "my/cool/b.bin"), "", "\x00\xff", ""},
		{"create", "../../up.txt", "x", `{"fileName":"up.txt"}`, ""},
		{"list", "", "", `["` + dir + `/a.txt","` + dir + `/my/cool/b.bin","` + dir + `/up.txt"]`, ""},
		{"list", "my", "", `["` + dir + `/my/cool/b.bin"]`, ""},
		{"list", "none", "", "", "file not found: none"},
		{"list", "a.txt", "", "", "wants a directory"},
		{"get", "none", "", "", "file not found: none"},
		{"get", "my", "", "", "is a directory"},
		{"get", "", "", "", `required metadata "fileName"`},
		{"get", "a\x00b", "", "", `"fileName"`},
		{"create", "my/cool", "x", "", "it is a directory"},
		{"create", "a.txt/under", "x", "", "a.txt"},
		{"create", "/", "x", "", "it is a directory"},
		{"delete", "my/cool", "", "", "it is a directory"},
		{"delete", "none", "", "", "file not found: none"},
		{"delete", "", "", "", `required metadata "fileName"`},
		{"delete", "a.txt", "", "", ""},
		{"get", "a.txt", "", "", "file not found: a.txt"},
		{"move", "a.txt", "", "", `operation "move"`},
	} {
		got, err := invoke(b, tc.operation, tc.name, tc.data)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s %q: error %v, want one with %q", tc.operation, tc.name, err, tc.err)
			}
			continue
		}
		if err != nil || got != tc.want {
			t.Errorf("%s %q: %q, %v; want %q", tc.operation, tc.name, got, err, tc.want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "..", "up.txt")); err == nil {
		t.Error("a file was made outside of the root")
	}
}

func TestNames(t *testing.T) {
	b := mustOpen(t, map[string]string{"rootPath": t.TempDir()})
	reply, err := invoke(b, "create", "", "x")
	if err != nil {
		t.Fatal(err)
	}
	var made struct {
		FileName string `json:"fileName"`
	}
	if err := json.Unmarshal([]byte(reply), &made); err != nil || uuid.Validate(made.FileName) != nil {
		t.Errorf("reply %s, %v", reply, err)
	}
	if got, err := invoke(b, "get", made.FileName, ""); err != nil || got != "x" {
		t.Errorf("got %q, %v", got, err)
	}
	named := mustOpen(t, map[string]string{"rootPath": t.TempDir(), "fileName": "usual"})
	if reply, err := invoke(named, "create", "", "x"); err != nil || reply != `{"fileName":"usual"}` {
		t.Errorf("reply %s, %v", reply, err)
	}
	if got, err := invoke(named, "get", "", ""); err != nil || got != "x" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := invoke(named, "list", "", ""); err != nil || !strings.Contains(got, "/usual") {
		t.Errorf("list %s, %v", got, err)
	}
}

func TestNoWayOut(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"dir": outside, "file": secret, "up": ".."} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	b := mustOpen(t, map[string]string{"rootPath": dir})
	for _, name := range []string{"dir/secret", "file", "../" + filepath.Base(outside) + "/secret", secret, "up/" + filepath.Base(outside) + "/secret"} {
		if got, err := invoke(b, "get", name, ""); err == nil {
			t.Errorf("get %s: %q", name, got)
		}
	}
	for _, name := range []string{"dir/new", "up/new", "dir/secret"} {
		if _, err := invoke(b, "create", name, "x"); err == nil {
			t.Errorf("create %s succeeded", name)
		}
	}
	if _, err := invoke(b, "delete", "dir/secret", ""); err == nil {
		t.Error("deleted a file outside")
	}
	if got, err := invoke(b, "list", "", ""); err != nil || got != "[]" {
		t.Errorf("list %s, %v", got, err)
	}
	if _, err := invoke(b, "list", "dir", ""); err == nil {
		t.Error("listed a directory outside")
	}
	// A link's name can be given to a file: the link goes, what it led to stays.
	if _, err := invoke(b, "create", "file", "new"); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != "secret" {
		t.Errorf("outside is %q, %v", text, err)
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside are %v, %v", entries, err)
	}
}

func TestOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/proc", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "/", "/proc/self", "/var/run/secrets/kubernetes.io", "/sys", file, file + "/x", link} {
		if _, err := openBinding(t, map[string]string{"rootPath": path}); err == nil || !strings.Contains(err.Error(), `"rootPath"`) {
			t.Errorf("%q: error %v", path, err)
		}
	}
	b := mustOpen(t, map[string]string{"rootPath": t.TempDir()})
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, op := range b.Operations() {
		if _, err := invoke(b, op, "x", ""); err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s after Close: %v", op, err)
		}
	}
}

func FuzzFileName(f *testing.F) {
	parent := f.TempDir()
	b := mustOpen(f, map[string]string{"rootPath": filepath.Join(parent, "root")})
	for _, seed := range []string{"a", "../a", "/../../a/..", "a/./b", "\\..\\a", ".", parent, parent + "/root/../a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if len(name) > 200 {
			return
		}
		if _, err := invoke(b, "create", name, "x"); err == nil && name != "" {
			if got, err := invoke(b, "get", name, ""); err != nil || got != "x" {
				t.Fatalf("%q: %q, %v", name, got, err)
			}
			if _, err := invoke(b, "delete", name, ""); err != nil {
				t.Fatalf("%q: %v", name, err)
			}
		}
		entries, err := os.ReadDir(parent)
		if err != nil || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != "root" }) {
			t.Fatalf("%q left %v, %v", name, entries, err)
		}
	})
}
