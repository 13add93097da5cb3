package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// TLS makes configurations for TLS connections on which both ends prove their identity. They take the certificate and the
// trust anchors from the source at each handshake, so that a renewal counts at once. Sessions are never resumed: that would
// carry an identity, or trust in one, past its end. It is safe for concurrent use.
type TLS struct {
	source Source
	now    func() time.Time

	own   atomic.Pointer[ownCertificate]
	roots atomic.Pointer[rootPool]
}

// ownCertificate is the source's identity as crypto/tls wants it.
type ownCertificate struct {
	svid        *x509svid.SVID
	certificate tls.Certificate
}

// rootPool is a pool of the anchors, which is too expensive to make for each handshake.
type rootPool struct {
	anchors []*x509.Certificate
	pool    *x509.CertPool
}

// NewTLS makes configurations of a source's identity. now is the time by which certificates are judged; nil means the system's.
func NewTLS(source Source, now func() time.Time) *TLS {
	if now == nil {
		now = time.Now
	}
	return &TLS{source: source, now: now}
}

// Client is a configuration for connections to peers that expect accepts, offering the protocols by ALPN. The peer's
// certificate has to chain to the trust anchors; its DNS names mean nothing (Dapr API, mTLS: identities).
func (t *TLS) Client(expect func(*Peer) error, protocols ...string) *tls.Config {
	c := t.config(protocols)
	c.InsecureSkipVerify = true // VerifyConnection does it: there is no host name to compare
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.certificate() }
	c.VerifyConnection = func(state tls.ConnectionState) error {
		p, _, err := t.Verify(state.PeerCertificates)
		if err != nil {
			return err
		}
		return expect(p)
	}
	return c
}

// Server is a configuration for connections from peers with any identity whose certificate chains to the trust anchors,
// choosing among the protocols by ALPN; a peer that offers none of them is refused, unless it offers none at all.
func (t *TLS) Server(protocols ...string) *tls.Config {
	c := t.config(protocols)
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return t.certificate() }
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(state tls.ConnectionState) error {
		_, _, err := t.Verify(state.PeerCertificates)
		return err
	}
	return c
}

func (t *TLS) config(protocols []string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             protocols,
		SessionTicketsDisabled: true,
		Time:                   t.now,
		// Sidecars are near each other: small first records would cost more than they win.
		DynamicRecordSizingDisabled: true,
	}
}

// certificate is the source's present one.
func (t *TLS) certificate() (*tls.Certificate, error) {
	svid, err := t.source.SVID()
	if err != nil {
		return nil, fmt.Errorf("there is no certificate of this process's identity: %w", err)
	}
	if own := t.own.Load(); own != nil && own.svid == svid {
		return &own.certificate, nil
	}
	own := &ownCertificate{svid: svid, certificate: Certificate(svid)}
	t.own.Store(own)
	return &own.certificate, nil
}

// Certificate is an SVID as crypto/tls takes it.
func Certificate(svid *x509svid.SVID) tls.Certificate {
	c := tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
	for _, part := range svid.Certificates {
		c.Certificate = append(c.Certificate, part.Raw)
	}
	return c
}

// UntrustedError says that a peer's certificate does not prove an identity to this process.
type UntrustedError struct {
	// URI is the SPIFFE ID that it claims, "" when it has none.
	URI string
	Err error
}

func (e *UntrustedError) Error() string {
	if e.URI == "" {
		return "the peer's certificate is not trusted: " + e.Err.Error()
	}
	return fmt.Sprintf("the peer's certificate for %q is not trusted: %s", e.URI, e.Err)
}

func (e *UntrustedError) Unwrap() error { return e.Err }

// Verify checks a chain of certificates, leaf first, against the trust anchors (the X.509-SVID standard: validation; one set
// of anchors counts for every trust domain). It returns whose it is, and the ways from it to an anchor. The error is an
// [*UntrustedError].
func (t *TLS) Verify(chain []*x509.Certificate) (*Peer, [][]*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, nil, &UntrustedError{Err: errors.New("it showed none")}
	}
	leaf := chain[0]
	p, err := PeerOf(leaf)
	if err != nil {
		return nil, nil, &UntrustedError{Err: err}
	}
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return nil, nil, &UntrustedError{URI: p.URI, Err: errors.New("it belongs to an authority, not to a workload")}
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: t.anchors(), Intermediates: intermediates, CurrentTime: t.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, nil, &UntrustedError{URI: p.URI, Err: err}
	}
	return p, chains, nil
}

// anchors is a pool of the source's present trust anchors.
func (t *TLS) anchors() *x509.CertPool {
	anchors := t.source.TrustAnchors()
	if known := t.roots.Load(); known != nil && same(known.anchors, anchors) {
		return known.pool
	}
	roots := &rootPool{anchors: anchors, pool: x509.NewCertPool()}
	for _, a := range anchors {
		roots.pool.AddCert(a)
	}
	t.roots.Store(roots)
	return roots.pool
}

// same reports whether two lists are one, or hold the same certificates.
func same(a, b []*x509.Certificate) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Exactly accepts the peer with this identity alone.
func Exactly(id ID) func(*Peer) error {
	return func(p *Peer) error {
		if p.URI != id.String() {
			return &UnexpectedError{URI: p.URI, Expected: id.String()}
		}
		return nil
	}
}

// Workload accepts peers of one app and namespace, in any trust domain.
func Workload(namespace, appID string) func(*Peer) error {
	return func(p *Peer) error {
		if want := "/ns/" + namespace + "/" + appID; p.path() != want {
			return &UnexpectedError{URI: p.URI, Expected: want}
		}
		return nil
	}
}

// path is the path of the peer's SPIFFE ID.
func (p *Peer) path() string {
	id, err := spiffeid.FromString(p.URI)
	if err != nil {
		return ""
	}
	return id.Path()
}

// UnexpectedError says that a peer proved another identity than the one that was called.
type UnexpectedError struct {
	URI string
	// Expected is the SPIFFE ID, or the path of one, that was called.
	Expected string
}

func (e *UnexpectedError) Error() string {
	return fmt.Sprintf("unexpected SPIFFE ID: %q; %s was called", e.URI, e.Expected)
}
