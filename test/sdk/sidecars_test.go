package sdk

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"outrigger.dev/test/servers"
)

const (
	apiToken = "the-api-token" // every request to the sidecars has to carry it, if they are not open
	appToken = "the-app-token" // the sidecars send it to the apps

	startLimit = 30 * time.Second
	stopLimit  = 15 * time.Second
)

// role is what one sidecar of a suite is for.
type role struct {
	name     string
	id       string // of the app, after the language; empty for the name
	protocol string // that the app speaks, which the suite hosts; empty for none
	group    string // whose resources it has
	doomed   bool   // the suite shuts it down
	// plane is whether it uses placement and the scheduler. The others are as they would be without.
	plane bool
	open  bool // requests need no API token
}

// The groups of sidecars by their resources.
const (
	plain  = "resources"
	events = "events"
	actors = "actors"
)

// The roles of sidecars. The suites host all apps.
var (
	// The suite calls all APIs through the caller, which has no app.
	caller = role{name: "caller", group: plain, plane: true}
	// What the building blocks for invocation, state, events, bindings and secrets need.
	blocks = []role{
		caller,
		{name: "http-app", protocol: "http", group: plain},
		{name: "grpc-app", protocol: "grpc", group: plain},
		{name: "events-http", protocol: "http", group: events},
		{name: "events-grpc", protocol: "grpc", group: events},
		{name: "doomed-http", group: plain, doomed: true},
		{name: "doomed-grpc", group: plain, doomed: true},
	}
	// Two instances of one app share its actors, until the suite shuts the second one down.
	actorHosts = []role{
		{name: "actors-one", id: "actors", protocol: "http", group: actors, plane: true},
		{name: "actors-two", id: "actors", protocol: "http", group: actors, plane: true, doomed: true},
	}
	// An app that hosts its actors on a stream that it opens itself. The Python SDK sends no token when it opens one.
	actorStream = role{name: "actors-stream", protocol: "grpc", group: actors, plane: true, open: true}
	// Apps that jobs are delivered to.
	jobsHTTP = role{name: "jobs-http", protocol: "http", group: plain, plane: true}
	jobsGRPC = role{name: "jobs-grpc", protocol: "grpc", group: plain, plane: true}
)

// set is what runs for one suite.
type set struct {
	sidecars []*sidecar
	plane    *plane
	redis    string // the address of the server behind the component redis, if there is one
}

// sidecar is one daprd process.
type sidecar struct {
	process
	role
	http, grpc, internal, app int // app is 0 for none
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
  features:
  - {name: ActorStateTTL, enabled: true}
`

const secrets = `{"plain": "open sesame", "redis": {"password": "x", "hosts": ["a", "b"]}, "forbidden": "no", "sqlite-path": "%[1]s/state.db"}`

// startSidecars starts the sidecars of a suite, which end with the test.
func startSidecars(t *testing.T, language string, roles []role) *set {
	t.Helper()
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
	ofEvents := []map[string]string{eventResources}
	if redis != "" {
		ofEvents = append(ofEvents, redisResources)
	}
	resources := map[string]string{
		plain:  writeResources(t, filepath.Join(dir, plain), fill, components),
		events: writeResources(t, filepath.Join(dir, events), fill, ofEvents...),
		actors: writeResources(t, filepath.Join(dir, actors), fill, actorResources),
	}
	config := write("config.yaml", configuration)
	write("secrets.json", secrets)

	all := &set{plane: startPlane(t, dir), redis: redis}
	for _, r := range roles {
		if r.id == "" {
			r.id = r.name
		}
		r.id = language + "-" + r.id
		s := &sidecar{role: r, http: servers.FreePort(t), grpc: servers.FreePort(t), internal: servers.FreePort(t)}
		if r.protocol != "" {
			s.app = servers.FreePort(t)
		}
		args := s.arguments(resources[r.group], config)
		if r.plane {
			args = append(args, all.plane.arguments()...)
		}
		env := []string{"APP_API_TOKEN=" + appToken}
		if !r.open {
			env = append(env, "DAPR_API_TOKEN="+apiToken)
		}
		s.process = start(t, "the sidecar "+r.name, dir, env, "daprd", args...)
		all.sidecars = append(all.sidecars, s)
	}
	// A sidecar is fully ready only once its app is there, too.
	for _, s := range all.sidecars {
		s.await(t, s.http, "/v1.0/healthz/outbound", http.StatusNoContent)
	}
	return all
}

func (s *sidecar) arguments(resources, config string) []string {
	args := []string{
		"--app-id", s.id, "--dapr-http-port", strconv.Itoa(s.http), "--dapr-grpc-port", strconv.Itoa(s.grpc),
		"--dapr-internal-grpc-port", strconv.Itoa(s.internal), "--dapr-listen-addresses", "127.0.0.1",
		"--dapr-internal-grpc-listen-address", "127.0.0.1", "--enable-metrics=false",
		"--resources-path", resources, "--config", config, "--log-level", "debug", "--enable-api-logging",
	}
	if s.app != 0 {
		args = append(args, "--app-port", strconv.Itoa(s.app), "--app-protocol", s.protocol)
	}
	return args
}

// environment tells a suite where its sidecars are: SDK_<ROLE>_ID, _HTTP_PORT, _GRPC_PORT and _APP_PORT for each, the caller's
// ports as an SDK expects them, the tokens, and SDK_REDIS if the component redis is there.
func (s *set) environment() []string {
	env := []string{"DAPR_API_TOKEN=" + apiToken, "APP_API_TOKEN=" + appToken}
	if s.redis != "" {
		env = append(env, "SDK_REDIS="+s.redis)
	}
	for _, c := range s.sidecars {
		name := "SDK_" + strings.ToUpper(strings.ReplaceAll(c.name, "-", "_"))
		env = append(env, name+"_ID="+c.id, name+"_HTTP_PORT="+strconv.Itoa(c.http), name+"_GRPC_PORT="+strconv.Itoa(c.grpc))
		if c.app != 0 {
			env = append(env, name+"_APP_PORT="+strconv.Itoa(c.app))
		}
		if c.name == caller.name {
			env = append(env, "DAPR_HTTP_PORT="+strconv.Itoa(c.http), "DAPR_GRPC_PORT="+strconv.Itoa(c.grpc))
		}
	}
	return env
}

// checkEnds checks that the suite has shut the doomed sidecars down, and that everything else has lived and now ends cleanly.
func (s *set) checkEnds(t *testing.T) {
	t.Helper()
	var lasting []*process
	for _, c := range s.sidecars {
		if !c.doomed {
			lasting = append(lasting, &c.process)
			continue
		}
		if !c.ends(t, stopLimit) {
			t.Errorf("%s was told through its API to shut down and still runs after %s", c.title, stopLimit)
		}
	}
	for _, group := range [][]*process{lasting, s.plane.processes()} {
		for _, c := range group {
			c.tell(t)
		}
		for _, c := range group {
			if !c.ends(t, stopLimit) {
				t.Errorf("%s still runs %s after SIGTERM", c.title, stopLimit)
			}
		}
	}
}
