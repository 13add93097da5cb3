package timeformat

import (
	"strings"
	"time"
)

// isoPeriod is an ISO 8601 duration.
type isoPeriod struct {
	Period
	repeated bool // it has an R
}

// maxCalendar bounds each number of years, months, weeks and days.
const maxCalendar = 1_000_000

// parseISO reads an ISO 8601 duration; it is false when text is none.
func parseISO(text string) (p isoPeriod, ok bool) {
	p.Repeats = Unlimited
	if len(text) < 2 {
		return p, false
	}
	if text[0] == 'R' {
		p.repeated = true
		number, rest, found := strings.Cut(text[1:], "/")
		digits, negative := strings.CutPrefix(number, "-")
		n, end, ok := digitsAt(digits, 0)
		if !ok || end != len(digits) || n > 1<<31-1 {
			return p, false
		}
		if p.Repeats = int(n); negative {
			p.Repeats = Unlimited
		}
		if !found {
			return p, true
		}
		text = rest
	}
	if text == "" || text[0] != 'P' {
		return p, false
	}
	units, clock := "YMWD", false // those that may follow
	for i := 1; i < len(text); {
		if text[i] == 'T' {
			if clock {
				return p, false
			}
			units, clock = "HMS", true
			i++
			continue
		}
		n, end, ok := digitsAt(text, i)
		if !ok {
			return p, false
		}
		if end == len(text) {
			break // digits without a unit
		}
		unit := strings.IndexByte(units, text[end])
		if unit < 0 || !p.add(n, text[end], clock) {
			return p, false
		}
		units, i = units[unit+1:], end+1
	}
	return p, true
}

// add adds n of a unit; it is false when that is too much.
func (p *isoPeriod) add(n int64, unit byte, clock bool) bool {
	if !clock {
		if n > maxCalendar {
			return false
		}
		switch unit {
		case 'Y':
			p.Years = int(n)
		case 'M':
			p.Months = int(n)
		case 'W':
			p.Days += 7 * int(n)
		case 'D':
			p.Days += int(n)
		}
		return true
	}
	one := time.Second
	switch unit {
	case 'H':
		one = time.Hour
	case 'M':
		one = time.Minute
	}
	const most = time.Duration(1<<63 - 1)
	if n > int64((most-p.Duration)/one) {
		return false
	}
	p.Duration += time.Duration(n) * one
	return true
}

// digitsAt reads the number at i, which must have a digit; ok is false for what an int64 cannot hold, too.
func digitsAt(text string, i int) (n int64, end int, ok bool) {
	for end = i; end < len(text) && text[end]-'0' <= 9; end++ {
		d := int64(text[end] - '0')
		if n > (1<<63-1-d)/10 {
			return 0, end, false
		}
		n = n*10 + d
	}
	return n, end, end > i
}
