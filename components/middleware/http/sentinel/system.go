package sentinel

import "time"

// Metric types of system rules.
const (
	byLoad        = 0
	byTime        = 1
	byConcurrency = 2
	byQPS         = 3
	byCPU         = 4
)

// What system counts.
const (
	passed   = 0
	complete = 1
	millis   = 2
)

// system has the system rules and what they look at. Its owner guards it.
type system struct {
	rules   []systemRule
	counts  window
	running int64
	// fastest is the shortest response time, in ms, in each of two pieces of time.
	fastest [2]struct {
		number int64
		ms     int64
	}
}

func newSystem(rules []systemRule) system {
	return system{rules: rules, counts: newWindow(time.Second, 2)}
}

func (s *system) pass(now time.Duration, m *machine) bool {
	for _, r := range s.rules {
		switch r.MetricType {
		case byQPS:
			if float64(s.counts.sum(now, passed)) >= r.TriggerCount {
				return false
			}
		case byConcurrency:
			if float64(s.running) >= r.TriggerCount {
				return false
			}
		case byTime:
			// Without a response there is no average; otherwise nothing would ever pass a trigger of 0.
			if n := s.counts.sum(now, complete); n > 0 && float64(s.counts.sum(now, millis))/float64(n) >= r.TriggerCount {
				return false
			}
		case byLoad:
			if m.load() > r.TriggerCount && (r.Strategy != 1 || s.overBBR(now)) {
				return false
			}
		case byCPU:
			if m.cpu() > r.TriggerCount && (r.Strategy != 1 || s.overBBR(now)) {
				return false
			}
		}
	}
	return true
}

// overBBR reports whether more requests run than the app can hold by its best figures: the most requests per second times the
// shortest response time (Sentinel, system rules: BBR).
func (s *system) overBBR(now time.Duration) bool {
	best := float64(s.counts.largest(now, complete)) * float64(time.Second/s.counts.piece)
	shortest, number := int64(0), int64(now/s.counts.piece)
	for _, f := range s.fastest {
		if f.number >= number-1 && (shortest == 0 || f.ms < shortest) {
			shortest = f.ms
		}
	}
	return s.running > 1 && float64(s.running) > best*float64(shortest)/1000
}

func (s *system) begin(now time.Duration) {
	if len(s.rules) > 0 {
		s.counts.add(now, passed, 1)
		s.running++
	}
}

func (s *system) end(now, took time.Duration, completed bool) {
	if len(s.rules) == 0 {
		return
	}
	if s.running--; !completed {
		return
	}
	s.counts.add(now, complete, 1)
	s.counts.add(now, millis, took.Milliseconds())
	number := int64(now / s.counts.piece)
	ms := max(1, took.Milliseconds())
	if f := &s.fastest[number%2]; f.number != number || f.ms == 0 || ms < f.ms {
		f.number, f.ms = number, ms
	}
}
