package actors

import (
	"maps"
	"slices"
	"strings"
)

// States of a runtime (Dapr API, metadata: actorRuntime.runtimeStatus).
const (
	// Initializing is before anything was registered, and while nothing is any more.
	Initializing = "INITIALIZING"
	// Disabled is without a placement service.
	Disabled = "DISABLED"
	Running  = "RUNNING"
)

// TypeCount is how many actors of a type are active here.
type TypeCount struct {
	Type  string
	Count int
}

// Status is what the metadata of a sidecar says about its actors (Dapr API, metadata: actorRuntime).
type Status struct {
	State string
	// HostReady says that a placement table is in force.
	HostReady bool
	// Placement is "placement: connected" or "placement: disconnected", empty before anything was registered.
	Placement string
	// Active are all registered types by name, also those without actors.
	Active []TypeCount
}

// Status returns the state of the runtime.
func (r *Runtime) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.hostings) == 0 {
		return Status{State: Initializing}
	}
	s := Status{State: Disabled, Placement: "placement: disconnected"}
	if r.options.PlacementConfigured {
		s.State = Running
		if r.options.Placement.Connected() {
			s.HostReady, s.Placement = true, "placement: connected"
		}
	}
	counts := make(map[string]int)
	for _, h := range r.hostings {
		for name, k := range h.kinds {
			counts[name] += int(k.active.Load())
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(counts), strings.Compare) {
		s.Active = append(s.Active, TypeCount{name, counts[name]})
	}
	return s
}
