package ca

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Authority signs. It never changes: after a renewal there is another one. It is safe for concurrent use.
type Authority struct {
	settings *Settings
	bundle   *Bundle
	anchors  []byte
	chain    []byte
	origin   Origin
	next     *Step
}

func newAuthority(s *Settings, res *result) *Authority {
	return &Authority{
		settings: s, bundle: res.bundle, origin: res.origin, next: res.next,
		// Encoded again, which strips comments.
		anchors: encodeCertificates(res.bundle.Anchors...),
		chain:   encodeCertificates(res.bundle.Chain...),
	}
}

// TrustAnchors are the roots, PEM. The result must not be changed.
func (a *Authority) TrustAnchors() []byte { return a.anchors }

// Issuer is the certificate that signs.
func (a *Authority) Issuer() *x509.Certificate { return a.bundle.Issuer() }

// Chain is the issuer and what leads from it to a root, without the root. The result must not be changed.
func (a *Authority) Chain() []*x509.Certificate { return a.bundle.Chain }

// Origin is where the authority is from.
func (a *Authority) Origin() Origin { return a.origin }

// Next is the renewal to come; nil if the authority does not renew itself.
func (a *Authority) Next() *Step { return a.next }

// Workload is what a certificate is asked for.
type Workload struct {
	// ID is the SPIFFE ID.
	ID spiffeid.ID
	// DNSNames are the further names of a control-plane service.
	DNSNames []string
	// PublicKey is the workload's.
	PublicKey crypto.PublicKey
}

// maxRSABits bounds what verifying a signature can cost; crypto/tls has the same bound.
const maxRSABits = 8192

// CheckPublicKey checks that peers will accept a key: Ed25519, ECDSA, or RSA of up to 8192 bits.
func CheckPublicKey(key crypto.PublicKey) error {
	k, ok := key.(*rsa.PublicKey)
	if ok && k.N.BitLen() > maxRSABits {
		return fmt.Errorf("the RSA key has %d bits: use one of at most %d", k.N.BitLen(), maxRSABits)
	}
	return nil
}

// Sign makes the certificate of a workload (Dapr API, Sentry: issued certificate). It is valid from the clock skew before now.
func (a *Authority) Sign(w Workload, now time.Time) (*x509.Certificate, error) {
	serial, err := serialNumber(a.settings.Random)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-a.settings.ClockSkew),
		NotAfter:              now.Add(a.settings.WorkloadTTL),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:                  []*url.URL{w.ID.URL()},
		DNSNames:              w.DNSNames,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(a.settings.Random, template, a.bundle.Issuer(), w.PublicKey, a.bundle.IssuerKey)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", w.ID, err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", w.ID, err)
	}
	return made, nil
}

// EncodeChain is the PEM of a certificate followed by the chain, without the root.
func (a *Authority) EncodeChain(leaf *x509.Certificate) []byte {
	return append(encodeCertificates(leaf), a.chain...)
}
