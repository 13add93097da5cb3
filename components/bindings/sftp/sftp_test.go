package sftp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/bindingstest"
	"outrigger.dev/components/bindings/sftp"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// binding is the type under test.
var binding = bindingstest.Type[bindings.Output]{Register: sftp.Register, Name: "sftp"}

// properties are those that log in at a server, with a root of the test's own.
func properties(t testing.TB, s *servers.SFTPServer) (own map[string]string, root string) {
	t.Helper()
	root = filepath.Join(s.Root, strings.ReplaceAll(t.Name(), "/", "_"))
	return map[string]string{"address": s.Addr, "username": s.User, "privateKey": string(s.PrivateKey), "hostPublicKey": s.HostKey, "rootPath": root}, root
}

func mustOpen(t testing.TB, s *servers.SFTPServer, more map[string]string) (b bindings.Output, root string) {
	t.Helper()
	own, root := properties(t, s)
	for k, v := range more {
		own[k] = v
	}
	return binding.MustOpen(t, own), root
}

func must(t testing.TB, b bindings.Output, operation, name, data string) string {
	t.Helper()
	got, err := bindingstest.InvokeFile(b, operation, name, data)
	if err != nil {
		t.Fatalf("%s %s: %v", operation, name, err)
	}
	return got
}

func TestOperations(t *testing.T) {
	server := servers.SFTP(t)
	for _, sequential := range []string{"false", "true"} {
		t.Run("sequentialMode "+sequential, func(t *testing.T) {
			b, root := mustOpen(t, server, map[string]string{"sequentialMode": sequential, "fileName": "default.txt"})
			if ops := b.Operations(); !slices.Equal(ops, []string{"create", "get", "delete", "list"}) {
				t.Errorf("operations %v", ops)
			}
			for _, file := range []struct{ name, data, content string }{
				{"a.txt", "plain", "plain"},
				{"sub/deeper/b.json", `{"a": 1}`, `{"a": 1}`},
				{"/sub/c.txt", `"a \"text\" in JSON"`, `a "text" in JSON`},
				{"", "of the component", "of the component"},
				{"with space ünd", "", ""},
				{"binary", "\x00\xff\xfe", "\x00\xff\xfe"},
			} {
				relative := strings.TrimPrefix(file.name, "/")
				if file.name == "" {
					relative = "default.txt"
				}
				var answer struct{ FileName string }
				if text := must(t, b, "create", file.name, file.data); json.Unmarshal([]byte(text), &answer) != nil || answer.FileName != relative {
					t.Errorf("answer %s", text)
				}
				if got := must(t, b, "get", file.name, ""); got != file.content {
					t.Errorf("%s has %q, want %q", file.name, got, file.content)
				}
				if text, err := os.ReadFile(filepath.Join(root, relative)); err != nil || string(text) != file.content {
					t.Errorf("%s has %q on the server, %v", file.name, text, err)
				}
			}
			must(t, b, "create", "a.txt", "cut")
			if got := must(t, b, "get", "a.txt", ""); got != "cut" {
				t.Errorf("a file that was written over has %q", got)
			}
			for name, want := range map[string]string{
				"":           "a.txt binary default.txt sub/ with space ünd",
				"/":          "a.txt binary default.txt sub/ with space ünd",
				"sub":        "c.txt deeper/",
				"sub/deeper": "b.json",
			} {
				if got := list(t, b, name); got != want {
					t.Errorf("list of %q: %s, want %s", name, got, want)
				}
			}
			for _, name := range []string{"a.txt", "sub/c.txt"} {
				if got := must(t, b, "delete", name, ""); got != "" {
					t.Errorf("answer %q", got)
				}
				for _, operation := range []string{"get", "delete"} {
					if _, err := bindingstest.InvokeFile(b, operation, name, ""); err == nil || !strings.Contains(err.Error(), "file not found: "+name) {
						t.Errorf("%s after delete: %v", operation, err)
					}
				}
			}
			if got := list(t, b, "sub"); got != "deeper/" {
				t.Errorf("list after delete: %s", got)
			}
			large := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
			must(t, b, "create", "large", string(large))
			if got := must(t, b, "get", "large", ""); got != string(large) {
				t.Errorf("%d bytes came back as %d others", len(large), len(got))
			}
		})
	}
}

