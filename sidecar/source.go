package sidecar

import (
	"context"
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
}

func (c *cluster) configuration(ctx context.Context) (*resource.Configuration, []resource.Problem, error) {
	if c.name == "" {
		return resource.DefaultConfiguration(), nil, nil
	}
	return c.client.Configuration(ctx, c.name)
}

func (c *cluster) resources(ctx context.Context, opts resource.Options, previous *resource.Set) (*resource.Set, []resource.Problem, error) {
	return c.client.Resources(ctx, opts, previous)
}

func (c *cluster) watch(interval time.Duration) (<-chan struct{}, error) {
	return c.client.Watch(interval), nil
}

func (c *cluster) close() error { return c.client.Close() }
