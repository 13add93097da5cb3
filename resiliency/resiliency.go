// Package resiliency applies Resiliency resources: timeouts, retries and circuit breakers around the calls of a sidecar
// (Dapr API, resiliency).
//
// A call site asks the [Engine] for the [Policy] of its target, and runs each call through [Run], which composes them as
// retry(circuit breaker(timeout(call))). A nil policy, which is what a nil engine and an engine without resources that say anything
// of the target return, costs nothing.
//
// The call site decides what fails a call and with which status code: see [Coded] and [Final].
package resiliency

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics"
)

// Options make an Engine.
type Options struct {
	// Resources are those in scope of the app, in load order: a later policy or target replaces an earlier one of the same name as
	// a whole.
	Resources []*resource.Resiliency
	// Clock is what waits, timeouts and circuit breakers go by; nil is the system's clock.
	Clock clockwork.Clock
	// Rand returns random numbers in [0, 1) for the waits of exponential retries; nil is a random source of the system.
	Rand func() float64
	// Metrics may be nil.
	Metrics *metrics.Resiliency
	// Log gets what is wrong with the resources, retries and changes of circuit breakers; nil discards them.
	Log *slog.Logger
}

// Kind is a kind of component, as it stands in the names of default policies.
type Kind string

// The kinds of components that policies apply to.
const (
	Statestore    Kind = "Statestore"
	Pubsub        Kind = "Pubsub"
	Binding       Kind = "Binding"
	Secretstore   Kind = "Secretstore"
	Configuration Kind = "Configuration"
	Lock          Kind = "Lock"
	Crypto        Kind = "Crypto"
	Conversation  Kind = "Conversation"
)

// Direction is the direction of a call as the app sees it, as it stands in the names of default policies.
type Direction string

// The directions.
const (
	// Inbound calls come from a component to the app.
	Inbound Direction = "Inbound"
	// Outbound calls go from the app, or from the sidecar for it, to a component.
	Outbound Direction = "Outbound"
)

// Engine has the policies of a sidecar. Its methods are safe for concurrent use, and on nil, which has no policies.
type Engine struct {
	clock   clockwork.Clock
	rand    func() float64
	metrics *metrics.Resiliency
	log     *slog.Logger

	set      policySet
	builtIns map[BuiltIn]*Policy

	mu         sync.Mutex
	components map[componentKey]*Policy
	apps       *lru[*target]
	actors     *lru[*target]

	calls calls
}

type componentKey struct {
	kind Kind
	name string
	dir  Direction
}

// maxTargets bounds the apps and actor types that an engine keeps circuit breakers of: callers choose the names of those that have
// default policies.
const maxTargets = 1000

// New makes an Engine of resources. It never fails: what is wrong with a resource is logged as an error, and what it has before the
// error is used (Dapr API, resiliency: schema).
func New(o Options) *Engine {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{
		clock: o.Clock, rand: o.Rand, metrics: o.Metrics, log: o.Log,
		set:        newPolicySet(o.Log),
		components: make(map[componentKey]*Policy),
		apps:       newLRU[*target](maxTargets),
		actors:     newLRU[*target](maxTargets),
	}
	for _, r := range o.Resources {
		e.metrics.Loaded(r.Metadata.Name, r.Metadata.Namespace)
		if err := e.set.add(r); err != nil {
			e.log.Error(fmt.Sprintf("Could not read resiliency policy %s: %v", r.Metadata.Name, err))
		}
	}
	e.set.finish()
	e.builtIns = e.makeBuiltIns()
	return e
}

// Close waits until no attempt is running that was given up because of a timeout; their contexts are cancelled already. It fails
// when ctx ends first.
func (e *Engine) Close(ctx context.Context) error {
	if e == nil {
		return nil
	}
	return e.calls.wait(ctx)
}

