package app

import (
	"context"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"outrigger.dev/app/apptest"
	"outrigger.dev/invocation"
	"outrigger.dev/resource"
)

func endpointOf(name, base string) *resource.HTTPEndpoint {
	r := &resource.HTTPEndpoint{Spec: resource.HTTPEndpointSpec{BaseURL: base}}
	r.Metadata.Name = name
	return r
}

func text(s string) *resource.TLSDocument {
	return &resource.TLSDocument{Value: resource.TextValue(s)}
}

func TestExternal(t *testing.T) {
	seen := make(chan *http.Request, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/from" {
			http.Redirect(w, r, "/to", http.StatusFound)
			return
		}
		seen <- r
		w.Header().Set("Connection", "X-Gone")
		w.Header().Set("X-Gone", "1")
		w.Header().Set("X-Here", "1")
		io.WriteString(w, "hi")
	}))
	defer s.Close()
	e := endpointOf("ep", s.URL+"/base/")
	e.Spec.Headers = []resource.NameValue{{Name: "authorization", Value: resource.TextValue("fixed")}, {Name: "bad name", Value: resource.TextValue("x")}}
	x := apptest.Open(t, NewExternal, ExternalOptions{Endpoints: []*resource.HTTPEndpoint{e, endpointOf("plain", s.URL)}})
	if base, ok := x.BaseURL("ep"); !ok || base != s.URL+"/base/" {
		t.Error(base, ok)
	}
	if _, ok := x.BaseURL("app"); ok {
		t.Error("there is an endpoint app")
	}

	req := &invocation.Request{Verb: "POST", Method: "a%b", Query: "q=1", Body: []byte("in"), Header: header("Authorization: client", "X-A: 1", "Te: x")}
	resp, err := x.Invoke(t.Context(), "ep", req)
	if err != nil || resp.Status != 200 || body(t, resp) != "hi" || resp.Header.Get("X-Gone") != nil || string(resp.Header.Get("X-Here")) != "1" {
		t.Fatal(resp, err)
	}
	r := <-seen
	// Nothing is normalised where the base ends with a slash.
	if r.RequestURI != "/base//a%25b?q=1" || r.Header.Get("Authorization") != "fixed" || r.Header.Get("X-A") != "1" || r.Header.Get("Te") != "" ||
		r.Host != strings.TrimPrefix(s.URL, "http://") || len(r.Header["User-Agent"]) > 0 || len(r.Header["Dapr-Api-Token"]) > 0 {
		t.Errorf("%s %v", r.RequestURI, r.Header)
	}
	for target, want := range map[string]string{"ep": "/base/?q=1", "plain": "/?q=1", s.URL: "/?q=1"} {
		if resp, err := x.Invoke(t.Context(), target, &invocation.Request{Verb: "GET", Query: "q=1"}); err != nil {
			t.Error(err)
		} else if resp.Close(); (<-seen).RequestURI != want {
			t.Errorf("%s: not %s", target, want)
		}
	}
	// Redirects of endpoints are followed, those of URLs are not.
	resp, err = x.Invoke(t.Context(), "plain", &invocation.Request{Verb: "GET", Method: "from"})
	if err != nil || resp.Status != 200 || (<-seen).URL.Path != "/to" {
		t.Error(resp, err)
	}
	resp, err = x.Invoke(t.Context(), s.URL, &invocation.Request{Verb: "GET", Method: "from"})
	if err != nil || resp.Status != 302 || string(resp.Header.Get("Location")) != "/to" {
		t.Error(resp, err)
	}
	if _, err := x.Invoke(t.Context(), "nobody", req); err == nil {
		t.Error("an endpoint that is not there was called")
	}
	if _, err := x.Invoke(t.Context(), "http://127.0.0.1:1", req); err == nil ||
		err.Error() != `Post "http://127.0.0.1:1/a%25b?q=1": dial tcp 127.0.0.1:1: connect: connection refused` {
		t.Error(err)
	}
}

func TestExternalLimits(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-release }))
	defer s.Close()
	x := apptest.Open(t, NewExternal, ExternalOptions{MaxConcurrency: 1, Endpoints: []*resource.HTTPEndpoint{endpointOf("a", s.URL), endpointOf("b", s.URL)}})
	done := make(chan error, 3)
	for _, target := range []string{"a", "b", s.URL} { // each has its own count
		e := x.urls
		if x.endpoints[target] != nil {
			e = x.endpoints[target]
		}
		go func() {
			_, err := x.Invoke(t.Context(), target, &invocation.Request{Verb: "GET"})
			done <- err
		}()
		apptest.Until(t, "the call runs", func() bool { return len(e.client.gate.slots) == 1 })
	}
	for _, target := range []string{"a", s.URL} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, err := x.Invoke(ctx, target, &invocation.Request{Verb: "GET"}); err != context.DeadlineExceeded {
			t.Error(err)
		}
		cancel()
	}
	close(release)
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestExternalTLS(t *testing.T) {
	certificate, key := keyPair(t)
	tests := []struct {
		tls  resource.TLS
		want string
	}{
		{resource.TLS{RootCA: text("x")}, "failed to add root cert to cert pool for http endpoint ep"},
		{resource.TLS{Certificate: text("x"), PrivateKey: text("y")}, "failed to load client certificate for http endpoint ep"},
		{resource.TLS{Renegotiation: "Sometimes"}, "invalid renegotiation value Sometimes for http endpoint ep"},
		{resource.TLS{RootCA: text(certificate), Certificate: text(certificate), PrivateKey: text(key), Renegotiation: "OnceAsClient"}, ""},
		{resource.TLS{Renegotiation: "FreelyAsClient"}, ""},
	}
	for _, test := range tests {
		e := endpointOf("ep", "https://x")
		e.Spec.ClientTLS = &test.tls
		x, err := NewExternal(ExternalOptions{Endpoints: []*resource.HTTPEndpoint{endpointOf("other", "http://x"), e}})
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want)) {
			t.Errorf("%v, want %q", err, test.want)
		}
		if x != nil {
			x.Abort()
		}
	}

	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	defer s.Close()
	trusting := endpointOf("trusting", s.URL)
	trusting.Spec.ClientTLS = &resource.TLS{RootCA: text(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))}
	x := apptest.Open(t, NewExternal, ExternalOptions{Endpoints: []*resource.HTTPEndpoint{trusting, endpointOf("doubting", s.URL)}})
	if resp, err := x.Invoke(t.Context(), "trusting", &invocation.Request{Verb: "GET"}); err != nil || resp.Status != 200 {
		t.Error(resp, err)
	}
	for _, target := range []string{"doubting", s.URL} {
		if _, err := x.Invoke(t.Context(), target, &invocation.Request{Verb: "GET"}); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", target, err)
		}
	}
}
