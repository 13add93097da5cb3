// Package metricstest helps testing what records metrics: it makes metrics, and reads counters as a map.
package metricstest

import (
	"strings"
	"testing"

	"outrigger.dev/telemetry/metrics"
)

// New makes the metrics of a sidecar of the app, which are recorded, with paths as they are.
func New(t testing.TB, appID string) *metrics.Metrics {
	t.Helper()
	m, err := metrics.New(metrics.Options{AppID: appID, Enabled: true, HTTP: metrics.HTTPOptions{IncreasedCardinality: true}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Counted returns the values of a counter, or of a gauge, by the values of these labels, which are joined by spaces in the order given: counting by
// component and success makes "orders true". A label that a series does not have is "". Series that differ in other labels alone
// are added up. A counter of which nothing was counted is empty.
func Counted(t testing.TB, m *metrics.Metrics, name string, labels ...string) map[string]float64 {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, series := range f.GetMetric() {
			values := map[string]string{}
			for _, l := range series.GetLabel() {
				values[l.GetName()] = l.GetValue()
			}
			key := make([]string, len(labels))
			for i, label := range labels {
				key[i] = values[label]
			}
			got[strings.Join(key, " ")] += series.GetCounter().GetValue() + series.GetGauge().GetValue()
		}
	}
	return got
}