// list gives the names in order, those of directories with a slash.
func list(t testing.TB, b bindings.Output, name string) string {
	t.Helper()
	var entries []struct {
		FileName    string
		IsDirectory bool
	}
	if text := must(t, b, "list", name, ""); json.Unmarshal([]byte(text), &entries) != nil {
		t.Fatalf("list: %s", text)
	}
	var names []string
	for _, e := range entries {
		if e.IsDirectory {
			e.FileName += "/"
		}
		names = append(names, e.FileName)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestNothingLeavesTheRoot(t *testing.T) {
	t.Run("OpenSSH", func(t *testing.T) {
		b, root := mustOpen(t, servers.SFTP(t), nil)
		nothingLeaves(t, b, root)
	})
	// Its real paths are those that it is asked for, links or not.
	t.Run("server without real paths", func(t *testing.T) {
		address, key := passwordServer(t, false)
		root := filepath.Join(t.TempDir(), "root")
		b, err := binding.Open(t, map[string]string{"address": address, "username": "ann", "password": "s3:cr@t", "hostPublicKey": key, "rootPath": root})
		if err != nil {
			t.Fatal(err)
		}
		nothingLeaves(t, b, root)
	})
}

func nothingLeaves(t *testing.T, b bindings.Output, root string) {
	outside := root + "-outside" // its path begins with the root's
	if err := os.MkdirAll(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o666); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"dir": outside, "file": secret, "dangling": filepath.Join(outside, "new"), "inside": filepath.Join(root, "real"),
		"up": "../" + filepath.Base(outside) + "/secret", "links": "deep/er", "over": "links/../../../" + filepath.Base(outside) + "/secret", "round": "links/.././round",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	must(t, b, "create", "deep/er/file", "x")
	for _, name := range []string{"dir", "dir/secret", "dir/new/deep", "file", "dangling", "up", "over"} {
		for _, operation := range []string{"create", "get", "list", "delete"} {
			if _, err := bindingstest.InvokeFile(b, operation, name, "mine"); err == nil || !strings.Contains(err.Error(), "rootPath") {
				t.Errorf("%s %s: %v", operation, name, err)
			}
		}
	}
	// ".." stops at the root.
	must(t, b, "create", "../../"+filepath.Base(outside)+"/secret", "mine")
	if _, err := os.Stat(filepath.Join(root, filepath.Base(outside), "secret")); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != "secret" {
		t.Errorf("the secret is now %q, %v", text, err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside are %v, %v", entries, err)
	}
	must(t, b, "create", "round", "a link is followed from where it is")
	if text, err := os.ReadFile(filepath.Join(root, "deep", "round")); err != nil || len(text) == 0 {
		t.Error(err)
	}
	must(t, b, "create", "inside", "a link within the root is followed")
	if text, err := os.ReadFile(filepath.Join(root, "real")); err != nil || len(text) == 0 {
		t.Error(err)
	}
}

func TestRequestErrors(t *testing.T) {
	b, _ := mustOpen(t, servers.SFTP(t), nil)
	must(t, b, "create", "dir/file", "x")
	for _, test := range []struct{ operation, name, want string }{
		{"create", "", `"fileName"`},
		{"get", "", `"fileName"`},
		{"delete", "..", `"fileName"`},
		{"get", "a\x00b", "character 0"},
		{"create", "dir", "directory"},
		{"get", "dir", "directory"},
		{"create", "dir/file/deeper", "dir/file/deeper"},
		{"list", "nowhere", "not found: nowhere"},
		{"delete", "dir", `cannot delete "dir"`}, // it is not empty
		{"copy", "a", `"copy"`},
	} {
		if _, err := bindingstest.InvokeFile(b, test.operation, test.name, "x"); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %q: %v, want an error with %s", test.operation, test.name, err, test.want)
		}
	}
	if got := must(t, b, "get", "dir/file", ""); got != "x" {
		t.Errorf("the file has %q", got)
	}
}

// The binding goes on after the server was away, and requests meanwhile say what is wrong.
func TestReconnects(t *testing.T) {
	server := servers.SFTP(t, servers.Own())
	b, _ := mustOpen(t, server, nil)
	must(t, b, "create", "file", "x")
	for range 2 {
		server.Kill()
		if _, err := bindingstest.InvokeFile(b, "get", "file", ""); err == nil || !strings.Contains(err.Error(), server.Addr) {
			t.Errorf("without a server: %v", err)
		}
		server.Start()
		if got := must(t, b, "get", "file", ""); got != "x" {
			t.Errorf("got %q", got)
		}
		server.Kill()
		server.Start()
		must(t, b, "create", "file", "x") // on a connection that is gone
	}
	server.Kill()
	server.Start()
	must(t, b, "delete", "file", "")
}

func TestConcurrentRequests(t *testing.T) {
	b, _ := mustOpen(t, servers.SFTP(t), nil)
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			name, data := fmt.Sprintf("%d/file", i%7), strings.Repeat(fmt.Sprint(i%7), 1000)
			if _, err := bindingstest.InvokeFile(b, "create", name+fmt.Sprint(i), data); err != nil {
				t.Error(err)
				return
			}
			if got, err := bindingstest.InvokeFile(b, "get", name+fmt.Sprint(i), ""); err != nil || got != data {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if _, err := b.Invoke(ctx, bindings.Request{Operation: "get", Metadata: map[string]string{"fileName": name + fmt.Sprint(i)}}); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		})
	}
	wg.Wait()
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := bindingstest.InvokeFile(b, "get", "0/file0", ""); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: %v", err)
	}
	limit := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for runtime.NumGoroutine() > before {
		select {
		case <-limit:
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, before there were %d\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		case <-tick.C:
		}
	}
}

