package metrics

import (
	"testing"
	"time"
)

func TestActors(t *testing.T) {
	o := base()
	o.MaxSeries = 1
	m := mustNew(t, o)
	cart := m.Actors().Type("Cart")
	wantLines(t, m) // a handle alone exposes nothing
	cart.Pending(1)
	cart.Pending(2)
	cart.Pending(-1)
	cart.Timers(1)
	cart.Timers(-1)
	cart.TimerFired(true)
	cart.TimerFired(false)
	cart.TimerFired(false)
	cart.ReminderFired(true)
	cart.ReminderFired(false)
	cart.Rebalanced()
	cart.Deactivated(true)
	cart.Deactivated(true)
	cart.Deactivated(false)
	if again := m.Actors().Type("Cart"); again != cart {
		t.Error("a type has two handles")
	}
	m.Actors().Type("one too many").Rebalanced()
	const of = `{actor_type="Cart",app_id="myapp"`
	wantLines(
		t, m,
		`dapr_runtime_actor_pending_actor_calls`+of+`} 2`,
		`dapr_runtime_actor_timers`+of+`} 0`,
		`dapr_runtime_actor_timers_fired_total`+of+`,success="true"} 1`,
		`dapr_runtime_actor_timers_fired_total`+of+`,success="false"} 2`,
		`dapr_runtime_actor_reminders_fired_total`+of+`,success="true"} 1`,
		`dapr_runtime_actor_reminders_fired_total`+of+`,success="false"} 1`,
		`dapr_runtime_actor_rebalanced_total`+of+`} 1`,
		`dapr_runtime_actor_rebalanced_total{actor_type="",app_id="myapp"} 1`,
		`dapr_runtime_actor_deactivated_total`+of+`} 2`,
		`dapr_runtime_actor_deactivated_failed_total`+of+`} 1`,
	)
}

func TestJobs(t *testing.T) {
	m := mustNew(t, base())
	m.Jobs().Triggered(true, 1500*time.Microsecond)
	m.Jobs().Triggered(true, time.Millisecond)
	m.Jobs().Triggered(false, 3*time.Millisecond)
	const of = `{app_id="myapp",namespace="ns",operation="job_trigger_op"`
	wantLines(
		t, m,
		`dapr_component_job_success_count`+of+`} 2`,
		`dapr_component_job_failure_count`+of+`} 1`,
		`dapr_component_job_latencies_count`+of+`,success="true"} 2`,
		`dapr_component_job_latencies_sum`+of+`,success="true"} 2.5`,
		`dapr_component_job_latencies_count`+of+`,success="false"} 1`,
		`dapr_component_job_latencies_sum`+of+`,success="false"} 3`,
	)
}
