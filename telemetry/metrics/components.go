package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Reasons why a component failed (Dapr API, metrics: runtime_component_init_fail_total).
const (
	// ReasonCreation is a component that could not be made, for example of an unknown type.
	ReasonCreation = "creation"
	// ReasonInit is a component whose initialisation returned an error.
	ReasonInit = "init"
)

// Components counts the life cycle of components (Dapr API, metrics: runtime_component_*).
type Components struct {
	loaded func() prometheus.Counter
	inits  *family[componentKey, prometheus.Counter]
	fails  *family[componentKey, prometheus.Counter]
}

// componentKey tells component series apart; inits have only the type.
type componentKey struct{ kind, reason, name string }

func (k componentKey) owned() componentKey {
	return componentKey{own(k.kind), own(k.reason), own(k.name)}
}

func (k componentKey) blank() componentKey { return componentKey{} }

func newComponents(f *factory) *Components {
	loaded := f.counter("runtime_component_loaded", "Components loaded.", nil)
	inits := f.counter("runtime_component_init_total", "Components initialised.", []string{labelComponent})
	fails := f.counter("runtime_component_init_fail_total", "Components that could not be created or initialised.",
		[]string{labelComponent, "reason", "componentName"})
	return &Components{
		loaded: loaded.later(),
		inits:  newFamily(f.limit, func(k componentKey) prometheus.Counter { return inits.with(k.kind) }),
		fails:  newFamily(f.limit, func(k componentKey) prometheus.Counter { return fails.with(k.kind, k.reason, k.name) }),
	}
}

// Loaded counts a component that was read.
func (c *Components) Loaded() {
	if c != nil {
		c.loaded().Inc()
	}
}

// Init counts a component of a type, for example "state.redis", that was initialised.
func (c *Components) Init(componentType string) {
	if c != nil {
		c.inits.find(componentKey{kind: componentType}).Inc()
	}
}

// InitFailed counts a failure of the component called name, for [ReasonCreation] or [ReasonInit]. The type is that of the
// component, or "nameResolution". Dapr counts a failing component where it fails and once more with [ReasonInit] where the
// failure arrives.
func (c *Components) InitFailed(componentType, reason, name string) {
	if c != nil {
		c.fails.find(componentKey{componentType, reason, name}).Inc()
	}
}
