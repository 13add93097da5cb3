package metrics

import (
	"time"
)

// InputBindings measures events that input bindings bring to the app (Dapr API, metrics: component_input_binding_*). What apps
// ask of output bindings is measured as [Operations].
type InputBindings struct {
	series *family[inputBindingKey, *operationSeries]
}

type inputBindingKey struct {
	component string
	success   bool
}

func (k inputBindingKey) owned() inputBindingKey {
	return inputBindingKey{own(k.component), k.success}
}

func (k inputBindingKey) blank() inputBindingKey { return inputBindingKey{success: k.success} }

func newInputBindings(f *factory) *InputBindings {
	labels := []string{labelComponent, labelSuccess}
	count := f.counter("component_input_binding_count", "Events of an input binding.", labels, f.inNamespace())
	latencies := f.histogram("component_input_binding_latencies", "Duration of delivering events of an input binding, in milliseconds.",
		f.latency, labels, f.inNamespace())
	return &InputBindings{newFamily(f.limit, func(k inputBindingKey) *operationSeries {
		success := boolLabel(k.success)
		return &operationSeries{count: count.with(k.component, success), latencies: latencies.with(k.component, success)}
	})}
}

// Observe counts one event of the binding of this name, whether the app processed it, and how long that took.
func (b *InputBindings) Observe(component string, success bool, latency time.Duration) {
	if b == nil {
		return
	}
	s := b.series.find(inputBindingKey{component, success})
	s.count.Inc()
	s.latencies.Observe(millis(latency))
}
