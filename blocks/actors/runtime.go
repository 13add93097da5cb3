// Package actors is the virtual actors of a sidecar (Dapr API, actors): it finds out where an actor lives, hosts those that live here
// and passes calls on to those that do not.
//
// The [Runtime] is its core. Parties register what they host, the app by way of package apphost; the placement service says which
// actors live here ([Placement]); and a call makes an instance of its actor where there is none.
//
// # Turns
//
// The calls of an actor have turns: one runs at a time, in order of arrival. A chain of calls that has a reentrancy id shares one turn,
// so that an actor can call itself by way of others. Timers and reminders are turns like any other, with an id of their own.
//
// # Moves
//
// No actor is in two places at a time. The placement service installs a new table everywhere before it lets anybody use it, and
// [Runtime.Halt] runs in between: an instance is made with its shard of instances locked, and asks the newest table while it has the
// lock; Halt walks the shards after that table was installed. So an instance that moves away is either seen by Halt or never made.
// What Halt finds it drains: turns that run may end, and calls of their chains may join them; calls that would be a new turn
// look the actor up again, which waits until the move is settled. After the last turn the host is told (Deactivate).
//
// # Locks
//
// Shard, then idle heap or a kind's queue; Runtime.mu is for registrations, and nobody holds it together with those. Nothing that may
// take time is called with a lock held.
package actors

import (
	"context"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/api"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/mesh/placement"
	"outrigger.dev/resiliency"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/tracing"
)

// Placement knows where actors live; [placement.Client] does.
type Placement interface {
	// Lookup waits while there is no table, and while the actor is moving.
	Lookup(ctx context.Context, actorType, id string) (placement.Owner, error)
	// IsLocal never waits: it goes by the newest table, and is false while the actor is not settled here.
	IsLocal(actorType, id string) bool
	// Changed is closed when more is known about where actors are than now.
	Changed() <-chan struct{}
	// Advertise replaces the types that this sidecar hosts. It does not wait for anybody.
	Advertise(types []string)
	Connected() bool
}

// Peers are the other sidecars; [mesh.Client] is the way to them.
type Peers interface {
	CallActor(ctx context.Context, target mesh.Target, actor mesh.Actor, req *invocation.Request) (*invocation.Response, error)
	CallActorReminder(ctx context.Context, target mesh.Target, r *internalsv1.Reminder) error
}

// Options make a [Runtime].
type Options struct {
	// Namespace is the sidecar's own.
	Namespace string
	// PlacementConfigured says that there is a placement service. Without one there are no actors, and Placement and Peers may be nil.
	PlacementConfigured bool
	Placement           Placement
	Peers               Peers
	// OnSettled gets the types whose hosting is in force, each time a placement table is (Dapr API, actors: reminders). It may be nil.
	OnSettled func(types []string)
	// OnEnded is told of each actor that is no longer active here, before it can be again. It must not wait for anything, nor call the runtime;
	// it may be nil.
	OnEnded func(actorType, id string)
	// Resiliency has the policies for calls of actors; nil has none, not even built-in ones.
	Resiliency *resiliency.Engine
	// Metrics and Tracer may be nil.
	Metrics *metrics.Actors
	Tracer  *tracing.Tracer
	// Clock is what timeouts go by; nil is the system's clock.
	Clock clockwork.Clock
	// Log may be nil.
	Log *slog.Logger
}

// Runtime hosts actors. Its methods are safe for concurrent use. It serves the actor calls of other sidecars (mesh.ActorServer) and
// obeys the client of the placement service ([placement.Hooks]).
type Runtime struct {
	options Options
	clock   clockwork.Clock
	began   time.Time
	log     *slog.Logger

	shards shards
	idle   idleHeap
	crew   crew

	// life ends when Close begins, background when all deactivations should be over.
	life, background       context.Context
	endLife, endBackground context.CancelFunc

	mu       sync.Mutex
	hostings []*hosting // in order of registration
	store    bool
	closed   bool
	// opened is closed while there is a registration.
	opened chan struct{}
	// open mirrors that: calls need not wait.
	open atomic.Bool
	// serving are the kinds that instances may be made of now. Maps in it are never changed.
	serving atomic.Pointer[map[string]*kind]
}

// New makes a Runtime that hosts nothing. Whoever has it ends it with [Runtime.Close].
func New(o Options) *Runtime {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Runtime{options: o, clock: o.Clock, began: o.Clock.Now(), log: o.Log, opened: make(chan struct{})}
	r.shards.seed = maphash.MakeSeed()
	r.idle.wake = make(chan struct{}, 1)
	r.life, r.endLife = context.WithCancel(context.Background())
	r.background, r.endBackground = context.WithCancel(context.Background())
	r.serving.Store(new(map[string]*kind))
	return r
}

// now is the time since the runtime was made, which no change of the system's time disturbs.
func (r *Runtime) now() instant { return instant(r.clock.Since(r.began)) }

// kind is the kind of that name that instances may be made of now, nil if there is none.
func (r *Runtime) kind(actorType string) *kind { return (*r.serving.Load())[actorType] }

// Await waits until it is known what this sidecar hosts: until something is registered, be it nothing (Dapr API, actors:
// registration). Its errors are those of the API: no placement service, runtime closed, or ctx's own.
func (r *Runtime) Await(ctx context.Context) error {
	if r.open.Load() {
		return nil
	}
	r.mu.Lock()
	opened, closed := r.opened, r.closed
	r.mu.Unlock()
	switch {
	case closed:
		return api.ErrActorRuntimeClosed()
	case !r.options.PlacementConfigured:
		return api.ErrActorNoPlacement()
	}
	select {
	case <-opened:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.life.Done():
		return api.ErrActorRuntimeClosed()
	}
}

// Close ends the runtime: calls are broken off at once and further ones refused, all actors are deactivated, and everything that the
// runtime has in the background has ended when it returns. When ctx ends, deactivations that are still under way are broken off, too;
// that is the error.
func (r *Runtime) Close(ctx context.Context) error {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.update()
	r.mu.Unlock()
	r.endLife()
	if first {
		all := r.shards.collect(func(inst *instance) bool {
			r.halt(inst)
			return true
		})
		r.drain(ctx, all, haltNow)
	}
	err := r.crew.wait(ctx)
	r.endBackground()
	if err == nil {
		return nil
	}
	// Hosts heed their contexts; the bound is for those that do not.
	last, cancel := within(context.Background(), r.clock, giveUpAfter)
	defer cancel()
	if r.crew.wait(last) != nil {
		r.log.Error("The host of actors does not end its deactivations although it was told to: they are left alone")
	}
	return err
}
