package nameresolution

import (
	"slices"
	"strconv"
	"testing"
	"time"
)

func TestSuspects(t *testing.T) {
	var s Suspects
	now := time.Unix(1, 0)
	check := func(want ...string) {
		t.Helper()
		if got := s.Trusted([]string{"a", "b"}, now); !slices.Equal(got, want) {
			t.Errorf("trusted are %v, want %v", got, want)
		}
	}
	check("a", "b")
	s.Add("a", now, time.Second)
	check("b")
	s.Add("b", now, time.Minute)
	check("a", "b") // better than none
	now = now.Add(time.Second)
	check("a")
	for i := range 3 * manySuspects {
		s.Add(strconv.Itoa(i), now, time.Second)
	}
	if len(s.until) > manySuspects {
		t.Errorf("%d suspects are remembered", len(s.until))
	}
	now = now.Add(time.Second)
	s.Add("a", now, time.Second)
	if len(s.until) > 2 {
		t.Errorf("%d suspects are remembered though their time is over", len(s.until))
	}
}
