package actors

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"outrigger.dev/api"
	"outrigger.dev/telemetry/metrics"
)

// hosting is a [Hosting] that was registered.
type hosting struct {
	host             Host
	cancelRebalanced bool
	kinds            map[string]*kind
}

// kind is an actor type as one party hosts it. All but the queue and the counter is constant.
type kind struct {
	name    string
	hosting *hosting
	TypeConfig
	// timeout is that of a turn by policy, 0 for none.
	timeout time.Duration
	metrics *metrics.ActorType
	// active is how many instances take calls or are draining.
	active atomic.Int64

	// mu guards the deactivations.
	mu sync.Mutex
	// waiting are instances that no worker has in hand yet.
	waiting []*instance
	workers int
	// untold says that the host could not be told the last time.
	untold bool
}

// Register offers to host actors. The returned function withdraws exactly this offer: it returns when its actors have ended, or
// ctx has, which breaks off their turns; calling it again does nothing. A type that is registered twice is hosted by who
// registered last, until that is withdrawn. It fails for types without a name or a host, and after Close.
func (r *Runtime) Register(h Hosting) (withdraw func(ctx context.Context), err error) {
	if h.Host == nil && len(h.Types) > 0 {
		return nil, fmt.Errorf("actor types %v are registered without a host: set Hosting.Host", slices.Sorted(maps.Keys(h.Types)))
	}
	added := &hosting{host: h.Host, cancelRebalanced: h.CancelRebalanced, kinds: make(map[string]*kind, len(h.Types))}
	for name, c := range h.Types {
		if name == "" {
			return nil, errors.New("an actor type with an empty name cannot be registered: give it a name")
		}
		if c.IdleTimeout <= 0 {
			c.IdleTimeout = DefaultIdleTimeout
		}
		if c.MaxStackDepth <= 0 {
			c.MaxStackDepth = DefaultMaxStackDepth
		}
		added.kinds[name] = &kind{
			name: name, hosting: added, TypeConfig: c,
			timeout: r.options.Resiliency.ActorTimeout(name), metrics: r.options.Metrics.Type(name),
		}
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, api.ErrActorRuntimeClosed()
	}
	r.hostings = append(r.hostings, added)
	replaced := r.update()
	r.mu.Unlock()
	if replaced {
		// Another host has had the type: its instances end, and calls make new ones here.
		r.crew.run(func() { r.haltStale(r.life, nil) })
	}
	return func(ctx context.Context) { r.withdraw(ctx, added) }, nil
}

func (r *Runtime) withdraw(ctx context.Context, h *hosting) {
	r.mu.Lock()
	at := slices.Index(r.hostings, h)
	if at < 0 {
		r.mu.Unlock()
		return
	}
	r.hostings = slices.Delete(r.hostings, at, at+1)
	r.update()
	r.mu.Unlock()
	r.haltStale(ctx, h)
}

// SetStore says whether there is a state store for actors: without one nothing is hosted here (Dapr API, actors: state store). When
// there is none any more the types are withdrawn first, and SetStore returns when all actors have ended.
func (r *Runtime) SetStore(present bool) {
	r.mu.Lock()
	if r.store == present {
		r.mu.Unlock()
		return
	}
	r.store = present
	r.update()
	r.mu.Unlock()
	if !present {
		r.haltStale(r.life, nil)
	}
}

// update brings everything in line with the registrations: what is served, what is advertised and whether calls wait. It tells whether
// a type has another host now. Called with mu held.
func (r *Runtime) update() (replaced bool) {
	serving := make(map[string]*kind)
	if r.store && !r.closed && r.options.PlacementConfigured {
		for _, h := range r.hostings {
			maps.Copy(serving, h.kinds)
		}
	}
	before := *r.serving.Swap(&serving)
	for name, k := range serving {
		replaced = replaced || before[name] != nil && before[name] != k
	}
	if r.options.PlacementConfigured && !slices.Equal(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(serving))) {
		r.options.Placement.Advertise(slices.Sorted(maps.Keys(serving)))
	}
	open := len(r.hostings) > 0 && !r.closed && r.options.PlacementConfigured
	switch was := r.open.Swap(open); {
	case open && !was:
		close(r.opened)
	case was && !open:
		r.opened = make(chan struct{})
	}
	return replaced
}

// haltStale ends the instances whose kind is not served any more, all of them or only those of h, and waits for their end.
func (r *Runtime) haltStale(ctx context.Context, h *hosting) {
	stale := r.shards.collect(func(inst *instance) bool {
		if r.kind(inst.actorType) == inst.kind || h != nil && inst.kind.hosting != h {
			return false
		}
		r.halt(inst)
		return true
	})
	r.drain(ctx, stale, haltInTime)
}

// Hosts reports whether actors of a type may live on this sidecar: it is registered, and there is a state store.
func (r *Runtime) Hosts(actorType string) bool { return r.kind(actorType) != nil }
