package api

import "google.golang.org/grpc/codes"

// The errors of the bindings API (Dapr API, error catalogue: bindings).

// ErrInvokeOutputBinding is an operation of an output binding that failed, whatever the reason: also a binding that does not exist
// is one (Dapr API, bindings: errors).
func ErrInvokeOutputBinding(binding string, err error) *Error {
	e := &Error{
		HTTP: 500, GRPC: codes.Internal, Code: "ERR_INVOKE_OUTPUT_BINDING", Category: CategoryBinding, Cause: err,
		Message: "error invoking output binding " + binding + ": " + err.Error(),
	}
	return e.WithGRPCReason()
}

// ErrBaggage is a baggage header that cannot be read (Dapr API, bindings: errors).
func ErrBaggage(err error) *Error {
	e := ErrMalformed("invalid baggage header: " + err.Error())
	e.GRPC, e.Cause = codes.Unknown, err
	return e
}
