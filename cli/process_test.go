//go:build unix

package cli

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/test/servers"
)

func freePort(t *testing.T) string { return strconv.Itoa(servers.FreePort(t)) }

// id is an app id of the test's own, since every test sees all sidecars of the machine.
func id(name string) string {
	return name + "-" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(ids.Add(1), 10)
}

// ids are how many were given: two tests that choose the same name must not meet.
var ids atomic.Int64

func TestRunOnBareMachine(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	p := dapr(t, home, "state", "run", "--", self(t))
	p.exit(0, "Starting Dapr with id ", `read back "kept" <nil>`, "Component loaded: statestore (state.sqlite/v1)", "Component loaded: pubsub (pubsub.jetstream/v1)", "Initialized name resolution to sqlite",
		"Daprd shutdown gracefully", "Exited Dapr successfully", "Exited App successfully")
	for _, file := range []string{"components/statestore.yaml", "components/pubsub.yaml", "config.yaml", "data/state.db", "data/nameresolution.db"} {
		if _, err := os.Stat(filepath.Join(home, ".dapr", file)); err != nil {
			t.Error(err)
		}
	}
	// What is there is kept as it is.
	component := filepath.Join(home, ".dapr", "components", "statestore.yaml")
	if err := os.Remove(component); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(home, ".dapr", "config.yaml"), "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: mine}\n")
	p = dapr(t, home, "fail", "run", "--", self(t))
	p.exit(1, "The App process exited with error code: 3", "Initialized name resolution to sqlite")
	if _, err := os.Stat(component); err == nil {
		t.Error("the state store was written into an existing directory")
	}
}

func TestRunWithOwnResolver(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	config := write(t, filepath.Join(home, "own.yaml"), "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec: {nameResolution: {component: mdns}}\n")
	dapr(t, home, "fail", "run", "--config", config, "--", self(t)).exit(1, "Initialized name resolution to mdns")
}

func TestRunReportsSidecarThatCannotStart(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	broken := filepath.Join(home, "broken")
	write(t, filepath.Join(broken, "x.yaml"), "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: x}\nspec: {type: state.sqlite, version: v1}\n")
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"component", []string{"--resources-path", broken}, []string{"Dapr ended because: process component x error: ", "connectionString"}},
		{"component, with an app port", []string{"--resources-path", broken, "--app-port", freePort(t)}, []string{"Dapr ended because: process component x error: "}},
		{"configuration", []string{"--config", "/nonexistent.yaml"}, []string{"The daprd process exited with error code: exit status 1", "Dapr ended because: error loading configuration: stat /nonexistent.yaml"}},
		{"log level", []string{"--log-level", "loud"}, []string{"Dapr ended because: invalid value for --log-level: loud"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := dapr(t, home, "wait", append(append([]string{"run"}, tt.args...), "--", self(t))...)
			p.exit(1, tt.want...)
			// An app with a port is held back only for a moment, since its sidecar waits for it.
			if !slices.Contains(tt.args, "--app-port") && strings.Contains(p.out.String(), "app wait") {
				t.Error("the app was started all the same")
			}
		})
	}
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	broken := filepath.Join(home, "broken")
	write(t, filepath.Join(broken, "x.yaml"), "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: x}\nspec: [1]\n")
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--resources-path", "/nonexistent"}, 1, "error validating resources path"},
		{[]string{"--resources-path", broken}, 1, "error validating components in resources path"},
		{[]string{"--dapr-http-port", taken}, 1, "invalid configuration for HTTPPort. Port " + taken + " is not available"},
		{[]string{"--max-body-size", "4MB"}, 1, "invalid max request body size: "},
		{[]string{"--read-buffer-size", "x"}, 1, "invalid http read buffer size: "},
		{[]string{"--stop-with", "x"}, 1, "--stop-with names an app of a run file"},
		{[]string{"-k"}, 1, "running on Kubernetes is not available in this version"},
		{[]string{"-f", filepath.Join(home, "nope.yaml")}, 1, "Error getting apps from config file: error in getting the file info"},
		{[]string{"--", "/nonexistent/command"}, 1, "Failed to find command /nonexistent/command"},
		{[]string{"--nope"}, 255, "Error: unknown flag: --nope"},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			dapr(t, home, "", append([]string{"run"}, tt.args...)...).exit(tt.code, tt.want)
		})
	}
}

