package resiliency

import (
	"strconv"
	"strings"
	"testing"

	"outrigger.dev/resource"
)

// FuzzMatching: a list of codes that is taken says of every code what its items, read one by one, say.
func FuzzMatching(f *testing.F) {
	for _, list := range []string{"", ",", "429,500-599", "100-599", "500-400", "99", "600", "5 00", "-", "1-", "-1", "500-501-502", "+500", "0500", "5e2", ",,404,"} {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, list string) {
		set, err := parseCodes(&list, resource.MinHTTPStatusCode, resource.MaxHTTPStatusCode)
		if err != nil {
			if set != nil {
				t.Error("a set with an error")
			}
			return
		}
		items := 0
		want := map[int]bool{}
		for item := range strings.SplitSeq(list, ",") {
			if item == "" {
				continue
			}
			items++
			from, to, isRange := strings.Cut(item, "-")
			if !isRange {
				to = from
			}
			a, errA := strconv.ParseUint(from, 10, 16)
			b, errB := strconv.ParseUint(to, 10, 16)
			if errA != nil || errB != nil || a < 100 || b > 599 || a > b {
				t.Fatalf("%q was taken", item)
			}
			for code := a; code <= b; code++ {
				want[int(code)] = true
			}
		}
		r := retry{http: set}
		for code := -1; code <= 1000; code++ {
			matches := code >= 0 && code <= 16 || code >= 100 && code <= 599 && (items == 0 || want[code])
			if r.matches(code) != matches {
				t.Errorf("%q: code %d", list, code)
			}
		}
	})
}

// FuzzTrip: an expression that is taken can be evaluated.
func FuzzTrip(f *testing.F) {
	for _, expression := range []string{resource.DefaultBreakerTrip, "requests > 3 && double(totalFailures)/double(requests) > 0.5", "a.b[1] ? 1 : 2", "[1].map(x, x / requests)", "@x", "__y > 1", "int"} {
		f.Add(expression)
	}
	f.Fuzz(func(_ *testing.T, expression string) {
		if trip, err := compileTrip(expression); err == nil {
			trip(counts{})
			trip(counts{1 << 62, 1, 2, 3, 4})
		}
	})
}
