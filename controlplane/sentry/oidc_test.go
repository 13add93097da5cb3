package sentry

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jonboulle/clockwork"

	"outrigger.dev/telemetry/logging/logtest"
)

// TestOIDCWaitsForItsCertificate starts the OIDC server before its certificate exists, and replaces it later.
func TestOIDCWaitsForItsCertificate(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	clock := clockwork.NewFakeClockAt(time.Now())
	log := &logtest.Log{}
	f := &fileCertificate{certFile: certFile, keyFile: keyFile, clock: clock, log: log.Logger()}
	write := func(name string) {
		t.Helper()
		key := edKey(t)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
			if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	done := make(chan error, 1)
	go func() { done <- f.await(t.Context()) }()
	if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	write("first.test")
	clock.Advance(certificateWait)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	name := func() string {
		t.Helper()
		c, err := f.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.DNSNames[0]
	}
	if got := name(); got != "first.test" {
		t.Errorf("it is %s", got)
	}
	write("second-longer.test")
	clock.Advance(2 * certificatePoll)
	if got := name(); got != "second-longer.test" {
		t.Errorf("after the change it is %s", got)
	}
	if err := os.WriteFile(certFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	clock.Advance(2 * certificatePoll)
	if got := name(); got != "second-longer.test" || log.Count("the previous one stays") == 0 {
		t.Errorf("after a broken change it is %s", got)
	}

	write("served.test")
	r := run(t, func(o *Options) {
		o.Settings.JWT.Enabled, o.Settings.JWT.Algorithm = true, jose.EdDSA
		o.OIDC = OIDCOptions{Enabled: true, ListenAddress: "127.0.0.1", TLS: true, CertFile: certFile, KeyFile: keyFile}
	})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	code, body := get(t, client, "https://"+r.addresses.OIDC.String()+"/.well-known/openid-configuration")
	if code != 200 || !strings.Contains(body, `"issuer":"https://127.0.0.1:`) || !strings.Contains(body, `["EdDSA"]`) {
		t.Errorf("%d %s", code, body)
	}
}
