package pubsubtest

import (
	"runtime"
	"strings"
	"time"
)

// stacks are the stacks of all goroutines but those that one of the texts tells apart, and but the caller's own.
func stacks(notOurs []string) []string {
	buffer := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buffer, true)
		if n < len(buffer) {
			buffer = buffer[:n]
			break
		}
		buffer = make([]byte, 2*len(buffer))
	}
	var ours []string
next:
	for n, stack := range strings.Split(string(buffer), "\n\n") {
		if n == 0 {
			continue // the caller
		}
		for _, text := range notOurs {
			if strings.Contains(stack, text) {
				continue next
			}
		}
		ours = append(ours, stack)
	}
	return ours
}

// goroutines counts them.
func goroutines(notOurs []string) int { return len(stacks(notOurs)) }

// expectGoroutines waits until there are no more of them than before.
func (w *world) expectGoroutines(before int) {
	const limit = 15 * time.Second
	deadline := time.Now().Add(limit)
	for {
		now := stacks(w.cfg.NotOurs)
		if len(now) <= before {
			return
		}
		if time.Now().After(deadline) {
			w.Errorf("%d goroutines, %d before the test, %v after everything was closed:\n%s", len(now), before, limit, strings.Join(now, "\n\n"))
			return
		}
		pass(20 * time.Millisecond)
	}
}
