package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// jobTrigger is the only value of the label operation of the job metrics.
const jobTrigger = "job_trigger_op"

// Jobs measures jobs that are brought to the app (Dapr API, metrics: component_job_*).
type Jobs struct {
	succeeded, failed                 func() prometheus.Counter
	successLatencies, failedLatencies func() prometheus.Observer
}

func newJobs(f *factory) *Jobs {
	const name = "component_job_"
	labels := []string{labelOperation}
	latencies := f.histogram(name+"latencies", "Duration of bringing jobs to the app, in milliseconds.", f.latency,
		[]string{labelOperation, labelSuccess}, f.inNamespace())
	return &Jobs{
		succeeded:        f.counter(name+"success_count", "Jobs that the app took.", labels, f.inNamespace()).later(jobTrigger),
		failed:           f.counter(name+"failure_count", "Jobs that the app did not take.", labels, f.inNamespace()).later(jobTrigger),
		successLatencies: latencies.later(jobTrigger, boolLabel(true)),
		failedLatencies:  latencies.later(jobTrigger, boolLabel(false)),
	}
}

// Triggered counts a job that the app answered, whether it took it, and how long that took.
func (j *Jobs) Triggered(success bool, latency time.Duration) {
	switch {
	case j == nil:
	case success:
		j.succeeded().Inc()
		j.successLatencies().Observe(millis(latency))
	default:
		j.failed().Inc()
		j.failedLatencies().Observe(millis(latency))
	}
}
