package invocation

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// deadlineSkew is how much earlier than the caller a gRPC server may let their common deadline pass.
const deadlineSkew = 100 * time.Millisecond

// Ended is the error of a gRPC call's context when that is why the call failed with err, nil otherwise. The server has the same
// deadline and may let it pass a moment before this side does.
func Ended(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	if deadline, has := ctx.Deadline(); has && status.Code(err) == codes.DeadlineExceeded && time.Until(deadline) < deadlineSkew {
		return context.DeadlineExceeded
	}
	return nil
}
