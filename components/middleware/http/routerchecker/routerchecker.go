// Package routerchecker is the middleware that refuses requests whose URI does not match a pattern (Dapr API,
// middleware.http.routerchecker).
package routerchecker

import (
	"context"
	"fmt"
	"net/http"
	"regexp"

	"outrigger.dev/components"
	"outrigger.dev/components/middleware"
)

// Options are the metadata properties of the component.
type Options struct {
	Rule string `name:"rule" required:"true" help:"regular expression that the path and query of a request must match, such as ^/v1.0/invoke/[a-z]+/method/"`

	rule *regexp.Regexp
}

// Check refuses a rule that is no regular expression. It implements [components.Checker].
func (o *Options) Check() (err error) {
	if o.rule, err = regexp.Compile(o.Rule); err != nil {
		return fmt.Errorf("metadata property \"rule\" is %q, which is not a regular expression: %w", o.Rule, err)
	}
	return nil
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	middleware.Register(r, components.Info{
		Name: "http.routerchecker", Version: "v1", Status: components.Alpha,
		Description: "Refuses requests whose path and query do not match a regular expression.",
	}, func(_ context.Context, _ components.Instance, o Options) (middleware.Middleware, error) {
		return &Checker{rule: o.rule}, nil
	})
}

// Checker is one instance.
type Checker struct{ rule *regexp.Regexp }

// Handle passes a request on or refuses it. It implements [middleware.Middleware].
func (c *Checker) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	if !c.rule.MatchString(req.URI()) {
		return middleware.Text(http.StatusBadRequest, "invalid router"), nil
	}
	return next(ctx, req)
}

// Close has nothing to release.
func (c *Checker) Close() error { return nil }
