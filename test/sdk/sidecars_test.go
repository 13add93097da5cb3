package sdk

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/test/servers"
)

const (
	apiToken = "the-api-token" // every request to the sidecars has to carry it
	appToken = "the-app-token" // the sidecars send it to the apps

	startLimit = 30 * time.Second
	stopLimit  = 15 * time.Second
)

// set is the sidecars of one suite.
//
//	caller     has no app; the suite calls all APIs through it
//	httpApp    its app, which the suite hosts, speaks HTTP
//	grpcApp    its app, which the suite hosts, speaks gRPC
//	events...  have apps which the suite hosts, and which get events over HTTP and gRPC
//	doomed...  are there to be shut down by the suite
type set struct {
	caller, httpApp, grpcApp, eventsHTTP, eventsGRPC, doomedHTTP, doomedGRPC *sidecar

	redis string // the address of the server behind the component redis, if there is one
}

// sidecar is one daprd process.
type sidecar struct {
	id, role, protocol, log   string
	http, grpc, internal, app int // app is 0 for none

	cmd    *exec.Cmd
	exited chan struct{} // closed once cmd has ended
}

var components = map[string]string{
	"memory.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: memory}
spec: {type: state.in-memory, version: v1}
`,
	// The path comes from a secret, so that a component that refers to another one is covered.
	"sqlite.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: sqlite}
spec:
  type: state.sqlite
  version: v1
  metadata:
  - name: connectionString
    secretKeyRef: {name: sqlite-path, key: sqlite-path}
auth: {secretStore: secrets}
`,
	"scoped.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: scoped}
spec: {type: state.in-memory, version: v1}
scopes: [%[2]s-caller]
`,
	"secrets.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: secrets}
spec:
  type: secretstores.local.file
  version: v1
  metadata:
  - {name: secretsFile, value: %[1]s/secrets.json}
`,
	"multi.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: multi}
spec:
  type: secretstores.local.file
  version: v1
  metadata:
  - {name: secretsFile, value: %[1]s/secrets.json}
  - {name: multiValued, value: "true"}
`,
}

const configuration = `
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: sdk}
spec:
  nameResolution:
    component: sqlite
    version: v1
    configuration: {connectionString: %[1]s/names.db}
  secrets:
    scopes:
    - storeName: secrets
      deniedSecrets: [forbidden]
