package invoke

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/api"
	"outrigger.dev/resiliency"
)

const errCode = "ERR_DIRECT_INVOKE"

// errNoTarget is a call that names no app, which is also any call of an unknown route.
func errNoTarget() *api.Error {
	return &api.Error{
		HTTP: http.StatusNotFound, GRPC: codes.NotFound, Code: errCode, Category: api.CategoryInvocation,
		Message: "failed getting app id either from the URL path or the header dapr-app-id",
	}
}

// errInvoke is a call that got no answer of an app. A refusal by the other side's access control is 403 for HTTP clients.
func errInvoke(target string, cause error) *api.Error {
	e := &api.Error{
		HTTP: http.StatusInternalServerError, GRPC: codes.Internal, Code: errCode, Category: api.CategoryInvocation,
		Message: fmt.Sprintf("failed to invoke, id: %s, err: %s", target, cause), Cause: cause,
	}
	if status.Code(cause) == codes.PermissionDenied {
		e.HTTP = http.StatusForbidden
	}
	return e
}

// errGRPC is errInvoke for clients of InvokeService, who see what a policy made of the call as it is (Dapr API, resiliency:
// what the caller sees).
func errGRPC(ctx context.Context, target string, cause error) error {
	switch {
	case errors.Is(cause, resiliency.ErrOpen), errors.Is(cause, resiliency.ErrTooManyRequests):
		return status.Error(codes.Unknown, cause.Error())
	case cause == context.DeadlineExceeded && ctx.Err() == nil:
		return status.FromContextError(cause).Err()
	}
	return errInvoke(target, cause)
}
