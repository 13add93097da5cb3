package http

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	pathpkg "path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/bindingstest"
)

// binding is the type under test.
var binding = bindingstest.Type[*Binding]{Register: Register, Name: "http"}

// echo answers with what it was asked: the method, path, some headers and the body, and the status of a query parameter.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Method", r.Method)
	w.Header().Add("X-Two", "1")
	w.Header().Add("X-Two", "2")
	if s := r.Header.Get("X-Status"); s == "404" {
		w.WriteHeader(http.StatusNotFound)
	}
	_, _ = fmt.Fprintf(w, "%s %s\nhost=%s\n", r.Method, r.URL.RequestURI(), r.Host)
	for _, name := range []string{"Content-Type", "Accept", "X-Own", "X-Token", "Traceparent", "Tracestate", "Baggage"} {
		if v := r.Header.Get(name); v != "" {
			_, _ = fmt.Fprintf(w, "%s: %s\n", name, v)
		}
	}
	_, _ = fmt.Fprintf(w, "body=%s", body)
}

func TestInvoke(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(echo))
	defer server.Close()
	b := binding.MustOpen(t, map[string]string{"url": server.URL + "/base/", "securityToken": "secret", "securityTokenHeader": "X-Token"})
	for _, tc := range []struct {
		name string
		req  bindings.Request
		want []string
		not  []string
	}{
		{"create is post", bindings.Request{Operation: "create", Data: []byte(`"a"`)}, []string{"POST /base/\n", "Content-Type: application/json; charset=utf-8\n", "X-Token: secret\n", `body="a"`}, nil},
		{"post", bindings.Request{Operation: "post", Data: []byte("x"), Metadata: map[string]string{"path": "/some/thing?q=1", "Content-Type": "text/plain", "Accept": "text/html"}}, []string{"POST /base/some/thing?q=1\n", "Content-Type: text/plain\n", "Accept: text/html\n", "body=x"}, nil},
		{"put", bindings.Request{Operation: "put", Data: []byte("x")}, []string{"PUT /base/\n", "body=x"}, nil},
		{"patch", bindings.Request{Operation: "patch", Data: []byte("x")}, []string{"PATCH /base/\n", "body=x"}, nil},
		{"delete", bindings.Request{Operation: "delete", Data: []byte("null")}, []string{"DELETE /base/\n"}, []string{"body=n", "Content-Type"}},
		{"delete with data", bindings.Request{Operation: "delete", Data: []byte("x")}, []string{"DELETE /base/\n", "body=x"}, nil},
		{"options", bindings.Request{Operation: "options"}, []string{"OPTIONS /base/\n"}, nil},
		{"get has no body", bindings.Request{Operation: "get", Data: []byte("x")}, []string{"GET /base/\n", "Accept: application/json; charset=utf-8\n"}, []string{"body=x", "Content-Type"}},
		{"trace", bindings.Request{Operation: "trace"}, []string{"TRACE /base/\n"}, nil},
		{
			"headers",
			bindings.Request{Operation: "get", Metadata: map[string]string{"X-Own": "1", "x-token": "no", "Host": "other", "traceparent": "tp", "tracestate": "ts", "baggage": "k=v"}},
			[]string{"host=other\n", "X-Own: 1\n", "Traceparent: tp\n", "Tracestate: ts\n", "Baggage: k=v\n", "X-Token: secret\n"},
			nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, err := b.Invoke(context.Background(), tc.req)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tc.want {
				if !strings.Contains(string(resp.Data), want) {
					t.Errorf("%q lacks %q", resp.Data, want)
				}
			}
			for _, not := range tc.not {
				if strings.Contains(string(resp.Data), not) {
					t.Errorf("%q has %q", resp.Data, not)
				}
			}
			if m := resp.Metadata; m["statusCode"] != "200" || m["status"] != "200 OK" || m["X-Two"] != "1, 2" || m["Content-Type"] == "" {
				t.Errorf("metadata %v", m)
			}
		})
	}
	resp, err := b.Invoke(context.Background(), bindings.Request{Operation: "head"})
	if err != nil || len(resp.Data) != 0 || resp.Metadata["X-Method"] != "HEAD" {
		t.Errorf("head: %+v, %v", resp, err)
	}
	for _, op := range b.Operations() {
		if _, err := b.Invoke(context.Background(), bindings.Request{Operation: op}); err != nil {
			t.Errorf("%s: %v", op, err)
		}
	}
	for _, req := range []bindings.Request{
		{Operation: "connect"},
		{Operation: "get", Metadata: map[string]string{"path": "../other"}},
		{Operation: "get", Metadata: map[string]string{"path": "a/%2e%2E/b"}},
		{Operation: "get", Metadata: map[string]string{"path": `a\..\b`}},
		{Operation: "get", Metadata: map[string]string{"path": "%zz"}},
		{Operation: "get", Metadata: map[string]string{"path": "a?b=\n"}},
		{Operation: "get", Metadata: map[string]string{"X-Own": "a\r\nX-Token: b"}},
		{Operation: "get", Metadata: map[string]string{"X Own": "a"}},
		{Operation: "get", Metadata: map[string]string{"errorIfNot2XX": "perhaps"}},
	} {
		if _, err := b.Invoke(context.Background(), req); err == nil {
			t.Errorf("%+v gave no error", req)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := b.Invoke(context.Background(), bindings.Request{Operation: "get"}); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: %v", err)
	}
}

