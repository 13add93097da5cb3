package schedule

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func at(t testing.TB, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNext(t *testing.T) {
	t.Parallel()
	tests := []struct {
		schedule, after string
		want            []string // none: no time at all
	}{
		{"* * * * * *", "2026-01-01T00:00:00.5Z", []string{"2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"}},
		{"*/20 * * * * *", "2026-01-01T00:00:00Z", []string{"2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z", "2026-01-01T00:01:00Z"}},
		{"10/25 * * * * *", "2026-01-01T00:00:00Z", []string{"2026-01-01T00:00:10Z", "2026-01-01T00:00:35Z", "2026-01-01T00:01:10Z"}},
		{"0 5,10-20/5 3 * * ?", "2026-01-01T03:04:59.9Z", []string{"2026-01-01T03:05:00Z", "2026-01-01T03:10:00Z", "2026-01-01T03:15:00Z", "2026-01-01T03:20:00Z", "2026-01-02T03:05:00Z"}},
		{"59 59 23 31 DEC *", "2026-12-31T23:59:59Z", []string{"2027-12-31T23:59:59Z"}},
		{"0 0 0 29 feb *", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
		{"0 0 0 29 2 *", "2097-01-01T00:00:00Z", nil}, // 2100 has none, and 2104 is too far
		{"0 0 12 1 * mon", "2026-06-01T12:00:00Z", []string{"2026-06-08T12:00:00Z", "2026-06-15T12:00:00Z", "2026-06-22T12:00:00Z", "2026-06-29T12:00:00Z", "2026-07-01T12:00:00Z"}},
		{"0 0 12 ? * Sun-Tue/2", "2026-06-01T12:00:00Z", []string{"2026-06-02T12:00:00Z", "2026-06-07T12:00:00Z"}},
		{"0 0 0 13 * *", "2026-06-13T00:00:00Z", []string{"2026-07-13T00:00:00Z"}},
		{"0 0 0 */10 * 5", "2026-06-01T00:00:00Z", []string{"2026-06-05T00:00:00Z", "2026-06-11T00:00:00Z", "2026-06-12T00:00:00Z"}}, // either
		{"0 0 0 */1 * 5", "2026-06-01T00:00:00Z", []string{"2026-06-05T00:00:00Z", "2026-06-12T00:00:00Z"}},                          // both
		{"@yearly", "2026-06-01T00:00:00Z", []string{"2027-01-01T00:00:00Z"}},
		{"@annually", "2026-06-01T00:00:00Z", []string{"2027-01-01T00:00:00Z"}},
		{"@monthly", "2026-06-01T00:00:00Z", []string{"2026-07-01T00:00:00Z"}},
		{"@weekly", "2026-06-01T00:00:00Z", []string{"2026-06-07T00:00:00Z", "2026-06-14T00:00:00Z"}},
		{"@daily", "2026-06-01T00:00:00Z", []string{"2026-06-02T00:00:00Z"}},
		{"@midnight", "2026-06-01T00:00:00Z", []string{"2026-06-02T00:00:00Z"}},
		{"@hourly", "2026-06-01T00:00:00Z", []string{"2026-06-01T01:00:00Z"}},
		{"@every 1m", "2026-06-01T00:00:00.123Z", []string{"2026-06-01T00:01:00.123Z", "2026-06-01T00:02:00.123Z"}},
		{"@every 1500us", "2026-06-01T00:00:00Z", []string{"2026-06-01T00:00:00.0015Z", "2026-06-01T00:00:00.003Z"}},

		{"TZ=Europe/Berlin 0 30 8 * * *", "2026-06-01T00:00:00Z", []string{"2026-06-01T06:30:00Z"}},
		{"CRON_TZ=Asia/Kathmandu @daily", "2026-06-01T00:00:00Z", []string{"2026-06-01T18:15:00Z"}},
		// Summer time begins: there is no 02:30 on 2026-03-29, and 03:00 comes an hour after 01:00.
		{"TZ=Europe/Berlin 0 30 2 * * *", "2026-03-28T00:00:00Z", []string{"2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z"}},
		{"TZ=Europe/Berlin @hourly", "2026-03-28T23:30:00Z", []string{"2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"}},
		// It ends: 02:30 comes twice on 2026-10-25.
		{"TZ=Europe/Berlin 0 30 2 * * *", "2026-10-24T12:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"}},
		// Days that begin at one o'clock, west and east of Greenwich.
		{"TZ=America/Sao_Paulo 0 0 9 4 11 ?", "2018-10-20T00:00:00Z", []string{"2018-11-04T11:00:00Z"}},
		{"TZ=America/Sao_Paulo @daily", "2018-11-03T12:00:00Z", []string{"2018-11-05T02:00:00Z"}},
		{"TZ=Africa/Cairo 0 0 12 * * fri", "2026-04-20T00:00:00Z", []string{"2026-04-24T09:00:00Z", "2026-05-01T09:00:00Z"}},
		// Half an hour of summer time; a day that was left out.
		{"TZ=Australia/Lord_Howe 0 15 * * * *", "2026-04-04T14:00:00Z", []string{"2026-04-04T14:15:00Z", "2026-04-04T15:45:00Z"}},
		{"TZ=Pacific/Apia 0 0 0 30 12 *", "2010-12-31T12:00:00Z", []string{"2012-12-29T10:00:00Z"}},
	}
	for _, test := range tests {
		s, err := Parse(test.schedule)
		if err != nil {
			t.Errorf("Parse(%q): %v", test.schedule, err)
			continue
		}
		tick := at(t, test.after)
		if test.want == nil {
			if next := s.Next(tick); !next.IsZero() {
				t.Errorf("%q after %s: %s, want none", test.schedule, test.after, next)
			}
		}
		for _, want := range test.want {
			next := s.Next(tick)
			if !next.Equal(at(t, want)) || next.Location() != time.UTC {
				t.Errorf("%q after %s: %s, want %s", test.schedule, tick, next, want)
			}
			tick = next
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                             "empty spec string",
		"* * * * *":                    "expected exactly 6 fields, found 5",
		"* * * * * * *":                "expected exactly 6 fields, found 7",
		"60 * * * * *":                 "above maximum",
		"* 60 * * * *":                 "above maximum",
		"* * 24 * * *":                 "above maximum",
		"* * * 0 * *":                  "below minimum",
		"* * * 32 * *":                 "above maximum",
		"* * * * 13 *":                 "above maximum",
		"* * * * * 7":                  "above maximum",
		"* * * * * sunday":             "failed to parse int",
		"5-3 * * * * *":                "beyond end of range",
		"*/0 * * * * *":                "should be a positive number",
		"1-2-3 * * * * *":              "too many hyphens",
		"1/2/3 * * * * *":              "too many slashes",
		", * * * * *":                  "has no value",
		"@never":                       "unrecognized descriptor",
		"@every":                       "unrecognized descriptor",
		"@every soon":                  "failed to parse duration",
		"@every -1s":                   "is negative",
		"TZ=Nowhere/City 0 0 0 * * *":  "provided bad location Nowhere/City: ",
		"CRON_TZ=../../passwd @daily":  "provided bad location ../../passwd: ",
		"TZ=UTC":                       "nothing follows the time zone",
		"TZ=UTC ":                      "empty spec string",
		"TZ=UTC TZ=UTC":                "two time zones",
		"TZ=UTC CRON_TZ=UTC @daily":    "two time zones",
		"TZ=UTC @every 1s":             "timezone is not supported for @every schedules: TZ=UTC @every 1s",
		"CRON_TZ=Asia/Tokyo @every 1s": "timezone is not supported for @every schedules: CRON_TZ=Asia/Tokyo @every 1s",
		"0 0 0 30 2 *":                 "never comes",
		"0 0 0 30,31 feb ?":            "never comes",
		"0 0 0 31 4,6,9,11 *":          "never comes",
		"TZ=Asia/Tokyo 0 0 0 30 2 *":   "never comes",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): %v, want %q", text, err, want)
		}
	}
	for _, text := range []string{"0 0 0 30 2 1", "0 0 0 31 4,5 *", "0 0 0 29 2 *", "0 0 0 1 1 ?", "0 0 0 */30 2 *"} {
		if _, err := Parse(text); err != nil {
			t.Errorf("Parse(%q): %v", text, err)
		}
	}
}

