package ratelimit

import (
	"math"
	"sync"
	"time"
)

// maxBuckets bounds each of the two generations: about 6 MiB in all when clients come from everywhere.
const maxBuckets = 1 << 16

// buckets are token buckets by key. They are kept in two generations: one that is not used for as long as it takes to fill is
// full, and forgetting it loses nothing. So a generation is dropped each such time, or when there are too many.
type buckets struct {
	rate, burst float64
	fill        time.Duration // what an empty bucket takes to be full

	mu            sync.Mutex
	young, old    map[uint64]bucket
	since, origin time.Time
}

type bucket struct {
	tokens float64
	at     time.Duration // since origin
}

func newBuckets(rate float64, now time.Time) *buckets {
	b := &buckets{rate: rate, burst: math.Max(1, rate), young: map[uint64]bucket{}, since: now, origin: now}
	// A bound keeps the duration in its range; slower limits than one request in ten years do not matter.
	b.fill = time.Duration(min(b.burst/rate, 10*365*24*3600)*float64(time.Second)) + time.Second
	return b
}

// take takes a token, if there is one, and reports how many are left.
func (b *buckets) take(key uint64, now time.Time) (ok bool, left int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.since) >= b.fill || len(b.young) >= maxBuckets {
		if b.old = b.young; now.Sub(b.since) >= 2*b.fill {
			b.old = nil
		}
		b.young, b.since = map[uint64]bucket{}, now
	}
	at := now.Sub(b.origin)
	t, known := b.young[key]
	if !known {
		t, known = b.old[key]
	}
	if !known {
		t = bucket{tokens: b.burst, at: at}
	}
	if at > t.at {
		t.tokens = math.Min(b.burst, t.tokens+(at-t.at).Seconds()*b.rate)
		t.at = at
	}
	if t.tokens >= 1 {
		t.tokens--
		ok = true
	}
	b.young[key] = t
	return ok, int(t.tokens)
}
