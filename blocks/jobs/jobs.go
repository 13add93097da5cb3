// Package jobs is the building block for jobs (Dapr API, jobs): it stores, reads and deletes the jobs of the app at the scheduler, and brings
// to the app those that the scheduler triggers.
//
// jobs.go is the service, which knows nothing of HTTP and gRPC; http.go and grpc.go are its faces. trigger.go brings jobs to the app.
package jobs

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/api"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/app"
	"outrigger.dev/mesh/scheduler"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/tracing"
)

// Scheduler keeps the jobs.
type Scheduler interface {
	Schedule(ctx context.Context, in *schedulerv1.ScheduleJobRequest) (*schedulerv1.ScheduleJobResponse, error)
	Get(ctx context.Context, in *schedulerv1.GetJobRequest) (*schedulerv1.GetJobResponse, error)
	Delete(ctx context.Context, in *schedulerv1.DeleteJobRequest) (*schedulerv1.DeleteJobResponse, error)
	List(ctx context.Context, in *schedulerv1.ListJobsRequest) (*schedulerv1.ListJobsResponse, error)
	DeleteByNamePrefix(ctx context.Context, in *schedulerv1.DeleteByNamePrefixRequest) (*schedulerv1.DeleteByNamePrefixResponse, error)
}

var _ Scheduler = (*scheduler.Client)(nil)

// DefaultTimeout bounds a call of the scheduler (Dapr API, jobs: scheduler call).
const DefaultTimeout = 30 * time.Second

// Options are what the block needs to know of its sidecar.
type Options struct {
	// AppID and Namespace own the jobs. Neither is empty.
	AppID, Namespace string
	Scheduler        Scheduler
	// App is the channel to the app as it is at the time; nil, or one that returns nil, means that there is no app.
	App func() app.Channel
	// Tracer makes the spans of deliveries; nil is off.
	Tracer *tracing.Tracer
	// Metrics may be nil.
	Metrics *metrics.Jobs
	// Clock measures latencies; nil is the system's clock.
	Clock clockwork.Clock
	// Log is nil to discard.
	Log *slog.Logger
}

// Jobs is the block. Its methods are safe for concurrent use.
type Jobs struct {
	options Options
	owner   api.JobOwner
}

// New makes the block.
func New(o Options) *Jobs {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Jobs{options: o, owner: api.JobOwner{AppID: o.AppID, Namespace: o.Namespace}}
}

// metadata names the owner to the scheduler.
func (j *Jobs) metadata() *schedulerv1.JobMetadata {
	return &schedulerv1.JobMetadata{
		AppId: j.options.AppID, Namespace: j.options.Namespace,
		Target: &schedulerv1.JobTargetMetadata{Type: &schedulerv1.JobTargetMetadata_Job{Job: &schedulerv1.TargetJob{}}},
	}
}

// Schedule stores a job. When there is one of that name it is replaced with overwrite, and an error without. The errors are [*api.Error].
func (j *Jobs) Schedule(ctx context.Context, job *runtimev1.Job, overwrite bool) error {
	switch {
	case job == nil:
		return api.ErrJobEmpty(j.owner)
	case job.GetName() == "":
		return api.ErrJobNameEmpty(j.owner)
	case job.Schedule == nil && job.DueTime == nil:
		return api.ErrJobScheduleEmpty(j.owner)
	}
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	_, err := j.options.Scheduler.Schedule(ctx, &schedulerv1.ScheduleJobRequest{
		Name: job.GetName(), Metadata: j.metadata(), Overwrite: overwrite,
		Job: &schedulerv1.Job{
			Schedule: job.Schedule, Repeats: job.Repeats, DueTime: job.DueTime, Ttl: job.Ttl, Data: job.GetData(), FailurePolicy: job.GetFailurePolicy(),
		},
	})
	if err != nil {
		return api.ErrScheduleJob(j.owner, err)
	}
	return nil
}

// Get reads a job. The errors are [*api.Error]; that there is none of the name is one.
func (j *Jobs) Get(ctx context.Context, name string) (*runtimev1.Job, error) {
	if name == "" {
		return nil, api.ErrJobNameEmpty(j.owner)
	}
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	out, err := j.options.Scheduler.Get(ctx, &schedulerv1.GetJobRequest{Name: name, Metadata: j.metadata()})
	if err != nil {
		return nil, api.ErrGetJob(j.owner, err)
	}
	return named(name, out.GetJob()), nil
}

// named is a job of the scheduler as apps see it.
func named(name string, job *schedulerv1.Job) *runtimev1.Job {
	out := &runtimev1.Job{Name: name}
	if job != nil {
		out.Schedule, out.Repeats, out.DueTime, out.Ttl = job.Schedule, job.Repeats, job.DueTime, job.Ttl
		out.Data, out.FailurePolicy = job.GetData(), job.GetFailurePolicy()
	}
	return out
}

// Delete deletes a job, if there is one of the name. The errors are [*api.Error].
func (j *Jobs) Delete(ctx context.Context, name string) error {
	if name == "" {
		return api.ErrJobNameEmpty(j.owner)
	}
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	if _, err := j.options.Scheduler.Delete(ctx, &schedulerv1.DeleteJobRequest{Name: name, Metadata: j.metadata()}); err != nil {
		return api.ErrDeleteJob(j.owner, err)
	}
	return nil
}

// DeleteByPrefix deletes the jobs whose names begin with a prefix; the empty one deletes all. The errors are [*api.Error].
func (j *Jobs) DeleteByPrefix(ctx context.Context, prefix string) error {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	if _, err := j.options.Scheduler.DeleteByNamePrefix(ctx, &schedulerv1.DeleteByNamePrefixRequest{NamePrefix: prefix, Metadata: j.metadata()}); err != nil {
		return api.ErrDeleteJob(j.owner, err)
	}
	return nil
}

// List lists the jobs, sorted by name. The errors are [*api.Error].
func (j *Jobs) List(ctx context.Context) ([]*runtimev1.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	list, err := j.options.Scheduler.List(ctx, &schedulerv1.ListJobsRequest{Metadata: j.metadata()})
	if err != nil {
		return nil, api.ErrListJobs(j.owner, err)
	}
	jobs := make([]*runtimev1.Job, 0, len(list.GetJobs()))
	for _, job := range list.GetJobs() {
		jobs = append(jobs, named(job.GetName(), job.GetJob()))
	}
	slices.SortStableFunc(jobs, func(a, b *runtimev1.Job) int { return strings.Compare(a.GetName(), b.GetName()) })
	return jobs, nil
}
