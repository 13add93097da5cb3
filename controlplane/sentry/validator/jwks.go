package validator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/jonboulle/clockwork"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/identity"
)

// JWKS believes tokens that a key of a set has signed (Dapr API, Sentry: validator JWKS).
type JWKS struct {
	o      JWKSOptions
	source source
	keys   atomic.Pointer[jose.JSONWebKeySet]
}

// JWKSOptions are what a [JWKS] is made of.
type JWKSOptions struct {
	// Source is a URL, the path of a file, or the set itself, as JSON or in base64.
	Source string
	// CACertificate is the root that the URL's server is verified by: PEM, or the path of a file; empty means those of the system.
	CACertificate string
	// MinRefreshInterval is how often a URL is fetched; up to a second means 10 minutes. RequestTimeout bounds one request; up to a
	// millisecond means 30 seconds.
	MinRefreshInterval, RequestTimeout time.Duration
	// Audience is what has to be among those of a token: the SPIFFE ID of Sentry.
	Audience string
	Clock    clockwork.Clock
	Log      *slog.Logger
	// Batch is how long changes of a file are gathered; zero is half a second.
	Batch time.Duration
}

// leeway is by how much the clocks of who signs and who verifies may differ.
const leeway = 5 * time.Minute

// NewJWKS reads the source, which must be usable.
func NewJWKS(ctx context.Context, o JWKSOptions) (*JWKS, error) {
	if o.MinRefreshInterval <= time.Second {
		o.MinRefreshInterval = 10 * time.Minute
	}
	if o.RequestTimeout <= time.Millisecond {
		o.RequestTimeout = 30 * time.Second
	}
	if o.Batch <= 0 {
		o.Batch = 500 * time.Millisecond
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	v := &JWKS{o: o}
	var err error
	if v.source, err = newSource(&v.o); err != nil {
		return nil, fmt.Errorf("token validator 'jwks': %w", err)
	}
	if err := v.refresh(ctx); err != nil {
		return nil, fmt.Errorf("token validator 'jwks': %w", err)
	}
	return v, nil
}

// HealthTarget implements [Runner].
func (v *JWKS) HealthTarget() string { return "sentry-jwks-validator" }

// Run implements [Runner].
func (v *JWKS) Run(ctx context.Context, ready func()) error {
	ready()
	return v.source.watch(ctx, v)
}

func (v *JWKS) refresh(ctx context.Context) error {
	data, err := v.source.read(ctx)
	if err != nil {
		return err
	}
	set, err := parseKeySet(data)
	if err != nil {
		return err
	}
	v.keys.Store(set)
	return nil
}

// signatures are the algorithms that a token may be signed by: none that works with a shared secret, as a public key is none.
func signatures() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
}

// Validate implements [Validator].
func (v *JWKS) Validate(_ context.Context, r *sentryv1.SignCertificateRequest) (spiffeid.TrustDomain, error) {
	if r.GetToken() == "" {
		return spiffeid.TrustDomain{}, errors.New("the request does not contain a token")
	}
	td, err := RequestedTrustDomain(r)
	if err != nil {
		return spiffeid.TrustDomain{}, err
	}
	want := identity.ID{TrustDomain: td.Name(), Namespace: r.GetNamespace(), AppID: r.GetId()}.String()
	if err := v.verify(r.GetToken(), want); err != nil {
		return spiffeid.TrustDomain{}, fmt.Errorf("token validation failed: %w", err)
	}
	return td, nil
}

func (v *JWKS) verify(token, subject string) error {
	parsed, err := jwt.ParseSigned(token, signatures())
	if err != nil {
		return err
	}
	if len(parsed.Headers) != 1 {
		return errors.New("the token has more than one signature")
	}
	key, err := v.key(parsed.Headers[0])
	if err != nil {
		return err
	}
	var c jwt.Claims
	if err := parsed.Claims(key.Key, &c); err != nil {
		return err
	}
	return c.ValidateWithLeeway(jwt.Expected{Subject: subject, AnyAudience: jwt.Audience{v.o.Audience}, Time: v.o.Clock.Now()}, leeway)
}

// key is the key that a token names.
func (v *JWKS) key(h jose.Header) (*jose.JSONWebKey, error) {
	if h.KeyID == "" {
		return nil, errors.New("the token does not name its key: it has no header kid")
	}
	set := v.keys.Load()
	for i := range set.Keys {
		k := &set.Keys[i]
		if k.KeyID != h.KeyID || (k.Algorithm != "" && k.Algorithm != h.Algorithm) || (k.Use != "" && k.Use != "sig") {
			continue
		}
		return k, nil
	}
	return nil, fmt.Errorf("the key set has no key %q that signs by %s", h.KeyID, h.Algorithm)
}