// slow looks at every second.
func slow(s *Schedule, t time.Time, until time.Time) time.Time {
	for t = t.Truncate(time.Second).Add(time.Second); !t.After(until); t = t.Add(time.Second) {
		l := t.In(s.zone)
		if s.spec.Second>>l.Second()&1 == 1 && s.spec.Minute>>l.Minute()&1 == 1 && s.spec.Hour>>l.Hour()&1 == 1 &&
			s.spec.Month>>l.Month()&1 == 1 && s.day(l.Year(), l.Month(), l.Day()) {
			return t
		}
	}
	return time.Time{}
}

// TestNextAgainstSlow compares with a search second by second, around changes of summer time.
func TestNextAgainstSlow(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Africa/Cairo", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Beirut", "Antarctica/Troll"}
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	for range 150 {
		text := "TZ=" + pick(zones...) + " " + pick("0", "*/7", "59", "*") + " " + pick("0", "30", "*/11", "*", "59") + " " +
			pick("0", "1", "2", "3", "23", "*", "*/5", "0-2") + " " + pick("*", "?", "1", "*/3", "28-31") + " " + pick("*", "3", "4", "10,11") + " " + pick("*", "?", "0", "5", "mon-wed")
		s, err := Parse(text)
		if err != nil {
			t.Fatalf("Parse(%q): %v", text, err)
		}
		start := time.Date(2016+r.IntN(11), time.Month(1+r.IntN(12)), 1+r.IntN(31), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1e9), time.UTC)
		if r.IntN(2) == 0 {
			_, change := start.In(s.zone).ZoneBounds()
			if !change.IsZero() {
				start = change.Add(-time.Duration(r.IntN(8*3600)) * time.Second)
			}
		}
		until := start.Add(18 * time.Hour)
		next, want := s.Next(start), slow(s, start, until)
		if want.IsZero() {
			if !next.IsZero() && !next.After(until) {
				t.Fatalf("%q after %s: %s, want none until %s", text, start, next, until)
			}
		} else if !next.Equal(want) {
			t.Fatalf("%q after %s: %s, want %s", text, start, next, want)
		}
	}
}