`

const secrets = `{"plain": "open sesame", "redis": {"password": "x", "hosts": ["a", "b"]}, "forbidden": "no", "sqlite-path": "%[1]s/state.db"}`

// startSidecars starts the sidecars of a suite, which end with the test.
func startSidecars(t *testing.T, language string) *set {
	t.Helper()
	program := daprd(t)
	dir := t.TempDir()
	redis := redisAddress(t)
	fill := strings.NewReplacer("%[1]s", filepath.ToSlash(dir), "%[2]s", language, "%[3]s", webServer(t), "%[4]s", redis).Replace
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(fill(text)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	resources := writeResources(t, filepath.Join(dir, "resources"), fill, components)
	events := []map[string]string{eventResources}
	if redis != "" {
		events = append(events, redisResources)
	}
	resourcesOfEvents := writeResources(t, filepath.Join(dir, "events"), fill, events...)
	config := write("config.yaml", configuration)
	write("secrets.json", secrets)

	one := func(role, protocol string) *sidecar {
		s := &sidecar{
			id: language + "-" + role, role: role, protocol: protocol, log: filepath.Join(dir, role+".log"), exited: make(chan struct{}),
			http: servers.FreePort(t), grpc: servers.FreePort(t), internal: servers.FreePort(t),
		}
		if protocol != "" {
			s.app = servers.FreePort(t)
		}
		return s
	}
	all := &set{
		caller: one("caller", ""), httpApp: one("http-app", "http"), grpcApp: one("grpc-app", "grpc"),
		eventsHTTP: one("events-http", "http"), eventsGRPC: one("events-grpc", "grpc"),
		doomedHTTP: one("doomed-http", ""), doomedGRPC: one("doomed-grpc", ""), redis: redis,
	}
	for _, s := range all.sidecars() {
		of := resources
		if s == all.eventsHTTP || s == all.eventsGRPC {
			of = resourcesOfEvents
		}
		s.start(t, program, dir, of, config)
	}
	for _, s := range all.sidecars() {
		s.await(t)
	}
	return all
}

func (s *set) sidecars() []*sidecar {
	return append(s.lasting(), s.doomedHTTP, s.doomedGRPC)
}

// lasting are the sidecars that the suite leaves alive.
func (s *set) lasting() []*sidecar {
	return []*sidecar{s.caller, s.httpApp, s.grpcApp, s.eventsHTTP, s.eventsGRPC}
}

// environment tells a suite where its sidecars are: SDK_<ROLE>_ID, _HTTP_PORT, _GRPC_PORT and _APP_PORT for each, the caller's
// ports as an SDK expects them, the tokens, and SDK_REDIS if the component redis is there.
func (s *set) environment() []string {
	env := []string{
		"DAPR_API_TOKEN=" + apiToken, "APP_API_TOKEN=" + appToken,
		"DAPR_HTTP_PORT=" + strconv.Itoa(s.caller.http), "DAPR_GRPC_PORT=" + strconv.Itoa(s.caller.grpc),
	}
	if s.redis != "" {
		env = append(env, "SDK_REDIS="+s.redis)
	}
	for _, c := range s.sidecars() {
		name := "SDK_" + strings.ToUpper(strings.ReplaceAll(c.role, "-", "_"))
		env = append(env, name+"_ID="+c.id, name+"_HTTP_PORT="+strconv.Itoa(c.http), name+"_GRPC_PORT="+strconv.Itoa(c.grpc))
		if c.app != 0 {
			env = append(env, name+"_APP_PORT="+strconv.Itoa(c.app))
		}
	}
	return env
}

// checkEnds checks that the suite has shut the doomed sidecars down, and that the others have lived and now end cleanly.
func (s *set) checkEnds(t *testing.T) {
	t.Helper()
	for _, c := range []*sidecar{s.doomedHTTP, s.doomedGRPC} {
		select {
		case <-c.exited:
		case <-time.After(stopLimit):
			t.Errorf("the sidecar %s was told through its API to shut down and still runs after %s", c.id, stopLimit)
		}
	}
	for _, c := range s.lasting() {
		select {
		case <-c.exited:
			t.Errorf("the sidecar %s ended by itself", c.id)
		default:
			c.tell(t)
		}
	}
	for _, c := range s.lasting() {
		select {
		case <-c.exited:
		case <-time.After(stopLimit):
			t.Errorf("the sidecar %s still runs %s after SIGTERM", c.id, stopLimit)
		}
	}
	for _, c := range s.sidecars() {
		select {
		case <-c.exited:
			if code := c.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("the sidecar %s ended with %s, want exit status 0", c.id, c.cmd.ProcessState)
			}
		default: // reported above
		}
	}
}

func (s *sidecar) tell(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("the sidecar %s: %v", s.id, err)
	}
}

func (s *sidecar) start(t *testing.T, program, dir, resources, config string) {
	t.Helper()
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	args := []string{
		"--app-id", s.id, "--dapr-http-port", strconv.Itoa(s.http), "--dapr-grpc-port", strconv.Itoa(s.grpc),
		"--dapr-internal-grpc-port", strconv.Itoa(s.internal), "--dapr-listen-addresses", "127.0.0.1",
		"--dapr-internal-grpc-listen-address", "127.0.0.1", "--enable-metrics=false",
		"--resources-path", resources, "--config", config, "--log-level", "debug", "--enable-api-logging",
	}
	if s.app != 0 {
		args = append(args, "--app-port", strconv.Itoa(s.app), "--app-protocol", s.protocol)
	}
	s.cmd = exec.Command(program, args...)
	s.cmd.Dir = dir
	s.cmd.Env = append(cleanEnvironment(), "DAPR_API_TOKEN="+apiToken, "APP_API_TOKEN="+appToken)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("cannot start %s: %v", program, err)
	}
	var waiting sync.WaitGroup
	waiting.Go(func() {
		_ = s.cmd.Wait() // checkEnds looks at the state
		close(s.exited)
	})
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // the error of one that has ended says just that
		waiting.Wait()
		if t.Failed() {
			t.Logf("log of the sidecar %s, %s:\n%s", s.id, s.cmd.ProcessState, tail(s.log))
		}
	})
}

// await waits until the sidecar serves its APIs. It is fully ready only once its app is there, too.
func (s *sidecar) await(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	url := fmt.Sprintf("http://127.0.0.1:%d/v1.0/healthz/outbound", s.http)
	for {
		err := get(ctx, url)
		if err == nil {
			return
		}
		select {
		case <-s.exited:
			t.Fatalf("the sidecar %s ended while starting: %s", s.id, s.cmd.ProcessState)
		case <-ctx.Done():
			t.Fatalf("the sidecar %s is not ready after %s: %v", s.id, startLimit, err)
		case <-tick.C:
		}
	}
}

func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		return errors.New(res.Status)
	}
	return nil
}

// tail is at most the last 16 KiB of a file.
func tail(path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-16<<10):]
}

// build is the sidecar program, compiled once for the tests of this package.
var build struct {
	sync.Mutex
	done    bool
	program string
	output  []byte
	err     error
}

// daprd returns the sidecar program.
func daprd(t *testing.T) string {
	t.Helper()
	build.Lock()
	defer build.Unlock()
	if !build.done {
		build.done = true
		build.program = filepath.Join(temp, "daprd")
		cmd := newCommand(t, installLimit, suiteDir(t, filepath.Join("..", "..")), "go", "build", "-o", build.program, "./cmd/daprd")
		build.output, build.err = cmd.CombinedOutput()
	}
	if build.err != nil {
		t.Fatalf("go build ./cmd/daprd: %v\n%s", build.err, build.output)
	}
	return build.program
}

// temp lives as long as the test binary.
var temp string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if temp, err = os.MkdirTemp("", "outrigger-sdk-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(temp)
		defer servers.StopAll()
		return m.Run()
	}())
}
