// Package nameresolution is the contract of name resolution components, which find the address of the sidecar of an app
// (Dapr API, service invocation: name resolution).
package nameresolution

import (
	"context"

	"outrigger.dev/components"
)

// Request names the app to find.
type Request struct {
	// ID is the app id.
	ID string
	// Namespace is the app's; resolvers of one machine or network do not use it.
	Namespace string
	// Port is the internal gRPC port to assume when the resolver knows only hosts.
	Port int
}

// Resolver finds sidecars and, where the technology wants it, announces its own from the moment it is opened, with the
// facts of [components.Sidecar]. Its methods are safe for concurrent use.
type Resolver interface {
	// Resolve returns one "host:port" of the app's sidecars, IPv6 hosts in brackets. An unknown app is an error.
	Resolve(ctx context.Context, req Request) (string, error)
	// Close withdraws the announcement and releases the resolver.
	Close() error
}

// ListResolver is a resolver that returns all addresses of an app; callers choose among them and may keep the list for a
// short while.
type ListResolver interface {
	Resolver
	ResolveAll(ctx context.Context, req Request) ([]string, error)
}

// Failed is implemented by resolvers that keep what they found and want to hear that an address did not answer.
type Failed interface {
	// Forget drops the address of an app from what the resolver remembers.
	Forget(id, address string)
}

// Namespaced is implemented by resolvers that can tell apart the apps of one id in different namespaces. Those that do not
// implement it find an app of any namespace.
type Namespaced interface {
	// Namespaced reports whether this resolver, as it is configured, looks at the namespace.
	Namespaced() bool
}

// Register adds a name resolver type to r.
func Register[O any](r *components.Registry, info components.Info, open func(ctx context.Context, inst components.Instance, options O) (Resolver, error)) {
	components.Register(r, components.NameResolution, info, open)
}
