package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/resource"
)

// reconcile brings the components in service in line with the resources: what is gone is closed, what changed is replaced,
// what is new is opened, in this order (Dapr API, hot reload: components). Nothing here ends the sidecar: a new version that cannot be
// opened leaves the one before in service.
func (l *loader) reconcile(ctx context.Context, wanted []*resource.Component) {
	byName := map[string]*resource.Component{}
	for _, c := range wanted {
		byName[c.Metadata.Name] = c
	}
	l.mu.Lock()
	for name, c := range l.refused {
		if w := byName[name]; w == nil || !resource.Same(c, w) {
			delete(l.refused, name)
		}
	}
	l.mu.Unlock()
	running := l.list()
	for _, old := range running {
		if byName[old.name] == nil {
			l.log.Info(fmt.Sprintf("Component %s is removed", old.resource.LogName()), "component", old.resource.LogName())
			l.retire(ctx, old)
		}
	}
	for _, old := range running {
		if c := byName[old.name]; c != nil && !resource.Same(old.resource, c) && !l.isRefused(c) {
			l.replace(ctx, old, c)
		}
	}
	inService := l.list()
	var missing []*resource.Component
	for _, c := range wanted {
		if !l.isRefused(c) && !l.hasFailed(c) && !slices.ContainsFunc(inService, func(s *loaded) bool { return s.name == c.Metadata.Name }) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		// What fails was logged, and is tried again at the next occasion.
		_ = l.load(ctx, missing)
	}
	l.order(wanted)
}

// refuse remembers a version of a component that is not to be tried again until its resource changes.
func (l *loader) refuse(c *resource.Component) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused == nil {
		l.refused = map[string]*resource.Component{}
	}
	l.refused[c.Metadata.Name] = c
}

// retryFailed is how long a component that could not be opened is left alone, unless its resource changes.
const retryFailed = 30 * time.Second

// failure is a version of a component that could not be opened, and when.
type failure struct {
	resource *resource.Component
	at       time.Time
}

func (l *loader) fail(c *resource.Component) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = map[string]failure{}
	}
	l.failed[c.Metadata.Name] = failure{c, l.options.Clock.Now()}
}

// hasFailed reports whether this version could not be opened a moment ago.
func (l *loader) hasFailed(c *resource.Component) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.failed[c.Metadata.Name]
	return ok && resource.Same(f.resource, c) && l.options.Clock.Since(f.at) < retryFailed
}

func (l *loader) isRefused(c *resource.Component) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	refused := l.refused[c.Metadata.Name]
	return refused != nil && resource.Same(refused, c)
}

// retire takes a component out of service and closes it. Requests that have it in hand may finish, within a bound.
func (l *loader) retire(ctx context.Context, old *loaded) {
	l.mu.Lock()
	l.loaded = slices.DeleteFunc(l.loaded, func(e *loaded) bool { return e == old })
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, swapPatience)
	defer cancel()
	if err := old.close(ctx); err != nil {
		l.log.Warn(fmt.Sprintf("Component %s did not close cleanly: %s", old.resource.LogName(), err))
	}
}

// replace puts a changed component in the place of the one before. What can be known to be wrong with the new version leaves the
// old one untouched; if the new one does not open all the same, the old one is opened again.
func (l *loader) replace(ctx context.Context, old *loaded, c *resource.Component) {
	name := c.LogName()
	if err := l.promising(ctx, c); err != nil {
		l.refuse(c)
		l.log.Error(fmt.Sprintf("Component %s stays as it was, the changed version cannot be used: %s", old.resource.LogName(), err), "component", name, "file", c.Origin.String())
		return
	}
	l.log.Info(fmt.Sprintf("Component %s changed and is replaced", name), "component", name)
	// Until the new version is there, requests do not slip past a middleware.
	l.middlewares.Hold(old.name)
	defer l.middlewares.Release(old.name)
	defer l.hosting.replaceActorStore(old.name)()
	l.retire(ctx, old)
	missing, err := l.open(ctx, old.order, c)
	switch {
	case err == nil && missing == "" && l.serves(c.Metadata.Name):
		return
	case missing != "":
		err = fmt.Errorf("the secret store %s is not loaded", missing)
	case err == nil:
		err = errors.New("it could not be opened; see the line before")
	}
	l.refuse(c)
	if _, again := l.open(ctx, old.order, old.resource); again != nil {
		l.log.Error(fmt.Sprintf("Component %s is out of service: %s; the version before could not be opened again either: %s", name, err, again), "component", name, "file", c.Origin.String())
		return
	}
	l.log.Error(fmt.Sprintf("Component %s is as it was before the change, which failed: %s", name, err), "component", name, "file", c.Origin.String())
}

func (l *loader) serves(name string) bool {
	return slices.ContainsFunc(l.list(), func(e *loaded) bool { return e.name == name })
}

// promising looks for what can be known to be wrong with a component without opening it.
func (l *loader) promising(ctx context.Context, c *resource.Component) error {
	p, err := l.prepare(ctx, c)
	if err != nil {
		return err
	}
	if p == nil {
		return nil
	}
	for _, f := range p.descriptor.Check(p.properties) {
		if f.Fatal {
			return errors.New(f.String())
		}
	}
	return nil
}

// order lists the components in the order of the resources.
func (l *loader) order(wanted []*resource.Component) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.loaded {
		e.order = slices.IndexFunc(wanted, func(c *resource.Component) bool { return c.Metadata.Name == e.name })
	}
	slices.SortStableFunc(l.loaded, func(a, b *loaded) int { return a.order - b.order })
}

// prepared is a component whose resource has been made out, ready to be opened.
type prepared struct {
	category   components.Category
	descriptor *components.Descriptor
	properties map[string]string
	items      []resource.NameValue
	namespaced bool
}

// prepare resolves a component's secrets and templates and finds its type. It is nil for categories that this version does not
// have.
func (l *loader) prepare(ctx context.Context, c *resource.Component) (*prepared, error) {
	category, name, ok := components.SplitType(c.Spec.Type)
	if !ok || category == components.NameResolution { // which the Configuration names, not a resource
		return nil, fmt.Errorf("incorrect type %s", c.Spec.Type)
	}
	if block, unbuilt := unbuiltCategories[category]; unbuilt {
		l.refuse(c)
		l.log.Warn(fmt.Sprintf("Component %s is not loaded: this version does not have the %s building block yet", c.LogName(), block), "component", c.LogName())
		return nil, nil
	}
	resolved, problems, err := l.resolver.Component(ctx, c)
	l.report(problems)
	if err != nil {
		return nil, err
	}
	items, namespaced, err := l.templates.Expand(resolved.Spec.Metadata)
	if err != nil {
		return nil, initFailure(initFailed, c, err)
	}
	descriptor, err := l.types.Lookup(ctx, category, name, c.Spec.Version)
	if err != nil {
		return nil, initFailure(createFailure, c, err)
	}
	p := &prepared{category: category, descriptor: descriptor, properties: resource.Properties(items), items: items, namespaced: namespaced}
	switch {
	case category == components.PubSub:
		l.setConsumerID(p.properties)
	case category == components.Middleware && l.strictSandbox && descriptor.Name == "http.wasm":
		p.properties["strictSandbox"] = "true"
	}
	return p, nil
}
