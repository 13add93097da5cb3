package workload

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/identity"
	"outrigger.dev/telemetry/metrics"
)

// failure is why a request for a certificate failed, with the reason under which it is counted.
type failure struct {
	reason string
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(reason, format string, values ...any) error {
	return &failure{reason: reason, err: fmt.Errorf(format, values...)}
}

// renew gets a new identity and makes it the present one.
func (s *Source) renew(ctx context.Context) error {
	h, err := s.request(ctx)
	if err != nil {
		var f *failure
		if errors.As(err, &f) && ctx.Err() == nil {
			s.metrics.Load().RotateFailed(f.reason)
		}
		return err
	}
	s.held.Store(h)
	return nil
}

// The bounds of a request to Sentry (Dapr API, mTLS: certificate request).
const (
	connectTimeout = 10 * time.Second
	callTimeout    = 3 * time.Second
	callAttempts   = 5
	callPause      = 50 * time.Millisecond
)

// request asks Sentry for a certificate of a new key.
func (s *Source) request(ctx context.Context) (*held, error) {
	o := &s.options
	proof, validator, err := s.token()
	if err != nil {
		return nil, &failure{reason: metrics.ReasonSentryToken, err: err}
	}
	key, err := newKey(o.KeyType)
	if err != nil {
		return nil, fail(metrics.ReasonSign, "no key of type %s could be made: %w", o.KeyType, err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fail(metrics.ReasonSign, "no certificate request could be made: %w", err)
	}
	id := o.AppID
	if o.LocalIdentity != "" {
		id = o.LocalIdentity
	}
	link := &link{source: s}
	defer link.close()
	if err := link.connect(ctx); err != nil {
		return nil, err
	}
	reply, err := link.sign(ctx, &sentryv1.SignCertificateRequest{
		Id: id, Namespace: o.Namespace, TrustDomain: o.TrustDomain, Token: proof, TokenValidator: validator, JwtAudiences: o.JWTAudiences,
		CertificateSigningRequest: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}),
	})
	if err != nil {
		code := status.Code(err)
		remedy := "see Sentry's log"
		switch code {
		case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument:
			remedy = "check the app ID, the namespace and the token (" + validator.String() + " validator)"
		case codes.Unimplemented:
			remedy = "check that the address is Sentry's"
		}
		return nil, fail(metrics.ReasonSign, "Sentry at %s did not issue a certificate for app %q in namespace %q: %s: %s; %s", o.SentryAddress, id, o.Namespace, code, status.Convert(err).Message(), remedy)
	}
	h, err := s.read(reply, key)
	if err != nil {
		return nil, err
	}
	s.adopt(reply.GetTrustChainCertificates(), link.anchors())
	h.renewal = renewalOf(o.Clock.Now(), h, s.end(h))
	return h, nil
}

// newKey makes a key.
func newKey(t KeyType) (crypto.Signer, error) {
	switch t {
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	default: // New knows no others
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
}

// Where Kubernetes puts tokens: one for Sentry alone, and the one for its API.
const (
	kubernetesToken       = "/var/run/secrets/dapr.io/sentrytoken/token"
	kubernetesLegacyToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

// token finds what proves the identity to Sentry (Dapr API, mTLS: token choice). Files are read each time: tokens expire.
func (s *Source) token() (string, sentryv1.SignCertificateRequest_TokenValidator, error) {
	o := &s.options
	if o.TokenFile != "" {
		validator := sentryv1.SignCertificateRequest_JWKS
		if o.Kubernetes {
			validator = sentryv1.SignCertificateRequest_KUBERNETES
		}
		text, err := s.readToken(o.TokenFile)
		if err != nil {
			return "", 0, fmt.Errorf("the token for Sentry cannot be had (%s): %w", EnvTokenFile, err)
		}
		return text, validator, nil
	}
	if o.Kubernetes {
		for _, path := range []string{kubernetesToken, kubernetesLegacyToken} {
			text, err := s.readToken(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return "", 0, fmt.Errorf("the token for Sentry cannot be had: %w", err)
			}
			return text, sentryv1.SignCertificateRequest_KUBERNETES, nil
		}
	}
	return "", sentryv1.SignCertificateRequest_UNKNOWN, nil
}

func (s *Source) readToken(path string) (string, error) {
	text, err := s.options.ReadFile(path)
	if err != nil {
		return "", err
	}
	proof := strings.TrimSpace(string(text))
	if proof == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return proof, nil
}

// link is a connection to Sentry for one request.
type link struct {
	source *Source
	cc     *grpc.ClientConn

	mu       sync.Mutex
	first    net.Conn // opened by connect, for the client's first use
	verified []*x509.Certificate
}

// connect opens the connection and verifies Sentry.
func (l *link) connect(ctx context.Context) error {
	address := l.source.options.SentryAddress
	c, err := l.dial(ctx)
	if err != nil {
		var untrusted *identity.UntrustedError
		var unexpected *identity.UnexpectedError
		var record tls.RecordHeaderError
		switch {
		case errors.As(err, &untrusted):
			return fail(metrics.ReasonSentryConnection, "Sentry at %s is not trusted: %w; check that %s (or %s) has the root of this Sentry, its ca.crt, and that the clocks are right", address, err, EnvTrustAnchors, EnvTrustAnchorsFile)
		case errors.As(err, &unexpected):
			return fail(metrics.ReasonSentryConnection, "what answers at %s is not Sentry: %w; check --sentry-address, --control-plane-trust-domain and --control-plane-namespace", address,
				&identity.UntrustedError{URI: unexpected.URI, Err: err})
		case errors.As(err, &record):
			return fail(metrics.ReasonSentryConnection, "what answers at %s is not Sentry: it does not speak TLS: %w; check --sentry-address", address, err)
		}
		return fail(metrics.ReasonSentryConnection, "Sentry at %s cannot be reached: %w; check that it runs and that --sentry-address is right", address, err)
	}
	l.first = c
	cc, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the dialler secures
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			l.mu.Lock()
			first := l.first
			l.first = nil
			l.mu.Unlock()
			if first != nil {
				return first, nil
			}
			return l.dial(ctx)
		}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return fail(metrics.ReasonSentryConnection, "the address %q of Sentry cannot be used: %w", address, err)
	}
	l.cc = cc
	return nil
}

