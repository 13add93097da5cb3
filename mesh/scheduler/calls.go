package scheduler

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// The calls below go to the schedulers in turns, to those that can be reached; any of them serves any job. The caller bounds them by their
// context. Their errors are [ErrDisabled], [ErrClosed] or gRPC statuses. A call that a scheduler cancels, for example because it stops, is made
// again with the next one (Dapr API, jobs: scheduler call).

// Schedule stores a job.
func (c *Client) Schedule(ctx context.Context, in *schedulerv1.ScheduleJobRequest) (*schedulerv1.ScheduleJobResponse, error) {
	// Without overwriting, a second try would trip over the job that the first one may have stored.
	return call(ctx, c, calling{wait: true, repeat: in.GetOverwrite()}, schedulerv1.SchedulerClient.ScheduleJob, in)
}

// Get reads a job.
func (c *Client) Get(ctx context.Context, in *schedulerv1.GetJobRequest) (*schedulerv1.GetJobResponse, error) {
	return call(ctx, c, calling{wait: true, repeat: true}, schedulerv1.SchedulerClient.GetJob, in)
}

// Delete deletes a job, if it is there.
func (c *Client) Delete(ctx context.Context, in *schedulerv1.DeleteJobRequest) (*schedulerv1.DeleteJobResponse, error) {
	return call(ctx, c, calling{wait: true, repeat: true}, schedulerv1.SchedulerClient.DeleteJob, in)
}

// List lists the jobs of an app, or the reminders of an actor or actor type. It fails at once when no scheduler can be reached.
func (c *Client) List(ctx context.Context, in *schedulerv1.ListJobsRequest) (*schedulerv1.ListJobsResponse, error) {
	return call(ctx, c, calling{}, schedulerv1.SchedulerClient.ListJobs, in)
}

// DeleteByMetadata deletes all jobs of an owner. It fails at once when no scheduler can be reached.
func (c *Client) DeleteByMetadata(ctx context.Context, in *schedulerv1.DeleteByMetadataRequest) (*schedulerv1.DeleteByMetadataResponse, error) {
	return call(ctx, c, calling{}, schedulerv1.SchedulerClient.DeleteByMetadata, in)
}

// DeleteByNamePrefix deletes the jobs of an owner whose names begin with a prefix. It fails at once when no scheduler can be reached.
func (c *Client) DeleteByNamePrefix(ctx context.Context, in *schedulerv1.DeleteByNamePrefixRequest) (*schedulerv1.DeleteByNamePrefixResponse, error) {
	return call(ctx, c, calling{}, schedulerv1.SchedulerClient.DeleteByNamePrefix, in)
}

// calling is how a call is made.
type calling struct {
	// wait waits for a connection for as long as the context lives.
	wait bool
	// repeat makes the call again when the connection broke under it: it does no harm to do it twice.
	repeat bool
}

// call makes a call. Which scheduler it goes to is the choice of the connection, which goes round those that can be reached.
func call[In, Out any](ctx context.Context, c *Client, how calling,
	method func(schedulerv1.SchedulerClient, context.Context, *In, ...grpc.CallOption) (*Out, error), in *In,
) (*Out, error) {
	conn, err := c.connection(ctx)
	if err != nil {
		return nil, err
	}
	client := schedulerv1.NewSchedulerClient(conn)
	for {
		out, err := method(client, ctx, in, grpc.WaitForReady(how.wait))
		if err == nil {
			return out, nil
		}
		select {
		case <-c.closed:
			return nil, ErrClosed
		default:
		}
		code := status.Code(err)
		again := code == codes.Canceled || how.repeat && code == codes.Unavailable
		if !again || !c.pause(ctx, c.between(125*time.Millisecond, 375*time.Millisecond)) {
			return nil, err
		}
	}
}

// connection is the connection to the schedulers, once it is known who they are.
func (c *Client) connection(ctx context.Context) (*grpc.ClientConn, error) {
	if c.disabled() {
		return nil, ErrDisabled
	}
	select {
	case <-c.ready: // the usual case, without a look at more
	default:
		select {
		case <-c.ready:
		case <-c.closed:
			return nil, ErrClosed
		case <-ctx.Done():
			c.mu.Lock()
			failure := c.failure
			c.mu.Unlock()
			why := "none of " + strings.Join(c.options.Addresses, ", ") + " has answered yet"
			if failure != nil {
				why = failure.Error()
			}
			return nil, status.Errorf(status.FromContextError(ctx.Err()).Code(), "%s while waiting for a scheduler: %s", ctx.Err(), why)
		}
	}
	return c.conn.Load(), nil
}
