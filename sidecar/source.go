package sidecar

import (
	"context"
	"slices"
	"time"

	"outrigger.dev/resource"
	"outrigger.dev/sidecar/operator"
)

// source is where a sidecar has its Configuration and its resources from.
type source interface {
	// configuration reads the Configuration, the default one when none is named.
	configuration(ctx context.Context) (*resource.Configuration, []resource.Problem, error)
	// resources reads the resources; with previous, for a sidecar that runs with those.
	resources(ctx context.Context, opts resource.Options, previous *resource.Set) (*resource.Set, []resource.Problem, error)
	// watch begins to follow changes; the channel has a value after changes, and at every interval.
	watch(interval time.Duration) (<-chan struct{}, error)
	close() error
}

// files are the source of a sidecar on its own.
type files struct {
	options *Options
	watcher *resource.Watcher
}

func (f *files) configuration(context.Context) (*resource.Configuration, []resource.Problem, error) {
	return resource.LoadConfiguration(f.options.ConfigPaths, f.options.LookupEnv)
}

func (f *files) resources(ctx context.Context, opts resource.Options, previous *resource.Set) (*resource.Set, []resource.Problem, error) {
	opts.Dirs = f.options.ResourcesPaths
	if previous != nil {
		return resource.Reload(ctx, opts, previous)
	}
	return resource.Load(ctx, opts)
}

func (f *files) watch(interval time.Duration) (<-chan struct{}, error) {
	w, err := resource.Watch(resource.WatchOptions{Dirs: f.options.ResourcesPaths, Files: f.options.ConfigPaths, Interval: interval, Clock: f.options.Clock})
	if err != nil {
		return nil, err
	}
	f.watcher = w
	return w.C, nil
}

func (f *files) close() error {
	if f.watcher == nil {
		return nil
	}
	return f.watcher.Close()
}

// cluster is the source of a sidecar in Kubernetes mode.
type cluster struct {
	client *operator.Client
	// name is that of the Configuration, "" for the default.
	name string
	// builtin adds the built-in secret store.
	builtin bool
}

func (c *cluster) configuration(ctx context.Context) (*resource.Configuration, []resource.Problem, error) {
	if c.name == "" {
		return resource.DefaultConfiguration(), nil, nil
	}
	return c.client.Configuration(ctx, c.name)
}

func (c *cluster) resources(ctx context.Context, opts resource.Options, previous *resource.Set) (*resource.Set, []resource.Problem, error) {
	set, problems, err := c.client.Resources(ctx, opts, previous)
	if err == nil && c.builtin {
		set.Components = withSecretStore(set.Components)
	}
	return set, problems, err
}

// withSecretStore puts the built-in secret store before the components, unless one of them has its name and thus takes its place
// (Dapr API, secrets: references in components). Nobody asked for it, so that it may fail: an app that needs none runs in a
// pod without a service account.
func withSecretStore(components []*resource.Component) []*resource.Component {
	if slices.ContainsFunc(components, func(c *resource.Component) bool { return c.Metadata.Name == resource.KubernetesSecretStore }) {
		return components
	}
	store := &resource.Component{Spec: resource.ComponentSpec{Type: "secretstores.kubernetes", Version: "v1", IgnoreErrors: true}}
	store.APIVersion, store.Kind, store.Metadata.Name = resource.V1alpha1, resource.KindComponent, resource.KubernetesSecretStore
	store.Origin.File = "built in"
	return append([]*resource.Component{store}, components...)
}

func (c *cluster) watch(interval time.Duration) (<-chan struct{}, error) {
	return c.client.Watch(interval), nil
}

func (c *cluster) close() error { return c.client.Close() }
