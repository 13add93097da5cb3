package metrics

import (
	"fmt"
	"testing"
)

func TestResiliency(t *testing.T) {
	m, err := New(Options{AppID: "shop", Enabled: true, MaxSeries: 2})
	if err != nil {
		t.Fatal(err)
	}
	r := m.Resiliency()
	target := func(i int) ResiliencyTarget {
		return ResiliencyTarget{Resource: "rules", Namespace: "prod", Target: fmt.Sprint("app_", i), Direction: "outbound"}
	}
	for i := range 5 { // callers choose the names of apps
		r.Applied(target(i), PolicyRetry, "")
	}
	r.Loaded("rules", "prod")
	r.Activated(target(0), PolicyCircuitBreaker, "open")
	for _, state := range []string{"open", "half-open"} {
		r.BreakerState(target(0), state)
	}
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, series := range f.GetMetric() {
			key := f.GetName()
			for _, l := range series.GetLabel() {
				key += " " + l.GetName() + "=" + l.GetValue()
			}
			got[key] = series.GetCounter().GetValue() + series.GetGauge().GetValue()
		}
	}
	labels := func(policy, status, target string) string {
		return " app_id=shop flow_direction=outbound name=rules namespace=prod policy=" + policy + " status=" + status + " target=" + target
	}
	for key, want := range map[string]float64{
		"dapr_resiliency_loaded app_id=shop name=rules namespace=prod":                  1,
		"dapr_resiliency_count" + labels("retry", "", "app_0"):                          1,
		"dapr_resiliency_count" + labels("retry", "", "app_1"):                          1,
		"dapr_resiliency_count" + labels("retry", "", ""):                               3,
		"dapr_resiliency_activations_total" + labels("circuitbreaker", "open", "app_0"): 1,
		"dapr_resiliency_cb_state" + labels("circuitbreaker", "half-open", "app_0"):     1,
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	for _, state := range []string{"closed", "open", "unknown"} {
		if v, ok := got["dapr_resiliency_cb_state"+labels("circuitbreaker", state, "app_0")]; !ok || v != 0 {
			t.Errorf("state %s is %v, %v", state, v, ok)
		}
	}

	var none *Resiliency
	none.Loaded("rules", "prod")
	none.Applied(target(0), PolicyRetry, "")
	none.Activated(target(0), PolicyRetry, "")
	none.BreakerState(target(0), "open")
}
