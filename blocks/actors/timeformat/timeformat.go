// Package timeformat reads the times and durations of timers, reminders and jobs (Dapr API, actors: time formats): ISO 8601
// durations, Go durations and RFC 3339 times. What it reads is a value: no clock is asked.
//
// An ISO 8601 duration is [R<n>/]P[nY][nM][nW][nD][T[nH][nM][nS]] with whole numbers and upper case letters. R<n> alone is n
// repetitions without an interval, R-1 is without end, and digits at the end that no unit follows count for nothing.
package timeformat

import (
	"errors"
	"fmt"
	"time"
)

// Unlimited is a [Period] without end.
const Unlimited = -1

// Interval is a span of time: years, months and days of the calendar, and a duration.
type Interval struct {
	// Years, Months and Days are added as the calendar has them, weeks being 7 days: a month after 31 January is 3 March, or 2 March
	// in leap years.
	Years, Months, Days int
	// Duration is added after them.
	Duration time.Duration
}

// IsZero reports whether the interval is empty.
func (i Interval) IsZero() bool { return i == Interval{} }

// Calendar reports whether the interval has years, months or days, whose length depends on where they begin.
func (i Interval) Calendar() bool { return i.Years != 0 || i.Months != 0 || i.Days != 0 }

// After is the time an interval after t.
func (i Interval) After(t time.Time) time.Time {
	if i.Calendar() {
		t = t.AddDate(i.Years, i.Months, i.Days)
	}
	return t.Add(i.Duration)
}

// When is a moment: a fixed time, or an interval after a time that is yet to be told. The zero When is that time itself.
type When struct {
	at       time.Time
	interval Interval
}

// Absolute reports whether the moment is a fixed time.
func (w When) Absolute() bool { return !w.at.IsZero() }

// From is the moment, counted from base unless it is absolute. It may lie in the past.
func (w When) From(base time.Time) time.Time {
	if w.Absolute() {
		return w.at
	}
	return w.interval.After(base)
}

// ParseTimerTime reads the dueTime or ttl of a timer: an ISO 8601 duration without repetition, a Go duration, or an RFC 3339 time.
// Negative durations are moments in the past.
func ParseTimerTime(text string) (When, error) {
	return parseWhen(text, false)
}

// ParseJobTime reads the dueTime or ttl of a job or reminder: an RFC 3339 time, a Go duration, or an ISO 8601 duration, whose
// repetitions must not be more than 0.
func ParseJobTime(text string) (When, error) {
	return parseWhen(text, true)
}

func parseWhen(text string, emptyRepetition bool) (When, error) {
	if p, ok := parseISO(text); ok {
		if p.repeated && !emptyRepetition || p.Repeats > 0 {
			return When{}, fmt.Errorf("%q has repetitions, which belong into the period", text)
		}
		return When{interval: p.Interval}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return When{interval: Interval{Duration: d}}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		if t.IsZero() {
			t = t.Add(1) // the zero time stands for none
		}
		return When{at: t}, nil
	}
	return When{}, fmt.Errorf("unsupported time/duration format: %q; use a time such as 2030-01-31T12:00:00Z, or a duration such as 1m30s or PT1M30S", text)
}

// Period is how often something happens.
type Period struct {
	// Interval lies between two times; an empty one means that there is no next time.
	Interval
	// Repeats is how many times there are, the first included; [Unlimited] when nothing is said.
	Repeats int
}

// ParsePeriod reads the period of a timer or reminder: an ISO 8601 duration with or without repetitions, or a Go duration. It must not
// be negative, for then there would be no end of times that are due.
func ParsePeriod(text string) (Period, error) {
	if p, ok := parseISO(text); ok {
		return p.Period, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return Period{}, fmt.Errorf("unsupported duration format: %q; use a Go duration such as 1m30s, or an ISO 8601 duration such as R5/PT1M30S", text)
	}
	if d < 0 {
		return Period{}, fmt.Errorf("%q is negative; use a duration of more than 0, or none at all", text)
	}
	return Period{Interval: Interval{Duration: d}, Repeats: Unlimited}, nil
}

// ReminderSchedule turns the period of a reminder, which is not empty, into a schedule of the scheduler and the number of repeats: 0 for
// no end. Years, months, weeks and days are no schedule (Dapr API, actors: reminders).
func ReminderSchedule(period string) (schedule string, repeats uint32, err error) {
	p, err := ParsePeriod(period)
	if err != nil {
		return "", 0, err
	}
	if p.Calendar() {
		return "", 0, fmt.Errorf("unsupported period format: %s", period)
	}
	return "@every " + p.Duration.String(), uint32(max(p.Repeats, 0)), nil
}

// Timer is when a timer fires.
type Timer struct {
	// First is when it fires first, maybe in the past.
	First time.Time
	// Period has no interval if the timer fires once.
	Period Period
	// End is when it ends; the zero time means never.
	End time.Time
}

// ParseTimer reads the times of a timer that is set now. Each of the texts may be empty: the timer then fires at once, fires once, and
// never ends. A ttl that is a duration counts from the first time. The errors say which text is wrong (Dapr API, actors: timers).
func ParseTimer(dueTime, period, ttl string, now time.Time) (Timer, error) {
	t := Timer{First: now, Period: Period{Repeats: Unlimited}}
	if dueTime != "" {
		when, err := ParseTimerTime(dueTime)
		if err != nil {
			return Timer{}, fmt.Errorf("error parsing timer due time: %w", err)
		}
		t.First = when.From(now)
	}
	if period != "" {
		var err error
		if t.Period, err = ParsePeriod(period); err != nil {
			return Timer{}, fmt.Errorf("invalid timer period: parse error: %w", err)
		}
		if t.Period.Repeats == 0 {
			return Timer{}, errors.New("invalid timer period: has zero repetitions")
		}
	}
	if ttl != "" {
		when, err := ParseTimerTime(ttl)
		if err != nil {
			return Timer{}, fmt.Errorf("error parsing timer TTL: %w", err)
		}
		t.End = when.From(t.First)
	}
	return t, nil
}

// Expired reports whether the timer's end has come now, or comes before it fires first.
func (t *Timer) Expired(now time.Time) bool {
	return !t.End.IsZero() && (t.End.Before(now) || t.End.Before(t.First))
}

// Next is when the timer fires after it was due at previous, for the n-th time (counted from 1). It is false when that was the last.
func (t *Timer) Next(previous time.Time, n int) (time.Time, bool) {
	if t.Period.IsZero() || t.Period.Repeats > 0 && n >= t.Period.Repeats {
		return time.Time{}, false
	}
	next := t.Period.After(previous)
	return next, t.End.IsZero() || next.Before(t.End)
}
