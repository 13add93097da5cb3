package rabbitmqclient

import "time"

const (
	// quiet is how long a consumer's warning is not repeated while it does not run.
	quiet = 30 * time.Second
	// steady is how long a consumer runs that has recovered. One that ends sooner is in the same outage still, so that a
	// consumer that ends as soon as it has started does not fill the log.
	steady = 5 * time.Second
)

// outage decides what is logged of the time in which a consumer does not run. It is of the goroutine that runs the consumer.
type outage struct {
	failures int       // to run, since it ran steadily
	since    time.Time // of the first of them
	warned   time.Time // when one was last worth a warning
	told     bool      // a warning that no recovery followed yet
	ran      time.Time // when it was last started
}

// failed notes that the consumer ended or could not be started, and reports whether that is worth a warning.
func (o *outage) failed(now time.Time) bool {
	if !o.ran.IsZero() && now.Sub(o.ran) >= steady {
		*o = outage{}
	}
	o.ran = time.Time{}
	if o.failures == 0 {
		o.since = now
	}
	o.failures++
	if o.failures > 1 && now.Sub(o.warned) < quiet {
		return false
	}
	o.warned, o.told = now, true
	return true
}

// over notes that the consumer was started, and reports whether there was a warning that this is the end of.
func (o *outage) over(now time.Time) bool {
	o.ran = now
	told := o.told
	o.told = false
	return told
}
