package mesh_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/controlplane/sentry/validator"
	"outrigger.dev/identity"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

const sentryID = "spiffe://localhost/ns/default/dapr-sentry"

// minter signs join tokens.
type minter struct {
	t   testing.TB
	key *ecdsa.PrivateKey
}

func newMinter(t testing.TB) *minter {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &minter{t, key}
}

// keys is the JWKS of the tokens.
func (m *minter) keys() string {
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: m.key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}

// token is a token for an identity; change, if not nil, changes its claims.
func (m *minter) token(subject string, change func(*jwt.Claims)) string {
	m.t.Helper()
	now := time.Now()
	claims := jwt.Claims{Subject: subject, Audience: jwt.Audience{sentryID}, IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(time.Hour))}
	if change != nil {
		change(&claims)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: m.key, KeyID: "k"}}, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		m.t.Fatal(err)
	}
	return text
}

// believing has a Sentry believe the minter's tokens, and nothing else.
func (m *minter) believing(o *sentry.Options) {
	v, err := validator.NewJWKS(context.Background(), validator.JWKSOptions{Source: m.keys(), Audience: sentryID})
	if err != nil {
		m.t.Fatal(err)
	}
	o.Validators = map[validator.Name]validator.Validator{sentryv1.SignCertificateRequest_JWKS: v}
	o.DefaultValidator = sentryv1.SignCertificateRequest_JWKS
}

// withToken makes a sidecar show a token to Sentry.
func withToken(t testing.TB, token string) sidecartest.Option {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	return sidecartest.With(func(o *sidecar.Options) {
		environment := o.LookupEnv
		if environment == nil {
			environment = os.LookupEnv
		}
		o.LookupEnv = func(name string) (string, bool) {
			if name == "DAPR_SENTRY_TOKEN_FILE" {
				return path, true
			}
			return environment(name)
		}
	})
}

// request asks for a certificate by hand. The signing request asks for more than anybody may have.
func request(t testing.TB, id, token string) (*sentryv1.SignCertificateRequest, ed25519.PrivateKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root, _ := url.Parse(sentryID)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{root}, DNSNames: []string{"dapr-webhook.default.svc"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &sentryv1.SignCertificateRequest{
		Id: id, Namespace: "default", Token: token, TokenValidator: sentryv1.SignCertificateRequest_JWKS,
		CertificateSigningRequest: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}),
	}, key
}

// client is a client of Sentry.
func (a *authority) client() sentryv1.CAClient {
	a.t.Helper()
	config := identity.NewTLS(a.source(nil), nil).Client(func(*identity.Peer) error { return nil }, "h2")
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	cc, err := grpc.NewClient("passthrough:///"+a.address, grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithNoProxy())
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = cc.Close() })
	return sentryv1.NewCAClient(cc)
}

