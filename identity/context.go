package identity

import (
	"context"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// AuthInfo is what gRPC knows of a secured connection: who is at its other end.
type AuthInfo struct {
	credentials.CommonAuthInfo
	// Peer is the other end; nil when it showed no identity.
	Peer *Peer
}

// AuthType implements [credentials.AuthInfo].
func (AuthInfo) AuthType() string { return "tls" }

// peerKey is the key of WithPeer.
type peerKey struct{}

// WithPeer returns a context of a call that came from p.
func WithPeer(ctx context.Context, p *Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}

// PeerFromContext is who called: as [WithPeer] said, or else the other end of the secured connection that a gRPC call came by.
// It is nil for calls that came by a connection in clear text, such as those of the own app.
func PeerFromContext(ctx context.Context) *Peer {
	if p, ok := ctx.Value(peerKey{}).(*Peer); ok {
		return p
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	if info, ok := p.AuthInfo.(AuthInfo); ok {
		return info.Peer
	}
	return nil
}
