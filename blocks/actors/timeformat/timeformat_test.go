package timeformat

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// now is a time whose next month is shorter.
var now = time.Date(2027, 1, 31, 12, 0, 0, 250_000_000, time.UTC)

func TestPeriods(t *testing.T) {
	day := func(years, months, days int, d time.Duration) Interval { return Interval{years, months, days, d} }
	for text, want := range map[string]Period{
		"PT1M":                 {day(0, 0, 0, time.Minute), Unlimited},
		"P1Y2M3W4DT5H6M7S":     {day(1, 2, 25, 5*time.Hour+6*time.Minute+7*time.Second), Unlimited},
		"P1M":                  {day(0, 1, 0, 0), Unlimited},
		"P2W":                  {day(0, 0, 14, 0), Unlimited},
		"PT":                   {day(0, 0, 0, 0), Unlimited},
		"P1DT":                 {day(0, 0, 1, 0), Unlimited},
		"P0D":                  {day(0, 0, 0, 0), Unlimited},
		"P5":                   {day(0, 0, 0, 0), Unlimited}, // digits without a unit
		"PT5M30":               {day(0, 0, 0, 5*time.Minute), Unlimited},
		"R5/PT30S":             {day(0, 0, 0, 30*time.Second), 5},
		"R5/P":                 {day(0, 0, 0, 0), 5},
		"R0/PT1S":              {day(0, 0, 0, time.Second), 0},
		"R-1/PT1S":             {day(0, 0, 0, time.Second), Unlimited},
		"R3":                   {day(0, 0, 0, 0), 3},
		"R12":                  {day(0, 0, 0, 0), 12},
		"1h2m3s4ms":            {day(0, 0, 0, time.Hour+2*time.Minute+3*time.Second+4*time.Millisecond), Unlimited},
		"1.5s":                 {day(0, 0, 0, 1500*time.Millisecond), Unlimited},
		"0h0m0s0ms":            {day(0, 0, 0, 0), Unlimited},
		"PT2562047H47M16S":     {day(0, 0, 0, 1<<63-1-854775807), Unlimited}, // the most that a duration holds
		"P1000000Y":            {day(1000000, 0, 0, 0), Unlimited},
		"R2147483647/PT1S":     {day(0, 0, 0, time.Second), 2147483647},
		"R007/PT00000000001S":  {day(0, 0, 0, time.Second), 7},
		"R-9/PT1S":             {day(0, 0, 0, time.Second), Unlimited},
		"P9223372036854775807": {day(0, 0, 0, 0), Unlimited},
	} {
		got, err := ParsePeriod(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "P", "R", "R/PT1S", "R-/PT1S", "R5/", "R5PT1S", "R 5/PT1S", "R+5/PT1S", "Rx/PT1S", "R5/R5/PT1S", "pt1s", "Pt1s", "P1d", "PT1s", "P1H", "PT1D",
		"PT1.5S", "P-1D", "PT-1S", "-PT1S", "P1D2M", "PT1S1M", "P1D1D", "PTT1S", "PT1ST1S", "PY", "PTS", "P5T1S", "P1Dx", "PT1S ", " PT1S", "1", "x",
		"PT9223372037S", "PT2562048H", "P1000001D", "R2147483648/PT1S", "P9223372036854775808D", "2030-01-01T00:00:00Z", "@every 1s",
	} {
		if got, err := ParsePeriod(text); err == nil || !strings.HasPrefix(err.Error(), "unsupported duration format: ") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	if _, err := ParsePeriod("-1s"); err == nil || !strings.Contains(err.Error(), "negative") {
		t.Errorf("a negative period: %v", err)
	}
}

func TestMoments(t *testing.T) {
	const timer, job = 1, 2
	for _, tc := range []struct {
		text   string
		from   time.Time
		accept int
	}{
		{"PT1S", now.Add(time.Second), timer | job},
		{"P1M", time.Date(2027, 3, 3, 12, 0, 0, 250_000_000, time.UTC), timer | job}, // there is no 31 February
		{"P1Y", now.AddDate(1, 0, 0), timer | job},
		{"1.25s", now.Add(1250 * time.Millisecond), timer | job},
		{"0s", now, timer | job},
		{"-1h", now.Add(-time.Hour), timer | job},
		{"2030-01-02T03:04:05.678+02:00", time.Date(2030, 1, 2, 1, 4, 5, 678_000_000, time.UTC), timer | job},
		{"2030-01-02T03:04:05Z", time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), timer | job},
		{"0001-01-01T00:00:00Z", time.Time{}.Add(1), timer | job},
		{"R-1/PT1S", now.Add(time.Second), job},
		{"R0/PT1S", now.Add(time.Second), job},
		{"R1/PT1S", time.Time{}, 0},
		{"R5", time.Time{}, 0},
		{"tomorrow", time.Time{}, 0},
		{"2030-01-02", time.Time{}, 0},
		{"2030-01-02T03:04:05", time.Time{}, 0},
		{"", time.Time{}, 0},
	} {
		for kind, parse := range map[int]func(string) (When, error){timer: ParseTimerTime, job: ParseJobTime} {
			got, err := parse(tc.text)
			if (err == nil) != (tc.accept&kind != 0) {
				t.Errorf("%d %q: %v", kind, tc.text, err)
				continue
			}
			if err == nil && !got.From(now).Equal(tc.from) {
				t.Errorf("%d %q: %v, want %v", kind, tc.text, got.From(now), tc.from)
			}
			if err == nil && got.Absolute() != strings.Contains(tc.text, "-01-0") {
				t.Errorf("%d %q: absolute is %v", kind, tc.text, got.Absolute())
			}
		}
	}
}

func TestReminderSchedule(t *testing.T) {
	for _, tc := range []struct {
		period, schedule string
		repeats          uint32
		err              string
	}{
		{"PT1M", "@every 1m0s", 0, ""},
		{"1s", "@every 1s", 0, ""},
		{"R5/PT1S", "@every 1s", 5, ""},
		{"R0/PT1S", "@every 1s", 0, ""},
		{"R-1/PT1S", "@every 1s", 0, ""},
		{"250ms", "@every 250ms", 0, ""},
		{"P1D", "", 0, "unsupported period format: P1D"},
		{"R2/P1W", "", 0, "unsupported period format: R2/P1W"},
		{"P1MT1S", "", 0, "unsupported period format: P1MT1S"},
		{"P1Y", "", 0, "unsupported period format: P1Y"},
		{"often", "", 0, `unsupported duration format: "often"; use a Go duration such as 1m30s, or an ISO 8601 duration such as R5/PT1M30S`},
	} {
		schedule, repeats, err := ReminderSchedule(tc.period)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if schedule != tc.schedule || repeats != tc.repeats || text != tc.err {
			t.Errorf("%s: %q, %d, %v", tc.period, schedule, repeats, err)
		}
	}
}

func TestTimerErrors(t *testing.T) {
	for _, tc := range []struct{ due, period, ttl, err string }{
		{"soon", "", "", `error parsing timer due time: unsupported time/duration format: "soon"; `},
		{"R2/PT1S", "", "", `error parsing timer due time: "R2/PT1S" has repetitions`},
		{"", "often", "", `invalid timer period: parse error: unsupported duration format: "often"; `},
		{"", "-5s", "", `invalid timer period: parse error: "-5s" is negative; `},
		{"", "R0/PT1S", "", "invalid timer period: has zero repetitions"},
		{"", "", "never", `error parsing timer TTL: unsupported time/duration format: "never"; `},
		{"", "", "R-1/PT1S", `error parsing timer TTL: "R-1/PT1S" has repetitions`},
	} {
		if _, err := ParseTimer(tc.due, tc.period, tc.ttl, now); err == nil || !strings.HasPrefix(err.Error(), tc.err) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}

// TestTimerFirings walks through all the firings of timers.
func TestTimerFirings(t *testing.T) {
	for _, tc := range []struct {
		due, period, ttl string
		want             []time.Duration // after now; at most 4
		expired          bool
	}{
		{"", "", "", []time.Duration{0}, false},
		{"1s", "", "", []time.Duration{time.Second}, false},
		{"-1s", "", "", []time.Duration{-time.Second}, false},
		{"1s", "2s", "", []time.Duration{time.Second, 3 * time.Second, 5 * time.Second, 7 * time.Second}, false},
		{"", "R3/PT2S", "", []time.Duration{0, 2 * time.Second, 4 * time.Second}, false},
		{"", "R1/PT2S", "", []time.Duration{0}, false},
		{"", "R3", "", []time.Duration{0}, false},
		{"", "0s", "", []time.Duration{0}, false},
		{"1s", "2s", "4s", []time.Duration{time.Second, 3 * time.Second}, false}, // the end is not before 5s
		{"1s", "2s", "4s1ns", []time.Duration{time.Second, 3 * time.Second, 5 * time.Second}, false},
		{"", "P1M", "", []time.Duration{0, 31 * 24 * time.Hour, 62 * 24 * time.Hour, 92 * 24 * time.Hour}, false}, // 3 March, April, May
		{"1s", "", "-1ms", []time.Duration{time.Second}, true},
		{"", "1s", "2020-01-01T00:00:00Z", []time.Duration{0}, true},
		{"2020-01-01T00:00:00Z", "", "1h", nil, true},
		{"", "1s", "2027-01-31T12:00:01.25Z", []time.Duration{0}, false},
	} {
		timer, err := ParseTimer(tc.due, tc.period, tc.ttl, now)
		if err != nil {
			t.Errorf("%+v: %v", tc, err)
			continue
		}
		if timer.Expired(now) != tc.expired {
			t.Errorf("%+v: expired is %v", tc, !tc.expired)
		}
		if tc.want == nil {
			continue
		}
		var got []time.Duration
		at, more := timer.First, true
		for n := 1; more && n <= 4; n++ {
			got = append(got, at.Sub(now))
			at, more = timer.Next(at, n)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%+v: fires at %v", tc, got)
		}
	}
}

func FuzzTimeFormats(f *testing.F) {
	for _, seed := range []string{"R5/P1Y2M3W4DT5H6M7S", "R-1/PT1S", "PT5M3", "1h2m", "-3s", "2030-01-02T03:04:05.6Z", "R3", "P", "P99999999999999999999D"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := ParsePeriod(text); err == nil {
			if p.Years < 0 || p.Months < 0 || p.Days < 0 || p.Duration < 0 || p.Repeats < Unlimited {
				t.Errorf("%q is %+v", text, p)
			}
			if p.After(now).Before(now) {
				t.Errorf("%q goes back in time", text)
			}
		}
		forTimer, timerErr := ParseTimerTime(text)
		forJob, jobErr := ParseJobTime(text)
		if timerErr == nil && (jobErr != nil || forTimer != forJob) {
			t.Errorf("%q: timers have %+v, jobs %+v, %v", text, forTimer, forJob, jobErr)
		}
		if timer, err := ParseTimer(text, text, text, now); err == nil && timerErr != nil && text != "" {
			t.Errorf("%q: %+v", text, timer)
		}
	})
}
