package actors

import (
	"bytes"
	"fmt"
	"time"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/blocks/actors/timeformat"
)

// job is the job that goes on where the reminder has come to; nil if it has ended. Ticks that were missed are made up for by one.
func (r *legacyReminder) job(track *legacyTrack, now time.Time) (*schedulerv1.Job, error) {
	due, err := r.first(now)
	if err != nil {
		return nil, err
	}
	job := new(schedulerv1.Job)
	if len(r.Data) > 0 && !bytes.Equal(r.Data, []byte("null")) {
		job.Data = jsonData(r.Data)
	}
	interval, repeats, err := r.interval()
	if err != nil {
		return nil, err
	}
	if track != nil {
		if interval == 0 || repeats != timeformat.Unlimited && track.RepetitionLeft == 0 {
			return nil, nil
		}
		if repeats != timeformat.Unlimited && track.RepetitionLeft > 0 {
			repeats = track.RepetitionLeft
		}
		if track.LastFired != "" {
			last, err := time.Parse(time.RFC3339, track.LastFired)
			if err != nil {
				return nil, fmt.Errorf("lastFiredTime %q is no time: %w", track.LastFired, err)
			}
			due = last.Add(interval)
		}
	}
	if late := now.Sub(due); interval > 0 && late >= interval {
		due = due.Add(late / interval * interval)
	}
	if r.Expiration != "" {
		end, err := time.Parse(time.RFC3339, r.Expiration)
		if err != nil {
			return nil, fmt.Errorf("expirationTime %q is no time: %w", r.Expiration, err)
		}
		if !end.After(due) || !end.After(now) {
			return nil, nil
		}
		if interval > 0 {
			job.Ttl = given(end.UTC().Format(time.RFC3339Nano))
		}
	}
	job.DueTime = given(due.UTC().Format(time.RFC3339Nano))
	if interval > 0 {
		job.Schedule = given("@every " + interval.String())
		if repeats > 0 {
			n := uint32(repeats)
			job.Repeats = &n
		}
	}
	return job, nil
}

// first is when the reminder was to fire first, as it was noted at its registration.
func (r *legacyReminder) first(now time.Time) (time.Time, error) {
	if r.Registered != "" {
		t, err := time.Parse(time.RFC3339, r.Registered)
		if err != nil {
			return t, fmt.Errorf("registeredTime %q is no time: %w", r.Registered, err)
		}
		return t, nil
	}
	if r.DueTime == "" {
		return now, nil
	}
	when, err := timeformat.ParseTimerTime(r.DueTime)
	if err != nil {
		return time.Time{}, fmt.Errorf("dueTime: %w", err)
	}
	return when.From(now), nil
}

// interval is the time between two ticks, 0 for a reminder that fires once, and the number of ticks. Weeks and days, which schedules do
// not have, are as many hours.
func (r *legacyReminder) interval() (time.Duration, int, error) {
	if r.Period == "" {
		return 0, timeformat.Unlimited, nil
	}
	p, err := timeformat.ParsePeriod(r.Period)
	if err != nil {
		return 0, 0, fmt.Errorf("period: %w", err)
	}
	if p.Years != 0 || p.Months != 0 {
		return 0, 0, fmt.Errorf("the scheduler has no periods of years or months, which %q is", r.Period)
	}
	return time.Duration(p.Days)*24*time.Hour + p.Duration, p.Repeats, nil
}