// A join token is good for the identity in it and for no other, as often as it is shown while it is valid: whoever replays it is
// that app, and nothing more.
func TestReplayedJoinTokens(t *testing.T) {
	t.Parallel()
	m := newMinter(t)
	a := startAuthority(t, ca.Settings{}, m.believing)
	network := sidecartest.NewNetwork()
	app := &recorder{}
	web := sidecartest.Start(t, network.Join("web"), a.member(), withToken(t, m.token("spiffe://public/ns/default/web", nil)), sidecartest.WithApp(sidecartest.NewApp(t, app)), sidecartest.Config(onlyFriend))
	web.WaitHealthy()
	const subject = friend
	token := m.token(subject, nil)
	caller := sidecartest.Start(t, network.Join("friend"), a.member(), withToken(t, token))
	if r := caller.Get("/v1.0/invoke/web/method/own"); r.Status != 200 {
		t.Fatalf("the rightful owner of the token: %+v", r)
	}
	app.take()

	// The replay: another client, another key, the same identity to the letter.
	client := a.client()
	ask, key := request(t, "friend", token)
	reply, err := client.SignCertificate(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	var chain []*x509.Certificate
	for block, rest := pem.Decode(reply.GetWorkloadCertificate()); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	leaf := chain[0]
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != subject || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 || leaf.IsCA || leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Errorf("the replay got %v %v, authority %v", leaf.URIs, leaf.DNSNames, leaf.IsCA)
	}
	if life := time.Until(leaf.NotAfter); life > ca.DefaultWorkloadTTL {
		t.Errorf("the certificate lives for %s", life)
	}
	if !bytes.Equal(leaf.PublicKey.(ed25519.PublicKey), key.Public().(ed25519.PublicKey)) {
		t.Error("the certificate is for another key")
	}
	svid := &x509svid.SVID{Certificates: chain, PrivateKey: key}
	for _, way := range ways {
		if got := a.attack(t, web, svid).call(way, call{verb: "GET", method: "/m", header: [][2]string{{"dapr-caller-app-id", "web"}}}); got.err != "" {
			t.Errorf("%s: %s", way, got)
		}
		if got := values(app.one(t).header, "dapr-caller-app-id"); fmt.Sprint(got) != "[friend]" {
			t.Errorf("%s: the app was called by %v", way, got)
		}
	}

	for _, test := range []struct {
		name   string
		change func(*sentryv1.SignCertificateRequest)
		code   codes.Code
	}{
		{"another app", func(r *sentryv1.SignCertificateRequest) { r.Id = "bank" }, codes.PermissionDenied},
		{"the app in other letters", func(r *sentryv1.SignCertificateRequest) { r.Id = "Friend" }, codes.PermissionDenied},
		{"another namespace", func(r *sentryv1.SignCertificateRequest) { r.Namespace = "prod" }, codes.PermissionDenied},
		{"another trust domain", func(r *sentryv1.SignCertificateRequest) { r.TrustDomain = "localhost" }, codes.PermissionDenied},
		{"the control plane", func(r *sentryv1.SignCertificateRequest) { r.Id, r.TrustDomain = "dapr-sentry", "localhost" }, codes.PermissionDenied},
		{"an ID that is a path", func(r *sentryv1.SignCertificateRequest) { r.Id, r.Namespace = "friend", "default/friend/../.." }, codes.PermissionDenied},
		{"a validator that believes everybody", func(r *sentryv1.SignCertificateRequest) {
			r.TokenValidator = sentryv1.SignCertificateRequest_INSECURE
		}, codes.InvalidArgument},
		{"the default validator", func(r *sentryv1.SignCertificateRequest) {
			r.TokenValidator, r.Id = sentryv1.SignCertificateRequest_UNKNOWN, "bank"
		}, codes.PermissionDenied},
		{"no token", func(r *sentryv1.SignCertificateRequest) { r.Token = "" }, codes.PermissionDenied},
		{"expired", func(r *sentryv1.SignCertificateRequest) {
			r.Token = m.token(subject, func(c *jwt.Claims) {
				c.IssuedAt, c.NotBefore, c.Expiry = nil, nil, jwt.NewNumericDate(time.Now().Add(-6*time.Minute))
			})
		}, codes.PermissionDenied},
		{"not valid yet", func(r *sentryv1.SignCertificateRequest) {
			r.Token = m.token(subject, func(c *jwt.Claims) { c.NotBefore = jwt.NewNumericDate(time.Now().Add(6 * time.Minute)) })
		}, codes.PermissionDenied},
		{"for another audience", func(r *sentryv1.SignCertificateRequest) {
			r.Token = m.token(subject, func(c *jwt.Claims) {
				c.Audience = jwt.Audience{"https://kubernetes.default.svc", "spiffe://localhost/ns/other/dapr-sentry"}
			})
		}, codes.PermissionDenied},
		{"by another signer", func(r *sentryv1.SignCertificateRequest) { r.Token = newMinter(t).token(subject, nil) }, codes.PermissionDenied},
	} {
		ask, _ := request(t, "friend", token)
		test.change(ask)
		if reply, err := client.SignCertificate(t.Context(), ask); status.Code(err) != test.code || reply.GetWorkloadCertificate() != nil {
			t.Errorf("%s: %v, %v", test.name, reply, err)
		}
	}
}

// A sidecar that shows a token that is not its own does not start, and says why.
func TestSidecarWithAStolenToken(t *testing.T) {
	t.Parallel()
	m := newMinter(t)
	a := startAuthority(t, ca.Settings{}, m.believing)
	for name, option := range map[string]sidecartest.Option{
		"of another app": withToken(t, m.token(friend, nil)),
		"expired": withToken(t, m.token("spiffe://public/ns/default/thief", func(c *jwt.Claims) {
			c.IssuedAt, c.NotBefore, c.Expiry = nil, nil, jwt.NewNumericDate(time.Now().Add(-time.Hour))
		})),
		"none": sidecartest.With(func(*sidecar.Options) {}),
	} {
		_, err := sidecartest.TryStart(t, sidecartest.NewNetwork().Join("thief"), a.member(), option)
		if err == nil || !strings.Contains(err.Error(), "PermissionDenied") || !strings.Contains(err.Error(), a.address) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
