package secrets

import (
	"context"
	"strings"
	"unicode/utf8"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

// SecretsServer is the gRPC face of the block: the secret methods of dapr.proto.runtime.v1.Dapr, to be embedded in the server
// of that service. Its name is its own so that it can stand beside the faces of other blocks.
type SecretsServer struct{ secrets *Secrets }

// Server returns the gRPC face.
func (s *Secrets) Server() SecretsServer { return SecretsServer{s} }

// GetSecret reads the entries of one secret.
func (g SecretsServer) GetSecret(ctx context.Context, in *runtimev1.GetSecretRequest) (*runtimev1.GetSecretResponse, error) {
	entries, err := g.secrets.Get(ctx, in.GetStoreName(), in.GetKey(), in.GetMetadata())
	if err != nil {
		return nil, err
	}
	return &runtimev1.GetSecretResponse{Data: valid(entries)}, nil
}

// GetBulkSecret reads all secrets that the app may read.
func (g SecretsServer) GetBulkSecret(ctx context.Context, in *runtimev1.GetBulkSecretRequest) (*runtimev1.GetBulkSecretResponse, error) {
	secrets, err := g.secrets.BulkGet(ctx, in.GetStoreName(), in.GetMetadata())
	if err != nil {
		return nil, err
	}
	out := &runtimev1.GetBulkSecretResponse{Data: make(map[string]*runtimev1.SecretResponse, len(secrets))}
	for name, entries := range secrets {
		out.Data[strings.ToValidUTF8(name, "\ufffd")] = &runtimev1.SecretResponse{Secrets: valid(entries)}
	}
	return out, nil
}

// valid returns entries that a gRPC message can hold: bytes that are no UTF-8 are replaced, as JSON does for HTTP, where
// otherwise the whole reply would fail.
func valid(entries map[string]string) map[string]string {
	ok := true
	for name, value := range entries {
		ok = ok && utf8.ValidString(name) && utf8.ValidString(value)
	}
	if ok {
		return entries
	}
	fixed := make(map[string]string, len(entries))
	for name, value := range entries {
		fixed[strings.ToValidUTF8(name, "\ufffd")] = strings.ToValidUTF8(value, "\ufffd")
	}
	return fixed
}