func TestRunEndsGracefullyOnSignal(t *testing.T) {
	t.Parallel()
	p := dapr(t, t.TempDir(), "wait", "run", "--", self(t))
	p.await("You're up and running! Both Dapr and your app logs will appear here.")
	p.await("app wait")
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.exit(0, "terminated signal received: shutting down", "app was asked to end", "Daprd shutdown gracefully", "Exited Dapr successfully", "Exited App successfully")
}

func TestSecondSignalKills(t *testing.T) {
	t.Parallel()
	p := dapr(t, t.TempDir(), "stubborn", "run", "--", self(t))
	p.await("app stubborn")
	p.await("You're up and running!")
	start := time.Now()
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	p.await("app stays")
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-p.done
	if took := time.Since(start); took >= appGrace {
		t.Errorf("it took %s, as if there had been no second signal", took)
	}
}

// sidecarPID is the process of the sidecar of an app, 0 if it is not listed.
func sidecarPID(t *testing.T, appID string) int {
	t.Helper()
	found, err := findInstances(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range found {
		if i.AppID == appID {
			return i.DaprdPID
		}
	}
	return 0
}

func TestSidecarsEndEndsApp(t *testing.T) {
	t.Parallel()
	app := id("lost")
	p := dapr(t, t.TempDir(), "wait", "run", "--app-id", app, "--", self(t))
	p.await("You're up and running!")
	p.await("app wait")
	if err := syscall.Kill(sidecarPID(t, app), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.exit(1, "The daprd process exited with error code: signal: killed", "app was asked to end")
}

func TestSidecarEndsWithKilledCommand(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells a process that its parent has died")
	}
	t.Parallel()
	app := id("orphan")
	dir := socketDir(t)
	p := dapr(t, t.TempDir(), "wait", "run", "--app-id", app, "-u", dir, "--", self(t))
	p.await("You're up and running!")
	p.await("app wait")
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.until("the sidecar ends", func() bool { return sidecarPID(t, app) == 0 })
	// The log has nowhere to go any more; only an end in good order removes the sockets.
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("sockets are left: %v %v", left, err)
	}
	p.await("app was asked to end")
}

func TestListInvokeAndStop(t *testing.T) {
	t.Parallel()
	home, app, port := t.TempDir(), id("server"), freePort(t)
	p := dapr(t, home, "server", "run", "--app-id", app, "--app-port", port, "--", self(t), "an argument")
	p.await("You're up and running!")
	p.await("dapr initialized")

	list := dapr(t, home, "", "list", "-o", "json")
	list.exit(0)
	var found []instanceInfo
	if err := json.Unmarshal([]byte(list.out.String()), &found); err != nil {
		t.Fatal(err)
	}
	listed := instanceInfo{}
	for _, i := range found {
		if i.AppID == app {
			listed = i
		}
	}
	if strconv.Itoa(listed.AppPort) != port || listed.CLIPID != p.Process.Pid || listed.AppPID == 0 || listed.Age == "" || len(listed.Command) != commandWidth || !strings.HasSuffix(listed.Command, "...") {
		t.Errorf("listed as %+v", listed)
	}
	dapr(t, home, "", "list").exit(0, "APP ID", app)
	dapr(t, home, "", "list", "-o", "xml").exit(1, "An invalid output format was specified.")

	dapr(t, home, "", "invoke", "--app-id", app, "--method", "hello", "--data", `{"a":1}`).exit(0, `POST /hello {"a":1}`, "App invoked successfully")
	dapr(t, home, "", "invoke", "-a", app, "-m", "a/b", "-v", "get").exit(0, "GET /a/b")
	dapr(t, home, "", "invoke", "-a", app, "-m", "fails").exit(1, "error invoking app "+app+": 418 ")
	dapr(t, home, "", "invoke", "-a", "nobody", "-m", "x").exit(1, "app ID nobody not found")
	dapr(t, home, "", "invoke", "-a", app).exit(255, `required flag(s) "method" not set`)

	dapr(t, home, "", "stop", "nobody").exit(0, "failed to stop app id nobody: couldn't find app id nobody")
	dapr(t, home, "", "stop", "--app-id", app).exit(0, "app stopped successfully: "+app)
	p.exit(0, "app was asked to end", "Daprd shutdown gracefully")
}

