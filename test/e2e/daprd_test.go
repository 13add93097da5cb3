// Package e2e runs our sidecar as a process of its own, and drives it as apps, browsers, probes and operators do: over HTTP, raw
// TCP, gRPC and signals.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/test/servers"
)

// limit bounds every wait for something that is expected to happen.
const limit = 30 * time.Second

// The version the sidecar is built as.
const (
	version = "9.8.7-e2e"
	commit  = "0123abc"
)

// program is the sidecar built for these tests; TestMain sets it once, before they run.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if runtime.GOOS == "windows" {
		fmt.Println("the end-to-end tests need signals and are skipped on Windows; run them on Linux or macOS")
		return 0
	}
	dir, err := os.MkdirTemp("", "outrigger-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "daprd")
	build := exec.Command("go", "build", "-ldflags", "-X main.version="+version+" -X main.commit="+commit, "-o", program, "outrigger.dev/cmd/daprd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "daprd cannot be built: %v\n%s", err, out)
		return 1
	}
	defer servers.StopAll()
	return m.Run()
}

// daprd is a sidecar process.
type daprd struct {
	t        *testing.T
	id       string
	out      *output
	cmd      *exec.Cmd
	exited   chan struct{}
	started  time.Time
	url      string // of the HTTP API
	grpcAddr string
	client   *http.Client
	conn     *grpc.ClientConn
}

// setup is what a sidecar is started with.
type setup struct {
	t         *testing.T
	id        string
	dir       string // the working directory
	resources string
	args, env []string
	wrapper   []string // what runs the program, nothing for itself
	web, rpc  int      // ports of the APIs, 0 for any that is free
}

type option func(*setup)

// args adds to the command line; of a flag given twice the last one counts.
func args(list ...string) option { return func(s *setup) { s.args = append(s.args, list...) } }

func env(list ...string) option { return func(s *setup) { s.env = append(s.env, list...) } }

// knownPorts chooses the ports of the APIs beforehand, for sidecars whose log does not tell them.
func knownPorts() option {
	return func(s *setup) {
		s.web, s.rpc = servers.FreePort(s.t), servers.FreePort(s.t)
		s.args = append(s.args, "--dapr-http-port", strconv.Itoa(s.web), "--dapr-grpc-port", strconv.Itoa(s.rpc))
	}
}

func appID(id string) option { return func(s *setup) { s.id = id } }

func appPort(port int) option { return args("--app-port", strconv.Itoa(port)) }

// resources writes documents into the resources folder, a file each.
func resources(documents ...string) option {
	return func(s *setup) {
		for _, d := range documents {
			entries, err := os.ReadDir(s.resources)
			if err != nil {
				s.t.Fatal(err)
			}
			write(s.t, filepath.Join(s.resources, fmt.Sprintf("%02d.yaml", len(entries))), d)
		}
	}
}

// resourceDir takes an existing folder in place of the sidecar's own.
func resourceDir(dir string) option { return func(s *setup) { s.resources = dir } }

