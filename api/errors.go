package api

import (
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"outrigger.dev/jsontext"
)

// ErrBodyTooLarge is what reading a request body over the limit fails with.
var ErrBodyTooLarge = errors.New("stream too large")

// Domain is the domain of every ErrorInfo of the API.
const Domain = "dapr.io"

// Category groups error codes in the error metric.
type Category string

// The categories of the error catalogue (Dapr API, error catalogue).
const (
	CategoryCommon     Category = "common"
	CategoryHealth     Category = "health"
	CategoryInvocation Category = "service-invocation"
	CategoryState      Category = "state"
	CategorySecret     Category = "secret"
	CategoryBinding    Category = "binding"
	CategoryPubSub     Category = "pubsub"
	CategoryActor      Category = "actor"
	CategoryJob        Category = "job"
	CategoryPluggable  Category = "pluggable-component"
)

// Error is an error of the Dapr API: what an HTTP client and what a gRPC client sees of it (Dapr API, error model).
type Error struct {
	// HTTP is the HTTP status.
	HTTP int
	// GRPC is the gRPC code.
	GRPC codes.Code
	// Code is the errorCode in the HTTP body, such as ERR_STATE_GET.
	Code    string
	Message string
	// HTTPMessage is the message in the HTTP body where it is not Message.
	HTTPMessage string
	// Category is a label of the error metric.
	Category Category
	// HTTPDetails and GRPCDetails are google.rpc messages that go with the error; either may be empty.
	HTTPDetails, GRPCDetails []proto.Message
	// Cause is the error underneath, if any, for errors.Is and errors.As.
	Cause error
}

func (e *Error) Error() string {
	return fmt.Sprintf("api error: code = %s desc = %s", e.GRPC, e.Message)
}

func (e *Error) Unwrap() error { return e.Cause }

// WithDetails attaches the same details for both kinds of client and returns e.
func (e *Error) WithDetails(details ...proto.Message) *Error {
	e.HTTPDetails, e.GRPCDetails = details, details
	return e
}

// WithGRPCReason attaches an ErrorInfo with only the error's code as reason for gRPC clients, and returns e.
func (e *Error) WithGRPCReason() *Error {
	e.GRPCDetails = []proto.Message{ErrorInfo(e.Code, nil)}
	return e
}

// ErrorInfo is the detail that carries an error's reason.
func ErrorInfo(reason string, metadata map[string]string) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{Reason: reason, Domain: Domain, Metadata: metadata}
}

// ResourceInfo is the detail that names the component an error is about.
func ResourceInfo(kind, name, description string) *errdetails.ResourceInfo {
	return &errdetails.ResourceInfo{ResourceType: kind, ResourceName: name, Description: description}
}

// GRPCStatus is what grpc-go sends for the error.
func (e *Error) GRPCStatus() *status.Status {
	s := status.New(e.GRPC, e.Message)
	if len(e.GRPCDetails) == 0 {
		return s
	}
	details := make([]protoadapt.MessageV1, len(e.GRPCDetails))
	for i, d := range e.GRPCDetails {
		details[i] = protoadapt.MessageV1Of(d)
	}
	with, err := s.WithDetails(details...)
	if err != nil {
		return s
	}
	return with
}

// AsError returns the Error in err's tree, or the unclassified error that the API makes of any other one.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	text := err.Error()
	if text == "" {
		text = "unknown error"
	}
	return &Error{HTTP: 500, GRPC: codes.Unknown, Code: "ERROR", Message: text, Category: CategoryCommon, Cause: err}
}

