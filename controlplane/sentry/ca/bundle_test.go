package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// provided makes certificates as an operator would.
type provided struct {
	t   testing.TB
	now time.Time
}

func (p provided) key(kind string) crypto.Signer {
	p.t.Helper()
	var key crypto.Signer
	var err error
	if kind == "rsa" {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return key
}

func (p provided) certificate(name string, isCA bool, key crypto.Signer, parent *x509.Certificate, parentKey crypto.Signer) *x509.Certificate {
	p.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: p.now.Add(-time.Hour), NotAfter: p.now.Add(time.Hour),
		BasicConstraintsValid: isCA, IsCA: isCA, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if isCA {
		template.KeyUsage |= x509.KeyUsageCertSign
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func keyDocument(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	text, err := encodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestProvidedMaterial(t *testing.T) {
	p := provided{t, time.Now()}
	rootKey, middleKey, issuerKey, otherKey := p.key("ec"), p.key("ec"), p.key("rsa"), p.key("ec")
	root := p.certificate("root", true, rootKey, nil, nil)
	middle := p.certificate("middle", true, middleKey, root, rootKey)
	issuer := p.certificate("issuer", true, issuerKey, middle, middleKey)
	direct := p.certificate("direct", true, issuerKey, root, rootKey)
	leaf := p.certificate("leaf", false, issuerKey, root, rootKey)
	other := p.certificate("other", true, otherKey, nil, nil)
	keyText := keyDocument(t, issuerKey)
	rsaText := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(issuerKey.(*rsa.PrivateKey))})
	certs := encodeCertificates
	commented := append([]byte("# our root\n"), certs(root)...)
	for _, tt := range []struct {
		name  string
		d     Documents
		chain int
		err   string
	}{
		{"root and issuer", Documents{Anchors: certs(root), IssuerChain: certs(direct), IssuerKey: keyText}, 1, ""},
		{"PKCS#1", Documents{Anchors: certs(root), IssuerChain: certs(direct), IssuerKey: rsaText}, 1, ""},
		{"comments", Documents{Anchors: commented, IssuerChain: certs(direct), IssuerKey: keyText}, 1, ""},
		{"several roots", Documents{Anchors: certs(other, root), IssuerChain: certs(direct), IssuerKey: keyText}, 1, ""},
		{"chain", Documents{Anchors: certs(root), IssuerChain: certs(issuer, middle), IssuerKey: keyText}, 2, ""},
		{"chain with its root", Documents{Anchors: certs(root), IssuerChain: certs(issuer, middle, root), IssuerKey: keyText}, 2, ""},
		{"the root itself signs", Documents{Anchors: certs(root), IssuerChain: certs(root), IssuerKey: keyDocument(t, rootKey)}, 1, ""},
		{"gap in the chain", Documents{Anchors: certs(root), IssuerChain: certs(issuer, direct), IssuerKey: keyText}, 0, "is not signed by the one that follows"},
		{"chain that ends early", Documents{Anchors: certs(root), IssuerChain: certs(issuer), IssuerKey: keyText}, 0, "does not lead to any of the trust anchors"},
		{"another root", Documents{Anchors: certs(other), IssuerChain: certs(direct), IssuerKey: keyText}, 0, "does not lead to any of the trust anchors"},
		{"anchor that is no root", Documents{Anchors: certs(middle), IssuerChain: certs(issuer), IssuerKey: keyText}, 0, "not self-signed"},
		{"leaf", Documents{Anchors: certs(root), IssuerChain: certs(leaf), IssuerKey: keyText}, 0, "not the certificate of an authority"},
		{"wrong key", Documents{Anchors: certs(root), IssuerChain: certs(direct), IssuerKey: keyDocument(t, otherKey)}, 0, "issuer.key"},
		{"no anchors", Documents{Anchors: []byte("x"), IssuerChain: certs(direct), IssuerKey: keyText}, 0, "ca.crt"},
		{"no key", Documents{Anchors: certs(root), IssuerChain: certs(direct), IssuerKey: []byte("x")}, 0, "no PEM block with a private key"},
		{"key for chain", Documents{Anchors: certs(root), IssuerChain: keyText, IssuerKey: keyText}, 0, "only blocks CERTIFICATE"},
		{"key cut short", Documents{Anchors: certs(root), IssuerChain: certs(direct), IssuerKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1, 2}})}, 0, "cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := Parse(&tt.d)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(b.Chain) != tt.chain {
				t.Errorf("the chain has %d certificates, want %d", len(b.Chain), tt.chain)
			}
			if err := b.CheckTime(p.now); err != nil {
				t.Error(err)
			}
			if err := b.CheckTime(p.now.Add(2 * time.Hour)); err == nil || !strings.Contains(err.Error(), "expired") {
				t.Errorf("later: %v", err)
			}
			if err := b.CheckTime(p.now.Add(-2 * time.Hour)); err == nil || !strings.Contains(err.Error(), "not valid before") {
				t.Errorf("earlier: %v", err)
			}
			a := newAuthority(&Settings{}, &result{bundle: b})
			if bytes.Contains(a.TrustAnchors(), []byte("#")) {
				t.Error("comments are not stripped")
			}
		})
	}
}

