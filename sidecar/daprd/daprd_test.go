package daprd

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/telemetry/logging/logtest"
)

// output is what a program wrote so far.
type output struct{ logtest.Output }

// await returns when the output has text n times.
func (o *output) await(t *testing.T, text string, n int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for strings.Count(o.String(), text) < n {
		if time.Now().After(deadline) {
			t.Fatalf("%q did not appear %d times in:\n%s", text, n, o)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// running is a program in this process.
type running struct {
	stdout, stderr output
	signals        chan os.Signal
	code           chan int
}

// launch starts a sidecar on free ports with further arguments.
func launch(t *testing.T, env map[string]string, args ...string) *running {
	t.Helper()
	r := &running{signals: make(chan os.Signal, 4), code: make(chan int, 1)}
	args = append([]string{
		"--app-id", "test", "--dapr-http-port", "0", "--dapr-grpc-port", "0", "--metrics-port", "0",
		"--metrics-listen-address", "127.0.0.1", "--dapr-listen-addresses", "127.0.0.1", "--dapr-internal-grpc-listen-address", "127.0.0.1",
	}, args...)
	if env == nil {
		env = map[string]string{}
	}
	if env[DefaultResolverVariable] == "" {
		env[DefaultResolverVariable] = filepath.Join(t.TempDir(), "names.db")
	}
	go func() {
		r.code <- Main(Process{
			Build: Build{Version: "1.2.3", Commit: "abc"}, Args: args, Stdout: &r.stdout, Stderr: &r.stderr, Signals: r.signals,
			LookupEnv: func(name string) (string, bool) { value, ok := env[name]; return value, ok },
		})
	}()
	return r
}

func (r *running) exit(t *testing.T, want int) {
	t.Helper()
	select {
	case code := <-r.code:
		if code != want {
			t.Fatalf("exit code %d, want %d; output:\n%s%s", code, want, &r.stdout, &r.stderr)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("the program does not end; output:\n%s", &r.stdout)
	}
}

const initialized = "dapr initialized. Status: Running."

func TestMainWithoutServing(t *testing.T) {
	tests := []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"version", []string{"--version"}, 0, "1.2.3\n", ""},
		{"version before build info", []string{"--build-info", "--version"}, 0, "1.2.3\n", ""},
		{"build info", []string{"--build-info"}, 0, "Version: 1.2.3\nGit Commit: abc\nGit Version: v\n", ""},
		{"help", []string{"--help"}, 0, "--dapr-http-port", ""},
		{"unknown flag", []string{"--nope"}, 2, "", "unknown flag: --nope"},
		{"usage with an unknown flag", []string{"--nope"}, 2, "", "--dapr-http-port"},
		{"bad number", []string{"--app-max-concurrency", "x"}, 2, "", "app-max-concurrency"},
		{"bad bool", []string{"--enable-metrics=maybe"}, 2, "", "enable-metrics"},
		{"deprecated", []string{"--components-path", "x", "--version"}, 0, "1.2.3", "Flag --components-path has been deprecated, use --resources-path"},
		{"without effect", []string{"--reminders-service", "x", "--version"}, 0, "1.2.3", "Flag --reminders-service has been deprecated, flag no longer has any effect"},
		{"log level", []string{"--log-level", "loud"}, 1, `level=fatal msg="invalid value for --log-level: loud"`, ""},
		{"log file", []string{"--log-file", "/nonexistent/x"}, 1, "/nonexistent/x", ""},
		{"quantity", []string{"--max-body-size", "4MB"}, 1, "Failed to parse flags: ", ""},
		{"app id", nil, 1, "Fatal error from runtime: parameter app-id cannot be empty", ""},
		{"app id with dots", []string{"--app-id", "a.b"}, 1, "Fatal error from runtime: parameter app-id cannot contain dots", ""},
		{"mode", []string{"--mode", "moon"}, 1, "Fatal error from runtime: invalid mode: moon", ""},
		{"mTLS without an authority", []string{"--app-id", "a", "--enable-mtls", "--metrics-port", "0"}, 1, "Fatal error from runtime: mTLS needs the address of Sentry", ""},
		{"configuration", []string{"--app-id", "a", "--metrics-port", "0", "--config", "./nope"}, 1, "Fatal error from runtime: error loading configuration: stat ./nope: no such file or directory", ""},
		{"start lines", []string{"--log-level", "INFO"}, 1, "Starting Dapr Runtime -- version 1.2.3 -- commit abc", ""},
		{"level line", []string{"--log-level", "INFO"}, 1, "Log level set to: info", ""},
		{"stray argument", []string{"--enable-metrics", "false"}, 1, "are ignored", ""},
		{"graceful without limit", []string{"--dapr-graceful-shutdown-seconds", "0"}, 1, "Graceful shutdown timeout is infinite", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := Main(Process{
				Build: Build{Version: "1.2.3", Commit: "abc", GitVersion: "v"}, Args: tt.args, Stdout: &stdout, Stderr: &stderr,
				LookupEnv: func(string) (string, bool) { return "", false }, Signals: make(chan os.Signal),
			})
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(stdout.String(), tt.stdout) {
				t.Errorf("stdout has no %q:\n%s", tt.stdout, &stdout)
			}
			if !strings.Contains(stderr.String(), tt.stderr) || tt.stderr == "" && stderr.Len() > 0 {
				t.Errorf("stderr is not %q:\n%s", tt.stderr, &stderr)
			}
		})
	}
}

func TestSignalEndsGracefully(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			r := launch(t, nil)
			r.stdout.await(t, initialized, 1)
			r.signals <- sig
			r.exit(t, 0)
			r.stdout.await(t, "Received signal '"+sig.String()+"'; beginning shutdown", 1)
			lines := strings.Split(strings.TrimSpace(r.stdout.String()), "\n")
			if last := lines[len(lines)-1]; !strings.Contains(last, "Daprd shutdown gracefully") {
				t.Errorf("the last line is %s", last)
			}
		})
	}
}