// dial opens a connection on which Sentry, and nobody else, is at the other end; this side shows no certificate.
func (l *link) dial(ctx context.Context) (net.Conn, error) {
	s := l.source
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	raw, err := s.options.Dial(ctx, s.options.SentryAddress)
	if err != nil {
		return nil, err
	}
	config := s.tls.Client(identity.Exactly(s.sentry), "h2")
	config.GetClientCertificate = nil
	secured := tls.Client(raw, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	_, chains, err := s.tls.Verify(secured.ConnectionState().PeerCertificates)
	if err != nil {
		_ = secured.Close()
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.verified = nil // the answer comes by the newest connection
	for _, chain := range chains {
		l.verified = append(l.verified, chain[len(chain)-1])
	}
	return secured, nil
}

// anchors are those by which Sentry was verified.
func (l *link) anchors() []*x509.Certificate {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.verified
}

func (l *link) close() {
	if l.cc != nil {
		_ = l.cc.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first != nil {
		_ = l.first.Close()
	}
}

// sign makes the call, again when Sentry is busy, away or slow.
func (l *link) sign(ctx context.Context, req *sentryv1.SignCertificateRequest) (*sentryv1.SignCertificateResponse, error) {
	ca := sentryv1.NewCAClient(l.cc)
	for attempt := 1; ; attempt++ {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		reply, err := ca.SignCertificate(call, req)
		cancel()
		if err == nil || ctx.Err() != nil || attempt == callAttempts {
			return reply, err
		}
		switch status.Code(err) {
		case codes.ResourceExhausted, codes.Unavailable, codes.DeadlineExceeded:
		default:
			return nil, err
		}
		if !l.source.sleep(ctx, callPause) {
			return nil, err
		}
	}
}

// read checks an answer of Sentry (Dapr API, mTLS: response checks).
func (s *Source) read(reply *sentryv1.SignCertificateResponse, key crypto.Signer) (*held, error) {
	address := s.options.SentryAddress
	if err := reply.GetValidUntil().CheckValid(); err != nil {
		return nil, fail(metrics.ReasonInvalidTimestamp, "Sentry at %s says no valid time until which the certificate is valid: %w", address, err)
	}
	chain, err := parsePEM(reply.GetWorkloadCertificate())
	if err != nil {
		return nil, fail(metrics.ReasonSign, "the certificate that Sentry at %s issued cannot be read: %w", address, err)
	}
	id, err := x509svid.IDFromCert(chain[0])
	if err != nil {
		return nil, fail(metrics.ReasonSign, "the certificate that Sentry at %s issued has no SPIFFE ID: %w", address, err)
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(chain[0].PublicKey) {
		return nil, fail(metrics.ReasonSign, "the certificate that Sentry at %s issued is for another key than the one asked for", address)
	}
	h := &held{svid: &x509svid.SVID{ID: id, Certificates: chain, PrivateKey: key}}
	now := s.options.Clock.Now()
	if reply.Jwt != nil && reply.GetJwt().GetValue() != "" {
		if h.jwt, err = parseToken(reply.GetJwt().GetValue(), now); err != nil {
			return nil, fail(metrics.ReasonJWTParse, "the JWT-SVID that Sentry at %s issued is bad: %w", address, err)
		}
		if len(h.jwt.audiences) == 0 {
			return nil, fail(metrics.ReasonJWTAudience, "the JWT-SVID that Sentry at %s issued has no audience", address)
		}
	}
	for audience, value := range reply.GetPerAudienceJwts() {
		t, err := parseToken(value.GetValue(), now)
		if err != nil {
			return nil, fail(metrics.ReasonJWTParse, "the JWT-SVID for audience %q that Sentry at %s issued is bad: %w", audience, address, err)
		}
		if len(t.audiences) != 1 || t.audiences[0] != audience {
			return nil, fail(metrics.ReasonJWTAudience, "the JWT-SVID that Sentry at %s issued for audience %q is for %q", address, audience, t.audiences)
		}
		if h.perAudience == nil {
			h.perAudience = map[string]*token{}
		}
		h.perAudience[audience] = t
	}
	return h, nil
}
