package serving

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"

	"outrigger.dev/identity"
)

// Security is how the connections of a service are secured: by mTLS with an identity from Sentry, or not at all.
type Security struct {
	// source is nil for clear text.
	source Source
	id     identity.ID
	tls    *identity.TLS
	// optional lets connections in clear text pass.
	optional bool
}

// Source is an identity that has to be got first; [outrigger.dev/identity/workload.Source] is one.
type Source interface {
	identity.Source
	// Run gets the identity and renews it until ctx ends, which is no error.
	Run(ctx context.Context) error
	// Wait waits for the first one.
	Wait(ctx context.Context) error
}

// ClearText is the security of a service on a machine that trusts its network.
func ClearText() *Security { return &Security{} }

// MutualTLS is the security of a service that has the identity id from a source.
func MutualTLS(source Source, id identity.ID) *Security {
	return &Security{source: source, id: id, tls: identity.NewTLS(source, nil)}
}

// Enabled reports whether all peers prove their identities.
func (s *Security) Enabled() bool { return s.source != nil && !s.optional }

// Judges reports whether a peer, nil if it has shown no identity, is to be held to the one that it proves.
func (s *Security) Judges(peer *identity.Peer) bool { return s.Enabled() || s.optional && peer != nil }

// ID is the service's own identity, the zero ID in clear text.
func (s *Security) ID() identity.ID { return s.id }

// Source is where the identity is from, nil in clear text.
func (s *Security) Source() identity.Source { return s.source }

// TLS makes configurations of the identity, nil in clear text.
func (s *Security) TLS() *identity.TLS { return s.tls }

// Start gets the identity, as a task of the group, and waits for the first one. The error says why there will be none.
func (s *Security) Start(g *Group) error {
	if s.source == nil {
		return nil
	}
	g.Go(s.source.Run)
	if s.optional {
		return nil
	}
	return s.source.Wait(g.Context())
}

// GRPC are the credentials of a gRPC server: they take peers with any identity of a trusted authority, which handlers have from
// [identity.PeerFromContext]. They are nil in clear text.
func (s *Security) GRPC() credentials.TransportCredentials {
	if s.source == nil {
		return nil
	}
	secured := serverCredentials{config: s.tls.Server("h2")}
	if s.optional {
		return eitherCredentials{secured}
	}
	return secured
}

// serverCredentials shake hands and tell gRPC who is at the other end.
type serverCredentials struct{ config *tls.Config }

// ServerHandshake implements [credentials.TransportCredentials]. gRPC bounds it by a deadline of the connection.
func (c serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn := tls.Server(raw, c.config)
	if err := conn.Handshake(); err != nil {
		conn.Close()
		return nil, nil, err
	}
	peer, err := identity.PeerOf(conn.ConnectionState().PeerCertificates[0])
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	info := identity.AuthInfo{Peer: peer}
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	return conn, info, nil
}

// ClientHandshake implements [credentials.TransportCredentials].
func (serverCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these are the credentials of a server")
}

// Info implements [credentials.TransportCredentials].
func (serverCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements [credentials.TransportCredentials].
func (c serverCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements [credentials.TransportCredentials]; names play no part.
func (serverCredentials) OverrideServerName(string) error { return nil }
