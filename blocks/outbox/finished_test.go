package outbox

import (
	"strconv"
	"testing"
)

func TestFinishedForgetsTheOldest(t *testing.T) {
	var f finished
	const extra = 10
	for i := range 2*remembered + extra {
		f.add(strconv.Itoa(i))
	}
	for i := range 2*remembered + extra {
		if got, want := f.has(strconv.Itoa(i)), i >= remembered+extra; got != want {
			t.Fatalf("%d: %t, want %t", i, got, want)
		}
	}
	if len(f.marks) != remembered || len(f.latest) != remembered {
		t.Errorf("%d and %d are kept", len(f.marks), len(f.latest))
	}
}

func TestWaitsAreSpread(t *testing.T) {
	for random, want := range map[float64]float64{0: 0.45, 0.5: 0.5, 1: 0.55} {
		o := New(Options{Random: func() float64 { return random }})
		w := o.waits(o.options.Clock.Now().Add(patience))
		if got, more := w.next(); !more || got.Seconds() != want {
			t.Errorf("%v: %v, %t; want %v s", random, got, more, want)
		}
	}
}
