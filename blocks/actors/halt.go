package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Bounds of halting.
const (
	// giveUpAfter is how long turns that were broken off may take to notice.
	giveUpAfter = time.Second
	// tellWithin is how long a halt waits for the host to be told, after the last turn. The telling goes on without it.
	tellWithin = 2 * time.Second
	// blockFor is how long an actor cannot be made again while the host is told that it is no more.
	blockFor = 5 * time.Second
	// deactivateLimit bounds one call of Host.Deactivate.
	deactivateLimit = 30 * time.Second
	// deactivateWorkers is how many instances of one kind the host is told of at a time.
	deactivateWorkers = 64
)

// errHalting refuses a turn of an actor that is being halted here: who wants it looks the actor up again.
var errHalting = errors.New("the actor is being halted on this sidecar")

// errBroken refuses a call that would join a turn that was broken off.
var errBroken = errors.New("its turn was broken off")

// brokenOff is the cause of the end of turns that did not end by themselves.
type brokenOff struct{ reason string }

func (b *brokenOff) Error() string { return b.reason }

// haltMode is how long turns may go on.
type haltMode uint8

const (
	// haltInTime leaves them the time that their type's settings say.
	haltInTime haltMode = iota
	// haltNow leaves them none.
	haltNow
)

// Halt ends every instance here for which stays is false; nil ends all. Their turns may end within the time limits of their types and
// are broken off then, types side by side; their hosts are told, for which Halt waits a little. It implements [placement.Hooks].
func (r *Runtime) Halt(ctx context.Context, stays func(actorType, id string) bool) {
	now := r.now()
	leaving := r.shards.collect(func(inst *instance) bool {
		if stays != nil && stays(inst.actorType, inst.id) || inst.phase == ending && inst.blocked <= now {
			return false
		}
		r.halt(inst)
		return true
	})
	r.drain(ctx, leaving, haltInTime)
}

// Settled implements [placement.Hooks].
func (r *Runtime) Settled(types []string) {
	if r.options.OnSettled != nil {
		r.options.OnSettled(types)
	}
}

// halt begins the end of an instance, if it has not begun. Called with its shard locked.
func (r *Runtime) halt(inst *instance) {
	if inst.phase != active {
		return
	}
	inst.phase = draining
	inst.lock.refuse(errHalting)
	r.quieter(inst)
}

// quieter sees what follows from something's having ended in an instance. Called with its shard locked.
func (r *Runtime) quieter(inst *instance) {
	if inst.phase == active || !inst.quiet() {
		return
	}
	if inst.phase == draining {
		r.end(inst)
	}
	if !inst.told {
		inst.told = true
		r.tell(inst)
	}
}

// end makes an instance one that is ending. Called with its shard locked.
func (r *Runtime) end(inst *instance) {
	inst.phase = ending
	inst.blocked = r.now() + instant(blockFor)
	inst.kind.active.Add(-1)
	inst.kind.metrics.Rebalanced()
	r.idle.remove(inst)
	close(inst.drained)
	if r.options.OnEnded != nil {
		r.options.OnEnded(inst.actorType, inst.id)
	}
}

// breakOff cancels the turns of an instance that is draining.
func (r *Runtime) breakOff(inst *instance, cause error) {
	inst.shard.mu.Lock()
	defer inst.shard.mu.Unlock()
	if inst.phase != draining {
		return
	}
	inst.lock.close(errBroken)
	for t := inst.turns; t != nil; t = t.next {
		t.cancel(cause)
	}
}

// giveUp ends an instance in spite of its turns. It tells whether there are any.
func (r *Runtime) giveUp(inst *instance) bool {
	inst.shard.mu.Lock()
	defer inst.shard.mu.Unlock()
	if inst.phase == draining {
		inst.lock.close(errBroken)
		r.end(inst)
	}
	return !inst.told
}

// drain waits until instances that are being halted have ended. The kinds do not wait for each other.
func (r *Runtime) drain(ctx context.Context, all []*instance, mode haltMode) {
	byKind := make(map[*kind][]*instance)
	for _, inst := range all {
		byKind[inst.kind] = append(byKind[inst.kind], inst)
	}
	var kinds sync.WaitGroup
	for k, instances := range byKind {
		kinds.Go(func() { r.drainKind(ctx, k, instances, mode) })
	}
	kinds.Wait()
}

