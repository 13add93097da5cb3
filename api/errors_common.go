package api

import (
	"fmt"

	"google.golang.org/grpc/codes"
)

// The errors that every block may answer (Dapr API, error catalogue: common). They carry no details.

// ErrMalformed is a request body that cannot be parsed; text is the whole message.
func ErrMalformed(text string) *Error {
	return &Error{HTTP: 400, GRPC: codes.InvalidArgument, Code: "ERR_MALFORMED_REQUEST", Message: text, Category: CategoryCommon}
}

// ErrMalformedBody is a request body that cannot be parsed, with the parser's reason.
func ErrMalformedBody(err error) *Error {
	e := ErrMalformed(fmt.Sprintf("failed deserializing HTTP body: %s", err))
	e.Cause = err
	return e
}

// ErrBadRequest is a request that breaks a rule for names or headers; reason says which. Over HTTP and over gRPC its text begins with
// "invalid request: ".
func ErrBadRequest(reason string) *Error {
	return &Error{HTTP: 400, GRPC: codes.InvalidArgument, Code: "ERR_BAD_REQUEST", Message: "invalid request: " + reason, Category: CategoryCommon}
}

// ErrBodyRead is a request body that cannot be read, or is too large.
func ErrBodyRead(err error) *Error {
	return &Error{HTTP: 400, GRPC: codes.InvalidArgument, Code: "ERR_BODY_READ", Message: fmt.Sprintf("failed to read request body: %s", err), Category: CategoryCommon, Cause: err}
}

// ErrUnimplemented is an API that this version of the sidecar does not offer; why says so.
func ErrUnimplemented(why string) *Error {
	return &Error{HTTP: 501, GRPC: codes.Unimplemented, Code: "ERR_API_UNIMPLEMENTED", Message: "this API is currently not implemented: " + why, Category: CategoryCommon}
}

// ErrEncodeResponse is a result that cannot be put into the JSON of a response. It has no gRPC form.
func ErrEncodeResponse(err error) *Error {
	return &Error{HTTP: 500, GRPC: codes.Internal, Code: "ERR_INTERNAL", Message: fmt.Sprintf("failed to encode response as JSON: %s", err), Category: CategoryCommon, Cause: err}
}
