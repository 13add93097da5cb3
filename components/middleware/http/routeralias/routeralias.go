// Package routeralias is the middleware that gives paths other names (Dapr API, middleware.http.routeralias).
package routeralias

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"outrigger.dev/components"
	"outrigger.dev/components/middleware"
)

// Options are the metadata properties of the component.
type Options struct {
	Routes string `name:"routes" help:"JSON or YAML object from path to the path that takes its place; a path may hold {name} and {name:regex}, which become query parameters"`
	// Properties are the routes as older versions had them.
	Properties map[string]string `name:"*" help:"deprecated: each property is a route, with the path as its name; use routes"`

	routes []route
	legacy bool
}

// Check refuses routes that cannot be read. It implements [components.Checker].
func (o *Options) Check() error {
	pairs, err := parseRoutes(o.Routes)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(o.Properties))
	for name := range o.Properties {
		if !strings.EqualFold(name, "routes") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		o.legacy = true
		pairs = append(pairs, [2]string{name, o.Properties[name]})
	}
	o.routes = nil
	for _, p := range pairs {
		r, err := newRoute(p[0], p[1])
		if err != nil {
			return err
		}
		o.routes = append(o.routes, r)
	}
	// A path without parameters wins over one with; otherwise the first does.
	slices.SortStableFunc(o.routes, func(a, b route) int { return min(len(a.names), 1) - min(len(b.names), 1) })
	return nil
}

// parseRoutes reads the property routes, keeping its order.
func parseRoutes(text string) (pairs [][2]string, err error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return nil, fmt.Errorf("metadata property \"routes\" is neither JSON nor YAML: %w", err)
	}
	if len(document.Content) == 0 {
		return nil, nil
	}
	object := document.Content[0]
	if object.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("metadata property \"routes\" must be an object from path to path, such as {\"/a\": \"/v1.0/invoke/app/method/a\"}")
	}
	for i := 0; i+1 < len(object.Content); i += 2 {
		key, value := object.Content[i], object.Content[i+1]
		if key.Kind != yaml.ScalarNode || value.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("metadata property \"routes\" has in line %d what is not a path; write an object from path to path", key.Line)
		}
		pairs = append(pairs, [2]string{key.Value, value.Value})
	}
	return pairs, nil
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	middleware.Register(r, components.Info{
		Name: "http.routeralias", Version: "v1", Status: components.Alpha,
		Description: "Gives paths other names.",
	}, func(_ context.Context, inst components.Instance, o Options) (middleware.Middleware, error) {
		return New(inst.Log, inst.Name, o), nil
	})
}

// Alias is one instance.
type Alias struct{ routes []route }

// New makes an instance.
func New(log *slog.Logger, name string, o Options) *Alias {
	if o.legacy {
		log.Warn("the middleware "+name+" lists its routes as metadata properties, which is deprecated: put them into the property routes", "component", name)
	}
	return &Alias{routes: o.routes}
}

// Handle implements [middleware.Middleware].
func (a *Alias) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	path := req.DecodedPath()
	for i := range a.routes {
		if values, ok := a.routes[i].match(path); ok {
			a.routes[i].apply(req, values)
			break
		}
	}
	return next(ctx, req)
}

// Close has nothing to release.
func (a *Alias) Close() error { return nil }

// apply replaces the path and adds the values of its parameters to the query.
func (r *route) apply(req *middleware.Request, values []string) {
	req.Path = r.target
	query := req.RawQuery
	add := func(more string) {
		if query != "" && more != "" {
			query += "&"
		}
		query += more
	}
	add(r.query)
	for i, name := range r.names {
		add(url.QueryEscape(name) + "=" + url.QueryEscape(values[i]))
	}
	req.RawQuery = query
}
