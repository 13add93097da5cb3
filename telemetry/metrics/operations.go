package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Operations measures the operations of one kind of component (Dapr API, metrics: component_*_count, component_*_latencies).
type Operations struct {
	series *family[operationKey, *operationSeries]
	// refused are operations that no component was asked for: clients may have invented the names, which therefore cannot take
	// the room of those that exist.
	refused *family[operationKey, *operationSeries]
}

// refusedShare is the part of the bound on series that names which may be invented have for themselves.
const refusedShare = 10

type operationKey struct {
	component, operation string
	success              bool
}

func (k operationKey) owned() operationKey {
	return operationKey{own(k.component), own(k.operation), k.success}
}

func (k operationKey) blank() operationKey { return operationKey{success: k.success} }

type operationSeries struct {
	count     prometheus.Counter
	latencies prometheus.Observer
}

// newOperations makes component_<kind>_count and component_<kind>_latencies. What names the component in the help text.
func newOperations(f *factory, kind, what string) *Operations {
	labels := []string{labelComponent, labelOperation, labelSuccess}
	count := f.counter("component_"+kind+"_count", "Operations of a "+what+".", labels, f.inNamespace())
	latencies := f.histogram("component_"+kind+"_latencies", "Duration of operations of a "+what+", in milliseconds.",
		f.latency, labels, f.inNamespace())
	create := func(k operationKey) *operationSeries {
		success := boolLabel(k.success)
		return &operationSeries{
			count:     count.with(k.component, k.operation, success),
			latencies: latencies.with(k.component, k.operation, success),
		}
	}
	return &Operations{newFamily(f.limit, create), newFamily(max(f.limit/refusedShare, 1), create)}
}

// Observe counts one operation of the component of this name, and how long it took.
func (o *Operations) Observe(component, operation string, success bool, latency time.Duration) {
	if o == nil {
		return
	}
	o.series.find(operationKey{component, operation, success}).observe(latency)
}

// Refused counts an operation of a component that does not exist, or does not have it.
func (o *Operations) Refused(component, operation string, latency time.Duration) {
	if o == nil {
		return
	}
	o.refused.find(operationKey{component, operation, false}).observe(latency)
}

func (s *operationSeries) observe(latency time.Duration) {
	s.count.Inc()
	s.latencies.Observe(millis(latency))
}
