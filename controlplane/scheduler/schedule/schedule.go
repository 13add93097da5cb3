// Package schedule says when a job fires: it reads schedules, due times and times to live, checks that they fit together,
// and computes the ticks (Dapr API, jobs: schedule). It does nothing else: no clock, no storage.
package schedule

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"
	_ "time/tzdata" // zones are known where the system has none, as in small images

	"github.com/robfig/cron/v3"
)

// searchYears is how many calendar years ahead a time is looked for.
const searchYears = 5

// Schedule is a recurring time. It does not change, and any number of goroutines may use it.
type Schedule struct {
	every time.Duration // between two ticks; used when spec is nil
	spec  *cron.SpecSchedule
	zone  *time.Location
}

// Parse reads a cron expression of six fields with seconds in front, a shorthand such as @daily, or "@every <Go duration>"
// (Dapr API, jobs: schedule). "TZ=<IANA zone> " or "CRON_TZ=<IANA zone> " in front of the first two sets the zone; it is
// UTC otherwise. It refuses what would never come, such as the 30th of February.
func Parse(text string) (*Schedule, error) {
	zone, expression := time.UTC, text
	for _, prefix := range [...]string{"CRON_TZ=", "TZ="} {
		rest, ok := strings.CutPrefix(text, prefix)
		if !ok {
			continue
		}
		name, after, found := strings.Cut(rest, " ")
		if !found {
			return nil, fmt.Errorf("nothing follows the time zone in %q: put the schedule behind it, separated by a space", text)
		}
		var err error
		if zone, err = time.LoadLocation(name); err != nil {
			return nil, fmt.Errorf("provided bad location %s: %w", name, err)
		}
		expression = strings.TrimSpace(after)
		if strings.HasPrefix(expression, "@every") {
			return nil, fmt.Errorf("timezone is not supported for @every schedules: %s", text)
		}
		// The parser would read a second zone, and panics at one that nothing follows.
		if strings.HasPrefix(expression, "TZ=") || strings.HasPrefix(expression, "CRON_TZ=") {
			return nil, fmt.Errorf("%q has two time zones: leave one", text)
		}
		break
	}
	if duration, ok := strings.CutPrefix(expression, "@every "); ok {
		every, err := time.ParseDuration(duration)
		if err != nil {
			return nil, fmt.Errorf("failed to parse duration %s: %w", expression, err)
		}
		if every < 0 {
			return nil, fmt.Errorf("the interval of %q is negative: give a positive duration such as @every 15m", expression)
		}
		return &Schedule{every: every, zone: zone}, nil
	}
	parser := cron.NewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)
	parsed, err := parser.Parse(expression)
	if err != nil {
		return nil, err
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("unrecognized schedule %q", text)
	}
	s := &Schedule{spec: spec, zone: zone}
	return s, s.possible(text)
}

// starBit is set in a field that has * or ? (without a step above 1); the bits below it are values.
const starBit = 1 << 63

// values are the bits of a field that stand for values.
func values(field uint64) uint64 { return field &^ starBit }

// possible refuses a schedule that no time matches, for which a search would be in vain.
func (s *Schedule) possible(text string) error {
	for _, field := range [...]struct {
		name string
		bits uint64
	}{
		{"second", s.spec.Second},
		{"minute", s.spec.Minute},
		{"hour", s.spec.Hour},
		{"day of month", s.spec.Dom},
		{"month", s.spec.Month},
		{"day of week", s.spec.Dow},
	} {
		if values(field.bits) == 0 {
			return fmt.Errorf("the %s of %q has no value: give one, or *", field.name, text)
		}
	}
	if s.spec.Dow&starBit == 0 {
		return nil // A day of the week is in every month, and is enough or the day of the month is free.
	}
	first := bits.TrailingZeros64(values(s.spec.Dom))
	for month := time.January; month <= time.December; month++ {
		// 2024 has a 29th of February.
		if s.spec.Month>>month&1 == 1 && first <= daysIn(2024, month) {
			return nil
		}
	}
	return fmt.Errorf("the schedule %q never comes, as none of its months has a day %d: correct the day of month or the month", text, first)
}

