package resource

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
)

// KubernetesSecretStore is the built-in secret store of Kubernetes mode, whose secrets the operator puts into the resources
// it sends.
const KubernetesSecretStore = "kubernetes"

// ErrStoreNotLoaded is returned (or wrapped) by a SecretReader for a store that is not loaded.
var ErrStoreNotLoaded = errors.New("secret store not loaded")

// StoreNotLoadedError says that a resource needs a secret store that is not loaded (yet). The caller parks the resource until
// the store is there.
type StoreNotLoadedError struct {
	// Kind and Resource name the resource, Store the secret store.
	Kind, Resource, Store string
}

// Error names all of them.
func (e *StoreNotLoadedError) Error() string {
	return fmt.Sprintf("%s %s references a secret store that isn't loaded: %s", e.Kind, e.Resource, e.Store)
}

// Is makes errors.Is(err, ErrStoreNotLoaded) hold.
func (e *StoreNotLoadedError) Is(target error) bool { return target == ErrStoreNotLoaded }

// SecretReader reads secrets from the loaded secret stores.
type SecretReader interface {
	// GetSecret returns the entries of a secret. The error wraps ErrStoreNotLoaded if there is no such store.
	GetSecret(ctx context.Context, store, name string, metadata map[string]string) (map[string]string, error)
}

// Resolver replaces references to secrets and environment variables by their values.
type Resolver struct {
	// Kubernetes makes the built-in store the default, and values for it base64 text put there by the operator.
	Kubernetes bool
	// Secrets may be nil if no secret store is loaded.
	Secrets SecretReader
	// Env may be nil; then no variable may be read.
	Env *Env
}

// Reference says on whose behalf references are resolved.
type Reference struct {
	Kind, Name, Namespace string
	// SecretStore is auth.secretStore; empty is the default of the hosting mode.
	SecretStore string
	Origin      Origin
}

// ReferenceOf returns the Reference of a resource and its secret store.
func ReferenceOf(r Resource, secretStore string) Reference {
	h := r.Head()
	return Reference{Kind: h.Kind, Name: h.Metadata.Name, Namespace: h.Metadata.Namespace, SecretStore: secretStore, Origin: h.Origin}
}

// Resolve returns the items with references replaced (Dapr API, resource loading: common types); the items given are not
// changed. Each secret is read once. What cannot be resolved keeps its value and is a Problem, except that a store that is
// not loaded is a *StoreNotLoadedError; the items that could be resolved are returned with it. Any other error is that of
// the context.
func (r *Resolver) Resolve(ctx context.Context, of Reference, items []NameValue) ([]NameValue, []Problem, error) {
	s := r.resolution(of)
	out := s.items(ctx, items)
	return out, s.problems, s.err
}

// Component returns a copy of the component with its metadata resolved; otherwise like Resolve.
func (r *Resolver) Component(ctx context.Context, c *Component) (*Component, []Problem, error) {
	s := r.resolution(ReferenceOf(c, c.Auth.SecretStore))
	resolved := *c
	resolved.Spec.Metadata = s.items(ctx, c.Spec.Metadata)
	return &resolved, s.problems, s.err
}

// HTTPEndpoint returns a copy of the endpoint with headers and TLS documents resolved; otherwise like Resolve.
func (r *Resolver) HTTPEndpoint(ctx context.Context, h *HTTPEndpoint) (*HTTPEndpoint, []Problem, error) {
	s := r.resolution(ReferenceOf(h, h.Auth.SecretStore))
	resolved := *h
	resolved.Spec.Headers = s.items(ctx, h.Spec.Headers)
	if h.Spec.ClientTLS != nil {
		t := *h.Spec.ClientTLS
		t.RootCA = s.document(ctx, "clientTLS.rootCA", t.RootCA)
		t.Certificate = s.document(ctx, "clientTLS.certificate", t.Certificate)
		t.PrivateKey = s.document(ctx, "clientTLS.privateKey", t.PrivateKey)
		resolved.Spec.ClientTLS = &t
	}
	return &resolved, s.problems, s.err
}

// MCPServer returns a copy of the server with headers and environment resolved; otherwise like Resolve. The OAuth2 secret is
// left alone: it is read when connecting.
func (r *Resolver) MCPServer(ctx context.Context, m *MCPServer) (*MCPServer, []Problem, error) {
	resolved := *m
	var problems []Problem
	var err error
	overHTTP := func(e *MCPHTTP) *MCPHTTP {
		if e == nil {
			return nil
		}
		s := r.resolution(ReferenceOf(m, e.Auth.SecretStore))
		c := *e
		c.Headers = s.items(ctx, e.Headers)
		problems, err = append(problems, s.problems...), errors.Join(err, s.err)
		return &c
	}
	resolved.Spec.Endpoint.StreamableHTTP = overHTTP(m.Spec.Endpoint.StreamableHTTP)
	resolved.Spec.Endpoint.SSE = overHTTP(m.Spec.Endpoint.SSE)
	if e := m.Spec.Endpoint.Stdio; e != nil {
		s := r.resolution(ReferenceOf(m, ""))
		c := *e
		c.Env = s.items(ctx, e.Env)
		problems, err = append(problems, s.problems...), errors.Join(err, s.err)
		resolved.Spec.Endpoint.Stdio = &c
	}
	return &resolved, problems, err
}

