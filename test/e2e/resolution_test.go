package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// Two processes find each other, by mDNS and by a shared SQLite file, and the caller notices that the other has left and come
// back elsewhere.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	shared := filepath.Join(t.TempDir(), "names.db")
	for name, resolution := range map[string]string{
		"mdns":   "spec: {nameResolution: {component: mdns}}",
		"sqlite": fmt.Sprintf("spec: {nameResolution: {component: sqlite, configuration: {connectionString: %q}}}", shared),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := "callee-" + name
			resolves := config("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\n" + resolution + "\n")
			hello := app(t, func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, "hello ", r.Header.Get("dapr-caller-app-id"))
			})
			callee := start(t, appID(id), appPort(hello), resolves)
			callee.awaitHealthy()
			caller := start(t, appID("caller-"+name), resolves)
			if strings.Contains(caller.out.String(), "multicast") && strings.Contains(caller.out.String(), "level=warning") {
				t.Skipf("this machine does not let sidecars use multicast: %s", caller.out)
			}
			path := "/v1.0/invoke/" + id + "/method/x"
			caller.await("the callee is found", func() bool { r := caller.get(path); return r.status == 200 && r.body == "hello caller-"+name })

			callee.stop()
			again := start(t, appID(id), appPort(hello), resolves)
			again.awaitHealthy()
			caller.await("the callee is found again", func() bool { return caller.get(path).status == 200 })
			caller.get("/v1.0/invoke/nobody-at-all/method/x").isError(t, 500, "ERR_DIRECT_INVOKE", "failed to invoke, id: nobody-at-all, err: ")
		})
	}
}
