package jobs

import (
	"context"
	"errors"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/app"
	"outrigger.dev/telemetry/tracing"
)

var errNoApp = errors.New("this sidecar has no app that could take it; give --app-port")

// Trigger brings a triggered job to the app, and tells what the scheduler shall know of it. An app that has nothing for the job will not have it
// at the next try either, so that this is no failure to the scheduler, though counted as one (Dapr API, jobs: delivery to the app). It
// returns early when ctx ends: nobody asks for the result any more then.
func (j *Jobs) Trigger(ctx context.Context, job *schedulerv1.WatchJobsResponse) schedulerv1.WatchJobsRequestResultStatus {
	err := j.deliver(ctx, job)
	switch refused, _ := errors.AsType[*app.JobError](err); {
	case err == nil:
		return schedulerv1.WatchJobsRequestResultStatus_SUCCESS
	case ctx.Err() != nil:
		j.options.Log.Debug("a job was broken off on its way to the app, and comes again", "job", job.GetName())
	case refused != nil && refused.Unknown:
		j.options.Log.Error("the app has no handler for a job, which is not tried again", "job", job.GetName(), "error", err)
		return schedulerv1.WatchJobsRequestResultStatus_SUCCESS
	default:
		j.options.Log.Error("a job failed", "job", job.GetName(), "error", err)
	}
	return schedulerv1.WatchJobsRequestResultStatus_FAILED
}

// deliver brings a job to the app within a span, and counts the app's answer.
func (j *Jobs) deliver(ctx context.Context, job *schedulerv1.WatchJobsResponse) error {
	var channel app.Channel
	if j.options.App != nil {
		channel = j.options.App()
	}
	if channel == nil {
		return errNoApp
	}
	span := j.span(job.GetName())
	start := j.options.Clock.Now()
	err := app.DeliverJob(tracing.NewContext(ctx, span), channel, app.Job{Name: job.GetName(), Data: job.GetData()})
	if _, answered := errors.AsType[*app.JobError](err); answered || err == nil {
		j.options.Metrics.Triggered(err == nil, j.options.Clock.Since(start))
	}
	if span.Recording() {
		if err != nil {
			span.Fail(err.Error())
		}
		span.End()
	}
	return err
}

// span begins the span of a delivery. Nothing is known of who scheduled the job: it is the first of its trace.
func (j *Jobs) span(name string) *tracing.Span {
	t := j.options.Tracer
	if !t.Spans() {
		return nil
	}
	span := t.Start(tracing.Context{}, tracing.Client, "jobs")
	if span.Recording() {
		span.SetName("job/" + name)
		span.Set("rpc.service", "Dapr")
	}
	return span
}
