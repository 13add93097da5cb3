package consul

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
)

func TestOptionErrors(t *testing.T) {
	for _, tc := range []struct {
		name       string
		properties map[string]string
		want       string
	}{
		{"no JSON", map[string]string{"client": "address: x"}, `"client" is not valid JSON`},
		{"secret in JSON", map[string]string{"client": `{"token":"s3cret"`}, `"client" is not valid JSON`},
		{"list for object", map[string]string{"client": "[]"}, `client is a JSON array; it must be an object`},
		{"number for text", map[string]string{"client": `{"httpAuth":{"username":5}}`}, `client.httpAuth.username is a JSON number; it must be a string`},
		{"text for bool", map[string]string{"queryOptions": `{"useCache":"yes"}`}, `queryOptions.useCache is a JSON string; it must be true or false`},
		{"bad duration", map[string]string{"queryOptions": `{"waitTime":"soon"}`}, `"queryOptions"`},
		{"two documents", map[string]string{"queryOptions": `{} {}`}, `something follows it`},
		{"contradiction", map[string]string{"queryOptions": `{"allowStale":true,"requireConsistent":true}`}, `exclude each other`},
		{"contradiction of both forms", map[string]string{"queryOptions": `{"allowStale":true}`, "requireConsistent": "true"}, `exclude each other`},
		{"check that is none", map[string]string{"checks": `[{},5]`}, `"checks": entry 2 is 5`},
		{"checks that are none", map[string]string{"checks": `{}`}, `it must be a list`},
		{"meta of objects", map[string]string{"meta": `{"a":{}}`}, `"meta": the value of "a" must be a text`},
		{"advanced without name", map[string]string{"advancedRegistration": `{"id":"x"}`}, `"advancedRegistration" has no name`},
		{"advanced with odd meta", map[string]string{"advancedRegistration": `{"name":"x","meta":[]}`}, `its meta is []`},
		{"scheme", map[string]string{"client": `{"scheme":"ftp"}`}, `"ftp"`},
		{"address", map[string]string{"address": "http://host/path?x=y#z"}, `"http://host/path?x=y#z"`},
		{"address of nothing", map[string]string{"address": "http://"}, `host:port`},
		{"CA", map[string]string{"address": "https://x", "caFile": "/nonexistent"}, `client.tlsConfig.caFile`},
		{"CA path", map[string]string{"client": `{"tlsConfig":{"caPath":"/nonexistent"}}`}, `client.tlsConfig.caPath`},
		{"key pair", map[string]string{"certFile": "/nonexistent"}, `"/nonexistent"`},
		{"token file", map[string]string{"tokenFile": "/nonexistent"}, `client.tokenFile`},
		{"no app port", map[string]string{"selfRegister": "true", "address": "127.0.0.1:1"}, `--app-port`},
		{"nobody there", map[string]string{"address": "127.0.0.1:1"}, `cannot GET /v1/agent/self at the Consul agent http://127.0.0.1:1`},
		{"nobody to register at", map[string]string{"address": "127.0.0.1:1", "advancedRegistration": `{"name":"x"}`}, `cannot register the service x`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := openWith(t, setup{properties: tc.properties, sidecar: components.Sidecar{AppID: "a", HostAddress: "127.0.0.1", InternalPort: 1}})
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v; want an error with %q", err, tc.want)
			}
		})
	}
}

// sham is a server that plays Consul's HTTP API, for what a real agent does not do on command: to err, to lie, to be slow.
type sham struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	answer   func(w http.ResponseWriter, r *http.Request)
}

func newSham(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) *sham {
	t.Helper()
	s := &sham{answer: answer}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Clone(t.Context()))
		answer := s.answer
		s.mu.Unlock()
		if strings.HasSuffix(r.URL.Path, "/v1/agent/self") {
			_, _ = io.WriteString(w, "{}")
			return
		}
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// last is the newest request.
func (s *sham) last() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[len(s.requests)-1]
}

// count is the number of requests for paths that begin so.
func (s *sham) count(prefix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		if strings.HasPrefix(r.URL.Path, prefix) {
			n++
		}
	}
	return n
}

