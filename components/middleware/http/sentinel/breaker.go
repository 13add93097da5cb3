package sentinel

import "time"

// Strategies of circuit breaker rules.
const (
	slowRatio  = 0
	errorRatio = 1
	errorCount = 2
)

type breakerState int

const (
	closed breakerState = iota
	open
	halfOpen
)

// breaker is a circuit breaker rule at work. Its owner guards it.
type breaker struct {
	rule   breakerRule
	counts window // kind 0: all requests that ended, kind 1: the bad ones
	state  breakerState
	retry  time.Duration // when an open breaker lets a request through
	probes int64         // that went well while half open
}

func newBreaker(r breakerRule) *breaker {
	pieces := r.StatSlidingWindowBucketCount
	if pieces == 0 || r.StatIntervalMs%pieces != 0 || pieces > 1000 {
		pieces = 1
	}
	return &breaker{rule: r, counts: newWindow(time.Duration(r.StatIntervalMs)*time.Millisecond, int(pieces))}
}

// allows reports whether a request may pass, without letting it.
func (b *breaker) allows(now time.Duration) bool {
	switch b.state {
	case open:
		return now >= b.retry
	case halfOpen:
		return b.rule.ProbeNum > 0
	}
	return true
}

// enter lets a request pass that is allowed.
func (b *breaker) enter() {
	if b.state == open {
		b.state, b.probes = halfOpen, 0
	}
}

// ended is told how a request went.
func (b *breaker) ended(now, took time.Duration, failed bool) {
	bad := failed
	if b.rule.Strategy == slowRatio {
		bad = took.Milliseconds() > b.rule.MaxAllowedRtMs
	}
	b.counts.add(now, 0, 1)
	if bad {
		b.counts.add(now, 1, 1)
	}
	switch b.state {
	case open:
		return
	case halfOpen:
		if bad {
			b.trip(now)
		} else if b.probes++; b.probes >= b.rule.ProbeNum {
			b.state = closed
			b.counts.reset()
		}
		return
	}
	all, badOnes := b.counts.sum(now, 0), b.counts.sum(now, 1)
	if all < b.rule.MinRequestAmount {
		return
	}
	figure := float64(badOnes)
	if b.rule.Strategy != errorCount {
		figure /= float64(all)
	}
	if figure >= b.rule.Threshold {
		b.trip(now)
	}
}

func (b *breaker) trip(now time.Duration) {
	b.state, b.retry = open, now+time.Duration(b.rule.RetryTimeoutMs)*time.Millisecond
}
