// Package delivery brings due jobs to sidecars (Dapr API, scheduler: triggering). Sidecars register streams for what they can take; the
// pool gives each task to one of the streams that match, in turn, waits for its result, and gives it to another one if the stream ends
// first. A task that no stream matches is staged until one does.
//
// Streams pull: a task is bound to a stream only when the stream is about to send it. A sidecar that does not read keeps one task from the
// others, and never the pool. There is no goroutine per task; the package knows nothing of the network.
package delivery

import (
	"sync"

	"github.com/jonboulle/clockwork"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// MaxGated is how many tasks may wait at one full gate; further ones fail (Dapr API, scheduler: concurrency limits).
const MaxGated = 100000

// Observer is told what happens, for metrics. Its methods are called with a lock held and must not call back.
type Observer interface {
	// Streams says that the number of streams changed.
	Streams(delta int)
	// Undelivered says that a task found no stream, or lost the one that it was sent to.
	Undelivered(reminder bool)
	// Inflight, Pending and Throttled are about the gate of a concurrency key: tasks that have a slot, that wait for one, that had to wait.
	// Forget says that the gate is gone.
	Inflight(key string, delta int)
	Pending(key string, delta int)
	Throttled(key string)
	Forget(key string)
}

// Options of a pool.
type Options struct {
	// Observer is told what happens; nil is nobody.
	Observer Observer
	// Clock tells when tasks are sent; nil is the system's.
	Clock clockwork.Clock
	// MaxGated is how many tasks may wait at one gate; 0 is the constant [MaxGated].
	MaxGated int
}

// Pool is the streams of one scheduler instance and the tasks on their way. It is safe for concurrent use.
type Pool struct {
	observer Observer
	clock    clockwork.Clock
	maxGated int

	mu     sync.Mutex
	closed bool
	routes map[routeKey]*route
	gates  map[gateKey]*gate
	// labels counts the gates of each label: those of several namespaces may have the same one.
	labels map[string]int
	// index and count are the place of this instance among all, which share the limits.
	index, count int
	streams      map[*Stream]struct{}
	// failed are to be told so once the lock is free.
	failed []*Task
}

// routeKey is what streams register for: jobs of an app, or reminders of an actor type, in a namespace.
type routeKey struct {
	reminder          bool
	namespace, target string
}

// route is the streams for one key, and the tasks that wait for one of them. While tasks wait, no stream is idle.
type route struct {
	key     routeKey
	streams []*Stream
	// turn is where the search for an idle stream begins.
	turn    int
	waiting list
}

// New makes a pool without streams.
func New(o Options) *Pool {
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.MaxGated <= 0 {
		o.MaxGated = MaxGated
	}
	return &Pool{
		observer: o.Observer, clock: o.Clock, maxGated: o.MaxGated, count: 1,
		routes: map[routeKey]*route{}, gates: map[gateKey]*gate{}, labels: map[string]int{}, streams: map[*Stream]struct{}{},
	}
}

// Deliver takes a task on until it is finished or cancelled. It does not block. A task that was cancelled before is ignored.
func (p *Pool) Deliver(t *Task) {
	p.mu.Lock()
	defer p.unlock()
	if p.closed || t.state != stateNew {
		return
	}
	t.route = p.route(keyOf(t.Metadata))
	p.place(t)
}

// Cancel drops a task, wherever it is; its finisher is not called any more, unless it is being called now. A sidecar that has the task
// already goes on with it, and its answer is ignored.
func (p *Pool) Cancel(t *Task) {
	p.mu.Lock()
	defer p.unlock()
	if p.closed {
		return
	}
	switch t.state {
	case stateWaiting:
		t.list.remove(t)
	case stateGated:
		p.leaveGate(t)
	case stateAssigned:
		t.stream.next = nil
	case stateSent:
		t.state = stateAbandoned
		return
	case stateAbandoned, stateOver:
		return
	}
	t.state = stateOver
	p.release(t)
	if t.route != nil {
		p.tidy(t.route)
	}
}

// SetMembership says that this instance is the index-th of count, which share the limits among each other.
func (p *Pool) SetMembership(index, count int) {
	p.mu.Lock()
	defer p.unlock()
	if count < 1 || index < 0 || (p.index == index && p.count == count) {
		return
	}
	p.index, p.count = index, count
	for _, g := range p.gates {
		p.pump(g)
	}
}

// Close ends all streams and drops all tasks; nothing is taken on any more.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	streams := p.streams
	p.streams = nil
	clear(p.routes)
	clear(p.gates)
	clear(p.labels)
	p.failed = nil
	p.mu.Unlock()
	p.observer.Streams(-len(streams))
	for s := range streams {
		close(s.ended)
	}
}

// unlock frees the lock and tells the finishers of tasks that failed meanwhile.
func (p *Pool) unlock() {
	failed := p.failed
	p.failed = nil
	p.mu.Unlock()
	for _, t := range failed {
		t.Finisher.Finish(t, false)
	}
}

// keyOf is the route of a job.
func keyOf(m *schedulerv1.JobMetadata) routeKey {
	if a := m.GetTarget().GetActor(); a != nil {
		return routeKey{reminder: true, namespace: m.GetNamespace(), target: a.GetType()}
	}
	return routeKey{namespace: m.GetNamespace(), target: m.GetAppId()}
}

// route finds or makes one. The lock is held, as in all that follows.
func (p *Pool) route(key routeKey) *route {
	r := p.routes[key]
	if r == nil {
		r = &route{key: key}
		p.routes[key] = r
	}
	return r
}

// tidy forgets a route that is of no use.
func (p *Pool) tidy(r *route) {
	if len(r.streams) == 0 && r.waiting.length == 0 && p.routes[r.key] == r {
		delete(p.routes, r.key)
	}
}

// place puts a task that holds no slot where it belongs: it is staged, waits at a gate, waits for a stream, or goes to one.
func (p *Pool) place(t *Task) {
	r := t.route
	if len(r.streams) == 0 {
		p.observer.Undelivered(r.key.reminder)
		t.state = stateWaiting
		r.waiting.push(t)
		return
	}
	if full := p.acquire(t); full != nil {
		p.wait(t, full)
		return
	}
	if r.waiting.length == 0 {
		if s := r.idle(); s != nil {
			s.assign(t)
			return
		}
	}
	t.state = stateWaiting
	r.waiting.push(t)
}

// again places a task anew that had gone further already.
func (p *Pool) again(t *Task) {
	t.stream = nil
	p.release(t)
	p.place(t)
}

// idle finds the next stream that can send at once; nil if all are busy.
func (r *route) idle() *Stream {
	for range r.streams {
		if r.turn >= len(r.streams) {
			r.turn = 0
		}
		s := r.streams[r.turn]
		r.turn++
		if s.idle {
			return s
		}
	}
	return nil
}

// nobody is an observer.
type nobody struct{}

func (nobody) Streams(int)          {}
func (nobody) Undelivered(bool)     {}
func (nobody) Inflight(string, int) {}
func (nobody) Pending(string, int)  {}
func (nobody) Throttled(string)     {}
func (nobody) Forget(string)        {}
