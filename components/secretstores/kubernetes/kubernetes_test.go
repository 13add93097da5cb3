package kubernetes

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/secretstores"
)

// apiServer answers as the Kubernetes API server does.
type apiServer struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	tokens   map[string]bool              // accepted
	denied   map[string]bool              // namespaces that the account may not read
	secrets  map[string]map[string]string // "namespace/name" -> data
	busy     int                          // requests that are told to come again first
	gone     int                          // continued lists that have expired first
	requests []string
}

func newAPIServer(t testing.TB) *apiServer {
	a := &apiServer{t: t, tokens: map[string]bool{"one": true}, denied: map[string]bool{}, secrets: map[string]map[string]string{}}
	a.Server = httptest.NewUnstartedServer(a)
	a.EnableHTTP2 = true
	a.StartTLS()
	t.Cleanup(a.Close)
	return a
}

func (a *apiServer) status(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code})
}

func object(key string, data map[string]string) map[string]any {
	namespace, name, _ := strings.Cut(key, "/")
	o := map[string]any{"metadata": map[string]any{"name": name, "namespace": namespace}, "type": "Opaque"}
	if data != nil {
		encoded := map[string]string{}
		for k, v := range data {
			encoded[k] = base64.StdEncoding.EncodeToString([]byte(v))
		}
		o["data"] = encoded
	}
	return o
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests = append(a.requests, r.URL.RequestURI())
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !a.tokens[token] {
		a.status(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized")
		return
	}
	if a.busy > 0 {
		a.busy--
		w.Header().Set("Retry-After", "1")
		a.status(w, http.StatusTooManyRequests, "TooManyRequests", "too many requests, please try again later")
		return
	}
	parts := strings.Split(r.URL.Path, "/") // "", api, v1, namespaces, ns, secrets, name
	if len(parts) < 6 || parts[1] != "api" || parts[5] != "secrets" || r.Method != http.MethodGet {
		a.status(w, http.StatusNotFound, "NotFound", "the server could not find the requested resource")
		return
	}
	namespace := parts[4]
	if a.denied[namespace] {
		a.status(w, http.StatusForbidden, "Forbidden", fmt.Sprintf(`secrets is forbidden: User "system:serviceaccount:team:app" cannot get resource "secrets" in API group "" in the namespace %q`, namespace))
		return
	}
	if len(parts) == 7 {
		data, ok := a.secrets[namespace+"/"+parts[6]]
		if !ok {
			a.status(w, http.StatusNotFound, "NotFound", fmt.Sprintf("secrets %q not found", parts[6]))
			return
		}
		_ = json.NewEncoder(w).Encode(object(namespace+"/"+parts[6], data))
		return
	}
	a.list(w, r, namespace)
}

// list sends one Secret a page.
func (a *apiServer) list(w http.ResponseWriter, r *http.Request, namespace string) {
	if r.URL.Query().Get("limit") == "" {
		a.t.Error("a list without a limit")
	}
	var names []string
	for key := range a.secrets {
		if strings.HasPrefix(key, namespace+"/") {
			names = append(names, key)
		}
	}
	at := 0
	if from := r.URL.Query().Get("continue"); from != "" {
		if a.gone > 0 {
			a.gone--
			a.status(w, http.StatusGone, "Expired", "The provided continue parameter is too old")
			return
		}
		_, _ = fmt.Sscanf(from, "page %d", &at)
	}
	meta, items := map[string]any{}, []any{}
	slices.Sort(names)
	if at < len(names) {
		items = append(items, object(names[at], a.secrets[names[at]]))
	}
	if at+1 < len(names) {
		meta["continue"] = fmt.Sprintf("page %d", at+1)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "SecretList", "metadata": meta, "items": items})
}

func (a *apiServer) change(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

func (a *apiServer) caPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw})
}

// pod is the environment of a pod of the cluster.
type pod struct {
	t   testing.TB
	dir string
	env map[string]string
}

func (a *apiServer) pod(t testing.TB) *pod {
	t.Helper()
	p := &pod{t: t, dir: t.TempDir(), env: map[string]string{"NAMESPACE": "team"}}
	u, err := url.Parse(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	p.env["KUBERNETES_SERVICE_HOST"], p.env["KUBERNETES_SERVICE_PORT"], _ = net.SplitHostPort(u.Host)
	p.write("token", "one\n")
	p.write("ca.crt", string(a.caPEM()))
	p.write("namespace", "ofpod")
	return p
}

func (p *pod) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) environment() Environment {
	return Environment{Lookup: func(name string) (string, bool) { v, ok := p.env[name]; return v, ok }, ServiceAccount: p.dir}
}

