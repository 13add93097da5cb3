package actors

import (
	"context"
	"strings"

	"google.golang.org/grpc/status"

	"outrigger.dev/api"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/mesh/placement"
)

// Remind runs a reminder that the scheduler sent, or a timer that is due, wherever the actor lives (Dapr API, actors: reminders,
// timers). Of the policies only the timeout applies, and the built-in retries. It sets ReentrancyID. [ErrReminderCanceled] is returned
// as such, also from another sidecar; other errors are plain ones.
func (r *Runtime) Remind(ctx context.Context, rem *Reminder) error {
	changed := r.changed()
	err := r.attemptReminder(ctx, rem)
	if err == nil || !passing(err) || r.options.Resiliency.HasActor(rem.Type) {
		return err
	}
	_, err = again(ctx, r, changed, err, func(ctx context.Context) (struct{}, error) { return struct{}{}, r.attemptReminder(ctx, rem) })
	return err
}

// handled names a reminder in errors, as the path of its callback does.
func (rem *Reminder) handled() string {
	if rem.Timer {
		return "timer/" + rem.Name
	}
	return "remind/" + rem.Name
}

func (r *Runtime) attemptReminder(ctx context.Context, rem *Reminder) error {
	t := newTurn(ctx)
	defer t.cancel(nil)
	local, owner, err := r.reachReminder(ctx, t, rem, true)
	if local || err != nil {
		return err
	}
	defer context.AfterFunc(r.life, t.end)()
	err = r.options.Peers.CallActorReminder(t.ctx, r.target(owner), &internalsv1.Reminder{
		ActorType: rem.Type, ActorId: rem.ID, Name: rem.Name, Data: rem.Data, Period: rem.Period, DueTime: rem.DueTime,
		IsTimer: rem.Timer, SkipLock: rem.SkipLock,
	})
	switch {
	case err == nil:
		return nil
	case strings.TrimPrefix(status.Convert(err).Message(), "error invoke actor method: ") == ErrReminderCanceled.Error():
		return ErrReminderCanceled
	}
	return r.remote(ctx, t, owner, err)
}

// reachReminder runs a reminder if its actor lives here; otherwise local is false, and it returns where it lives.
func (r *Runtime) reachReminder(ctx context.Context, t *turn, rem *Reminder, waits bool) (local bool, owner placement.Owner, err error) {
	a := address{rem.Type, rem.ID}
	if rem.SkipLock {
		return r.remindUnlocked(ctx, t, a, rem, waits)
	}
	owner, err = r.reach(t, a, "", waits)
	if err != nil {
		return false, owner, t.explain(ctx, err, rem.handled())
	}
	if t.inst == nil {
		return false, owner, nil
	}
	defer r.leave(t)
	end, err := r.begin(t)
	if err != nil {
		return true, owner, t.explain(ctx, err, rem.handled())
	}
	defer end()
	return true, owner, r.remindOn(ctx, t, t.inst.kind, rem)
}

// remindUnlocked is reachReminder without an instance: nothing waits for it and it waits for nothing.
func (r *Runtime) remindUnlocked(ctx context.Context, t *turn, a address, rem *Reminder, waits bool) (local bool, owner placement.Owner, err error) {
	defer context.AfterFunc(r.life, t.end)()
	if err := r.offering(t.ctx, waits); err != nil {
		return false, owner, t.explain(ctx, err, rem.handled())
	}
	switch owner, err = r.options.Placement.Lookup(t.ctx, a.actorType, a.id); {
	case err != nil && t.ctx.Err() != nil:
		return false, owner, t.explain(ctx, err, rem.handled())
	case err != nil:
		return false, owner, &lookupFailure{err}
	case !owner.Local:
		return false, owner, nil
	}
	k := r.kind(a.actorType)
	if k == nil {
		return false, owner, &lookupFailure{api.ErrActorNoAddress(a.actorType, a.id)}
	}
	return true, owner, r.remindOn(ctx, t, k, rem)
}

// remindOn calls the host.
func (r *Runtime) remindOn(ctx context.Context, t *turn, k *kind, rem *Reminder) error {
	if k.timeout > 0 {
		defer r.limit(t, rem.Type, k.timeout).Stop()
	}
	rem.ReentrancyID = t.chain
	if err := k.hosting.host.Remind(t.ctx, rem); err != nil {
		return t.explain(ctx, err, rem.handled())
	}
	return nil
}
