package server

import (
	"testing"

	"outrigger.dev/api"
)

func routes() []*api.Route {
	var rs []*api.Route
	for _, r := range []struct{ path, methods string }{
		{"/v1.0/state/{storeName}/{key}", "GET"},
		{"/v1.0/state/{storeName}/bulk", "POST"},
		{"/v1.0/secrets/{store}/bulk", "GET"},
		{"/v1.0/secrets/{store}/{key}", "GET"},
		{"/v1.0/publish/{pubsub}/{topic...}", "POST"},
		{"/v1.0/publish/bulk/{pubsub}/{topic...}", "POST"},
		{"/v1.0/healthz", "GET"},
	} {
		rs = append(rs, &api.Route{Path: r.path, Methods: []string{r.methods}, Name: r.path})
	}
	return rs
}

func TestRouter(t *testing.T) {
	r := newRouter(routes())
	for _, c := range []struct {
		method, path, route string
		values              []string
	}{
		{"GET", "/v1.0/state/s/k", "/v1.0/state/{storeName}/{key}", []string{"s", "k"}},
		{"GET", "/v1.0/state/s/a%2Fb", "/v1.0/state/{storeName}/{key}", []string{"s", "a/b"}},
		{"GET", "/v1.0/state/s/a+b%2Bc%20d", "/v1.0/state/{storeName}/{key}", []string{"s", "a b+c d"}},
		{"GET", "/v1.0/state/s/bulk", "/v1.0/state/{storeName}/{key}", []string{"s", "bulk"}},
		{"POST", "/v1.0/state/s/bulk", "/v1.0/state/{storeName}/bulk", []string{"s"}},
		{"GET", "/v1.0/state/s/a/b", "", nil},
		{"GET", "/v1.0/secrets/s/bulk", "/v1.0/secrets/{store}/bulk", []string{"s"}},
		{"POST", "/v1.0/publish/p/t", "/v1.0/publish/{pubsub}/{topic...}", []string{"p", "t"}},
		{"POST", "/v1.0/publish/p/t/u%2Fv", "/v1.0/publish/{pubsub}/{topic...}", []string{"p", "t/u/v"}},
		{"POST", "/v1.0/publish/bulk/p/t", "/v1.0/publish/bulk/{pubsub}/{topic...}", []string{"p", "t"}},
		{"POST", "/v1.0/publish/bulk/t", "/v1.0/publish/{pubsub}/{topic...}", []string{"bulk", "t"}},
		{"POST", "/v1.0/publish/p", "", nil},
		{"GET", "//v1.0///healthz/", "/v1.0/healthz", nil},
		{"GET", "/x/../v1.0/./healthz", "/v1.0/healthz", nil},
		{"HEAD", "/v1.0/healthz", "", nil},
		{"GET", "/", "", nil},
	} {
		m := r.find(c.method, cleanPath(c.path))
		if m.route == nil {
			if c.route != "" {
				t.Errorf("%s %s: no route", c.method, c.path)
			}
			continue
		}
		if m.route.Path != c.route {
			t.Errorf("%s %s: found %s, want %s", c.method, c.path, m.route.Path, c.route)
			continue
		}
		call := &api.Call{Route: m.route}
		if !m.bind(call) {
			t.Errorf("%s: parameters do not decode", c.path)
		}
		for i, name := range m.route.Parameters() {
			if got := call.Parameter(name); got != c.values[i] {
				t.Errorf("%s: %s = %q, want %q", c.path, name, got, c.values[i])
			}
		}
	}
	if m := r.find("GET", "/v1.0/state/s/%zz"); m.bind(&api.Call{Route: m.route}) {
		t.Error("a bad escape decodes")
	}
}

func TestRouterAllocations(t *testing.T) {
	r := newRouter(routes())
	if n := testing.AllocsPerRun(100, func() { r.find("GET", cleanPath("/v1.0/state/store/key")) }); n > 0 {
		t.Errorf("finding a route allocates %v times", n)
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"", "/", "//a/../b/", "/%2e%2e/x", "a"} {
		f.Add(s)
	}
	r := newRouter(routes())
	f.Fuzz(func(t *testing.T, p string) {
		once := cleanPath(p)
		if cleanPath(once) != once {
			t.Errorf("not idempotent: %q -> %q", p, once)
		}
		if m := r.find("POST", once); m.route != nil {
			m.bind(&api.Call{Route: m.route})
		}
	})
}

func TestCORSOrigins(t *testing.T) {
	c := newCORS("https://a.example, https://*.b.com")
	for origin, want := range map[string]bool{"https://a.example": true, "HTTPS://A.example": true, "https://x.b.com": true, "https://b.com": false, "http://a.example": false} {
		if c.allows(origin) != want {
			t.Errorf("allows(%s) = %v", origin, !want)
		}
	}
	if !newCORS("*").allows("anything") {
		t.Error("* does not allow everything")
	}
}
