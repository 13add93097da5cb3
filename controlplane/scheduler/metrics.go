package scheduler

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/internal/serving"
)

// Values of the label type (Dapr API, metrics: scheduler).
const (
	typeJob = iota
	typeActor
	typeUnknown
	types
)

// byType has a counter for each type of job.
type byType [types]prometheus.Counter

// metrics are those of one scheduler (Dapr API, metrics: scheduler).
type metrics struct {
	registry  *prometheus.Registry
	connected prometheus.Gauge

	created, createFailed, deleted byType
	triggered, failed, undelivered byType
	latency                        [types]prometheus.Observer
	bulkDeleted                    prometheus.Counter
	inflight, pending              *prometheus.GaugeVec
	throttled                      *prometheus.CounterVec
	sendFailed, receiveFailed      prometheus.Counter
	authFailed                     prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	name := func(n string) string { return "dapr_scheduler_" + n }
	vec := func(n, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name(n), Help: help}, []string{label})
		m.registry.MustRegister(c)
		return c
	}
	kinds := [types]string{"job", "actor", "unknown"}
	counters := func(n, help string) (b byType) {
		c := vec(n, help, "type")
		for i, k := range kinds {
			b[i] = c.WithLabelValues(k)
		}
		return b
	}
	gauges := func(n, help string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name(n), Help: help}, []string{"concurrency_key"})
		m.registry.MustRegister(g)
		return g
	}
	m.connected = prometheus.NewGauge(prometheus.GaugeOpts{Name: name("sidecars_connected"), Help: "The number of streams of sidecars that take jobs."})
	m.bulkDeleted = prometheus.NewCounter(prometheus.CounterOpts{Name: name("jobs_bulk_deleted_total"), Help: "The number of calls that deleted jobs in bulk."})
	m.created = counters("jobs_created_total", "The number of jobs created.")
	m.createFailed = counters("jobs_created_failed_total", "The number of jobs that could not be created.")
	m.deleted = counters("jobs_deleted_total", "The number of jobs deleted by their names.")
	m.triggered = counters("jobs_triggered_total", "The number of triggers that succeeded.")
	m.failed = counters("jobs_failed_total", "The number of triggers that failed.")
	m.undelivered = counters("jobs_undelivered_total", "The number of times that a trigger found no sidecar, or lost its sidecar.")
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name("trigger_latency"), Help: "The time from the sending of a trigger to its result, in milliseconds.",
		Buckets: []float64{0, 100, 500, 1000, 5000, 10000},
	}, []string{"type"})
	for i, k := range kinds {
		m.latency[i] = latency.WithLabelValues(k)
	}
	m.inflight = gauges("concurrency_inflight", "The number of triggers that hold a slot of a concurrency limit.")
	m.pending = gauges("concurrency_pending", "The number of triggers that wait for a slot of a concurrency limit.")
	m.throttled = vec("concurrency_throttled_total", "The number of triggers that had to wait for a slot of a concurrency limit.", "concurrency_key")
	errs := vec("sidecar_errors_total", "The number of errors of the streams of sidecars.", "reason")
	m.sendFailed, m.receiveFailed, m.authFailed = errs.WithLabelValues("send_failed"), errs.WithLabelValues("recv_failed"), errs.WithLabelValues("auth_failed")
	m.registry.MustRegister(m.connected, m.bulkDeleted, latency)
	return m
}

// handler exposes the metrics. With an embedded etcd its own are there too; it keeps them, and those of the process, in the registry of the
// Prometheus library.
func (m *metrics) handler(embedded bool) http.Handler {
	var with prometheus.Gatherer = prometheus.DefaultGatherer
	if !embedded {
		with = serving.NewMetrics()
	}
	return promhttp.HandlerFor(prometheus.Gatherers{m.registry, with}, promhttp.HandlerOpts{})
}

// typeOf is the type of a job.
func typeOf(m *schedulerv1.JobMetadata) int {
	switch m.GetTarget().GetType().(type) {
	case *schedulerv1.JobTargetMetadata_Job:
		return typeJob
	case *schedulerv1.JobTargetMetadata_Actor:
		return typeActor
	}
	return typeUnknown
}

// finished counts the result of a trigger.
func (m *metrics) finished(kind int, succeeded bool, took time.Duration) {
	if succeeded {
		m.triggered[kind].Inc()
	} else {
		m.failed[kind].Inc()
	}
	m.latency[kind].Observe(float64(took) / float64(time.Millisecond))
}

// Streams implements [delivery.Observer], as do the following.
func (m *metrics) Streams(delta int) { m.connected.Add(float64(delta)) }

// Undelivered counts a trigger without a sidecar.
func (m *metrics) Undelivered(reminder bool) {
	kind := typeJob
	if reminder {
		kind = typeActor
	}
	m.undelivered[kind].Inc()
}

// Inflight counts triggers that hold a slot.
func (m *metrics) Inflight(key string, delta int) {
	m.inflight.WithLabelValues(key).Add(float64(delta))
}

// Pending counts triggers that wait for a slot.
func (m *metrics) Pending(key string, delta int) { m.pending.WithLabelValues(key).Add(float64(delta)) }

// Throttled counts triggers that had to wait.
func (m *metrics) Throttled(key string) { m.throttled.WithLabelValues(key).Inc() }

// Forget removes a concurrency key: clients choose them, and there is no end to what they may choose.
func (m *metrics) Forget(key string) {
	m.inflight.DeleteLabelValues(key)
	m.pending.DeleteLabelValues(key)
	m.throttled.DeleteLabelValues(key)
}
