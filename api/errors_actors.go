package api

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// The errors of the actors API (Dapr API, error catalogue: actors). They carry no details.

func errActor(http int, grpc codes.Code, code, message string) *Error {
	return &Error{HTTP: http, GRPC: grpc, Code: code, Message: message, Category: CategoryActor}
}

// because makes an actor error of one underneath: the text ends in the cause's.
func (e *Error) because(err error) *Error {
	e.Message += ": " + err.Error()
	e.Cause = err
	return e
}

// ErrActorTypeReserved is a call of an actor type that belongs to the sidecar itself.
func ErrActorTypeReserved(actorType string) *Error {
	return errActor(403, codes.PermissionDenied, "ERR_ACTOR_TYPE_RESERVED",
		`actor type "`+actorType+`" is reserved for the Dapr workflow runtime; direct actor API access is not permitted`)
}

// ErrActorNoPlacement says that the sidecar was not told where the placement service is.
func ErrActorNoPlacement() *Error {
	return errActor(400, codes.Unavailable, "ERR_ACTOR_NO_PLACEMENT", "placement service is not configured")
}

// ErrActorRuntimeClosed is a call of an actor while the sidecar shuts down.
func ErrActorRuntimeClosed() *Error {
	return errActor(503, codes.Unavailable, "ERR_ACTOR_RUNTIME_CLOSED", "actor runtime is closed")
}

// ErrActorRuntimeNotFound says that no state store is configured for actors.
func ErrActorRuntimeNotFound() *Error {
	return errActor(500, codes.Internal, "ERR_ACTOR_RUNTIME_NOT_FOUND",
		`the state store is not configured to use the actor runtime. Have you set the - name: actorStateStore value: "true" in your state store component file?`)
}

// ErrActorNamespaceRequired says that a sidecar on Kubernetes has no namespace. It ends the start.
func ErrActorNamespaceRequired() *Error {
	return errActor(412, codes.FailedPrecondition, "ERR_ACTOR_NAMESPACE_REQUIRED", "actors must have a namespace configured when running in Kubernetes mode")
}

// ErrActorNoAddress says that nobody hosts the actor's type. Clients see it inside [ErrActorInvoke].
func ErrActorNoAddress(actorType, id string) *Error {
	return errActor(404, codes.FailedPrecondition, "ERR_ACTOR_NO_ADDRESS", "did not find address for actor '"+actorType+"/"+id+"'")
}

// ErrActorInvoke is a failed call of an actor. If err stems from a gRPC status, such as that of the sidecar that hosts the actor or of
// [ErrActorNoAddress], then gRPC clients see that status without any more words (Dapr API, actors: what the caller sees).
// An err that is itself an actor error already, like [ErrActorStackDepth], is returned as it is.
func ErrActorInvoke(err error) *Error {
	//nolint:errorlint // One that is wrapped is a cause with words around it, which clients are to see.
	if e, ok := err.(*Error); ok && e.Category == CategoryActor && e.Code != "ERR_ACTOR_NO_ADDRESS" {
		return e
	}
	e := errActor(500, codes.Internal, "ERR_ACTOR_INVOKE_METHOD", "error invoke actor method").because(err)
	var inner interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &inner) {
		return e
	}
	s, _ := status.FromError(err)
	if s.Code() == codes.OK {
		return e
	}
	e.HTTPMessage, e.GRPC, e.Message = e.Message, s.Code(), s.Message()
	for _, d := range s.Details() {
		if m, ok := d.(proto.Message); ok {
			e.GRPCDetails = append(e.GRPCDetails, m)
		}
	}
	return e
}

// ErrActorStackDepth is a reentrant call that would go deeper than the actor's type allows.
func ErrActorStackDepth() *Error {
	return errActor(500, codes.ResourceExhausted, "ERR_ACTOR_STACK_DEPTH", "maximum stack depth exceeded")
}

// ErrActorInstanceMissing is a transaction on the state of an actor that is not active on this sidecar.
func ErrActorInstanceMissing() *Error {
	return errActor(400, codes.Internal, "ERR_ACTOR_INSTANCE_MISSING", "actor instance is missing")
}

// ErrActorStateGet is a failed read of an actor's state.
func ErrActorStateGet(err error) *Error {
	return errActor(500, codes.Internal, "ERR_ACTOR_STATE_GET", "error getting actor state").because(err)
}

// ErrActorStateTransaction is a transaction on an actor's state that is invalid or failed.
func ErrActorStateTransaction(err error) *Error {
	return errActor(500, codes.Internal, "ERR_ACTOR_STATE_TRANSACTION_SAVE", "error saving actor transaction state").because(err)
}

// ErrActorReminderNonHosted is a call for reminders of a type that is not hosted on this sidecar.
func ErrActorReminderNonHosted() *Error {
	return errActor(403, codes.PermissionDenied, "ERR_ACTOR_REMINDER_NON_HOSTED", "operations on actor reminders are only possible on hosted actor types")
}

// ErrActorReminderExists is a reminder that was not to replace the one of its name.
func ErrActorReminderExists(name string) *Error {
	return errActor(409, codes.AlreadyExists, "ERR_ACTOR_REMINDER_ALREADY_EXISTS", "actor reminder already exists: "+name)
}

// ErrActorReminderCreate is a reminder that cannot be registered.
func ErrActorReminderCreate(err error) *Error {
	return errActor(500, codes.Internal, "ERR_ACTOR_REMINDER_CREATE", "error creating actor reminder").because(err)
}

// ErrActorReminderGet is a failed look-up of a reminder.
func ErrActorReminderGet(err error) *Error {
	return errActor(500, codes.Internal, "ERR_ACTOR_REMINDER_GET", "error getting actor reminder").because(err)
}

// ErrActorReminderNotFound says that there is no reminder of this name.
func ErrActorReminderNotFound(name string) *Error {
	return errActor(404, codes.NotFound, "ERR_ACTOR_REMINDER_NOT_FOUND", "actor reminder not found: "+name)
}

// ErrActorReminderDelete is a failed removal of one reminder or of several.
func ErrActorReminderDelete(err error) *Error {
	return errActor(500, codes.Internal, "ERR_ACTOR_REMINDER_DELETE", "error deleting actor reminder").because(err)
}

// ErrActorReminderList is a failed listing of reminders: the scheduler's own error (Dapr API, actors: errors). A code of its own serves
// the error metric alone, as HTTP has no listing.
func ErrActorReminderList(err error) *Error {
	s, _ := status.FromError(err)
	e := errActor(HTTPStatus(s.Code()), s.Code(), "ERR_ACTOR_REMINDER_GET", s.Message())
	e.Cause = err
	return e
}

// ErrActorTimerCreate is a timer that cannot be created.
func ErrActorTimerCreate(err error) *Error {
	return errActor(500, codes.Internal, "ERR_ACTOR_TIMER_CREATE", "error creating actor timer").because(err)
}
