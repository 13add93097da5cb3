package sentry

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/controlplane/sentry/validator"
	"outrigger.dev/telemetry/logging/logtest"
)

// running is a Sentry of a test.
type running struct {
	t         *testing.T
	dir       string
	log       *logtest.Log
	addresses Addresses
}

// run runs a Sentry on free ports until the test ends.
func run(t *testing.T, change func(*Options)) *running {
	t.Helper()
	r := &running{t: t, dir: t.TempDir(), log: &logtest.Log{}}
	o := Options{
		Settings:      ca.Settings{TrustDomain: "localhost", Namespace: "default", ClockSkew: ca.DefaultClockSkew, SelfRenewing: true},
		Store:         &ca.Files{Directory: r.dir},
		ListenAddress: "127.0.0.1", HealthzListenAddress: "127.0.0.1", MetricsEnabled: true, MetricsListenAddress: "127.0.0.1",
		Validators:       map[validator.Name]validator.Validator{sentryv1.SignCertificateRequest_INSECURE: validator.Insecure{}},
		DefaultValidator: sentryv1.SignCertificateRequest_INSECURE,
		Log:              r.log.Logger(), ReloadBatch: 20 * time.Millisecond,
	}
	if change != nil {
		change(&o)
	}
	started := make(chan Addresses, 1)
	o.Started = func(a Addresses) { started <- a }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("Run does not end; log:\n%s", r.log)
		}
	})
	select {
	case r.addresses = <-started:
	case err := <-done:
		done <- err
		t.Fatalf("Run ended: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatalf("Sentry does not start; log:\n%s", r.log)
	}
	return r
}

// anchors are the roots in the directory.
func (r *running) anchors() []*x509.Certificate {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.dir, ca.AnchorsName))
	if err != nil {
		r.t.Fatal(err)
	}
	return certificates(r.t, text)
}

func certificates(t *testing.T, text []byte) (found []*x509.Certificate) {
	t.Helper()
	for len(text) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, c)
	}
	return found
}

// tlsConfig is that of a sidecar: the chain and the exact ID of Sentry are verified.
func (r *running) tlsConfig(anchors []*x509.Certificate) *tls.Config {
	bundle := x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("localhost"), anchors)
	return tlsconfig.TLSClientConfig(bundle, tlsconfig.AuthorizeID(spiffeid.RequireFromString("spiffe://localhost/ns/default/dapr-sentry")))
}

func (r *running) client() sentryv1.CAClient {
	r.t.Helper()
	conn, err := grpc.NewClient(r.addresses.GRPC.String(), grpc.WithTransportCredentials(credentials.NewTLS(r.tlsConfig(r.anchors()))))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return sentryv1.NewCAClient(conn)
}

func csr(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func edKey(t testing.TB) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func request(t testing.TB) *sentryv1.SignCertificateRequest {
	return &sentryv1.SignCertificateRequest{Id: "shop", Namespace: "prod", CertificateSigningRequest: csr(t, edKey(t))}
}

// get reads a URL.
func get(t *testing.T, client *http.Client, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
