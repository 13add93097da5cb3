package api

import "google.golang.org/grpc/codes"

// The errors of the secrets API (Dapr API, error catalogue: secrets). They carry no details.

// ErrSecretNotConfigured says that the sidecar has no secret store at all.
func ErrSecretNotConfigured() *Error {
	return &Error{
		HTTP: 500, GRPC: codes.FailedPrecondition, Code: "ERR_SECRET_STORES_NOT_CONFIGURED", Category: CategorySecret,
		Message: "secret store is not configured",
	}
}

// ErrSecretStoreNotFound says that there are secret stores, but none of this name. Its HTTP status is 401.
func ErrSecretStoreNotFound(store string) *Error {
	return &Error{
		HTTP: 401, GRPC: codes.InvalidArgument, Code: "ERR_SECRET_STORE_NOT_FOUND", Category: CategorySecret,
		Message: "failed finding secret store with key " + store,
	}
}

// ErrSecretDenied is a secret that the scopes of the Configuration keep from the app.
func ErrSecretDenied(store, name string) *Error {
	return &Error{
		HTTP: 403, GRPC: codes.PermissionDenied, Code: "ERR_PERMISSION_DENIED", Category: CategorySecret,
		Message: `access denied by policy to get "` + name + `" from "` + store + `"`,
	}
}

// ErrSecretGet is a failed read of one secret; a missing one, too, is a failure.
func ErrSecretGet(store, name string, err error) *Error {
	return &Error{
		HTTP: 500, GRPC: codes.Internal, Code: "ERR_SECRET_GET", Category: CategorySecret, Cause: err,
		Message: "failed getting secret with key " + name + " from secret store " + store + ": " + err.Error(),
	}
}

// ErrSecretBulkGet is a failed read of all secrets.
func ErrSecretBulkGet(store string, err error) *Error {
	return &Error{
		HTTP: 500, GRPC: codes.Internal, Code: "ERR_SECRET_GET", Category: CategorySecret, Cause: err,
		Message: "failed getting secrets from secret store " + store + ": " + err.Error(),
	}
}
