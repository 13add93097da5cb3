// Package identitytest is a certificate authority, and identities of it, for tests.
package identitytest

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"outrigger.dev/identity"
)

// CA is an authority: a root, and an issuer that the root has signed.
type CA struct {
	Root, Issuer *x509.Certificate

	rootKey, issuerKey crypto.Signer
}

// NewCA makes an authority with keys of its own.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca := &CA{}
	ca.Root, ca.rootKey = authority(t, "root", nil, nil)
	ca.NewIssuer(t)
	return ca
}

// NewIssuer replaces the issuer by another one of the same root.
func (ca *CA) NewIssuer(t testing.TB) {
	t.Helper()
	ca.Issuer, ca.issuerKey = authority(t, "issuer", ca.Root, ca.rootKey)
}

func authority(t testing.TB, name string, parent *x509.Certificate, parentKey crypto.Signer) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{Organization: []string{name}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	return create(t, template, parent, public, parentKey), key
}

func serial(t testing.TB) *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func create(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// PEM is certificates as text.
func PEM(certificates ...*x509.Certificate) []byte {
	var text []byte
	for _, c := range certificates {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// Life is the time for which Issue makes certificates valid, from an hour ago.
const Life = time.Hour

// Sign issues a certificate for a public key, with the SPIFFE ID as it is given. change, if not nil, changes it before.
func (ca *CA) Sign(t testing.TB, uri string, public crypto.PublicKey, change func(*x509.Certificate)) []*x509.Certificate {
	t.Helper()
	parsed, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(t), URIs: []*url.URL{parsed},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(Life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	return []*x509.Certificate{create(t, template, ca.Issuer, public, ca.issuerKey), ca.Issuer}
}

// Issue makes an SVID with a key of its own. change, if not nil, changes its certificate before it is signed.
func (ca *CA) Issue(t testing.TB, uri string, change func(*x509.Certificate)) *x509svid.SVID {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	svid := &x509svid.SVID{Certificates: ca.Sign(t, uri, public, change), PrivateKey: key}
	svid.ID, _ = spiffeid.FromString(uri) // there are tests with others
	return svid
}

// SelfSigned makes an SVID that no authority has signed.
func SelfSigned(t testing.TB, uri string) *x509svid.SVID {
	t.Helper()
	ca := &CA{}
	parsed, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(t), URIs: []*url.URL{parsed}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(Life),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	ca.Root = create(t, template, template, public, key)
	svid := &x509svid.SVID{Certificates: []*x509.Certificate{ca.Root}, PrivateKey: key}
	svid.ID, _ = spiffeid.FromString(uri)
	return svid
}

// Source is an identity that a test changes as it likes.
type Source struct {
	mu      sync.Mutex
	svid    *x509svid.SVID
	anchors []*x509.Certificate
	tokens  map[string]string
}

var _ identity.Source = (*Source)(nil)

// NewSource has an identity of an authority, and trusts it.
func (ca *CA) NewSource(t testing.TB, uri string) *Source {
	t.Helper()
	return &Source{svid: ca.Issue(t, uri, nil), anchors: []*x509.Certificate{ca.Root}}
}

// Set replaces the identity; nil means that there is none.
func (s *Source) Set(svid *x509svid.SVID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.svid = svid
}

// Trust replaces the trust anchors.
func (s *Source) Trust(anchors ...*x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.anchors = anchors
}

// SetJWT sets the JWT-SVID for an audience.
func (s *Source) SetJWT(audience, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens == nil {
		s.tokens = map[string]string{}
	}
	s.tokens[audience] = token
}

// Run waits until ctx ends, which is no error: the identity is there from the beginning, and only the test renews it.
func (s *Source) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Wait returns at once, without an error, as there is nothing to wait for.
func (s *Source) Wait(context.Context) error { return nil }

// SVID implements [identity.Source].
func (s *Source) SVID() (*x509svid.SVID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.svid == nil {
		return nil, errors.New("the test has set none")
	}
	return s.svid, nil
}

// TrustAnchors implements [identity.Source].
func (s *Source) TrustAnchors() []*x509.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.anchors
}

// JWT implements [identity.Source].
func (s *Source) JWT(_ context.Context, audience string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token, ok := s.tokens[audience]; ok {
		return token, nil
	}
	return "", errors.New("the test has set no JWT for " + audience)
}