func TestRedirect(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/there", http.StatusTemporaryRedirect)
			return
		}
		echo(w, r)
	}))
	defer server.Close()
	resp, err := binding.MustOpen(t, map[string]string{"url": server.URL}).Invoke(context.Background(), bindings.Request{Operation: "post", Data: []byte("again")})
	if err != nil || !strings.Contains(string(resp.Data), "POST /there") || !strings.Contains(string(resp.Data), "body=again") {
		t.Errorf("response %+v, %v", resp, err)
	}
}

func TestTarget(t *testing.T) {
	for _, tc := range []struct{ base, path, want string }{
		{"http://h", "", "http://h"},
		{"http://h/", "", "http://h/"},
		{"http://h", "a/b", "http://h/a/b"},
		{"http://h/base/", "//a", "http://h/base/a"},
		{"http://h/b%2Fc", "d%2Fe f", "http://h/b/c/d/e%20f"},
		{"http://h/b%2Fc", "d%2Fe", "http://h/b%2Fc/d%2Fe"},
		{"http://h/base", "@evil", "http://h/base/@evil"},
		{"http://h", "a..b?q=../x", "http://h/a..b?q=../x"},
		{"http://h/f?code=1", "a", "http://h/f/a?code=1"},
		{"http://h/f?code=1", "a?b=2 3", "http://h/f/a?code=1&b=2%203"},
		{"http://h/f?code=1", "?b=2", "http://h/f?code=1&b=2"},
		{"http://h", "a\nb", "http://h/a%0Ab"},
	} {
		got, err := binding.MustOpen(t, map[string]string{"url": tc.base}).target(tc.path)
		if err != nil || got != tc.want {
			t.Errorf("%s with %s: %s, %v; want %s", tc.base, tc.path, got, err, tc.want)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"a", "../a", "%2e%2e/a", "a/..;/b", `\..\`, "//host/a", "?a=b", "#"} {
		f.Add(seed)
	}
	base, err := url.Parse("http://h/base")
	if err != nil {
		f.Fatal(err)
	}
	b := &Binding{url: base}
	f.Fuzz(func(t *testing.T, path string) {
		text, err := b.target(path)
		if err != nil {
			return
		}
		u, err := url.Parse(text)
		if err != nil {
			return // the call is refused
		}
		if clean := pathpkg.Clean(u.Path); u.Host != "h" || clean != "/base" && !strings.HasPrefix(clean, "/base/") {
			t.Fatalf("%q leads to %s", path, text)
		}
	})
}

func TestForeignRedirect(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(echo))
	defer other.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/loop" {
			http.Redirect(w, r, "/loop", http.StatusFound)
			return
		}
		http.Redirect(w, r, other.URL, http.StatusFound)
	}))
	defer server.Close()
	b := binding.MustOpen(t, map[string]string{"url": server.URL, "securityToken": "secret", "securityTokenHeader": "X-Token"})
	resp, err := b.Invoke(context.Background(), bindings.Request{Operation: "get", Metadata: map[string]string{"X-Own": "1"}})
	if err != nil || strings.Contains(string(resp.Data), "secret") || !strings.Contains(string(resp.Data), "X-Own: 1") {
		t.Errorf("response %+v, %v", resp, err)
	}
	if _, err := b.Invoke(context.Background(), bindings.Request{Operation: "get", Metadata: map[string]string{"path": "loop"}}); err == nil || !strings.Contains(err.Error(), "10 redirects") {
		t.Errorf("loop: %v", err)
	}
}

// TestEarlyAnswer answers before the body has been read, while the client goes on sending it.
func TestEarlyAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer server.Close()
	b := binding.MustOpen(t, map[string]string{"url": server.URL})
	data := make([]byte, 8<<20)
	for range 5 {
		// The connection may break before the answer is read; neither is a fault of the binding.
		resp, err := b.Invoke(context.Background(), bindings.Request{Operation: "post", Data: data})
		if err == nil && resp.Metadata["statusCode"] != "204" {
			t.Errorf("response %+v", resp)
		}
	}
}

func TestStatus(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(echo))
	defer server.Close()
	for _, tc := range []struct {
		property, entry string
		fails           bool
	}{{"", "", true}, {"true", "", true}, {"false", "", false}, {"", "false", false}, {"false", "true", true}} {
		p := map[string]string{"url": server.URL}
		if tc.property != "" {
			p["errorIfNot2XX"] = tc.property
		}
		b := binding.MustOpen(t, p)
		resp, err := b.Invoke(context.Background(), bindings.Request{Operation: "get", Metadata: map[string]string{"X-Status": "404", "errorIfNot2XX": tc.entry}})
		if (err != nil) != tc.fails || err != nil && err.Error() != "received status code 404" {
			t.Errorf("%+v: error %v", tc, err)
		}
		if resp == nil || resp.Metadata["statusCode"] != "404" || resp.Metadata["status"] != "404 Not Found" || resp.Metadata["X-Method"] != "GET" {
			t.Errorf("%+v: response %+v", tc, resp)
		}
	}
}

func TestLimits(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		_, _ = w.Write(make([]byte, 1000))
	}))
	defer server.Close()
	defer close(release)
	small := binding.MustOpen(t, map[string]string{"url": server.URL, "maxResponseBodySize": "999"})
	if resp, err := small.Invoke(context.Background(), bindings.Request{Operation: "get"}); err == nil || !strings.Contains(err.Error(), "maxResponseBodySize") || resp.Metadata["statusCode"] != "200" {
		t.Errorf("too long a response: %+v, %v", resp, err)
	}
	for _, size := range []string{"1000", "1Ki", "0"} {
		b := binding.MustOpen(t, map[string]string{"url": server.URL, "maxResponseBodySize": size})
		if resp, err := b.Invoke(context.Background(), bindings.Request{Operation: "get"}); err != nil || len(resp.Data) != 1000 {
			t.Errorf("size %s: %v", size, err)
		}
	}
	slow := binding.MustOpen(t, map[string]string{"url": server.URL, "responseTimeout": "50ms"})
	if _, err := slow.Invoke(context.Background(), bindings.Request{Operation: "get", Metadata: map[string]string{"path": "slow"}}); err == nil || !strings.Contains(err.Error(), "responseTimeout") {
		t.Errorf("slow endpoint: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := small.Invoke(ctx, bindings.Request{Operation: "get"}); err == nil {
		t.Error("a cancelled call succeeded")
	}
	down := binding.MustOpen(t, map[string]string{"url": "http://user:hush@127.0.0.1:1/x"})
	if _, err := down.Invoke(context.Background(), bindings.Request{Operation: "get"}); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || strings.Contains(err.Error(), "hush") {
		t.Errorf("endpoint that is down: %v", err)
	}
}

// pair makes a self-signed certificate, PEM.
func pair(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func TestMutualTLS(t *testing.T) {
	cert, key := pair(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(cert)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	server.StartTLS()
	defer server.Close()
	root := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, p := range map[string]map[string]string{
		"text":  {"MTLSRootCA": root, "MTLSClientCert": string(cert), "MTLSClientKey": string(key)},
		"files": {"MTLSRootCA": file("ca", root), "MTLSClientCert": file("cert", string(cert)), "MTLSClientKey": file("key", string(key)), "MTLSRenegotiation": "RenegotiateOnceAsClient"},
	} {
		p["url"] = server.URL
		resp, err := binding.MustOpen(t, p).Invoke(context.Background(), bindings.Request{Operation: "get"})
		if err != nil || string(resp.Data) != "client" {
			t.Errorf("%s: %+v, %v", name, resp, err)
		}
	}
	untrusting := binding.MustOpen(t, map[string]string{"url": server.URL})
	if _, err := untrusting.Invoke(context.Background(), bindings.Request{Operation: "get"}); err == nil || !strings.Contains(err.Error(), "MTLSRootCA") {
		t.Errorf("foreign authority: %v", err)
	}
	anonymous := binding.MustOpen(t, map[string]string{"url": server.URL, "MTLSRootCA": root})
	if _, err := anonymous.Invoke(context.Background(), bindings.Request{Operation: "get"}); err == nil {
		t.Error("called without a client certificate")
	}
}

func TestOptions(t *testing.T) {
	cert, _ := pair(t)
	for _, tc := range []struct {
		properties map[string]string
		err        string
	}{
		{nil, `"url" is required`},
		{map[string]string{"url": "example.com"}, `"url" is "example.com"`},
		{map[string]string{"url": "ftp://example.com"}, `"url" is "ftp://example.com"`},
		{map[string]string{"url": "http://h/#a"}, `"#"`},
		{map[string]string{"securityToken": "x"}, `"securityTokenHeader"`},
		{map[string]string{"securityToken": "x", "securityTokenHeader": "a b"}, `"securityTokenHeader"`},
		{map[string]string{"securityToken": "x\ny", "securityTokenHeader": "a"}, `"securityToken"`},
		{map[string]string{"responseTimeout": "-1s"}, `"responseTimeout" is -1s`},
		{map[string]string{"responseTimeout": "soon"}, `"responseTimeout" is "soon"`},
		{map[string]string{"maxResponseBodySize": "big"}, `"maxResponseBodySize" is "big"`},
		{map[string]string{"MTLSRootCA": "/no/such/file"}, `"MTLSRootCA"`},
		{map[string]string{"MTLSRootCA": "-----BEGIN nothing"}, `"MTLSRootCA" holds no certificate`},
		{map[string]string{"MTLSClientCert": string(cert)}, "together"},
		{map[string]string{"MTLSClientCert": string(cert), "MTLSClientKey": string(cert)}, `"MTLSClientKey"`},
		{map[string]string{"MTLSRenegotiation": "often"}, `"MTLSRenegotiation" is "often"`},
	} {
		p := map[string]string{"url": "http://h"}
		for k, v := range tc.properties {
			p[k] = v
		}
		if tc.properties == nil {
			delete(p, "url")
		}
		if _, err := binding.Open(t, p); err == nil || !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%v: error %v, want one with %q", tc.properties, err, tc.err)
		}
	}
}
