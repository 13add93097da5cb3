package placement

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	placementv1 "outrigger.dev/api/gen/placement/v1"
	"outrigger.dev/identity"
)

// authorise decides whether a peer may send a message. peer is nil, and secured false, on a connection in clear text. The error is a status
// (Dapr API, placement: authorisation).
func authorise(secured bool, peer *identity.Peer, h *placementv1.Host) error {
	if secured && (peer == nil || peer.Err != nil) {
		return status.Error(codes.Unauthenticated, "failed to get client ID from context")
	}
	if h.Operation == placementv1.HostOperation_UNKNOWN && h.Version != nil {
		return status.Error(codes.InvalidArgument, "both operation and version must be set or both must be unset")
	}
	if h.Id == "" || h.Namespace == "" {
		return status.Error(codes.InvalidArgument, "host ID and namespace must be provided")
	}
	if secured {
		if h.Id != peer.ID.AppID {
			return status.Errorf(codes.PermissionDenied, "provided app ID %s doesn't match the one in the SPIFFE ID (%s)", h.Id, peer.ID.AppID)
		}
		if h.Namespace != peer.ID.Namespace {
			return status.Errorf(codes.PermissionDenied, "provided client namespace %s doesn't match the one in the SPIFFE ID (%s)", h.Namespace, peer.ID.Namespace)
		}
	}
	for _, entity := range h.Entities {
		if !mayAnnounce(h, entity) {
			return status.Errorf(codes.PermissionDenied, "entity %s is not allowed for app ID %s in namespace %s", entity, h.Id, h.Namespace)
		}
	}
	return nil
}

// mayAnnounce keeps types of the runtime itself, dapr.internal.<namespace>.<app ID>.<what>, to the app that they belong to.
func mayAnnounce(h *placementv1.Host, entity string) bool {
	rest, reserved := strings.CutPrefix(entity+".", "dapr.internal.")
	if !reserved {
		return true
	}
	parts := strings.SplitN(rest, ".", 3)
	return len(parts) > 2 && parts[0] == h.Namespace && parts[1] == h.Id
}
