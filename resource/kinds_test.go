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

// decodeKind decodes a document of a kind whose spec is given in flow style.
func decodeKind[T any, P interface {
	*T
	Resource
}](t *testing.T, kind, rest string) (P, []Problem) {
	t.Helper()
	r := P(new(T))
	problems, err := Decode([]byte("apiVersion: dapr.io/v1alpha1\nkind: "+kind+"\nmetadata: {name: res}\n"+rest), Origin{File: "f", Document: 3, Line: 7}, r)
	if err != nil {
		t.Fatal(err)
	}
	// A control plane sends resources as JSON.
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	again := P(new(T))
	if _, err := Decode(data, Origin{}, again); err != nil || !reflect.DeepEqual(again.identity(), r.identity()) {
		t.Errorf("after JSON %s: %v\n%+v\n%+v", data, err, again, r)
	}
	return r, problems
}

func TestComponent(t *testing.T) {
	c, problems := decodeKind[Component](t, KindComponent, `auth: {secretStore: s}
scopes: [a]
spec:
  Type: state.redis
  version: v1
  ignoreErrors: true
  initTimeout: 20s
  metadata:
  - {name: five, value: 5}
  - {name: s, secretKeyRef: {name: x}}
  - {name: e, envRef: E}
`)
	if len(problems) != 0 || c.LogName() != "res (state.redis/v1)" || c.Category() != "state" || c.InitDeadline() != 20*time.Second || !c.Spec.IgnoreErrors || c.Auth.SecretStore != "s" || !slices.Equal(c.AppScopes(), []string{"a"}) {
		t.Errorf("%+v, %s", c, texts(problems))
	}
	if o := c.Origin; o != (Origin{"f", 3, 7}) || o.String() != "f, document 3, line 7" {
		t.Errorf("origin %v", o)
	}
	if m := c.Spec.Metadata; m[0].Value.String() != "5" || m[1].SecretKeyRef.KeyOrName() != "x" || m[2].EnvRef != "E" {
		t.Errorf("metadata %+v", m)
	}
	for text, want := range map[string]time.Duration{"": 5 * time.Second, "x": 5 * time.Second, "1m": time.Minute} {
		if got := (&Component{Spec: ComponentSpec{InitTimeout: text}}).InitDeadline(); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
	_, problems = decodeKind[Component](t, KindComponent, `spec:
  type: state.redis
  metadata: [{value: x}, {name: a, value: 1}, {name: a, value: 2}, {name: b, value: 1, envRef: E}, {name: c, secretKeyRef: {key: k}}]
`)
	for _, want := range []string{"spec.metadata[0] has no name", `spec.metadata has "a" twice`, `"b" has both value and envRef`, `"c" has a secretKeyRef without name`} {
		if !strings.Contains(texts(problems), want) {
			t.Errorf("%q is missing in %s", want, texts(problems))
		}
	}
	if _, err := Decode([]byte("# nothing"), Origin{}, c); err == nil {
		t.Error("an empty document decodes")
	}
}

func TestHTTPEndpoint(t *testing.T) {
	h, problems := decodeKind[HTTPEndpoint](t, KindHTTPEndpoint, `auth: {secretStore: s}
spec:
  baseUrl: https://x
  headers: [{name: A, value: yes}]
  clientTLS: {rootCA: {value: pem}, certificate: {secretKeyRef: {name: c}}, privateKey: {value: key}, renegotiation: OnceAsClient}
`)
	if len(problems) != 0 || h.Spec.BaseURL != "https://x" || h.Spec.Headers[0].Value.String() != "true" || h.Spec.ClientTLS.RootCA.Text() != "pem" || h.Spec.ClientTLS.RenegotiationOrDefault() != RenegotiationOnce {
		t.Errorf("%+v, %s", h, texts(problems))
	}
	for spec, want := range map[string]string{
		"{}":                   "spec.baseUrl is missing",
		"{baseUrl: 'x:1'}":     `spec.baseUrl "x:1" is not an http or https URL`,
		"{baseUrl: 'ftp://x'}": "is not an http or https URL",
		"{baseUrl: 'http://x', clientTLS: {renegotiation: never}}": "invalid renegotiation value never for http endpoint res",
	} {
		if _, problems := decodeKind[HTTPEndpoint](t, KindHTTPEndpoint, "spec: "+spec); len(problems) != 1 || !strings.Contains(texts(problems), want) {
			t.Errorf("%s: %s", spec, texts(problems))
		}
	}
}

func TestSubscription(t *testing.T) {
	decode := func(version, spec string) (*Subscription, string) {
		s := &Subscription{}
		problems, err := Decode([]byte("apiVersion: dapr.io/"+version+"\nkind: Subscription\nmetadata: {name: res}\nspec: "+spec), Origin{}, s)
		if err != nil {
			t.Fatal(err)
		}
		return s, texts(problems)
	}
	s, problems := decode("v2alpha1", "{pubsubname: p, topic: t, routes: {rules: [{match: m, path: /a}], default: /d}, deadLetterTopic: dl, metadata: {rawPayload: true, five: 5}, bulkSubscribe: {enabled: true, maxMessagesCount: 10, maxAwaitDurationMs: 20}}")
	want := SubscriptionSpec{
		PubsubName: "p", Topic: "t", Routes: Routes{[]RouteRule{{"m", "/a"}}, "/d"}, DeadLetterTopic: "dl",
		Metadata: map[string]string{"rawPayload": "true", "five": "5"}, BulkSubscribe: BulkSubscribe{true, 10, 20},
	}
	if problems != "" || !reflect.DeepEqual(s.Spec, want) || !reflect.DeepEqual(s.Rules(), []RouteRule{{"m", "/a"}, {"", "/d"}}) {
		t.Errorf("%+v, %s", s.Spec, problems)
	}
	unversioned := &Subscription{}
	if _, err := Decode([]byte(`{"spec": {"pubsubname": "p", "topic": "t", "route": "/r"}}`), Origin{}, unversioned); err != nil || unversioned.Spec.Routes.Default != "/r" {
		t.Errorf("%+v, %v", unversioned, err)
	}
	for _, tc := range []struct{ version, spec, route, problem string }{
		{"v1alpha1", "{pubsubname: p, topic: t, route: /r}", "/r", ""},
		{"v1alpha1", "{pubsubname: p, topic: t, route: /r, routes: {default: /d}}", "/r", "spec.routes is ignored in dapr.io/v1alpha1"},
		{"v2alpha1", "{pubsubname: p, topic: t, route: /r, routes: {default: /d}}", "/d", "spec.route is ignored in dapr.io/v2alpha1"},
		{"v2alpha1", "{pubsubname: p, topic: t}", "", "there is no route"},
		{"v2alpha1", "{topic: t, routes: {default: /d}}", "/d", "spec.pubsubname is missing"},
		{"v2alpha1", "{pubsubname: p, routes: {default: /d}}", "/d", "spec.topic is missing"},
		{"v2alpha1", "{pubsubname: p, topic: t, routes: {rules: [{match: x}], default: /d}}", "/d", "has no path"},
	} {
		s, problems := decode(tc.version, tc.spec)
		if s.Spec.Routes.Default != tc.route || s.Spec.Route != "" || (tc.problem == "") != (problems == "") || !strings.Contains(problems, tc.problem) {
			t.Errorf("%s %s: %+v, %s", tc.version, tc.spec, s.Spec, problems)
		}
	}
}

func TestResiliency(t *testing.T) {
	r, problems := decodeKind[Resiliency](t, KindResiliency, `scopes: [a]
spec:
  policies:
    timeouts: {general: 5s, ms: 500}
    retries:
      r: {policy: Exponential, duration: 1s, maxInterval: 15, maxRetries: 0, matching: {httpStatusCodes: "429,500-599", gRPCStatusCodes: 14}}
      d: {}
    circuitBreakers: {b: {maxRequests: 2, interval: 8s, timeout: 45s, trip: consecutiveFailures > 8}, d: {}}
  targets:
    apps: {app: {timeout: general, retry: r, circuitBreaker: b, circuitBreakerCacheSize: 7}}
    actors: {T: {timeout: ms, retry: r, circuitBreaker: b, circuitBreakerScope: both, circuitBreakerCacheSize: 9}}
    components: {c: {inbound: {timeout: general}, outbound: {retry: r, circuitBreaker: b}}}
`)
	if len(problems) != 0 {
		t.Error(texts(problems))
	}
	retry, breaker := r.Spec.Policies.Retries["r"], r.Spec.Policies.CircuitBreakers["b"]
	exponential, err := retry.Exponential()
	if !exponential || err != nil || retry.MaxRetriesOrDefault() != 0 || *retry.Matching.HTTPStatusCodes != "429,500-599" || *retry.Matching.GRPCStatusCodes != "14" || retry.MaxInterval != "15" {
		t.Errorf("retry %+v", retry)
	}
	if breaker.MaxRequestsOrDefault() != 2 || breaker.TripOrDefault() != "consecutiveFailures > 8" || r.Spec.Policies.Timeouts["ms"] != "500" {
		t.Errorf("breaker %+v", breaker)
	}
	retry, breaker = r.Spec.Policies.Retries["d"], r.Spec.Policies.CircuitBreakers["d"]
	if exponential, err := retry.Exponential(); exponential || err != nil || retry.MaxRetriesOrDefault() != -1 || retry.Matching.HTTPStatusCodes != nil || breaker.MaxRequestsOrDefault() != 1 || breaker.TripOrDefault() != DefaultBreakerTrip {
		t.Errorf("defaults %+v %+v", retry, breaker)
	}
	app, actor := r.Spec.Targets.Apps["app"], r.Spec.Targets.Actors["T"]
	if app.Timeout != "general" || app.CacheSizeOrDefault() != 7 || actor.CircuitBreakerScope != "both" || actor.CacheSizeOrDefault() != 9 || r.Spec.Targets.Components["c"].Outbound.CircuitBreaker != "b" {
		t.Errorf("targets %+v", r.Spec.Targets)
	}
	if (&AppTarget{}).CacheSizeOrDefault() != 100 || (&ActorTarget{}).CacheSizeOrDefault() != 5000 {
		t.Error("cache size defaults")
	}
	for spec, want := range map[string]string{
		"{policies: {timeouts: {t: soon}}}":                                                   `spec.policies.timeouts.t: invalid duration "soon"`,
		"{policies: {retries: {r: {policy: linear}}}}":                                        `invalid retry policy "linear": use constant or exponential`,
		"{policies: {retries: {r: {duration: x}}}}":                                           "spec.policies.retries.r.duration",
		"{policies: {retries: {r: {maxInterval: x}}}}":                                        "spec.policies.retries.r.maxInterval",
		"{policies: {retries: {r: {matching: {httpStatusCodes: '42'}}}}}":                     "matching.httpStatusCodes: invalid status codes",
		"{policies: {retries: {r: {matching: {gRPCStatusCodes: '17'}}}}}":                     "matching.gRPCStatusCodes: invalid status codes",
		"{policies: {circuitBreakers: {b: {interval: x}}}}":                                   "circuitBreakers.b.interval",
		"{policies: {circuitBreakers: {b: {timeout: x}}}}":                                    "circuitBreakers.b.timeout",
		"{policies: {circuitBreakers: {b: {maxRequests: -1}}}}":                               "maxRequests is negative",
		"{policies: {circuitBreakers: {b: {trip: 'consecutiveFailures >'}}}}":                 "circuitBreakers.b.trip",
		"{policies: {retries: {retry1: {}}}, targets: {apps: {a: {retry: retyr1}}}}":          `spec.targets.apps.a.retry names the policy "retyr1", which this resource does not define; fix: did you mean retry1?`,
		"{targets: {components: {a: {inbound: {timeout: zz}}}}}":                              "define it under spec.policies",
		"{targets: {components: {a: {outbound: {circuitBreaker: zz}}}}}":                      "components.a.outbound.circuitBreaker",
		"{policies: {circuitBreakers: {b: {}}}, targets: {actors: {a: {circuitBreaker: b}}}}": "spec.targets.actors.a.circuitBreakerScope is missing",
		"{targets: {actors: {a: {circuitBreakerScope: x}}}}":                                  `circuitBreakerScope "x" is unknown`,
	} {
		if _, problems := decodeKind[Resiliency](t, KindResiliency, "spec: "+spec); len(problems) != 1 || !strings.Contains(texts(problems), want) {
			t.Errorf("%s: %s", spec, texts(problems))
		}
	}
}

func TestParsePolicyDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"": 7, "5s": 5 * time.Second, "500": 500 * time.Millisecond, "0": 0, "-1": -time.Millisecond, "1.5s": 1500 * time.Millisecond} {
		if got, err := ParsePolicyDuration(in, 7); err != nil || got != want {
			t.Errorf("%q: %s, %v", in, got, err)
		}
	}
	for _, in := range []string{"x", "1.5", "5 s", "99999999999999999", "99999999999999999999"} {
		if got, err := ParsePolicyDuration(in, 0); err == nil {
			t.Errorf("%q: %s", in, got)
		}
	}
}

