package cli

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"

	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/local"
)

// provideFiles takes the certificates of the flags.
func (r *renewFlags) provideFiles(ctx context.Context, m *machine) ([]string, error) {
	var next ca.Documents
	for _, file := range []struct {
		flag, path string
		into       *[]byte
	}{
		{"ca-root-certificate", r.root, &next.Anchors},
		{"issuer-public-certificate", r.issuerCertificate, &next.IssuerChain},
		{"issuer-private-key", r.issuerKey, &next.IssuerKey},
	} {
		var err error
		if *file.into, err = os.ReadFile(file.path); err != nil {
			return nil, fmt.Errorf("the file of --%s: %w", file.flag, err)
		}
	}
	return r.provide(ctx, m, next)
}

// provide replaces the credentials. The roots that were there are still trusted, unless it is to be at once.
func (r *renewFlags) provide(ctx context.Context, m *machine, next ca.Documents) (changes []string, err error) {
	b, err := ca.Parse(&next)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if err := b.CheckTime(now); err != nil {
		return nil, err
	}
	changes = []string{
		fmt.Sprintf("the root %q, which expires on %s, is provided", b.Anchors[0].Subject, stamp(b.Anchors[0].NotAfter)),
		fmt.Sprintf("the issuer %q, which expires on %s, is provided; it does not renew itself", b.Issuer().Subject, stamp(b.Issuer().NotAfter)),
	}
	err = m.store().Update(ctx, func(d ca.Documents) (ca.Documents, bool, error) {
		anchors := append([]byte(nil), next.Anchors...)
		if !bytes.HasSuffix(anchors, []byte("\n")) {
			anchors = append(anchors, '\n')
		}
		if d.Complete() && !r.atOnce {
			for _, c := range remaining(d, b, now) {
				anchors = append(anchors, encodePEM("CERTIFICATE", c.Raw)...)
				changes = append(changes, fmt.Sprintf("the present root %q is still trusted; give the same files with --at-once when all sidecars have new certificates, to have it dropped", c.Subject))
			}
		}
		d.Anchors, d.IssuerChain, d.IssuerKey = anchors, next.IssuerChain, next.IssuerKey
		return d, true, nil
	})
	return changes, err
}

// remaining are the roots of present credentials that are valid and not among new ones. Present ones that cannot be read have none.
func remaining(d ca.Documents, next *ca.Bundle, now time.Time) []*x509.Certificate {
	present, err := ca.Parse(&d)
	if err != nil {
		return nil
	}
	var kept []*x509.Certificate
	for _, c := range present.Anchors {
		known := now.After(c.NotAfter)
		for _, n := range next.Anchors {
			known = known || n.Equal(c)
		}
		if !known {
			kept = append(kept, c)
		}
	}
	return kept
}

// newRootOf makes a root with the key of a flag, and an issuer with a key of its own (Dapr CLI, mtls).
func (r *renewFlags) newRootOf(ctx context.Context, m *machine) ([]string, error) {
	text, err := os.ReadFile(r.rootKey)
	if err != nil {
		return nil, fmt.Errorf("the file of --private-key: %w", err)
	}
	rootKey, err := parsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("the file %s of --private-key: %w", r.rootKey, err)
	}
	issuerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	from, to := now.Add(-m.settings.ClockSkew), now.Add(m.settings.RootTTL)
	root, err := authorityCertificate(local.SentryTrustDomain, from, to, rootKey.Public(), nil, rootKey)
	if err != nil {
		return nil, err
	}
	own := ca.Settings{TrustDomain: local.SentryTrustDomain, Namespace: local.SentryNamespace}
	issuer, err := authorityCertificate(own.SentryID(), from, to, issuerKey.Public(), root, rootKey)
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(issuerKey)
	if err != nil {
		return nil, err
	}
	return r.provide(ctx, m, ca.Documents{
		Anchors: encodePEM("CERTIFICATE", root.Raw), IssuerChain: encodePEM("CERTIFICATE", issuer.Raw), IssuerKey: encodePEM("PRIVATE KEY", key),
	})
}

// authorityCertificate makes the certificate of an authority; without a parent it is self-signed.
func authorityCertificate(organisation string, from, to time.Time, key crypto.PublicKey, parent *x509.Certificate, signer crypto.Signer) (*x509.Certificate, error) {
	const serialBits = 127
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: pkix.Name{Organization: []string{organisation}}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		return nil, fmt.Errorf("the certificate %q cannot be made: %w", organisation, err)
	}
	return x509.ParseCertificate(der)
}

// parsePrivateKey reads the first private key of a PEM file.
func parsePrivateKey(text []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("it has no private key in PEM; make one with `openssl ecparam -genkey -name prime256v1 -noout -out root.key`")
		}
		var key any
		var err error
		switch block.Type {
		case "EC PARAMETERS": // what openssl writes before a key
			continue
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		default:
			return nil, fmt.Errorf("it has a PEM block %q instead of a private key", block.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("the private key cannot be read: %w", err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("a private key of type %T cannot sign: use ECDSA, Ed25519 or RSA", key)
		}
		return signer, nil
	}
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
