// Package state is the building block for key/value state (Dapr API, state management): it checks what an app asks for, turns
// the app's keys into stored ones, encrypts values if a store is configured so, and calls the state store components.
//
// state.go, read.go and write.go are the service, which knows nothing of HTTP and gRPC. http.go and grpc.go are its faces.
package state

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/api"
	"outrigger.dev/blocks/internal/table"
	stores "outrigger.dev/components/state"
	"outrigger.dev/resiliency"
	"outrigger.dev/telemetry/metrics"
)

// Options are what the block needs to know of its sidecar.
type Options struct {
	AppID string
	// Namespace is the one given to the sidecar at start; it may be empty.
	Namespace string
	// Outbox publishes what transactions write; nil publishes nothing.
	Outbox Outbox
	// Resiliency has the policies for the calls of stores; nil has none.
	Resiliency *resiliency.Engine
	// Metrics may be nil.
	Metrics *metrics.Operations
	// Clock measures latencies; nil is the system's clock.
	Clock clockwork.Clock
	// Log gets warnings; nil discards them.
	Log *slog.Logger
}

// State is the block. Its methods are safe for concurrent use.
type State struct {
	options Options
	stores  table.Table[*instance]
	buffers sync.Pool
}

// New makes a State without stores.
func New(o Options) *State {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &State{options: o, buffers: sync.Pool{New: func() any { return new(buffer) }}}
}

// Component is a state store to be added.
type Component struct {
	// Name is the metadata.name of the resource.
	Name  string
	Store stores.Store
	// Properties are the metadata items of the resource, with secrets resolved.
	Properties map[string]string
	// SecretNames has the secretKeyRef.name of those items that were given by one.
	SecretNames map[string]string
}

// instance is a store in use.
type instance struct {
	name string
	// prefix stands in front of every stored key, separator and all; it may be empty.
	prefix string
	store  stores.Store
	// cipher is nil for stores without encryption.
	cipher *cipher
	// policy is for the calls of the store; it may be nil.
	policy *resiliency.Policy
}

// Add makes a store available under its name. It fails, saying how to correct the resource, when keyPrefix or the encryption
// keys cannot work, and when the name is taken.
func (s *State) Add(c Component) error {
	prefix, err := keyPrefix(s.options, c.Name, c.Properties)
	if err != nil {
		return err
	}
	cipher, err := newCipher(c, s.options.Log)
	if err != nil {
		return err
	}
	return s.stores.Add(c.Name, &instance{
		name: c.Name, prefix: prefix, store: c.Store, cipher: cipher,
		policy: s.options.Resiliency.Component(resiliency.Statestore, c.Name, resiliency.Outbound),
	})
}

// Remove takes a store out, if it is there, and waits until running calls of it have ended: then it may be closed. It is out
// even when the context ends the wait, which is the only error.
func (s *State) Remove(ctx context.Context, name string) error {
	err := s.stores.Remove(ctx, name)
	if err == nil {
		err = s.options.Resiliency.Component(resiliency.Statestore, name, resiliency.Outbound).Wait(ctx)
	}
	if err != nil {
		return fmt.Errorf("removing a state store: %w", err)
	}
	return nil
}

// entry is a store that was looked up; Release must be called.
type entry = table.Entry[*instance]

// use looks a store up. appID goes into the details of its error.
func (s *State) use(name, appID string) (*entry, error) {
	if e := s.stores.Use(name); e != nil {
		return e, nil
	}
	if s.stores.Empty() {
		return nil, api.ErrStateNotConfigured(name, appID)
	}
	return nil, api.ErrStateNotFound(name, appID)
}

// open looks a store up for most operations.
func (s *State) open(name string) (*entry, error) { return s.use(name, s.options.AppID) }

// begin starts the measurement of an operation; without metrics it does not even look at the clock.
func (s *State) begin() time.Time {
	if s.options.Metrics == nil {
		return time.Time{}
	}
	return s.options.Clock.Now()
}

// end finishes it.
func (s *State) end(in *instance, operation string, err error, start time.Time) {
	if s.options.Metrics != nil {
		s.options.Metrics.Observe(in.name, operation, err == nil, s.options.Clock.Since(start))
	}
}
