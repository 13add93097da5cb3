// Package accesscontrol decides which apps may invoke this one, by their identity and by what they call (Dapr API, access
// control for service invocation).
package accesscontrol

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/identity"
	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics"
)

// List is a compiled access control list. A nil one allows everything. It is safe for concurrent use.
type List struct {
	allow    bool // what holds for callers without policy
	httpApp  bool
	policies map[caller]*policy
	metrics  *metrics.AccessControl
}

// caller is what policies are found by.
type caller struct{ appID, namespace string }

// policy is what applies to one caller.
type policy struct {
	trustDomain string
	// fallback is what holds for operations that no rule covers, and fallbackOwn tells that the policy itself says so.
	fallback, fallbackOwn bool
	// noVerb is what holds for operations that a rule covers when an HTTP app is called without a verb.
	noVerb     bool
	operations node
}

// Option changes a list.
type Option func(*List)

// WithMetrics counts the verdicts.
func WithMetrics(m *metrics.Metrics) Option { return func(l *List) { l.metrics = m.AccessControl() } }

// New compiles a specification, which must have passed [resource.AccessControl.Validate]. httpApp tells that the app speaks
// HTTP: names of operations then do not depend on case, and verbs count. The list is nil when there is no specification.
func New(spec resource.AccessControl, httpApp bool, options ...Option) *List {
	if spec.DefaultAction == "" && spec.TrustDomain == "" && len(spec.Policies) == 0 {
		return nil
	}
	l := &List{allow: allows(spec.EffectiveDefaultAction()), httpApp: httpApp}
	for _, o := range options {
		o(l)
	}
	for _, p := range spec.Policies {
		if l.policies == nil {
			l.policies = map[caller]*policy{}
		}
		compiled := &policy{trustDomain: p.TrustDomain, fallback: l.allow, noVerb: allows(p.DefaultAction)}
		if p.DefaultAction != "" {
			compiled.fallback, compiled.fallbackOwn = allows(p.DefaultAction), true
		}
		for _, operation := range p.Operations {
			name := slashed(operation.Name)
			if httpApp {
				name = strings.ToLower(name)
			}
			r := &rule{allow: allows(operation.Action)}
			if httpApp {
				r.verbs = map[string]bool{}
				for _, verb := range operation.HTTPVerb {
					r.verbs[verb] = r.allow
				}
			}
			compiled.operations.add(name, r)
		}
		l.policies[caller{p.AppID, p.Namespace}] = compiled
	}
	return l
}

// allows reads an action: everything but allow denies.
func allows(action string) bool { return strings.EqualFold(action, resource.ActionAllow) }

func slashed(operation string) string {
	if strings.HasPrefix(operation, "/") {
		return operation
	}
	return "/" + operation
}

// Check decides about a call. c is who calls, nil without identity; operation is the method, cleaned and decoded exactly as it
// is then dispatched; verb is the HTTP verb, "" when there is none. The error is a gRPC status PermissionDenied.
func (l *List) Check(c *identity.Peer, operation, verb string) error {
	if l == nil {
		return nil
	}
	if !l.httpApp {
		verb = ""
	}
	var id identity.ID
	uri := ""
	if c != nil {
		if c.Err != nil {
			return status.Error(codes.PermissionDenied, c.Err.Error())
		}
		id, uri = c.ID, c.URI
	}
	allowed, byApp := l.verdict(c, operation, verb)
	l.metrics.Observe(id.AppID, id.TrustDomain, id.Namespace, byApp, allowed)
	if allowed {
		return nil
	}
	if verb == "" {
		verb = "NONE"
	}
	return status.Errorf(codes.PermissionDenied, "access control policy has denied access to id: %s operation: %s verb: %s", uri, operation, verb)
}

// verdict evaluates the list; byApp tells that the caller's policy decided (Dapr API, access control: evaluation).
func (l *List) verdict(c *identity.Peer, operation, verb string) (allowed, byApp bool) {
	if c == nil || len(l.policies) == 0 {
		return l.allow, false
	}
	p := l.policies[caller{c.ID.AppID, c.ID.Namespace}]
	if p == nil || p.trustDomain != c.ID.TrustDomain {
		return l.allow, false
	}
	operation = slashed(operation)
	if l.httpApp {
		operation = strings.ToLower(operation)
	}
	r := p.operations.find(operation)
	switch {
	case r == nil:
		return p.fallback, p.fallbackOwn
	case !l.httpApp:
		return r.allow, true
	case verb == "":
		return p.noVerb, true
	}
	if allow, ok := r.verbs[verb]; ok {
		return allow, true
	}
	if allow, ok := r.verbs["*"]; ok {
		return allow, true
	}
	return p.fallback, p.fallbackOwn
}
