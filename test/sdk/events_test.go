package sdk

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"outrigger.dev/test/servers"
)

// eventResources are those of the sidecars whose apps get events. Every topic of the component redis begins with the name of
// the language, for the suites share the server.
var eventResources = map[string]string{
	"broker.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: broker}
spec:
  type: pubsub.in-memory
  version: v1
  metadata:
  - {name: protectedTopics, value: forbidden}
`,
	"declared.yaml": `
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: declared}
spec:
  pubsubname: broker
  topic: declared/new
  routes:
    rules:
    - {match: 'event.data.kind == "special"', path: /declared-special}
    default: /declared
scopes: [%[2]s-events-http, %[2]s-events-grpc]
---
apiVersion: dapr.io/v1alpha1
kind: Subscription
metadata: {name: declared-old}
spec:
  pubsubname: broker
  topic: declared/old
  route: /declared-old
---
apiVersion: dapr.io/v1alpha1
kind: Subscription
metadata: {name: of-others}
spec:
  pubsubname: broker
  topic: declared/others
  route: /declared
scopes: [somebody-else]
`,
	// A store of its own, for all its transactions are published.
	"outbox.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: outbox}
spec:
  type: state.in-memory
  version: v1
  metadata:
  - {name: outboxPublishPubsub, value: broker}
  - {name: outboxPublishTopic, value: written}
`,
	"files.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: files}
spec:
  type: bindings.localstorage
  version: v1
  metadata:
  - {name: rootPath, value: %[1]s/files}
`,
	"web.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: web}
spec:
  type: bindings.http
  version: v1
  metadata:
  - {name: url, value: "%[3]s"}
`,
	"tick.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: tick}
spec:
  type: bindings.cron
  version: v1
  metadata:
  - {name: schedule, value: "@every 1s"}
`,
	// No app wants it.
	"tock.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: tock}
spec:
  type: bindings.cron
  version: v1
  metadata:
  - {name: schedule, value: "@every 1s"}
`,
}

// redisResources are there when there is a Redis server.
var redisResources = map[string]string{
	// What an app has not taken comes again soon.
	"redis.yaml": `
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: redis}
spec:
  type: pubsub.redis
  version: v1
  metadata:
  - {name: redisHost, value: "%[4]s"}
  - {name: processingTimeout, value: 300ms}
  - {name: redeliverInterval, value: 100ms}
`,
	// The Go SDK has no bulk subscriptions. Those of the Python SDK are declared only.
	"bulk.yaml": `
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: bulk}
spec:
  pubsubname: redis
  topic: python-bulk
  routes: {default: /declared-bulk}
  bulkSubscribe: {enabled: true, maxMessagesCount: 3, maxAwaitDurationMs: 500}
scopes: [python-events-grpc]
`,
}

// redisAddress is that of the Redis server of all suites, or empty where none is installed: the suites then skip what needs it.
func redisAddress(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Log("redis-server is not on the PATH, so the tests with events between sidecars are skipped; to run them: apt-get install redis-server")
		return ""
	}
	return servers.Redis(t).Addr
}

// heard is what the web server behind the binding answers with.
type heard struct {
	Method string      `json:"method"`
	Path   string      `json:"path"`
	Body   string      `json:"body"`
	Header http.Header `json:"header"`
}

// webServer answers with what it was asked; /fail fails.
func webServer(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client is gone
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Web", "yes")
		if r.URL.Path == "/fail" {
			w.WriteHeader(http.StatusTeapot)
		}
		_ = json.NewEncoder(w).Encode(heard{r.Method, r.URL.Path, string(body), r.Header}) // the client may be gone
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// writeResources writes YAML files into a new folder and returns it.
func writeResources(t *testing.T, folder string, fill func(string) string, sets ...map[string]string) string {
	t.Helper()
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, set := range sets {
		for name, text := range set {
			if err := os.WriteFile(filepath.Join(folder, name), []byte(fill(text)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return folder
}
