package metricstest

import (
	"maps"
	"testing"
)

func TestCounted(t *testing.T) {
	m := New(t, "shop")
	m.Secrets().Observe("a", "get", true, 0)
	m.Secrets().Observe("a", "bulk_get", true, 0)
	m.Secrets().Observe("b", "get", false, 0)
	for _, tc := range []struct {
		name   string
		labels []string
		want   map[string]float64
	}{
		{"dapr_component_secret_count", []string{"component", "operation", "success"}, map[string]float64{"a get true": 1, "a bulk_get true": 1, "b get false": 1}},
		{"dapr_component_secret_count", []string{"success", "component"}, map[string]float64{"true a": 2, "false b": 1}},
		{"dapr_component_secret_count", []string{"app_id", "none", "component"}, map[string]float64{"shop  a": 2, "shop  b": 1}},
		{"dapr_component_secret_count", nil, map[string]float64{"": 3}},
		{"dapr_component_state_count", []string{"component"}, map[string]float64{}},
	} {
		if got := Counted(t, m, tc.name, tc.labels...); !maps.Equal(got, tc.want) {
			t.Errorf("%s by %q: %v, want %v", tc.name, tc.labels, got, tc.want)
		}
	}
}
