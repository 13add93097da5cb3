// Package opa is the middleware that has a policy in Rego decide about requests (Dapr API, middleware.http.opa).
package opa

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/middleware"
)

// Options are the metadata properties of the component.
type Options struct {
	Rego            string   `name:"rego" required:"true" help:"policy: a Rego v0 module of the package http whose rule allow is a boolean, or an object with allow, status_code and additional_headers"`
	DefaultStatus   int      `name:"defaultStatus" default:"403" help:"HTTP status of requests that the policy denies without naming one, or that it cannot decide"`
	IncludedHeaders []string `name:"includedHeaders" help:"headers of the request that the policy sees, separated by commas"`
	ReadBody        bool     `name:"readBody" help:"let the policy see the body of the request, which is read into memory for that"`

	policy *policy
}

// Check refuses a policy that does not compile. It implements [components.Checker].
func (o *Options) Check() (err error) {
	if o.policy, err = compile(o.Rego); err != nil {
		return fmt.Errorf("metadata property \"rego\" is not a policy that can be used: %w", err)
	}
	return nil
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	middleware.Register(r, components.Info{
		Name: "http.opa", Version: "v1", Status: components.Alpha,
		Description: "Has a policy in Rego, the language of Open Policy Agent, decide about requests.",
	}, func(_ context.Context, inst components.Instance, o Options) (middleware.Middleware, error) {
		return New(inst.Log, o), nil
	})
}

// evalTimeout bounds a decision, also one that asks other servers, if the request has no bound of its own.
const evalTimeout = time.Minute

// errorHeader marks the responses to requests that the policy could not decide.
const errorHeader = "x-dapr-opa-error"

// OPA is one instance.
type OPA struct {
	policy   *policy
	status   int
	headers  []string // in canonical spelling
	readBody bool
	log      *slog.Logger
}

// New makes an instance of options that were checked.
func New(log *slog.Logger, o Options) *OPA {
	m := &OPA{policy: o.policy, status: validStatus(o.DefaultStatus), readBody: o.ReadBody, log: log}
	for _, name := range o.IncludedHeaders {
		if name = strings.TrimSpace(name); name != "" {
			m.headers = append(m.headers, textproto.CanonicalMIMEHeaderKey(name))
		}
	}
	return m
}

// validStatus is a status that HTTP knows; others become 500.
func validStatus(status int) int {
	if http.StatusText(status) == "" || status < 200 {
		return http.StatusInternalServerError
	}
	return status
}

// Handle passes a request on or refuses it. It implements [middleware.Middleware].
func (m *OPA) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	var body []byte
	if m.readBody {
		var err error
		if body, err = req.ReadBody(); err != nil {
			return nil, err
		}
	}
	bounded, cancel := context.WithTimeout(ctx, evalTimeout)
	d, err := m.policy.decide(bounded, m.input(req, body))
	cancel()
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		m.log.Error("the policy could not decide about a request, which is refused", "path", req.Path, "error", err)
		resp := middleware.Text(m.status, "")
		resp.Header.Set(errorHeader, "true")
		return resp, nil
	}
	if d.allow {
		for _, h := range d.headers {
			req.Header.Set(h[0], h[1])
		}
		return next(ctx, req)
	}
	status := m.status
	if d.status != 0 {
		status = validStatus(d.status)
	}
	resp := middleware.Text(status, "")
	for _, h := range d.headers {
		resp.Header.Set(h[0], h[1])
	}
	return resp, nil
}

// Close has nothing to release.
func (m *OPA) Close() error { return nil }

// decision is what a policy says.
type decision struct {
	allow   bool
	status  int // 0 when the policy names none
	headers [][2]string
}

var errUndecided = errors.New("the policy has no result for data.http.allow: define the rule allow, with a default, in the package http")

// decisionOf reads the value of data.http.allow.
func decisionOf(value any) (d decision, err error) {
	switch v := value.(type) {
	case bool:
		return decision{allow: v}, nil
	case map[string]any:
		allow, ok := v["allow"].(bool)
		if !ok {
			return d, fmt.Errorf("the result's member allow is %v, but must be true or false", v["allow"])
		}
		d.allow = allow
		if status, given := v["status_code"]; given {
			n, ok := number(status)
			if !ok {
				return d, fmt.Errorf("the result's member status_code is %v, but must be a whole number", status)
			}
			d.status = n
		}
		headers, given := v["additional_headers"]
		if !given {
			return d, nil
		}
		object, ok := headers.(map[string]any)
		if !ok {
			return d, fmt.Errorf("the result's member additional_headers is %v, but must be an object", headers)
		}
		for name, value := range object {
			text, ok := value.(string)
			if !ok {
				return d, fmt.Errorf("the result's additional header %s is %v, but must be a string", name, value)
			}
			d.headers = append(d.headers, [2]string{name, text})
		}
		return d, nil
	}
	return d, fmt.Errorf("the policy's result is %v, but must be true, false or an object", value)
}
