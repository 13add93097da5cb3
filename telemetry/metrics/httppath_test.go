package metrics

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"
)

func TestShortenPath(t *testing.T) {
	for in, want := range map[string]string{
		"":                                       "",
		"/":                                      "/",
		"/v1.0":                                  "/v1.0",
		"/v1.0/metadata":                         "/v1.0/metadata",
		"/v1.0/state/s":                          "/v1.0/state/s",
		"/v1.0/state/s/":                         "/v1.0/state/s",
		"/v1.0/state/s/k":                        "/v1.0/state/s",
		"/v1.0/state/s/transaction":              "/v1.0/state/s",
		"/v1.0-alpha1/state/s/query":             "/v1.0-alpha1/state/s",
		"/v1.0/secrets/vault/key/a/b":            "/v1.0/secrets/vault",
		"/app/state/s/k":                         "/app/state/s/k",
		"/v/state/s/k":                           "/v/state/s/k",
		"/v1.0/publish/p/t/u":                    "/v1.0/publish/p/t/u",
		"/v1.0/invoke/a/method/m/1":              "/v1.0/invoke/a/method/m/1",
		"/v1.0/actors/T":                         "/v1.0/actors/T",
		"/v1.0/actors/T/1":                       "/v1.0/actors/T/{id}",
		"/v1.0/actors/T/1/method/m":              "/v1.0/actors/T/{id}/method",
		"/v1.0/actors/T/1/state/k":               "/v1.0/actors/T/{id}/state",
		"/v1.0/actors/T/1/reminders/r/x":         "/v1.0/actors/T/{id}/reminders",
		"actors/T/1/method/m":                    "actors/T/{id}/method/m",
		"/actors/T/1/method/timer/t":             "/actors/T/{id}/method/timer/t",
		"/actors/T/1":                            "/actors/T/{id}",
		"/actors/T":                              "/actors/T",
		"/actors/T//x":                           "/actors/T//x",
		"/v1.0/workflows/dapr/abc":               "/v1.0/workflows/dapr/{instanceId}",
		"/v1.0/workflows/dapr/order/start":       "/v1.0/workflows/dapr/order/start",
		"/v1.0-beta1/workflows/dapr/abc/pause":   "/v1.0-beta1/workflows/dapr/{instanceId}/pause",
		"/v1.0/workflows/dapr/abc/raiseEvent/ev": "/v1.0/workflows/dapr/{instanceId}/raiseEvent/{eventName}",
		"/v1.0/workflows/dapr":                   "/v1.0/workflows/dapr",
	} {
		if got := shortenPath(in); got != want {
			t.Errorf("%s: got %s want %s", in, got, want)
		}
	}
}

