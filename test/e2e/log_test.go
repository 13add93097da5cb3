package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

func TestLogAsText(t *testing.T) {
	t.Parallel()
	d := start(t, memory(), args("--log-as-json=false"))
	d.awaitHealthy()
	d.stop()
	line := regexp.MustCompile(`^time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)" level=(debug|info|warning|error|fatal) msg=("([^"\\]|\\.)*"|[^ "]+)( [a-zA-Z_]+=("([^"\\]|\\.)*"|[^ "]*))+$`)
	for l := range strings.Lines(d.out.String()) {
		l = strings.TrimSuffix(l, "\n")
		if !line.MatchString(l) {
			t.Errorf("odd line: %s", l)
		}
		for _, field := range []string{" app_id=app ", " instance=", " scope=dapr.", " type=log", " ver=" + version} {
			if !strings.Contains(l+" ", field) {
				t.Errorf("%q is missing in: %s", field, l)
			}
		}
	}
	for _, text := range []string{
		`msg="Starting Dapr Runtime -- version ` + version + ` -- commit ` + commit + `"`, `msg="Log level set to: info"`, `msg="Component loaded: st (state.in-memory/v1)"`,
		`component="st (state.in-memory/v1)"`, `msg="dapr initialized. Status: Running. Init Elapsed `, `msg="Received signal 'terminated'; beginning shutdown"`,
		`msg="Dapr is shutting down"`, `msg="Shutting down component st (state.in-memory/v1)"`, `msg="Dapr runtime stopped"`, `msg="Daprd shutdown gracefully"`, "level=info",
	} {
		if !strings.Contains(d.out.String(), text) {
			t.Errorf("the log lacks %s", text)
		}
	}
}

func TestLogAsJSON(t *testing.T) {
	t.Parallel()
	d := start(t, memory(), knownPorts(), args("--log-level", "WARN"), appID("loud"))
	d.awaitHealthy()
	d.signal(os.Interrupt)
	if code := d.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, e := range d.entries() {
		if e["level"] == "info" || e["level"] == "debug" {
			t.Errorf("below the level: %v", e)
		}
	}
	d = start(t, memory(), appID("loud"))
	d.stop()
	for l := range strings.Lines(d.out.String()) {
		var e map[string]any
		if err := json.Unmarshal([]byte(l), &e); err != nil {
			t.Errorf("%s: %v", l, err)
			continue
		}
		stamp, _ := e["time"].(string)
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || e["app_id"] != "loud" || e["ver"] != version || e["type"] != "log" || e["instance"] == "" || !strings.HasPrefix(e["scope"].(string), "dapr.") {
			t.Errorf("odd entry: %s", l)
		}
	}
}

func TestLogFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "daprd.log")
	write(t, path, "before\n")
	d := launch(t, args("--log-file", path))
	await(t, "the log file", func() bool {
		text, err := os.ReadFile(path)
		return err == nil && strings.HasPrefix(string(text), "before\n") && strings.Contains(string(text), "dapr initialized")
	})
	d.signal(os.Interrupt)
	if code := d.exit(); code != 0 || d.out.String() != "" {
		t.Errorf("exit code %d, output %q", code, d.out)
	}
}

// apiLog are the lines of the API log, once the expected number is there.
func (d *daprd) apiLog(scope string, n int) (lines []map[string]any) {
	d.t.Helper()
	d.await("the API log", func() bool {
		lines = nil
		for _, e := range d.entries() {
			if e["scope"] == scope && e["msg"] != nil && strings.HasSuffix(e["msg"].(string), " API Called") {
				lines = append(lines, e)
			}
		}
		return len(lines) >= n
	})
	return lines
}

