package actors

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"outrigger.dev/api"
	commonv1 "outrigger.dev/api/gen/common/v1"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/blocks/actors/timeformat"
	"outrigger.dev/telemetry/metrics"
)

// Scheduler is the client of the scheduler service, which keeps the reminders as jobs.
type Scheduler interface {
	Schedule(ctx context.Context, in *schedulerv1.ScheduleJobRequest) (*schedulerv1.ScheduleJobResponse, error)
	Get(ctx context.Context, in *schedulerv1.GetJobRequest) (*schedulerv1.GetJobResponse, error)
	Delete(ctx context.Context, in *schedulerv1.DeleteJobRequest) (*schedulerv1.DeleteJobResponse, error)
	List(ctx context.Context, in *schedulerv1.ListJobsRequest) (*schedulerv1.ListJobsResponse, error)
	DeleteByMetadata(ctx context.Context, in *schedulerv1.DeleteByMetadataRequest) (*schedulerv1.DeleteByMetadataResponse, error)
}

// RemindersOptions are what reminders need to know of their sidecar.
type RemindersOptions struct {
	AppID, Namespace string
	Core             Core
	Scheduler        Scheduler
	// Metrics may be nil.
	Metrics *metrics.Actors
	// Log gets the failures of reminders; nil discards them.
	Log *slog.Logger
}

// Reminders are the reminders of the actors of this sidecar's types (Dapr API, actors: reminders). They are jobs of the scheduler.
// Their methods are safe for concurrent use.
type Reminders struct {
	options RemindersOptions

	mu    sync.Mutex
	turns map[nameKey]*reminderTurns
}

// reminderTurns are the turns of one reminder that run on this sidecar.
type reminderTurns struct {
	count int
	// registered says that the reminder was registered anew since the first of them began.
	registered bool
}

// NewReminders makes a Reminders.
func NewReminders(o RemindersOptions) *Reminders {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Reminders{options: o, turns: map[nameKey]*reminderTurns{}}
}

// ReminderRequest is what an app asks for. Its times may be empty; the scheduler judges them.
type ReminderRequest struct {
	Type, ID, Name       string
	DueTime, Period, TTL string
	// Data is nil for none.
	Data *anypb.Any
	// Keep lets a reminder of this name that exists already be, and makes it the error.
	Keep bool
	// FailurePolicy is nil for the scheduler's default: 3 retries, 1s apart.
	FailurePolicy *commonv1.JobFailurePolicy
}

// metadata names the job of a reminder, or of all reminders of an actor or a type.
func (r *Reminders) metadata(actorType, id string) *schedulerv1.JobMetadata {
	return &schedulerv1.JobMetadata{
		AppId: r.options.AppID, Namespace: r.options.Namespace,
		Target: &schedulerv1.JobTargetMetadata{Type: &schedulerv1.JobTargetMetadata_Actor{
			Actor: &schedulerv1.TargetActorReminder{Type: actorType, Id: id},
		}},
	}
}

// hosted refuses types that do not live here: only their hosts may touch their reminders (Dapr API, actors: reminders).
func (r *Reminders) hosted(actorType string) error {
	if !r.options.Core.Hosts(actorType) {
		return api.ErrActorReminderNonHosted()
	}
	return nil
}

// Create registers a reminder, and returns when the scheduler has stored it. There is no bound but the context's. The errors are
// [*api.Error].
func (r *Reminders) Create(ctx context.Context, req ReminderRequest) error {
	if err := r.hosted(req.Type); err != nil {
		return err
	}
	job := &schedulerv1.Job{Data: req.Data, FailurePolicy: req.FailurePolicy, DueTime: given(req.DueTime), Ttl: given(req.TTL)}
	if req.Period != "" {
		schedule, repeats, err := timeformat.ReminderSchedule(req.Period)
		if err != nil {
			return api.ErrActorReminderCreate(err)
		}
		job.Schedule = &schedule
		if repeats > 0 {
			job.Repeats = &repeats
		}
	}
	r.registering(nameKey{req.Type, req.ID, req.Name})
	_, err := r.options.Scheduler.Schedule(ctx, &schedulerv1.ScheduleJobRequest{
		Name: req.Name, Job: job, Metadata: r.metadata(req.Type, req.ID), Overwrite: !req.Keep,
	})
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.AlreadyExists:
		return api.ErrActorReminderExists(req.Name)
	default:
		return api.ErrActorReminderCreate(err)
	}
}

