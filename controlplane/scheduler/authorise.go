package scheduler

import (
	"context"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/identity"
)

// internalTypes begin the names of the actor types of the runtime itself, such as those of workflows:
// dapr.internal.<namespace>.<app ID>.<kind>.
const internalTypes = "dapr.internal."

// errIncomplete, errNoIdentity and errOther refuse callers (Dapr API, scheduler: authorisation).
var (
	errIncomplete = status.Error(codes.InvalidArgument, "missing namespace or appID in request")
	errNoIdentity = status.Error(codes.Unauthenticated, "failed to get identity from context")
	errOther      = status.Error(codes.PermissionDenied, "identity does not match request")
)

// authorise says whether the caller may speak for an app: with mTLS only the app itself.
func (s *server) authorise(ctx context.Context, namespace, appID string) error {
	if namespace == "" || appID == "" {
		return errIncomplete
	}
	peer := identity.PeerFromContext(ctx)
	if !s.o.Security.Judges(peer) {
		return nil
	}
	switch {
	case peer == nil:
		return errNoIdentity
	case peer.Err != nil || peer.ID.Namespace != namespace || peer.ID.AppID != appID:
		return errOther
	}
	return nil
}

// authoriseJob says whether the caller may do something to jobs with these metadata. The apps of a namespace share its actor types; only those
// of the runtime itself belong to one app, of which mTLS tells which one it is.
func (s *server) authoriseJob(ctx context.Context, m *schedulerv1.JobMetadata) error {
	if err := s.authorise(ctx, m.GetNamespace(), m.GetAppId()); err != nil {
		return err
	}
	if a := m.GetTarget().GetActor(); a != nil {
		return s.authoriseType(m.GetNamespace(), m.GetAppId(), a.GetType())
	}
	return nil
}

// authoriseType says whether an app may have to do with an actor type.
func (s *server) authoriseType(namespace, appID, actorType string) error {
	if s.o.Security.Enabled() && foreignType(namespace, appID, actorType) {
		return status.Errorf(codes.PermissionDenied, "actor type %q belongs to the runtime of another app than %q in namespace %q", actorType, appID, namespace)
	}
	return nil
}

// foreignType reports whether an actor type is one of the runtime of another app. The kind has no dot, so that an app "a" has no part in those of
// an app "a.b".
func foreignType(namespace, appID, actorType string) bool {
	if !strings.HasPrefix(actorType, internalTypes) {
		return false
	}
	kind, own := strings.CutPrefix(actorType, internalTypes+namespace+"."+appID+".")
	return !own || strings.Contains(kind, ".")
}

// foreign reports whether a stored job belongs to the runtime of another app.
func foreign(namespace, appID string, m *schedulerv1.JobMetadata) bool {
	return foreignType(namespace, appID, m.GetTarget().GetActor().GetType())
}
