package scheduler

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/scheduler/engine"
	"outrigger.dev/controlplane/scheduler/record"
)

// await is the engine, once this instance has joined the group (Dapr API, scheduler: API). Later changes of the group hold nothing up.
func (s *server) await(ctx context.Context) (*engine.Engine, error) {
	select {
	case <-s.joined:
		return s.engine, nil
	default:
	}
	select {
	case <-s.joined:
		return s.engine, nil
	case <-s.stopping:
		return nil, errStopping
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

var errStopping = status.Error(codes.Unavailable, "the scheduler is shutting down")

// begin checks a request about jobs and waits for the engine.
func (s *server) begin(ctx context.Context, m *schedulerv1.JobMetadata) (*engine.Engine, error) {
	if err := s.authoriseJob(ctx, m); err != nil {
		return nil, err
	}
	return s.await(ctx)
}

// statusOf is an error of the engine for a client.
func statusOf(err error) error {
	var invalid *engine.InvalidError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, engine.ErrExists):
		return status.Error(codes.AlreadyExists, err.Error())
	case errors.Is(err, engine.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	// etcd's errors know their code.
	var coded interface{ Code() codes.Code }
	if errors.As(err, &coded) {
		return status.Error(coded.Code(), err.Error())
	}
	return status.Error(status.Code(err), err.Error())
}

// ScheduleJob implements [schedulerv1.SchedulerServer].
func (s *server) ScheduleJob(ctx context.Context, r *schedulerv1.ScheduleJobRequest) (*schedulerv1.ScheduleJobResponse, error) {
	err := s.schedule(ctx, r)
	kind := typeOf(r.GetMetadata())
	if err != nil {
		s.metrics.createFailed[kind].Inc()
		return nil, err
	}
	s.metrics.created[kind].Inc()
	return &schedulerv1.ScheduleJobResponse{}, nil
}

func (s *server) schedule(ctx context.Context, r *schedulerv1.ScheduleJobRequest) error {
	e, err := s.begin(ctx, r.GetMetadata())
	if err != nil {
		return err
	}
	if r.GetJob() == nil {
		return status.Error(codes.InvalidArgument, "the request has no job")
	}
	name, err := record.Name(r.GetName(), r.GetMetadata())
	if err != nil {
		return status.Error(codes.Unknown, err.Error())
	}
	job, err := record.New(r.GetJob(), r.GetMetadata())
	if err != nil {
		return statusOf(err)
	}
	return statusOf(e.Schedule(ctx, name, job, r.GetOverwrite()))
}

// beginJob is begin for one job, whose full name it returns.
func (s *server) beginJob(ctx context.Context, short string, m *schedulerv1.JobMetadata) (e *engine.Engine, name string, err error) {
	if e, err = s.begin(ctx, m); err != nil {
		return nil, "", err
	}
	if name, err = record.Name(short, m); err != nil {
		return nil, "", status.Error(codes.Unknown, err.Error())
	}
	return e, name, nil
}

// GetJob implements [schedulerv1.SchedulerServer].
func (s *server) GetJob(ctx context.Context, r *schedulerv1.GetJobRequest) (*schedulerv1.GetJobResponse, error) {
	e, name, err := s.beginJob(ctx, r.GetName(), r.GetMetadata())
	if err != nil {
		return nil, err
	}
	job, err := e.Get(ctx, name)
	if err != nil {
		return nil, statusOf(err)
	}
	return &schedulerv1.GetJobResponse{Job: job.Scheduler()}, nil
}

// DeleteJob implements [schedulerv1.SchedulerServer].
func (s *server) DeleteJob(ctx context.Context, r *schedulerv1.DeleteJobRequest) (*schedulerv1.DeleteJobResponse, error) {
	e, name, err := s.beginJob(ctx, r.GetName(), r.GetMetadata())
	if err != nil {
		return nil, err
	}
	if err := e.Delete(ctx, name); err != nil {
		return nil, statusOf(err)
	}
	s.metrics.deleted[typeOf(r.GetMetadata())].Inc()
	return &schedulerv1.DeleteJobResponse{}, nil
}

// ListJobs implements [schedulerv1.SchedulerServer].
func (s *server) ListJobs(ctx context.Context, r *schedulerv1.ListJobsRequest) (*schedulerv1.ListJobsResponse, error) {
	e, err := s.begin(ctx, r.GetMetadata())
	if err != nil {
		return nil, err
	}
	prefix, err := record.Selection(r.GetMetadata(), false)
	if err != nil {
		return nil, status.Error(codes.Unknown, err.Error())
	}
	found, err := e.List(ctx, prefix)
	if err != nil {
		return nil, statusOf(err)
	}
	list := &schedulerv1.ListJobsResponse{Jobs: make([]*schedulerv1.NamedJob, 0, len(found))}
	for _, f := range found {
		m, short, err := identify(f)
		if err != nil {
			s.o.Log.Warn(fmt.Sprintf("The job %q is left out of a list: %s; delete it", f.Name, err))
			continue
		}
		list.Jobs = append(list.Jobs, &schedulerv1.NamedJob{Name: short, Metadata: m, Job: f.Job.Scheduler()})
	}
	return list, nil
}

// identify is whose a stored job is, and its short name.
func identify(f engine.Named) (*schedulerv1.JobMetadata, string, error) {
	m, err := f.Job.Metadata()
	if err != nil {
		return nil, "", err
	}
	short, err := record.ShortName(f.Name, m)
	return m, short, err
}

// DeleteByMetadata implements [schedulerv1.SchedulerServer].
func (s *server) DeleteByMetadata(ctx context.Context, r *schedulerv1.DeleteByMetadataRequest) (*schedulerv1.DeleteByMetadataResponse, error) {
	m, partial := r.GetMetadata(), r.GetIdPrefixMatch()
	e, err := s.begin(ctx, m)
	if err != nil {
		return nil, err
	}
	a := m.GetTarget().GetActor()
	if a == nil && s.o.Security.Enabled() {
		partial = false // one app does not speak for another whose ID begins with its own
	}
	prefix, err := record.Selection(m, partial)
	if err != nil {
		return nil, status.Error(codes.Unknown, err.Error())
	}
	if partial && a != nil && a.GetId() == "" && s.o.Security.Enabled() && strings.HasPrefix(internalTypes, a.GetType()) {
		// The prefix takes in the types of the runtimes of all apps.
		err = s.deleteSome(ctx, e, prefix, func(_ string, owner *schedulerv1.JobMetadata) bool {
			return !foreign(m.GetNamespace(), m.GetAppId(), owner)
		})
	} else {
		_, err = e.DeletePrefix(ctx, prefix)
	}
	if err != nil {
		return nil, statusOf(err)
	}
	s.metrics.bulkDeleted.Inc()
	return &schedulerv1.DeleteByMetadataResponse{}, nil
}

// DeleteByNamePrefix implements [schedulerv1.SchedulerServer].
func (s *server) DeleteByNamePrefix(ctx context.Context, r *schedulerv1.DeleteByNamePrefixRequest) (*schedulerv1.DeleteByNamePrefixResponse, error) {
	m, begin := r.GetMetadata(), r.GetNamePrefix()
	e, err := s.begin(ctx, m)
	if err != nil {
		return nil, err
	}
	prefix, err := record.Selection(m, false)
	if err != nil {
		return nil, status.Error(codes.Unknown, err.Error())
	}
	if a := m.GetTarget().GetActor(); a != nil && a.GetId() == "" && begin != "" {
		// The names come after the ids, which are of all kinds.
		err = s.deleteSome(ctx, e, prefix, func(short string, _ *schedulerv1.JobMetadata) bool { return strings.HasPrefix(short, begin) })
	} else {
		_, err = e.DeletePrefix(ctx, prefix+begin)
	}
	if err != nil {
		return nil, statusOf(err)
	}
	s.metrics.bulkDeleted.Inc()
	return &schedulerv1.DeleteByNamePrefixResponse{}, nil
}

// deleteSome deletes those jobs of a prefix that are wanted, one after the other.
func (s *server) deleteSome(ctx context.Context, e *engine.Engine, prefix string, wanted func(short string, m *schedulerv1.JobMetadata) bool) error {
	found, err := e.List(ctx, prefix)
	if err != nil {
		return err
	}
	for _, f := range found {
		m, short, err := identify(f)
		if err != nil || !wanted(short, m) {
			continue
		}
		if err := e.Delete(ctx, f.Name); err != nil {
			return err
		}
	}
	return nil
}

// deleteNamespace deletes all jobs of a namespace (Dapr API, scheduler: Kubernetes).
func (s *server) deleteNamespace(ctx context.Context, namespace string) error {
	e, err := s.await(ctx)
	if err != nil {
		return err
	}
	n, err := e.DeletePrefix(ctx, record.NamespacePrefixes(namespace)...)
	if err != nil {
		return err
	}
	s.metrics.bulkDeleted.Inc()
	s.o.Log.Info(fmt.Sprintf("Deleted %d jobs of namespace %q, which is gone", n, namespace))
	return nil
}
