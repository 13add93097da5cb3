package delivery

import (
	"fmt"
	"testing"
)

func TestShare(t *testing.T) {
	for _, tt := range []struct{ limit, index, count, want int }{
		{10, 0, 1, 10}, {10, 0, 3, 4}, {10, 1, 3, 3}, {10, 2, 3, 3}, {11, 1, 3, 4}, {2, 2, 3, 1}, {1, 0, 3, 1},
	} {
		if got := share(tt.limit, tt.index, tt.count); got != tt.want {
			t.Errorf("share of %d for %d of %d: %d, want %d", tt.limit, tt.index, tt.count, got, tt.want)
		}
	}
}

func TestGates(t *testing.T) {
	b := newBed(t)
	s := b.open(initial("app", "T", "U"), limit("T", "", 3), limit("T", "k", 1), limit("T", "", 0), limit("", "", 1))
	for i := range 6 {
		b.reminder("T", fmt.Sprint("t", i), "")
	}
	b.reminder("T", "k0", "k")
	b.reminder("U", "u0", "")
	b.job("app", "j0")
	got := b.drain(s)
	if len(got) != 5 || fmt.Sprint(b.counts.inflight) != "map[T:3]" || b.counts.pending["T"] != 4 || b.counts.throttled != 4 {
		t.Fatalf("in flight %q, %+v", got, b.counts)
	}
	for id := range uint64(5) {
		b.result(s, id+1, success)
	}
	b.expectNames(s, "t3", "t4", "t5")
	b.result(s, 6, failed)
	b.expectNames(s, "k0")
	b.reminder("T", "k1", "k")
	b.reminder("T", "t6", "")
	b.expectNames(s)
	b.result(s, 7, success)
	b.expectNames(s, "t6") // k1 gave way: its key is at its limit
	b.result(s, 8, success)
	b.expectNames(s)
	b.result(s, 9, success) // k0
	b.expectNames(s, "k1")
	b.result(s, 10, success)
	b.result(s, 11, success)
	if fmt.Sprint(b.counts.inflight, b.counts.pending) != "map[T:0 T:k:0] map[T:0 T:k:0]" || len(b.gates) != 2 {
		t.Errorf("%+v, %d gates", b.counts, len(b.gates))
	}
	s.Close()
	if len(b.gates) != 0 || len(b.counts.forgotten) != 2 {
		t.Errorf("%d gates without a stream; %q", len(b.gates), b.counts.forgotten)
	}
}

func TestGateQueueIsBounded(t *testing.T) {
	b := newBed(t, func(o *Options) { o.MaxGated = 2 })
	s := b.open(initial("app", "T"), limit("T", "", 1))
	for i := range 5 {
		b.reminder("T", fmt.Sprint(i), "")
	}
	b.results.expect(t, "3 false", "4 false")
	b.expectNames(s, "0")
	b.result(s, 1, success)
	b.expectNames(s, "1")
}

func TestGateSharedByInstances(t *testing.T) {
	b := newBed(t)
	b.SetMembership(2, 3)
	s := b.open(initial("app", "T"), limit("T", "", 4))
	for i := range 6 {
		b.reminder("T", fmt.Sprint(i), "")
	}
	b.expectNames(s, "0")
	b.SetMembership(0, 3)
	b.expectNames(s, "1")
	b.SetMembership(0, 1)
	b.expectNames(s, "2", "3")
	b.SetMembership(0, 3) // what is in flight stays
	b.result(s, 1, success)
	b.result(s, 2, success)
	b.expectNames(s)
	b.result(s, 3, success)
	b.expectNames(s, "4")
}

func TestLatestLimitCounts(t *testing.T) {
	b := newBed(t)
	first := b.open(initial("app", "T"), limit("T", "", 1))
	for i := range 5 {
		b.reminder("T", fmt.Sprint(i), "")
	}
	b.expectNames(first, "0")
	second := b.open(initial("app", "T"), limit("T", "", 3))
	b.expectNames(first, "1", "2")
	second.Close()
	b.result(first, 1, success)
	b.expectNames(first, "3")
}

func TestGateOutlivesItsStreamWhileTasksRun(t *testing.T) {
	b := newBed(t)
	limiting := b.open(initial("other"), limit("T", "", 1))
	s := b.open(initial("app", "T"))
	b.reminder("T", "0", "")
	b.reminder("T", "1", "")
	b.expectNames(s, "0")
	limiting.Close()
	b.expectNames(s, "1")
	if b.counts.inflight["T"] != 2 {
		t.Errorf("%+v", b.counts)
	}
	b.reminder("T", "2", "")
	b.open(initial("other"), limit("T", "", 2))
	b.expectNames(s, "2")
	b.reminder("T", "3", "")
	b.expectNames(s)
	b.result(s, 1, success)
	b.expectNames(s)
	b.result(s, 2, success)
	b.expectNames(s, "3")
}

func TestGatedTasksOfALostStreamAreStaged(t *testing.T) {
	b := newBed(t)
	keeper := b.open(initial("other"), limit("T", "", 1))
	s := b.open(initial("app", "T"))
	for i := range 3 {
		b.reminder("T", fmt.Sprint(i), "")
	}
	b.expectNames(s, "0")
	s.Close()
	if b.counts.pending["T"] != 0 || b.counts.inflight["T"] != 0 || b.counts.undelivered != 3 {
		t.Errorf("%+v", b.counts)
	}
	s = b.open(initial("app", "T"))
	b.expectNames(s, "1")
	keeper.Close()
	b.expectNames(s, "2", "0")
}
