package localstorage

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"outrigger.dev/components/bindings/bindingstest"
)

// binding is the type under test.
var binding = bindingstest.Type[*Binding]{Register: Register, Name: "localstorage"}

func TestFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for it")
	b := binding.MustOpen(t, map[string]string{"rootPath": dir})
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
		got, err := bindingstest.InvokeFile(b, tc.operation, tc.name, tc.data)
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
	b := binding.MustOpen(t, map[string]string{"rootPath": t.TempDir()})
	reply, err := bindingstest.InvokeFile(b, "create", "", "x")
	if err != nil {
		t.Fatal(err)
	}
	var made struct {
		FileName string `json:"fileName"`
	}
	if err := json.Unmarshal([]byte(reply), &made); err != nil || uuid.Validate(made.FileName) != nil {
		t.Errorf("reply %s, %v", reply, err)
	}
	if got, err := bindingstest.InvokeFile(b, "get", made.FileName, ""); err != nil || got != "x" {
		t.Errorf("got %q, %v", got, err)
	}
	named := binding.MustOpen(t, map[string]string{"rootPath": t.TempDir(), "fileName": "usual"})
	if reply, err := bindingstest.InvokeFile(named, "create", "", "x"); err != nil || reply != `{"fileName":"usual"}` {
		t.Errorf("reply %s, %v", reply, err)
	}
	if got, err := bindingstest.InvokeFile(named, "get", "", ""); err != nil || got != "x" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := bindingstest.InvokeFile(named, "list", "", ""); err != nil || !strings.Contains(got, "/usual") {
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
	b := binding.MustOpen(t, map[string]string{"rootPath": dir})
	for _, name := range []string{"dir/secret", "file", "../" + filepath.Base(outside) + "/secret", secret, "up/" + filepath.Base(outside) + "/secret"} {
		if got, err := bindingstest.InvokeFile(b, "get", name, ""); err == nil {
			t.Errorf("get %s: %q", name, got)
		}
	}
	for _, name := range []string{"dir/new", "up/new", "dir/secret"} {
		if _, err := bindingstest.InvokeFile(b, "create", name, "x"); err == nil {
			t.Errorf("create %s succeeded", name)
		}
	}
	if _, err := bindingstest.InvokeFile(b, "delete", "dir/secret", ""); err == nil {
		t.Error("deleted a file outside")
	}
	if got, err := bindingstest.InvokeFile(b, "list", "", ""); err != nil || got != "[]" {
		t.Errorf("list %s, %v", got, err)
	}
	if _, err := bindingstest.InvokeFile(b, "list", "dir", ""); err == nil {
		t.Error("listed a directory outside")
	}
	// A link's name can be given to a file: the link goes, what it led to stays.
	if _, err := bindingstest.InvokeFile(b, "create", "file", "new"); err != nil {
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
		if _, err := binding.Open(t, map[string]string{"rootPath": path}); err == nil || !strings.Contains(err.Error(), `"rootPath"`) {
			t.Errorf("%q: error %v", path, err)
		}
	}
	b := binding.MustOpen(t, map[string]string{"rootPath": t.TempDir()})
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, op := range b.Operations() {
		if _, err := bindingstest.InvokeFile(b, op, "x", ""); err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s after Close: %v", op, err)
		}
	}
}

func FuzzFileName(f *testing.F) {
	parent := f.TempDir()
	b := binding.MustOpen(f, map[string]string{"rootPath": filepath.Join(parent, "root")})
	for _, seed := range []string{"a", "../a", "/../../a/..", "a/./b", "\\..\\a", ".", parent, parent + "/root/../a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if len(name) > 200 {
			return
		}
		if _, err := bindingstest.InvokeFile(b, "create", name, "x"); err == nil && name != "" {
			if got, err := bindingstest.InvokeFile(b, "get", name, ""); err != nil || got != "x" {
				t.Fatalf("%q: %q, %v", name, got, err)
			}
			if _, err := bindingstest.InvokeFile(b, "delete", name, ""); err != nil {
				t.Fatalf("%q: %v", name, err)
			}
		}
		entries, err := os.ReadDir(parent)
		if err != nil || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != "root" }) {
			t.Fatalf("%q left %v, %v", name, entries, err)
		}
	})
}
