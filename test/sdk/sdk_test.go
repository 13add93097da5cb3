// Package sdk runs the official Dapr SDKs, as their registries have them, against our sidecar.
//
// Each SDK has a suite of its own, in its own language, module and test runner (go/, java/, js/, python/), which the tests here
// install once, and start with a set of sidecars to work on. The Go SDK is a module of its own for one more reason: it
// registers the same protobuf names as our api/gen, so one program cannot hold both.
package sdk

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	suiteLimit   = 150 * time.Second // one suite, once everything is installed and compiled; a quarter of it is usual
	installLimit = 8 * time.Minute   // the first time, from the registries
)

func TestGo(t *testing.T) {
	t.Parallel()
	program := installGo(t)
	runSuite(t, "go", slices.Concat(blocks, []role{jobsGRPC}), program, "-test.v", "-test.timeout="+suiteLimit.String())
}

func TestJavaScript(t *testing.T) {
	t.Parallel()
	node := installJavaScript(t)
	runSuite(t, "js", slices.Concat(blocks, actorHosts), node, "--test", "--test-force-exit", "--test-concurrency=4", "--test-timeout=60000", "--test-reporter=spec")
}

func TestPython(t *testing.T) {
	t.Parallel()
	python := installPython(t)
	runSuite(t, "python", slices.Concat(blocks, []role{jobsGRPC}), python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--ignore=test_actors.py")
}

func TestPythonActors(t *testing.T) {
	t.Parallel()
	python := installPython(t)
	runSuite(t, "python", slices.Concat([]role{caller, actorStream}, actorHosts), python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_actors.py")
}

func TestJava(t *testing.T) {
	t.Parallel()
	java, classPath := installJava(t)
	hosts := slices.Clone(actorHosts)
	for i := range hosts {
		hosts[i].open = true // the SDK's actors send no token
	}
	// Little of it runs for long: it is faster when it is compiled with little care.
	runSuite(t, "java", slices.Concat([]role{caller, jobsHTTP}, hosts), java, "-XX:TieredStopAtLevel=1", "-cp", classPath, "outrigger.sdk.Suite")
}

// runSuite starts the sidecars of a suite, runs it in its folder with their ports in its environment, and checks that the
// sidecars ended as they were told to.
func runSuite(t *testing.T, language string, roles []role, program string, args ...string) {
	t.Helper()
	set := startSidecars(t, language, roles)
	cmd := newCommand(t, suiteLimit, suiteDir(t, language), program, args...)
	cmd.Env = append(cmd.Env, set.environment()...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	// The runners' own lines, also of what they skipped, are there with -v.
	t.Logf("%s after %s:\n%s", strings.Join(cmd.Args, " "), time.Since(start).Round(time.Millisecond), out.Bytes())
	if err != nil {
		t.Errorf("the %s suite failed: %v", language, err)
	}
	set.checkEnds(t)
}

// newCommand is a command with a bound, which also ends before the test binary's own.
func newCommand(t *testing.T, limit time.Duration, dir, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	if deadline, ok := t.Deadline(); ok {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, deadline.Add(-15*time.Second))
		t.Cleanup(stop)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = cleanEnvironment()
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// cleanEnvironment is ours without what steers a sidecar or an SDK, or says that we are a Go test.
func cleanEnvironment() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "DAPR_"), strings.HasPrefix(name, "SDK_"), name == "APP_API_TOKEN", name == "APP_ID", name == "APP_PORT",
			name == "NAMESPACE", name == "GOWORK", name == "NODE_OPTIONS", name == "NODE_TEST_CONTEXT", name == "PYTHONPATH", name == "VIRTUAL_ENV", name == "PYTEST_ADDOPTS":
		default:
			env = append(env, kv)
		}
	}
	return append(env, "GOWORK=off")
}

func suiteDir(t *testing.T, name string) string {
	t.Helper()
	dir, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