func (s *sham) set(answer func(w http.ResponseWriter, r *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

const oneInstance = `[{"Node":{"Node":"n","Address":"192.0.2.5"},"Service":{"ID":"a-1","Address":"","Meta":{"DAPR_PORT":"5"}},"Checks":[{"ServiceID":"a-1"}]}]`

func TestRequests(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(" from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSham(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, oneInstance) })
	address := strings.TrimPrefix(s.URL, "http://")
	for _, tc := range []struct {
		name       string
		properties map[string]string
		env        map[string]string
		want       string // path?query token user cache-control
	}{
		{"defaults", map[string]string{"client": clientJSON(address)}, nil, "/v1/health/service/a?cached=true&passing=1 token= user= cache="},
		{"environment", nil, map[string]string{"CONSUL_HTTP_ADDR": s.URL, "CONSUL_HTTP_TOKEN": "t", "CONSUL_HTTP_AUTH": "u:p", "CONSUL_NAMESPACE": "n", "CONSUL_PARTITION": "p"}, "/v1/health/service/a?cached=true&ns=n&partition=p&passing=1 token=t user=u:p cache="},
		{
			"client wins",
			map[string]string{"client": fmt.Sprintf(`{"ADDRESS":%q,"Token":"mine","HttpAuth":{"Username":"x","Password":"y"},"Datacenter":"d","waitTime":1000000000}`, address)},
			map[string]string{"CONSUL_HTTP_ADDR": "wrong:1", "CONSUL_HTTP_TOKEN": "t", "CONSUL_HTTP_AUTH": "u:p", "CONSUL_HTTP_SSL": "true"},
			"/v1/health/service/a?cached=true&dc=d&passing=1 token=mine user=x:y cache=",
		},
		{
			"flat keys",
			map[string]string{"address": address, "datacenter": "d", "username": "x", "password": "y", "tokenFile": token, "queryDatacenter": "q", "allowStale": "true", "namespace": "n", "partition": "p"},
			nil,
			"/v1/health/service/a?cached=true&dc=q&ns=n&partition=p&passing=1&stale=true token=from file user=x:y cache=",
		},
		{"nested keys win", map[string]string{"client": clientJSON(address), "address": "wrong:1", "queryOptions": `{"datacenter":"q"}`, "queryDatacenter": "wrong"}, nil, "/v1/health/service/a?dc=q&passing=1 token= user= cache="},
		{"prefix", map[string]string{"address": s.URL + "/consul/"}, nil, "/consul/v1/health/service/a?cached=true&passing=1 token= user= cache="},
		{
			"all query options",
			map[string]string{"address": address, "queryOptions": `{"datacenter":"d","allowStale":true,"useCache":true,"maxAge":2000000000,"staleIfError":"3s","waitIndex":7,"waitHash":"h","waitTime":4000000000,"token":"q","near":"_agent","nodeMeta":{"k":"v"},"relayFactor":2,"localOnly":true,"connect":true,"filter":"a == b"}`},
			nil,
			"/v1/health/service/a?cached=true&connect=true&dc=d&filter=a+%3D%3D+b&hash=h&index=7&local-only=true&near=_agent&node-meta=k%3Av&passing=1&relay-factor=2&stale=true&wait=4000ms token=q user= cache=max-age=2, stale-if-error=3",
		},
		{"consistent", map[string]string{"address": address, "requireConsistent": "true"}, nil, "/v1/health/service/a?consistent=true&passing=1 token= user= cache="},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := join(t, setup{properties: tc.properties, env: tc.env})
			if a, err := resolve(r, "a"); err != nil || a != "192.0.2.5:5" {
				t.Fatalf("%q, %v", a, err)
			}
			q := s.last()
			user, password, ok := q.BasicAuth()
			if ok {
				user += ":" + password
			}
			if got := fmt.Sprintf("%s token=%s user=%s cache=%s", q.URL.RequestURI(), q.Header.Get("X-Consul-Token"), user, q.Header.Get("Cache-Control")); got != tc.want {
				t.Errorf("%s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestUnixSocketAndTLS(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, oneInstance) })
	path := filepath.Join(t.TempDir(), "consul.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	overSocket := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
	overSocket.Start()
	defer overSocket.Close()
	if a, err := resolve(join(t, setup{properties: map[string]string{"address": "unix://" + path}}), "a"); err != nil || a != "192.0.2.5:5" {
		t.Errorf("%q, %v", a, err)
	}
	overTLS := httptest.NewTLSServer(handler)
	defer overTLS.Close()
	address := strings.TrimPrefix(overTLS.URL, "https://")
	for name, properties := range map[string]map[string]string{
		"scheme": {"client": fmt.Sprintf(`{"address":%q,"scheme":"https","tlsConfig":{"insecureSkipVerify":true}}`, address)},
		"flat":   {"address": overTLS.URL, "insecureSkipVerify": "true"},
	} {
		if a, err := resolve(join(t, setup{properties: properties}), "a"); err != nil || a != "192.0.2.5:5" {
			t.Errorf("%s: %q, %v", name, a, err)
		}
	}
	if _, err := openWith(t, setup{properties: map[string]string{"address": overTLS.URL}}); err == nil || !strings.Contains(err.Error(), "client.tlsConfig") {
		t.Errorf("an unknown authority: %v", err)
	}
}

func TestAnswersThatLie(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		want   string
	}{
		"no JSON": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "is not a list of services"},
		"null":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "null") }, "no healthy services found with AppID 'a'"},
		"half": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "[{")
		}, "unexpected EOF"},
		"hang up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/steal", http.StatusFound)
		}, "status 302"},
		"error": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
		}, "status 500: No cluster leader"},
		"no address": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `[{"Service":{"Meta":{"DAPR_PORT":"1"}}}]`)
		}, "neither it nor its node has an address"},
		"other types": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `[{"Service":{"Meta":[]}}]`) }, "is not a list of services"},
	} {
		s := newSham(t, tc.answer)
		r := join(t, setup{properties: map[string]string{"address": s.URL, "token": "s3cret"}})
		if a, err := resolve(r, "a"); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %q, %v; want an error with %q", name, a, err, tc.want)
		}
	}
}

