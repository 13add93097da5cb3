package actors

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"outrigger.dev/api"
	"outrigger.dev/blocks/actors/timeformat"
	"outrigger.dev/telemetry/metrics"
)

// TimersOptions are what timers need to know of their sidecar.
type TimersOptions struct {
	Core Core
	// Metrics may be nil.
	Metrics *metrics.Actors
	// Clock is what the times are told by; nil is the system's clock.
	Clock clockwork.Clock
	// Log gets the failures of callbacks; nil discards them.
	Log *slog.Logger
}

// Timer is what an app asks for (Dapr API, actors: timers).
type Timer struct {
	Type, ID, Name string
	// DueTime, Period and TTL may be empty: the timer fires at once, fires once, and never ends.
	DueTime, Period, TTL string
	// Callback is given back to the app.
	Callback string
	// Data is nil for none.
	Data *anypb.Any
}

// Timers are the timers of the actors that this sidecar was asked to wake. They live in memory and end with the sidecar, and each with
// its actor: when the actor is deactivated or moves away, see [Timers.Ended]. A timer also ends when its actor cancels it.
//
// One goroutine, [Timers.Run], waits for the next timer that is due. The timers of one actor fire one after the other, in the order in
// which they are due, in a goroutine that lasts as long as any of them is; those of different actors do not wait for each other.
type Timers struct {
	options TimersOptions
	// wake tells the owner that there is a timer that is due earlier than all others.
	wake  chan struct{}
	tasks sync.WaitGroup

	mu     sync.Mutex
	closed bool
	actors map[actorKey]*actorTimers
	armed  timerHeap
	last   uint64 // the number of the newest timer
}

// actorTimers are the timers of one actor.
type actorTimers struct {
	byName map[string]*setTimer
	// due are those whose time has come, in the order of their times.
	due []*setTimer
	// running says that a task is working on due.
	running bool
}

// setTimer is a timer that is set. All but what never changes belongs to Timers.mu.
type setTimer struct {
	Timer
	times timeformat.Timer
	// number tells apart timers that are due at the same time: the older one comes first.
	number uint64
	due    time.Time
	// fired is how many times it was due already.
	fired int
	// index is its place in the heap, -1 when it is not there.
	index int
	// over says that it was deleted, replaced, or has ended.
	over bool
}

func (t *setTimer) key() nameKey { return nameKey{t.Type, t.ID, t.Name} }

// compare orders timers by when they are due.
func (t *setTimer) compare(other *setTimer) int {
	switch {
	case t.due.Before(other.due):
		return -1
	case t.due.After(other.due):
		return 1
	case t.number < other.number:
		return -1
	}
	return 1
}

// NewTimers makes a Timers; nothing fires before [Timers.Run].
func NewTimers(o TimersOptions) *Timers {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Timers{options: o, wake: make(chan struct{}, 1), actors: map[actorKey]*actorTimers{}}
}

// Create sets a timer; it replaces the one of the same actor and name. The errors are [*api.Error].
func (t *Timers) Create(timer Timer) error {
	key := nameKey{timer.Type, timer.ID, timer.Name}
	if !t.options.Core.Hosts(timer.Type) {
		return api.ErrActorTimerCreate(fmt.Errorf("can't create timer for actor %s||%s: actor type not registered", timer.Type, timer.ID))
	}
	now := t.options.Clock.Now()
	times, err := timeformat.ParseTimer(timer.DueTime, timer.Period, timer.TTL, now)
	if err != nil {
		return api.ErrActorTimerCreate(err)
	}
	if times.Expired(now) {
		return api.ErrActorTimerCreate(fmt.Errorf("timer %s has already expired: dueTime: %s TTL: %s", key, timer.DueTime, timer.TTL))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return api.ErrActorRuntimeClosed()
	}
	t.remove(key)
	actor := t.actors[key.actor()]
	if actor == nil {
		actor = &actorTimers{byName: map[string]*setTimer{}}
		t.actors[key.actor()] = actor
	}
	t.last++
	set := &setTimer{Timer: timer, times: times, number: t.last, due: times.First, index: -1}
	actor.byName[timer.Name] = set
	t.options.Metrics.Type(timer.Type).Timers(1)
	t.arm(set)
	return nil
}

// Delete takes a timer away, if there is one. A callback that runs goes on.
func (t *Timers) Delete(actorType, id, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(nameKey{actorType, id, name})
}

// Ended takes away all timers of an actor. It is to be called when an instance of it on this sidecar has ended, for whatever reason
// (Dapr API, actors: timers stop when their actor is deactivated).
func (t *Timers) Ended(actorType, id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := actorKey{actorType, id}
	actor := t.actors[key]
	if actor == nil {
		return
	}
	for name := range actor.byName {
		t.remove(nameKey{actorType, id, name})
	}
}

// remove takes a timer away, if there is one; the lock is held.
func (t *Timers) remove(key nameKey) {
	actor := t.actors[key.actor()]
	if actor == nil {
		return
	}
	timer := actor.byName[key.name]
	if timer == nil {
		return
	}
	timer.over = true
	delete(actor.byName, key.name)
	if timer.index >= 0 {
		heap.Remove(&t.armed, timer.index)
	}
	t.forget(key.actor(), actor)
	t.options.Metrics.Type(key.actorType).Timers(-1)
}

