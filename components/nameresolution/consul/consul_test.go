package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// names is a DNS that knows one name.
type names struct{}

func (names) LookupHost(_ context.Context, host string) ([]string, error) {
	if host == "known.example" {
		return []string{"192.0.2.9"}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// logs collects log lines.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// setup is how a resolver of a test is opened.
type setup struct {
	sidecar    components.Sidecar
	properties map[string]string
	env        map[string]string
	clock      clockwork.Clock
	log        *logs
}

// openWith opens a resolver by the registry, as the sidecar does.
func openWith(t *testing.T, s setup) (*Resolver, error) {
	t.Helper()
	var registry components.Registry
	nameresolution.Register(&registry, components.Info{Name: "consul", Version: "v1"}, func(ctx context.Context, inst components.Instance, o Options) (nameresolution.Resolver, error) {
		return open(ctx, inst, o, func(name string) string { return s.env[name] }, names{})
	})
	d, err := registry.Lookup(components.NameResolution, "consul", "v1")
	if err != nil {
		t.Fatal(err)
	}
	if s.log == nil {
		s.log = &logs{}
	}
	opened, err := d.Open(t.Context(), components.Instance{Properties: s.properties, Sidecar: s.sidecar, Clock: s.clock, Log: slog.New(slog.NewTextHandler(s.log, nil))})
	if err != nil {
		return nil, err
	}
	return opened.(*Resolver), nil
}

// join is openWith of what must work.
func join(t *testing.T, s setup) *Resolver {
	t.Helper()
	r, err := openWith(t, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// client is the property for a server.
func clientJSON(address string) string { return fmt.Sprintf(`{"Address":%q}`, address) }

func resolve(r *Resolver, id string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return r.Resolve(ctx, nameresolution.Request{ID: id, Namespace: "any", Port: 1})
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatal("timed out: " + what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// request makes a call of Consul's API and decodes the answer.
func request(t *testing.T, server *servers.ConsulServer, method, path, body string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %v, status %d: %s", method, path, err, resp.StatusCode, data)
	}
	if into != nil {
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
}

// put registers an instance that is healthy until its check, which has the instance's id, fails.
func put(t *testing.T, server *servers.ConsulServer, name, id, address, meta string) {
	t.Helper()
	request(t, server, http.MethodPut, "/v1/agent/service/register", fmt.Sprintf(
		`{"Name":%q,"ID":%q,"Address":%q,"Port":1,"Meta":{%s},"Check":{"CheckID":%q,"TTL":"1h","Status":"passing"}}`, name, id, address, meta, id), nil)
}

// all resolves until every wanted address was seen, and fails on any other.
func all(t *testing.T, r *Resolver, id string, want ...string) {
	t.Helper()
	seen := map[string]bool{}
	eventually(t, fmt.Sprintf("%s has the addresses %v", id, want), func() bool {
		a, err := resolve(r, id)
		if err != nil {
			return false
		}
		seen[a] = true
		for _, w := range want {
			if !seen[w] {
				return false
			}
		}
		return true
	})
	for range 50 {
		a, err := resolve(r, id)
		known := false
		for _, w := range want {
			known = known || a == w
		}
		if err != nil || !known {
			t.Fatalf("%q, %v; want one of %v", a, err, want)
		}
	}
}

func TestRegistration(t *testing.T) {
	server := servers.Consul(t)
	type service struct {
		ID, Service, Address string
		Port                 int
		Tags                 []string
		Meta                 map[string]string
	}
	for _, tc := range []struct {
		name       string
		sidecar    components.Sidecar
		properties map[string]string
		id         string
		want       string // of the service, as %+v
		checks     string // names and kinds, sorted by id
		stays      bool
	}{
		{
			"default check",
			components.Sidecar{AppID: "reg-a", HostAddress: "127.0.0.1", HTTPPort: 3500, InternalPort: 50002, AppPort: 8080},
			map[string]string{"selfRegister": "true", "selfDeregister": "true"},
			"reg-a-127.0.0.1-3500", "{ID:reg-a-127.0.0.1-3500 Service:reg-a Address:127.0.0.1 Port:8080 Tags:[] Meta:map[DAPR_PORT:50002]}", "Dapr Health Status daprHealth:reg-a-127.0.0.1-3500", false,
		},
		{
			"IPv6, tags and meta",
			components.Sidecar{AppID: "reg-b", HostAddress: "::1", HTTPPort: 3501, InternalPort: 50003, AppPort: 8081},
			map[string]string{"selfRegister": "true", "tags": `["x","y"]`, "meta": `{"k":"v","n":5,"PORT":"lost"}`, "daprPortMetaKey": "PORT"},
			"reg-b-::1-3501", "{ID:reg-b-::1-3501 Service:reg-b Address:::1 Port:8081 Tags:[x y] Meta:map[PORT:50003 k:v n:5]}", "Dapr Health Status daprHealth:reg-b-::1-3501", true,
		},
		{
			"own checks",
			components.Sidecar{AppID: "reg-c", HostAddress: "127.0.0.1", HTTPPort: 3502, InternalPort: 50004, AppPort: 8082},
			map[string]string{"selfRegister": "true", "selfDeregister": "true", "checks": `[{"name":"mine","checkID":"mine-c","ttl":"1h","status":"passing"}]`},
			"reg-c-127.0.0.1-3502", "{ID:reg-c-127.0.0.1-3502 Service:reg-c Address:127.0.0.1 Port:8082 Tags:[] Meta:map[DAPR_PORT:50004]}", "mine mine-c", false,
		},
		{
			"advanced",
			components.Sidecar{AppID: "ignored", HostAddress: "ignored", InternalPort: 50005},
			map[string]string{"selfDeregister": "true", "tags": `["ignored"]`, "advancedRegistration": `{"name":"reg-d","id":"reg-d-1","port":8083,"address":"192.0.2.1","tags":["t"],"meta":{"k":"v"},"check":{"name":"adv","checkID":"adv-d","interval":"15s","http":"http://127.0.0.1:1/"}}`},
			"reg-d-1", "{ID:reg-d-1 Service:reg-d Address:192.0.2.1 Port:8083 Tags:[t] Meta:map[DAPR_PORT:50005 k:v]}", "adv adv-d", false,
		},
		{
			"advanced without id",
			components.Sidecar{InternalPort: 50006},
			map[string]string{"selfDeregister": "true", "advancedRegistration": `{"Name":"reg-e","Meta":{"DAPR_PORT":"7"}}`},
			"reg-e", "{ID:reg-e Service:reg-e Address: Port:0 Tags:[] Meta:map[DAPR_PORT:7]}", "", false,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.properties["client"] = clientJSON(server.Addr)
			r := join(t, setup{sidecar: tc.sidecar, properties: tc.properties})
			services := map[string]service{}
			request(t, server, http.MethodGet, "/v1/agent/services", "", &services)
			if got := fmt.Sprintf("%+v", services[tc.id]); got != tc.want {
				t.Errorf("registered %s\nwant       %s", got, tc.want)
			}
			checks := map[string]struct{ Name, CheckID, ServiceID string }{}
			request(t, server, http.MethodGet, "/v1/agent/checks", "", &checks)
			got := ""
			for _, c := range checks {
				if c.ServiceID == tc.id {
					got += c.Name + " " + c.CheckID
				}
			}
			if got != tc.checks {
				t.Errorf("checks %q, want %q", got, tc.checks)
			}
			for range 2 {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
			services = nil
			request(t, server, http.MethodGet, "/v1/agent/services", "", &services)
			if _, there := services[tc.id]; there != tc.stays {
				t.Errorf("after Close: registered %v", there)
			}
		})
	}
}

// TestDefaultCheck lets Consul ask a sidecar for its health.
func TestDefaultCheck(t *testing.T) {
	r := &Resolver{options: Options{SelfRegister: true, DaprPortMetaKey: "DAPR_PORT"}}
	body, _, err := r.registration(components.Sidecar{AppID: "a b&c", HostAddress: "fd00::1", HTTPPort: 3500, InternalPort: 1, AppPort: 2})
	if err != nil {
		t.Fatal(err)
	}
	var s service
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatal(err)
	}
	if got, want := string(s.Checks[0]), `{"Name":"Dapr Health Status","CheckID":"daprHealth:a b\u0026c-fd00::1-3500","Interval":"15s","HTTP":"http://[fd00::1]:3500/v1.0/healthz?appid=a+b%26c"}`; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestResolve(t *testing.T) {
	server := servers.Consul(t)
	put(t, server, "res-a", "res-a-1", "192.0.2.1", `"DAPR_PORT":"1001"`)
	put(t, server, "res-a", "res-a-2", "fd00::2", `"DAPR_PORT":"1002"`)
	put(t, server, "res-a", "res-a-3", "known.example", `"DAPR_PORT":"1003"`)
	put(t, server, "res-node", "res-node", "", `"DAPR_PORT":"1004"`)
	put(t, server, "res-meta", "res-meta", "192.0.2.1", `"OTHER":"1"`)
	put(t, server, "res-port", "res-port", "192.0.2.1", `"DAPR_PORT":"http"`)
	put(t, server, "res-name", "res-name", "unknown.example", `"DAPR_PORT":"1"`)
	put(t, server, "res-some", "res-some-1", "unknown.example", `"DAPR_PORT":"1"`)
	put(t, server, "res-some", "res-some-2", "192.0.2.7", `"DAPR_PORT":"7"`)
	put(t, server, "res-some", "res-some-3", "192.0.2.7", ``)
	put(t, server, "res-sick", "res-sick", "192.0.2.1", `"DAPR_PORT":"1"`)
	request(t, server, http.MethodPut, "/v1/agent/check/fail/res-sick", "", nil)
	put(t, server, "res odd?x=y#z%2F", "res-odd", "192.0.2.1", `"DAPR_PORT":"8"`)
	for _, properties := range []map[string]string{
		{},
		{"useCache": "true"},
		{"queryOptions": "{}"},
		{"queryOptions": `{"allowStale":true,"useCache":true,"maxAge":1000000000,"near":"_agent","filter":"Service.Meta.nothing != \"x\" "}`},
		{"requireConsistent": "true"},
	} {
		t.Run(fmt.Sprint(properties), func(t *testing.T) {
			properties["client"] = clientJSON(server.URL)
			r := join(t, setup{properties: properties})
			all(t, r, "res-a", "192.0.2.1:1001", "[fd00::2]:1002", "known.example:1003")
			all(t, r, "res-node", "127.0.0.1:1004")
			all(t, r, "res-some", "192.0.2.7:7")
			all(t, r, "res odd?x=y#z%2F", "192.0.2.1:8")
			for id, want := range map[string]string{
				"nobody":             "no healthy services found with AppID 'nobody'",
				"res-sick":           "no healthy services found with AppID 'res-sick'",
				"":                   "no healthy services found with AppID ''",
				"..":                 "no healthy services found with AppID '..'",
				"../../agent/self":   "no healthy services found with AppID '../../agent/self'",
				"x/../../agent/self": "cannot be the name of a service",
				"res-meta":           "target service AppID 'res-meta' found but DAPR_PORT missing from meta",
				"res-port":           `DAPR_PORT of its meta is "http"`,
				"res-name":           `its address "unknown.example" does not resolve`,
			} {
				if a, err := resolve(r, id); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %q, %v; want an error with %q", id, a, err, want)
				}
			}
		})
	}
}

func TestForget(t *testing.T) {
	server := servers.Consul(t)
	put(t, server, "forget", "forget-1", "192.0.2.1", `"DAPR_PORT":"1"`)
	put(t, server, "forget", "forget-2", "192.0.2.2", `"DAPR_PORT":"2"`)
	for _, useCache := range []string{"false", "true"} {
		r := join(t, setup{properties: map[string]string{"client": clientJSON(server.Addr), "useCache": useCache}})
		all(t, r, "forget", "192.0.2.1:1", "192.0.2.2:2")
		r.Forget("forget", "192.0.2.1:1")
		all(t, r, "forget", "192.0.2.2:2")
		r.Forget("forget", "192.0.2.2:2")
		all(t, r, "forget", "192.0.2.1:1", "192.0.2.2:2") // better than none
	}
}

func TestCacheFollows(t *testing.T) {
	server := servers.Consul(t, servers.Own())
	put(t, server, "f-a", "f-a-1", "192.0.2.1", `"DAPR_PORT":"1"`)
	put(t, server, "f-b", "f-b-1", "192.0.2.1", `"DAPR_PORT":"1"`)
	log := &logs{}
	r := join(t, setup{properties: map[string]string{"client": clientJSON(server.Addr), "useCache": "true"}, log: log})
	cached := func(id, want string) {
		t.Helper()
		eventually(t, id+" is cached with "+want, func() bool { a, ok := r.cache.pick(id); return ok && a == want || !ok && want == "" })
	}
	for _, id := range []string{"f-a", "f-b"} { // the second joins while the first is watched
		all(t, r, id, "192.0.2.1:1")
		cached(id, "192.0.2.1:1")
	}
	// Another instance comes, the first turns sick and well again, and one moves.
	put(t, server, "f-a", "f-a-2", "192.0.2.2", `"DAPR_PORT":"2"`)
	eventually(t, "the second instance is known", func() bool { a, _ := r.cache.pick("f-a"); return a == "192.0.2.2:2" })
	request(t, server, http.MethodPut, "/v1/agent/check/fail/f-a-1", "", nil)
	eventually(t, "the sick one is gone", func() bool { l := r.cache.apps["f-a"].addresses.Load(); return l != nil && len(*l) == 1 })
	cached("f-a", "192.0.2.2:2")
	request(t, server, http.MethodPut, "/v1/agent/service/deregister/f-a-2", "", nil)
	cached("f-a", "")
	if a, err := resolve(r, "f-a"); err == nil {
		t.Errorf("an app without instances: %q", a)
	}
	request(t, server, http.MethodPut, "/v1/agent/check/pass/f-a-1", "", nil)
	cached("f-a", "192.0.2.1:1")
	cached("f-b", "192.0.2.1:1")
	// A dead address is asked about again.
	r.Forget("f-b", "192.0.2.1:1")
	cached("f-b", "192.0.2.1:1")
	// The agent dies: nothing is remembered, and callers hear why.
	server.Kill()
	cached("f-a", "")
	if _, err := resolve(r, "f-a"); err == nil || !strings.Contains(err.Error(), "check that it runs there") || !strings.Contains(err.Error(), server.Addr) {
		t.Errorf("without an agent: %v", err)
	}
	eventually(t, "it is logged", func() bool { return log.count("cannot follow the changes") > 0 })
	// It comes back with other instances: callers are served at once, and later from memory.
	server.Start()
	put(t, server, "f-a", "f-a-9", "192.0.2.9", `"DAPR_PORT":"9"`)
	all(t, r, "f-a", "192.0.2.9:9")
	cached("f-a", "192.0.2.9:9")
}

func TestACL(t *testing.T) {
	server := servers.Consul(t, servers.Setting("acl", `{ enabled = true default_policy = "deny" tokens { initial_management = "b1gs33cr3t" } }`))
	sidecar := components.Sidecar{AppID: "acl", HostAddress: "127.0.0.1", HTTPPort: 1, InternalPort: 50002, AppPort: 8080}
	checks := `[{"checkID":"acl","ttl":"1h","status":"passing"}]`
	_, err := openWith(t, setup{sidecar: sidecar, properties: map[string]string{"client": clientJSON(server.Addr), "selfRegister": "true", "checks": checks}})
	if err == nil || !strings.Contains(err.Error(), "status 403") || !strings.Contains(err.Error(), "client.token") {
		t.Errorf("without a token: %v", err)
	}
	r := join(t, setup{sidecar: sidecar, properties: map[string]string{"address": server.Addr, "token": "b1gs33cr3t", "selfRegister": "true", "checks": checks, "useCache": "true"}})
	all(t, r, "acl", "127.0.0.1:50002")
	eventually(t, "it is cached", func() bool { _, ok := r.cache.pick("acl"); return ok })
	byEnvironment := join(t, setup{env: map[string]string{"CONSUL_HTTP_ADDR": server.URL, "CONSUL_HTTP_TOKEN": "b1gs33cr3t"}})
	all(t, byEnvironment, "acl", "127.0.0.1:50002")
	// The token of queries wins over that of the client.
	other := join(t, setup{properties: map[string]string{"client": fmt.Sprintf(`{"address":%q,"token":"b1gs33cr3t"}`, server.Addr), "queryOptions": `{"token":"anonymous"}`}})
	if a, err := resolve(other, "acl"); err == nil {
		t.Errorf("with a wrong token for queries: %q", a)
	}
}

func TestCallerGivesUp(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c, err := newClient(clientSettings{Address: silent.Addr().String()}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	r := &Resolver{client: c, clock: clockwork.NewRealClock()}
	if _, err := r.Resolve(ctx, nameresolution.Request{ID: "a"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
