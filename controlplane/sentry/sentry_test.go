package sentry

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/controlplane/sentry/validator"
)

func TestIssuedCertificate(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	r := run(t, func(o *Options) {
		o.Clock = clockwork.NewFakeClockAt(now)
		o.ClusterDomain = "cluster.test"
		o.Settings.WorkloadTTL = time.Hour
	})
	client := r.client()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name        string
		key         crypto.Signer
		id, ns, td  string
		certificate string
		want        string
		dns         []string
	}{
		{"ed25519", edKey(t), "shop", "prod", "", "CERTIFICATE REQUEST", "spiffe://public/ns/prod/shop", nil},
		{"ecdsa", ec, "shop", "prod", "", "CERTIFICATE REQUEST", "spiffe://public/ns/prod/shop", nil},
		{"rsa", rsaKey, "shop", "prod", "", "CERTIFICATE REQUEST", "spiffe://public/ns/prod/shop", nil},
		{"old client", edKey(t), "shop", "prod", "", "CERTIFICATE", "spiffe://public/ns/prod/shop", nil},
		{"trust domain", edKey(t), "shop", "prod", "example.org", "CERTIFICATE REQUEST", "spiffe://example.org/ns/prod/shop", nil},
		{"injector", edKey(t), "dapr-injector", "default", "localhost", "CERTIFICATE REQUEST", "spiffe://localhost/ns/default/dapr-injector", []string{"dapr-sidecar-injector.default.svc"}},
		{"operator", edKey(t), "dapr-operator", "default", "localhost", "CERTIFICATE REQUEST", "spiffe://localhost/ns/default/dapr-operator", []string{"dapr-webhook.default.svc"}},
		{"operator elsewhere", edKey(t), "dapr-operator", "prod", "localhost", "CERTIFICATE REQUEST", "spiffe://localhost/ns/prod/dapr-operator", nil},
		{"app by the name of the operator", edKey(t), "dapr-operator", "default", "", "CERTIFICATE REQUEST", "spiffe://public/ns/default/dapr-operator", nil},
		{"scheduler", edKey(t), "dapr-scheduler", "default", "localhost", "CERTIFICATE REQUEST", "spiffe://localhost/ns/default/dapr-scheduler", []string{
			"dapr-scheduler-server-0.dapr-scheduler-server.default.svc.cluster.test",
			"dapr-scheduler-server-1.dapr-scheduler-server.default.svc.cluster.test",
			"dapr-scheduler-server-2.dapr-scheduler-server.default.svc.cluster.test",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := bytes.ReplaceAll(csr(t, tt.key), []byte("CERTIFICATE REQUEST"), []byte(tt.certificate))
			reply, err := client.SignCertificate(t.Context(), &sentryv1.SignCertificateRequest{Id: tt.id, Namespace: tt.ns, TrustDomain: tt.td, CertificateSigningRequest: text})
			if err != nil {
				t.Fatal(err)
			}
			chain := certificates(t, reply.GetWorkloadCertificate())
			if len(chain) != 2 {
				t.Fatalf("%d certificates, want leaf and issuer", len(chain))
			}
			leaf := chain[0]
			if len(leaf.URIs) != 1 || leaf.URIs[0].String() != tt.want || fmt.Sprint(leaf.DNSNames) != fmt.Sprint(tt.dns) || len(leaf.Subject.Names) > 0 {
				t.Errorf("URIs %v, DNS names %v, subject %s", leaf.URIs, leaf.DNSNames, leaf.Subject)
			}
			if !leaf.NotBefore.Equal(now.Add(-15*time.Minute)) || !leaf.NotAfter.Equal(now.Add(time.Hour)) || !reply.GetValidUntil().AsTime().Equal(leaf.NotAfter) {
				t.Errorf("from %s to %s, valid until %s", leaf.NotBefore, leaf.NotAfter, reply.GetValidUntil().AsTime())
			}
			if leaf.KeyUsage != x509.KeyUsageDigitalSignature || fmt.Sprint(leaf.ExtKeyUsage) != fmt.Sprint([]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) || leaf.IsCA {
				t.Errorf("key usage %b, extended %v, authority %t", leaf.KeyUsage, leaf.ExtKeyUsage, leaf.IsCA)
			}
			if leaf.SerialNumber.BitLen() < 100 {
				t.Errorf("the serial number has %d bits", leaf.SerialNumber.BitLen())
			}
			if len(reply.GetTrustChainCertificates()) != 1 {
				t.Fatalf("%d trust chain entries", len(reply.GetTrustChainCertificates()))
			}
			roots, issuers := x509.NewCertPool(), x509.NewCertPool()
			roots.AppendCertsFromPEM(reply.GetTrustChainCertificates()[0])
			issuers.AddCert(chain[1])
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: issuers, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
				t.Error(err)
			}
			if reply.GetJwt() != nil || len(reply.GetPerAudienceJwts()) > 0 {
				t.Error("there are JWTs")
			}
		})
	}
}

