package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// HealthOptions configure the health checks of the app (Dapr API, app channel: app health checks). Zero values mean the
// defaults.
type HealthOptions struct {
	// Path is what an HTTP app is asked; default /healthz. A leading slash is added when it is missing.
	Path string
	// Interval is the time from one probe to the next; default 5 s.
	Interval time.Duration
	// Timeout bounds one probe; default 500 ms. It may not be larger than the interval.
	Timeout time.Duration
	// Threshold is the number of consecutive failures that make a healthy app unhealthy; default 3.
	Threshold int
	// Clock is the time; nil means the real one.
	Clock clockwork.Clock
}

// normalise fills in the defaults.
func (o *HealthOptions) normalise() {
	if o.Path == "" {
		o.Path = "/healthz"
	}
	if !strings.HasPrefix(o.Path, "/") {
		o.Path = "/" + o.Path
	}
	if o.Interval <= 0 {
		o.Interval = 5 * time.Second
	}
	if o.Timeout <= 0 {
		o.Timeout = 500 * time.Millisecond
	}
	if o.Threshold < 1 {
		o.Threshold = 3
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
}

// Check reports settings that cannot work together.
func (o HealthOptions) Check() error {
	o.normalise()
	if o.Timeout > o.Interval {
		return fmt.Errorf("value for 'health-probe-timeout' must be smaller than 'health-probe-interval'")
	}
	return nil
}

// Health knows whether the app is healthy. With health checks it is not, until a first probe succeeds; without them it always
// is. It is safe for concurrent use.
type Health struct {
	options HealthOptions
	checks  bool
	path    string
	// probe asks the app once; the reason is empty when it is healthy.
	probe func(ctx context.Context) (reason string)
	log   *slog.Logger

	mu        sync.Mutex
	healthy   bool
	changed   chan struct{} // closed when healthy changes
	callbacks []func(healthy bool)
}

func newHealth(o Options, probe func(context.Context) string) *Health {
	h := &Health{probe: probe, log: o.Log, changed: make(chan struct{}), checks: o.Health != nil, healthy: o.Health == nil}
	if o.Health != nil {
		h.options = *o.Health
	}
	h.options.normalise()
	h.path = h.options.Path
	return h
}

// Healthy reports whether the app is healthy now.
func (h *Health) Healthy() bool {
	if !h.checks {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.healthy
}

// Watch returns whether the app is healthy now, and a channel that is closed when that changes.
func (h *Health) Watch() (healthy bool, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.healthy, h.changed
}

// OnChange has f called with each change, one call after the other, on the goroutine of [Health.Run]: the next probe waits
// for f. It must be called before Run. Without health checks, Run calls f once with true.
func (h *Health) OnChange(f func(healthy bool)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.callbacks = append(h.callbacks, f)
}

// Run probes the app, once now and then at each interval, until ctx ends. Probes never overlap.
func (h *Health) Run(ctx context.Context) {
	if !h.checks {
		h.report(true, "")
		<-ctx.Done()
		return
	}
	ticks := h.options.Clock.NewTicker(h.options.Interval)
	defer ticks.Stop()
	failures := 0
	for ctx.Err() == nil {
		reason := h.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		if reason == "" {
			failures = 0
			if !h.Healthy() {
				h.set(true, "")
			}
		} else if h.Healthy() {
			// Failures count while they are consecutive, as documented; Dapr also counts those with successes between them.
			if failures++; failures >= h.options.Threshold {
				failures = 0
				h.set(false, reason)
			}
		}
		select {
		case <-ticks.Chan():
		case <-ctx.Done():
		}
	}
}

// ask makes one probe within its time.
func (h *Health) ask(ctx context.Context) (reason string) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := h.options.Clock.AfterFunc(h.options.Timeout, func() { cancel(errProbeTimeout) })
	defer timer.Stop()
	reason = h.probe(ctx)
	if reason != "" && context.Cause(ctx) == errProbeTimeout {
		return fmt.Sprintf("Network error: no answer within %s", h.options.Timeout)
	}
	return reason
}

var errProbeTimeout = errors.New("the health probe took too long")

func (h *Health) set(healthy bool, reason string) {
	h.mu.Lock()
	h.healthy = healthy
	close(h.changed)
	h.changed = make(chan struct{})
	h.mu.Unlock()
	h.report(healthy, reason)
}

func (h *Health) report(healthy bool, reason string) {
	if h.checks {
		if healthy {
			h.log.Info("App entered healthy status")
		} else {
			h.log.Warn("App entered un-healthy status: " + reason)
		}
	}
	h.mu.Lock()
	callbacks := h.callbacks
	h.mu.Unlock()
	for _, f := range callbacks {
		f(healthy)
	}
}