// TestWatcherBacksOff has the watch fail while the services can be asked for.
func TestWatcherBacksOff(t *testing.T) {
	clock := clockwork.NewFakeClock()
	broken := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/health/state/") {
			http.Error(w, "overloaded", http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, oneInstance)
	}
	s := newSham(t, broken)
	log := &logs{}
	r := join(t, setup{properties: map[string]string{"address": s.URL, "useCache": "true"}, clock: clock, log: log})
	const watch = "/v1/health/state/"
	if a, err := resolve(r, "a"); err != nil || a != "192.0.2.5:5" {
		t.Fatalf("%q, %v", a, err)
	}
	for i, want := range []time.Duration{5, 10, 20, 40, 80, 160, 180, 180} {
		if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if n := s.count(watch); n != i+1 {
			t.Fatalf("%d attempts, want %d", n, i+1)
		}
		if _, ok := r.cache.pick("a"); ok {
			t.Fatal("something is cached")
		}
		if a, err := resolve(r, "a"); err != nil || a != "192.0.2.5:5" {
			t.Fatalf("asked directly: %q, %v", a, err)
		}
		if i == 7 {
			s.set(func(w http.ResponseWriter, r *http.Request) { // it works again, and waits when asked to
				if strings.HasPrefix(r.URL.Path, watch) {
					w.Header().Set("X-Consul-Index", "9")
					if r.URL.Query().Get("index") != "0" {
						<-r.Context().Done()
						return
					}
					_ = json.NewEncoder(w).Encode([]healthState{{ServiceName: "a", ServiceID: "a-1", Status: "passing"}})
					return
				}
				_, _ = io.WriteString(w, oneInstance)
			})
		}
		clock.Advance(want*time.Second - time.Nanosecond)
		if n := s.count(watch); n != i+1 {
			t.Fatalf("tried again too early: %d", n)
		}
		clock.Advance(time.Nanosecond)
	}
	eventually(t, "it is cached", func() bool { _, ok := r.cache.pick("a"); return ok })
	if n := log.count("overloaded"); n != 8 {
		t.Errorf("%d log lines", n)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestWatchWithoutIndex(t *testing.T) {
	s := newSham(t, func(w http.ResponseWriter, r *http.Request) { // a proxy that drops headers must not make the watcher spin
		if strings.HasPrefix(r.URL.Path, "/v1/health/state/") {
			_, _ = io.WriteString(w, "[]")
			return
		}
		_, _ = io.WriteString(w, oneInstance)
	})
	clock := clockwork.NewFakeClock()
	log := &logs{}
	r := join(t, setup{properties: map[string]string{"address": s.URL, "useCache": "true"}, clock: clock, log: log})
	if _, err := resolve(r, "a"); err != nil {
		t.Fatal(err)
	}
	if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if n := s.count("/v1/health/state/"); n != 1 || log.count("changes cannot be waited for") != 1 {
		t.Errorf("%d attempts, log %s", n, log.text.String())
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(oneInstance))
	f.Add([]byte(`[{"Service":{"Address":"[::1]","Meta":{"DAPR_PORT":"1"}}}]`))
	f.Add([]byte(`[{}]`))
	r := &Resolver{options: Options{DaprPortMetaKey: "DAPR_PORT"}, dns: names{}}
	f.Fuzz(func(t *testing.T, data []byte) {
		var instances []instance
		if json.Unmarshal(data, &instances) != nil || len(instances) == 0 {
			return
		}
		found, err := r.usable(t.Context(), "a", instances)
		if err != nil {
			return
		}
		for _, a := range found.addresses {
			if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
				t.Errorf("%q, %v", a, err)
			}
		}
	})
}
