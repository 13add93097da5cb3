package kubernetes

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outrigger.dev/components"
)

// certificate makes a self-signed certificate, and its key, in PEM.
func certificate(t testing.TB) (text, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// kubeconfigOf is a file for a server with the settings of a cluster and a user.
func kubeconfigOf(server, cluster, user string) string {
	return `apiVersion: v1
kind: Config
current-context: mine
contexts:
- name: other
  context: {cluster: nowhere}
- name: mine
  context: {cluster: c, user: u, namespace: ofcontext}
clusters:
- name: c
  cluster: {server: "` + server + `", ` + cluster + `}
users:
- name: u
  user: {` + user + `}
`
}

func TestKubeconfig(t *testing.T) {
	a := newAPIServer(t)
	a.secrets["ofcontext/s"] = map[string]string{"k": "v"}
	ca := "certificate-authority-data: " + base64.StdEncoding.EncodeToString(a.caPEM())
	dir := t.TempDir()
	for name, text := range map[string]string{"ca.crt": string(a.caPEM()), "token": "one"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, cluster, user string
		open, get           []string // what the errors say; none when it works
	}{
		{name: "token and authority in the file", cluster: ca, user: "token: one"},
		{name: "in files beside it", cluster: "certificate-authority: ca.crt", user: "tokenFile: token"},
		{name: "name of the server", cluster: ca + ", tls-server-name: example.com", user: "token: one"},
		{name: "unverified", cluster: "insecure-skip-tls-verify: true", user: "token: one"},
		{name: "unknown authority", cluster: "a: b", user: "token: one", get: []string{"cannot be asked", "certificate-authority-data"}},
		{name: "wrong token", cluster: ca, user: "token: x", get: []string{"the user of the kubeconfig u", "Unauthorized"}},
		{name: "program", cluster: ca, user: "exec: {command: aws}", open: []string{"kubectl create token"}},
		{name: "no base64", cluster: "certificate-authority-data: '%'", user: "token: one", open: []string{"certificate-authority-data", "base64"}},
		{name: "password", cluster: ca, user: "username: a, password: b", get: []string{"Unauthorized"}},
		{name: "missing token file", cluster: ca, user: "tokenFile: none", get: []string{"none"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, "config")
			if err := os.WriteFile(path, []byte(kubeconfigOf(a.URL, tt.cluster, tt.user)), 0o600); err != nil {
				t.Fatal(err)
			}
			p := &pod{t: t, dir: t.TempDir(), env: map[string]string{}}
			s, err := p.tryOpen(components.Instance{Properties: map[string]string{"kubeconfigPath": path}})
			if tt.open != nil {
				refused(t, err, append(tt.open, path)...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Get(t.Context(), "s", nil)
			if tt.get != nil {
				refused(t, err, tt.get...)
				return
			}
			if err != nil || got["k"] != "v" {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestKubeconfigOfTheEnvironment(t *testing.T) {
	a := newAPIServer(t)
	a.secrets["ofcontext/s"] = map[string]string{"k": "v"}
	home := t.TempDir()
	text := kubeconfigOf(a.URL, "insecure-skip-tls-verify: true", "token: one")
	if err := os.Mkdir(filepath.Join(home, ".kube"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".kube", "config"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(home, "bad")
	if err := os.WriteFile(bad, []byte("current-context: none"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &pod{t: t, env: map[string]string{"HOME": home}}
	if got, err := p.open(components.Instance{}).Get(t.Context(), "s", nil); err != nil || got["k"] != "v" {
		t.Errorf("got %v, %v", got, err)
	}
	p.env["KUBECONFIG"] = filepath.Join(home, "missing") + string(filepath.ListSeparator) + bad
	_, err := p.tryOpen(components.Instance{})
	refused(t, err, bad, `"none"`)
}

func TestClientCertificate(t *testing.T) {
	a := newAPIServer(t)
	shown := make(chan int, 1)
	a.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown <- len(r.TLS.PeerCertificates)
		_, _ = w.Write([]byte(`{"data":{"k":"dg=="}}`))
	})
	a.TLS.ClientAuth = tls.RequestClientCert
	text, key := certificate(t)
	encode := base64.StdEncoding.EncodeToString
	c, err := parseKubeconfig([]byte(kubeconfigOf(a.URL, "insecure-skip-tls-verify: true", "client-certificate-data: "+encode(text)+", client-key-data: "+encode(key))), "")
	if err != nil {
		t.Fatal(err)
	}
	if string(c.certificate) != string(text) || string(c.key) != string(key) {
		t.Fatal("the certificate is another one")
	}
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(kubeconfigOf(a.URL, "insecure-skip-tls-verify: true", "client-certificate-data: "+encode(text)+", client-key-data: "+encode(key))), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &pod{t: t, env: map[string]string{}}
	got, err := p.open(components.Instance{Properties: map[string]string{"kubeconfigPath": path}}).Get(t.Context(), "s", nil)
	if err != nil || got["k"] != "v" {
		t.Fatalf("got %v, %v", got, err)
	}
	if n := <-shown; n != 1 {
		t.Errorf("%d certificates were shown", n)
	}
}

func TestBadKubeconfig(t *testing.T) {
	for text, want := range map[string]string{
		"": "current-context", "contexts: 1": "unmarshal", "current-context: x": `"x"`,
		"{current-context: x, contexts: [{name: x, context: {cluster: c}}]}":                                                                         `cluster "c"`,
		"{current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: 'https://x'}}]}":         `user "u"`,
		"{contexts: [{name: x, context: {cluster: c, user: u}}], clusters: [{name: c}], users: [{name: u, user: {client-certificate-data: '!'}}]}":   "client-certificate-data",
		"{contexts: [{name: x, context: {cluster: c, user: u}}], clusters: [{name: c}], users: [{name: u, user: {token: t, client-key-data: '!'}}]}": "client-key-data",
		"{contexts: [{name: x, context: {cluster: c, user: u}}], clusters: [{name: c}], users: [{name: u, user: {auth-provider: {name: oidc}}}]}":    "auth-provider",
		"{contexts: [{name: x}, {name: y}]}": "current-context",
	} {
		_, err := parseKubeconfig([]byte(text), "")
		refused(t, err, want)
	}
	for _, server := range []string{"", "10.0.0.1:443", "ftp://x", "http://10.0.0.1"} {
		c, err := parseKubeconfig([]byte(kubeconfigOf(server, "a: b", "token: t")), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err = newClient(c, nil); err == nil {
			t.Errorf("the address %q is taken", server)
		}
	}
}

func FuzzParseKubeconfig(f *testing.F) {
	f.Add([]byte(kubeconfigOf("https://x", "certificate-authority: ca", "token: t")))
	f.Add([]byte("contexts: [{name: x}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseKubeconfig(text, "/etc")
		if err == nil && c.caFile != "" && !strings.HasPrefix(c.caFile, "/") {
			t.Errorf("a relative path: %q", c.caFile)
		}
	})
}