// daysIn is the length of a month.
func daysIn(year int, month time.Month) int {
	return time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// Next is the first time of the schedule after t, in UTC; zero when there is none within five years. A time that a change
// to summer time leaves out is left out, and one that the change back repeats comes twice.
func (s *Schedule) Next(t time.Time) time.Time {
	if s.spec == nil {
		return t.Add(s.every).UTC()
	}
	at := t.In(s.zone).Truncate(0).Add(time.Second - time.Duration(t.Nanosecond()))
	limit := at.Year() + searchYears
	// Between two changes of the zone's offset the wall clock is plain arithmetic, whatever happens at midnight.
	for {
		_, offset := at.Zone()
		_, end := at.ZoneBounds()
		shift := time.Duration(offset) * time.Second
		wall, ok := s.match(at.UTC().Add(shift), limit)
		if ok {
			if found := wall.Add(-shift); end.IsZero() || found.Before(end) {
				return found
			}
		}
		if end.IsZero() || end.Year() > limit {
			return time.Time{}
		}
		at = end
	}
}

// match is the first time at or after wall that has the fields of the schedule, and is not after the year limit. The wall
// clock it reads is kept in a UTC time.
func (s *Schedule) match(wall time.Time, limit int) (time.Time, bool) {
	year, month, day := wall.Date()
	hour, minute, second := wall.Clock()
	for year <= limit {
		if s.spec.Month>>month&1 == 0 || day > daysIn(year, month) {
			day, hour, minute, second = 1, 0, 0, 0
			if month++; month > time.December {
				month, year = time.January, year+1
			}
			continue
		}
		if s.day(year, month, day) {
			if h, m, sec, ok := s.clock(hour, minute, second); ok {
				return time.Date(year, month, day, h, m, sec, 0, time.UTC), true
			}
		}
		day, hour, minute, second = day+1, 0, 0, 0
	}
	return time.Time{}, false
}

// day says whether the schedule has times on this day. When one of the two fields is free both must match, otherwise either
// (Dapr API, jobs: schedule).
func (s *Schedule) day(year int, month time.Month, day int) bool {
	weekday := time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Weekday()
	ofMonth, ofWeek := s.spec.Dom>>day&1 == 1, s.spec.Dow>>weekday&1 == 1
	if s.spec.Dom&starBit != 0 || s.spec.Dow&starBit != 0 {
		return ofMonth && ofWeek
	}
	return ofMonth || ofWeek
}

// clock is the first time of day at or after the one given.
func (s *Schedule) clock(hour, minute, second int) (int, int, int, bool) {
	h, ok := from(s.spec.Hour, hour)
	if !ok {
		return 0, 0, 0, false
	}
	if h > hour {
		minute, second = 0, 0
	}
	m, ok := from(s.spec.Minute, minute)
	if !ok {
		return s.clock(h+1, 0, 0)
	}
	if m > minute {
		second = 0
	}
	sec, ok := from(s.spec.Second, second)
	if !ok {
		return s.clock(h, m+1, 0)
	}
	return h, m, sec, true
}

// from is the lowest value of a field that is not below at.
func from(field uint64, at int) (int, bool) {
	rest := values(field) >> at << at
	return bits.TrailingZeros64(rest), rest != 0
}

// Latest is the last time of the schedule that is not after now, given one of its times that is not.
func (s *Schedule) Latest(tick, now time.Time) time.Time {
	if s.spec == nil {
		if s.every <= 0 || !now.After(tick) {
			return tick
		}
		// The difference of two times is cut off at 292 years, which is then done in several steps.
		for {
			steps := now.Sub(tick) / s.every
			if steps < 1 {
				return tick
			}
			tick = tick.Add(steps * s.every)
		}
	}
	// The last second after which there is still a time up to now.
	low, high := tick.Unix()-1, now.Unix()
	for high-low > 1 {
		middle := low + (high-low)/2
		if next := s.Next(time.Unix(middle, 0)); !next.IsZero() && !next.After(now) {
			low = middle
		} else {
			high = middle
		}
	}
	if next := s.Next(time.Unix(low, 0)); next.After(tick) {
		return next
	}
	return tick
}

var errEndless = errors.New("the interval of the schedule is zero and it has no repeats, so that it would fire without end: give an interval such as @every 15m, or repeats")