// TestLatest compares with going from one time to the next.
func TestLatest(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for _, text := range []string{
		"@every 7s", "@every 1500ms", "*/7 * * * * *", "0 */5 * * * *", "TZ=Europe/Berlin 0 30 2 * * *", "@daily", "0 0 0 29 2 *", "TZ=Africa/Cairo 0 0 0 * * 5",
	} {
		s, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			tick := s.Next(time.Date(2026, 3, 28, 0, 0, 0, r.IntN(1e9), time.UTC))
			now := tick.Add(time.Duration(r.Int64N(int64(36 * time.Hour))))
			if r.IntN(2) == 0 {
				now = tick.Add(time.Duration(r.Int64N(int64(time.Minute))))
			}
			want := tick
			for next := s.Next(want); !next.After(now); next = s.Next(next) {
				want = next
			}
			if got := s.Latest(tick, now); !got.Equal(want) {
				t.Fatalf("%q: the latest from %s to %s is %s, want %s", text, tick, now, got, want)
			}
		}
	}
	// Many years of many ticks take no time.
	s, err := Parse("@every 1ns")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Latest(at(t, "0002-01-01T00:00:00Z"), at(t, "2026-01-01T00:00:00.5Z")); !got.Equal(at(t, "2026-01-01T00:00:00.5Z")) {
		t.Errorf("the latest nanosecond is %s", got)
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	var c Cache
	a, err := c.Parse("@daily")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := c.Parse("@daily"); err != nil || a != b {
		t.Errorf("the second is not the first: %v", err)
	}
	if _, err := c.Parse("daily"); err == nil {
		t.Error("the cache accepts what Parse refuses")
	}
	for i := range 2 * mostCached {
		if _, err := c.Parse("@every " + time.Duration(i+1).String()); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.known) > mostCached {
		t.Errorf("the cache holds %d", len(c.known))
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"* * * * * *", "TZ=Europe/Berlin 0 30 2 * * *", "@every 1ms", "CRON_TZ=UTC @daily", "0 0 0 29 2 ?", "1-5/2,7 */3 ? jan-mar mon", "TZ=", "TZ= ", ",", "TZ=Local @hourly",
	} {
		f.Add(text, int64(1_790_000_000), int64(500))
	}
	f.Fuzz(func(t *testing.T, text string, second, nano int64) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		start := time.Unix(second%4e9, nano%1e9)
		next := s.Next(start)
		if next.IsZero() {
			return
		}
		if s.spec == nil {
			if next.Sub(start) != s.every {
				t.Fatalf("%q after %s: %s", text, start, next)
			}
			return
		}
		if !next.After(start) || next.Nanosecond() != 0 {
			t.Fatalf("%q after %s: %s", text, start, next)
		}
		if again := s.Next(next.Add(-time.Second)); !again.Equal(next) {
			t.Fatalf("%q: %s is not a time of it, %s is", text, next, again)
		}
		if latest := s.Latest(next, next.Add(time.Hour)); latest.Before(next) || latest.After(next.Add(time.Hour)) {
			t.Fatalf("%q: the latest of an hour from %s is %s", text, next, latest)
		}
	})
}

func FuzzPoint(f *testing.F) {
	for _, text := range []string{"P1Y2M3W4DT5H6M7S", "R5/PT1S", "R5", "R-1/P1D", "10s", "-1h", "2026-01-01T00:00:00.5+02:00", "PT", "P99999999999D", "P9999Y"} {
		f.Add(text)
	}
	base := time.Date(2026, 1, 1, 0, 0, 0, 5, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		v, err := point(text, base)
		if err == nil && (v.Year() < 1 || v.Year() > 9999 || v.Location() != time.UTC) {
			t.Fatalf("%q: %s", text, v)
		}
	})
}
