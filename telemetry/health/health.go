// Package health keeps track of which parts of a process are ready.
//
// Each part that has to be up before the process may take work is a target. A part registers its target when it is made, and
// reports on it when it is up; the process is ready when every target is (Dapr API, health: GET /v1.0/healthz). Reading the status
// takes no lock.
package health

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Names of the targets of a sidecar (Dapr API, health targets). Users see them in the body of a failing health check.
const (
	SecurityProvider               = "security-provider"
	MetricsExporter                = "metrics-exporter"
	GRPCAPIServer                  = "grpc-api-server"
	GRPCInternalServer             = "grpc-internal-server"
	Runtime                        = "runtime"
	SchedulerWatchHosts            = "scheduler-watch-hosts"
	InternalPlacementService       = "internal-placement-service"
	ComponentReconciler            = "component-reconciler"
	SubscriptionReconciler         = "subscription-reconciler"
	MCPServerReconciler            = "mcpserver-reconciler"
	WorkflowAccessPolicyReconciler = "workflowaccesspolicy-reconciler"
	ConfigurationSighupReconciler  = "configuration-sighup-reconciler"
	HTTPEndpointSighupReconciler   = "httpendpoint-sighup-reconciler"
	ResiliencySighupReconciler     = "resiliency-sighup-reconciler"
)

// Registry holds the targets of one process or one sidecar. A registry without targets is ready, so register all targets before
// the status is served. It is safe for concurrent use.
type Registry struct {
	now atomic.Pointer[status]

	mu      sync.Mutex
	targets map[string]*Target
}

// status is what readers see. It is never changed once published.
type status struct {
	unready []string      // sorted
	changed chan struct{} // closed when another status takes its place
}

// Target is one part that has to be ready. It starts out not ready.
type Target struct {
	registry *Registry
	name     string
	ready    bool // guarded by registry.mu
}

// New is a registry without targets.
func New() *Registry {
	r := &Registry{targets: make(map[string]*Target)}
	r.now.Store(&status{changed: make(chan struct{})})
	return r
}

// Target registers a part by name and returns its handle. Asking again for a name returns the handle it has already, in the state
// it is in.
func (r *Registry) Target(name string) *Target {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.targets[name]
	if !ok {
		t = &Target{registry: r, name: name}
		r.targets[name] = t
		r.publish()
	}
	return t
}

// Status says whether every target is ready and, if not, the names of those that are not, sorted. The slice belongs to the caller.
func (r *Registry) Status() (ready bool, unready []string) {
	s := r.now.Load()
	if len(s.unready) == 0 {
		return true, nil
	}
	return false, slices.Clone(s.unready)
}

// Wait returns nil as soon as every target is ready. If ctx ends first, the error names the targets that were still missing.
func (r *Registry) Wait(ctx context.Context) error {
	for {
		s := r.now.Load()
		if len(s.unready) == 0 {
			return nil
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			return fmt.Errorf("not ready: waiting for [%s]: %w", strings.Join(s.unready, " "), context.Cause(ctx))
		}
	}
}

// publish makes the state of the targets visible. The caller holds mu.
func (r *Registry) publish() {
	s := &status{changed: make(chan struct{})}
	for name, t := range r.targets {
		if !t.ready {
			s.unready = append(s.unready, name)
		}
	}
	slices.Sort(s.unready)
	close(r.now.Swap(s).changed)
}

// Name is the name the target was registered by.
func (t *Target) Name() string { return t.name }

// Ready reports that the part is up.
func (t *Target) Ready() { t.set(true) }

// NotReady reports that the part is not up any more, for example because it shuts down.
func (t *Target) NotReady() { t.set(false) }

func (t *Target) set(ready bool) {
	t.registry.mu.Lock()
	defer t.registry.mu.Unlock()
	if t.ready != ready {
		t.ready = ready
		t.registry.publish()
	}
}