func TestRefusedRequests(t *testing.T) {
	r := run(t, nil)
	client := r.client()
	broken := csr(t, edKey(t))
	block, _ := pem.Decode(broken)
	block.Bytes[len(block.Bytes)-1] ^= 1
	forged := pem.EncodeToMemory(block)
	for _, tt := range []struct {
		name   string
		change func(*sentryv1.SignCertificateRequest)
		code   codes.Code
		text   string
	}{
		{"validator that is not enabled", func(r *sentryv1.SignCertificateRequest) { r.TokenValidator = sentryv1.SignCertificateRequest_JWKS }, codes.InvalidArgument, "the requested validator is not enabled"},
		{"validator that does not exist", func(r *sentryv1.SignCertificateRequest) { r.TokenValidator = 77 }, codes.InvalidArgument, "the requested validator is not enabled"},
		{"nothing", func(r *sentryv1.SignCertificateRequest) { *r = sentryv1.SignCertificateRequest{} }, codes.PermissionDenied, "invalid request: parameter app-id cannot be empty\nCSR is required\nnamespace is required"},
		{"dots and length", func(r *sentryv1.SignCertificateRequest) { r.Id = strings.Repeat("a.", 33) }, codes.PermissionDenied, "invalid request: parameter app-id cannot contain dots\napp ID must be 64 characters or less"},
		{"path in the id", func(r *sentryv1.SignCertificateRequest) { r.Id = "a/b" }, codes.PermissionDenied, `invalid request: app-id "a/b" cannot be part of a SPIFFE ID`},
		{"path in the namespace", func(r *sentryv1.SignCertificateRequest) { r.Namespace = "prod/other" }, codes.PermissionDenied, `namespace "prod/other" cannot be part`},
		{"parent as namespace", func(r *sentryv1.SignCertificateRequest) { r.Namespace = ".." }, codes.PermissionDenied, `namespace ".." cannot be part`},
		{"trust domain", func(r *sentryv1.SignCertificateRequest) { r.TrustDomain = "a b" }, codes.PermissionDenied, `invalid trust domain "a b"`},
		{"trust domain with a path", func(r *sentryv1.SignCertificateRequest) { r.TrustDomain = "spiffe://a/ns/x/y" }, codes.PermissionDenied, "invalid trust domain"},
		{"no PEM", func(r *sentryv1.SignCertificateRequest) { r.CertificateSigningRequest = []byte("x") }, codes.InvalidArgument, "invalid certificate signing request"},
		{"other PEM", func(r *sentryv1.SignCertificateRequest) {
			r.CertificateSigningRequest = bytes.ReplaceAll(r.CertificateSigningRequest, []byte("CERTIFICATE REQUEST"), []byte("PRIVATE KEY"))
		}, codes.InvalidArgument, "invalid certificate signing request"},
		{"no request", func(r *sentryv1.SignCertificateRequest) {
			r.CertificateSigningRequest = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1}})
		}, codes.InvalidArgument, "failed to parse certificate signing request: "},
		{"forged", func(r *sentryv1.SignCertificateRequest) { r.CertificateSigningRequest = forged }, codes.InvalidArgument, "invalid signature"},
		{"many audiences", func(r *sentryv1.SignCertificateRequest) { r.JwtAudiences = make([]string, 1000) }, codes.InvalidArgument, "the request has 1000 JWT audiences"},
		{"oversized", func(r *sentryv1.SignCertificateRequest) { r.Token = strings.Repeat("x", 600<<10) }, codes.ResourceExhausted, "larger than max"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := request(t)
			tt.change(req)
			_, err := client.SignCertificate(t.Context(), req)
			if status.Code(err) != tt.code || !strings.Contains(status.Convert(err).Message(), tt.text) {
				t.Errorf("%v, want %s %q", err, tt.code, tt.text)
			}
		})
	}
	if _, err := client.SignCertificate(t.Context(), request(t)); err != nil {
		t.Errorf("a good request after the bad ones: %v", err)
	}
	t.Run("no default", func(t *testing.T) {
		client := run(t, func(o *Options) { o.DefaultValidator = 0 }).client()
		_, err := client.SignCertificate(t.Context(), request(t))
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "a validator name must be specified in this environment") {
			t.Error(err)
		}
	})
}