func (p *pod) tryOpen(inst components.Instance) (secretstores.Store, error) {
	p.t.Helper()
	var r components.Registry
	RegisterWith(&r, p.environment())
	d, err := r.Lookup(components.SecretStores, "kubernetes", "v1")
	if err != nil {
		p.t.Fatal(err)
	}
	s, err := d.Open(p.t.Context(), inst)
	if err != nil {
		return nil, err
	}
	p.t.Cleanup(func() {
		if err := s.(secretstores.Store).Close(); err != nil {
			p.t.Error(err)
		}
	})
	return s.(secretstores.Store), nil
}

func (p *pod) open(inst components.Instance) secretstores.Store {
	p.t.Helper()
	s, err := p.tryOpen(inst)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func refused(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error does not say %q: %v", text, err)
		}
	}
}

func TestGet(t *testing.T) {
	a := newAPIServer(t)
	a.secrets = map[string]map[string]string{
		"team/db": {"user": "u", "password": "p\x00\xff"}, "team/empty": nil, "other/db": {"user": "other"}, "team/my.cert": {"tls.crt": "c"},
	}
	a.denied["kube-system"] = true
	s := a.pod(t).open(components.Instance{})
	for _, tt := range []struct {
		name, namespace string
		want            map[string]string
		err             []string
	}{
		{name: "db", want: map[string]string{"user": "u", "password": "p\x00\xff"}},
		{name: "my.cert", want: map[string]string{"tls.crt": "c"}},
		{name: "empty", want: map[string]string{}},
		{name: "db", namespace: "other", want: map[string]string{"user": "other"}},
		{name: "none", err: []string{`secrets "none" not found`, "namespace team"}},
		{name: "x", namespace: "kube-system", err: []string{"pod's service account", "system:serviceaccount:team:app", "get secrets", "namespace kube-system", "RoleBinding"}},
		{name: "", err: []string{"is empty"}},
		{name: "..", err: []string{`".."`}},
		{name: "../../pods", err: []string{"none that Kubernetes has"}},
		{name: "db?watch=1", err: []string{"not found"}},
		{name: "db", namespace: "../nodes", err: []string{"the namespace"}},
		{name: "db", namespace: "..", err: []string{"the namespace"}},
	} {
		metadata := map[string]string{}
		if tt.namespace != "" {
			metadata["namespace"] = tt.namespace
		}
		got, err := s.Get(t.Context(), tt.name, metadata)
		if tt.err != nil {
			refused(t, err, tt.err...)
			continue
		}
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s of %s: %v, %v, want %v", tt.name, tt.namespace, got, err, tt.want)
		}
	}
}

func TestNamespace(t *testing.T) {
	a := newAPIServer(t)
	for _, n := range []string{"env", "instance", "property", "ofpod", "default"} {
		a.secrets[n+"/s"] = map[string]string{"is": n}
	}
	for _, tt := range []struct{ name, env, instance, property, want string }{
		{"the environment", "env", "", "property", "env"},
		{"the sidecar's own", "env", "instance", "property", "instance"},
		{"nothing was set", "", "default", "property", "property"},
		{"default was set", "default", "default", "property", "default"},
		{"the pod's", "", "", "", "ofpod"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := a.pod(t)
			p.env["NAMESPACE"] = tt.env
			s := p.open(components.Instance{Sidecar: components.Sidecar{Namespace: tt.instance}, Properties: map[string]string{"defaultNamespace": tt.property}})
			got, err := s.Get(t.Context(), "s", nil)
			if err != nil || got["is"] != tt.want {
				t.Errorf("got %v, %v, want %s", got, err, tt.want)
			}
		})
	}
	p := a.pod(t)
	p.env["NAMESPACE"] = ""
	if err := os.Remove(filepath.Join(p.dir, "namespace")); err != nil {
		t.Fatal(err)
	}
	_, err := p.open(components.Instance{}).BulkGet(t.Context(), nil)
	refused(t, err, "namespace is missing", "defaultNamespace")
}

func TestBulkGet(t *testing.T) {
	a := newAPIServer(t)
	want := map[string]map[string]string{}
	for i := range 5 {
		name := fmt.Sprintf("s%d", i)
		want[name] = map[string]string{"k": name}
		a.secrets["team/"+name] = want[name]
	}
	a.secrets["other/x"] = map[string]string{"k": "x"}
	a.gone, a.denied["kube-system"] = 1, true
	s := a.pod(t).open(components.Instance{})
	got, err := s.BulkGet(t.Context(), nil)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := s.BulkGet(t.Context(), map[string]string{"namespace": "nobody"}); err != nil || got == nil || len(got) != 0 {
		t.Errorf("an empty namespace: %v, %v", got, err)
	}
	_, err = s.BulkGet(t.Context(), map[string]string{"namespace": "kube-system"})
	refused(t, err, "list secrets", "RoleBinding")
	a.change(func() { a.gone = 1000 })
	_, err = s.BulkGet(t.Context(), nil)
	refused(t, err, "410")
}

