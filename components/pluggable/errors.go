package pluggable

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"outrigger.dev/api"
	"outrigger.dev/components/state"
)

// Error is what a component answered a call with: its text, and the gRPC code it gave.
type Error struct {
	status *status.Status
}

func (e *Error) Error() string { return e.status.Message() }

// GRPCStatus is the component's status.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// componentError is the error of a call: that of a caller who is gone, or the component's own.
func componentError(ctx context.Context, err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	if gone := ctx.Err(); gone != nil && (s.Code() == codes.Canceled || s.Code() == codes.DeadlineExceeded) {
		return gone
	}
	if s.Code() == codes.DeadlineExceeded && s.Message() == context.DeadlineExceeded.Error() {
		return context.DeadlineExceeded // gRPC's clock may be ahead of ours
	}
	if s.Message() == "" {
		return &Error{status.New(s.Code(), "the component answered "+s.Code().String()+" without a text")}
	}
	return &Error{s}
}

// unimplemented reports whether the component does not have the method.
func unimplemented(err error) bool { return status.Code(err) == codes.Unimplemented }

// BulkDeleteError says that a bulk deletion removed fewer items than it named.
type BulkDeleteError struct {
	// Expected is the number of items named, Affected of those removed.
	Expected, Affected int64
	Err                error
}

func (e *BulkDeleteError) Error() string {
	return fmt.Sprintf("delete affected only %d rows, expected %d: %s", e.Affected, e.Expected, e.Err)
}

// Unwrap is the component's own error.
func (e *BulkDeleteError) Unwrap() error { return e.Err }

// stateError gives the errors of state stores the meaning that their details have (Dapr API, pluggable components: errors): an
// etag that was wrong, a bulk deletion that was not complete, or an [*api.Error].
func stateError(err error) error {
	own, ok := errors.AsType[*Error](err)
	if !ok {
		return err
	}
	var infos []*errdetails.ErrorInfo
	var others []proto.Message
	for _, detail := range own.status.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			infos = append(infos, d)
		case *errdetails.BadRequest:
			if about, ok := etagViolation(d); ok {
				if about == "" {
					about = own.Error()
				}
				switch own.status.Code() {
				case codes.FailedPrecondition:
					return state.Mismatch(errors.New(about))
				case codes.InvalidArgument:
					return state.Invalid(errors.New(about))
				}
			}
			others = append(others, d)
		case proto.Message:
			others = append(others, d)
		}
	}
	if len(infos) != 1 {
		return err
	}
	info := infos[0]
	if own.status.Code() == codes.Internal {
		expected, bad := strconv.ParseInt(info.GetMetadata()["expected"], 10, 64)
		affected, worse := strconv.ParseInt(info.GetMetadata()["affected"], 10, 64)
		if bad == nil && worse == nil {
			return &BulkDeleteError{Expected: expected, Affected: affected, Err: err}
		}
	}
	if info.GetMetadata()["kit_error"] != "true" {
		return err
	}
	http, bad := strconv.Atoi(info.GetMetadata()["http_code"])
	tag := info.GetMetadata()["tag"]
	if bad != nil || http < 100 || http > 599 || tag == "" {
		return err
	}
	e := &api.Error{HTTP: http, GRPC: own.status.Code(), Code: tag, Message: own.status.Message(), Category: api.CategoryPluggable, Cause: err}
	return e.WithDetails(append([]proto.Message{&errdetails.ErrorInfo{Reason: info.GetReason(), Domain: info.GetDomain()}}, others...)...)
}

// etagViolation returns the description of a BadRequest that is about the etag and nothing else.
func etagViolation(d *errdetails.BadRequest) (description string, ok bool) {
	violations := d.GetFieldViolations()
	if len(violations) != 1 || violations[0].GetField() != "etag" {
		return "", false
	}
	return violations[0].GetDescription(), true
}
