package chaos

import (
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"time"
)

// figures are the times that actors took to settle, by kind of disturbance.
type figures map[string][]time.Duration

// disturbance is something that happens to a process, or to a pod.
type disturbance struct {
	kind string
	// down takes it away, or tells it to go; up is called then, and brings it back.
	down, up func()
}

// draw chooses a disturbance of what is not disturbed yet. What is taken down is away for a while that may be nothing.
func (w *world) draw(rng *rand.Rand, busy map[*process]bool) (d disturbance, victim *process) {
	for {
		p := w.pods[rng.IntN(podCount)]
		away := time.Duration(rng.IntN(2)*rng.IntN(1500)) * time.Millisecond
		switch dice := rng.IntN(100); {
		case dice < 35:
			d, victim = disturbance{"pod killed", func() { w.kill(p) }, func() { pause(away); p.start() }}, p.sidecar
		case dice < 65:
			d, victim = disturbance{"sidecar stopped", func() { p.sidecar.signal(syscall.SIGTERM) }, func() {
				if err := p.sidecar.terminated(); err != nil {
					w.t.Errorf("%v\n%s", err, p.sidecar.tail())
				}
				pause(away)
				p.sidecar.start()
			}}, p.sidecar
		case dice < 85:
			d, victim = disturbance{"placement killed", w.placement.kill, func() { pause(away); w.placement.start() }}, w.placement
		default:
			d, victim = disturbance{"scheduler killed", w.scheduler.kill, func() { pause(away); w.scheduler.start() }}, w.scheduler
		}
		if !busy[victim] {
			return d, victim
		}
	}
}

// pause is part of what happens: something is away, or in peace, for a while.
func pause(d time.Duration) { <-time.After(d) }

// disturb makes trouble for a while, sometimes of two kinds at once, and measures after each how long the actors take to settle.
func (w *world) disturb(l *ledger, duration time.Duration, rng *rand.Rand) figures {
	f := figures{}
	for end := time.Now().Add(duration); time.Now().Before(end); {
		pause(time.Duration(rng.IntN(800)) * time.Millisecond)
		for _, p := range w.processes() {
			if err := p.ended(); err != nil {
				w.t.Errorf("nobody touched it, and yet: %v\n%s", err, p.tail())
				return f
			}
		}
		count := 1
		if rng.IntN(4) == 0 {
			count = 2
		}
		busy := map[*process]bool{}
		var chosen []disturbance
		var kinds []string
		for range count {
			d, victim := w.draw(rng, busy)
			busy[victim] = true
			chosen = append(chosen, d)
			kinds = append(kinds, d.kind)
		}
		kind := strings.Join(kinds, ", ")
		begun := time.Now()
		together(chosen, func(d disturbance) { d.down() })
		var returning sync.WaitGroup
		returning.Go(func() { together(chosen, func(d disturbance) { d.up() }) })
		took := w.settle(l, kind, rng)
		returning.Wait()
		// What is back takes actors over.
		back := w.settle(l, kind+", and back", rng)
		if count > 1 {
			kind = "two at once"
		}
		f[kind] = append(f[kind], took)
		f[kind+", back"] = append(f[kind+", back"], back)
		w.t.Logf("%s %-34s all actors answered after %s, and %s after the return", begun.Format(clockFormat), strings.Join(kinds, ", "),
			took.Round(time.Millisecond), back.Round(time.Millisecond))
	}
	return f
}

// together does something for all at the same time.
func together(all []disturbance, do func(disturbance)) {
	var doing sync.WaitGroup
	for _, d := range all {
		doing.Go(func() { do(d) })
	}
	doing.Wait()
}

// settle is how long it takes until every actor has answered a call.
func (w *world) settle(l *ledger, what string, rng *rand.Rand) time.Duration {
	begun := time.Now()
	var asking sync.WaitGroup
	for i := range actorCount {
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		asking.Go(func() {
			c := newCaller(callTimeout)
			defer c.close()
			for !l.increment(c, w.pods[own.IntN(podCount)], actorName(i), "i") {
				if time.Since(begun) > settleBound {
					w.t.Errorf("after %s the actor %s did not answer within %s", what, actorName(i), settleBound)
					return
				}
				pause(20 * time.Millisecond)
			}
		})
	}
	asking.Wait()
	return time.Since(begun)
}