// socketDir is a directory with a short path, as sockets need.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestUnixDomainSocket(t *testing.T) {
	t.Parallel()
	home, app := t.TempDir(), id("socket")
	dir := socketDir(t)
	p := dapr(t, home, "wait", "run", "--app-id", app, "-u", dir, "--", self(t))
	p.await("You're up and running!")
	p.await("HTTP Socket: " + filepath.Join(dir, "dapr-"+app+"-http.socket"))
	dapr(t, home, "", "stop", app).exit(0, "app stopped successfully")
	p.exit(0)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("sockets are left: %v %v", left, err)
	}
}

// runFileFor writes a run file with a server, and a caller if wanted.
func runFileFor(t *testing.T, caller bool) (home, file string) {
	t.Helper()
	home = t.TempDir()
	for _, dir := range []string{"server", "caller"} {
		if err := os.Mkdir(filepath.Join(home, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf(`version: 1
name: both
common:
  runtimePath: .
apps:
- appID: server
  appDirPath: ./server
  appPort: %s
  env: {%s: server}
  command: [%q]
`, freePort(t), appVariable, self(t))
	if caller {
		text += fmt.Sprintf(`- appID: caller
  appDirPath: ./caller
  daprdLogDestination: fileAndConsole
  env: {%s: call}
  command: [%q]
`, appVariable, self(t))
	}
	return home, write(t, filepath.Join(home, "dapr.yaml"), text)
}

func TestRunFileStopsWithAnApp(t *testing.T) {
	t.Parallel()
	home, file := runFileFor(t, true)
	p := dapr(t, home, "", "run", "-f", home, "--stop-with", "caller", "--log-level", "debug")
	p.exit(3, "The following flags are ignored when using --run-file", "log-level",
		`Validating config and starting app "server"`, `Started Dapr with app id "caller". HTTP Port: `, "Writing log files to directory : "+filepath.Join(home, "caller", ".dapr", "logs"),
		"== APP - server == app server: id server", "== APP - caller == answer: GET /hello", "app_id=caller", `App "caller" has ended`, "== APP - server == app was asked to end")
	if strings.Contains(p.out.String(), "app_id=server") {
		t.Error("the log of a sidecar is on the console, but should only be in its file")
	}
	for pattern, want := range map[string]string{
		"server/.dapr/logs/server_daprd_*.log": "Daprd shutdown gracefully",
		"server/.dapr/logs/server_app_*.log":   "== APP - server == app server: id server\n",
		"caller/.dapr/logs/caller_daprd_*.log": "app_id=caller",
		"caller/.dapr/logs/caller_app_*.log":   "The App process exited with error code: exit status 3",
	} {
		files, err := filepath.Glob(filepath.Join(home, pattern))
		if err != nil || len(files) != 1 || !regexp.MustCompile(`_\d{14}\.log$`).MatchString(files[0]) {
			t.Errorf("%s: %v %v", pattern, files, err)
			continue
		}
		text, err := os.ReadFile(files[0])
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s has no %q: %v\n%s", files[0], want, err, text)
		}
	}
	dapr(t, home, "", "run", "-f", file, "--stop-with", "nobody").exit(1, `--stop-with names the app "nobody"`)
}

func TestStopRunFile(t *testing.T) {
	t.Parallel()
	home, file := runFileFor(t, false)
	p := dapr(t, home, "", "run", "-f", file)
	p.await("== APP - server == app server")
	p.until("the sidecar knows its run file", func() bool {
		found, err := findInstances(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range found {
			if i.RunTemplatePath == file && i.AppPID != 0 {
				return i.RunTemplateName == "both" && i.AppLogPath != "" && i.DaprdLogPath != ""
			}
		}
		return false
	})
	dapr(t, home, "", "stop", "-f", home).exit(0, "Dapr and app processes stopped successfully")
	p.exit(0, "Received signal to stop Dapr and app processes. Shutting down Dapr and app processes.", "== APP - server == app was asked to end")
	dapr(t, home, "", "stop", "-f", file).exit(0, "Failed to stop Dapr and app processes: couldn't find apps with run file")
}

func TestRunFileWithFailingStart(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, app, want string }{
		{"command", "appDirPath: .\n  command: [/nonexistent/command]", `Error starting Dapr and app ("bad"): Failed to find command /nonexistent/command`},
		{"blank command", "appDirPath: .\n  command: [' ']", `Error starting Dapr and app ("bad"): exec: no command`},
		{"sidecar", "appDirPath: .\n  logLevel: loud", `Error starting Dapr and app ("bad"): invalid value for --log-level: loud`},
		{"size", "appDirPath: .\n  maxBodySize: 4MB", `Error validating run config for app "bad" present in `},
	} {
		t.Run(tt.name, func(t *testing.T) {
			home, file := runFileFor(t, false)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			write(t, file, string(text)+"- appID: bad\n  "+tt.app+"\n")
			p := dapr(t, home, "", "run", "-f", file)
			p.exit(1, tt.want, `Started Dapr with app id "server"`)
			if sidecarPID(t, "bad") != 0 {
				t.Error("the sidecar of the app that failed still runs")
			}
		})
	}
}

func TestRunFileFromStandardInput(t *testing.T) {
	t.Parallel()
	dapr(t, t.TempDir(), "", "run", "-f", "-").exit(1, "Error getting apps from config file: ")
}

func TestVersions(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	dapr(t, home, "", "version").exit(0, "CLI version: edge \nRuntime version: edge\n")
	dapr(t, home, "", "--version").exit(0, "CLI version: edge \nRuntime version: edge\n")
	dapr(t, home, "", "version", "-o", "json").exit(0, "{\n  \"Cli version\": \"edge\",\n  \"Runtime version\": \"edge\"\n}")
	dapr(t, home, "", "build-info").exit(0, "CLI:\n\tVersion: edge\n\tGit Commit: \n\tGit Version: \nRuntime:\n\tVersion: edge\n")
	dapr(t, home, "", "completion", "bash").exit(0, "__start_dapr")
	dapr(t, home, "").exit(0, "Usage:")
	dapr(t, home, "", "nope").exit(255, `Error: unknown command "nope" for "dapr"`)
	dapr(t, home, "", "list", "extra").exit(255, "Error: unknown command")
}

func TestCheckCommand(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	bad := write(t, filepath.Join(home, "bad.yaml"), "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: x}\nspec: {type: state.nope, version: v1}\n")
	warn := write(t, filepath.Join(home, "warn.yaml"), "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: x}\nspec: {type: state.in-memory, version: v1, colour: red}\n")
	dapr(t, home, "", "components", "check", bad).exit(1, bad+":4: error: ", "1 component checked: 1 error, 0 warnings")
	dapr(t, home, "", "components", "check", warn).exit(0, warn+":4: warning: ", "1 component checked: 0 errors, 1 warning")
	dapr(t, home, "", "components", "check", "/nonexistent").exit(1, "no such file or directory")
	dapr(t, home, "", "components", "check").exit(255, "requires at least 1 arg")
	p := dapr(t, home, "", "components", "check", "-o", "json", bad)
	p.exit(1)
	var findings []finding
	if err := json.Unmarshal([]byte(p.out.String()), &findings); err != nil || len(findings) != 1 || findings[0].File != bad || findings[0].Severity != "error" {
		t.Errorf("findings %+v, error %v", findings, err)
	}
}
