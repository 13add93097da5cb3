package sentinel

import (
	"math"
	"time"
)

// Strategies of flow rules.
const (
	warmUpStrategy = 1
	memoryStrategy = 2
)

// flow is a flow rule at work. Its owner guards it.
type flow struct {
	rule flowRule
	// passed counts what passed of the resource that the rule watches: in the rule's time, and per second for the warm-up.
	passed, seconds window
	// last is when the last request of a throttled resource was due; it starts far in the past.
	last time.Duration
	warm warmUp
}

func newFlow(r flowRule) *flow {
	interval := time.Duration(r.StatIntervalInMs) * time.Millisecond
	pieces := 1
	switch {
	case interval == 0:
		interval, pieces = time.Second, 2
	case interval%(500*time.Millisecond) == 0 && interval <= 10*time.Second:
		pieces = int(interval / (500 * time.Millisecond))
	}
	f := &flow{rule: r, passed: newWindow(interval, pieces), seconds: newWindow(2*time.Second, 2), last: -1 << 62}
	if r.TokenCalculateStrategy == warmUpStrategy {
		f.warm = newWarmUp(r)
	}
	return f
}

// watched is the resource whose requests count.
func (f *flow) watched() string {
	if f.rule.RelationStrategy == 1 {
		return f.rule.RefResource
	}
	return f.rule.Resource
}

// count counts a request that passed.
func (f *flow) count(now time.Duration) {
	f.passed.add(now, 0, 1)
	f.seconds.add(now, 0, 1)
}

// threshold is the limit at the moment.
func (f *flow) threshold(now time.Duration, memory func() int64) float64 {
	switch r := &f.rule; r.TokenCalculateStrategy {
	case warmUpStrategy:
		return f.warm.threshold(now, float64(f.seconds.at(now, 0, 1)))
	case memoryStrategy:
		used := memory()
		low, high := float64(r.LowMemUsageThreshold), float64(r.HighMemUsageThreshold)
		switch {
		case used <= r.MemLowWaterMarkBytes:
			return low
		case used >= r.MemHighWaterMarkBytes:
			return high
		}
		return low + (high-low)/float64(r.MemHighWaterMarkBytes-r.MemLowWaterMarkBytes)*float64(used-r.MemLowWaterMarkBytes)
	}
	return f.rule.Threshold
}

// pass decides about a request; one that passes may have to wait first.
func (f *flow) pass(now time.Duration, memory func() int64) (wait time.Duration, ok bool) {
	threshold := f.threshold(now, memory)
	if f.rule.ControlBehavior == 0 {
		return 0, float64(f.passed.sum(now, 0))+1 <= threshold
	}
	if threshold < 1 {
		return 0, false
	}
	interval := time.Second
	if f.rule.StatIntervalInMs > 0 {
		interval = time.Duration(f.rule.StatIntervalInMs) * time.Millisecond
	}
	due := f.last + time.Duration(math.Ceil(float64(interval)/threshold))
	if due <= now {
		f.last = now
		return 0, true
	}
	if wait = due - now; wait > time.Duration(f.rule.MaxQueueingTimeMs)*time.Millisecond {
		return 0, false
	}
	f.last = due
	return wait, true
}

// warmUp raises a limit step by step when a resource that was idle is used again: as in a bucket that fills while it is idle, and
// the fuller it is the slower tokens come out (Sentinel, flow rules: warm-up).
type warmUp struct {
	limit, cold       float64
	warning, capacity float64
	slope, stored     float64
	filled            time.Duration
	begun             bool
}

func newWarmUp(r flowRule) warmUp {
	cold := float64(r.WarmUpColdFactor)
	if cold <= 1 {
		cold = 3
	}
	period := float64(r.WarmUpPeriodSec)
	w := warmUp{limit: r.Threshold, cold: cold, warning: math.Floor(period * r.Threshold / (cold - 1))}
	w.capacity = w.warning + math.Floor(2*period*r.Threshold/(1+cold))
	if w.limit > 0 && w.capacity > w.warning {
		w.slope = (cold - 1) / w.limit / (w.capacity - w.warning)
	}
	w.stored = w.capacity // cold at first
	return w
}

func (w *warmUp) threshold(now time.Duration, previous float64) float64 {
	if second := now.Truncate(time.Second); !w.begun || second > w.filled {
		if w.begun && (w.stored < w.warning || w.stored > w.warning && previous < math.Floor(w.limit)/w.cold) {
			w.stored = math.Min(w.capacity, w.stored+(second-w.filled).Seconds()*w.limit)
		}
		w.stored = math.Max(0, w.stored-previous)
		w.begun, w.filled = true, second
	}
	if w.stored < w.warning || w.limit == 0 {
		return w.limit
	}
	return math.Nextafter(1/((w.stored-w.warning)*w.slope+1/w.limit), math.MaxFloat64)
}