func (r *Runtime) drainKind(ctx context.Context, k *kind, all []*instance, mode haltMode) {
	limit, reason := k.DrainTimeout, fmt.Sprintf("the actor was halted on this sidecar, and its turn did not end within %v", k.DrainTimeout)
	switch {
	case mode == haltNow:
		limit, reason = 0, "the sidecar shuts down"
	case k.hosting.cancelRebalanced:
		limit, reason = 0, "the actor was halted on this sidecar, and drainRebalancedActors is false"
	}
	drained := func(inst *instance) <-chan struct{} { return inst.drained }
	left := r.await(ctx, limit, all, drained)
	for _, inst := range left {
		r.breakOff(inst, &brokenOff{reason})
	}
	given := make(map[*instance]bool)
	for _, inst := range r.await(ctx, giveUpAfter, left, drained) {
		if given[inst] = r.giveUp(inst); given[inst] {
			r.log.Warn("A turn of an actor goes on although it was broken off: the actor is given up",
				"type", inst.actorType, "id", inst.id, "reason", reason)
		}
	}
	told := all
	if len(given) > 0 {
		told = nil
		for _, inst := range all {
			if !given[inst] {
				told = append(told, inst)
			}
		}
	}
	if slow := r.await(ctx, tellWithin, told, func(inst *instance) <-chan struct{} { return inst.gone }); len(slow) > 0 {
		r.log.Warn("The host of actors has not answered yet to what deactivates them", "type", k.name, "actors", len(slow))
	}
}

// await waits for something of each instance, all in all until the limit or ctx's end, and returns those that it did not happen to.
func (r *Runtime) await(ctx context.Context, limit time.Duration, all []*instance, what func(*instance) <-chan struct{}) (left []*instance) {
	var (
		timer <-chan time.Time
		over  = limit <= 0
	)
	for _, inst := range all {
		happened := what(inst)
		select {
		case <-happened:
			continue
		default:
		}
		if !over && timer == nil {
			t := r.clock.NewTimer(limit)
			defer t.Stop()
			timer = t.Chan()
		}
		if !over {
			select {
			case <-happened:
				continue
			case <-timer:
			case <-ctx.Done():
			}
			over = true
		}
		left = append(left, inst)
	}
	return left
}

// tell has the host of an instance told that it is no more. Called with the shard locked.
func (r *Runtime) tell(inst *instance) {
	if r.background.Err() != nil { // too late for anything
		inst.shard.remove(inst)
		close(inst.gone)
		return
	}
	k := inst.kind
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waiting = append(k.waiting, inst)
	if k.workers < deactivateWorkers {
		k.workers++
		r.crew.run(func() { r.deactivate(k) })
	}
}

// deactivate tells the host of instances until there are none left that it is to be told of.
func (r *Runtime) deactivate(k *kind) {
	for {
		k.mu.Lock()
		if len(k.waiting) == 0 {
			k.waiting = nil
			k.workers--
			k.mu.Unlock()
			return
		}
		inst := k.waiting[0]
		k.waiting[0], k.waiting = nil, k.waiting[1:]
		k.mu.Unlock()
		r.deactivateOne(inst)
	}
}

func (r *Runtime) deactivateOne(inst *instance) {
	sh := inst.shard
	sh.mu.Lock()
	other := sh.instances[inst.address]
	sh.mu.Unlock()
	// If it took too long to get here and the host runs the actor again, to deactivate it now would hit the new instance.
	if other == nil || other == inst {
		ctx, cancel := within(r.background, r.clock, deactivateLimit)
		err := r.deactivation(ctx, inst)
		cancel()
		inst.kind.metrics.Deactivated(err == nil)
		r.told(inst, err)
	}
	sh.mu.Lock()
	sh.remove(inst)
	sh.mu.Unlock()
	close(inst.gone)
}

// told logs that the host could not be told: once at length, for the others of an app that is gone fail likewise.
func (r *Runtime) told(inst *instance, err error) {
	k := inst.kind
	k.mu.Lock()
	known := k.untold
	k.untold = err != nil
	k.mu.Unlock()
	if err == nil {
		return
	}
	level, message := slog.LevelWarn, "The host of an actor could not be told that it is deactivated; until it can, others of the type are logged at debug level"
	if known {
		level, message = slog.LevelDebug, "The host of an actor could not be told that it is deactivated"
	}
	r.log.Log(r.background, level, message, "type", inst.actorType, "id", inst.id, "error", err)
}

// deactivation calls the host, whose panic is an error: nobody else would be there to catch it.
func (r *Runtime) deactivation(ctx context.Context, inst *instance) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	err = inst.kind.hosting.host.Deactivate(ctx, inst.actorType, inst.id)
	if err != nil && context.Cause(ctx) == context.DeadlineExceeded { //nolint:errorlint // that of within
		err = fmt.Errorf("no answer within %v: %w", deactivateLimit, err)
	}
	return err
}