// config merges a Configuration into the one that all sidecars of the tests have.
func config(document string) option {
	return func(s *setup) {
		path := filepath.Join(s.t.TempDir(), "config.yaml")
		write(s.t, path, document)
		s.args = append(s.args, "--config", path)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// component is the YAML of a component, with metadata as name and value pairs.
func component(name, typ string, metadata ...string) string {
	return componentWith(name, typ, "", metadata...)
}

// componentWith has further lines, indented as members of spec.
func componentWith(name, typ, spec string, metadata ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: %s\nspec:\n  type: %s\n  version: v1\n%s", name, typ, spec)
	if len(metadata) > 0 {
		b.WriteString("  metadata:\n")
	}
	for i := 0; i+1 < len(metadata); i += 2 {
		fmt.Fprintf(&b, "  - name: %s\n    value: %q\n", metadata[i], metadata[i+1])
	}
	return b.String()
}

// memory is a state store called st.
func memory() option { return resources(component("st", "state.in-memory")) }

// launch starts a sidecar, on ports that the system chooses, and does not wait for it. It ends with the test.
func launch(t *testing.T, options ...option) *daprd {
	t.Helper()
	dir := t.TempDir()
	s := &setup{t: t, id: "app", dir: dir, resources: filepath.Join(dir, "resources")}
	if err := os.Mkdir(s.resources, 0o755); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(dir, "base.yaml")
	write(t, base, fmt.Sprintf("spec:\n  nameResolution:\n    component: sqlite\n    version: v1\n    configuration: {connectionString: %q}\n", filepath.Join(dir, "names.db")))
	s.args = []string{
		"--dapr-http-port", "0", "--dapr-grpc-port", "0", "--dapr-listen-addresses", "127.0.0.1", "--dapr-internal-grpc-listen-address", "127.0.0.1",
		"--enable-metrics=false", "--log-as-json", "--config", base,
	}
	for _, o := range options {
		o(s)
	}
	d := &daprd{t: t, id: s.id, out: newOutput(), exited: make(chan struct{}), client: &http.Client{Transport: &http.Transport{}, Timeout: limit}}
	if s.web > 0 {
		d.url, d.grpcAddr = fmt.Sprintf("http://127.0.0.1:%d", s.web), fmt.Sprintf("127.0.0.1:%d", s.rpc)
	}
	line := append(append(s.wrapper, program), append(s.args, "--app-id", s.id, "--resources-path", s.resources)...)
	d.cmd = exec.Command(line[0], line[1:]...)
	d.cmd.Dir = s.dir
	d.cmd.Env = append(cleanEnvironment(), append([]string{"DAPR_HOST_IP=127.0.0.1"}, s.env...)...)
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	d.started = time.Now()
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait() // exit looks at the state
		close(d.exited)
		d.out.wake()
	}()
	t.Cleanup(func() {
		if d.conn != nil {
			_ = d.conn.Close()
		}
		d.client.CloseIdleConnections()
		_ = d.cmd.Process.Kill() // fails when it has ended
		<-d.exited
		if t.Failed() {
			t.Logf("the log of %s:\n%s", d.id, d.out)
		}
	})
	return d
}

// start launches a sidecar and waits until its APIs answer.
func start(t *testing.T, options ...option) *daprd {
	t.Helper()
	d := launch(t, options...)
	d.awaitAPIs()
	return d
}

// awaitAPIs finds the ports in the log, and waits until calls can go out.
func (d *daprd) awaitAPIs() {
	d.t.Helper()
	if d.url == "" {
		d.grpcAddr = "127.0.0.1:" + d.awaitMatch(`"gRPC server is running on port (\d+)`)
		d.url = "http://127.0.0.1:" + d.awaitMatch(`HTTP server is running on port (\d+)`)
	}
	d.await("the APIs to answer", func() bool {
		resp, err := d.client.Get(d.url + "/v1.0/healthz/outbound")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == 204
	})
}

func (d *daprd) awaitHealthy() {
	d.t.Helper()
	d.await("the sidecar to be healthy", func() bool { return d.get("/v1.0/healthz").status == 204 })
}

// await waits until a condition holds.
func (d *daprd) await(what string, ok func() bool) {
	d.t.Helper()
	await(d.t, what, func() bool {
		select {
		case <-d.exited:
			d.t.Fatalf("the sidecar %s ended with %s while the test waited for %s", d.id, d.cmd.ProcessState, what)
		default:
		}
		return ok()
	})
}

// await polls a condition: of another process there is nothing else to wait for.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !holdsWithin(limit, ok) {
		t.Fatalf("waited %s in vain for %s", limit, what)
	}
}

