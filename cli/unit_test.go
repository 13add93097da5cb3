package cli

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/all"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCommandLine(t *testing.T) {
	got := commandLine([]string{"--app-id", "a", "-dapr-http-port=3501", "--enable-metrics=false", "--profile-port", "-1", "--log-as-json", "--app-port", "80", "--last"})
	want := map[string]string{"app-id": "a", "dapr-http-port": "3501", "enable-metrics": "false", "profile-port": "-1", "log-as-json": "true", "app-port": "80", "last": "true"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDescribe(t *testing.T) {
	now := time.Now()
	info, ok := describe(daprdProcess{pid: 7, args: []string{"--app-id", "a", "--unix-domain-socket", "s"}, dir: "/d", started: now.Add(-2 * time.Hour)}, now)
	want := instanceInfo{
		AppID: "a", HTTPPort: 3500, GRPCPort: 50001, MetricsEnabled: true, Age: "2h", Created: now.Add(-2 * time.Hour).Format(createdLayout),
		DaprdPID: 7, MaxRequestBodySize: 4194304, HTTPReadBufferSize: 4096, socket: "/d/s/dapr-a-http.socket",
	}
	if !ok || info != want {
		t.Errorf("got %+v, want %+v", info, want)
	}
	if _, ok := describe(daprdProcess{args: []string{"--version"}}, now); ok {
		t.Error("a process without app id counts as an instance")
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Minute: "60s", time.Minute + time.Second: "1m", time.Hour: "60m", 90 * time.Minute: "1h", 24 * time.Hour: "24h", 50 * time.Hour: "2d",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%s) = %q, want %q", d, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	writeTable(&b, []string{"app_id", "blank", "port"}, [][]string{{"a", " ", "3500"}, {"long\n name", "", "1"}})
	if want := "APP ID     PORT\na          3500\nlong name  1\n"; b.String() != want {
		t.Errorf("got\n%swant\n%s", &b, want)
	}
	b.Reset()
	writeTable(&b, []string{"a", "b"}, [][]string{{"", ""}})
	if want := "A  B\n\n"; b.String() != want {
		t.Errorf("got %q, want %q", &b, want)
	}
}

func TestReason(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"text", `time="x" level=fatal msg="Fatal error from runtime: it \"broke\"" app_id=a` + "\n", `it "broke"`},
		{"bare word", "time=x level=fatal msg=broke app_id=a", "broke"},
		{"JSON", `{"level":"fatal","msg":"Fatal error from runtime: broke"}` + "\n", "broke"},
		{"no fatal line", "usage\nunknown flag: --x\n\n", "unknown flag: --x"},
		{"a word that looks like it", "fatal\nlast", "last"},
		{"later output", "time=x level=fatal msg=broke\nbye\n", "broke"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var passed bytes.Buffer
			tap := newTap(&passed)
			for _, b := range []byte(tt.text) { // whatever way the output is cut
				if _, err := tap.Write([]byte{b}); err != nil {
					t.Fatal(err)
				}
			}
			if got := tap.reason(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if passed.String() != tt.text {
				t.Errorf("passed on %q", &passed)
			}
		})
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb"), 1)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		cut = min(max(cut, 0), len(data))
		var got []byte
		l := &lines{emit: func(line []byte) {
			if bytes.IndexByte(line, '\n') >= 0 {
				t.Errorf("line %q has an end in it", line)
			}
			fatalMessage(line)
			got = append(append(got, withoutColours(line)...), '\n')
		}}
		for _, part := range [][]byte{data[:cut], data[cut:]} {
			if n, err := l.Write(part); n != len(part) || err != nil {
				t.Fatalf("Write: %d, %v", n, err)
			}
		}
		l.flush()
		if len(data) < maxLine && bytes.Count(got, []byte("\n")) != len(bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))) && len(data) > 0 {
			t.Errorf("%q became %q", data, got)
		}
	})
}