func TestPathLabel(t *testing.T) {
	patterns := []string{
		"/orders/{id}", "orders//{id}/items", "/orders/new", "/files/", "/exact/{$}", "/rest/{more...}",
		"/v1.0/invoke/shop/method/special", "/v1.0/actors/{type}/{id}/method", "/sp%20ace",
	}
	tests := []struct {
		path                      string
		plain, low, matching, lax string // labels: raw, none, patterns only, patterns else raw
	}{
		{"/dapr/config", "/dapr/config", "/dapr/config", "/dapr/config", "/dapr/config"},
		{"/dapr/subscribe", "/dapr/subscribe", "/dapr/subscribe", "/dapr/subscribe", "/dapr/subscribe"},
		{"/dapr/metrics", "/dapr/metrics", "/dapr/metrics", "/dapr/metrics", "/dapr/metrics"},
		{"/healthz", "/healthz", "/healthz", "/healthz", "/healthz"},
		{"/orders/17", "/orders/17", "", "/orders/{id}", "/orders/{id}"},
		{"/orders/new", "/orders/new", "", "/orders/new", "/orders/new"},
		{"/orders/17/items", "/orders/17/items", "", "/orders/{id}/items", "/orders/{id}/items"},
		{"/orders/new/items", "/orders/new/items", "", "/orders/{id}/items", "/orders/{id}/items"},
		{"/orders", "/orders", "", "", "/orders"},
		{"/orders/17?x=1", "/orders/17", "", "/orders/{id}", "/orders/{id}"},
		{"/files/a/b", "/files/a/b", "", "/files/", "/files/"},
		{"/files/", "/files/", "", "/files/", "/files/"},
		{"/files", "/files", "", "", "/files"},
		{"/exact/", "/exact/", "", "/exact/{$}", "/exact/{$}"},
		{"/exact/x", "/exact/x", "", "", "/exact/x"},
		{"/rest/a/b", "/rest/a/b", "", "/rest/{more...}", "/rest/{more...}"},
		{"/sp ace", "/sp ace", "", "/sp%20ace", "/sp%20ace"},
		{
			"/v1.0/invoke/shop/method/orders/17", "/v1.0/invoke/shop/method/orders/17", "",
			"/v1.0/invoke/{app_id}/method/orders/{id}", "/v1.0/invoke/{app_id}/method/orders/{id}",
		},
		{
			"/v1.0/invoke/shop/method/special", "/v1.0/invoke/shop/method/special", "",
			"/v1.0/invoke/shop/method/special", "/v1.0/invoke/shop/method/special",
		},
		{
			"/v1.0/invoke/shop/method/files/x/y", "/v1.0/invoke/shop/method/files/x/y", "",
			"/v1.0/invoke/{app_id}/method/files/", "/v1.0/invoke/{app_id}/method/files/",
		},
		// Not matched as it is, but when shortened.
		{
			"/v1.0/actors/T/1/method/m", "/v1.0/actors/T/{id}/method", "",
			"/v1.0/actors/{type}/{id}/method", "/v1.0/actors/{type}/{id}/method",
		},
		{"/v1.0/state/s/k", "/v1.0/state/s", "", "", "/v1.0/state/s"},
		{"relative", "relative", "", "", "relative"},
		{"", "", "", "", ""},
	}
	labeller := func(o HTTPOptions) *pathLabeller {
		l, err := newPathLabeller(o)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	plain := labeller(HTTPOptions{IncreasedCardinality: true})
	low := labeller(HTTPOptions{})
	matching := labeller(HTTPOptions{PathMatching: patterns})
	lax := labeller(HTTPOptions{PathMatching: patterns, IncreasedCardinality: true})
	for _, tt := range tests {
		for _, c := range []struct {
			name string
			l    *pathLabeller
			want string
		}{{"plain", plain, tt.plain}, {"low", low, tt.low}, {"matching", matching, tt.matching}, {"lax", lax, tt.lax}} {
			if got := c.l.label(tt.path); got != c.want {
				t.Errorf("%s %s: got %q want %q", c.name, tt.path, got, c.want)
			}
		}
	}
}

func TestOverlappingPatterns(t *testing.T) {
	// ServeMux refuses these together; here the earlier literal wins.
	tree, err := newPatternTree([]string{"/{a}/two", "/one/{b}", "/one/{again}"})
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{"/one/two": "/one/{b}", "/x/two": "/{a}/two", "/one/x": "/one/{b}", "/x/x": ""} {
		if got := tree.match(in); got != want {
			t.Errorf("%s: got %q want %q", in, got, want)
		}
	}
}

func TestBadPatterns(t *testing.T) {
	for _, p := range []string{"/a/{", "/a/{x}y", "/{x}/{x}", "/{x...}/y", "GET /a", "/{$}/a"} {
		o := base()
		o.HTTP.PathMatching = []string{"/good", p}
		_, err := New(o)
		if err == nil || !strings.Contains(err.Error(), p) || !strings.Contains(err.Error(), "pathMatching") {
			t.Errorf("%s: got %v", p, err)
		}
	}
}

// FuzzPatternTree compares the tree with ServeMux.
func FuzzPatternTree(f *testing.F) {
	patterns := []string{
		"/a", "/a/{x}", "/a/{x}/b", "/a/c/{y}", "/a/{x}/b/", "/d/", "/d/{x}/e", "/f/{$}", "/f/{x...}", "/{x}/g", "/h/{x}/{y}/{z...}",
	}
	// Those that ServeMux takes together.
	mux := http.NewServeMux()
	var taken []string
	for _, p := range patterns {
		func() {
			defer func() {
				if recover() == nil {
					taken = append(taken, p)
				}
			}()
			mux.HandleFunc(p, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Pattern", r.Pattern) })
		}()
	}
	if len(taken) < 9 {
		f.Fatalf("ServeMux takes only %v", taken)
	}
	tree, err := newPatternTree(taken)
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range []string{"/", "/a", "/a/", "/a/c", "/a/c/b", "/a/c/b/d", "/a/x/b", "/a/x/b/", "/d", "/d/", "/d/1/e", "/d/1/f", "/f/", "/f/x", "/q/g", "/h/1/2", "/h/1/2/", "/h/1/2/3/4"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		clean := path.Clean(p)
		if strings.HasSuffix(p, "/") && clean != "/" {
			clean += "/"
		}
		if !strings.HasPrefix(p, "/") || clean != p || strings.HasPrefix(p, invokePrefix) {
			t.Skip("ServeMux would redirect, or knows nothing of invocation")
		}
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: p}, Host: "h"})
		want := rec.Header().Get("Pattern") // empty for a redirect from /d to /d/, which is no match here
		if got := tree.match(p); got != want {
			t.Fatalf("%q: got %q, ServeMux has %q", p, got, want)
		}
	})
}