// holdsWithin polls a condition and reports whether it came to hold.
func holdsWithin(d time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(d); !ok(); time.Sleep(3 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// awaitLog waits until the log has a text.
func (d *daprd) awaitLog(text string) {
	d.t.Helper()
	d.awaitMatch("(" + regexp.QuoteMeta(text) + ")")
}

// awaitMatch waits until the log matches, and returns the first group.
func (d *daprd) awaitMatch(pattern string) string {
	d.t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(limit)
	for {
		text, changed := d.out.read()
		if m := re.FindStringSubmatch(text); m != nil {
			return m[1]
		}
		select {
		case <-changed:
		case <-d.exited:
			if text, _ := d.out.read(); !re.MatchString(text) {
				d.t.Fatalf("the sidecar %s ended with %s without logging %q", d.id, d.cmd.ProcessState, pattern)
			}
		case <-deadline:
			d.t.Fatalf("waited %s in vain for the log to have %q", limit, pattern)
		}
	}
}

// signal sends a signal to the process.
func (d *daprd) signal(s os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// exit waits for the end and returns the exit code.
func (d *daprd) exit() int {
	d.t.Helper()
	select {
	case <-d.exited:
		return d.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		d.t.Fatalf("the sidecar still runs after %s", limit)
		return 0
	}
}

// fails expects the process to end by a fatal error that has all the texts.
func (d *daprd) fails(texts ...string) {
	d.t.Helper()
	if code := d.exit(); code != 1 {
		d.t.Errorf("exit code %d, want 1", code)
	}
	fatal := ""
	for _, e := range d.entries() {
		if e["level"] == "fatal" {
			fatal += fmt.Sprint(e["msg"])
		}
	}
	for _, text := range texts {
		if !strings.Contains(fatal, text) {
			d.t.Errorf("the fatal line is %q, want it to have %q", fatal, text)
		}
	}
}

// stop ends the process with SIGTERM, which has to be clean.
func (d *daprd) stop() {
	d.t.Helper()
	d.signal(syscall.SIGTERM)
	if code := d.exit(); code != 0 {
		d.t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	if !strings.Contains(d.out.String(), "Daprd shutdown gracefully") {
		d.t.Error("the log does not end with \"Daprd shutdown gracefully\"")
	}
}

// entries are the log lines, decoded.
func (d *daprd) entries() []map[string]any {
	var all []map[string]any
	for line := range strings.Lines(d.out.String()) {
		var e map[string]any
		if json.Unmarshal([]byte(line), &e) == nil {
			all = append(all, e)
		}
	}
	return all
}

// reply is an HTTP reply with its body read.
type reply struct {
	status int
	header http.Header
	body   string
	close  bool // the server ends the connection
	proto  string
}

func (d *daprd) get(path string, header ...string) reply {
	d.t.Helper()
	return d.do("GET", path, "", header...)
}

func (d *daprd) post(path, body string, header ...string) reply {
	d.t.Helper()
	return d.do("POST", path, body, header...)
}

// do sends a request to the HTTP API; header are names and values in turn.
func (d *daprd) do(method, path, body string, header ...string) reply {
	d.t.Helper()
	r, err := request(d.client, method, d.url+path, strings.NewReader(body), header...)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

func request(client *http.Client, method, url string, body io.Reader, header ...string) (reply, error) {
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return reply{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(text), resp.Close, resp.Proto}, err
}

// chunked hides the length of a body, so that it is sent in chunks.
func chunked(body string) io.Reader { return struct{ io.Reader }{strings.NewReader(body)} }

func (d *daprd) httpAddr() string { return strings.TrimPrefix(d.url, "http://") }

// dapr is a client of the gRPC API.
func (d *daprd) dapr() runtimev1.DaprClient { return runtimev1.NewDaprClient(d.grpc()) }

// grpc is a connection to the gRPC API.
func (d *daprd) grpc() *grpc.ClientConn {
	d.t.Helper()
	if d.conn == nil {
		conn, err := grpc.NewClient(d.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			d.t.Fatal(err)
		}
		d.conn = conn
	}
	return d.conn
}

// within is a context that bounds a call.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// cleanEnvironment is the environment without what would configure a sidecar.
func cleanEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(e string) bool {
		for _, prefix := range []string{"DAPR_", "APP_", "NAMESPACE=", "POD_NAME=", "OTEL_", "OUTRIGGER_", "GOCOVERDIR="} {
			if strings.HasPrefix(e, prefix) {
				return true
			}
		}
		return false
	})
}

// output collects what a process writes.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	o.text.Write(p)
	o.mu.Unlock()
	o.wake()
	return len(p), nil
}

func (o *output) wake() {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
}

// read is what there is, and a channel that is closed when there is more.
func (o *output) read() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String(), o.changed
}

func (o *output) String() string {
	text, _ := o.read()
	return text
}

// errorCode is the code in the body of an error, which has to be JSON.
func (r reply) errorCode() (code, message string) {
	var e struct{ ErrorCode, Message string }
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		return "", r.body
	}
	return e.ErrorCode, e.Message
}

// isError checks a reply against an error of the API; the message has to contain the text.
func (r reply) isError(t *testing.T, status int, code, text string) {
	t.Helper()
	if c, m := r.errorCode(); r.status != status || c != code || !strings.Contains(m, text) || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("got %d %s (%s), want %d %s with %q", r.status, r.body, r.header.Get("Content-Type"), status, code, text)
	}
}

// sorted are the keys of a map in order.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
