package schedule

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// errFormat is the reason for a time or duration that is in none of the formats.
var errFormat = errors.New("format not recognized")

// errRepeats is the reason for an ISO 8601 duration that repeats where it may not.
var errRepeats = errors.New("repeats not supported")

// point reads a due time or time to live: RFC 3339, else a Go duration, else an ISO 8601 duration that does not repeat; a
// duration counts from base (Dapr API, jobs: time formats). The result is in UTC.
func point(text string, base time.Time) (time.Time, error) {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		if duration, err := time.ParseDuration(text); err == nil {
			at = base.Add(duration)
		} else {
			p, err := parsePeriod(text)
			if err != nil {
				return time.Time{}, err
			}
			if p.repeats > 0 {
				return time.Time{}, errRepeats
			}
			at = base.AddDate(p.years, p.months, p.days).Add(p.clock)
		}
	}
	// Beyond these years a time can be neither stored nor written.
	if at = at.UTC(); at.Year() < 1 || at.Year() > 9999 {
		return time.Time{}, errFormat
	}
	return at, nil
}

// period is an ISO 8601 duration.
type period struct {
	repeats             int // -1 means without end
	years, months, days int
	clock               time.Duration
}

// parsePeriod reads [R<n>/]P[nY][nM][nW][nD][T[nH][nM][nS]] of integers, or R<n> alone, which is no time at all. Digits
// without a unit at the end are ignored (Dapr API, time formats).
func parsePeriod(text string) (period, error) {
	p := period{repeats: -1}
	if len(text) < 2 {
		return p, errFormat
	}
	if rest, ok := strings.CutPrefix(text, "R"); ok {
		number, after, more := strings.Cut(rest, "/")
		n, err := strconv.Atoi(number)
		if err != nil || n < -1 {
			return p, errFormat
		}
		p.repeats = n
		if !more {
			return p, nil
		}
		text = after
	}
	text, ok := strings.CutPrefix(text, "P")
	if !ok || text == "" {
		return p, errFormat
	}
	number, digits, clock := int64(0), 0, false
	for i := range len(text) {
		c := text[i]
		if c >= '0' && c <= '9' {
			number, digits = number*10+int64(c-'0'), digits+1
			if number > math.MaxInt32 {
				return p, errFormat
			}
			continue
		}
		if c == 'T' && !clock && digits == 0 {
			clock = true
			continue
		}
		if digits == 0 || !p.add(number, c, clock) {
			return p, errFormat
		}
		number, digits = 0, 0
	}
	return p, nil
}

// longestDate bounds the sum of years, months or days, so that it cannot overflow.
const longestDate = 1 << 40

// add adds number units; false when there is no such unit or the sum is too long.
func (p *period) add(number int64, unit byte, clock bool) bool {
	if !clock {
		switch unit {
		case 'Y':
			p.years += int(number)
		case 'M':
			p.months += int(number)
		case 'W':
			p.days += 7 * int(number)
		case 'D':
			p.days += int(number)
		default:
			return false
		}
		return p.years < longestDate && p.months < longestDate && p.days < longestDate
	}
	size := time.Duration(0)
	switch unit {
	case 'H':
		size = time.Hour
	case 'M':
		size = time.Minute
	case 'S':
		size = time.Second
	default:
		return false
	}
	if time.Duration(number) > (math.MaxInt64-p.clock)/size {
		return false
	}
	p.clock += time.Duration(number) * size
	return true
}
