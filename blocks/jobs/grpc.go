package jobs

import (
	"context"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

// JobsServer is the gRPC face of the block: the job methods of dapr.proto.runtime.v1.Dapr, to be embedded in the server of that service. Its
// name is its own so that it can stand beside the faces of other blocks.
type JobsServer struct{ jobs *Jobs }

// Server returns the gRPC face.
func (j *Jobs) Server() JobsServer { return JobsServer{j} }

// ScheduleJob stores a job.
func (g JobsServer) ScheduleJob(ctx context.Context, in *runtimev1.ScheduleJobRequest) (*runtimev1.ScheduleJobResponse, error) {
	if err := g.jobs.Schedule(ctx, in.GetJob(), in.GetOverwrite()); err != nil {
		return nil, err
	}
	return &runtimev1.ScheduleJobResponse{}, nil
}

// ScheduleJobAlpha1 is the former name of ScheduleJob.
func (g JobsServer) ScheduleJobAlpha1(ctx context.Context, in *runtimev1.ScheduleJobRequest) (*runtimev1.ScheduleJobResponse, error) {
	return g.ScheduleJob(ctx, in)
}

// GetJob reads a job.
func (g JobsServer) GetJob(ctx context.Context, in *runtimev1.GetJobRequest) (*runtimev1.GetJobResponse, error) {
	job, err := g.jobs.Get(ctx, in.GetName())
	if err != nil {
		return nil, err
	}
	return &runtimev1.GetJobResponse{Job: job}, nil
}

// GetJobAlpha1 is the former name of GetJob.
func (g JobsServer) GetJobAlpha1(ctx context.Context, in *runtimev1.GetJobRequest) (*runtimev1.GetJobResponse, error) {
	return g.GetJob(ctx, in)
}

// DeleteJob deletes a job, if it is there.
func (g JobsServer) DeleteJob(ctx context.Context, in *runtimev1.DeleteJobRequest) (*runtimev1.DeleteJobResponse, error) {
	if err := g.jobs.Delete(ctx, in.GetName()); err != nil {
		return nil, err
	}
	return &runtimev1.DeleteJobResponse{}, nil
}

// DeleteJobAlpha1 is the former name of DeleteJob.
func (g JobsServer) DeleteJobAlpha1(ctx context.Context, in *runtimev1.DeleteJobRequest) (*runtimev1.DeleteJobResponse, error) {
	return g.DeleteJob(ctx, in)
}

// DeleteJobsByPrefix deletes the jobs whose names begin with a prefix, all of them without one.
func (g JobsServer) DeleteJobsByPrefix(ctx context.Context, in *runtimev1.DeleteJobsByPrefixRequest) (*runtimev1.DeleteJobsByPrefixResponse, error) {
	if err := g.jobs.DeleteByPrefix(ctx, in.GetNamePrefix()); err != nil {
		return nil, err
	}
	return &runtimev1.DeleteJobsByPrefixResponse{}, nil
}

// DeleteJobsByPrefixAlpha1 is the former name of DeleteJobsByPrefix.
func (g JobsServer) DeleteJobsByPrefixAlpha1(ctx context.Context, in *runtimev1.DeleteJobsByPrefixRequestAlpha1) (*runtimev1.DeleteJobsByPrefixResponseAlpha1, error) {
	if err := g.jobs.DeleteByPrefix(ctx, in.GetNamePrefix()); err != nil {
		return nil, err
	}
	return &runtimev1.DeleteJobsByPrefixResponseAlpha1{}, nil
}

// ListJobs lists all jobs of the app.
func (g JobsServer) ListJobs(ctx context.Context, _ *runtimev1.ListJobsRequest) (*runtimev1.ListJobsResponse, error) {
	jobs, err := g.jobs.List(ctx)
	if err != nil {
		return nil, err
	}
	return &runtimev1.ListJobsResponse{Jobs: jobs}, nil
}

// ListJobsAlpha1 is the former name of ListJobs.
func (g JobsServer) ListJobsAlpha1(ctx context.Context, _ *runtimev1.ListJobsRequestAlpha1) (*runtimev1.ListJobsResponseAlpha1, error) {
	jobs, err := g.jobs.List(ctx)
	if err != nil {
		return nil, err
	}
	return &runtimev1.ListJobsResponseAlpha1{Jobs: jobs}, nil
}
