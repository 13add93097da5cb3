package resource

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// environment is a look-up over a map.
func environment(m map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := m[name]
		return v, ok
	}
}

// configure loads configuration files given by content.
func configure(t *testing.T, env map[string]string, contents ...string) (*Configuration, []Problem, error) {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for i, content := range contents {
		path := filepath.Join(dir, string(rune('a'+i))+".yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return LoadConfiguration(paths, environment(env))
}

const header = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\n"

const everything = header + `spec:
  httpPipeline: {handlers: [{name: h, type: middleware.http.x, version: v2, selector: {fields: [{field: f, value: v}]}}]}
  appHttpPipeline: {handlers: [{name: h2, type: middleware.http.y}]}
  tracing:
    samplingRate: 1
    stdout: yes
    zipkin: {endpointAddress: "http://z"}
    otel: {protocol: grpc, endpointAddress: "o:4317", isSecure: false, headers: ["a=b=c", "d="], timeout: 10s}
  metric: {enabled: false, recordErrorCodes: true, rules: [{name: m, labels: [{name: l, regex: {v: "a.*"}}]}]}
  metrics: {http: {increasedCardinality: false, pathMatching: [/a], excludeVerbs: true}, latencyDistributionBuckets: [1, 2]}
  mtls: {enabled: true, workloadCertTTL: 24h, allowedClockSkew: 15m, sentryAddress: "s:1", controlPlaneTrustDomain: td, tokenValidators: [{name: jwks, options: {a: 1}}]}
  secrets: {scopes: [{storeName: s, defaultAccess: Deny, allowedSecrets: [a], deniedSecrets: [b]}]}
  accessControl:
    defaultAction: deny
    trustDomain: td
    policies: [{appId: a, defaultAction: deny, trustDomain: public, namespace: default, operations: [{name: /o, httpVerb: [GET], action: allow}]}]
  nameResolution: {component: sqlite, version: v1, configuration: {connectionString: x, n: 5, flag: yes, on: true}}
  features: [{name: F, enabled: true}]
  api: {allowed: [{name: state, version: v1.0, protocol: http}], denied: [{name: secrets, version: v1, protocol: grpc}]}
  components: {deny: [a, b/v1]}
  logging: {apiLogging: {enabled: true, obfuscateURLs: true, omitHealthChecks: true}}
  wasm: {strictSandbox: true}
  workflow:
    maxConcurrentWorkflowInvocations: 1
    maxConcurrentActivityInvocations: 2
    globalMaxConcurrentWorkflowInvocations: 3
    globalMaxConcurrentActivityInvocations: 4
    workflowConcurrencyLimits: [{name: w, maxConcurrent: 5}]
    activityConcurrencyLimits: [{name: a, maxConcurrent: 6}]
    stateRetentionPolicy: {anyTerminal: 1h, completed: 2h, failed: 3h, terminated: 4h}
`

func TestConfigurationEveryField(t *testing.T) {
	c, problems, err := configure(t, nil, everything)
	if err != nil || len(problems) != 0 {
		t.Fatalf("%v, %s", err, texts(problems))
	}
	s := c.Spec
	hours := func(n int) *Duration { d := Duration(time.Duration(n) * time.Hour); return &d }
	yes, no := true, false
	for name, pair := range map[string][2]any{
		"handler":    {s.HTTPPipeline.Handlers, []PipelineHandler{{Name: "h", Type: "middleware.http.x", Version: "v2", Selector: PipelineSelector{Fields: []PipelineSelectorField{{"f", "v"}}}}}},
		"app":        {s.AppHTTPPipeline.Handlers[0].VersionOrDefault(), "v1"},
		"tracing":    {[]any{s.Tracing.SamplingRate, s.Tracing.Stdout, s.Tracing.Zipkin.EndpointAddress}, []any{"1", true, "http://z"}},
		"otel":       {s.Tracing.OTel, OTel{Protocol: "grpc", EndpointAddress: "o:4317", IsSecure: &no, Headers: OTelHeaders{{Name: "a", Value: TextValue("b=c")}, {Name: "d", Value: TextValue("")}}, Timeout: Duration(10 * time.Second)}},
		"metrics":    {c.EffectiveMetrics(), Metrics{RecordErrorCodes: true, PathMatching: []string{"/a"}, ExcludeVerbs: true, Rules: []MetricsRule{{"m", []MetricsLabel{{"l", map[string]string{"v": "a.*"}}}}}, LatencyDistributionBuckets: []int{1, 2}}},
		"mtls":       {s.MTLS, MTLS{Enabled: true, WorkloadCertTTL: "24h", AllowedClockSkew: "15m", SentryAddress: "s:1", ControlPlaneTrustDomain: "td", TokenValidators: []TokenValidator{{"jwks", Value{`{"a":1}`, valueJSON}}}}},
		"secrets":    {s.Secrets.Scopes, []SecretScope{{"s", "Deny", []string{"a"}, []string{"b"}}}},
		"acl":        {s.AccessControl, AccessControl{"deny", "td", []AppAccessPolicy{{"a", "deny", "public", "default", []AccessOperation{{"/o", []string{"GET"}, "allow"}}}}}},
		"names":      {s.NameResolution, NameResolution{"sqlite", "v1", Value{`{"connectionString":"x","flag":"yes","n":5,"on":true}`, valueJSON}}},
		"features":   {s.Features, []Feature{{"F", true}}},
		"api":        {s.API, APIAccess{[]APIRule{{"state", "v1.0", "http"}}, []APIRule{{"secrets", "v1", "grpc"}}}},
		"components": {s.Components.Deny, []string{"a", "b/v1"}},
		"logging":    {s.Logging.APILogging, APILogging{&yes, true, true}},
		"wasm":       {s.WASM.StrictSandbox, true},
		"workflow":   {s.Workflow, WorkflowLimits{1, 2, 3, 4, []ConcurrencyLimit{{"w", 5}}, []ConcurrencyLimit{{"a", 6}}, StateRetentionPolicy{hours(1), hours(2), hours(3), hours(4)}}},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: got %+v, want %+v", name, pair[0], pair[1])
		}
	}
	// What the operator sends is the same configuration as JSON.
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	again, problems, err := DecodeConfiguration(data, Origin{})
	if err != nil || len(problems) != 0 || !reflect.DeepEqual(again.Spec, c.Spec) {
		t.Errorf("after JSON: %v, %s\n%+v\n%+v", err, texts(problems), again.Spec, c.Spec)
	}
}

func TestConfigurationDefaults(t *testing.T) {
	c, problems, err := LoadConfiguration(nil, environment(nil))
	if err != nil || len(problems) != 0 {
		t.Fatal(err, problems)
	}
	if a := c.Spec.AccessControl; a.DefaultAction != "allow" || a.TrustDomain != "public" || !c.Spec.Tracing.OTel.Secure() || c.Spec.Tracing.SamplingRate != "" {
		t.Errorf("%+v", c.Spec)
	}
	if m := c.EffectiveMetrics(); !m.Enabled || m.RecordErrorCodes || !m.IncreasedCardinality || m.ExcludeVerbs {
		t.Errorf("%+v", m)
	}
	var zero OTel
	if !zero.Secure() {
		t.Error("OTLP is not secure by default")
	}
}

func TestConfigurationMerge(t *testing.T) {
	c, _, err := configure(t, map[string]string{"HOST": "h", "RATE": "0.5"},
		header+"spec:\n  tracing: {samplingRate: '$RATE', zipkin: {endpointAddress: 'http://${HOST}:1'}, stdout: true}\n  features: [{name: a, enabled: true}, {name: b, enabled: true}]\n  metric: {enabled: false}\n",
		header+"spec:\n  tracing: {samplingRate: '1', otel: {protocol: http}}\n  features: [{name: c, enabled: true}]\n  accessControl: {trustDomain: td}\n  metrics: {enabled: true}\n---\nspec: {wasm: {strictSandbox: true}}\n")
	if err != nil {
		t.Fatal(err)
	}
	if tr := c.Spec.Tracing; tr.SamplingRate != "1" || tr.Zipkin.EndpointAddress != "http://h:1" || !tr.Stdout || tr.OTel.Protocol != "http" || !tr.OTel.Secure() {
		t.Errorf("tracing %+v", tr)
	}
	if f := c.Spec.Features; len(f) != 1 || f[0].Name != "c" {
		t.Errorf("features %+v", f)
	}
	if a := c.Spec.AccessControl; a.DefaultAction != "allow" || a.TrustDomain != "td" || c.Spec.WASM.StrictSandbox || !c.EffectiveMetrics().Enabled {
		t.Errorf("spec %+v", c.Spec)
	}
}

func TestConfigurationErrors(t *testing.T) {
	for _, tc := range []struct{ name, content, want string }{
		{"syntax", "a: b: c\n", "yaml: line 1: mapping values are not allowed"},
		{"type", header + "spec: {tracing: {stdout: 'x'}}\n", "yaml: unmarshal errors:\n  line 4: cannot unmarshal the text \"x\" into spec.tracing.stdout"},
		{"duration", header + "spec: {tracing: {otel: {timeout: 5}}}\n", "into spec.tracing.otel.timeout, which must be a duration in text form"},
		{"retention", header + "spec: {workflow: {stateRetentionPolicy: {completed: 5}}}\n", "which must be a duration in text form"},
		{"header", header + "spec: {tracing: {otel: {headers: [x]}}}\n", `which must be text of the form "key=value"`},
		{"headers", header + "spec: {tracing: {otel: {headers: 5}}}\n", "which must be a list"},
		{"repeated scope", header + "spec: {secrets: {scopes: [{storeName: S}, {storeName: S}]}}\n", "S storeName is repeated in secrets configuration"},
		{"scope access", header + "spec: {secrets: {scopes: [{storeName: S, defaultAccess: X}]}}\n", "defaultAccess X can be either allow or deny"},
	} {
		_, _, err := configure(t, nil, tc.content)
		if err == nil || !strings.HasPrefix(err.Error(), tc.want) && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
	if _, _, err := LoadConfiguration([]string{"./x-missing"}, environment(nil)); err == nil || err.Error() != "stat ./x-missing: no such file or directory" {
		t.Errorf("got %v", err)
	}
}

func TestConfigurationWarnings(t *testing.T) {
	for _, tc := range []struct{ name, content, want string }{
		{"case", header + "spec:\n  Tracing: {stdout: true}\n", "line 5: Configuration \"c\": unknown field spec.Tracing is ignored; fix: write it as tracing: field names are case-sensitive here"},
		{"unknown", header + "spec:\n  trcing: {}\n", "did you mean tracing?"},
		{"unset", header + "spec: {tracing: {zipkin: {endpointAddress: '$NO'}}}\n", "environment variable NO is not set and became empty text"},
		{"second document", header + "---\na: 1\n", "only the first document of a configuration file is used"},
		{"empty", "# nothing\n", "the file is empty"},
		{"kind", "kind: Component\n", `kind is "Component"`},
		{"repeated", header + "spec: {}\nspec: {}\n", "key spec is written twice"},
		{"policies without default", header + "spec: {accessControl: {policies: [{appId: a, trustDomain: t, namespace: n}]}}\n", "has policies but no defaultAction"},
		{"acl action", header + "spec: {accessControl: {defaultAction: alow}}\n", `spec.accessControl.defaultAction "alow" is unknown and denies`},
		{"acl repeated", header + "spec: {accessControl: {defaultAction: deny, policies: [{appId: a, trustDomain: t, namespace: n}, {appId: a, trustDomain: t, namespace: n}]}}\n", "replaces the earlier policy"},
		{"acl operation", header + "spec: {accessControl: {defaultAction: deny, policies: [{appId: a, trustDomain: t, namespace: n, operations: [{name: x, action: yes}]}]}}\n", `operations[0].action "yes" is unknown`},
		{"api group", header + "spec: {api: {allowed: [{name: stat, version: v1, protocol: http}]}}\n", "did you mean state?"},
		{"api version", header + "spec: {api: {allowed: [{name: state, version: v1.0, protocol: grpc}]}}\n", `there is no gRPC group "state" version "v1.0"; fix: use a version that exists over gRPC`},
		{"api protocol", header + "spec: {api: {denied: [{name: state, version: v1, protocol: GRPC}]}}\n", `spec.api.denied[0] has no effect: protocol is "GRPC"`},
		{"handler", header + "spec: {httpPipeline: {handlers: [{name: x}]}}\n", "spec.httpPipeline.handlers[0].type is missing"},
		{"app handler", header + "spec: {appHttpPipeline: {handlers: [{type: x}]}}\n", "spec.appHttpPipeline.handlers[0].name is missing"},
		{"store", header + "spec: {secrets: {scopes: [{defaultAccess: allow}]}}\n", "spec.secrets.scopes[0].storeName is missing"},
	} {
		_, problems, err := configure(t, nil, tc.content)
		if err != nil || len(problems) != 1 || !strings.Contains(problems[0].String(), tc.want) {
			t.Errorf("%s: %v, %s; want %s", tc.name, err, texts(problems), tc.want)
		}
	}
	for _, quiet := range []string{
		header + "spec: {accessControl: {defaultAction: '', policies: [{appId: a, trustDomain: t, namespace: n}]}}\n",
		header + "spec: {api: {denied: [{name: state, version: v1.0, protocol: HTTP}]}}\nstatus: {}\n",
	} {
		if _, problems, err := configure(t, nil, quiet); err != nil || len(problems) != 0 {
			t.Errorf("%s: %v, %s", quiet, err, texts(problems))
		}
	}
}

func TestAccessControl(t *testing.T) {
	one := []AppAccessPolicy{{AppID: "a", TrustDomain: "t", Namespace: "n"}}
	for _, tc := range []struct {
		action   string
		policies []AppAccessPolicy
		want     string
	}{
		{"", nil, "allow"}, {"", one, "deny"}, {"allow", one, "allow"}, {"Allow", nil, "allow"}, {"deny", nil, "deny"}, {"other", nil, "deny"},
	} {
		a := AccessControl{DefaultAction: tc.action, Policies: tc.policies}
		if got := a.EffectiveDefaultAction(); got != tc.want {
			t.Errorf("%q with %d policies: %s", tc.action, len(tc.policies), got)
		}
	}
	for _, tc := range []struct {
		policies []AppAccessPolicy
		want     string
	}{
		{one, ""},
		{[]AppAccessPolicy{{AppID: "a"}, {AppID: "b", TrustDomain: "t"}}, "invalid access control spec. missing trustdomain for apps: [a], missing namespace for apps: [a b], missing app name on at least one of the app policies: false"},
		{[]AppAccessPolicy{{TrustDomain: "t", Namespace: "n"}}, "invalid access control spec. missing trustdomain for apps: [], missing namespace for apps: [], missing app name on at least one of the app policies: true"},
	} {
		err := (&AccessControl{Policies: tc.policies}).Validate()
		if got := ""; err != nil && err.Error() != tc.want || err == nil && got != tc.want {
			t.Errorf("got %v, want %q", err, tc.want)
		}
	}
}

func TestSecretAllowed(t *testing.T) {
	c := DefaultConfiguration()
	c.Spec.Secrets.Scopes = []SecretScope{
		{StoreName: "listed", DefaultAccess: "allow", AllowedSecrets: []string{"a", "b"}, DeniedSecrets: []string{"b"}},
		{StoreName: "denied", DeniedSecrets: []string{"x"}},
		{StoreName: "closed", DefaultAccess: "Deny"},
		{StoreName: "open"},
	}
	for _, tc := range []struct {
		store, name string
		want        bool
	}{
		{"listed", "a", true},
		{"listed", "b", true},
		{"listed", "c", false},
		{"listed", "A", false},
		{"denied", "x", false},
		{"denied", "X", true},
		{"denied", "y", true},
		{"closed", "x", false},
		{"open", "x", true},
		{"unknown", "x", true},
		{"Closed", "x", true},
	} {
		if got := c.SecretAllowed(tc.store, tc.name); got != tc.want {
			t.Errorf("%s/%s: %t", tc.store, tc.name, got)
		}
	}
}

func TestHTTPServed(t *testing.T) {
	rule := func(name, version, protocol string) []APIRule { return []APIRule{{name, version, protocol}} }
	const stateKey, stateRoute = "v1/state", "/v1.0/state/{storeName}/{key}"
	for _, tc := range []struct {
		name            string
		allowed, denied []APIRule
		group, route    string
		want            bool
	}{
		{"no rules", nil, nil, stateKey, stateRoute, true},
		{"allowed by group", rule("state", "v1", "http"), nil, stateKey, stateRoute, true},
		{"allowed by path", rule("state", "v1.0", "HTTP"), nil, stateKey, "v1.0/state/{storeName}", true},
		{"allowed by prefix", rule("s", "v1.0", "http"), nil, "v1/shutdown", "/v1.0/shutdown", true},
		{"not a concrete store", rule("state/mystore", "v1.0", "http"), nil, stateKey, stateRoute, false},
		{"other group", rule("state", "v1", "http"), nil, "v1/publish", "/v1.0/publish/{pubsubname}/{topic}", false},
		{"other version", rule("state", "v1", "http"), nil, "v1alpha1/state", "/v1.0-alpha1/state/{storeName}/query", false},
		{"alpha path", rule("state", "v1.0-alpha1", "http"), nil, "v1alpha1/state", "/v1.0-alpha1/state/{storeName}/query", true},
		{"allow list matching nothing", rule("none", "v1", "http"), nil, stateKey, stateRoute, false},
		{"rule of the other protocol", rule("none", "v1", "grpc"), nil, stateKey, stateRoute, true},
		{"rule without protocol", rule("none", "v1", ""), nil, stateKey, stateRoute, true},
		{"denied", nil, rule("state", "v1.0", "http"), stateKey, stateRoute, false},
		{"deny other", nil, rule("secrets", "v1", "http"), stateKey, stateRoute, true},
		{"deny wins", rule("state", "v1", "http"), rule("state", "v1.0", "http"), stateKey, stateRoute, false},
		{"health", rule("none", "v1", "http"), rule("healthz", "v1", "http"), "v1/healthz", "/v1.0/healthz", true},
	} {
		a := APIAccess{Allowed: tc.allowed, Denied: tc.denied}
		if got := a.HTTPServed(tc.group, tc.route); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
	}
}

func TestGRPCAllowed(t *testing.T) {
	rule := func(name, version, protocol string) []APIRule { return []APIRule{{name, version, protocol}} }
	for _, tc := range []struct {
		name            string
		allowed, denied []APIRule
		method          string
		want            bool
	}{
		{"no rules", nil, nil, "GetState", true},
		{"allowed", rule("state", "v1", "grpc"), nil, "GetState", true},
		{"not allowed", rule("state", "v1", "grpc"), nil, "GetSecret", false},
		{"other version", rule("state", "v1", "grpc"), nil, "QueryStateAlpha1", false},
		{"method of no group", rule("state", "v1", "grpc"), nil, "ConverseAlpha2", false},
		{"conversation", rule("conversation", "v1alpha2", "grpc"), nil, "ConverseAlpha2", true},
		{"workflow", rule("workflows", "v1beta1", "grpc"), nil, "StartWorkflowBeta1", true},
		{"path version expands to nothing", rule("state", "v1.0", "grpc"), nil, "GetSecret", true},
		{"upper case protocol", rule("state", "v1", "GRPC"), nil, "GetSecret", true},
		{"http rule", rule("state", "v1", "http"), nil, "GetSecret", true},
		{"denied", nil, rule("state", "v1", "grpc"), "GetState", false},
		{"deny other", nil, rule("state", "v1", "grpc"), "GetSecret", true},
		{"deny wins", rule("state", "v1", "grpc"), rule("state", "v1", "grpc"), "GetState", false},
	} {
		g := (&APIAccess{Allowed: tc.allowed, Denied: tc.denied}).GRPC()
		if got := g.Allowed("/dapr.proto.runtime.v1.Dapr/" + tc.method); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
		if !g.Allowed("/my.Service/Call") || !g.Allowed("/TaskHubSidecarService/Hello") {
			t.Errorf("%s: proxying is blocked", tc.name)
		}
	}
	if (GRPCAccess{}).Allowed("/dapr.proto.runtime.v1.Dapr/GetState") != true {
		t.Error("the zero value refuses")
	}
}

func TestGRPCMethods(t *testing.T) {
	counts := map[string]int{
		"invoke.v1": 1, "state.v1": 6, "state.v1alpha1": 1, "publish.v1": 2, "publish.v1alpha1": 1, "subscribe.v1alpha1": 1, "bindings.v1": 1, "secrets.v1": 2, "actors.v1": 10, "actors.v1alpha1": 1,
		"metadata.v1": 2, "configuration.v1": 3, "configuration.v1alpha1": 3, "lock.v1alpha1": 1, "unlock.v1alpha1": 1, "crypto.v1alpha1": 2, "subtlecrypto.v1alpha1": 7,
		"workflows.v1alpha1": 7, "workflows.v1beta1": 7, "jobs.v1": 5, "jobs.v1alpha1": 5, "conversation.v1alpha1": 1, "conversation.v1alpha2": 1, "shutdown.v1": 1, "state.v1.0": 0, "x.v1": 0, "workflows.v1": 0,
	}
	var all []string
	for group, want := range counts {
		name, version, _ := strings.Cut(group, ".")
		got := GRPCMethods(name, version)
		if len(got) != want {
			t.Errorf("%s: %v", group, got)
		}
		all = append(all, got...)
	}
	slices.Sort(all)
	if len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Errorf("a method is in two groups: %v", all)
	}
	if got := GRPCMethods("jobs", "v1alpha1"); !slices.Contains(got, "DeleteJobsByPrefixAlpha1") {
		t.Errorf("jobs.v1alpha1: %v", got)
	}
	if got := GRPCMethods("workflows", "v1alpha1"); !slices.Contains(got, "RaiseEventWorkflowAlpha1") {
		t.Errorf("workflows.v1alpha1: %v", got)
	}
}
