package schedule

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func text(s string) *string   { return &s }
func number(n uint32) *uint32 { return &n }

var created = time.Date(2026, 6, 1, 12, 0, 0, 500, time.UTC)

func TestCheck(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		request Request
		want    string
	}{
		{"neither", Request{}, "job must have either a due time or a schedule"},
		{"neither, with repeats", Request{Repeats: number(3)}, "job must have either a due time or a schedule"},
		{"repeats without schedule", Request{DueTime: text("1s"), Repeats: number(2)}, "job must have a schedule to repeat"},
		{"one repeat without schedule", Request{DueTime: text("1s"), Repeats: number(1)}, ""},
		{"no repeats", Request{Schedule: text("@daily"), Repeats: number(0)}, "defined repeats must be greater than 0"},
		{"ttl without schedule", Request{DueTime: text("1s"), TTL: text("1h")}, "job must have a schedule to have a ttl"},
		{"empty schedule", Request{Schedule: text("")}, "empty spec string"},
		{"empty due time", Request{DueTime: text("")}, "due time format not recognized"},
		{"bad due time", Request{DueTime: text("tomorrow")}, "due time format not recognized"},
		{"due time beyond the years", Request{DueTime: text("P9999Y")}, "due time format not recognized"},
		{"repeating due time", Request{DueTime: text("R3/PT1S")}, "repeats not supported for due time"},
		{"repeating due time, alone", Request{DueTime: text("R3")}, "repeats not supported for due time"},
		{"due time repeated without end", Request{DueTime: text("R-1/PT1S")}, ""},
		{"bad ttl", Request{Schedule: text("@daily"), TTL: text("x")}, "ttl format not recognized"},
		{"repeating ttl", Request{Schedule: text("@daily"), TTL: text("R3/PT1S")}, "ttl format not recognized"},
		{"ttl before the due time", Request{Schedule: text("@daily"), DueTime: text("1h"), TTL: text("2026-06-01T12:59:00Z")}, "ttl must be greater than due time"},
		{"ttl at the due time", Request{Schedule: text("@daily"), DueTime: text("1h"), TTL: text("0s")}, "ttl must be greater than due time"},
		{"ttl counted from the due time", Request{Schedule: text("@daily"), DueTime: text("1h"), TTL: text("1ms")}, ""},
		{"ttl that is over", Request{Schedule: text("@daily"), TTL: text("-1s")}, ""},
		{"impossible", Request{Schedule: text("0 0 0 30 2 *")}, `the schedule "0 0 0 30 2 *" never comes, as none of its months has a day 30: correct the day of month or the month`},
		{"endless", Request{Schedule: text("@every 0s")}, errEndless.Error()},
		{"not endless", Request{Schedule: text("@every 0s"), Repeats: number(2)}, ""},
		{"zone", Request{Schedule: text("TZ=X/Y @daily")}, "provided bad location X/Y: unknown time zone X/Y"},
	}
	for _, test := range tests {
		_, err := Check(test.request, created, Parse)
		if test.want == "" {
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		var invalid *InvalidError
		if !errors.As(err, &invalid) || err.Error() != "job failed validation: "+test.want {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestPoint(t *testing.T) {
	t.Parallel()
	base := time.Date(2026, 1, 31, 10, 0, 0, 5, time.UTC)
	for text, want := range map[string]string{
		"2026-05-01T00:00:00Z":          "2026-05-01T00:00:00Z",
		"2026-05-01T00:00:00.25+02:00":  "2026-04-30T22:00:00.25Z",
		"10s":                           "2026-01-31T10:00:10.000000005Z",
		"-10s":                          "2026-01-31T09:59:50.000000005Z",
		"1h1.5ms":                       "2026-01-31T11:00:00.001500005Z",
		"0":                             "2026-01-31T10:00:00.000000005Z",
		"P1M":                           "2026-03-03T10:00:00.000000005Z",
		"P1Y2M1W1DT1H1M1S":              "2027-04-08T11:01:01.000000005Z",
		"PT90M":                         "2026-01-31T11:30:00.000000005Z",
		"PT":                            "2026-01-31T10:00:00.000000005Z",
		"P1":                            "2026-01-31T10:00:00.000000005Z",
		"P1D5":                          "2026-02-01T10:00:00.000000005Z",
		"R0/PT1S":                       "2026-01-31T10:00:01.000000005Z",
		"R-1/PT1S":                      "2026-01-31T10:00:01.000000005Z",
		"R0":                            "2026-01-31T10:00:00.000000005Z",
		"R1/PT1S":                       "repeats not supported",
		"R5":                            "repeats not supported",
		"":                              "format not recognized",
		"P":                             "format not recognized",
		"R":                             "format not recognized",
		"R/PT1S":                        "format not recognized",
		"Rx/PT1S":                       "format not recognized",
		"R-2/PT1S":                      "format not recognized",
		"R1/":                           "format not recognized",
		"p1d":                           "format not recognized",
		"P1H":                           "format not recognized",
		"PT1D":                          "format not recognized",
		"PD":                            "format not recognized",
		"P1.5D":                         "format not recognized",
		"P1DT1HT1M":                     "format not recognized",
		"P2147483648D":                  "format not recognized",
		"P8000Y":                        "format not recognized",
		"PT2147483647H":                 "format not recognized",
		"2026-05-01":                    "format not recognized",
		"2026-05-01 00:00:00Z":          "format not recognized",
		"10":                            "format not recognized",
		"9999-12-31T23:59:59.999-01:00": "format not recognized",
	} {
		got, err := point(text, base)
		result := got.Format(time.RFC3339Nano)
		if err != nil {
			result = err.Error()
		}
		if result != want {
			t.Errorf("point(%q): %s, want %s", text, result, want)
		}
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		request Request
		want    string // the first ticks, from the creation
	}{
		{"schedule", Request{Schedule: text("@every 1h")}, "[1h0m0s 2h0m0s 3h0m0s 4h0m0s ...]"},
		{"calendar", Request{Schedule: text("0 0 * * * *")}, "[59m59.9999995s 1h59m59.9999995s 2h59m59.9999995s 3h59m59.9999995s ...]"},
		{"due time", Request{DueTime: text("90s")}, "[1m30s]"},
		{"past due time", Request{DueTime: text("-90s")}, "[-1m30s]"},
		{"both", Request{Schedule: text("@every 1h"), DueTime: text("10s"), Repeats: number(3)}, "[10s 1h0m10s 2h0m10s]"},
		{"repeats", Request{Schedule: text("@every 1h"), Repeats: number(2)}, "[1h0m0s 2h0m0s]"},
		{"one repeat", Request{Schedule: text("@every 1h"), Repeats: number(1)}, "[1h0m0s]"},
		{"ttl", Request{Schedule: text("@every 1h"), TTL: text("2h")}, "[1h0m0s 2h0m0s]"},
		{"ttl from the due time", Request{Schedule: text("@every 1h"), DueTime: text("30m"), TTL: text("119m")}, "[30m0s 1h30m0s]"},
		{"ttl and repeats", Request{Schedule: text("@every 1h"), TTL: text("10h"), Repeats: number(2)}, "[1h0m0s 2h0m0s]"},
		{"ttl that is over", Request{Schedule: text("@every 1h"), TTL: text("-1h")}, "[]"},
		{"no interval", Request{Schedule: text("@every 0s"), Repeats: number(3)}, "[0s 0s 0s]"},
	}
	for _, test := range tests {
		plan, err := Check(test.request, created, Parse)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		// What is stored makes the same plan.
		restored, err := Restore(test.request, Plan{Start: plan.Start, Due: plan.Due, Expiration: plan.Expiration}, new(Cache).Parse)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		for _, p := range []Plan{plan, restored} {
			var ticks []string
			last := time.Time{}
			for count := uint32(0); ; count++ {
				tick, ok := p.Next(count, last)
				if !ok {
					break
				}
				if count == 4 {
					ticks = append(ticks, "...")
					break
				}
				ticks, last = append(ticks, tick.Sub(created).String()), tick
			}
			if got := fmt.Sprint(ticks); got != test.want {
				t.Errorf("%s: %s, want %s", test.name, got, test.want)
			}
		}
	}
	for name, r := range map[string]Request{"nothing": {}, "unreadable": {Schedule: text("x")}, "endless": {Schedule: text("@every 0s")}} {
		if _, err := Restore(r, Plan{Start: created}, Parse); err == nil {
			t.Errorf("a stored job with %s is accepted", name)
		}
	}
}

func TestCatchUp(t *testing.T) {
	t.Parallel()
	now := created.Add(5*time.Hour + time.Minute)
	for name, test := range map[string]struct {
		request Request
		want    time.Duration
	}{
		"schedule": {Request{Schedule: text("@every 1h")}, 5 * time.Hour},
		"repeats":  {Request{Schedule: text("@every 1h"), Repeats: number(9)}, time.Hour},
		"once":     {Request{DueTime: text("1h")}, time.Hour},
		"ttl":      {Request{Schedule: text("@every 1h"), TTL: text("190m")}, 3 * time.Hour},
		"due time": {Request{Schedule: text("@every 2h"), DueTime: text("1h")}, 5 * time.Hour},
		"not late": {Request{Schedule: text("@every 10h")}, 10 * time.Hour},
	} {
		plan, err := Check(test.request, created, Parse)
		if err != nil {
			t.Fatal(err)
		}
		tick, _ := plan.Next(0, time.Time{})
		if got := plan.CatchUp(tick, now).Sub(created); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}