func TestJWTs(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	r := run(t, func(o *Options) {
		o.Settings.JWT = ca.JWTSettings{Enabled: true, Issuer: "https://issuer.test", Algorithm: jose.ES256, TTL: time.Hour}
		o.OIDC = OIDCOptions{Enabled: true, ListenAddress: "127.0.0.1"}
		o.Clock = clockwork.NewFakeClockAt(now)
	})
	req := request(t)
	req.JwtAudiences = []string{"api://a", "public", "b", "b"}
	reply, err := r.client().SignCertificate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	// The keys are those that the OIDC server publishes.
	var set jose.JSONWebKeySet
	if code, body := get(t, http.DefaultClient, "http://"+r.addresses.OIDC.String()+"/jwks.json"); code != 200 || json.Unmarshal([]byte(body), &set) != nil {
		t.Fatalf("%d %s", code, body)
	}
	check := func(token string, audiences ...string) {
		t.Helper()
		parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := parsed.Claims(set, &got); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]any{
			"sub": "spiffe://public/ns/prod/shop", "iss": "https://issuer.test", "use": "sig",
			"iat": float64(now.Unix()), "nbf": float64(now.Add(-15 * time.Minute).Unix()), "exp": float64(now.Add(time.Hour).Unix()),
		} {
			if got[name] != want {
				t.Errorf("claim %s is %v, want %v", name, got[name], want)
			}
		}
		list := make([]any, len(audiences))
		for i, a := range audiences {
			list[i] = a
		}
		if fmt.Sprint(got["aud"]) != fmt.Sprint(list) || len(fmt.Sprint(got["jti"])) != 32 {
			t.Errorf("aud %v (want %v), jti %v", got["aud"], list, got["jti"])
		}
	}
	check(reply.GetJwt().GetValue(), "public", "api://a", "b")
	if len(reply.GetPerAudienceJwts()) != 3 {
		t.Errorf("%d tokens", len(reply.GetPerAudienceJwts()))
	}
	for audience, token := range reply.GetPerAudienceJwts() {
		check(token.GetValue(), audience)
	}
}

func TestHealthAndMetrics(t *testing.T) {
	r := run(t, nil)
	if code, body := get(t, http.DefaultClient, "http://"+r.addresses.Healthz.String()+"/healthz"); code != 200 {
		t.Errorf("healthz: %d %s", code, body)
	}
	client := r.client()
	if _, err := client.SignCertificate(t.Context(), request(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.SignCertificate(t.Context(), &sentryv1.SignCertificateRequest{}); err == nil {
		t.Fatal("no error")
	}
	_, body := get(t, http.DefaultClient, "http://"+r.addresses.Metrics.String()+"/metrics")
	issuer, err := os.ReadFile(filepath.Join(r.dir, ca.IssuerName))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"dapr_sentry_cert_sign_request_received_total 2", "dapr_sentry_cert_sign_success_total 1", `dapr_sentry_cert_sign_failure_total{reason="sign"} 1`,
		"dapr_sentry_servercert_issue_failed_total 0", "dapr_sentry_issuercert_changed_total 1",
		"dapr_sentry_issuercert_expiry_timestamp " + strconv.FormatFloat(float64(certificates(t, issuer)[0].NotAfter.Unix()), 'g', -1, 64),
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no line %q in\n%s", line, body)
		}
	}
}

