package pubsub

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrClosed is what a closed component answers.
var ErrClosed = Terminal(errors.New("component is closed"))

// Error is an error of a broker with the class that retry policies match on (Dapr API, resiliency: matching).
type Error struct {
	Code codes.Code
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// GRPCStatus makes the code visible to status.FromError.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Err.Error()) }

// Transient says that the same call may succeed later: the broker cannot be reached, or is busy. nil stays nil.
func Transient(err error) error { return classed(codes.Unavailable, err) }

// Terminal says that the same call can never succeed: the component is closed, or the request is wrong. nil stays nil.
func Terminal(err error) error { return classed(codes.FailedPrecondition, err) }

func classed(code codes.Code, err error) error {
	if err == nil {
		return nil
	}
	if known, ok := errors.AsType[*Error](err); ok {
		code = known.Code
	}
	return &Error{Code: code, Err: err}
}
