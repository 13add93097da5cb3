package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"outrigger.dev/identity"
)

// MTLS is the [Security] of sidecars that prove to each other who they are (Dapr API, mTLS: identities). A client accepts
// exactly the app that it calls, of any trust domain; a server accepts every identity of a trusted authority: what that one
// may do is a matter of access control. Existing connections outlive a renewal of the identity, and a change of the trust
// anchors; new ones use what is valid now.
type MTLS struct {
	source identity.Source
	tls    *identity.TLS
	now    func() time.Time
	// both and grpcOnly are the configurations for the two lists of protocols that servers offer.
	both, grpcOnly *tls.Config
}

var _ Security = (*MTLS)(nil)

// NewMTLS makes a security of a source's identity. now is the time by which certificates are judged; nil means the system's.
func NewMTLS(source identity.Source, now func() time.Time) *MTLS {
	if now == nil {
		now = time.Now
	}
	m := &MTLS{source: source, tls: identity.NewTLS(source, now), now: now}
	m.both, m.grpcOnly = m.tls.Server(ProtocolExchange, ProtocolGRPC), m.tls.Server(ProtocolGRPC)
	return m
}

// Client implements [Security]. The connection implements [identity.Conn].
func (m *MTLS) Client(ctx context.Context, c net.Conn, target Target, protocols []string) (net.Conn, string, error) {
	return m.shake(ctx, tls.Client(c, m.tls.Client(identity.Workload(target.Namespace, target.AppID), protocols...)))
}

// Server implements [Security]. The connection implements [identity.Conn].
func (m *MTLS) Server(ctx context.Context, c net.Conn, protocols []string) (net.Conn, string, error) {
	config := m.both
	switch {
	case slices.Equal(protocols, config.NextProtos):
	case slices.Equal(protocols, m.grpcOnly.NextProtos):
		config = m.grpcOnly
	default:
		config = m.tls.Server(protocols...)
	}
	return m.shake(ctx, tls.Server(c, config))
}

func (m *MTLS) shake(ctx context.Context, c *tls.Conn) (net.Conn, string, error) {
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, "", m.explain(err)
	}
	state := c.ConnectionState()
	p, err := identity.PeerOf(state.PeerCertificates[0])
	if err != nil {
		return nil, "", err
	}
	return &securedConn{Conn: c, mtls: m, peer: p}, state.NegotiatedProtocol, nil
}

// explain adds to a failure of a handshake what crypto/tls cannot know.
func (m *MTLS) explain(err error) error {
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record):
		return fmt.Errorf("%w: the other side does not use mTLS; it must be on, or off, for all sidecars (--enable-mtls)", err)
	case refused(err):
		return m.refusal(err)
	}
	return err
}

// refused reports whether the other side ended a connection with an alert of TLS.
func refused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// refusal is the other side's alert, with the likely cause when that is this side's certificate.
func (m *MTLS) refusal(err error) error {
	if svid, serr := m.source.SVID(); serr == nil {
		if leaf := svid.Certificates[0]; m.now().After(leaf.NotAfter) {
			return fmt.Errorf("%w: the certificate of this sidecar has expired at %s because Sentry did not renew it; see this sidecar's log", err, leaf.NotAfter.Format(time.RFC3339))
		}
	}
	return fmt.Errorf("%w: the other sidecar refused the connection; its log tells why", err)
}

// securedConn is a connection under mTLS.
type securedConn struct {
	*tls.Conn
	mtls *MTLS
	peer *identity.Peer
	// heard tells that something came from the other side.
	heard atomic.Bool
}

var _ identity.Conn = (*securedConn)(nil)

// Peer implements [identity.Conn].
func (c *securedConn) Peer() *identity.Peer { return c.peer }

// Read reads; under TLS 1.3 a client learns only here that the server refused its certificate.
func (c *securedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.heard.Load() {
		c.heard.Store(true)
	}
	if err != nil && refused(err) {
		err = c.mtls.refusal(err)
	}
	return n, err
}

// Write writes. When that fails on a connection from which nothing came yet, the reason may be waiting to be read.
func (c *securedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && !c.heard.Load() && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
		_ = c.Conn.SetReadDeadline(time.Now().Add(lastWords))
		if _, rerr := c.Conn.Read(make([]byte, 1)); rerr != nil && refused(rerr) {
			err = c.mtls.refusal(rerr)
		}
	}
	return n, err
}

// lastWords is how long is waited for the reason of a connection that broke at its start.
const lastWords = 50 * time.Millisecond

// peerOf is who is at the other end of a connection, looking below what was put around it; nil on one in clear text.
func peerOf(c net.Conn) *identity.Peer {
	for c != nil {
		if secured, ok := c.(identity.Conn); ok {
			return secured.Peer()
		}
		below, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = below.NetConn()
	}
	return nil
}

// connCredentials tell gRPC who is at the other end of connections that were secured before it got them.
type connCredentials struct{}

func (connCredentials) handshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info := identity.AuthInfo{Peer: peerOf(c)}
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	return c, info, nil
}

// ServerHandshake implements [credentials.TransportCredentials].
func (cc connCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return cc.handshake(c)
}

// ClientHandshake implements [credentials.TransportCredentials].
func (cc connCredentials) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return cc.handshake(c)
}

// Info implements [credentials.TransportCredentials].
func (connCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements [credentials.TransportCredentials].
func (cc connCredentials) Clone() credentials.TransportCredentials { return cc }

// OverrideServerName implements [credentials.TransportCredentials]; names play no part.
func (connCredentials) OverrideServerName(string) error { return nil }
