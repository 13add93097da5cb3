package awsauth

import "fmt"

// The ways in which a call of an AWS service fails. The SDK's retryers ask them, by their methods, whether to call again.

// LoginError is that there are no credentials to sign a call with.
type LoginError struct{ Err error }

func (e *LoginError) Error() string { return e.Err.Error() }
func (e *LoginError) Unwrap() error { return e.Err }

// SendError is a call that got no answer, and may be repeated.
type SendError struct{ Err error }

func (e *SendError) Error() string { return e.Err.Error() }
func (e *SendError) Unwrap() error { return e.Err }

// ConnectionError makes retryers call again.
func (*SendError) ConnectionError() bool { return true }

// BrokenError is an answer that ended too early, for which a call is repeated.
type BrokenError struct{ Err error }

func (e *BrokenError) Error() string { return "the answer broke off: " + e.Err.Error() }
func (e *BrokenError) Unwrap() error { return e.Err }

// ConnectionError makes retryers call again.
func (*BrokenError) ConnectionError() bool { return true }

// ServerError is an error that the service told.
type ServerError struct {
	// Status is the HTTP status.
	Status int
	// Code, Message and Request are the service's, "" when it gave none; Request is the ID under which AWS knows the call.
	Code, Message, Request string
}

func (e *ServerError) Error() string {
	text := fmt.Sprintf("status %d", e.Status)
	if e.Code != "" {
		text += " " + e.Code
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.Request != "" {
		text += " (request " + e.Request + ")"
	}
	return text
}

// HTTPStatusCode tells retryers whether a call may be repeated, and so does ErrorCode.
func (e *ServerError) HTTPStatusCode() int { return e.Status }

// ErrorCode is the service's code.
func (e *ServerError) ErrorCode() string { return e.Code }
