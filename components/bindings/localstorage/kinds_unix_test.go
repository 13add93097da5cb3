//go:build unix

package localstorage

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"outrigger.dev/components/bindings/bindingstest"
)

func TestKinds(t *testing.T) {
	dir := t.TempDir()
	b := binding.MustOpen(t, map[string]string{"rootPath": dir})
	// A pipe without a writer must not hold anything up.
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Skipf("no named pipes here: %v", err)
	}
	if _, err := bindingstest.InvokeFile(b, "get", "pipe", ""); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("get of a pipe: %v", err)
	}
	if _, err := bindingstest.InvokeFile(b, "create", "pipe", "x"); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("create over a pipe: %v", err)
	}
	// A file keeps its permissions, and a link within the root is as good as a file.
	private := filepath.Join(dir, "private")
	if err := os.WriteFile(private, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := bindingstest.InvokeFile(b, "create", "private", "new"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("permissions %v, %v", info.Mode(), err)
	}
	if err := os.Symlink("private", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got, err := bindingstest.InvokeFile(b, "get", "link", ""); err != nil || got != "new" {
		t.Errorf("get of a link: %q, %v", got, err)
	}
	if got, err := bindingstest.InvokeFile(b, "list", "", ""); err != nil || got != `["`+dir+`/link","`+private+`"]` {
		t.Errorf("list %s, %v", got, err)
	}
	large, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer large.Close()
	if err := large.Truncate(longestFile + 1); err != nil {
		t.Skipf("no files with holes here: %v", err)
	}
	if _, err := bindingstest.InvokeFile(b, "get", "large", ""); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("get of a large file: %v", err)
	}
}
