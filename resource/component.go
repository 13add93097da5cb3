package resource

import (
	"slices"
	"strings"
	"time"

	"outrigger.dev/suggest"
)

// DefaultInitTimeout bounds the initialisation of a component that does not say otherwise.
const DefaultInitTimeout = 5 * time.Second

// Component is an instance of a building block's implementation: a state store, a broker, a binding and so on.
type Component struct {
	Header
	Spec   ComponentSpec `json:"spec"`
	Auth   Auth          `json:"auth,omitzero"`
	Scopes []string      `json:"scopes,omitempty"`
}

// ComponentSpec is the spec of a Component.
type ComponentSpec struct {
	// Type is "<category>.<name>", e.g. "state.redis". The category is case-sensitive, the rest is not.
	Type string `json:"type"`
	// Version is v1 when empty. Not case-sensitive.
	Version string `json:"version"`
	// Metadata are the properties of the component.
	Metadata []NameValue `json:"metadata"`
	// IgnoreErrors makes a failing initialisation a log line instead of the end of the sidecar.
	IgnoreErrors bool `json:"ignoreErrors,omitempty"`
	// InitTimeout is a Go duration; see InitDeadline.
	InitTimeout string `json:"initTimeout,omitempty"`
}

// AppScopes implements Resource.
func (c *Component) AppScopes() []string { return c.Scopes }

// LogName returns "name (type/version)".
func (c *Component) LogName() string {
	return c.Metadata.Name + " (" + c.Spec.Type + "/" + c.Spec.Version + ")"
}

func (c *Component) identity() any {
	return [4]any{c.Metadata.Name, c.Spec, c.Auth, c.Scopes}
}

// Category returns the part of the type before the first dot, e.g. "state".
func (c *Component) Category() string {
	category, _, _ := strings.Cut(c.Spec.Type, ".")
	return category
}

// InitDeadline returns how long the initialisation may take: initTimeout, or 5 s if that is empty or invalid.
func (c *Component) InitDeadline() time.Duration {
	if d, err := time.ParseDuration(c.Spec.InitTimeout); err == nil {
		return d
	}
	return DefaultInitTimeout
}

// Denied tells whether a deny list of "type" and "type/version" entries refuses the component. The comparison is exact. With a
// non-empty list a component without version is refused as well (Dapr API, resource loading: filtering).
func (c *Component) Denied(deny []string) bool {
	if len(deny) == 0 {
		return false
	}
	return c.Spec.Version == "" ||
		slices.Contains(deny, c.Spec.Type) || slices.Contains(deny, c.Spec.Type+"/"+c.Spec.Version)
}

func (c *Component) check(r *reporter) {
	category, name, _ := strings.Cut(c.Spec.Type, ".")
	known := []string{"bindings", "configuration", "conversation", "crypto", "lock", "middleware", "pubsub", "secretstores", "state"}
	switch {
	case c.Spec.Type == "":
		r.warn("spec.type is missing", "give it a type such as state.redis")
	case name == "":
		r.warn("spec.type "+quote(c.Spec.Type)+" is not of the form category.name", "give it a type such as state.redis")
	case !slices.Contains(known, category):
		remedy := "use one of " + strings.Join(known, ", ") + " before the first dot (case-sensitive)"
		if near, ok := suggest.Nearest(category, known); ok {
			remedy = "did you mean " + near + "." + name + "?"
		}
		r.warn("incorrect type "+c.Spec.Type, remedy)
	}
	if c.Spec.InitTimeout != "" {
		if _, err := time.ParseDuration(c.Spec.InitTimeout); err != nil {
			r.warn("spec.initTimeout "+quote(c.Spec.InitTimeout)+" is not a duration, so 5s is used", "write it like 10s or 1m")
		}
	}
	r.items("spec.metadata", c.Spec.Metadata)
}
