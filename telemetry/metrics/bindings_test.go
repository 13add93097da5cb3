package metrics

import (
	"testing"
	"time"
)

func TestBindings(t *testing.T) {
	o := base()
	o.MaxSeries = 2
	m := mustNew(t, o)
	m.InputBindings().Observe("clock", true, 1500*time.Microsecond)
	m.InputBindings().Observe("clock", true, time.Millisecond)
	m.InputBindings().Observe("clock", false, 0)
	m.InputBindings().Observe("one too many", false, 0)
	m.OutputBindings().Observe("mail", "create", true, 2*time.Millisecond)
	const in, out = `{app_id="myapp",component="clock",namespace="ns",success=`, `{app_id="myapp",component="mail",namespace="ns",operation="create",success="true"} `
	const more = `{app_id="myapp",component="",namespace="ns",success="false"} `
	wantLines(
		t, m,
		`dapr_component_input_binding_count`+in+`"true"} 2`,
		`dapr_component_input_binding_latencies_count`+in+`"true"} 2`,
		`dapr_component_input_binding_latencies_sum`+in+`"true"} 2.5`,
		`dapr_component_input_binding_count`+in+`"false"} 1`,
		`dapr_component_input_binding_latencies_count`+in+`"false"} 1`,
		`dapr_component_input_binding_latencies_sum`+in+`"false"} 0`,
		`dapr_component_input_binding_count`+more+`1`,
		`dapr_component_input_binding_latencies_count`+more+`1`,
		`dapr_component_input_binding_latencies_sum`+more+`0`,
		`dapr_component_output_binding_count`+out+`1`,
		`dapr_component_output_binding_latencies_count`+out+`1`,
		`dapr_component_output_binding_latencies_sum`+out+`2`,
	)
}
