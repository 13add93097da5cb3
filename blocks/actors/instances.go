package actors

import (
	"context"
	"hash/maphash"
	"strings"
	"sync"
	"time"
)

// address is an actor's.
type address struct{ actorType, id string }

// phase is how far an instance is in its life.
type phase uint8

const (
	// active instances take calls.
	active phase = iota
	// draining ones let turns end that are running, and take no new ones.
	draining
	// ending ones have no turns any more, or only such that were given up; their deactivation is under way.
	ending
)

// instance is an actor that is active here. Its fields are guarded by its shard, but for those said to be constant.
type instance struct {
	// constant
	address
	kind  *kind
	shard *shard
	// drained is closed when ending begins, gone when the host knows that the instance is no more.
	drained, gone chan struct{}

	lock  turnLock
	phase phase
	turns *turn // those that wait or run
	// claims are state calls that hold up a halt.
	claims int
	// used is when the last turn ended, or when the instance was made.
	used instant
	// blocked is until when no other instance of the actor is made here while this one is ending.
	blocked instant
	// told says that the deactivation is in hand.
	told bool
	// due and place belong to the idle heap.
	due   instant
	place int
}

// instant is a time of the runtime's clock since the runtime was made.
type instant time.Duration

// quiet says that nothing uses the instance. Called with the shard locked.
func (i *instance) quiet() bool { return !i.lock.busy() && i.claims == 0 }

// turn is a call of an actor on its way through this sidecar: on the look-out for the actor, waiting for its turn, or inside.
type turn struct {
	// ctx ends with the instance and with the runtime, and with the caller's until the turn has begun at its host. It is replaced then, and
	// cancel with it: see begin.
	ctx    context.Context
	cancel context.CancelCauseFunc
	// inst is where it is, nil when it is nowhere. chain is its reentrancy id there.
	inst  *instance
	chain string
	// prev and next are others of the instance.
	prev, next *turn
}

func newTurn(ctx context.Context) *turn {
	t := new(turn)
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	return t
}

// link makes t one of the instance's turns. Called with the shard locked.
func (i *instance) link(t *turn, chainID string) {
	t.inst, t.chain = i, chainID
	if t.next = i.turns; t.next != nil {
		t.next.prev = t
	}
	i.turns = t
}

// unlink undoes link. Called with the shard locked.
func (i *instance) unlink(t *turn) {
	if t.prev == nil {
		i.turns = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	t.prev, t.next, t.inst = nil, nil, nil
}

const shardCount = 128

// shard is a part of the instances.
type shard struct {
	mu        sync.Mutex
	instances map[address]*instance
	_         [48]byte // keeps neighbours off the cache line
}

// shards are all instances, divided by the ids of the actors so that calls of different ones rarely meet.
type shards struct {
	seed maphash.Seed
	all  [shardCount]shard
}

func (s *shards) of(a address) *shard {
	return &s.all[maphash.String(s.seed, a.id)%shardCount]
}

// collect returns the instances that choose picks, which is called with their shard locked.
func (s *shards) collect(choose func(*instance) bool) []*instance {
	var chosen []*instance
	for i := range s.all {
		sh := &s.all[i]
		sh.mu.Lock()
		for _, inst := range sh.instances {
			if choose(inst) {
				chosen = append(chosen, inst)
			}
		}
		sh.mu.Unlock()
	}
	return chosen
}

// add makes an instance. Called with the shard locked.
func (sh *shard) add(a address, k *kind, now instant) *instance {
	inst := &instance{
		address: address{k.name, strings.Clone(a.id)}, kind: k, shard: sh, used: now, place: -1,
		drained: make(chan struct{}), gone: make(chan struct{}),
	}
	if sh.instances == nil {
		sh.instances = make(map[address]*instance)
	}
	sh.instances[inst.address] = inst
	k.active.Add(1)
	return inst
}

// remove takes an instance out if it is still there. Called with the shard locked.
func (sh *shard) remove(inst *instance) {
	if sh.instances[inst.address] == inst {
		delete(sh.instances, inst.address)
	}
}

// Enter is for state calls of an actor that is active here: the claim keeps a halt waiting until release is called. ok is false when
// the actor is not active here, or its turns have been broken off.
func (r *Runtime) Enter(actorType, id string) (release func(), ok bool) {
	a := address{actorType, id}
	sh := r.shards.of(a)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	inst := sh.instances[a]
	if inst == nil || inst.phase == ending || inst.lock.shut {
		return nil, false
	}
	inst.claims++
	return (&claim{r, inst}).release, true
}

// claim keeps a halt waiting.
type claim struct {
	runtime *Runtime
	inst    *instance // nil once released
}

func (c *claim) release() {
	inst := c.inst
	if inst == nil {
		return
	}
	c.inst = nil
	inst.shard.mu.Lock()
	defer inst.shard.mu.Unlock()
	inst.claims--
	c.runtime.quieter(inst)
}