func TestParseStatusCodes(t *testing.T) {
	for in, want := range map[string][]CodeRange{
		"429,500-599": {{429, 429}, {500, 599}}, "": nil, ",,100,": {{100, 100}}, "100-100": {{100, 100}},
	} {
		if got, err := ParseStatusCodes(in, 100, 599); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"99", "600", "500 ", " 500", "500-499", "a", "500-", "-500", "100-200-300", "+100", "1e2"} {
		if got, err := ParseStatusCodes(in, 100, 599); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
	if got, err := ParseStatusCodes("0,14-16", MinGRPCStatusCode, MaxGRPCStatusCode); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestWorkflowAccessPolicy(t *testing.T) {
	p, problems := decodeKind[WorkflowAccessPolicy](t, KindWorkflowAccessPolicy, "spec: {rules: [{callers: [{appID: a}], workflows: [{name: 'w*', operations: [schedule, terminate, raise, pause, resume, purge, get, rerun]}], activities: [{name: x}]}]}\n")
	if err := p.Validate(); err != nil || len(problems) != 0 {
		t.Errorf("%v, %s", err, texts(problems))
	}
	if err := (&WorkflowAccessPolicy{}).Validate(); err != nil {
		t.Errorf("no rules: %v", err)
	}
	for rule, want := range map[string]string{
		"{callers: [], activities: [{name: x}]}":                                  "spec.rules[0].callers must have at least 1 item",
		"{callers: [{}], activities: [{name: x}]}":                                "spec.rules[0].callers[0].appID must not be empty",
		"{callers: [{appID: a}]}":                                                 "spec.rules[0]: at least one of workflows or activities must contain a rule",
		"{callers: [{appID: a}], workflows: [{operations: [get]}]}":               "workflows[0].name must not be empty",
		"{callers: [{appID: a}], workflows: [{name: x}]}":                         "workflows[0].operations must have at least 1 item",
		"{callers: [{appID: a}], workflows: [{name: x, operations: [start]}]}":    `unsupported value "start"`,
		"{callers: [{appID: a}], workflows: [{name: x, operations: [get, get]}]}": `duplicate value "get"`,
		"{callers: [{appID: a}], activities: [{}]}":                               "activities[0].name must not be empty",
	} {
		p, _ := decodeKind[WorkflowAccessPolicy](t, KindWorkflowAccessPolicy, "spec: {rules: ["+rule+"]}\n")
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

func TestMCPServer(t *testing.T) {
	m, problems := decodeKind[MCPServer](t, KindMCPServer, `spec:
  endpoint:
    streamableHTTP:
      url: https://x/mcp
      protocolVersion: 2025-06-18
      timeout: 20s
      headers: [{name: X, value: v}]
      auth: {secretStore: s, oauth2: {issuer: i, audience: a, scopes: [x], clientID: c, secretKeyRef: {name: x, key: k}}, spiffe: {jwt: {header: h, audience: a, headerValuePrefix: "Bearer "}}}
  middleware:
    beforeCallTool: [{workflow: {workflowName: w, appID: a}, mutate: true}]
    afterCallTool: [{workflow: {workflowName: w}}]
    beforeListTools: [{workflow: {workflowName: w}}]
    afterListTools: [{workflow: {workflowName: w}}]
  catalog: {displayName: d, description: d, owner: {team: t, contact: c}, tags: [a], links: {l: u}}
  ignoreErrors: true
`)
	e := m.Spec.Endpoint.StreamableHTTP
	if err := m.Validate(); err != nil || len(problems) != 0 || e.TimeoutOrDefault() != 20*time.Second || e.ProtocolVersion != "2025-06-18" || e.Auth.OAuth2.SecretKeyRef.Key != "k" || e.Auth.SPIFFE.JWT.HeaderValuePrefix != "Bearer " || !m.Spec.Middleware.BeforeCallTool[0].Mutate || m.Spec.Catalog.Owner.Team != "t" {
		t.Errorf("%+v, %v, %s", m.Spec, err, texts(problems))
	}
	if (&MCPHTTP{}).TimeoutOrDefault() != 30*time.Second || (&MCPHTTP{Timeout: "-1s"}).TimeoutOrDefault() != 30*time.Second {
		t.Error("timeout default")
	}
	if _, problems := decodeKind[MCPServer](t, KindMCPServer, "spec: {middleware: {beforeListTools: [{workflow: {workflowName: w}, mutate: true}]}}"); len(problems) != 1 || !strings.Contains(texts(problems), "unknown field spec.middleware.beforeListTools[0].mutate") {
		t.Errorf("mutate of beforeListTools: %s", texts(problems))
	}
	for spec, want := range map[string]string{
		"{endpoint: {}}": `MCPServer "res" failed validation: exactly one of streamableHTTP, sse, or stdio must be set`,
		"{endpoint: {sse: {url: 'http://x'}, stdio: {command: x}}}": "exactly one of streamableHTTP, sse, or stdio must be set",
		"{endpoint: {sse: {}}}":                                                            "spec.endpoint.sse.url must not be empty",
		"{endpoint: {stdio: {}}}":                                                          "spec.endpoint.stdio.command must not be empty",
		"{endpoint: {sse: {url: 'http://x', auth: {oauth2: {}}}}}":                         "auth.oauth2.issuer must not be empty",
		"{endpoint: {sse: {url: 'http://x', auth: {spiffe: {jwt: {header: h}}}}}}":         "auth.spiffe.jwt.audience must not be empty",
		"{endpoint: {sse: {url: 'http://x', auth: {spiffe: {jwt: {audience: h}}}}}}":       "auth.spiffe.jwt.header must not be empty",
		"{endpoint: {stdio: {command: x}}, middleware: {afterCallTool: [{workflow: {}}]}}": "spec.middleware.afterCallTool[0].workflow.workflowName must not be empty",
		"{endpoint: {stdio: {command: x}}, middleware: {beforeListTools: [{}]}}":           "spec.middleware.beforeListTools[0].workflow.workflowName must not be empty",
	} {
		m, _ := decodeKind[MCPServer](t, KindMCPServer, "spec: "+spec)
		if err := m.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

func TestMCPServerSecurity(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Skip(err)
	}
	for _, name := range []string{filepath.Join(outside, "tool"), filepath.Join(dir, "own")} {
		if err := os.WriteFile(name, nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		endpoint   string
		kubernetes bool
		want       string // "" is allowed
	}{
		{"{stdio: {command: npx}}", false, ""},
		{"{stdio: {command: /usr/bin/npx}}", false, ""},
		{"{stdio: {command: ./own}}", false, ""},
		{"{stdio: {command: ./not/yet/there}}", false, ""},
		{"{stdio: {command: npx}}", true, "stdio transport is not allowed in Kubernetes mode"},
		{"{stdio: {command: ''}}", false, "stdio.command must not be empty"},
		{"{stdio: {command: ../tool}}", false, "stdio.command must not escape working directory"},
		{"{stdio: {command: a/../../tool}}", false, "stdio.command must not escape working directory"},
		{"{stdio: {command: link/tool}}", false, "stdio.command must not escape working directory"},
		{"{stdio: {command: x, env: [{name: 'A=B'}]}}", false, `stdio.env name "A=B" contains invalid characters`},
		{"{sse: {url: 'https://x'}}", true, ""},
		{"{sse: {url: 'ftp://x'}}", false, `sse.url scheme must be http or https, got "ftp"`},
		{"{streamableHTTP: {url: 'http:///p'}}", false, "streamableHTTP.url must have a host"},
		{"{streamableHTTP: {url: 'http://x:port'}}", false, "streamableHTTP.url is not a valid URL"},
	} {
		m, _ := decodeKind[MCPServer](t, KindMCPServer, "spec: {endpoint: "+tc.endpoint+"}")
		err := m.ValidateSecurity(tc.kubernetes, dir)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.HasPrefix(err.Error(), `MCPServer "res" failed security validation: MCPServer "res": `+tc.want)) {
			t.Errorf("%s: %v", tc.endpoint, err)
		}
	}
}

func TestProblemString(t *testing.T) {
	for _, tc := range []struct {
		p    Problem
		want string
	}{
		{Problem{Origin{"f.yaml", 2, 14}, Error, "Component", "x", "a\nb", "c"}, `error: f.yaml, document 2, line 14: Component "x": a b; fix: c`},
		{Problem{Message: "m"}, "warning: m"},
		{Problem{Kind: "K", Message: "m"}, "warning: K: m"},
		{Problem{Name: "n", Message: "m"}, `warning: "n": m`},
	} {
		if got := tc.p.String(); got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
	}
}
