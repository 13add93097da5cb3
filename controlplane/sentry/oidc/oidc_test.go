package oidc

import (
	"encoding/json"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

func TestHandler(t *testing.T) {
	keys := func() []byte { return []byte(`{"keys":[]}`) }
	for _, tt := range []struct {
		name                          string
		o                             Options
		method, path, host, forwarded string
		code                          int
		issuer, jwks, body            string
	}{
		{"by the host", Options{JWKS: keys}, "GET", discoveryPath, "a.test:9080", "", 200, "http://a.test:9080", "http://a.test:9080/jwks.json", ""},
		{"TLS", Options{JWKS: keys, TLS: true}, "GET", discoveryPath, "a.test", "", 200, "https://a.test", "https://a.test/jwks.json", ""},
		{"issuer", Options{JWKS: keys, Issuer: "https://i.test/x"}, "GET", discoveryPath, "a.test", "", 200, "https://i.test/x", "https://i.test/jwks.json", ""},
		{"issuer and prefix", Options{JWKS: keys, Issuer: "https://i.test", PathPrefix: "/p/"}, "GET", "/p" + discoveryPath, "a.test", "", 200, "https://i.test", "https://i.test/p/jwks.json", ""},
		{"uri", Options{JWKS: keys, JWKSURI: "https://k.test/keys"}, "GET", discoveryPath, "a.test", "", 200, "http://a.test", "https://k.test/keys", ""},
		{"without the prefix", Options{JWKS: keys, PathPrefix: "p"}, "GET", discoveryPath, "a.test", "", 404, "", "", "not found"},
		{"forwarded is not believed without a list", Options{JWKS: keys}, "GET", discoveryPath, "a.test", "b.test", 200, "http://a.test", "http://a.test/jwks.json", ""},
		{"forwarded is not believed with a star", Options{JWKS: keys, AllowedHosts: []string{"*"}}, "GET", discoveryPath, "a.test", "b.test", 200, "http://a.test", "http://a.test/jwks.json", ""},
		{"forwarded", Options{JWKS: keys, AllowedHosts: []string{"b.test"}}, "GET", discoveryPath, "a.test", "b.test", 200, "http://b.test", "http://b.test/jwks.json", ""},
		{"forwarded, not allowed", Options{JWKS: keys, AllowedHosts: []string{"a.test"}}, "GET", discoveryPath, "a.test", "b.test", 403, "", "", "Forbidden: unauthorized domain"},
		{"allowed without port", Options{JWKS: keys, AllowedHosts: []string{"a.test"}}, "GET", discoveryPath, "a.test:80", "", 200, "http://a.test:80", "http://a.test:80/jwks.json", ""},
		{"allowed with port", Options{JWKS: keys, AllowedHosts: []string{"a.test:80"}}, "GET", discoveryPath, "a.test:80", "", 200, "http://a.test:80", "http://a.test:80/jwks.json", ""},
		{"another port", Options{JWKS: keys, AllowedHosts: []string{"a.test:80"}}, "GET", discoveryPath, "a.test:81", "", 403, "", "", "Forbidden"},
		{"keys", Options{JWKS: keys}, "GET", jwksPath, "a.test", "", 200, "", "", `{"keys":[]}`},
		{"keys, not allowed", Options{JWKS: keys, AllowedHosts: []string{"b.test"}}, "GET", jwksPath, "a.test", "", 403, "", "", "Forbidden"},
		{"no keys", Options{JWKS: func() []byte { return nil }}, "GET", jwksPath, "a.test", "", 404, "", "", "JWKS not available"},
		{"post", Options{JWKS: keys}, "POST", jwksPath, "a.test", "", 405, "", "", ""},
		{"head", Options{JWKS: keys}, "HEAD", discoveryPath, "a.test", "", 405, "", "", ""},
		{"other path", Options{JWKS: keys}, "GET", "/authorize", "a.test", "", 404, "", "", ""},
		{"path trick", Options{JWKS: keys}, "GET", "/x/..//jwks.json", "a.test", "", 404, "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Algorithm = "ES256"
			r := httptest.NewRequest(tt.method, tt.path, nil)
			r.Host = tt.host
			if tt.forwarded != "" {
				r.Header.Set("X-Forwarded-Host", tt.forwarded)
			}
			w := httptest.NewRecorder()
			Handler(tt.o).ServeHTTP(w, r)
			if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.body) {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if cache := w.Header().Get("Cache-Control"); (cache == "public, max-age=3600") != (tt.code == 200) {
				t.Errorf("Cache-Control is %q", cache)
			}
			if tt.issuer == "" {
				return
			}
			var got map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			want := map[string]any{
				"issuer": tt.issuer, "jwks_uri": tt.jwks, "response_types_supported": []any{"id_token"}, "subject_types_supported": []any{"public"},
				"id_token_signing_alg_values_supported": []any{"ES256"}, "scopes_supported": []any{"openid"},
				"claims_supported": []any{"sub", "iss", "aud", "exp", "iat", "nbf", "use"},
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%v\nwant %v", got, want)
			}
		})
	}
}
