package invocation

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestEnded(t *testing.T) {
	within := func(d time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		t.Cleanup(cancel)
		return ctx
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late, other := status.Error(codes.DeadlineExceeded, "late"), status.Error(codes.Internal, "other")
	for name, tc := range map[string]struct {
		ctx  context.Context
		err  error
		want error
	}{
		"cancelled":           {gone, other, context.Canceled},
		"no deadline":         {t.Context(), late, nil},
		"a deadline far away": {within(time.Hour), late, nil},
		"the server's first":  {within(deadlineSkew - time.Millisecond), late, context.DeadlineExceeded},
	} {
		if got := Ended(tc.ctx, tc.err); !errors.Is(got, tc.want) || tc.want == nil && got != nil {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