func TestAPILog(t *testing.T) {
	t.Parallel()
	type entry struct {
		method string
		code   float64
		size   float64
	}
	const http, grpc = "dapr.runtime.http-info", "dapr.runtime.grpc.api-info"
	traffic := func(d *daprd) {
		d.awaitHealthy()
		d.post("/v1.0/state/st", `[{"key":"k y","value":12345}]`)
		d.get("/v1.0/state/st/k%20y?metadata.a=b", "User-Agent", "tester")
		d.post("/v1.0/invoke/app/method/x/y?z", "abc")
		d.do("PUT", "/nowhere", "", "dapr-app-id", "app")
		d.get("/nowhere")
		d.get("/v1.0/healthz/outbound", "User-Agent", "last")
	}
	check := func(d *daprd, want []entry) {
		d.t.Helper()
		var rest []map[string]any
		d.await("the API log", func() bool {
			rest = nil
			for _, e := range d.apiLog(http, 0) {
				// The test itself asks for the health until it is good.
				if e["useragent"] == "last" || !strings.Contains(e["method"].(string), "ealthz") {
					rest = append(rest, e)
				}
			}
			return len(rest) >= len(want)
		})
		if len(rest) != len(want) {
			d.t.Errorf("%d lines, want %d: %v", len(rest), len(want), rest)
			return
		}
		for i, w := range want {
			e := rest[i]
			if e["level"] != "info" || e["msg"] != "HTTP API Called" || e["method"] != w.method || e["code"] != w.code || e["size"] != w.size || e["duration"] == nil {
				d.t.Errorf("line %d is %v, want %v", i, e, w)
			}
		}
	}
	plain := start(t, memory(), knownPorts(), appPort(app(t, echo)), args("--enable-api-logging", "--log-level", "error"))
	traffic(plain)
	check(plain, []entry{{"POST /v1.0/state/st", 204, 0}, {"GET /v1.0/state/st/k y", 200, 5}, {"POST /v1.0/invoke/app/method/x/y", 200, 13}, {"PUT /nowhere", 200, 14}, {"GET /nowhere", 404, 118}, {"GET /v1.0/healthz/outbound", 204, 0}})
	if agent := plain.apiLog(http, 3)[0]; agent["useragent"] == nil {
		t.Errorf("no user agent: %v", agent)
	}
	if _, err := plain.dapr().GetState(within(t), &runtimev1.GetStateRequest{StoreName: "none", Key: "k"}); err == nil {
		t.Error("no error")
	}
	if _, err := plain.dapr().GetMetadata(metadata.AppendToOutgoingContext(within(t)), &runtimev1.GetMetadataRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := plain.dapr().PublishEvent(within(t), &runtimev1.PublishEventRequest{}); err == nil {
		t.Error("no error")
	}
	lines := plain.apiLog(grpc, 3)
	for i, want := range []struct {
		method string
		code   float64
	}{{"GetState", 3}, {"GetMetadata", 0}, {"PublishEvent", 3}} {
		e := lines[i]
		if e["msg"] != "gRPC API Called" || e["level"] != "info" || e["method"] != "/dapr.proto.runtime.v1.Dapr/"+want.method || e["code"] != want.code || e["duration"] == nil || e["size"] != nil || !strings.HasPrefix(e["useragent"].(string), "grpc-go/") {
			t.Errorf("gRPC line %d is %v, want %v", i, e, want)
		}
	}

	obfuscated := start(t, memory(), appPort(app(t, echo)), config("spec:\n  logging:\n    apiLogging: {enabled: true, obfuscateURLs: true, omitHealthChecks: true}\n"))
	traffic(obfuscated)
	length := float64(len(obfuscated.get("/v1.0/metadata").body))
	check(obfuscated, []entry{{"SaveState", 204, 0}, {"GetState", 200, 5}, {"InvokeService/app", 200, 13}, {"InvokeService/app", 200, 14}, {"InvokeService", 404, 118}, {"GetMetadata", 200, length}})

	off := start(t, config("spec:\n  logging:\n    apiLogging: {enabled: true}\n"), args("--enable-api-logging=false"))
	off.get("/v1.0/metadata")
	off.stop()
	if strings.Contains(off.out.String(), "API Called") {
		t.Error("the flag does not override the Configuration")
	}

	// Refused requests are not calls.
	guarded := start(t, args("--enable-api-logging", "--allowed-origins", "*"), env("DAPR_API_TOKEN=secret"))
	guarded.get("/v1.0/metadata")
	guarded.do("OPTIONS", "/v1.0/metadata", "", "Origin", "https://a.example", "Access-Control-Request-Method", "GET")
	if _, err := guarded.dapr().GetMetadata(within(t), &runtimev1.GetMetadataRequest{}); err == nil {
		t.Error("no error")
	}
	guarded.stop()
	for _, e := range guarded.entries() {
		if m, _ := e["method"].(string); strings.Contains(m, "etadata") {
			t.Errorf("logged although refused: %v", e)
		}
	}
}
