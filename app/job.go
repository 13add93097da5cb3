package app

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/tracing"
)

// Job is a triggered job on its way to the app.
type Job struct {
	Name string
	// Data is what the job was scheduled with; it may be nil.
	Data *anypb.Any
}

// JobError is what an app answered to a job that it did not take.
type JobError struct {
	// Unknown is true when the app has nothing that handles the job: HTTP status 404, gRPC code NotFound.
	Unknown bool
	// Answer is the app's, in words.
	Answer string
}

func (e *JobError) Error() string { return e.Answer }

// jobMethod is the path of jobs in HTTP apps, and the start of their method in gRPC apps.
const jobMethod = "job/"

// DeliverJob brings a job to the app: POST /job/<name> to one that speaks HTTP, AppCallback.OnJobEvent, or its former name, to one that speaks
// gRPC. The trace context is that of the span in ctx. An answer of the app that is no success is a [*JobError]; any other error means that
// there is no answer (Dapr API, jobs: delivery to the app).
func DeliverJob(ctx context.Context, channel Channel, job Job) error {
	if c, ok := channel.(*GRPCChannel); ok {
		return c.deliverJob(ctx, job)
	}
	body, err := jobBody(job.Data)
	if err != nil {
		return fmt.Errorf("the data of job %s cannot be sent to the app: %w", job.Name, err)
	}
	req := &invocation.Request{Verb: "POST", Method: jobMethod + job.Name, ContentType: "application/json", Body: body}
	if span := tracing.FromContext(ctx); span.Valid() {
		req.Header.Add(tracing.HeaderParent, span.Parent())
		if state := span.State(); state != "" {
			req.Header.Add(tracing.HeaderState, state)
		}
	}
	resp, err := channel.Invoke(ctx, req)
	if err != nil {
		return err
	}
	answer := resp.Body
	_ = resp.Close() // a success has nothing more to say, and of a failure the start is enough
	if resp.Status >= 200 && resp.Status < 300 {
		return nil
	}
	text := fmt.Sprintf("the app answered with status %d", resp.Status)
	if len(answer) > 0 {
		text += ": " + strings.ToValidUTF8(string(answer[:min(len(answer), maxAnswer)]), "\ufffd")
	}
	return &JobError{Unknown: resp.Status == 404, Answer: text}
}

// maxAnswer bounds how much of an app's answer is told, in bytes.
const maxAnswer = 512

// deliverJob calls the app. Many apps know only the former name of the method, and are then called by that one first.
func (c *GRPCChannel) deliverJob(ctx context.Context, job Job) error {
	if !c.health.Healthy() {
		return ErrUnhealthy
	}
	if err := c.gate.enter(ctx); err != nil {
		return err
	}
	defer c.gate.leave()
	in := &runtimev1.JobEventRequest{
		Name: job.Name, Data: job.Data, Method: jobMethod + job.Name, ContentType: job.Data.GetTypeUrl(),
		HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST},
	}
	span := tracing.FromContext(ctx)
	if md := TraceMetadata(span.Parent(), span.State()); md != nil {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	stable, alpha := runtimev1.AppCallback_OnJobEvent_FullMethodName, runtimev1.AppCallbackAlpha_OnJobEventAlpha1_FullMethodName
	if c.alphaJobs.Load() {
		stable, alpha = alpha, stable
	}
	err := c.conns.Invoke(ctx, stable, in, new(runtimev1.JobEventResponse))
	if status.Code(err) == codes.Unimplemented {
		if other := c.conns.Invoke(ctx, alpha, in, new(runtimev1.JobEventResponse)); status.Code(other) != codes.Unimplemented {
			err = other
			c.alphaJobs.Store(alpha == runtimev1.AppCallbackAlpha_OnJobEventAlpha1_FullMethodName)
		}
	}
	switch code := status.Code(err); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case code == codes.Unavailable: // the app cannot be reached
		return err
	case code == codes.Unimplemented:
		return &JobError{Answer: "the app has neither AppCallback.OnJobEvent nor AppCallbackAlpha.OnJobEventAlpha1: " + err.Error()}
	default:
		return &JobError{Unknown: code == codes.NotFound, Answer: "the app answered with " + err.Error()}
	}
}
