package resource

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The values of kind.
const (
	KindComponent            = "Component"
	KindConfiguration        = "Configuration"
	KindSubscription         = "Subscription"
	KindResiliency           = "Resiliency"
	KindHTTPEndpoint         = "HTTPEndpoint"
	KindWorkflowAccessPolicy = "WorkflowAccessPolicy"
	KindMCPServer            = "MCPServer"
)

// The values of apiVersion.
const (
	V1alpha1 = "dapr.io/v1alpha1"
	V2alpha1 = "dapr.io/v2alpha1"
)

// Header is what all kinds share.
type Header struct {
	APIVersion string   `json:"apiVersion,omitempty"`
	Kind       string   `json:"kind,omitempty"`
	Metadata   Metadata `json:"metadata"`
	// Origin is where the resource was read from.
	Origin Origin   `json:"-"`
	_      struct{} `known:"status"`
}

// Metadata names a resource.
type Metadata struct {
	Name        string            `json:"name,omitempty"`
	Namespace   string            `json:"namespace,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	_           struct{}          `known:"clusterName,creationTimestamp,deletionGracePeriodSeconds,deletionTimestamp,finalizers,generateName,generation,managedFields,ownerReferences,resourceVersion,selfLink,uid"`
}

// Auth names the secret store that the secretKeyRef entries of a resource are read from.
type Auth struct {
	SecretStore string `json:"secretStore,omitempty"`
}

// Resource is implemented by a pointer to each of the kinds.
type Resource interface {
	// Head returns the part that all kinds share.
	Head() *Header
	// AppScopes returns the app ids that the resource is limited to; none means all.
	AppScopes() []string
	// LogName names the resource in messages: its name, for components "name (type/version)".
	LogName() string
	// identity is what two versions of a resource are compared by.
	identity() any
}

// Head returns the header itself, so that embedding it makes a Resource.
func (h *Header) Head() *Header { return h }

// LogName returns the name.
func (h *Header) LogName() string { return h.Metadata.Name }

// InScope tells whether a resource with these scopes is meant for the app: no scopes, or the app id is listed
// (Dapr API, resource loading: filtering).
func InScope(scopes []string, appID string) bool {
	return len(scopes) == 0 || slices.Contains(scopes, appID)
}

// InNamespace tells whether a resource of a namespace is visible in the namespace of the process: it is when either is
// unknown or both are equal (Dapr API, resource loading: filtering).
func InNamespace(resource, process string) bool {
	return resource == "" || process == "" || resource == process
}

// checkName applies the rule for names (Dapr API, resource loading: files): not "." or "..", no "/" and no "%".
func checkName(name string) error {
	switch {
	case name == "." || name == "..":
		return fmt.Errorf("metadata.name may not be '%s'", name)
	case strings.Contains(name, "/"):
		return fmt.Errorf("metadata.name %q may not contain '/'", name)
	case strings.Contains(name, "%"):
		return fmt.Errorf("metadata.name %q may not contain '%%'", name)
	}
	return nil
}

// Decode reads one document, YAML or JSON, into a resource of the kind given by the caller. The origin is where the document
// came from, with the line it starts on (0 counts as 1). Unknown fields and repeated keys are returned as
// warnings. The error lists every type error, with lines.
func Decode(data []byte, origin Origin, into Resource) ([]Problem, error) {
	doc := document{index: origin.Document, line: max(origin.Line, 1), data: data}
	root, repeated, err := parseNode(doc)
	if err != nil {
		return nil, err
	}
	if root == nil || root.kind == kindNull {
		return nil, errors.New("yaml: the document is empty")
	}
	return decodeResource(root, repeated, origin, newDecoder(origin, false), into)
}
