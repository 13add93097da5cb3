// Package mesh is the channel between sidecars: the server of the internal port, the client that calls it, and the resolver
// that tells where the sidecar of an app is (Dapr API, service invocation: internal protocol).
//
// Two protocols share the port. Every sidecar speaks the gRPC service dapr.proto.internals.v1.ServiceInvocation. Two
// Outriggers use a cheaper exchange instead: an HTTP/1.1 request whose verb, path, query, header and body are those of the
// app's call, so that nothing is taken apart or put together on the way. A client asks once per address which of the two
// the peer speaks, remembers the answer, and falls back to gRPC without a word.
package mesh

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Protocols of the internal port, by the names under which they are negotiated on secured connections (ALPN).
const (
	ProtocolExchange = "outrigger/1"
	ProtocolGRPC     = "h2"
)

// Target is the sidecar that a connection is for: its address, and the app whose identity it has to prove.
type Target struct {
	Address          string
	AppID, Namespace string
}

// Security secures the connections between sidecars; a nil Security leaves them in clear text. Its methods are safe for
// concurrent use, and their contexts bound the handshake.
type Security interface {
	// Client secures a connection that was dialled, offering the protocols, and returns the one agreed on ("" when the peer
	// does not negotiate). On failure the caller closes c.
	Client(ctx context.Context, c net.Conn, target Target, protocols []string) (secured net.Conn, protocol string, err error)
	// Server secures a connection that was accepted, in the same way, choosing among the protocols.
	Server(ctx context.Context, c net.Conn, protocols []string) (secured net.Conn, protocol string, err error)
}

// handshakeTimeout bounds the start of a connection: the handshake of its security and the first bytes of its client.
const handshakeTimeout = 10 * time.Second

const (
	// smallBody is the length up to which a body that is known to be that short is held in memory.
	smallBody = 16 << 10
	// chunkSize is how much of a body goes into one message of the gRPC protocol.
	chunkSize = 32 << 10
)

// toStatus is the status that an error of a handler is for the caller.
func toStatus(err error) *status.Status {
	if s, ok := status.FromError(err); ok {
		return s
	}
	if s := status.FromContextError(err); s.Code() != codes.Unknown {
		return s
	}
	return status.New(codes.Unknown, err.Error())
}