// TestTokenIsReplaced reads the token again after a minute, and at once when the present one is refused.
func TestTokenIsReplaced(t *testing.T) {
	a := newAPIServer(t)
	a.secrets["team/s"] = map[string]string{"k": "v"}
	p := a.pod(t)
	clock := clockwork.NewFakeClock()
	s := p.open(components.Instance{Clock: clock})
	read := func() error {
		t.Helper()
		_, err := s.Get(t.Context(), "s", nil)
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	p.write("token", "two")
	a.change(func() { a.tokens = map[string]bool{"two": true} })
	if err := read(); err != nil {
		t.Fatalf("with a token that was refused: %v", err)
	}
	a.change(func() { a.tokens["three"] = true })
	p.write("token", "three")
	clock.Advance(2 * refresh)
	if err := read(); err != nil {
		t.Fatal(err)
	}
	a.change(func() { a.tokens = map[string]bool{"three": true} })
	if err := os.Remove(filepath.Join(p.dir, "token")); err != nil {
		t.Fatal(err)
	}
	clock.Advance(2 * refresh)
	if err := read(); err != nil {
		t.Fatalf("while the file is being replaced: %v", err)
	}
	a.change(func() { a.tokens = map[string]bool{} })
	refused(t, read(), "does not accept the credentials", "Unauthorized")
}

func TestAuthorityIsReplaced(t *testing.T) {
	a := newAPIServer(t)
	a.secrets["team/s"] = map[string]string{"k": "v"}
	p := a.pod(t)
	clock := clockwork.NewFakeClock()
	p.write("ca.crt", "rubbish")
	s := p.open(components.Instance{Clock: clock})
	_, err := s.Get(t.Context(), "s", nil)
	refused(t, err, "ca.crt", "PEM")
	p.write("ca.crt", string(a.caPEM()))
	if _, err := s.Get(t.Context(), "s", nil); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutServiceAccount(t *testing.T) {
	p := newAPIServer(t).pod(t)
	if err := os.Remove(filepath.Join(p.dir, "token")); err != nil {
		t.Fatal(err)
	}
	_, err := p.open(components.Instance{}).Get(t.Context(), "s", nil)
	refused(t, err, "automountServiceAccountToken", "disable-builtin-k8s-secret-store")
	p.env = map[string]string{"HOME": t.TempDir()}
	_, err = p.tryOpen(components.Instance{})
	refused(t, err, "KUBERNETES_SERVICE_HOST", "kubeconfigPath")
}

func TestBusyServer(t *testing.T) {
	a := newAPIServer(t)
	a.secrets["team/s"] = map[string]string{"k": "v"}
	a.busy = attempts - 1
	clock := clockwork.NewFakeClock()
	s := a.pod(t).open(components.Instance{Clock: clock})
	read := func() error {
		done := make(chan error, 1)
		go func() { _, err := s.Get(t.Context(), "s", nil); done <- err }()
		for range attempts - 1 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := clock.BlockUntilContext(ctx, 1); err != nil {
				t.Fatal(err)
			}
			clock.Advance(time.Second)
		}
		return <-done
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	a.change(func() { a.busy = attempts })
	refused(t, read(), "429", "too many requests")
}

func TestUnreachableServer(t *testing.T) {
	a := newAPIServer(t)
	p := a.pod(t)
	other := newAPIServer(t)
	// The same certificate serves all servers of httptest, so another authority is needed.
	foreign, _ := certificate(t)
	p.write("ca.crt", string(foreign))
	_, err := p.open(components.Instance{}).Get(t.Context(), "s", nil)
	refused(t, err, "cannot be asked", "ca.crt")
	p = other.pod(t)
	other.Close()
	_, err = p.open(components.Instance{}).Get(t.Context(), "s", nil)
	refused(t, err, "cannot be asked", "network policy")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.pod(t).open(components.Instance{}).Get(ctx, "s", nil); err == nil {
		t.Error("a call that was cancelled succeeded")
	}
}

// TestRedirect does not carry the token elsewhere.
func TestRedirect(t *testing.T) {
	seen := make(chan struct{}, 1)
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen <- struct{}{} }))
	defer elsewhere.Close()
	a := newAPIServer(t)
	a.Config.Handler = http.RedirectHandler(elsewhere.URL, http.StatusFound)
	_, err := a.pod(t).open(components.Instance{}).Get(t.Context(), "s", nil)
	refused(t, err, "302")
	select {
	case <-seen:
		t.Error("the redirect was followed")
	default:
	}
}

func TestTooLarge(t *testing.T) {
	a := newAPIServer(t)
	a.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 1<<20)
		for range maxSecret>>20 + 1 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	_, err := a.pod(t).open(components.Instance{}).Get(t.Context(), "s", nil)
	refused(t, err, "larger than 8 MiB")
}
