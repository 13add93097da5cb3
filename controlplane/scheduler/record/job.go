package record

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	"outrigger.dev/api/gen/etcdcron"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/scheduler/schedule"
)

// The failure policy of a job that was given none (Dapr API, scheduler service: results).
const (
	DefaultInterval   = time.Second
	DefaultMaxRetries = 3
)

// Job is a job as it is stored, or is to be stored. It must not be changed once it was handed to somebody.
type Job struct {
	stored *etcdcron.StoredJob
}

// New is the job that a client asks for, with the metadata of the request. When it begins is decided by [Job.Begin].
func New(job *schedulerv1.Job, metadata *schedulerv1.JobMetadata) (*Job, error) {
	if job == nil {
		job = new(schedulerv1.Job) // the request had none: it is refused when it begins
	}
	packed, err := anypb.New(metadata)
	if err != nil {
		return nil, fmt.Errorf("the metadata of the job cannot be encoded: %w", err)
	}
	return &Job{stored: &etcdcron.StoredJob{Job: &etcdcron.Job{
		Schedule: job.Schedule, DueTime: job.DueTime, Ttl: job.Ttl, Repeats: job.Repeats,
		Metadata: packed, Payload: job.Data, FailurePolicy: policy(job.FailurePolicy),
	}}}, nil
}

// policy is a failure policy as it is stored.
func policy(p *commonv1.JobFailurePolicy) *etcdcron.FailurePolicy {
	switch p := p.GetPolicy().(type) {
	case *commonv1.JobFailurePolicy_Drop:
		return &etcdcron.FailurePolicy{Policy: &etcdcron.FailurePolicy_Drop{Drop: &etcdcron.FailurePolicyDrop{}}}
	case *commonv1.JobFailurePolicy_Constant:
		return &etcdcron.FailurePolicy{Policy: &etcdcron.FailurePolicy_Constant{Constant: &etcdcron.FailurePolicyConstant{
			Interval: p.Constant.GetInterval(), MaxRetries: p.Constant.MaxRetries,
		}}}
	default:
		return &etcdcron.FailurePolicy{Policy: &etcdcron.FailurePolicy_Constant{Constant: &etcdcron.FailurePolicyConstant{
			Interval: durationpb.New(DefaultInterval), MaxRetries: proto.Uint32(DefaultMaxRetries),
		}}}
	}
}

// Scheduler is the job as clients see it.
func (j *Job) Scheduler() *schedulerv1.Job {
	s := j.stored.GetJob()
	job := &schedulerv1.Job{Schedule: s.Schedule, DueTime: s.DueTime, Ttl: s.Ttl, Repeats: s.Repeats, Data: s.Payload}
	switch p := s.GetFailurePolicy().GetPolicy().(type) {
	case *etcdcron.FailurePolicy_Drop:
		job.FailurePolicy = &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Drop{Drop: &commonv1.JobFailurePolicyDrop{}}}
	case *etcdcron.FailurePolicy_Constant:
		job.FailurePolicy = &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Constant{Constant: &commonv1.JobFailurePolicyConstant{
			Interval: p.Constant.GetInterval(), MaxRetries: p.Constant.MaxRetries,
		}}}
	}
	return job
}

// Metadata are those of the request that made the job. It fails for a job that was stored by something else.
func (j *Job) Metadata() (*schedulerv1.JobMetadata, error) {
	m := new(schedulerv1.JobMetadata)
	if err := j.stored.GetJob().GetMetadata().UnmarshalTo(m); err != nil {
		return nil, fmt.Errorf("the metadata of the job cannot be read: %w", err)
	}
	return m, nil
}

// Payload is the data of the job; nil when it has none.
func (j *Job) Payload() *anypb.Any { return j.stored.GetJob().GetPayload() }

// Partition decides which instance of the scheduler triggers the job: the one whose index is its remainder by the number of
// instances. It differs from one version of a job to the next.
func (j *Job) Partition() uint64 { return j.stored.GetPartitionId() }

// request is when the job should fire, as the client wrote it.
func (j *Job) request() schedule.Request {
	s := j.stored.GetJob()
	return schedule.Request{Schedule: s.Schedule, DueTime: s.DueTime, TTL: s.Ttl, Repeats: s.Repeats}
}

// Begin is the job as it is stored when it is created at the time now. What is wrong with it is a [*schedule.InvalidError].
func (j *Job) Begin(now time.Time, partition uint64, parse schedule.Parser) (*Job, error) {
	plan, err := schedule.Check(j.request(), now, parse)
	if err != nil {
		return nil, err
	}
	stored := &etcdcron.StoredJob{PartitionId: partition, Job: j.stored.GetJob()}
	if plan.Due {
		stored.Begin = &etcdcron.StoredJob_DueTime{DueTime: timestamppb.New(plan.Start)}
	} else {
		stored.Begin = &etcdcron.StoredJob_Start{Start: timestamppb.New(plan.Start)}
	}
	if !plan.Expiration.IsZero() {
		stored.Expiration = timestamppb.New(plan.Expiration)
	}
	return &Job{stored: stored}, nil
}

// Plan is what the ticks of a stored job are computed from.
func (j *Job) Plan(parse schedule.Parser) (schedule.Plan, error) {
	var plan schedule.Plan
	begin := j.stored.GetStart()
	if due := j.stored.GetDueTime(); due != nil {
		begin, plan.Due = due, true
	}
	plan.Start = begin.AsTime()
	if e := j.stored.GetExpiration(); e != nil {
		plan.Expiration = e.AsTime()
	}
	return schedule.Restore(j.request(), plan, parse)
}

// Retry says how a failed tick is tried again: interval after the attempt before, at most most times; unlimited overrules most.
// A tick that is not tried again has most 0 and is not unlimited.
func (j *Job) Retry() (interval time.Duration, most uint32, unlimited bool) {
	switch p := j.stored.GetJob().GetFailurePolicy().GetPolicy().(type) {
	case *etcdcron.FailurePolicy_Drop:
		return 0, 0, false
	case *etcdcron.FailurePolicy_Constant:
		return max(0, p.Constant.GetInterval().AsDuration()), p.Constant.GetMaxRetries(), p.Constant.MaxRetries == nil
	default:
		return DefaultInterval, DefaultMaxRetries, false
	}
}

// Encode is the value under the job's key.
func (j *Job) Encode() ([]byte, error) {
	value, err := proto.Marshal(j.stored)
	if err != nil {
		return nil, fmt.Errorf("the job cannot be encoded: %w", err)
	}
	return value, nil
}

// Decode reads the value under a job's key.
func Decode(value []byte) (*Job, error) {
	stored := new(etcdcron.StoredJob)
	if err := proto.Unmarshal(value, stored); err != nil {
		return nil, fmt.Errorf("the stored job cannot be read: %w", err)
	}
	if stored.Job == nil {
		return nil, fmt.Errorf("the stored job of %d bytes is empty", len(value))
	}
	return &Job{stored: stored}, nil
}

// PartitionOf is the partition in the value under a job's key, read without decoding the rest; false if it is not a job.
func PartitionOf(value []byte) (uint64, bool) {
	for len(value) > 0 {
		number, kind, n := protowire.ConsumeTag(value)
		if n < 0 {
			return 0, false
		}
		value = value[n:]
		if number == 1 && kind == protowire.VarintType {
			partition, n := protowire.ConsumeVarint(value)
			return partition, n > 0
		}
		if n = protowire.ConsumeFieldValue(number, kind, value); n < 0 {
			return 0, false
		}
		value = value[n:]
	}
	return 0, true // absent means zero
}