// AppendJSON appends the HTTP body of the error to dst.
func (e *Error) AppendJSON(dst []byte) []byte {
	message := e.HTTPMessage
	if message == "" {
		message = e.Message
	}
	if message == "" {
		message = "unknown error"
	}
	dst = append(dst, `{"errorCode":`...)
	dst = jsontext.AppendString(dst, e.Code)
	dst = append(dst, `,"message":`...)
	dst = jsontext.AppendString(dst, message)
	if len(e.HTTPDetails) > 0 {
		dst = append(dst, `,"details":[`...)
		for i, d := range e.HTTPDetails {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendDetail(dst, d)
		}
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

// appendDetail writes a google.rpc message with snake_case members, all present (Dapr API, error model: detail encoding).
func appendDetail(dst []byte, d proto.Message) []byte {
	name := string(d.ProtoReflect().Descriptor().FullName())
	m := map[string]any{"@type": "type.googleapis.com/" + name}
	switch d := d.(type) {
	case *errdetails.ErrorInfo:
		m["reason"], m["domain"], m["metadata"] = d.GetReason(), d.GetDomain(), d.GetMetadata()
	case *errdetails.ResourceInfo:
		m["resource_type"], m["resource_name"], m["owner"], m["description"] = d.GetResourceType(), d.GetResourceName(), d.GetOwner(), d.GetDescription()
	case *errdetails.BadRequest:
		violations := []map[string]string{}
		for _, v := range d.GetFieldViolations() {
			violations = append(violations, map[string]string{"field": v.GetField(), "description": v.GetDescription()})
		}
		m["field_violations"] = violations
	case *errdetails.Help:
		links := []map[string]string{}
		for _, l := range d.GetLinks() {
			links = append(links, map[string]string{"description": l.GetDescription(), "url": l.GetUrl()})
		}
		m["links"] = links
	case *errdetails.RetryInfo:
		m["retry_delay"] = d.GetRetryDelay().AsDuration().String()
	case *errdetails.DebugInfo:
		m["stack_entries"], m["detail"] = d.GetStackEntries(), d.GetDetail()
	case *errdetails.QuotaFailure:
		m["violations"] = d.GetViolations()
	case *errdetails.PreconditionFailure:
		m["violations"] = d.GetViolations()
	case *errdetails.RequestInfo:
		m["request_id"], m["serving_data"] = d.GetRequestId(), d.GetServingData()
	case *errdetails.LocalizedMessage:
		m["locale"], m["message"] = d.GetLocale(), d.GetMessage()
	default:
		m = map[string]any{"unknownDetailType": name, "unknownDetails": fmt.Sprint(d)}
	}
	text, err := json.Marshal(m)
	if err != nil {
		return append(dst, "{}"...)
	}
	return append(dst, text...)
}

// HTTPStatus maps a gRPC code to the HTTP status that stands for it (Dapr API, status mapping).
func HTTPStatus(c codes.Code) int {
	switch c {
	case codes.OK:
		return 200
	case codes.Canceled:
		return 408
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return 400
	case codes.DeadlineExceeded:
		return 504
	case codes.NotFound:
		return 404
	case codes.AlreadyExists, codes.Aborted:
		return 409
	case codes.PermissionDenied:
		return 403
	case codes.Unauthenticated:
		return 401
	case codes.ResourceExhausted:
		return 429
	case codes.Unimplemented:
		return 501
	case codes.Unavailable:
		return 503
	default:
		return 500
	}
}

// GRPCCode maps an HTTP status to the gRPC code that stands for it (Dapr API, status mapping). It is not the reverse of
// [HTTPStatus]: 400 is Internal.
func GRPCCode(httpStatus int) codes.Code {
	if httpStatus >= 200 && httpStatus < 300 {
		return codes.OK
	}
	switch httpStatus {
	case 400:
		return codes.Internal
	case 401:
		return codes.Unauthenticated
	case 403:
		return codes.PermissionDenied
	case 404:
		return codes.NotFound
	case 408:
		return codes.Canceled
	case 409:
		return codes.AlreadyExists
	case 429:
		return codes.ResourceExhausted
	case 501:
		return codes.Unimplemented
	case 503:
		return codes.Unavailable
	case 504:
		return codes.DeadlineExceeded
	default:
		return codes.Unknown
	}
}
