package ca

import (
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Defaults of [Settings] (Dapr API, Sentry: self-generated credentials; Configuration: spec.mtls).
const (
	DefaultRootTTL     = 365 * 24 * time.Hour
	DefaultIssuerTTL   = 365 * 24 * time.Hour
	DefaultWorkloadTTL = 24 * time.Hour
	DefaultClockSkew   = 15 * time.Minute
	DefaultJWTTTL      = 24 * time.Hour
)

// Settings are what an authority is generated, renewed and used by.
type Settings struct {
	// TrustDomain and Namespace are those of the control plane.
	TrustDomain, Namespace string
	// RootTTL and IssuerTTL are the lives of what is generated; zero is a year.
	RootTTL, IssuerTTL time.Duration
	// WorkloadTTL is the life of an issued certificate; zero is a day. ClockSkew is how far before its making a certificate is valid.
	WorkloadTTL, ClockSkew time.Duration
	// SelfRenewing lets a generated authority renew itself.
	SelfRenewing bool
	// JWT enables JWT-SVIDs.
	JWT JWTSettings
	// Random is the source of keys and serial numbers; nil is the system's.
	Random io.Reader
}

// JWTSettings are those of JWT-SVIDs (Dapr API, Sentry: JWT SVIDs).
type JWTSettings struct {
	Enabled bool
	// Issuer is the claim iss; empty leaves it out.
	Issuer string
	// KeyID selects the key of the JWKS; empty takes the one whose key is the private key's.
	KeyID string
	// Algorithm is the signature algorithm; empty is RS256.
	Algorithm jose.SignatureAlgorithm
	// TTL is the life of a token; zero is a day.
	TTL time.Duration
}

// Normalised is the settings with defaults in place of zeros. The error names a setting that makes no sense.
func (s Settings) Normalised() (Settings, error) {
	def := func(d *time.Duration, standard time.Duration) {
		if *d == 0 {
			*d = standard
		}
	}
	def(&s.RootTTL, DefaultRootTTL)
	def(&s.IssuerTTL, DefaultIssuerTTL)
	def(&s.WorkloadTTL, DefaultWorkloadTTL)
	def(&s.JWT.TTL, DefaultJWTTTL)
	if s.JWT.Algorithm == "" {
		s.JWT.Algorithm = jose.RS256
	}
	if s.Random == nil {
		s.Random = rand.Reader
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"the life of a root", s.RootTTL}, {"the life of an issuer", s.IssuerTTL}, {"workloadCertTTL", s.WorkloadTTL}, {"the life of a JWT", s.JWT.TTL}} {
		if d.value < 0 {
			return s, fmt.Errorf("%s is %s: it must be greater than 0", d.name, d.value)
		}
	}
	if s.ClockSkew < 0 {
		return s, fmt.Errorf("allowedClockSkew is %s: it must not be negative", s.ClockSkew)
	}
	if _, err := spiffeid.TrustDomainFromString(s.TrustDomain); err != nil {
		return s, fmt.Errorf("invalid trust domain %q: %w; use lower-case letters, digits, dots, dashes and underscores", s.TrustDomain, err)
	}
	if err := spiffeid.ValidatePathSegment(s.Namespace); err != nil {
		return s, fmt.Errorf("invalid namespace %q of Sentry: %w", s.Namespace, err)
	}
	if s.JWT.Issuer != "" && !s.JWT.Enabled {
		return s, fmt.Errorf("jwt-issuer cannot be set when jwt-enabled is false")
	}
	if s.JWT.Enabled {
		if _, ok := algorithms()[s.JWT.Algorithm]; !ok {
			return s, fmt.Errorf("unsupported jwt-signing-algorithm %q: use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA", s.JWT.Algorithm)
		}
	}
	return s, nil
}

// SentryID is the SPIFFE ID of Sentry itself.
func (s *Settings) SentryID() string {
	return "spiffe://" + s.TrustDomain + "/ns/" + s.Namespace + "/" + SentryAppID
}

// SentryAppID is the app id of Sentry (Dapr API, mTLS: identities of the control plane).
const SentryAppID = "dapr-sentry"
