// Package nameformat is the name resolver nameresolution.nameformat: the address of an app is its id put into a pattern.
package nameformat

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

var _ nameresolution.Resolver = (*Resolver)(nil)

// Options are the keys of the name resolution configuration (Dapr API, name format resolver).
type Options struct {
	// Format is checked by Check, whose messages clients of Dapr know.
	Format string `name:"format" help:"address of an app with its port, where {appid} stands for the app id, such as {appid}.internal:50002; required"`
}

const placeholder = "{appid}"

// Check refuses a format that is missing or the same for all apps. It implements [components.Checker].
func (o *Options) Check() error {
	if o.Format == "" {
		return errors.New(`metadata property "format": format is required in metadata; give the address of an app such as {appid}.internal:50002`)
	}
	if !strings.Contains(o.Format, placeholder) {
		return fmt.Errorf(`metadata property "format" is %q: format must contain {appid} placeholder`, o.Format)
	}
	return nil
}

// Register adds nameresolution.nameformat to r.
func Register(r *components.Registry) {
	nameresolution.Register(r, components.Info{
		Name:        "nameformat",
		Version:     "v1",
		Status:      components.Alpha,
		Description: "Makes the address of an app by putting its id into a pattern.",
	}, func(_ context.Context, _ components.Instance, o Options) (nameresolution.Resolver, error) {
		return &Resolver{format: o.Format}, nil
	})
}

// Resolver makes addresses from a pattern. It announces nothing.
type Resolver struct{ format string }

// Resolve puts the app id into the pattern. What comes out is dialled as it is; neither namespace nor port are used.
func (r *Resolver) Resolve(_ context.Context, req nameresolution.Request) (string, error) {
	if req.ID == "" {
		return "", errors.New("empty ID not allowed")
	}
	return strings.ReplaceAll(r.format, placeholder, req.ID), nil
}

// Close has nothing to do.
func (r *Resolver) Close() error { return nil }