func (r *Resolver) resolution(of Reference) *resolution {
	store := of.SecretStore
	if store == "" && r.Kubernetes {
		store = KubernetesSecretStore
	}
	return &resolution{Resolver: r, of: of, store: store, read: map[string]secret{}}
}

// resolution resolves the references of one resource.
type resolution struct {
	*Resolver
	of       Reference
	store    string
	read     map[string]secret
	problems []Problem
	err      error
}

// secret is the outcome of reading one, kept so that it is read, and complained about, once.
type secret struct {
	entries map[string]string
	ok      bool
}

func (s *resolution) warn(message, remedy string) {
	s.problems = append(s.problems, Problem{Origin: s.of.Origin, Severity: Warning, Kind: s.of.Kind, Name: s.of.Name, Message: message, Remedy: remedy})
}

func (s *resolution) items(ctx context.Context, items []NameValue) []NameValue {
	out := slices.Clone(items)
	for i := range out {
		item := &out[i]
		if !item.Value.IsSet() && item.EnvRef != "" {
			s.environment(item)
			continue
		}
		item.Value = s.value(ctx, item.Name, item.Value, item.SecretKeyRef)
	}
	return out
}

func (s *resolution) environment(item *NameValue) {
	if s.Env == nil {
		s.warn(fmt.Sprintf("%s: environment variable %s may not be read here", item.Name, quote(item.EnvRef)), "use value or secretKeyRef")
		return
	}
	value, err := s.Env.Get(item.EnvRef)
	if err != nil {
		s.warn(fmt.Sprintf("%s stays empty: %v", item.Name, err), "refer to another variable, or use a secret")
		return
	}
	item.Value = SubstitutedValue(value)
}

func (s *resolution) document(ctx context.Context, name string, t *TLSDocument) *TLSDocument {
	if t == nil {
		return nil
	}
	return &TLSDocument{Value: s.value(ctx, name, t.Value, t.SecretKeyRef), SecretKeyRef: t.SecretKeyRef}
}

// value resolves one secretKeyRef; without one it returns the value as it is.
func (s *resolution) value(ctx context.Context, item string, value Value, ref SecretKeyRef) Value {
	if ref.Name == "" {
		return value
	}
	if s.Kubernetes && s.store == KubernetesSecretStore {
		return s.inlined(item, value)
	}
	if s.store == "" {
		s.warn(fmt.Sprintf("%s refers to the secret %s, but the resource names no secret store", item, quote(ref.Name)), "set auth.secretStore to the name of a secret store component")
		return value
	}
	found := s.secret(ctx, ref.Name)
	if !found.ok {
		return value
	}
	text := found.entries[ref.KeyOrName()]
	if text == "" {
		s.warn(fmt.Sprintf("%s: the secret %s of store %s has no value under the key %s", item, quote(ref.Name), s.store, quote(ref.KeyOrName())),
			"correct secretKeyRef.key, or add the key to the secret")
		return value
	}
	return SubstitutedValue(text)
}

// inlined decodes what the operator puts in place of a secret: base64 in a JSON string.
func (s *resolution) inlined(item string, value Value) Value {
	if value.form != valueText || value.text == "" {
		return value
	}
	data, err := base64.StdEncoding.DecodeString(value.text)
	if err != nil {
		s.warn(fmt.Sprintf("%s: the secret sent by the operator is not base64: %v", item, err), "check that operator and sidecar have the same version")
		return value
	}
	return SubstitutedValue(string(data))
}

// secret reads a secret once.
func (s *resolution) secret(ctx context.Context, name string) secret {
	if known, ok := s.read[name]; ok {
		return known
	}
	var found secret
	err := ErrStoreNotLoaded
	if s.Secrets != nil {
		found.entries, err = s.Secrets.GetSecret(ctx, s.store, name, map[string]string{"namespace": s.of.Namespace})
	}
	switch {
	case err == nil:
		found.ok = true
	case errors.Is(err, ErrStoreNotLoaded):
		s.err = &StoreNotLoadedError{Kind: s.of.Kind, Resource: s.of.Name, Store: s.store}
	case ctx.Err() != nil:
		s.err = ctx.Err()
	default:
		s.warn(fmt.Sprintf("Error getting secret: %v (secret %s, store %s)", err, quote(name), s.store), "check that the secret exists and that the store may read it")
	}
	s.read[name] = found
	return found
}
