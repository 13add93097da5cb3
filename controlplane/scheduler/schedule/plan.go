package schedule

import (
	"errors"
	"fmt"
	"time"
)

// Request is when a client wants a job to fire. A field that is nil is absent.
type Request struct {
	Schedule, DueTime, TTL *string
	Repeats                *uint32
}

// Plan is what the ticks of a job are computed from (Dapr API, jobs: when a job fires).
type Plan struct {
	// Schedule is nil for a job that fires once, at Start.
	Schedule *Schedule
	// Start is when the job was created, or its due time.
	Start time.Time
	// Due says that Start is the due time, which is the first tick itself.
	Due bool
	// Expiration is the last moment that may be a tick; zero means that there is none.
	Expiration time.Time
	// Repeats is how many ticks there are; 0 means no limit.
	Repeats uint32
}

// InvalidError tells why a job cannot be scheduled. Its text is that of the scheduler (Dapr API, jobs: validation).
type InvalidError struct{ Reason error }

func (e *InvalidError) Error() string { return "job failed validation: " + e.Reason.Error() }

// Unwrap is the reason.
func (e *InvalidError) Unwrap() error { return e.Reason }

// Parser reads a schedule: [Parse], or [Cache.Parse] where many jobs have the same few schedules.
type Parser func(text string) (*Schedule, error)

// Check makes the plan of a job that is created at the time created. What is wrong with it is an [*InvalidError].
func Check(r Request, created time.Time, parse Parser) (Plan, error) {
	plan, err := check(r, created.UTC(), parse)
	if err != nil {
		return Plan{}, &InvalidError{Reason: err}
	}
	return plan, nil
}

func check(r Request, created time.Time, parse Parser) (Plan, error) {
	plan := Plan{Start: created}
	switch {
	case r.Schedule == nil && r.DueTime == nil:
		return plan, errors.New("job must have either a due time or a schedule")
	case r.Schedule == nil && r.Repeats != nil && *r.Repeats > 1:
		return plan, errors.New("job must have a schedule to repeat")
	case r.Repeats != nil && *r.Repeats < 1:
		return plan, errors.New("defined repeats must be greater than 0")
	case r.Schedule == nil && r.TTL != nil:
		return plan, errors.New("job must have a schedule to have a ttl")
	}
	var err error
	if r.Schedule != nil {
		if plan.Schedule, err = parse(*r.Schedule); err != nil {
			return plan, err
		}
	}
	if r.Repeats != nil {
		plan.Repeats = *r.Repeats
	}
	if plan.endless() {
		return plan, errEndless
	}
	if r.DueTime != nil {
		plan.Due = true
		if plan.Start, err = point(*r.DueTime, created); err != nil {
			if errors.Is(err, errRepeats) {
				return plan, errors.New("repeats not supported for due time")
			}
			return plan, errors.New("due time format not recognized")
		}
	}
	if r.TTL != nil {
		if plan.Expiration, err = point(*r.TTL, plan.Start); err != nil {
			return plan, errors.New("ttl format not recognized")
		}
		if plan.Due && !plan.Expiration.After(plan.Start) {
			return plan, errors.New("ttl must be greater than due time")
		}
	}
	return plan, nil
}

// Restore makes the plan of a stored job again. Start, Due and Expiration of the stored job are taken as they are.
func Restore(r Request, stored Plan, parse Parser) (Plan, error) {
	plan := stored
	if r.Schedule != nil {
		var err error
		if plan.Schedule, err = parse(*r.Schedule); err != nil {
			return Plan{}, fmt.Errorf("its schedule %q cannot be read: %w", *r.Schedule, err)
		}
	}
	if r.Repeats != nil {
		plan.Repeats = *r.Repeats
	}
	if plan.Schedule == nil && !plan.Due {
		return Plan{}, errors.New("it has neither a due time nor a schedule")
	}
	if plan.endless() {
		return Plan{}, errEndless
	}
	return plan, nil
}

// endless says that the job would fire all the time.
func (p *Plan) endless() bool {
	return p.Schedule != nil && p.Schedule.spec == nil && p.Schedule.every <= 0 && p.Repeats == 0
}

// Next is the tick after count ticks, the last of which was planned for the time last; false when none is left. It depends on
// planned times alone, so that a late run does not shift later ones (Dapr API, jobs: when a job fires).
func (p *Plan) Next(count uint32, last time.Time) (time.Time, bool) {
	switch {
	case p.Repeats > 0 && count >= p.Repeats, p.Schedule == nil && count > 0:
		return time.Time{}, false
	}
	var tick time.Time
	switch {
	case !last.IsZero():
		if p.Schedule == nil {
			return time.Time{}, false
		}
		tick = p.Schedule.Next(last)
	case p.Due:
		tick = p.Start
	default:
		tick = p.Schedule.Next(p.Start)
	}
	if tick.IsZero() || tick.Year() > 9999 || p.expired(tick) {
		return time.Time{}, false
	}
	return tick, true
}

func (p *Plan) expired(tick time.Time) bool {
	return !p.Expiration.IsZero() && tick.After(p.Expiration)
}

// CatchUp is the tick to fire when tick was missed: the latest one up to now. A job with repeats fires for each missed tick,
// as it was promised so many; for it, and for one that fires once, tick is returned unchanged.
func (p *Plan) CatchUp(tick, now time.Time) time.Time {
	if p.Schedule == nil || p.Repeats > 0 || !now.After(tick) {
		return tick
	}
	if p.expired(now) {
		now = p.Expiration
	}
	return p.Schedule.Latest(tick, now)
}
