package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// algorithms are the signature algorithms of JWTs, each with the curve that it needs; RSA and Ed25519 have none
// (Dapr API, Sentry: flag jwt-signing-algorithm).
func algorithms() map[jose.SignatureAlgorithm]elliptic.Curve {
	return map[jose.SignatureAlgorithm]elliptic.Curve{
		jose.RS256: nil, jose.RS384: nil, jose.RS512: nil, jose.PS256: nil, jose.PS384: nil, jose.PS512: nil, jose.EdDSA: nil,
		jose.ES256: elliptic.P256(), jose.ES384: elliptic.P384(), jose.ES512: elliptic.P521(),
	}
}

// fits tells whether a key can sign by an algorithm.
func fits(key crypto.Signer, algorithm jose.SignatureAlgorithm) bool {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return algorithm[0] == 'R' || algorithm[0] == 'P'
	case *ecdsa.PrivateKey:
		return algorithms()[algorithm] == k.Curve
	case ed25519.PrivateKey:
		return algorithm == jose.EdDSA
	}
	return false
}

// jwtKey signs JWTs.
type jwtKey struct {
	signer jose.Signer
	// jwks is the key set as it is published.
	jwks []byte
}

// newJWTKey makes a key for the algorithm and its key set.
func (s *Settings) newJWTKey() (key, jwks []byte, err error) {
	var private crypto.Signer
	switch curve := algorithms()[s.JWT.Algorithm]; {
	case curve != nil:
		private, err = ecdsa.GenerateKey(curve, s.Random)
	case s.JWT.Algorithm == jose.EdDSA:
		_, private, err = ed25519.GenerateKey(s.Random)
	default:
		private, err = rsa.GenerateKey(s.Random, 2048)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("generate the key of JWTs: %w", err)
	}
	if key, err = encodeKey(private); err != nil {
		return nil, nil, err
	}
	public := jose.JSONWebKey{Key: private.Public(), KeyID: s.JWT.KeyID, Algorithm: string(s.JWT.Algorithm), Use: "sig"}
	if public.KeyID == "" {
		thumbprint, err := public.Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, nil, fmt.Errorf("name the key of JWTs: %w", err)
		}
		public.KeyID = base64.StdEncoding.EncodeToString(thumbprint)
	}
	jwks, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public}})
	return key, jwks, err
}

// parseJWT reads the key of JWTs and checks that the key set has its public half and the algorithm fits.
func (s *Settings) parseJWT(key, jwks []byte) (*jwtKey, error) {
	private, err := parseKey(key)
	if err != nil {
		return nil, fmt.Errorf("the key of JWTs (%s) is not usable: %w", JWTKeyName, err)
	}
	if !fits(private, s.JWT.Algorithm) {
		return nil, fmt.Errorf("the key of JWTs (%s) is %T, which cannot sign by %s: set --jwt-signing-algorithm to one that fits the key", JWTKeyName, private, s.JWT.Algorithm)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(jwks, &set); err != nil {
		return nil, fmt.Errorf("the key set (%s) is not usable: %w", JWKSName, err)
	}
	id := ""
	for _, k := range set.Keys {
		if samePublicKey(private.Public(), k.Key) && (s.JWT.KeyID == "" || s.JWT.KeyID == k.KeyID) {
			id = k.KeyID
			break
		}
	}
	switch {
	case id != "":
	case s.JWT.KeyID != "":
		return nil, fmt.Errorf("the key set (%s) does not have the public key of %s under the id %q, as --jwt-key-id says", JWKSName, JWTKeyName, s.JWT.KeyID)
	default:
		return nil, fmt.Errorf("the key set (%s) does not have the public key of %s with a key id", JWKSName, JWTKeyName)
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: s.JWT.Algorithm, Key: jose.JSONWebKey{Key: private, KeyID: id}},
		(&jose.SignerOptions{}).WithType("JWT"),
	)
	if err != nil {
		return nil, fmt.Errorf("the key of JWTs (%s) is not usable: %w", JWTKeyName, err)
	}
	return &jwtKey{signer: signer, jwks: jwks}, nil
}

// claims are those of a JWT-SVID (Dapr API, Sentry: JWT SVIDs).
type claims struct {
	jwt.Claims
	// Audience is always a list, also of one.
	Audience []string `json:"aud"`
	Use      string   `json:"use"`
}

// JWT signs a token for an identity. The error is one of the signature, or that JWTs are not enabled.
func (a *Authority) JWT(spiffeID string, audiences []string, now time.Time) (string, error) {
	if a.bundle.JWT == nil {
		return "", errors.New("JWTs are not enabled")
	}
	var id [16]byte
	if _, err := io.ReadFull(a.settings.Random, id[:]); err != nil {
		return "", fmt.Errorf("no randomness for a token's id: %w", err)
	}
	return jwt.Signed(a.bundle.JWT.signer).Claims(claims{
		Claims: jwt.Claims{
			ID: hex.EncodeToString(id[:]), Subject: spiffeID, Issuer: a.settings.JWT.Issuer,
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-a.settings.ClockSkew)),
			Expiry: jwt.NewNumericDate(now.Add(a.settings.JWT.TTL)),
		},
		Audience: audiences, Use: "sig",
	}).Serialize()
}

// JWKS is the key set that verifies the tokens; nil if JWTs are not enabled.
func (a *Authority) JWKS() []byte {
	if a.bundle.JWT == nil {
		return nil
	}
	return a.bundle.JWT.jwks
}
