package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Kinds of policies: the label policy of the resiliency metrics.
const (
	PolicyTimeout        = "timeout"
	PolicyRetry          = "retry"
	PolicyCircuitBreaker = "circuitbreaker"
)

// breakerStates are the values of the label status of resiliency_cb_state.
func breakerStates() [4]string { return [4]string{"closed", "half-open", "open", "unknown"} }

// Resiliency counts the use of resiliency policies (Dapr API, metrics: resiliency_*). Nil counts nothing.
type Resiliency struct {
	loaded      *family[resourceKey, prometheus.Counter]
	count       *family[policyKey, prometheus.Counter]
	activations *family[policyKey, prometheus.Counter]
	states      *family[policyKey, [4]prometheus.Gauge]
}

type resourceKey struct{ name, namespace string }

func (k resourceKey) owned() resourceKey {
	return resourceKey{own(k.name), own(k.namespace)}
}
func (k resourceKey) blank() resourceKey { return resourceKey{} }

// ResiliencyTarget says what a policy is applied to.
type ResiliencyTarget struct {
	// Resource and Namespace name the Resiliency resource.
	Resource, Namespace string
	// Target is app_<id>, actor_<type> or <kind of component>_<name>.
	Target string
	// Direction is inbound or outbound, seen from the app.
	Direction string
}

type policyKey struct {
	ResiliencyTarget
	policy, status string
}

func (k policyKey) owned() policyKey {
	k.Resource, k.Namespace, k.Target = own(k.Resource), own(k.Namespace), own(k.Target)
	return k
}

func (k policyKey) blank() policyKey {
	k.Target = ""
	return k
}

func newResiliency(f *factory) *Resiliency {
	labels := []string{"name", labelNamespace, "policy", "flow_direction", "target", labelStatus}
	loaded := f.counter("resiliency_loaded", "Resiliency resources loaded.", labels[:2])
	count := f.counter("resiliency_count", "Calls made under a policy.", labels)
	activations := f.counter("resiliency_activations_total", "Calls that were retried or timed out, and changes of circuit breakers.", labels)
	states := f.gauge("resiliency_cb_state", "1 for the state of a circuit breaker at its last call, 0 for the other states.", labels)
	counter := func(v *counterVec) func(policyKey) prometheus.Counter {
		return func(k policyKey) prometheus.Counter {
			return v.with(k.Resource, k.Namespace, k.policy, k.Direction, k.Target, k.status)
		}
	}
	return &Resiliency{
		loaded:      newFamily(f.limit, func(k resourceKey) prometheus.Counter { return loaded.with(k.name, k.namespace) }),
		count:       newFamily(f.limit, counter(count)),
		activations: newFamily(f.limit, counter(activations)),
		states: newFamily(f.limit, func(k policyKey) (gauges [4]prometheus.Gauge) {
			for i, state := range breakerStates() {
				gauges[i] = states.with(k.Resource, k.Namespace, k.policy, k.Direction, k.Target, state)
			}
			return gauges
		}),
	}
}

// Loaded counts a Resiliency resource that was read.
func (r *Resiliency) Loaded(name, namespace string) {
	if r != nil {
		r.loaded.find(resourceKey{name, namespace}).Inc()
	}
}

// Applied counts a call made under a policy, one of the constants. status is the state of a circuit breaker, and empty for other
// policies.
func (r *Resiliency) Applied(t ResiliencyTarget, policy, status string) {
	if r != nil {
		r.count.find(policyKey{t, policy, status}).Inc()
	}
}

// Activated counts that a policy did something: a first retry, a timeout, a circuit breaker's change to the state of status.
func (r *Resiliency) Activated(t ResiliencyTarget, policy, status string) {
	if r != nil {
		r.activations.find(policyKey{t, policy, status}).Inc()
	}
}

// BreakerState shows the state of a circuit breaker: closed, half-open, open or unknown.
func (r *Resiliency) BreakerState(t ResiliencyTarget, state string) {
	if r == nil {
		return
	}
	gauges := r.states.find(policyKey{t, PolicyCircuitBreaker, ""})
	for i, s := range breakerStates() {
		value := 0.0
		if s == state {
			value = 1
		}
		gauges[i].Set(value)
	}
}
