package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Bundle is the meaning of [Documents].
type Bundle struct {
	// Anchors are the roots; the first is the one that signs if Sentry wrote them.
	Anchors []*x509.Certificate
	// Chain is the issuer, followed by what leads from it to a root, which is not part of it.
	Chain     []*x509.Certificate
	IssuerKey crypto.Signer
	JWT       *jwtKey
}

// Issuer is the certificate that signs.
func (b *Bundle) Issuer() *x509.Certificate { return b.Chain[0] }

// Parse reads complete documents and checks all that does not depend on the time: every trust anchor is self-signed, the issuer's
// chain is well-formed and leads to a trust anchor, the issuer may sign certificates and its key is its own
// (Dapr API, Sentry: what provided credentials must satisfy). Errors name the document.
func Parse(d *Documents) (*Bundle, error) {
	b := &Bundle{}
	var err error
	if b.Anchors, err = parseCertificates(d.Anchors); err != nil {
		return nil, fmt.Errorf("the trust anchors (%s) are not usable: %w", AnchorsName, err)
	}
	for _, c := range b.Anchors {
		if err := selfSigned(c); err != nil {
			return nil, fmt.Errorf("the trust anchor %q (%s) is not self-signed: %w", c.Subject, AnchorsName, err)
		}
	}
	if b.Chain, err = parseCertificates(d.IssuerChain); err != nil {
		return nil, fmt.Errorf("the issuer's chain (%s) is not usable: %w", IssuerName, err)
	}
	if err := b.checkChain(); err != nil {
		return nil, fmt.Errorf("the issuer's chain (%s) is not usable: %w", IssuerName, err)
	}
	if b.IssuerKey, err = parseKey(d.IssuerKey); err != nil {
		return nil, fmt.Errorf("the issuer's key (%s) is not usable: %w", IssuerKeyName, err)
	}
	if !samePublicKey(b.IssuerKey.Public(), b.Issuer().PublicKey) {
		return nil, fmt.Errorf("the issuer's key (%s) is not that of the first certificate in %s: provide a pair", IssuerKeyName, IssuerName)
	}
	return b, nil
}

func selfSigned(c *x509.Certificate) error {
	if !bytes.Equal(c.RawSubject, c.RawIssuer) {
		return fmt.Errorf("its issuer is %q", c.Issuer)
	}
	// Not CheckSignatureFrom: it also wants the flags of an authority, which old roots may lack.
	return c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
}

func (b *Bundle) checkChain() error {
	if n := len(b.Chain); n > 1 && selfSigned(b.Chain[n-1]) == nil {
		b.Chain = b.Chain[:n-1] // the root is told apart, as a trust anchor
	}
	for i, c := range b.Chain[:len(b.Chain)-1] {
		if err := c.CheckSignatureFrom(b.Chain[i+1]); err != nil {
			return fmt.Errorf("certificate %d (%q) is not signed by the one that follows it: %w", i+1, c.Subject, err)
		}
	}
	issuer := b.Issuer()
	switch {
	case !issuer.BasicConstraintsValid || !issuer.IsCA:
		return fmt.Errorf("the issuer %q is not the certificate of an authority", issuer.Subject)
	case issuer.KeyUsage != 0 && issuer.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("the issuer %q may not sign certificates: its key usage lacks keyCertSign", issuer.Subject)
	}
	if b.root() == nil {
		return errors.New("it does not lead to any of the trust anchors")
	}
	return nil
}

// root is the trust anchor that the chain leads to; nil if there is none.
func (b *Bundle) root() *x509.Certificate {
	last := b.Chain[len(b.Chain)-1]
	for _, a := range b.Anchors {
		if bytes.Equal(a.Raw, last.Raw) || (bytes.Equal(a.RawSubject, last.RawIssuer) && a.CheckSignature(last.SignatureAlgorithm, last.RawTBSCertificate, last.Signature) == nil) {
			return a
		}
	}
	return nil
}

// CheckTime checks that the issuer verifies against the trust anchors at a time.
func (b *Bundle) CheckTime(now time.Time) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range b.Anchors {
		roots.AddCert(c)
	}
	for _, c := range b.Chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := b.Issuer().Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err == nil {
		return nil
	}
	for _, c := range append([]*x509.Certificate{b.root()}, b.Chain...) {
		if now.After(c.NotAfter) {
			return fmt.Errorf("the certificate %q expired on %s: replace it and what it signed", c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
		}
		if now.Before(c.NotBefore) {
			return fmt.Errorf("the certificate %q is not valid before %s: correct the clock or the certificate", c.Subject, c.NotBefore.UTC().Format(time.RFC3339))
		}
	}
	return fmt.Errorf("the issuer (%s) does not verify against the trust anchors (%s): %w", IssuerName, AnchorsName, err)
}