// Requests that are given up half way disturb no others.
func TestRequestsGivenUp(t *testing.T) {
	b, _ := mustOpen(t, servers.SFTP(t), nil)
	large := strings.Repeat("0123456789abcdef", 1<<15)
	must(t, b, "create", "large", large)
	var hasty, patient sync.WaitGroup
	stop := make(chan struct{})
	for i := range 6 {
		hasty.Go(func() {
			for n := time.Duration(0); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i+1)*(n%7)*200*time.Microsecond)
				if got, err := b.Invoke(ctx, bindings.Request{Operation: "get", Metadata: map[string]string{"fileName": "large"}}); err == nil && string(got.Data) != large || err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("given up: %v", err)
				}
				cancel()
			}
		})
	}
	for i := range 4 {
		patient.Go(func() {
			name := fmt.Sprint("file", i)
			for n := range 25 {
				data := fmt.Sprint(i, "-", n)
				if _, err := bindingstest.InvokeFile(b, "create", name, data); err != nil {
					t.Error(err)
				} else if got, err := bindingstest.InvokeFile(b, "get", name, ""); err != nil || got != data {
					t.Errorf("got %q, %v", got, err)
				}
			}
		})
	}
	patient.Wait()
	close(stop)
	hasty.Wait()
}

// A server that stops to answer holds up neither a request whose time is over nor Close.
func TestServerThatHangs(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	own, _ := properties(t, servers.SFTP(t))
	own["address"] = silent.Addr().String()
	ctx, cancel := context.WithTimeout(bindingstest.Within(t), 100*time.Millisecond)
	defer cancel()
	if _, err := binding.Descriptor(t).Open(ctx, components.Instance{Properties: own}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), silent.Addr().String()) {
		t.Errorf("open: %v", err)
	}
}
