package engine

import (
	"container/heap"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"outrigger.dev/controlplane/scheduler/record"
)

const (
	// recheck is how often the wall clock is looked at while anything waits: timers stand still while a machine sleeps, and
	// do not know that the clock was set.
	recheck = time.Second
	// late is how late a tick may be before it counts as missed.
	late = time.Minute
	// soon is how near the next attempt must be for the content of a job to stay in memory.
	soon = time.Minute
	// again is the time between two tries to write or read when etcd fails.
	again = time.Second
)

// eventKind tells events apart.
type eventKind uint8

const (
	resultEvent eventKind = iota // of a trigger: held means success
	writeEvent                   // of a write: held means that its conditions held
	readEvent                    // of a read: content, or nil when the version is gone
)

// event is what others tell the loop.
type event struct {
	kind    eventKind
	held    bool
	job     *job
	trigger *Trigger
	content *record.Job
	err     error
}

// leaveTicket is for somebody who waits until jobs that were given up are not written any more.
type leaveTicket struct {
	pending int
	done    chan struct{}
}

// loop owns the jobs of an engine. Everything but the methods post and do is for its goroutine.
type loop struct {
	e       *Engine
	started atomic.Bool

	inboxMu sync.Mutex
	inbox   []event
	notify  chan struct{}

	calls  chan func()
	stored chan storedChange // from the feed
	resync chan struct{}     // to the feed: read everything again
	table  atomic.Pointer[table]

	jobs     map[string]*job
	queue    queue
	holding  holding
	fence    clientv3.Cmp // holds while this engine is a member
	writes   []*write
	reads    []*job
	failed   []*job // unwritten
	failedAt time.Time
	scan     uint32
	scanning bool
	gone     map[string]int64 // versions that ended while a scan runs, which may still show them
}

func newLoop(e *Engine) *loop {
	return &loop{
		e: e, notify: make(chan struct{}, 1), calls: make(chan func()), stored: make(chan storedChange),
		resync: make(chan struct{}, 1), jobs: make(map[string]*job),
	}
}

// post tells the loop of an event, without waiting.
func (l *loop) post(ev event) {
	l.inboxMu.Lock()
	l.inbox = append(l.inbox, ev)
	l.inboxMu.Unlock()
	select {
	case l.notify <- struct{}{}:
	default:
	}
}

// do has the loop call f and waits for the end of it. The loop must run.
func (l *loop) do(f func()) {
	done := make(chan struct{})
	l.calls <- func() { f(); close(done) }
	<-done
}

// run is the goroutine.
func (l *loop) run(ctx context.Context) {
	timer := l.e.clock.NewTimer(recheck)
	defer timer.Stop()
	var spare []event
	for {
		l.inboxMu.Lock()
		events := l.inbox
		l.inbox = spare[:0]
		l.inboxMu.Unlock()
		now := l.e.now()
		for i := range events {
			l.handle(&events[i], now)
			events[i] = event{}
		}
		spare = events
		l.rewrite(now)
		l.fire(now)
		l.send()
		timer.Reset(l.pause(now))
		select {
		case <-ctx.Done():
			return
		case <-l.notify:
		case <-timer.Chan():
		case f := <-l.calls:
			f()
		case change := <-l.stored:
			l.apply(&change)
		}
	}
}

// pause is how long there is nothing to do but for what others tell.
func (l *loop) pause(now time.Time) time.Duration {
	pause := time.Hour
	if len(l.queue) > 0 {
		pause = min(recheck, l.queue[0].due.Sub(now))
	}
	if len(l.failed) > 0 {
		pause = min(pause, recheck, l.failedAt.Sub(now))
	}
	return max(pause, 0)
}

// handle takes an event into account.
func (l *loop) handle(ev *event, now time.Time) {
	j := ev.job
	if ev.kind == writeEvent && j.leave != nil {
		if j.leave.pending--; j.leave.pending == 0 {
			close(j.leave.done)
		}
		j.leave = nil
	}
	if l.jobs[j.name] != j {
		return // deleted, overwritten or given up meanwhile
	}
	switch ev.kind {
	case resultEvent:
		if j.trigger == ev.trigger {
			j.trigger = nil
			j.finish(ev.held)
			l.write(j)
		}
	case writeEvent:
		switch {
		case ev.err != nil:
			if len(l.failed) == 0 {
				l.failedAt = now.Add(again)
				l.e.log.Warn(fmt.Sprintf("The scheduler could not record the progress of the job %q and tries again: %s", j.name, ev.err))
			}
			j.state = unwritten
			l.failed = append(l.failed, j)
		case !ev.held || j.over:
			// It has ended, or is not what it was: then the feed tells what it is now.
			l.remove(j, nil)
		default:
			l.wait(j, now)
		}
	case readEvent:
		switch {
		case ev.err != nil:
			l.e.log.Warn(fmt.Sprintf("The scheduler could not read the job %q, which is due, and tries again: %s", j.name, ev.err))
			j.due = now.Add(again)
			l.wait(j, now)
		case ev.content == nil:
			l.remove(j, nil)
		default:
			j.content = ev.content
			l.deliver(j)
		}
	}
}

