package metrics

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// prefix begins the name of every metric made here.
const prefix = "dapr_"

// Label names that more than one family uses.
const (
	labelAppID     = "app_id"
	labelNamespace = "namespace"
	labelMethod    = "method"
	labelPath      = "path"
	labelStatus    = "status"
	labelComponent = "component"
	labelOperation = "operation"
	labelSuccess   = "success"
	labelType      = "type"
)

// defaultLatencyBuckets are upper bounds in milliseconds (Dapr API, metrics: latency buckets).
func defaultLatencyBuckets() []float64 {
	return []float64{
		1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30, 40, 50, 65, 80, 100, 130, 160, 200, 250, 300, 400, 500, 650, 800,
		1000, 2000, 5000, 10000, 20000, 50000, 100000,
	}
}

// sizeBuckets are upper bounds in bytes (Dapr API, metrics: size buckets).
func sizeBuckets() []float64 {
	const ki, mi, gi = 1 << 10, 1 << 20, 1 << 30
	return []float64{ki, 2 * ki, 4 * ki, 16 * ki, 64 * ki, 256 * ki, mi, 4 * mi, 16 * mi, 64 * mi, 256 * mi, gi, 4 * gi}
}

// latencyBuckets are the configured bounds in ascending order without repetitions, or the default if there are none.
func latencyBuckets(configured []int) ([]float64, error) {
	if len(configured) == 0 {
		return defaultLatencyBuckets(), nil
	}
	out := make([]float64, 0, len(configured))
	for _, ms := range configured {
		if ms < 0 {
			return nil, fmt.Errorf("spec.metrics.latencyDistributionBuckets has %d: a bucket is a number of milliseconds and cannot be negative", ms)
		}
		out = append(out, float64(ms))
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// factory makes the metrics of one sidecar. Every family is made of what it returns, so that the constant labels, the rules and
// the buckets are the same everywhere.
type factory struct {
	registry  *prometheus.Registry
	appID     string
	namespace string
	rules     rewrites
	latency   []float64
	size      []float64
	limit     int // distinct label sets of a family
}

// constant is a label that has one value in this process.
type constant struct{ name, value string }

// constants are the constant labels of a metric, rewritten by the rules.
func (f *factory) constants(name string, more []constant) prometheus.Labels {
	labels := prometheus.Labels{labelAppID: f.value(name, labelAppID, f.appID)}
	for _, c := range more {
		labels[c.name] = f.value(name, c.name, c.value)
	}
	return labels
}

// value is a label value as it is exposed: rewritten by the rules, and valid UTF-8, which Prometheus insists on.
func (f *factory) value(metric, label, v string) string {
	return strings.ToValidUTF8(f.rules.apply(metric, label, v), "\uFFFD")
}

// inNamespace is the constant label of the component metrics.
func (f *factory) inNamespace() constant { return constant{labelNamespace, f.namespace} }

// counterVec is one counter with variable labels.
type counterVec struct {
	f      *factory
	name   string
	labels []string
	vec    *prometheus.CounterVec
}

func (f *factory) counter(name, help string, labels []string, constants ...constant) *counterVec {
	v := &counterVec{f: f, name: name, labels: labels, vec: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + name, Help: help, ConstLabels: f.constants(name, constants),
	}, labels)}
	f.registry.MustRegister(v.vec)
	return v
}

// with resolves the counter of these label values. It is slow: callers keep the result.
func (v *counterVec) with(values ...string) prometheus.Counter {
	return v.vec.WithLabelValues(v.f.exposed(v.name, v.labels, values)...)
}

// later is the counter of these label values, which is exposed from its first use on.
func (v *counterVec) later(values ...string) func() prometheus.Counter {
	return sync.OnceValue(func() prometheus.Counter { return v.with(values...) })
}

// histogramVec is one histogram with variable labels.
type histogramVec struct {
	f      *factory
	name   string
	labels []string
	vec    *prometheus.HistogramVec
}

func (f *factory) histogram(name, help string, buckets []float64, labels []string, constants ...constant) *histogramVec {
	v := &histogramVec{f: f, name: name, labels: labels, vec: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: prefix + name, Help: help, Buckets: buckets, ConstLabels: f.constants(name, constants),
	}, labels)}
	f.registry.MustRegister(v.vec)
	return v
}

// with resolves the histogram of these label values. It is slow: callers keep the result.
func (v *histogramVec) with(values ...string) prometheus.Observer {
	return v.vec.WithLabelValues(v.f.exposed(v.name, v.labels, values)...)
}

// later is the histogram of these label values, which is exposed from its first use on.
func (v *histogramVec) later(values ...string) func() prometheus.Observer {
	return sync.OnceValue(func() prometheus.Observer { return v.with(values...) })
}

// gaugeVec is one gauge with variable labels.
type gaugeVec struct {
	f      *factory
	name   string
	labels []string
	vec    *prometheus.GaugeVec
}

func (f *factory) gauge(name, help string, labels []string, constants ...constant) *gaugeVec {
	v := &gaugeVec{f: f, name: name, labels: labels, vec: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: prefix + name, Help: help, ConstLabels: f.constants(name, constants),
	}, labels)}
	f.registry.MustRegister(v.vec)
	return v
}

// with resolves the gauge of these label values. It is slow: callers keep the result.
func (v *gaugeVec) with(values ...string) prometheus.Gauge {
	return v.vec.WithLabelValues(v.f.exposed(v.name, v.labels, values)...)
}

// later is the gauge of these label values, which is exposed from its first use on.
func (v *gaugeVec) later(values ...string) func() prometheus.Gauge {
	return sync.OnceValue(func() prometheus.Gauge { return v.with(values...) })
}

func (f *factory) exposed(metric string, labels, values []string) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = f.value(metric, labels[i], v)
	}
	return out
}

// wholeMillis is a latency as HTTP and gRPC metrics have it: whole milliseconds, rounded down.
func wholeMillis(d time.Duration) float64 { return float64(d / time.Millisecond) }

// millis is a latency as all other metrics have it: milliseconds with a fraction.
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// boolLabel is a yes or no as a label value.
func boolLabel(b bool) string {
	if b {
		return "true"
	}
	return "false"
}
