package placement

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"outrigger.dev/controlplane/internal/serving"
)

// maxIdleNamespaces is how many namespaces without streams keep their series, at 0. Clients choose the names.
const maxIdleNamespaces = 1000

// metrics are those of one placement service (Dapr API, metrics: placement).
type metrics struct {
	registry             *prometheus.Registry
	runtimes, actors     *prometheus.GaugeVec
	leader, leaderOfRaft prometheus.Gauge

	mu   sync.Mutex
	open map[string]int // streams by namespace
	idle int
}

func newMetrics() *metrics {
	m := &metrics{registry: serving.NewMetrics(), open: map[string]int{}}
	byNamespace := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "dapr_placement_" + name, Help: help}, []string{"host_namespace"})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "dapr_placement_" + name, Help: help})
	}
	m.runtimes = byNamespace("runtimes_total", "The total number of runtimes reported to placement service.")
	m.actors = byNamespace("actor_runtimes_total", "The total number of actor runtimes reported to placement service.")
	m.leader = gauge("leader_status", "The leader status of placement service.")
	m.leaderOfRaft = gauge("raft_leader_status", "The raft leader status of placement service.")
	m.registry.MustRegister(m.runtimes, m.actors, m.leader, m.leaderOfRaft)
	return m
}

func (m *metrics) leads(does bool) {
	value := 0.0
	if does {
		value = 1
	}
	m.leader.Set(value)
	m.leaderOfRaft.Set(value)
}

// joined counts a stream; actors says whether it had types then.
func (m *metrics) joined(namespace string, actors bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, known := m.open[namespace]; known && n == 0 {
		m.idle--
	}
	m.open[namespace]++
	m.runtimes.WithLabelValues(namespace).Inc()
	if gauge := m.actors.WithLabelValues(namespace); actors {
		gauge.Inc()
	}
}

// left takes back what joined counted.
func (m *metrics) left(namespace string, actors bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.runtimes.WithLabelValues(namespace).Dec()
	if actors {
		m.actors.WithLabelValues(namespace).Dec()
	}
	if m.open[namespace]--; m.open[namespace] > 0 {
		return
	}
	if m.idle++; m.idle > maxIdleNamespaces {
		m.idle--
		delete(m.open, namespace)
		m.runtimes.DeleteLabelValues(namespace)
		m.actors.DeleteLabelValues(namespace)
	}
}
