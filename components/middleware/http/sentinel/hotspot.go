package sentinel

import (
	"container/list"
	"math"
	"time"
)

// byRate is the metric type of rules that count requests in a time.
const byRate = 1

// hotSpot is a rule about the values of a parameter at work. Its owner guards it.
type hotSpot struct {
	rule       hotSpotRule
	thresholds map[string]int64
	capacity   int
	values     map[string]*list.Element // of *hotValue
	recent     *list.List               // most recently used first
	running    map[string]int64         // concurrent requests by value
}

// hotValue is one value of the parameter.
type hotValue struct {
	value  string
	at     time.Duration // tokens were added, or the last request was due
	tokens int64
}

func newHotSpot(r hotSpotRule) *hotSpot {
	h := &hotSpot{rule: r, thresholds: map[string]int64{}, values: map[string]*list.Element{}, recent: list.New(), running: map[string]int64{}}
	for _, s := range r.SpecificItems {
		h.thresholds[s.Value] = s.Threshold
	}
	const base, most = 4000, 20000
	h.capacity = int(min(most, base*r.DurationInSec))
	if r.ParamsMaxCapacity > 0 {
		h.capacity = int(min(r.ParamsMaxCapacity, 1e6))
	}
	return h
}

// pass decides about a request with a value of the parameter; one that passes may have to wait first.
func (h *hotSpot) pass(now time.Duration, value string) (wait time.Duration, ok bool) {
	threshold, special := h.thresholds[value]
	if !special {
		threshold = h.rule.Threshold
	}
	if h.rule.MetricType != byRate {
		return 0, h.running[value]+1 <= threshold
	}
	if threshold <= 0 {
		return 0, false
	}
	most := threshold + h.rule.BurstCount
	v, known := h.use(value)
	if !known {
		v.at, v.tokens = now, most-1
		return 0, true
	}
	period := time.Duration(h.rule.DurationInSec) * time.Second
	if h.rule.ControlBehavior == 1 {
		due := v.at + time.Duration(math.Round(float64(period)/float64(threshold)))
		if due <= now {
			v.at = now
			return 0, true
		}
		if wait = due - now; wait >= time.Duration(h.rule.MaxQueueingTimeMs)*time.Millisecond {
			return 0, false
		}
		v.at = due
		return wait, true
	}
	if passed := now - v.at; passed > period {
		v.tokens = min(most, v.tokens+int64(min(float64(most), passed.Seconds()*float64(threshold)/period.Seconds())))
		v.at = now
	}
	if v.tokens <= 0 {
		return 0, false
	}
	v.tokens--
	return 0, true
}

// use finds a value's state, or makes one, in the place of the one that was not used for longest.
func (h *hotSpot) use(value string) (v *hotValue, known bool) {
	if e, ok := h.values[value]; ok {
		h.recent.MoveToFront(e)
		return e.Value.(*hotValue), true
	}
	if len(h.values) >= h.capacity {
		oldest := h.recent.Back()
		h.recent.Remove(oldest)
		delete(h.values, oldest.Value.(*hotValue).value)
	}
	v = &hotValue{value: value}
	h.values[value] = h.recent.PushFront(v)
	return v, false
}

func (h *hotSpot) begin(value string) {
	if h.rule.MetricType != byRate {
		h.running[value]++
	}
}

func (h *hotSpot) end(value string) {
	if h.rule.MetricType != byRate {
		if h.running[value]--; h.running[value] <= 0 {
			delete(h.running, value)
		}
	}
}
