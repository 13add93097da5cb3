package actors

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/google/uuid"

	"outrigger.dev/api"
	"outrigger.dev/mesh/placement"
)

// manyRounds is how often a call is sent round between a look-up that says "here" and instances that cannot be made here, before that
// is an error.
const manyRounds = 100

// reach brings a turn into its actor if that lives here, and otherwise returns where it lives. chainID is the reentrancy id that the
// call came with. It waits: for what the sidecar hosts to be known (if waits is set), for moves to be settled, and for the turn.
func (r *Runtime) reach(t *turn, a address, chainID string, waits bool) (owner placement.Owner, err error) {
	if chainID == "" {
		if k := r.kind(a.actorType); k != nil && k.Reentrant {
			chainID = uuid.NewString()
		}
	}
	if done, err := r.enter(t, a, chainID, false); done {
		return owner, err
	}
	// What follows may take long, and ends with the runtime.
	defer context.AfterFunc(r.life, t.end)()
	for range manyRounds {
		if err := r.offering(t.ctx, waits); err != nil {
			return owner, err
		}
		owner, err = r.options.Placement.Lookup(t.ctx, a.actorType, a.id)
		switch {
		case errors.Is(err, placement.ErrClosed):
			return owner, api.ErrActorRuntimeClosed()
		case err != nil && t.ctx.Err() != nil:
			return owner, err
		case err != nil:
			return owner, &lookupFailure{err}
		case !owner.Local:
			return owner, nil
		}
		if done, err := r.enter(t, a, chainID, true); done {
			return owner, err
		}
		if err := t.ctx.Err(); err != nil {
			return owner, err
		}
		runtime.Gosched()
	}
	return owner, &lookupFailure{fmt.Errorf("actor '%s/%s'%s", a.actorType, a.id, disseminating)}
}

// enter brings a turn into an instance that is there; if create is set, the actor was looked up and found to live here, and an
// instance is made where there is none. done is false if the actor has to be looked up, or looked up again, and then the error is nil.
func (r *Runtime) enter(t *turn, a address, chainID string, create bool) (done bool, err error) {
	sh := r.shards.of(a)
	sh.mu.Lock()
	inst := sh.instances[a]
	switch {
	case inst == nil && create:
		k := r.kind(a.actorType)
		if k == nil || !r.options.Placement.IsLocal(a.actorType, a.id) {
			sh.mu.Unlock()
			if k == nil { // withdrawn, and the table does not show it yet
				return true, &lookupFailure{api.ErrActorNoAddress(a.actorType, a.id)}
			}
			return false, nil
		}
		inst = sh.add(a, k, r.now())
		r.dueAt(inst, inst.used+instant(k.IdleTimeout))
	case inst == nil || inst.phase == ending && !create:
		sh.mu.Unlock()
		return false, nil
	case inst.phase == ending:
		left := inst.blocked - r.now()
		if left <= 0 {
			sh.remove(inst)
			sh.mu.Unlock()
			return false, nil
		}
		sh.mu.Unlock()
		r.awaitEnd(t, inst.gone, time.Duration(left))
		return false, nil
	}
	if !inst.kind.Reentrant {
		chainID = ""
	}
	w, err := inst.lock.enter(chainID, inst.kind.MaxStackDepth)
	if err != nil {
		sh.mu.Unlock()
		switch {
		case errors.Is(err, errTooDeep):
			return true, api.ErrActorStackDepth()
		case !errors.Is(err, errHalting):
			return true, err
		case create: // what halts it is no move, for that would be settled
			r.awaitEnd(t, inst.drained, 0)
		}
		return false, nil
	}
	inst.link(t, chainID)
	sh.mu.Unlock()
	if w == nil {
		return true, nil
	}
	return r.wait(t, w)
}

// awaitEnd waits for the end of an instance, or until the limit (0: none) has passed.
func (r *Runtime) awaitEnd(t *turn, ended <-chan struct{}, limit time.Duration) {
	var timer <-chan time.Time
	if limit > 0 {
		tm := r.clock.NewTimer(limit)
		defer tm.Stop()
		timer = tm.Chan()
	}
	select {
	case <-ended:
	case <-timer:
	case <-t.ctx.Done(): // the caller of enter sees it
	}
}

// wait waits until a turn is inside. done is false if it has to look for its actor again.
func (r *Runtime) wait(t *turn, w *waiter) (done bool, err error) {
	inst := t.inst
	inst.kind.metrics.Pending(1)
	defer inst.kind.metrics.Pending(-1)
	select {
	case err = <-w.ready:
		if err == nil {
			return true, nil
		}
		inst.shard.mu.Lock()
		inst.unlink(t)
		inst.shard.mu.Unlock()
		if errors.Is(err, errHalting) {
			return false, nil
		}
		return true, err
	case <-t.ctx.Done():
	}
	inst.shard.mu.Lock()
	defer inst.shard.mu.Unlock()
	if !inst.lock.abandon(w) && <-w.ready == nil {
		inst.lock.leave() // it was let in at the same moment
	}
	inst.unlink(t)
	r.quieter(inst)
	return true, t.ctx.Err()
}

// leave ends a turn that is inside.
func (r *Runtime) leave(t *turn) {
	inst, now := t.inst, r.now()
	inst.shard.mu.Lock()
	inst.unlink(t)
	inst.lock.leave()
	inst.used = now
	if inst.phase != active {
		r.quieter(inst)
	}
	inst.shard.mu.Unlock()
}
