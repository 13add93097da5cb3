package api

import "google.golang.org/grpc/codes"

// ErrPublishOutbox is a transaction that was not run because the event of one of its writes could not be handed to the broker
// (Dapr API, error catalogue: publish/subscribe).
func ErrPublishOutbox(appID string, err error) *Error {
	e := &Error{
		HTTP: 500, GRPC: codes.Internal, Code: "ERR_PUBLISH_OUTBOX", Category: CategoryPubSub, Cause: err,
		Message: "error while publishing outbox message: " + err.Error(),
	}
	return e.WithDetails(ErrorInfo("DAPR_PUBSUB_OUTBOX", map[string]string{"appID": appID, "error": err.Error()}))
}
