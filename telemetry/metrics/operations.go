package metrics

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Operations measures the operations of one kind of component (Dapr API, metrics: component_*_count, component_*_latencies).
type Operations struct {
	series *family[operationKey, *operationSeries]
}

type operationKey struct {
	component, operation string
	success              bool
}

func (k operationKey) owned() operationKey {
	return operationKey{strings.Clone(k.component), strings.Clone(k.operation), k.success}
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
	return &Operations{newFamily(f.limit, func(k operationKey) *operationSeries {
		success := boolLabel(k.success)
		return &operationSeries{
			count:     count.with(k.component, k.operation, success),
			latencies: latencies.with(k.component, k.operation, success),
		}
	})}
}

// Observe counts one operation of the component of this name, and how long it took.
func (o *Operations) Observe(component, operation string, success bool, latency time.Duration) {
	if o == nil {
		return
	}
	s := o.series.find(operationKey{component, operation, success})
	s.count.Inc()
	s.latencies.Observe(millis(latency))
}