// wait puts a job among those that wait for their time.
func (l *loop) wait(j *job, now time.Time) {
	j.state = waiting
	if j.due.Sub(now) > soon {
		j.content = nil
	}
	heap.Push(&l.queue, j)
}

// fire triggers what is due.
func (l *loop) fire(now time.Time) {
	for len(l.queue) > 0 && !l.queue[0].due.After(now) {
		j := heap.Pop(&l.queue).(*job)
		// A tick that was tried is not replaced by a later one.
		if j.Attempts == 0 {
			if j.fresh || now.Sub(j.tick) > late {
				j.tick = j.plan.CatchUp(j.tick, now)
				j.due = j.tick
			}
			j.fresh = false
		}
		if j.content == nil {
			j.state = reading
			l.reads = append(l.reads, j)
			continue
		}
		l.deliver(j)
	}
}

func (l *loop) deliver(j *job) {
	j.state = out
	j.trigger = &Trigger{Name: j.name, Job: j.content, Planned: j.tick, Attempt: j.Attempts, loop: l, job: j}
	l.e.o.Deliver.Deliver(j.trigger)
}

// write records how far a job has come, or deletes it when no tick is left, on the condition that it is still this version
// and that this engine is still a member.
func (l *loop) write(j *job) {
	j.state = writing
	w := &write{name: j.name, only: []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(record.JobKey(j.name)), "=", j.rev), l.fence,
	}}
	w.done = func(held bool, err error) { l.post(event{kind: writeEvent, job: j, held: held, err: err}) }
	if j.over {
		w.then = []clientv3.Op{clientv3.OpDelete(record.JobKey(j.name)), clientv3.OpDelete(record.CounterKey(j.name))}
	} else {
		value, err := j.Counter.Encode()
		if err != nil {
			w.done(false, err)
			return
		}
		w.size = len(value)
		w.then = []clientv3.Op{clientv3.OpPut(record.CounterKey(j.name), string(value))}
	}
	l.writes = append(l.writes, w)
}

// rewrite tries again what could not be written. A write that had happened after all changes nothing the second time.
func (l *loop) rewrite(now time.Time) {
	if wait := l.failedAt.Sub(now); len(l.failed) == 0 || wait > 0 && wait <= again { // more than that if the clock was set back
		return
	}
	for _, j := range l.failed {
		if l.jobs[j.name] == j {
			l.write(j)
		}
	}
	l.failed = nil
}

// send hands over what was gathered, in one piece.
func (l *loop) send() {
	if len(l.writes) > 0 {
		l.e.counters.add(l.writes...)
		clear(l.writes)
		l.writes = l.writes[:0]
	}
	if len(l.reads) > 0 {
		l.e.reads.add(l.reads...)
		clear(l.reads)
		l.reads = l.reads[:0]
	}
}

// insert takes a stored version of a job into account.
func (l *loop) insert(j *job, now time.Time) {
	if old := l.jobs[j.name]; old != nil {
		if old.rev >= j.rev {
			return
		}
		l.remove(old, nil)
	}
	if !l.holding.has(j.partition) || l.scanning && l.gone[j.name] >= j.rev {
		return
	}
	l.jobs[j.name] = j
	j.scan = l.scan
	if !j.next() {
		l.write(j)
		return
	}
	if j.Attempts > 0 {
		j.due = now // the time of its attempt is not stored (Dapr API, scheduler service: results)
	}
	l.wait(j, now)
}

// remove forgets a job and cancels its trigger. A write of it that is on its way is entered in the ticket, unless that is nil.
func (l *loop) remove(j *job, ticket *leaveTicket) {
	delete(l.jobs, j.name)
	if l.scanning {
		l.gone[j.name] = j.rev
	}
	l.queue.remove(j)
	if t := j.trigger; t != nil {
		j.trigger = nil
		t.cancel()
	}
	if ticket != nil && j.state == writing {
		j.leave = ticket
		ticket.pending++
	}
}

// narrow gives up what is not in the holding, and returns a channel that is closed when nothing of it is written any more.
func (l *loop) narrow(h holding) <-chan struct{} {
	l.holding = h
	ticket := &leaveTicket{done: make(chan struct{})}
	for _, j := range l.jobs {
		if !h.has(j.partition) {
			l.remove(j, ticket)
		}
	}
	if ticket.pending == 0 {
		close(ticket.done)
	}
	return ticket.done
}

// assign makes the table the one that counts, and has the feed read the jobs that are new to this engine.
func (l *loop) assign(t table) {
	l.holding = holding{t}
	l.table.Store(&t)
	select {
	case l.resync <- struct{}{}:
	default:
	}
}