// Component returns the policy for the calls of a component in one direction: that of targets.components, or the defaults. Nil is
// no policy. Each component has a circuit breaker per direction.
func (e *Engine) Component(kind Kind, name string, dir Direction) *Policy {
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	key := componentKey{kind, name, dir}
	if p, ok := e.components[key]; ok {
		return p
	}
	var p *Policy
	if chosen := e.set.component(kind, name, dir); chosen.any() {
		t := &target{engine: e, choice: chosen, name: "component[" + name + "] output", labels: e.labels(string(kind)+"_"+name, dir)}
		if dir == Inbound {
			t.name = "component[" + name + "] input"
		}
		p = &Policy{target: t}
		if chosen.breaker != nil {
			p.breaker = t.newBreaker(name)
		}
	}
	e.components[key] = p
	return p
}

// HasApp tells whether targets.apps has an entry for an app id, HTTPEndpoint name or URL. The built-in retries of invocation are
// for targets without one.
func (e *Engine) HasApp(target string) bool {
	if e == nil {
		return false
	}
	_, ok := e.set.apps[target]
	return ok
}

// CoversApp tells whether [Engine.App] returns a policy for the target, so that callers need not make a key for nothing.
func (e *Engine) CoversApp(target string) bool {
	return e != nil && e.set.app(target).any()
}

// App returns the policy for calls of an app: that of targets.apps, or the defaults. target is an app id as the caller wrote it,
// the name of an HTTPEndpoint, or a URL; key is what calls share a circuit breaker by, for example "<id>:<method>". Nil is no policy.
func (e *Engine) App(target, key string) *Policy {
	if e == nil {
		return nil
	}
	chosen := e.set.app(target)
	if !chosen.any() {
		return nil
	}
	return e.keyed(e.apps, appTarget, target, chosen).of(key, key)
}

// HasActor tells whether targets.actors has an entry for an actor type. The built-in retries of actors are for types without one.
func (e *Engine) HasActor(actorType string) bool {
	if e == nil {
		return false
	}
	_, ok := e.set.actors[actorType]
	return ok
}

// Actor returns the retry and the circuit breaker for calls of an actor, to be applied before the actor is looked up. Nil is no
// policy.
func (e *Engine) Actor(actorType, id string) *Policy {
	if e == nil {
		return nil
	}
	chosen := e.set.actor(actorType)
	chosen.timeout = 0 // is for the turn
	if !chosen.any() {
		return nil
	}
	t := e.keyed(e.actors, actorTarget, actorType, chosen)
	if e.set.actors[actorType].byID {
		return t.of(actorType+"-"+id, id)
	}
	return t.of(actorType, id)
}

// ActorTimeout returns the timeout for the turns of actors of a type, to be applied once the actor is locked. 0 is none.
func (e *Engine) ActorTimeout(actorType string) time.Duration {
	if e == nil {
		return 0
	}
	return e.set.actor(actorType).timeout
}

// CountActorTimeout counts, for whoever applies [Engine.ActorTimeout], that a turn began under the timeout, or that it took too long.
func (e *Engine) CountActorTimeout(actorType string, expired bool) {
	if e == nil {
		return
	}
	labels := e.labels("actor_"+actorType, Outbound)
	if expired {
		e.metrics.Activated(labels, metrics.PolicyTimeout, "")
	} else {
		e.metrics.Applied(labels, metrics.PolicyTimeout, "")
	}
}

// keyed finds the target of that name, which is made if it is not known or was forgotten.
func (e *Engine) keyed(known *lru[*target], kind targetKind, name string, chosen choice) *target {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t, ok := known.get(name); ok {
		return t
	}
	name = strings.Clone(name)
	label := "app_" + name
	if kind == actorTarget {
		label = "actor_" + name
	}
	t := &target{
		engine: e, choice: chosen, kind: kind, name: name,
		labels: e.labels(label, Outbound), breakers: newLRU[*breaker](chosen.cacheSize),
	}
	known.add(name, t)
	return t
}
