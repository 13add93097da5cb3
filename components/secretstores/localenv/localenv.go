// Package localenv is the secret store secretstores.local.env: the environment of the sidecar, for development.
package localenv

import (
	"context"
	"log/slog"
	"os"
	"strings"

	"outrigger.dev/components"
	"outrigger.dev/components/secretstores"
)

var _ secretstores.Store = (*Store)(nil)

// Options are the metadata properties of the component (Dapr API, component schema: local environment secret store).
type Options struct {
	Prefix string `name:"prefix" help:"put before the requested name to get the name of the variable"`
}

// Environment is where variables come from.
type Environment struct {
	// Lookup returns the value of a variable and whether there is one.
	Lookup func(name string) (string, bool)
	// List returns all variables as "name=value".
	List func() []string
}

// Register adds secretstores.local.env, reading the environment of the process, to r.
func Register(r *components.Registry) {
	RegisterWith(r, Environment{Lookup: os.LookupEnv, List: os.Environ})
}

// RegisterWith adds secretstores.local.env, reading env, to r.
func RegisterWith(r *components.Registry, env Environment) {
	secretstores.Register(r, components.Info{
		Name:        "local.env",
		Version:     "v1",
		Status:      components.Stable,
		Description: "Reads secrets from environment variables of the sidecar, for development on one machine.",
	}, func(_ context.Context, inst components.Instance, o Options) (secretstores.Store, error) {
		return &Store{prefix: o.Prefix, env: env, log: inst.Log}, nil
	})
}

// Store reads secrets from an environment.
type Store struct {
	prefix string
	env    Environment
	log    *slog.Logger
}

// allowed reports whether apps may read the variable: the sidecar's own settings and tokens are hidden from them (Dapr
// API, local environment secret store).
func allowed(name string) bool {
	name = strings.ToUpper(name)
	return name != "APP_API_TOKEN" && !strings.HasPrefix(name, "DAPR_")
}

// Get returns the variable under the requested name. A missing or hidden variable is an empty text and no error (Dapr
// API, local environment secret store).
func (s *Store) Get(_ context.Context, name string, _ map[string]string) (map[string]string, error) {
	variable := s.prefix + name
	if !allowed(variable) {
		s.log.Warn("an app asked for an environment variable that belongs to the sidecar and got nothing", "variable", variable)
		return map[string]string{name: ""}, nil
	}
	value, _ := s.env.Lookup(variable)
	return map[string]string{name: value}, nil
}

// BulkGet returns all variables that start with the prefix, under their names without it.
func (s *Store) BulkGet(context.Context, map[string]string) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	for _, item := range s.env.List() {
		variable, value, ok := strings.Cut(item, "=")
		if !ok || variable == "" || !allowed(variable) { // Windows lists drives as "=C:=..."
			continue
		}
		if name, ok := strings.CutPrefix(variable, s.prefix); ok && name != "" {
			all[name] = map[string]string{name: value}
		}
	}
	return all, nil
}

// Close does nothing.
func (s *Store) Close() error { return nil }
