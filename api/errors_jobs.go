package api

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The errors of the jobs API (Dapr API, error catalogue: jobs). Their code is their reason, too.

// JobOwner is whose jobs an error is about: it goes into the details.
type JobOwner struct{ AppID, Namespace string }

func errJob(http int, grpc codes.Code, reason, message string, metadata map[string]string) *Error {
	e := &Error{HTTP: http, GRPC: grpc, Code: reason, Message: message, Category: CategoryJob}
	return e.WithDetails(ErrorInfo(reason, metadata))
}

func (o JobOwner) metadata() map[string]string {
	return map[string]string{"appID": o.AppID, "namespace": o.Namespace}
}

func (o JobOwner) invalid(reason, message string) *Error {
	return errJob(400, codes.InvalidArgument, reason, message, o.metadata())
}

// ErrJobEmpty is a request to store a job without one.
func ErrJobEmpty(o JobOwner) *Error { return o.invalid("DAPR_SCHEDULER_EMPTY", "Job is empty") }

// ErrJobNameEmpty is a job without a name.
func ErrJobNameEmpty(o JobOwner) *Error {
	return o.invalid("DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty")
}

// ErrJobNameInBody is a job that is named in the body of its request, where only the URL may name it. It has no gRPC form.
func ErrJobNameInBody(appID string) *Error {
	return errJob(400, codes.InvalidArgument, "DAPR_SCHEDULER_JOB_NAME", "Set the job name in the url only", map[string]string{"appID": appID})
}

// ErrJobScheduleEmpty is a job with neither a schedule nor a due time.
func ErrJobScheduleEmpty(o JobOwner) *Error {
	return o.invalid("DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty")
}

// ErrScheduleJob is a job that the scheduler did not store; the status is the scheduler's. A job that makes no sense is the caller's fault.
func ErrScheduleJob(o JobOwner, err error) *Error {
	code := codes.Internal
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		code = s.Code()
	}
	if jobInvalid(err) {
		code = codes.InvalidArgument
	}
	return o.failed(code, "DAPR_SCHEDULER_SCHEDULE_JOB", "schedule job", err)
}

// ErrGetJob is a job that the scheduler did not give; its status is 404 when there is none of that name.
func ErrGetJob(o JobOwner, err error) *Error {
	code := codes.Internal
	switch {
	case status.Code(err) == codes.NotFound:
		code = codes.NotFound
	case jobInvalid(err):
		code = codes.InvalidArgument
	}
	return o.failed(code, "DAPR_SCHEDULER_GET_JOB", "get job", err)
}

// ErrDeleteJob are one or more jobs that the scheduler did not delete.
func ErrDeleteJob(o JobOwner, err error) *Error {
	code := codes.Internal
	if jobInvalid(err) {
		code = codes.InvalidArgument
	}
	return o.failed(code, "DAPR_SCHEDULER_DELETE_JOB", "delete job", err)
}

// ErrListJobs are jobs that the scheduler did not list.
func ErrListJobs(o JobOwner, err error) *Error {
	return o.failed(codes.Internal, "DAPR_SCHEDULER_LIST_JOBS", "list jobs", err)
}

func (o JobOwner) failed(code codes.Code, reason, what string, err error) *Error {
	e := errJob(HTTPStatus(code), code, reason, "failed to "+what+" due to: "+err.Error(), o.metadata())
	e.Cause = err
	return e
}

// jobInvalid reports whether a scheduler found fault with a job or its name. That of Dapr gives no code with it, only the text.
func jobInvalid(err error) bool {
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	if s.Code() == codes.InvalidArgument {
		return true
	}
	return s.Code() == codes.Unknown && (strings.HasPrefix(s.Message(), "job failed validation: ") || strings.HasPrefix(s.Message(), "job name is invalid "))
}
