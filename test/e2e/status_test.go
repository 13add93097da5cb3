package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	d := start(t, appID("mine"))
	d.awaitHealthy()
	for path, want := range map[string]int{"/v1.0/healthz": 204, "/v1.0/healthz/outbound": 204, "/v1.0/healthz?appid=mine": 204} {
		if r := d.get(path); r.status != want || r.body != "" || r.header.Get("Content-Type") != "" {
			t.Errorf("%s: %+v", path, r)
		}
	}
	for _, path := range []string{"/v1.0/healthz?appid=other", "/v1.0/healthz?appid=", "/v1.0/healthz?appid"} {
		d.get(path).isError(t, 500, "ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match")
	}
	if r := d.get("/v1.0/healthz/outbound?appid=other"); r.status != 204 {
		t.Errorf("outbound looks at no app id: %+v", r)
	}
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	port := app(t, echo)
	d := start(t, memory(), resources(component("env", "secretstores.local.env")), resources(`
apiVersion: dapr.io/v1alpha1
kind: HTTPEndpoint
metadata: {name: outside}
spec: {baseUrl: "http://127.0.0.1:1"}
`, `
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: res}
spec: {}
`), appPort(port), config("spec:\n  features:\n  - {name: HotReload, enabled: false}\n  - {name: Mine, enabled: true}\n"),
		args("--app-max-concurrency", "7", "--enable-app-health-check", "--app-health-check-path", "alive", "--app-health-probe-interval", "1", "--app-health-probe-timeout", "900", "--app-health-threshold", "2"))
	for key, value := range map[string]string{"cliPID": "42", "a%2Fb": "x", "daprRuntimeVersion": "mine", "empty": ""} {
		if r := d.do("PUT", "/v1.0/metadata/"+key, value); r.status != 204 || r.body != "" {
			t.Errorf("PUT %s: %+v", key, r)
		}
	}
	for key, value := range map[string]string{"cliPID": "43", "": "x"} {
		if _, err := d.dapr().SetMetadata(within(t), &runtimev1.SetMetadataRequest{Key: key, Value: value}); err != nil {
			t.Error(err)
		}
	}
	r := d.get("/v1.0/metadata")
	var got map[string]json.RawMessage
	if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.status != 200 || r.header.Get("Content-Type") != "application/json" {
		t.Fatalf("%+v, %v", r, err)
	}
	for key, want := range map[string]string{
		"id":              `"app"`,
		"runtimeVersion":  `"` + version + `"`,
		"enabledFeatures": `["WorkflowsRemoteActivityReminder","Mine"]`,
		"components": `[{"name":"st","type":"state.in-memory","version":"v1","capabilities":["ETAG","TRANSACTIONAL","TTL","DELETE_WITH_PREFIX","KEYS_LIKE","ACTOR"]},` +
			`{"name":"env","type":"secretstores.local.env","version":"v1","capabilities":[]}]`,
		"extended":      `{"a/b":"x","cliPID":"43","daprRuntimeVersion":"` + version + `","empty":""}`,
		"httpEndpoints": `[{"name":"outside"}]`,
		"resiliencies":  `[{"name":"res"}]`,
		"appConnectionProperties": fmt.Sprintf(`{"port":%d,"protocol":"http","channelAddress":"127.0.0.1","maxConcurrency":7,`+
			`"health":{"healthCheckPath":"/alive","healthProbeInterval":"1s","healthProbeTimeout":"900ms","healthThreshold":2}}`, port),
		"actorRuntime": `{"runtimeStatus":"DISABLED","hostReady":false,"placement":"placement: disconnected"}`,
	} {
		if string(got[key]) != want {
			t.Errorf("%s is %s, want %s", key, got[key], want)
		}
		delete(got, key)
	}
	if len(got) > 0 {
		t.Errorf("members that nothing fills: %v", sorted(got))
	}
	m, err := d.dapr().GetMetadata(within(t), &runtimev1.GetMetadataRequest{})
	if err != nil || m.GetId() != "app" || m.GetExtendedMetadata()["cliPID"] != "43" || len(m.GetRegisteredComponents()) != 2 || m.GetRuntimeVersion() != version ||
		m.GetAppConnectionProperties().GetPort() != int32(port) || m.GetAppConnectionProperties().GetHealth().GetHealthProbeTimeout() != "900ms" ||
		len(m.GetHttpEndpoints()) != 1 || m.GetHttpEndpoints()[0].GetName() != "outside" || len(m.GetResiliencies()) != 1 || m.GetResiliencies()[0].GetName() != "res" {
		t.Errorf("gRPC: %v, %v", m, err)
	}
}

func TestShutdownAPI(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(d *daprd){
		"HTTP": func(d *daprd) {
			if r := d.post("/v1.0/shutdown", ""); r.status != 204 {
				d.t.Errorf("%+v", r)
			}
		},
		"gRPC": func(d *daprd) {
			if _, err := d.dapr().Shutdown(within(d.t), &runtimev1.ShutdownRequest{}); err != nil {
				d.t.Error(err)
			}
		},
		"not forced": func(d *daprd) { d.post("/v1.0/shutdown", "", "dapr-force-shutdown", "false") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The API does not wait for the blocking period.
			d := start(t, memory(), args("--dapr-block-shutdown-duration", "1h"))
			call(d)
			if code := d.exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			for _, text := range []string{"Shutdown requested via API", "Dapr is shutting down", "Shutting down component st (state.in-memory/v1)", "Dapr runtime stopped", "Daprd shutdown gracefully"} {
				if !strings.Contains(d.out.String(), text) {
					t.Errorf("the log lacks %q", text)
				}
			}
		})
	}
}

// A forced shutdown waits for nothing.
func TestForcedShutdown(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(d *daprd){
		"HTTP": func(d *daprd) {
			if r := d.post("/v1.0/shutdown", "", "dapr-force-shutdown", "TRUE"); r.status != 204 {
				d.t.Errorf("%+v", r)
			}
		},
		"gRPC": func(d *daprd) {
			if _, err := d.dapr().Shutdown(metadata.AppendToOutgoingContext(within(d.t), "dapr-force-shutdown", "true"), &runtimev1.ShutdownRequest{}); err != nil {
				d.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSlow(t)
			d := start(t, memory(), args("--dapr-graceful-shutdown-seconds", "60"), appPort(s.port))
			d.awaitHealthy()
			go func() { _, _ = request(d.client, "GET", d.url+"/v1.0/invoke/app/method/hang", nil) }()
			<-s.entered
			before := time.Now()
			call(d)
			if code := d.exit(); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			if took := time.Since(before); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			log := d.out.String()
			if !strings.Contains(log, "Force shutdown requested, exiting immediately without graceful shutdown") || strings.Contains(log, "Shutting down component") {
				t.Error("the log does not tell of a forced end")
			}
		})
	}
}
