package api

import (
	"fmt"

	"google.golang.org/grpc/codes"
)

// The errors of the publish and subscribe API (Dapr API, error catalogue: publish and subscribe).

func errPubsub(http int, grpc codes.Code, code, message string) *Error {
	return &Error{HTTP: http, GRPC: grpc, Code: code, Message: message, Category: CategoryPubSub}
}

// withPubsub attaches the details of an error about a component.
func (e *Error) withPubsub(component, reason string, metadata map[string]string) *Error {
	return e.WithDetails(ResourceInfo("pubsub", component, e.Message), ErrorInfo(reason, metadata))
}

// ErrPubsubNameEmpty is a request without the name of a component.
func ErrPubsubNameEmpty(metadata map[string]string) *Error {
	return errPubsub(404, codes.InvalidArgument, "ERR_PUBSUB_EMPTY", "pubsub name is empty").
		withPubsub("", "DAPR_PUBSUB_NAME_EMPTY", metadata)
}

// ErrPubsubNotFound says that there is no component of this name.
func ErrPubsubNotFound(component string, metadata map[string]string) *Error {
	return errPubsub(404, codes.InvalidArgument, "ERR_PUBSUB_NOT_FOUND", "pubsub "+component+" is not found").
		WithDetails(ErrorInfo("DAPR_PUBSUB_NOT_FOUND", metadata))
}

// ErrPubsubTopicEmpty is a request without a topic.
func ErrPubsubTopicEmpty(component string, metadata map[string]string) *Error {
	return errPubsub(404, codes.InvalidArgument, "ERR_TOPIC_NAME_EMPTY", "topic is empty in pubsub "+component).
		withPubsub(component, "DAPR_PUBSUB_TOPIC_NAME_EMPTY", metadata)
}

// ErrPubsubMetadata is metadata that cannot be understood.
func ErrPubsubMetadata(component string, metadata map[string]string, cause error) *Error {
	e := errPubsub(400, codes.InvalidArgument, "ERR_PUBSUB_REQUEST_METADATA", "failed deserializing metadata. Error: "+cause.Error())
	e.Cause = cause
	return e.withPubsub(component, "DAPR_PUBSUB_METADATA_DESERIALIZATION", metadata)
}

// ErrPubsubCloudEvent is a payload that says it is a CloudEvent and is not.
func ErrPubsubCloudEvent(component, appID string, cause error) *Error {
	e := errPubsub(500, codes.InvalidArgument, "ERR_PUBSUB_CLOUD_EVENTS_SER", "cannot create cloudevent")
	e.Cause = cause
	return e.withPubsub(component, "DAPR_PUBSUB_CLOUD_EVENT_CREATION", map[string]string{"appID": appID, "error": cause.Error()})
}

// ErrPubsubForbidden is a topic that the scopes of the component keep from the app.
func ErrPubsubForbidden(component, topic, appID string) *Error {
	message := "topic " + topic + " is not allowed for app id " + appID
	return errPubsub(403, codes.PermissionDenied, "ERR_PUBSUB_FORBIDDEN", message).
		withPubsub(component, "DAPR_PUBSUB_FORBIDDEN", map[string]string{"topic": topic, "error": message})
}

// ErrPubsubPublish is a publication that failed.
func ErrPubsubPublish(component, topic string, cause error) *Error {
	e := errPubsub(500, codes.Internal, "ERR_PUBSUB_PUBLISH_MESSAGE", fmt.Sprintf("error when publishing to topic %s in pubsub %s: %s", topic, component, cause))
	e.Cause = cause
	return e.withPubsub(component, "DAPR_PUBSUB_PUBLISH_MESSAGE", map[string]string{"topic": topic, "error": cause.Error()})
}

// ErrPubsubBulkBody is a bulk that cannot be parsed.
func ErrPubsubBulkBody(component, topic, appID string, cause error) *Error {
	e := errPubsub(400, codes.InvalidArgument, "ERR_PUBSUB_EVENTS_SER", fmt.Sprintf("error when unmarshaling the request for topic %s pubsub %s: %s", topic, component, cause))
	e.Cause = cause
	return e.withPubsub(component, "DAPR_PUBSUB_UNMARSHAL_EVENTS", map[string]string{"appID": appID})
}

// ErrPubsubEntryID is a bulk with an entry that has no ID, or one that another entry has too.
func ErrPubsubEntryID(component, topic, appID string) *Error {
	const fault = "entryId is duplicated or not present for entry"
	return errPubsub(400, codes.InvalidArgument, "ERR_PUBSUB_EVENTS_SER", fmt.Sprintf("error marshaling events to bytes for topic %s pubsub %s. error: %s", topic, component, fault)).
		withPubsub(component, "DAPR_PUBSUB_MARSHAL_EVENTS", map[string]string{"appID": appID, "error": fault})
}

// ErrPubsubEntryContent is a bulk with an entry whose event is not what its content type says.
func ErrPubsubEntryContent(component, topic, appID string, cause error) *Error {
	e := errPubsub(400, codes.InvalidArgument, "ERR_PUBSUB_EVENTS_SER", fmt.Sprintf("error when marshalling cloud event envelope for topic %s pubsub %s: %s", topic, component, cause))
	e.Cause = cause
	return e.withPubsub(component, "DAPR_PUBSUB_MARSHAL_ENVELOPE", map[string]string{"appID": appID, "error": cause.Error()})
}

// ErrPubsubSubscribe ends a streaming subscription; it has no HTTP form.
func ErrPubsubSubscribe(code codes.Code, message string) *Error {
	return &Error{HTTP: HTTPStatus(code), GRPC: code, Code: "ERR_PUBSUB_SUBSCRIBE", Message: message, Category: CategoryPubSub}
}
