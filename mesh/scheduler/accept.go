package scheduler

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// Accept is what triggers a sidecar takes. The zero Accept takes none.
type Accept struct {
	// Jobs takes those of the app's own jobs.
	Jobs bool
	// ActorTypes takes reminders of actors of these types; their order does not matter.
	ActorTypes []string
	// Limits bound how many reminders of a kind are in flight, over all sidecars of the namespace.
	Limits []*schedulerv1.ConcurrencyLimit
}

// want is an Accept as streams open with it. It does not change.
type want struct {
	// initial is the first message of a stream; nil when there is nothing to accept, and hence no stream.
	initial *schedulerv1.WatchJobsRequestInitial
}

// takes reports whether a trigger is among what is wanted. One for nobody known is: whoever handles it has an answer to it.
func (w *want) takes(job *schedulerv1.WatchJobsResponse) bool {
	switch target := job.GetMetadata().GetTarget().GetType().(type) {
	case *schedulerv1.JobTargetMetadata_Job:
		return slices.Contains(w.initial.GetAcceptJobTypes(), schedulerv1.JobTargetType_JOB_TARGET_TYPE_JOB)
	case *schedulerv1.JobTargetMetadata_Actor:
		_, found := slices.BinarySearch(w.initial.GetActorTypes(), target.Actor.GetType())
		return found
	}
	return w.initial != nil
}

// Accept replaces what is taken. When it differs from before, new streams are opened, and then the old ones closed: they take no more of what
// is not accepted any longer, and their running deliveries may finish (see [Options.Grace]). It returns at once, and may be called at any
// time, before Run too.
func (c *Client) Accept(a Accept) {
	w, types := new(want), slices.Compact(slices.Sorted(slices.Values(a.ActorTypes)))
	if a.Jobs || len(types) > 0 {
		w.initial = &schedulerv1.WatchJobsRequestInitial{
			AppId: c.options.AppID, Namespace: c.options.Namespace, ActorTypes: types,
			// The limits are the stream's for as long as it may be opened again.
			ConcurrencyLimits: slices.Clone(a.Limits),
		}
		if a.Jobs {
			w.initial.AcceptJobTypes = append(w.initial.AcceptJobTypes, schedulerv1.JobTargetType_JOB_TARGET_TYPE_JOB)
		}
		if len(types) > 0 { // without types a scheduler cannot make anything of it
			w.initial.AcceptJobTypes = append(w.initial.AcceptJobTypes, schedulerv1.JobTargetType_JOB_TARGET_TYPE_ACTOR_REMINDER)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if proto.Equal(c.want.initial, w.initial) {
		return
	}
	c.want = w
	close(c.changed)
	c.changed = make(chan struct{})
}

// wanted is what is accepted now, and a channel that is closed when that changes.
func (c *Client) wanted() (w *want, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.want, c.changed
}

// begin counts a stream that is to be opened for w, unless w is outdated.
func (c *Client) begin(w *want) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.want != w {
		return false
	}
	c.open++
	return true
}

// end tells that a stream, and with it its last delivery, has ended.
func (c *Client) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	close(c.quiet)
	c.quiet = make(chan struct{})
}

// Drain accepts nothing any more, as Accept(Accept{}) does, and returns when the running deliveries have ended and the schedulers have had
// their results. The error is that of ctx, when it ends first.
func (c *Client) Drain(ctx context.Context) error {
	c.Accept(Accept{})
	for {
		c.mu.Lock()
		open, quiet := c.open, c.quiet
		c.mu.Unlock()
		if open == 0 {
			return nil
		}
		select {
		case <-quiet:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
