// Package identity holds who a process is in the mesh, and who its peers are: SPIFFE identities and their X.509 documents
// (Dapr API, mTLS: identities; the SPIFFE ID and X.509-SVID standards).
package identity

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// ID is the identity of an app or of a control-plane service: spiffe://<trust domain>/ns/<namespace>/<app id>.
type ID struct {
	TrustDomain, Namespace, AppID string
}

// String is the SPIFFE ID.
func (id ID) String() string {
	return "spiffe://" + id.TrustDomain + "/ns/" + id.Namespace + "/" + id.AppID
}

// MalformedError says that a SPIFFE ID does not have the form of an [ID].
type MalformedError struct{ URI string }

func (e *MalformedError) Error() string { return "malformed SPIFFE ID: " + e.URI }

// ParseID reads a SPIFFE ID. Segments after the app ID are ignored. The error is a [*MalformedError].
func ParseID(uri string) (ID, error) {
	parsed, err := spiffeid.FromString(uri)
	if err != nil {
		return ID{}, &MalformedError{URI: uri}
	}
	return fromSPIFFE(parsed)
}

func fromSPIFFE(id spiffeid.ID) (ID, error) {
	segments := strings.Split(strings.TrimPrefix(id.Path(), "/"), "/")
	if len(segments) < 3 || segments[0] != "ns" || segments[1] == "" || segments[2] == "" {
		return ID{}, &MalformedError{URI: id.String()}
	}
	return ID{TrustDomain: id.TrustDomain().Name(), Namespace: segments[1], AppID: segments[2]}, nil
}

// Peer is the other end of a secured connection.
type Peer struct {
	// URI is the SPIFFE ID of its certificate, as it stands there.
	URI string
	// ID is the identity, the zero ID when the URI is malformed.
	ID ID
	// Err is a [*MalformedError] when it is.
	Err error
}

// PeerOf is the peer that has shown a certificate. A certificate without a SPIFFE ID is an error.
func PeerOf(certificate *x509.Certificate) (*Peer, error) {
	parsed, err := x509svid.IDFromCert(certificate)
	if err != nil {
		return nil, fmt.Errorf("the peer's certificate is no X.509-SVID: %w", err)
	}
	p := &Peer{URI: parsed.String()}
	p.ID, p.Err = fromSPIFFE(parsed)
	return p, nil
}

// Conn is a secured connection that knows its peer.
type Conn interface {
	net.Conn
	// Peer is the other end's identity; nil when it showed none.
	Peer() *Peer
}

// Source is where a process has its own identity from. Its methods are safe for concurrent use, return what is valid now and
// do not block.
type Source interface {
	// SVID is the present certificate chain with its key. The error says why there is none.
	SVID() (*x509svid.SVID, error)
	// TrustAnchors are the present roots. The result must not be changed.
	TrustAnchors() []*x509.Certificate
	// JWT is a JWT-SVID whose audience includes the given one (Dapr API, mTLS: JWT SVID). The error says why there is none.
	JWT(ctx context.Context, audience string) (string, error)
}