func TestSignalWhileStarting(t *testing.T) {
	r := launch(t, nil)
	r.signals <- syscall.SIGTERM
	r.exit(t, 0)
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	r := launch(t, nil, "--dapr-block-shutdown-duration", "10m")
	r.stdout.await(t, initialized, 1)
	r.signals <- syscall.SIGTERM
	r.stdout.await(t, "Blocking graceful shutdown", 1)
	r.signals <- syscall.SIGINT
	r.exit(t, 1)
	r.stdout.await(t, "Received signal 'interrupt' during shutdown; exiting immediately", 1)
}

func TestHangupRestarts(t *testing.T) {
	dir := t.TempDir()
	r := launch(t, nil, "--resources-path", dir)
	r.stdout.await(t, initialized, 1)
	component := "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: added}\nspec: {type: state.in-memory, version: v1}\n"
	if err := os.WriteFile(filepath.Join(dir, "added.yaml"), []byte(component), 0o600); err != nil {
		t.Fatal(err)
	}
	r.signals <- syscall.SIGHUP
	r.stdout.await(t, initialized, 2)
	r.stdout.await(t, "Received signal 'hangup'; restarting", 1)
	r.stdout.await(t, "Component loaded: added (state.in-memory/v1)", 1)
	r.signals <- syscall.SIGTERM
	r.exit(t, 0)
	if strings.Count(r.stdout.String(), "Daprd shutdown gracefully") != 1 {
		t.Errorf("want one clean end:\n%s", &r.stdout)
	}
}

func TestFailureAfterHangupIsFatal(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := launch(t, nil, "--config", config)
	r.stdout.await(t, initialized, 1)
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	r.signals <- syscall.SIGHUP
	r.exit(t, 1)
	r.stdout.await(t, "Fatal error from runtime: error loading configuration: ", 1)
}

func TestShutdownAPI(t *testing.T) {
	for _, tt := range []struct {
		force string
		code  int
	}{{"false", 0}, {"TRUE", 1}} {
		t.Run(tt.force, func(t *testing.T) {
			r := launch(t, nil)
			r.stdout.await(t, initialized, 1)
			port := regexp.MustCompile(`HTTP server is running on port (\d+)`).FindStringSubmatch(r.stdout.String())
			if port == nil {
				t.Fatalf("no port in the log:\n%s", &r.stdout)
			}
			req, err := http.NewRequest(http.MethodPost, "http://127.0.0.1:"+port[1]+"/v1.0/shutdown", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("dapr-force-shutdown", tt.force)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusNoContent {
				t.Errorf("status %s", resp.Status)
			}
			r.exit(t, tt.code)
		})
	}
}

func TestBusyMetricsPortIsFatal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r := launch(t, nil, "--metrics-port", port)
	r.exit(t, 1)
	r.stdout.await(t, "Fatal error from runtime: ", 1)
}

func TestLogFileAsJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daprd.log")
	r := launch(t, nil, "--log-file", path, "--log-as-json")
	r.signals <- syscall.SIGTERM
	r.exit(t, 0)
	if r.stdout.String() != "" {
		t.Errorf("stdout is not empty:\n%s", &r.stdout)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(data), "\n")
	var entry map[string]string
	if err := json.Unmarshal([]byte(first), &entry); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"app_id": "test", "level": "info", "msg": "Starting Dapr Runtime -- version 1.2.3 -- commit abc", "ver": "1.2.3", "scope": "dapr.runtime"} {
		if entry[key] != want {
			t.Errorf("%s is %q, want %q", key, entry[key], want)
		}
	}
}

func TestDefaultResolver(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.yaml")
	text := "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec: {nameResolution: {component: mdns}}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"from the environment", nil, "Initialized name resolution to sqlite"},
		{"a Configuration wins", []string{"--config", config}, "Initialized name resolution to mdns"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := launch(t, nil, tt.args...)
			r.stdout.await(t, tt.want, 1)
			r.signals <- syscall.SIGTERM
			r.exit(t, 0)
		})
	}
}

func TestWait(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1.0/healthz/outbound" {
			t.Errorf("path %s", r.URL.Path)
		}
		asked++
		if asked < 3 {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := Main(Process{Args: []string{"--wait", "--dapr-http-port", port}, Stdout: &stdout, Stderr: &stderr}); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if asked != 3 || strings.Count(stderr.String(), "not ready yet") != 1 {
		t.Errorf("asked %d times, said:\n%s", asked, &stderr)
	}
}
