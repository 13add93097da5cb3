package actors

import (
	"container/heap"
	"sync"
	"time"
)

// idleHeap knows when each instance may have been idle for too long. A turn does not touch it: when an instance is due, it is looked
// at whether it has been used meanwhile, and it comes due again.
type idleHeap struct {
	mu    sync.Mutex
	items byDue
	// watched says that there is a goroutine that waits for the next one that is due; wake wakes it.
	watched bool
	wake    chan struct{}
}

type byDue []*instance

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].due < h[j].due }
func (h byDue) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *byDue) Push(x any) {
	inst := x.(*instance)
	inst.place = len(*h)
	*h = append(*h, inst)
}

func (h *byDue) Pop() any {
	last := len(*h) - 1
	inst := (*h)[last]
	inst.place = -1
	(*h)[last] = nil
	*h = (*h)[:last]
	return inst
}

// remove takes an instance out, if it is in.
func (h *idleHeap) remove(inst *instance) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if inst.place >= 0 {
		heap.Remove(&h.items, inst.place)
	}
}

// next takes out an instance that is due, or tells how long there will be none; that is less than 0 for always.
func (h *idleHeap) next(now instant) (due *instance, wait time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.items) == 0 {
		return nil, -1
	}
	if first := h.items[0]; first.due > now {
		return nil, time.Duration(first.due - now)
	}
	return heap.Pop(&h.items).(*instance), 0
}

// dueAt has an instance looked at at that time. Called with its shard locked.
func (r *Runtime) dueAt(inst *instance, at instant) {
	h := &r.idle
	h.mu.Lock()
	defer h.mu.Unlock()
	inst.due = at
	heap.Push(&h.items, inst)
	if !h.watched {
		h.watched = true
		r.crew.run(r.watchIdle)
	}
	if inst.place == 0 {
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
}

// watchIdle deactivates instances that are idle, until the runtime is closed.
func (r *Runtime) watchIdle() {
	for r.life.Err() == nil {
		due, wait := r.idle.next(r.now())
		if due != nil {
			r.lookIfIdle(due)
			continue
		}
		timer, stop := alarm(r.clock, wait)
		select {
		case <-timer:
		case <-r.idle.wake:
		case <-r.life.Done():
		}
		stop()
	}
}

// lookIfIdle ends an instance that has not been used for the time that its type's settings say, counted from the end of its last turn
// (Dapr API, actors: idle timeout).
func (r *Runtime) lookIfIdle(inst *instance) {
	inst.shard.mu.Lock()
	defer inst.shard.mu.Unlock()
	if inst.phase != active {
		return
	}
	now, timeout := r.now(), instant(inst.kind.IdleTimeout)
	switch due := inst.used + timeout; {
	case inst.lock.busy():
		r.dueAt(inst, now+timeout) // no earlier, as the turn ends after now
	case due > now:
		r.dueAt(inst, due)
	case inst.claims > 0:
		r.dueAt(inst, now+min(timeout, instant(time.Second)))
	default:
		r.halt(inst)
	}
}
