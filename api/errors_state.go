package api

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// The errors of the state API (Dapr API, error catalogue: state).

// resourceState is the resource_type of state stores.
const resourceState = "state"

// ErrStateNotConfigured says that the sidecar has no state store at all. HTTP clients are told the app id if it is not empty.
func ErrStateNotConfigured(store, appID string) *Error {
	e := &Error{
		HTTP: 500, GRPC: codes.FailedPrecondition, Code: "ERR_STATE_STORE_NOT_CONFIGURED", Category: CategoryState,
		Message: "state store " + store + " is not configured",
	}
	return e.withAppID("DAPR_STATE_NOT_CONFIGURED", appID)
}

// ErrStateNotFound says that there are state stores, but none of this name.
func ErrStateNotFound(store, appID string) *Error {
	e := &Error{
		HTTP: 400, GRPC: codes.InvalidArgument, Code: "ERR_STATE_STORE_NOT_FOUND", Category: CategoryState,
		Message: "state store " + store + " is not found",
	}
	return e.withAppID("DAPR_STATE_NOT_FOUND", appID)
}

func (e *Error) withAppID(reason, appID string) *Error {
	e.WithDetails(ErrorInfo(reason, nil))
	if appID != "" {
		e.HTTPDetails = []proto.Message{ErrorInfo(reason, map[string]string{"appID": appID})}
	}
	return e
}

// ErrStateIllegalKey is a key that contains the separator of stored keys. Over HTTP its texts repeat the gRPC code.
func ErrStateIllegalKey(store, key string) *Error {
	e := &Error{
		HTTP: 400, GRPC: codes.InvalidArgument, Code: "ERR_MALFORMED_REQUEST", Category: CategoryState,
		Message: "input key/keyPrefix '" + key + "' can't contain '||'",
	}
	e.HTTPMessage = e.Error()
	details := func(text string) []proto.Message {
		return []proto.Message{
			&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: key, Description: text}}},
			ResourceInfo(resourceState, store, ""),
			ErrorInfo("DAPR_STATE_ILLEGAL_KEY", nil),
		}
	}
	e.HTTPDetails, e.GRPCDetails = details(e.HTTPMessage), details(e.Message)
	return e
}

// ErrStateKeyMissing is an item to save without a key.
func ErrStateKeyMissing() *Error {
	return &Error{
		HTTP: 400, GRPC: codes.InvalidArgument, Code: "ERR_MALFORMED_REQUEST", Category: CategoryState,
		Message: "state key cannot be empty", HTTPMessage: `"key" is a required field`,
		GRPCDetails: []proto.Message{ErrorInfo("ERR_STATE_SAVE", nil)},
	}
}

// ErrStateTransactionsNotSupported is a transaction on a store that has none.
func ErrStateTransactionsNotSupported(store string) *Error {
	e := &Error{
		HTTP: 500, GRPC: codes.Unimplemented, Code: "ERR_STATE_STORE_NOT_SUPPORTED", Category: CategoryState,
		Message: "state store " + store + " doesn't support transactions",
	}
	return e.WithDetails(
		&errdetails.Help{Links: []*errdetails.Help_Link{{
			Url:         "https://docs.dapr.io/reference/components-reference/supported-state-stores/",
			Description: "Check the list of state stores and the features they support",
		}}},
		ResourceInfo(resourceState, store, ""),
		ErrorInfo("DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED", nil),
	)
}

// ErrStateTooManyOperations is a transaction of n operations on a store that takes at most limit.
func ErrStateTooManyOperations(store string, n, limit int) *Error {
	e := &Error{
		HTTP: 400, GRPC: codes.InvalidArgument, Code: "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS", Category: CategoryState,
		Message: fmt.Sprintf("the transaction contains %d operations, which is more than what the state store supports: %d", n, limit),
	}
	return e.WithDetails(
		ResourceInfo(resourceState, store, ""),
		ErrorInfo("DAPR_STATE_TOO_MANY_TRANSACTIONS", map[string]string{
			"currentOpsTransaction": strconv.Itoa(n), "maxOpsPerTransaction": strconv.Itoa(limit),
		}),
	)
}

