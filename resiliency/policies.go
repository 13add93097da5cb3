package resiliency

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"outrigger.dev/resource"
	"outrigger.dev/suggest"
)

// policySet is what the resources say, merged.
type policySet struct {
	log *slog.Logger
	// resource and namespace name the resource that was read last: metrics are labelled by it.
	resource, namespace string

	timeouts   map[string]time.Duration
	retries    map[string]*retry
	breakers   map[string]*template
	apps       map[string]reference
	actors     map[string]reference
	components map[string]componentReference
}

// reference is what a target says.
type reference struct {
	names     resource.PolicyNames
	cacheSize int
	// byID is whether each actor has a circuit breaker of its own, rather than each type.
	byID bool
}

type componentReference struct{ inbound, outbound resource.PolicyNames }

// choice is the policies that were found for a target.
type choice struct {
	timeout time.Duration // 0 is none
	retry   *retry
	breaker *template
	// cacheSize is the number of circuit breakers to keep.
	cacheSize int
}

// any tells whether there is a policy at all.
func (c choice) any() bool { return c.timeout > 0 || c.retry != nil || c.breaker != nil }

func newPolicySet(log *slog.Logger) policySet {
	return policySet{
		log:      log,
		timeouts: map[string]time.Duration{}, retries: builtInRetries(), breakers: map[string]*template{},
		apps: map[string]reference{}, actors: map[string]reference{}, components: map[string]componentReference{},
	}
}

// add reads a resource up to what is wrong in it: first the policies, in the order timeouts, retries and circuit breakers, then the
// targets, each by name.
func (s *policySet) add(r *resource.Resiliency) error {
	s.resource, s.namespace = r.Metadata.Name, r.Metadata.Namespace
	p, t := &r.Spec.Policies, &r.Spec.Targets
	for _, name := range sorted(p.Timeouts) {
		d, err := resource.ParsePolicyDuration(p.Timeouts[name], 0)
		if err != nil {
			return fmt.Errorf("spec.policies.timeouts.%s: %w", name, err)
		}
		s.timeouts[name] = d
	}
	for _, name := range sorted(p.Retries) {
		source := p.Retries[name]
		parsed, err := parseRetry(&source)
		if err != nil {
			return fmt.Errorf("spec.policies.retries.%s.%w", name, err)
		}
		s.addRetry(name, parsed)
	}
	for _, name := range sorted(p.CircuitBreakers) {
		source := p.CircuitBreakers[name]
		parsed, err := parseTemplate(&source)
		if err != nil {
			return fmt.Errorf("spec.policies.circuitBreakers.%s.%w", name, err)
		}
		s.breakers[name] = parsed
	}
	for _, name := range sorted(t.Apps) {
		app := t.Apps[name]
		s.apps[name] = reference{names: app.PolicyNames, cacheSize: app.CacheSizeOrDefault()}
	}
	for _, name := range sorted(t.Actors) {
		actor := t.Actors[name]
		ref := reference{names: actor.PolicyNames, cacheSize: actor.CacheSizeOrDefault()}
		if actor.CircuitBreaker != "" {
			switch actor.CircuitBreakerScope {
			case "type":
			case "id", "both":
				ref.byID = true
			default:
				return fmt.Errorf("spec.targets.actors.%s.circuitBreakerScope: invalid scope %q: use type, id or both", name, actor.CircuitBreakerScope)
			}
		}
		s.actors[name] = ref
	}
	for _, name := range sorted(t.Components) {
		component := t.Components[name]
		s.components[name] = componentReference{component.Inbound, component.Outbound}
	}
	return nil
}

// finish warns of names of policies that no resource defines.
func (s *policySet) finish() {
	for _, name := range sorted(s.apps) {
		s.checkNames("targets.apps."+name, s.apps[name].names)
	}
	for _, name := range sorted(s.actors) {
		s.checkNames("targets.actors."+name, s.actors[name].names)
	}
	for _, name := range sorted(s.components) {
		s.checkNames("targets.components."+name+".inbound", s.components[name].inbound)
		s.checkNames("targets.components."+name+".outbound", s.components[name].outbound)
	}
}

func (s *policySet) checkNames(at string, n resource.PolicyNames) {
	checkName(s.log, at, "timeout", n.Timeout, s.timeouts)
	checkName(s.log, at, "retry", n.Retry, s.retries)
	checkName(s.log, at, "circuitBreaker", n.CircuitBreaker, s.breakers)
}

func checkName[V any](log *slog.Logger, at, part, name string, known map[string]V) {
	if _, ok := known[name]; ok || name == "" {
		return
	}
	remedy := "define it under spec.policies or take the name out"
	if near, ok := suggest.Nearest(name, sorted(known)); ok {
		remedy = "did you mean " + near + "?"
	}
	log.Warn(fmt.Sprintf("Resiliency: %s.%s is %q, which no resource defines; it is as if it were empty: %s", at, part, name, remedy))
}

// named finds the policies of a target's entry. There is nothing in place of those that are missing (Dapr API, resiliency: defaults).
func (s *policySet) named(n resource.PolicyNames) choice {
	return choice{timeout: s.timeouts[n.Timeout], retry: s.retries[n.Retry], breaker: s.breakers[n.CircuitBreaker]}
}

// defaults finds the policies of a target without an entry: each kind by itself, at the first level that has one.
func (s *policySet) defaults(levels ...string) (c choice) {
	for _, level := range levels {
		if c.timeout <= 0 {
			c.timeout = s.timeouts["Default"+level+"TimeoutPolicy"]
		}
		if c.retry == nil {
			c.retry = s.retries["Default"+level+"RetryPolicy"]
		}
		if c.breaker == nil {
			c.breaker = s.breakers["Default"+level+"CircuitBreakerPolicy"]
		}
	}
	c.cacheSize = resource.DefaultAppBreakerCacheSize
	return c
}

func (s *policySet) app(target string) choice {
	if ref, ok := s.apps[target]; ok {
		c := s.named(ref.names)
		c.cacheSize = ref.cacheSize
		return c
	}
	return s.defaults("App", "")
}

func (s *policySet) actor(actorType string) choice {
	if ref, ok := s.actors[actorType]; ok {
		c := s.named(ref.names)
		c.cacheSize = ref.cacheSize
		return c
	}
	return s.defaults("Actor", "")
}

func (s *policySet) component(kind Kind, name string, dir Direction) choice {
	if ref, ok := s.components[name]; ok {
		if dir == Inbound {
			return s.named(ref.inbound)
		}
		return s.named(ref.outbound)
	}
	return s.defaults(string(kind)+"Component"+string(dir), "Component"+string(dir), "Component", "")
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// minBuiltInRetries is the least that an override of a built-in retry can ask for.
const minBuiltInRetries = 3

// addRetry adds a retry policy. Those with reserved names override built-in ones, under some rules (Dapr API, resiliency: built-in
// retries).
func (s *policySet) addRetry(name string, r *retry) {
	switch BuiltIn(name) {
	case BuiltInActorNotFoundRetries:
		s.log.Warn("Resiliency: the retry policy " + name + " cannot be overridden: the one of the resource is ignored")
		return
	case BuiltInServiceRetries, BuiltInActorRetries, BuiltInActorReminderRetries, BuiltInInitializationRetries:
		if r.max < minBuiltInRetries {
			s.log.Warn(fmt.Sprintf("Resiliency: the retry policy %s has maxRetries %d, which is too few or no limit for a built-in policy: it is used with %d", name, r.max, minBuiltInRetries))
			r.max = minBuiltInRetries
		}
	}
	s.retries[name] = r
}