func TestWithoutColours(t *testing.T) {
	for text, want := range map[string]string{
		"plain": "plain", "\x1b[94m== APP\x1b[0m x": "== APP x", "a\x1b[1;31mb": "ab", "\x1b[2J": "\x1b[2J", "\x1b[": "\x1b[", "é\x1b[m": "é",
	} {
		if got := string(withoutColours([]byte(text))); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func TestDaprdArguments(t *testing.T) {
	a := appSpec{
		appID: "a", appPort: -1, appProtocol: "http", appChannelAddress: "127.0.0.1", appMaxConcurrency: 0, httpPort: 1, grpcPort: 2, internalPort: 3,
		metricsPort: 4, profilePort: -1, logLevel: "info", maxBodySize: "-4Mi", config: "", resources: nil, placement: "localhost", scheduler: "",
	}
	if err := a.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := "--app-id a --app-port 0 --app-protocol http --app-max-concurrency -1 --dapr-http-port 1 --dapr-grpc-port 2 --dapr-internal-grpc-port 3 " +
		"--metrics-port 4 --profile-port -1 --max-body-size -1 --read-buffer-size 4Ki --log-level info --placement-host-address localhost:50005"
	if got := strings.Join(a.args(), " "); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	mtls := write(t, filepath.Join(t.TempDir(), "c.yaml"), "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec: {mtls: {enabled: true}}\n")
	a.config, a.enableProfiling, a.appSSL, a.healthInterval, a.appChannelAddress = mtls, true, true, 5, "10.0.0.1"
	got := strings.Join(a.args(), " ")
	for _, part := range []string{"--config " + mtls, "--enable-mtls --sentry-address localhost:50001", " --enable-profiling", " --app-ssl", "--app-health-probe-interval 5", "--app-channel-address 10.0.0.1"} {
		if !strings.Contains(got, part) {
			t.Errorf("no %q in %s", part, got)
		}
	}
}

func TestAppEnvironment(t *testing.T) {
	t.Setenv("FROM_OUTSIDE", "1")
	a := appSpec{appID: "a", appProtocol: "GRPC", appSSL: true, appPort: 80, httpPort: 1, env: map[string]string{"APP_ID": "mine", "X": "y"}}
	env := map[string]string{}
	for _, e := range a.appEnv() {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	for name, want := range map[string]string{"FROM_OUTSIDE": "1", "APP_ID": "mine", "APP_PORT": "80", "APP_PROTOCOL": "grpcs", "DAPR_HTTP_PORT": "1", "X": "y"} {
		if env[name] != want {
			t.Errorf("%s=%q, want %q", name, env[name], want)
		}
	}
	a = appSpec{appPort: 0, appProtocol: "ftp"}
	for _, e := range a.appEnv() {
		if strings.HasPrefix(e, "APP_PORT=") || strings.HasPrefix(e, "APP_PROTOCOL=") {
			t.Errorf("the environment has %s", e)
		}
	}
}

func TestWithPort(t *testing.T) {
	for address, want := range map[string]string{"": "", "host": "host:1", "host:2": "host:2", "::1": "[::1]:1", "[::1]": "[::1]:1", "[::1]:2": "[::1]:2"} {
		if got := withPort(address, "1"); got != want {
			t.Errorf("withPort(%q) = %q, want %q", address, got, want)
		}
	}
}

func TestRunFile(t *testing.T) {
	base := t.TempDir()
	for _, dir := range []string{"a", "b/.dapr/resources", "own", "shared", "home"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(base, "a", "config.yaml"), "")
	write(t, filepath.Join(base, "b", ".dapr", "config.yaml"), "")
	file, unknown, err := parseRunFile([]byte(`
version: 1
name: test
extra: true
common:
  resourcesPath: ./shared
  env: {A: common, B: 1}
  logLevel: debug
  enableApiLogging: true
  appHealthThreshold: 7
  placementHostAddress: ""
apps:
- appDirPath: ./a
  appPort: 80
  resourcesPaths: [../own]
  configFilePath: ./config.yaml
  env: {A: true}
  logLevel: warn
  appHealthThreshold: 0
  command: [x, y]
- appID: second
  appDirPath: b
  appLogDestination: console
- appID: third
  appDirPath: a
  schedulerHostAddress: ""
  placementHostAddress: "host:1"
`))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(unknown, "extra") {
		t.Errorf("unknown keys are %q", unknown)
	}
	apps, err := file.plan(base, filepath.Join(base, "home"))
	if err != nil {
		t.Fatal(err)
	}
	in := func(parts ...string) string { return filepath.Join(append([]string{base}, parts...)...) }
	a, b, c := apps[0], apps[1], apps[2]
	for _, tt := range []struct {
		what      string
		got, want any
	}{
		{"generated app id", a.appID, "a"},
		{"own resources", a.resources, []string{in("own")}},
		{"own configuration", a.config, in("a", "config.yaml")},
		{"joined environment", a.env, map[string]string{"A": "true", "B": "1"}},
		{"own level", a.logLevel, "warn"},
		{"inherited bool", a.enableAPILogging, true},
		{"zero inherits", a.healthThreshold, 7},
		{"default protocol", a.appProtocol, "http"},
		{"placement switched off", a.placement, ""},
		{"default scheduler", a.scheduler, "localhost"},
		{"default app log", a.appLog, destination{file: true, console: true}},
		{"default daprd log", a.daprdLog, destination{file: true}},
		{"resources beside the app", b.resources, []string{in("b", ".dapr", "resources")}},
		{"configuration beside the app", b.config, in("b", ".dapr", "config.yaml")},
		{"console log", b.appLog, destination{console: true}},
		{"common resources", c.resources, []string{in("shared")}},
		{"default configuration", c.config, in("home", ".dapr", "config.yaml")},
		{"empty scheduler", c.scheduler, "localhost"},
		{"own placement", c.placement, "host:1"},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("%s: got %#v, want %#v", tt.what, tt.got, tt.want)
		}
	}
}

func TestNamedComponents(t *testing.T) {
	for _, tt := range []struct {
		name string
		path func(home string) string
		want bool
	}{
		{"nothing", func(string) string { return "" }, false},
		{"default", func(home string) string { return filepath.Join(home, ".dapr", "components") }, true},
		{"unclean", func(home string) string { return home + "/x/.././.dapr//components/" }, true},
		{"through a link", func(home string) string {
			if err := os.MkdirAll(filepath.Join(home, ".dapr"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(home, home+"-link"); err != nil {
				t.Skip(err)
			}
			return filepath.Join(home+"-link", ".dapr", "components")
		}, true},
		{"below", func(home string) string { return filepath.Join(home, ".dapr", "components", "more") }, false},
		{"elsewhere", func(home string) string { return filepath.Join(home, "components") }, false},
		{"nowhere", func(home string) string { return filepath.Join(home, "none", "components") }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			home := filepath.Join(t.TempDir(), "home")
			dir := filepath.Join(home, ".dapr")
			if err := os.Mkdir(home, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := namedComponents(dir, tt.path(home)); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{"statestore.yaml", "pubsub.yaml"} {
				if got := exists(filepath.Join(componentsDir(dir), file)); got != tt.want {
					t.Errorf("%s is there: %v, want %v", file, got, tt.want)
				}
			}
		})
	}
}

func TestRefusedRunFiles(t *testing.T) {
	base := t.TempDir()
	for _, tt := range []struct{ text, want string }{
		{"apps: [{appDirPath: .}]", "required field 'version'"},
		{"version: 1", "No apps to run"},
		{"version: x", "error in parsing"},
		{"version: 1\napps: [{appID: a}]", "required field 'appDirPath'"},
		{"version: 1\napps: [{appDirPath: nope}]", "error in getting the file info for " + filepath.Join(base, "nope")},
		{"version: 1\napps: [{appDirPath: ., appID: a}, {appDirPath: ., appID: a}]", "used twice"},
		{"version: 1\napps: [{appDirPath: ., appLogDestination: printer}]", "invalid log destination type: printer"},
		{"version: 1\napps: [{appDirPath: ., containerImagePullPolicy: Often}]", "invalid containerImagePullPolicy: Often, allowed values: Always, Never, IfNotPresent"},
		{"version: 1\ncommon: {configFilePath: nope}\napps: [{appDirPath: .}]", "error in getting the file info"},
	} {
		file, _, err := parseRunFile([]byte(tt.text))
		if err == nil {
			_, err = file.plan(base, base)
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: error %v, want one with %q", tt.text, err, tt.want)
		}
	}
}

func FuzzRunFile(f *testing.F) {
	f.Add([]byte("version: 1\napps:\n- appDirPath: .\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, _, err := parseRunFile(data)
		if err == nil && (file.Version == 0 || len(file.Apps) == 0) {
			t.Errorf("accepted %+v", file)
		}
	})
}

func TestRunFilePath(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "dapr.yaml"), "")
	write(t, filepath.Join(dir, "x.txt"), "")
	for _, given := range []string{dir, file} {
		if got, err := runFilePath(given); err != nil || got != file {
			t.Errorf("runFilePath(%q) = %q, %v", given, got, err)
		}
	}
	if _, err := runFilePath(filepath.Join(dir, "x.txt")); err == nil || !strings.Contains(err.Error(), "is not a YAML file") {
		t.Errorf("a text file: %v", err)
	}
}

func TestChoosePorts(t *testing.T) {
	a := &appSpec{profilePort: -1, internalPort: -1}
	if err := a.choosePorts(nil); err != nil {
		t.Fatal(err)
	}
	ports := []int{a.httpPort, a.grpcPort, a.internalPort, a.metricsPort}
	slices.Sort(ports)
	if ports[0] <= 0 || len(slices.Compact(ports)) != 4 || a.profilePort != -1 {
		t.Errorf("ports %v, profile port %d", ports, a.profilePort)
	}
	b := &appSpec{grpcPort: a.httpPort}
	err := b.choosePorts([]instanceInfo{{AppID: "other", DaprdPID: 9, HTTPPort: a.httpPort}})
	if err == nil || !strings.Contains(err.Error(), "invalid configuration for GRPCPort. Port ") || !strings.Contains(err.Error(), `"other" (process 9)`) {
		t.Errorf("a taken port: %v", err)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), `apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: misspelt
spec:
  type: state.redsi
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: scoped}
spec:
  type: state.redis
  version: v1
  metadata:
  - name: redisHst
    value: x
  - name: redisHost
    secretKeyRef: {name: h}
auth: {secretStore: vault}
scopes: [one]
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: scoped}
spec: {type: state.in-memory, version: v1, colour: red}
scopes: [two]
`)
	write(t, filepath.Join(dir, "b.yaml"), `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: scoped}
spec: {type: state.in-memory, version: v9}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: broker}
spec: {type: lock.redis, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: x}
 spec: {}
`)
	write(t, filepath.Join(dir, "readme.txt"), "not looked at")
	registry := &components.Registry{}
	all.Register(registry)
	findings, count, err := checkPaths(t.Context(), registry, []string{dir})
	if err != nil {
		t.Fatal(err)
	}
	if count != 5 {
		t.Errorf("%d components", count)
	}
	var got []string
	for _, f := range findings {
		got = append(got, strings.TrimPrefix(f.String(), dir+string(filepath.Separator)))
	}
	want := []string{
		`a.yaml:6: error: Component "misspelt": couldn't find state store state.redsi/v1 (did you mean state.redis?)`,
		`a.yaml:15: warning: Component "scoped": state.redis does not know the metadata property "redisHst"`,
		`a.yaml:19: error: Component "scoped": it refers to the secret store "vault", which does not exist`,
		`a.yaml:25: warning: Component "scoped": unknown field spec.colour`,
		`b.yaml:1: error: Component "scoped": the name is already used by scoped (state.redis/v1) at ` + filepath.Join(dir, "a.yaml") + ":8",
		`b.yaml:4: error: Component "scoped": couldn't find state store state.in-memory/v9`,
		`b.yaml:9: warning: Component "broker": this version has no components of category lock`,
		`b.yaml:10: error: error converting YAML to JSON`,
	}
	for i, w := range want {
		if i >= len(got) || !strings.HasPrefix(got[i], w) {
			t.Fatalf("finding %d does not start with %q in:\n%s", i, w, strings.Join(got, "\n"))
		}
	}
	if len(got) != len(want) {
		t.Errorf("want %d findings, got:\n%s", len(want), strings.Join(got, "\n"))
	}
}

func TestCheckOfGoodFiles(t *testing.T) {
	dir := t.TempDir()
	one := write(t, filepath.Join(dir, "one.yaml"), `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: store}
spec:
  type: state.redis
  version: v1
  metadata:
  - {name: redisHost, secretKeyRef: {name: host}}
  - {name: redisDB, envRef: DB}
  - {name: actorStateStore, value: "true"}
auth: {secretStore: secrets}
`)
	two := write(t, filepath.Join(dir, "two.yml"), `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: secrets}
spec:
  type: secretstores.local.file
  version: v1
  metadata:
  - {name: secretsFile, value: secrets.json}
`)
	registry := &components.Registry{}
	all.Register(registry)
	for _, paths := range [][]string{{dir}, {one, two}} {
		findings, count, err := checkPaths(t.Context(), registry, paths)
		if err != nil || len(findings) > 0 || count != 2 {
			t.Errorf("%v: %d components, findings %v, error %v", paths, count, findings, err)
		}
	}
}

func FuzzSplitSource(f *testing.F) {
	f.Add([]byte("a: b\n---\nc: d\n--- {e: f}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &source{path: "x.yaml", data: data, docs: splitSource(data)}
		lines := bytes.Count(data, []byte("\n")) + 1
		for i, d := range s.docs {
			if d.line < 1 || d.line > lines {
				t.Errorf("document %d starts on line %d of %d", i+1, d.line, lines)
			}
			if l := s.lineOf(i+1, "name"); l != 0 && l < d.line {
				t.Errorf("line %d lies before document %d", l, i+1)
			}
		}
		s.components()
	})
}

// The reference in docs is what the registry says now.
func TestReferenceIsUpToDate(t *testing.T) {
	registry := &components.Registry{}
	all.Register(registry)
	written, err := os.ReadFile(filepath.Join("..", "docs", "components.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != componentsReference(registry) {
		t.Error("docs/components.md is not what the component types say; run make generate")
	}
}
