package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/telemetry/tracing"
)

// baggage checks the baggage header of a request and echoes it in the reply; a malformed one is answered with 400 (Dapr
// API, HTTP server: middleware order). It reports whether the request was answered.
func baggage(x exchange) (answered bool) {
	header := x.Header("Baggage")
	if len(header) == 0 || strings.Contains(x.Path(), "/healthz") {
		return false
	}
	if err := tracing.CheckBaggage(string(header)); err != nil {
		text(x, http.StatusBadRequest, fmt.Sprintf("invalid baggage header: %s\n", err))
		return true
	}
	x.SetHeader("Baggage", string(header))
	return false
}

// grpcBaggage is the same check for the metadata of a gRPC call; proxied calls get no echo, for their header is the app's.
func grpcBaggage(ctx context.Context, proxied bool) error {
	values := metadata.ValueFromIncomingContext(ctx, tracing.HeaderBaggage)
	for _, header := range values {
		if err := tracing.CheckBaggage(header); err != nil {
			return status.Errorf(codes.InvalidArgument, "invalid baggage header: %s", err)
		}
	}
	if len(values) > 0 && !proxied {
		return grpc.SetHeader(ctx, metadata.MD{tracing.HeaderBaggage: values})
	}
	return nil
}
