package api

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestErrActorInvoke(t *testing.T) {
	detailed, err := status.New(codes.Aborted, "busy").WithDetails(ErrorInfo("WHY", nil))
	if err != nil {
		t.Fatal(err)
	}
	const prefix = "error invoke actor method: "
	for name, tc := range map[string]struct {
		err         error
		code        codes.Code
		http, grpc  string
		details     int
		errorCode   string
		isTheCause  error
		keepsStatus int
	}{
		"plain":     {context.Canceled, codes.Internal, prefix + "context canceled", prefix + "context canceled", 0, "ERR_ACTOR_INVOKE_METHOD", context.Canceled, 500},
		"remote":    {detailed.Err(), codes.Aborted, prefix + "rpc error: code = Aborted desc = busy", "busy", 1, "ERR_ACTOR_INVOKE_METHOD", nil, 500},
		"retried":   {fmt.Errorf("failed to invoke target a after 5 retries. Error: %w", detailed.Err()), codes.Aborted, prefix + "failed to invoke target a after 5 retries. Error: rpc error: code = Aborted desc = busy", "failed to invoke target a after 5 retries. Error: rpc error: code = Aborted desc = busy", 1, "ERR_ACTOR_INVOKE_METHOD", nil, 500},
		"no host":   {ErrActorNoAddress("t", "i"), codes.FailedPrecondition, prefix + "api error: code = FailedPrecondition desc = did not find address for actor 't/i'", "did not find address for actor 't/i'", 0, "ERR_ACTOR_INVOKE_METHOD", nil, 500},
		"own":       {ErrActorRuntimeClosed(), codes.Unavailable, "actor runtime is closed", "actor runtime is closed", 0, "ERR_ACTOR_RUNTIME_CLOSED", nil, 503},
		"own twice": {ErrActorInvoke(errors.New("x")), codes.Internal, prefix + "x", prefix + "x", 0, "ERR_ACTOR_INVOKE_METHOD", nil, 500},
	} {
		t.Run(name, func(t *testing.T) {
			e := ErrActorInvoke(tc.err)
			text := e.HTTPMessage
			if text == "" {
				text = e.Message
			}
			if e.GRPC != tc.code || text != tc.http || e.Message != tc.grpc || len(e.GRPCDetails) != tc.details || e.Code != tc.errorCode || e.HTTP != tc.keepsStatus {
				t.Errorf("got %+v", e)
			}
			if e.Category != CategoryActor || len(e.HTTPDetails) != 0 || tc.isTheCause != nil && !errors.Is(e, tc.isTheCause) {
				t.Errorf("got %+v", e)
			}
		})
	}
}