// TestReloadKeepsConnections replaces the credentials below a running Sentry.
func TestReloadKeepsConnections(t *testing.T) {
	r := run(t, nil)
	old := r.client()
	first, err := old.SignCertificate(t.Context(), request(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Renew(t.Context(), &ca.Files{Directory: r.dir}, ca.Settings{ClockSkew: ca.DefaultClockSkew}, time.Now(), ca.Request{AtOnce: true}); err != nil {
		t.Fatal(err)
	}
	issuer := certificates(t, first.GetWorkloadCertificate())[1]
	deadline := time.Now().Add(10 * time.Second)
	for {
		reply, err := old.SignCertificate(t.Context(), request(t)) // on the same connection, without an error in between
		if err != nil {
			t.Fatal(err)
		}
		if !certificates(t, reply.GetWorkloadCertificate())[1].Equal(issuer) {
			if n := len(certificates(t, reply.GetTrustChainCertificates()[0])); n != 2 {
				t.Errorf("the reply has %d roots, want the old and the new one", n)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new issuer never signs; log:\n%s", r.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
	// Sentry itself shows a certificate by the new root.
	if _, err := r.client().SignCertificate(t.Context(), request(t)); err != nil {
		t.Error(err)
	}
	conn, err := tls.Dial("tcp", r.addresses.GRPC.String(), r.tlsConfig(r.anchors()[:1]))
	if err != nil {
		t.Fatalf("with the new root alone: %v", err)
	}
	conn.Close()
}

// TestRootsRenewThemselvesInUse has roots of seconds, and a client that learns all it knows from the replies.
func TestRootsRenewThemselvesInUse(t *testing.T) {
	t.Parallel()
	r := run(t, func(o *Options) {
		o.Settings.RootTTL, o.Settings.IssuerTTL, o.Settings.WorkloadTTL, o.Settings.ClockSkew = 12*time.Second, 6*time.Second, 3*time.Second, 0
		o.StorePoll = 100 * time.Millisecond
	})
	known := r.anchors()
	seen := map[string]bool{}
	deadline := time.Now().Add(time.Minute)
	for calls := 0; len(seen) < 3; calls++ {
		if time.Now().After(deadline) {
			t.Fatalf("%d roots in a minute; log:\n%s", len(seen), r.log)
		}
		conn, err := grpc.NewClient(r.addresses.GRPC.String(), grpc.WithTransportCredentials(credentials.NewTLS(r.tlsConfig(known))))
		if err != nil {
			t.Fatal(err)
		}
		reply, err := sentryv1.NewCAClient(conn).SignCertificate(t.Context(), request(t))
		conn.Close()
		if err != nil {
			t.Fatalf("call %d: %v; log:\n%s", calls, err, r.log)
		}
		known = certificates(t, reply.GetTrustChainCertificates()[0])
		seen[string(known[0].Raw)] = true
		time.Sleep(100 * time.Millisecond) // the pace of renewals of a sidecar
	}
}

func TestOwnCertificateRenews(t *testing.T) {
	clock := clockwork.NewFakeClockAt(time.Now().Add(-13 * time.Hour)) // the client has the system's clock
	r := run(t, func(o *Options) { o.Clock = clock })
	show := func() *x509.Certificate {
		t.Helper()
		c := r.tlsConfig(r.anchors())
		conn, err := tls.Dial("tcp", r.addresses.GRPC.String(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0]
	}
	first := show()
	if !first.Equal(show()) {
		t.Error("the certificate changes without need")
	}
	clock.Advance(13 * time.Hour)
	second := show()
	if second.Equal(first) || second.URIs[0].String() != "spiffe://localhost/ns/default/dapr-sentry" {
		t.Errorf("after more than half of its life: %v", second.URIs)
	}
}

func TestStartFailures(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	for _, tt := range []struct {
		name   string
		change func(*Options)
		err    string
	}{
		{"port taken", func(o *Options) { o.Port = taken.Addr().(*net.TCPAddr).Port }, "the gRPC port"},
		{"no store", func(o *Options) { o.Store = nil }, "no store"},
		{"no validator", func(o *Options) { o.Validators = nil }, "no validator"},
		{"default that is not there", func(o *Options) { o.DefaultValidator = sentryv1.SignCertificateRequest_KUBERNETES }, "the default validator KUBERNETES"},
		{"trust domain", func(o *Options) { o.Settings.TrustDomain = "A B" }, "invalid trust domain"},
		{"OIDC key alone", func(o *Options) {
			o.Settings.JWT.Enabled = true
			o.OIDC = OIDCOptions{Enabled: true, KeyFile: "x"}
		}, "go together"},
		{"OIDC without certificate", func(o *Options) {
			o.Settings.JWT.Enabled = true
			o.OIDC = OIDCOptions{Enabled: true, TLS: true}
		}, "needs --oidc-server-tls-cert-file"},
		{"bad credentials", func(o *Options) {
			for _, name := range []string{ca.AnchorsName, ca.IssuerName, ca.IssuerKeyName} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			o.Store = &ca.Files{Directory: dir}
		}, "the trust anchors (ca.crt) are not usable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			empty := t.TempDir()
			o := Options{
				Settings: ca.Settings{TrustDomain: "localhost", Namespace: "default"}, Store: &ca.Files{Directory: empty},
				ListenAddress: "127.0.0.1", HealthzListenAddress: "127.0.0.1",
				Validators: map[validator.Name]validator.Validator{sentryv1.SignCertificateRequest_INSECURE: validator.Insecure{}},
			}
			tt.change(&o)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := Run(ctx, o); err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
				t.Errorf("a start that fails leaves %v", left)
			}
		})
	}
}
