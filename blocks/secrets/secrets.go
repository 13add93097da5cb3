// Package secrets is the building block for secrets (Dapr API, secrets management): it looks up the secret store components,
// keeps to the scopes of the Configuration, and reads secrets for apps and for references in resources.
//
// secrets.go is the service, which knows nothing of HTTP and gRPC. http.go and grpc.go are its faces.
package secrets

import (
	"context"
	"fmt"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/api"
	"outrigger.dev/blocks/internal/table"
	"outrigger.dev/components/secretstores"
	"outrigger.dev/resiliency"
	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics"
)

// Options are what the block needs to know of its sidecar.
type Options struct {
	// Allowed tells whether the app may read a secret of a store, by the scopes of the Configuration; nil allows all.
	Allowed func(store, secret string) bool
	// Resiliency has the policies for what apps read; nil has none.
	Resiliency *resiliency.Engine
	// Metrics may be nil.
	Metrics *metrics.Operations
	// Clock measures latencies; nil is the system's clock.
	Clock clockwork.Clock
}

// Secrets is the block. Its methods are safe for concurrent use.
type Secrets struct {
	options Options
	stores  table.Table[instance]
}

// instance is a store in use.
type instance struct {
	secretstores.Store
	// policy is for what apps read; it may be nil.
	policy *resiliency.Policy
}

var _ resource.SecretReader = (*Secrets)(nil)

// New makes a Secrets without stores.
func New(o Options) *Secrets {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	return &Secrets{options: o}
}

// Add makes a store available under the metadata.name of its resource. It fails when the name is taken.
func (s *Secrets) Add(name string, store secretstores.Store) error {
	return s.stores.Add(name, instance{store, s.options.Resiliency.Component(resiliency.Secretstore, name, resiliency.Outbound)})
}

// Remove takes a store out, if it is there, and waits until running calls of it have ended: then it may be closed. It is out
// even when the context ends the wait, which is the only error.
func (s *Secrets) Remove(ctx context.Context, name string) error {
	err := s.stores.Remove(ctx, name)
	if err == nil {
		err = s.options.Resiliency.Component(resiliency.Secretstore, name, resiliency.Outbound).Wait(ctx)
	}
	if err != nil {
		return fmt.Errorf("removing a secret store: %w", err)
	}
	return nil
}

func (s *Secrets) open(name string) (*table.Entry[instance], error) {
	if e := s.stores.Use(name); e != nil {
		return e, nil
	}
	if s.stores.Empty() {
		return nil, api.ErrSecretNotConfigured()
	}
	return nil, api.ErrSecretStoreNotFound(name)
}

func (s *Secrets) allowed(store, secret string) bool {
	return s.options.Allowed == nil || s.options.Allowed(store, secret)
}

// Get reads the entries of one secret for the app. A nil map means that the store has no data map for it. The errors are
// [*api.Error]; a secret that the store does not have is one of them.
func (s *Secrets) Get(ctx context.Context, store, name string, metadata map[string]string) (map[string]string, error) {
	e, err := s.open(store)
	if err != nil {
		return nil, err
	}
	defer e.Release()
	if !s.allowed(store, name) {
		return nil, api.ErrSecretDenied(store, name)
	}
	entries, err := s.read(ctx, e.Component.policy, e.Component, store, name, metadata)
	if err != nil {
		return nil, api.ErrSecretGet(store, name, err)
	}
	return entries, nil
}

// read asks a store for one secret and measures it.
func (s *Secrets) read(ctx context.Context, policy *resiliency.Policy, from secretstores.Store, store, name string, metadata map[string]string) (map[string]string, error) {
	start := s.options.Clock.Now()
	entries, err := resiliency.Run(ctx, policy, func(ctx context.Context) (map[string]string, error) { return from.Get(ctx, name, metadata) })
	s.observe(store, "get", err, start)
	return entries, err
}

func (s *Secrets) observe(store, operation string, err error, start time.Time) {
	s.options.Metrics.Observe(store, operation, err == nil, s.options.Clock.Since(start))
}

// BulkGet reads all secrets of a store that the app may read. The errors are [*api.Error].
func (s *Secrets) BulkGet(ctx context.Context, store string, metadata map[string]string) (map[string]map[string]string, error) {
	e, err := s.open(store)
	if err != nil {
		return nil, err
	}
	defer e.Release()
	start := s.options.Clock.Now()
	from := e.Component
	all, err := resiliency.Run(ctx, from.policy, func(ctx context.Context) (map[string]map[string]string, error) { return from.BulkGet(ctx, metadata) })
	s.observe(store, "bulk_get", err, start)
	if err != nil {
		return nil, api.ErrSecretBulkGet(store, err)
	}
	if all == nil || s.options.Allowed == nil {
		return all, nil
	}
	allowed := make(map[string]map[string]string, len(all))
	for name, entries := range all {
		if s.options.Allowed(store, name) {
			allowed[name] = entries
		}
	}
	return allowed, nil
}

// GetSecret reads the entries of one secret for a reference in a resource; neither scopes nor policies matter there (Dapr API,
// secrets: scopes; resiliency: targets). It wraps [resource.ErrStoreNotLoaded] when there is no such store (yet).
func (s *Secrets) GetSecret(ctx context.Context, store, name string, metadata map[string]string) (map[string]string, error) {
	e := s.stores.Use(store)
	if e == nil {
		return nil, fmt.Errorf("secret store %q: %w", store, resource.ErrStoreNotLoaded)
	}
	defer e.Release()
	entries, err := s.read(ctx, nil, e.Component, store, name, metadata)
	if err != nil {
		return nil, fmt.Errorf("secret %q of secret store %q: %w", name, store, err)
	}
	return entries, nil
}
