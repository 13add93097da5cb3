package invoke

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/identity"
	"outrigger.dev/invocation"
)

// Access is the access control list of the sidecar's app (Dapr API, access control for service invocation). It is safe for
// concurrent use.
type Access interface {
	// Check refuses an operation to a caller, who is nil when there is no identity: without mTLS, and for proxied calls of the own
	// app. operation is the method as it is dispatched; verb is the HTTP verb, "" when there is
	// none. The error is a gRPC status with
	// PermissionDenied that says who was refused what.
	Check(caller *identity.Peer, operation, verb string) error
}

// check asks the access control list, if there is one.
func (b *Block) check(caller *identity.Peer, operation, verb string) error {
	if b.options.Access == nil {
		return nil
	}
	err := b.options.Access.Check(caller, operation, verb)
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.PermissionDenied, err.Error())
}

// vouch makes the headers that say who calls those of the certificate that the caller has shown. Sidecars of Dapr send the
// app ID and the namespace that their certificate has too, so only a forged header, or one that the caller's client sent
// besides, makes a difference.
func vouch(h *invocation.Header, caller *identity.Peer) {
	if caller == nil || caller.Err == nil && says(*h, invocation.CallerAppID, caller.ID.AppID) && says(*h, invocation.CallerNamespace, caller.ID.Namespace) {
		return
	}
	h.Del(invocation.CallerAppID)
	h.Del(invocation.CallerNamespace)
	if caller.Err == nil {
		h.Add(invocation.CallerAppID, caller.ID.AppID)
		h.Add(invocation.CallerNamespace, caller.ID.Namespace)
	}
}

// says reports whether a header has exactly one entry of the name, with that value.
func says(h invocation.Header, name, value string) bool {
	found := false
	for i := range h {
		if !invocation.Is(h[i].Name, name) {
			continue
		}
		if found || string(h[i].Value) != value {
			return false
		}
		found = true
	}
	return found
}