// given is a text of a request, nil when it is empty.
func given(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// RegisteredReminder is a reminder as the scheduler has it.
type RegisteredReminder struct {
	Type, ID, Name string
	// Data is nil for none.
	Data *anypb.Any
	// DueTime is as it was given at registration; Period is in the scheduler's words, such as "@every 1m0s"; TTL is there only if it was
	// given as a time.
	DueTime, Period, TTL *string
}

// registered reads a job.
func registered(actorType, id, name string, job *schedulerv1.Job) RegisteredReminder {
	r := RegisteredReminder{Type: actorType, ID: id, Name: name, Data: job.GetData(), DueTime: filled(job.DueTime), Period: filled(job.Schedule)}
	if ttl := filled(job.Ttl); ttl != nil {
		if _, err := time.Parse(time.RFC3339, *ttl); err == nil {
			r.TTL = ttl
		}
	}
	return r
}

func filled(text *string) *string {
	if text == nil || *text == "" {
		return nil
	}
	return text
}

// Get returns a reminder. The errors are [*api.Error].
func (r *Reminders) Get(ctx context.Context, actorType, id, name string) (RegisteredReminder, error) {
	if err := r.hosted(actorType); err != nil {
		return RegisteredReminder{}, err
	}
	out, err := r.options.Scheduler.Get(ctx, &schedulerv1.GetJobRequest{Name: name, Metadata: r.metadata(actorType, id)})
	if status.Code(err) == codes.NotFound {
		return RegisteredReminder{}, api.ErrActorReminderNotFound(name)
	}
	if err != nil {
		return RegisteredReminder{}, api.ErrActorReminderGet(fmt.Errorf("api error: code = Internal desc = failed to get job due to: %w", err))
	}
	job := out.GetJob()
	if job == nil {
		return RegisteredReminder{}, api.ErrActorReminderNotFound(name)
	}
	return registered(actorType, id, name, job), nil
}

// Delete removes a reminder, if there is one. The errors are [*api.Error].
func (r *Reminders) Delete(ctx context.Context, actorType, id, name string) error {
	if err := r.hosted(actorType); err != nil {
		return err
	}
	if _, err := r.options.Scheduler.Delete(ctx, &schedulerv1.DeleteJobRequest{Name: name, Metadata: r.metadata(actorType, id)}); err != nil {
		return api.ErrActorReminderDelete(err)
	}
	return nil
}

// DeleteByType removes all reminders of an actor, or of a type if id is empty. The errors are [*api.Error].
func (r *Reminders) DeleteByType(ctx context.Context, actorType, id string) error {
	if err := r.hosted(actorType); err != nil {
		return err
	}
	// Without id_prefix_match the scheduler goes by whole names: the reminders of Cart do not take those of CartItem with them.
	in := &schedulerv1.DeleteByMetadataRequest{Metadata: r.metadata(actorType, id)}
	if _, err := r.options.Scheduler.DeleteByMetadata(ctx, in); err != nil {
		return api.ErrActorReminderDelete(err)
	}
	return nil
}

// List returns the reminders of an actor, or of a type if id is empty, without their ttl. The errors are [*api.Error].
func (r *Reminders) List(ctx context.Context, actorType, id string) ([]RegisteredReminder, error) {
	if err := r.hosted(actorType); err != nil {
		return nil, err
	}
	out, err := r.options.Scheduler.List(ctx, &schedulerv1.ListJobsRequest{Metadata: r.metadata(actorType, id)})
	if err != nil {
		return nil, api.ErrActorReminderList(err)
	}
	list := make([]RegisteredReminder, 0, len(out.GetJobs()))
	for _, job := range out.GetJobs() {
		actor := job.GetMetadata().GetTarget().GetActor()
		// The scheduler goes by names, in which "||" may stand for more than the border of two parts.
		if actor == nil || actor.GetType() != actorType || id != "" && actor.GetId() != id {
			continue
		}
		reminder := registered(actor.GetType(), actor.GetId(), job.GetName(), job.GetJob())
		reminder.TTL = nil
		list = append(list, reminder)
	}
	return list, nil
}

// Trigger runs a reminder that the scheduler sends, and returns what to answer (Dapr API, actors: results of reminders). Whether a
// failed one is tried again is the scheduler's business. When ctx ends there is nobody any more to be answered.
func (r *Reminders) Trigger(ctx context.Context, job *schedulerv1.WatchJobsResponse) schedulerv1.WatchJobsRequestResultStatus {
	const succeeded, failed = schedulerv1.WatchJobsRequestResultStatus_SUCCESS, schedulerv1.WatchJobsRequestResultStatus_FAILED
	actor := job.GetMetadata().GetTarget().GetActor()
	err := r.options.Core.Await(ctx)
	if err == nil {
		err = r.options.Core.Remind(ctx, &Reminder{Type: actor.GetType(), ID: actor.GetId(), Name: job.GetName(), Data: job.GetData()})
	}
	if ctx.Err() != nil {
		return failed
	}
	success := err == nil || reminderCanceled(err)
	r.options.Metrics.Type(actor.GetType()).ReminderFired(success)
	if !success {
		r.options.Log.Error("a reminder of an actor failed; the scheduler tries again as its failure policy says",
			"reminder", nameKey{actor.GetType(), actor.GetId(), job.GetName()}.String(), "error", err)
		return failed
	}
	return succeeded
}

// Host wraps a host of actors such that a reminder that its actor cancels is deleted. The protocol between sidecar and scheduler has no
// word for it, and cannot delete a job only if it is still the same. Therefore the sidecar does it on which the actor lives, while the
// actor's turn lasts: what the actor, or others by way of this sidecar, register under the name during the turn stays.
func (r *Reminders) Host(h Host) Host { return cancelling{h, r} }

type cancelling struct {
	Host
	reminders *Reminders
}

// cancelTimeout bounds the deletion of a cancelled reminder, during which its actor is locked.
const cancelTimeout = 5 * time.Second

// Remind implements [Host].
func (c cancelling) Remind(ctx context.Context, reminder *Reminder) error {
	if reminder.Timer {
		return c.Host.Remind(ctx, reminder)
	}
	r, key := c.reminders, nameKey{reminder.Type, reminder.ID, reminder.Name}
	turn := r.begin(key)
	defer r.end(key, turn)
	err := c.Host.Remind(ctx, reminder)
	if !reminderCanceled(err) || r.again(turn) {
		return err
	}
	// The turn may be over for the actor, but not this.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer cancel()
	in := &schedulerv1.DeleteJobRequest{Name: key.name, Metadata: r.metadata(key.actorType, key.id)}
	if _, failure := r.options.Scheduler.Delete(ctx, in); failure != nil {
		r.options.Log.Warn("a reminder that its actor cancelled could not be deleted; it fires again, and can be cancelled again", "reminder", key.String(), "error", failure)
	}
	return err
}

// begin notes a turn of a reminder.
func (r *Reminders) begin(key nameKey) *reminderTurns {
	r.mu.Lock()
	defer r.mu.Unlock()
	turn := r.turns[key]
	if turn == nil {
		turn = new(reminderTurns)
		r.turns[key] = turn
	}
	turn.count++
	return turn
}

func (r *Reminders) end(key nameKey, turn *reminderTurns) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if turn.count--; turn.count == 0 {
		delete(r.turns, key)
	}
}

// registering notes that a reminder is registered while turns of it may run.
func (r *Reminders) registering(key nameKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if turn := r.turns[key]; turn != nil {
		turn.registered = true
	}
}

// again reports whether the reminder was registered anew during a turn.
func (r *Reminders) again(turn *reminderTurns) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return turn.registered
}
