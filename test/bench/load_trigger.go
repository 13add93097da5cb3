package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a load of triggers.
const (
	preparingLimit = 90 * time.Second // for scheduling the jobs
	arrivingLimit  = 30 * time.Second // for their arrival
	probes         = 500              // jobs that tell how fast jobs are scheduled
)

// arrivals are the jobs that the app has got.
type arrivals struct {
	due time.Time

	mu      sync.Mutex
	seen    []bool
	count   int
	last    time.Time
	latency histogram
	early   int
	all     chan struct{} // closed when all have arrived
}

// add is told of a job by its number. One that comes again is not counted again: delivery is at least once.
func (a *arrivals) add(n uint32) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if int(n) >= len(a.seen) || a.seen[n] {
		return
	}
	a.seen[n] = true
	a.count++
	a.last = now
	if now.Before(a.due) {
		a.early++
	}
	a.latency.add(now.Sub(a.due))
	if a.count == len(a.seen) {
		close(a.all)
	}
}

// outcome is what has arrived so far.
func (a *arrivals) outcome() *outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := &outcome{Seconds: a.last.Sub(a.due).Seconds(), Requests: a.count, Latency: a.latency, Errors: len(a.seen) - a.count + a.early}
	switch {
	case a.early > 0:
		o.Error = fmt.Sprintf("%d jobs came before they were due", a.early)
	case a.count < len(a.seen):
		o.Error = fmt.Sprintf("%d of %d jobs have not arrived within %s", len(a.seen)-a.count, len(a.seen), arrivingLimit)
	}
	return o
}

// runTrigger schedules jobs that are all due at one moment, says "ready" shortly before that, and waits until they have arrived.
func (l *load) runTrigger(ctx context.Context, lines *bufio.Reader, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, l.Patience)
	defer cancel()
	a := &arrivals{seen: make([]bool, l.Jobs), latency: make(histogram, histogramSize), all: make(chan struct{})}

	begin := time.Now()
	if err := l.schedule(ctx, probes, func(int) []byte { return jobRequest("24h", message(0, l.Size)) }); err != nil {
		return err
	}
	// Twice the time that it takes should do, and then some.
	wanted := time.Since(begin)*time.Duration(2*l.Jobs)/probes + l.Lead
	if wanted > preparingLimit {
		return fmt.Errorf("%d jobs took %s: %d would take longer than %s", probes, time.Since(begin), l.Jobs, preparingLimit)
	}
	a.due = time.Now().Add(wanted).Truncate(time.Second).Add(time.Second)
	stop, err := l.listen(ctx, a.add)
	if err != nil {
		return err
	}
	defer stop()
	due := a.due.UTC().Format(time.RFC3339)
	if err := l.schedule(ctx, l.Jobs, func(i int) []byte { return jobRequest(due, message(i, l.Size)) }); err != nil {
		return err
	}
	const pause = 300 * time.Millisecond // before the jobs are due
	early := time.Until(a.due.Add(-pause))
	if early < 0 {
		return fmt.Errorf("%d jobs were not scheduled in the %s before they were due", l.Jobs, wanted)
	}
	time.Sleep(early)
	fmt.Fprintln(out, "ready")
	if _, err := lines.ReadString('\n'); err != nil {
		return nil // the benchmark is gone
	}
	select {
	case <-a.all:
	case <-time.After(time.Until(a.due) + arrivingLimit):
	}
	return json.NewEncoder(out).Encode(a.outcome())
}

// schedule sends n requests over the load's connections. It ends at the first one that fails.
func (l *load) schedule(ctx context.Context, n int, request func(i int) []byte) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	serials := newSerials()
	for i := range min(n, l.Connections) {
		wg.Go(func() {
			c, err := dialHTTP(ctx, l, i, serials)
			if err != nil {
				cancel(err)
				return
			}
			defer c.close()
			for ctx.Err() == nil {
				k := int(next.Add(1)) - 1
				if k >= n {
					return
				}
				if err := c.send(request(k)); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