// forget drops what there is of an actor if it has no timers and no task; the lock is held.
func (t *Timers) forget(key actorKey, actor *actorTimers) {
	if len(actor.byName) == 0 && !actor.running {
		delete(t.actors, key)
	}
}

// arm makes a timer wait for its time; the lock is held.
func (t *Timers) arm(timer *setTimer) {
	heap.Push(&t.armed, timer)
	if timer.index > 0 {
		return
	}
	select {
	case t.wake <- struct{}{}:
	default: // the owner is awake already
	}
}

// Run fires the timers until the context ends. Then it drops all of them, cancels the callbacks that run, and returns when they have
// ended. It is called once.
func (t *Timers) Run(ctx context.Context) {
	for ctx.Err() == nil {
		rings, stop := alarm(t.options.Clock, t.fire(ctx))
		select {
		case <-ctx.Done():
		case <-t.wake:
		case <-rings:
		}
		stop()
	}
	t.mu.Lock()
	t.closed = true
	for _, actor := range t.actors {
		for _, timer := range actor.byName {
			timer.over = true
			t.options.Metrics.Type(timer.Type).Timers(-1)
		}
	}
	t.actors, t.armed = map[actorKey]*actorTimers{}, nil
	t.mu.Unlock()
	t.tasks.Wait()
}

// fire hands the timers that are due to the tasks of their actors. It returns how long it is until the next one, which is [never]
// if there is none.
func (t *Timers) fire(ctx context.Context) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.options.Clock.Now()
	for len(t.armed) > 0 {
		first := t.armed[0]
		if first.due.After(now) {
			return first.due.Sub(now)
		}
		heap.Pop(&t.armed)
		key := first.key().actor()
		actor := t.actors[key]
		actor.queue(first)
		if !actor.running {
			actor.running = true
			t.tasks.Go(func() { t.work(ctx, key, actor) })
		}
	}
	return never
}

// queue puts a timer among those that are due.
func (a *actorTimers) queue(timer *setTimer) {
	at, _ := slices.BinarySearchFunc(a.due, timer, (*setTimer).compare)
	a.due = slices.Insert(a.due, at, timer)
}

// work runs the timers of an actor that are due until there are none.
func (t *Timers) work(ctx context.Context, key actorKey, actor *actorTimers) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(actor.due) > 0 && ctx.Err() == nil {
		timer := actor.due[0]
		actor.due = slices.Delete(actor.due, 0, 1)
		if timer.over {
			continue
		}
		t.mu.Unlock()
		ends := t.tick(ctx, timer)
		t.mu.Lock()
		if timer.over {
			continue
		}
		timer.fired++
		next, more := timer.times.Next(timer.due, timer.fired)
		if ends || !more {
			t.remove(timer.key())
			continue
		}
		timer.due = next
		if next.After(t.options.Clock.Now()) {
			t.arm(timer)
		} else {
			actor.queue(timer)
		}
	}
	actor.running = false
	if !t.closed {
		t.forget(key, actor)
	}
}

// tick fires a timer once, and reports whether it ends the timer.
func (t *Timers) tick(ctx context.Context, timer *setTimer) (ends bool) {
	if !t.options.Core.Hosts(timer.Type) {
		return true // with its type, the actor is gone
	}
	err := t.options.Core.Remind(ctx, &Reminder{
		Type: timer.Type, ID: timer.ID, Name: timer.Name, Data: timer.Data,
		DueTime: timer.DueTime, Period: timer.Period, Callback: timer.Callback, Timer: true,
	})
	if ctx.Err() != nil {
		return true // the sidecar stops
	}
	cancelled := reminderCanceled(err)
	t.options.Metrics.Type(timer.Type).TimerFired(err == nil || cancelled)
	switch {
	case cancelled:
		t.options.Log.Debug("an actor cancelled its timer", "timer", timer.key().String())
	case err != nil:
		t.options.Log.Error("a timer of an actor failed; its schedule goes on", "timer", timer.key().String(), "error", err)
	}
	return cancelled
}

// reminderCanceled reports whether an error says that the actor wants no more of its reminder or timer, be it on this sidecar or on
// another (Dapr API, actors: results of reminders).
func reminderCanceled(err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, ErrReminderCanceled) {
		return true
	}
	var s interface{ GRPCStatus() *status.Status }
	return errors.As(err, &s) && s.GRPCStatus().Message() == ErrReminderCanceled.Error()
}

// timerHeap has the timer that is due first on top; it is used by way of container/heap.
type timerHeap []*setTimer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].compare(h[j]) < 0 }

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements [heap.Interface].
func (h *timerHeap) Push(x any) {
	timer := x.(*setTimer)
	timer.index = len(*h)
	*h = append(*h, timer)
}

// Pop implements [heap.Interface].
func (h *timerHeap) Pop() any {
	old := *h
	timer := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	timer.index = -1
	return timer
}
