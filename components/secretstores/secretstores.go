// Package secretstores is the contract of secret store components (Dapr API, secrets management).
package secretstores

import (
	"context"

	"outrigger.dev/components"
)

// Store is what every secret store does. Its methods are safe for concurrent use.
type Store interface {
	// Get returns the entries of one secret. nil entries without an error mean the store has no data map for it.
	Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error)
	// BulkGet returns all secrets and their entries.
	BulkGet(ctx context.Context, metadata map[string]string) (map[string]map[string]string, error)
	// Close releases the store. No other method is running or is called again.
	Close() error
}

// MultiValued is a store that may keep several entries in one secret.
type MultiValued interface {
	// MultiValued reports whether this instance does.
	MultiValued() bool
}

// Capabilities are the feature names that the metadata API lists for a store.
func Capabilities(s Store) []string {
	if m, ok := s.(MultiValued); ok && m.MultiValued() {
		return []string{"MULTIPLE_KEY_VALUES_PER_SECRET"}
	}
	return nil
}

// Register adds a secret store type to r.
func Register[O any](r *components.Registry, info components.Info, open func(ctx context.Context, inst components.Instance, options O) (Store, error)) {
	components.Register(r, components.SecretStores, info, open)
}
