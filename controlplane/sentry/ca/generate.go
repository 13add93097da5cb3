package ca

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"time"
)

// serialNumber is a random number of 128 bits.
func serialNumber(random io.Reader) (*big.Int, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, fmt.Errorf("no randomness for a serial number: %w", err)
	}
	b[0] |= 1 // never zero
	return new(big.Int).SetBytes(b[:]), nil
}

// rootOrganisation and issuerOrganisation are the subjects of what Sentry generates (Dapr API, Sentry: self-generated credentials).
func (s *Settings) rootOrganisation() string   { return s.TrustDomain }
func (s *Settings) issuerOrganisation() string { return s.SentryID() }

// newRoot makes a root.
func (s *Settings) newRoot(now time.Time) (*x509.Certificate, crypto.Signer, error) {
	template := &x509.Certificate{
		Subject:  pkix.Name{Organization: []string{s.rootOrganisation()}},
		NotAfter: now.Add(s.RootTTL),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	return s.newAuthority(template, nil, nil, now)
}

// newIssuer makes an issuer under a root. It does not outlive the root.
func (s *Settings) newIssuer(root *x509.Certificate, rootKey crypto.Signer, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	template := &x509.Certificate{
		Subject:  pkix.Name{Organization: []string{s.issuerOrganisation()}},
		NotAfter: s.issuerEnd(root, now),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return s.newAuthority(template, root, rootKey, now)
}

// issuerEnd is when an issuer expires that is made now.
func (s *Settings) issuerEnd(root *x509.Certificate, now time.Time) time.Time {
	if end := now.Add(s.IssuerTTL); end.Before(root.NotAfter) {
		return end
	}
	return root.NotAfter
}

// newAuthority makes a key and its certificate, signed by the parent or, without one, by itself.
func (s *Settings) newAuthority(template, parent *x509.Certificate, parentKey crypto.Signer, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(s.Random)
	if err != nil {
		return nil, nil, fmt.Errorf("generate a key: %w", err)
	}
	if template.SerialNumber, err = serialNumber(s.Random); err != nil {
		return nil, nil, err
	}
	template.NotBefore = now.Add(-s.ClockSkew)
	template.BasicConstraintsValid, template.IsCA = true, true
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(s.Random, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, fmt.Errorf("create the certificate %q: %w", template.Subject, err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("create the certificate %q: %w", template.Subject, err)
	}
	return made, key, nil
}