func TestJWTKeys(t *testing.T) {
	for _, algorithm := range []string{"RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			s := testSettings(t)
			s.JWT.Enabled, s.JWT.Algorithm = true, jwtAlgorithm(algorithm)
			now := time.Now()
			d := mustMaintain(t, s, Documents{}, now, Request{}).documents
			again := mustMaintain(t, s, d, now, Request{})
			if len(again.changes) > 0 || again.bundle.JWT == nil {
				t.Errorf("a second look changes %q", again.changes)
			}
			other := mustMaintain(t, s, Documents{}, now, Request{}).documents
			mixed := d
			mixed.JWKS = other.JWKS
			if _, err := s.maintain(mixed, now, Request{}); err == nil || !strings.Contains(err.Error(), "does not have the public key of jwt.key") {
				t.Errorf("the key set of another key: %v", err)
			}
			s.JWT.KeyID = "mine"
			if _, err := s.maintain(d, now, Request{}); err == nil || !strings.Contains(err.Error(), `under the id "mine"`) {
				t.Errorf("another key id: %v", err)
			}
			s.JWT.KeyID, s.JWT.Algorithm = "", "ES256"
			if algorithm == "ES256" {
				s.JWT.Algorithm = "RS256"
			}
			if _, err := s.maintain(d, now, Request{}); err == nil || !strings.Contains(err.Error(), "--jwt-signing-algorithm") {
				t.Errorf("another algorithm: %v", err)
			}
		})
	}
}

func TestSettings(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*Settings)
		err  string
	}{
		{"trust domain", func(s *Settings) { s.TrustDomain = "Ex ample" }, `invalid trust domain "Ex ample"`},
		{"namespace", func(s *Settings) { s.Namespace = "a/b" }, `invalid namespace "a/b"`},
		{"issuer without JWT", func(s *Settings) { s.JWT.Issuer = "https://x" }, "jwt-issuer cannot be set when jwt-enabled is false"},
		{"algorithm", func(s *Settings) { s.JWT.Enabled, s.JWT.Algorithm = true, "HS256" }, `unsupported jwt-signing-algorithm "HS256"`},
		{"life", func(s *Settings) { s.WorkloadTTL = -1 }, "workloadCertTTL"},
		{"skew", func(s *Settings) { s.ClockSkew = -1 }, "allowedClockSkew"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := testSettings(t)
			tt.set(&s)
			if _, err := s.Normalised(); err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	s := testSettings(f)
	now := time.Now()
	d := mustMaintain(f, s, Documents{}, now, Request{}).documents
	s.SelfRenewing = false // what it generates is random, and would look like news to the fuzzer
	f.Add(d.Anchors, d.IssuerChain, d.IssuerKey, d.Record)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), d.IssuerChain, []byte{}, []byte("{}"))
	f.Add(slices.Concat(d.Anchors, d.IssuerChain), slices.Concat(d.IssuerChain, d.Anchors), d.IssuerKey, []byte(`{"version":1,"roots":[{}]}`))
	f.Fuzz(func(t *testing.T, anchors, chain, key, rec []byte) {
		d := Documents{Anchors: anchors, IssuerChain: chain, IssuerKey: key, Record: rec}
		if !d.Complete() {
			return
		}
		res, err := s.maintain(d, now, Request{})
		if err == nil && (res.bundle.root() == nil || len(res.bundle.Chain) == 0) {
			t.Error("accepted without a root or an issuer")
		}
	})
}

func TestCheckPublicKey(t *testing.T) {
	for bits, ok := range map[uint]bool{2048: true, 8192: true, 8193: false, 1 << 20: false} {
		key := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537}
		if err := CheckPublicKey(key); (err == nil) != ok {
			t.Errorf("%d bits: %v", bits, err)
		}
	}
}
