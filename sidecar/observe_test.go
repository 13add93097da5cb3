package sidecar_test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
	"outrigger.dev/telemetry/metrics/metricstest"
)

// A sidecar that goes is not ready any more, and says which parts have gone first.
func TestTargetsAtTheEnd(t *testing.T) {
	s := sidecartest.Start(t)
	s.WaitHealthy()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if ready, missing := s.Healthy(); ready || fmt.Sprint(missing) != "[grpc-api-server grpc-internal-server security-provider]" {
		t.Errorf("%v %v", ready, missing)
	}
}

// Until they follow changes, the parts of hot reload keep the sidecar from being healthy.
func TestTargetsOfHotReload(t *testing.T) {
	list := sidecar.Reconcilers()
	want := []string{
		"component-reconciler", "subscription-reconciler", "mcpserver-reconciler", "workflowaccesspolicy-reconciler", "configuration-sighup-reconciler",
		"httpendpoint-sighup-reconciler", "resiliency-sighup-reconciler",
	}
	if !slices.Equal(list, want) {
		t.Errorf("%v", list)
	}
}

// Every endpoint has its name in obfuscated API logs.
func TestRouteNames(t *testing.T) {
	s := sidecartest.Start(t)
	want := strings.Fields(`GetState SaveState DeleteState GetBulkState ExecuteStateTransaction QueryStateAlpha1 GetSecret GetBulkSecret PublishEvent
		BulkPublishEvent InvokeBinding InvokeService InvokeActor GetActorState ExecuteActorStateTransaction RegisterActorReminder UnregisterActorReminder
		GetActorReminder RegisterActorTimer UnregisterActorTimer GetConfiguration SubscribeConfiguration UnsubscribeConfiguration TryLock Unlock Encrypt
		Decrypt SubtleGetKey SubtleEncrypt SubtleDecrypt SubtleWrapKey SubtleUnwrapKey SubtleSign SubtleVerify GetMetadata PutMetadata Shutdown Healthz
		HealthzOutbound StartWorkflow GetWorkflow PauseWorkflow ResumeWorkflow TerminateWorkflow PurgeWorkflow RaiseEventWorkflow ScheduleJob GetJob
		DeleteJob Converse`)
	slices.Sort(want)
	names := s.RouteNames()
	got := slices.Compact(slices.Sorted(maps.Values(names)))
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for route, name := range map[string]string{
		"GET /v1.0/state/{storeName}/{key}": "GetState", "PUT /v1.0/state/{storeName}/bulk": "GetBulkState", "POST /v1.0-alpha1/publish/bulk/{pubsubname}/{topic...}": "BulkPublishEvent",
		"DELETE /v1.0/actors/{actorType}/{actorId}/reminders/{name}": "UnregisterActorReminder", "POST /v1.0-beta1/workflows/{workflowComponent}/{instanceID}/purge": "PurgeWorkflow",
		"DELETE /v1.0-alpha1/jobs/{name}": "DeleteJob", "": "InvokeService",
	} {
		if names[route] != name {
			t.Errorf("%s is called %q, want %s", route, names[route], name)
		}
	}
}

// A component that could not be made counts by both reasons, one that did not start by one.
func TestFailuresOfComponentsAreCounted(t *testing.T) {
	broken := func(name, typ string, metadata ...string) string {
		return strings.Replace(sidecartest.Component(name, typ, metadata...), "spec:\n", "spec:\n  ignoreErrors: true\n", 1)
	}
	s := sidecartest.Start(t, sidecartest.Resources(broken("unknown", "state.nothing"), broken("down", "state.sqlite", "connectionString", "/no/such/folder/x.db")))
	got := fmt.Sprint(metricstest.Counted(t, s.Metrics(), "dapr_runtime_component_init_fail_total", "component", "componentName", "reason"))
	if want := "map[nameResolution  creation:1 state.nothing unknown creation:1 state.nothing unknown init:1 state.sqlite down init:1]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestFeaturesAreLogged(t *testing.T) {
	s := sidecartest.Start(t, sidecartest.Config("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec:\n  features:\n"+
		"  - {name: ActorStateTTL, enabled: true}\n  - {name: HotReload, enabled: false}\n  - {name: Mine, enabled: true}\n  - {name: Mine, enabled: false}\n"))
	if text := "Enabled features: WorkflowsRemoteActivityReminder ActorStateTTL\""; !strings.Contains(s.Log.String(), text) {
		t.Errorf("%q is not in the log\n%s", text, s.Log)
	}
	if body := s.Get("/v1.0/metadata").Body; !strings.Contains(body, `"enabledFeatures":["WorkflowsRemoteActivityReminder","ActorStateTTL"]`) {
		t.Error(body)
	}
}

// The metadata name the HTTPEndpoints in force: not one that cannot be used.
func TestMetadataOfEndpointsInForce(t *testing.T) {
	endpoint := func(name, more string) string {
		return "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: " + name + "}\nspec:\n  baseUrl: http://127.0.0.1:1\n" + more
	}
	f := newFolder(t)
	f.write("a.yaml", endpoint("shop", ""))
	s := sidecartest.Start(t, f.option())
	listed := func() string {
		_, rest, _ := strings.Cut(s.Get("/v1.0/metadata").Body, `"httpEndpoints":`)
		list, _, _ := strings.Cut(rest, "]")
		return list + "]"
	}
	if got := listed(); got != `[{"name":"shop"}]` {
		t.Fatal(got)
	}
	f.write("b.yaml", endpoint("bank", ""))
	eventually(t, "both are listed", s, func() bool { return listed() == `[{"name":"shop"},{"name":"bank"}]` })
	f.write("b.yaml", endpoint("bank", "  clientTLS: {rootCA: {value: nonsense}}\n")+"---\n"+endpoint("third", ""))
	logged(t, s, "the changed HTTPEndpoints cannot be used")
	if got := listed(); got != `[{"name":"shop"},{"name":"bank"}]` {
		t.Error(got)
	}
}

// A profile that is being taken does not keep a sidecar whose graceful period has no end.
func TestRunningProfileDoesNotHoldTheEnd(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var last string
	s := sidecartest.Start(t, sidecartest.With(func(o *sidecar.Options) {
		o.GracefulShutdown, o.EnableProfiling, o.ProfilePort = 0, true, 0
		o.Listen = func(network, address string) (net.Listener, error) {
			l, err := net.Listen(network, address)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				last = l.Addr().String() // profiling is the last to listen
			}
			return l, err
		}
	}))
	s.WaitHealthy()
	mu.Lock()
	address := last
	mu.Unlock()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "GET /debug/pprof/heap?seconds=600 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the profile is being taken", s, func() bool {
		r, err := http.Get("http://" + address + "/debug/pprof/goroutine?debug=1")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		return strings.Contains(string(text), "serveDeltaProfile")
	})
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}