// ErrStateOperation is an operation of a transaction that is neither upsert nor delete.
func ErrStateOperation(operation string) *Error {
	e := &Error{
		HTTP: 400, GRPC: codes.Unimplemented, Code: "ERR_NOT_SUPPORTED_STATE_OPERATION", Category: CategoryState,
		Message: "operation type " + operation + " not supported",
	}
	return e.WithGRPCReason()
}

// ErrStateGet is a failed read of one key.
func ErrStateGet(store, key string, err error) *Error {
	return stateFailure("ERR_STATE_GET", "fail to get "+key+" from state store "+store+": ", err)
}

// ErrStateSave is a failed write.
func ErrStateSave(store string, err error) *Error {
	return stateFailure("ERR_STATE_SAVE", "failed saving state in state store "+store+": ", err)
}

// ErrStateDelete is a failed deletion of one key.
func ErrStateDelete(key string, err error) *Error {
	return stateFailure("ERR_STATE_DELETE", "failed deleting state with key "+key+": ", err)
}

// ErrStateBulkDelete is a failed deletion of several keys.
func ErrStateBulkDelete(store string, err error) *Error {
	return stateFailure("ERR_STATE_BULK_DELETE", "failed deleting state in state store "+store+": ", err)
}

// ErrStateTransaction is a transaction that the store failed or refused.
func ErrStateTransaction(err error) *Error {
	e := &Error{
		HTTP: 500, GRPC: codes.Internal, Code: "ERR_STATE_TRANSACTION", Category: CategoryState, Cause: err,
		Message: "error while executing state transaction: " + err.Error(),
	}
	return e.WithGRPCReason()
}

// ErrStateBulkGet is a bulk read that failed as a whole. It says nothing but what the store said.
func ErrStateBulkGet(err error) *Error {
	e := stateFailure("ERR_STATE_BULK_GET", "", err)
	if _, ok := ownStatus(err); !ok {
		e.GRPC, e.GRPCDetails = rawCode(err), nil
	}
	return e
}

// ownStatus returns the status that a store's error supplies, if it does.
func ownStatus(err error) (own *Error, ok bool) {
	ok = errors.As(err, &own)
	return own, ok
}

// rawCode is the gRPC code of an error that is passed on as it is.
func rawCode(err error) codes.Code {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return status.Code(err)
}

// stateFailure makes the error of a failed operation. A store's error that is an [*Error] itself (Dapr API, error model:
// pluggable components) supplies the HTTP status, and to gRPC clients goes unchanged.
func stateFailure(code, prefix string, err error) *Error {
	message := prefix + err.Error()
	if own, ok := ownStatus(err); ok {
		return &Error{
			HTTP: own.HTTP, GRPC: own.GRPC, Code: code, Category: CategoryState, Cause: err,
			Message: own.Message, HTTPMessage: message, GRPCDetails: own.GRPCDetails,
		}
	}
	e := &Error{HTTP: 500, GRPC: codes.Internal, Code: code, Category: CategoryState, Cause: err, Message: message}
	return e.WithGRPCReason()
}

// ErrStateQueryNotSupported is a query of a store that answers none.
func ErrStateQueryNotSupported(store string) *Error {
	e := &Error{
		HTTP: 500, GRPC: codes.Internal, Code: "ERR_STATE_STORE_NOT_SUPPORTED", Category: CategoryState,
		Message: "state store does not support querying",
	}
	return e.WithDetails(ResourceInfo(resourceState, store, ""), ErrorInfo("DAPR_STATE_QUERYING_NOT_SUPPORTED", nil))
}

// ErrStateQuery is a query that cannot be read, or that failed. A store's error that is an [*Error] itself is returned
// unchanged.
func ErrStateQuery(store string, err error) *Error {
	if own, ok := ownStatus(err); ok {
		return own
	}
	e := &Error{
		HTTP: 500, GRPC: codes.Internal, Code: "ERR_STATE_QUERY", Category: CategoryState, Cause: err,
		Message: "state store " + store + " query failed: " + err.Error(),
	}
	return e.WithDetails(ResourceInfo(resourceState, store, ""), ErrorInfo("DAPR_STATE_QUERY_FAILED", nil))
}
