package sidecar

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"outrigger.dev/blocks/bindings"
	"outrigger.dev/blocks/outbox"
	"outrigger.dev/blocks/pubsub"
	"outrigger.dev/blocks/secrets"
	"outrigger.dev/blocks/state"
	"outrigger.dev/components"
	contracts "outrigger.dev/components/bindings"
	"outrigger.dev/components/middleware"
	"outrigger.dev/components/pluggable"
	brokers "outrigger.dev/components/pubsub"
	secretstores "outrigger.dev/components/secretstores"
	statestores "outrigger.dev/components/state"
	"outrigger.dev/resource"
	"outrigger.dev/sidecar/pipeline"
	"outrigger.dev/telemetry/logging"
	"outrigger.dev/telemetry/metrics"
)

// loader opens the components of the resources and gives them to their blocks.
type loader struct {
	types       *pluggable.Folder
	sidecar     components.Sidecar
	options     *Options
	resolver    *resource.Resolver
	templates   *resource.Templates
	state       *state.State
	secrets     *secrets.Secrets
	pubsub      *pubsub.PubSub
	bindings    *bindings.Bindings
	outbox      *outbox.Outbox
	hosting     *hosting
	middlewares *pipeline.Middlewares
	// strictSandbox has WebAssembly middlewares run strictly, whatever their resources say.
	strictSandbox bool
	metrics       *metrics.Metrics
	log           *slog.Logger

	mu     sync.Mutex
	loaded []*loaded
	closed bool // nothing is put into service any more
	// refused are versions of components that were found not to work, or not to be for this version, by name; failed those that
	// could not be opened, which are tried again after a while.
	refused map[string]*resource.Component
	failed  map[string]failure
}

// loaded is a component in service, in the order of the resources.
type loaded struct {
	order        int
	resource     *resource.Component
	name         string
	typ, version string
	capabilities []string
	close        func(ctx context.Context) error
}

// unbuiltCategories are those whose blocks this version does not have yet: their components are not opened.
var unbuiltCategories = map[components.Category]string{
	components.Configuration: "configuration", components.Lock: "distributed lock",
	components.Crypto: "cryptography", components.Conversation: "conversation",
}

// load opens all components: secret stores first, one after the other, for they may need each other, and then the rest side
// by side. A component that needs a secret store which is not there is parked, and opened once the store is.
func (l *loader) load(ctx context.Context, all []*resource.Component) error {
	var parked []int
	var rest []int
	for i, c := range all {
		if c.Category() != string(components.SecretStores) {
			rest = append(rest, i)
			continue
		}
		missing, err := l.open(ctx, i, c)
		if err != nil {
			return err
		}
		if missing != "" {
			parked = append(parked, i)
			continue
		}
		// The new store may be what parked stores wait for.
		for again := true; again; {
			again = false
			for p, index := range parked {
				missing, err := l.open(ctx, index, all[index])
				if err != nil {
					return err
				}
				if missing == "" {
					parked = append(parked[:p], parked[p+1:]...)
					again = true
					break
				}
			}
		}
	}
	errs := make([]error, len(rest))
	missing := make([]string, len(rest))
	var group sync.WaitGroup
	for n, index := range rest {
		group.Go(func() { missing[n], errs[n] = l.open(ctx, index, all[index]) })
	}
	group.Wait()
	for n, index := range rest {
		if missing[n] != "" {
			parked = append(parked, index)
		}
	}
	for _, index := range parked {
		c := all[index]
		l.log.Warn(fmt.Sprintf("Component %s is not loaded: it references a secret store that no resource defines; add the store, or correct auth.secretStore", c.LogName()), "component", c.LogName())
	}
	return errors.Join(errs...)
}

// open opens one component. missing names the secret store that it has to wait for. An error is fatal; a failure that the
// resource lets pass is only logged.
func (l *loader) open(ctx context.Context, order int, c *resource.Component) (missing string, err error) {
	err = l.tryOpen(ctx, order, c)
	if waiting, ok := errors.AsType[*resource.StoreNotLoadedError](err); ok {
		l.log.Warn(fmt.Sprintf("Component %s references a secret store that isn't loaded: %s", c.Metadata.Name, waiting.Store))
		return waiting.Store, nil
	}
	if err == nil || errors.Is(err, errClosing) {
		return "", nil
	}
	l.fail(c)
	l.log.Error(fmt.Sprintf("Failed to init component %s: %s", c.LogName(), err), "component", c.LogName(), "file", c.Origin.String())
	if failure, ok := errors.AsType[*componentError](err); ok && failure.kind == createFailure {
		l.metrics.Components().InitFailed(c.Spec.Type, metrics.ReasonCreation, c.Metadata.Name)
	}
	l.metrics.Components().InitFailed(c.Spec.Type, metrics.ReasonInit, c.Metadata.Name)
	if c.Spec.IgnoreErrors {
		l.log.Error(fmt.Sprintf("Ignoring error processing component: %s", err), "component", c.LogName())
		return "", nil
	}
	return "", fmt.Errorf("process component %s error: %w", c.Metadata.Name, err)
}

func (l *loader) tryOpen(ctx context.Context, order int, c *resource.Component) error {
	ctx, cancel := context.WithTimeout(ctx, c.InitDeadline())
	defer cancel()
	p, err := l.prepare(ctx, c)
	if err != nil || p == nil {
		return err
	}
	if d := p.descriptor; d.Deprecated != "" {
		l.log.Warn(fmt.Sprintf("WARNING: %s %s/%s is deprecated and will be removed in a future version, please use %s", p.category, c.Spec.Type, d.Version, d.Deprecated))
	}
	for _, f := range p.descriptor.CheckEach(p.properties) {
		if !f.Fatal {
			l.log.Warn(fmt.Sprintf("Component %s: %s", c.LogName(), f), "file", c.Origin.String())
		}
	}
	instance, err := p.descriptor.Open(ctx, components.Instance{
		Name: c.Metadata.Name, Type: c.Spec.Type, Version: c.Spec.Version, Properties: p.properties, Sidecar: l.sidecar,
		Log: logging.Scope(l.options.Log, logging.ScopeContrib).With("component", c.LogName()), Clock: l.options.Clock,
	})
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, fmt.Errorf("init timeout for component %s", c.LogName()))
		}
		return initFailure(initFailed, c, err)
	}
	return l.add(ctx, order, c, opened{instance: instance, properties: p.properties, items: p.items, namespaced: p.namespaced})
}

// setConsumerID names the app as the consumer where the resource does not (Dapr API, publish and subscribe: consumerID).
func (l *loader) setConsumerID(properties map[string]string) {
	const name = "consumerID"
	if id := strings.TrimSpace(properties[name]); id != "" {
		properties[name] = id
		return
	}
	properties[name] = l.sidecar.AppID
}

// opened is a component that was opened, and what of its resource its block wants to know.
type opened struct {
	instance   any
	properties map[string]string
	items      []resource.NameValue
	// namespaced is true when a value named {namespace}.
	namespaced bool
}

// componentError is why a component could not be put into service.
type componentError struct {
	kind, component string
	err             error
}

// Kinds of failures of components, as messages have them.
const (
	initFailed    = "INIT_COMPONENT_FAILURE"
	createFailure = "CREATE_COMPONENT_FAILURE"
)

func (e *componentError) Error() string {
	return "[" + e.kind + "]: initialization error occurred for " + e.component + ": " + e.err.Error()
}

func (e *componentError) Unwrap() error { return e.err }

func initFailure(kind string, c *resource.Component, err error) error {
	return &componentError{kind, c.LogName(), err}
}

// add puts an opened component into service.
func (l *loader) add(ctx context.Context, order int, c *resource.Component, o opened) error {
	entry := &loaded{order: order, resource: c, name: c.Metadata.Name, typ: c.Spec.Type, version: c.Spec.Version}
	switch instance := o.instance.(type) {
	case statestores.Store:
		names := map[string]string{}
		for _, item := range o.items {
			if item.SecretKeyRef.Name != "" {
				names[item.Name] = item.SecretKeyRef.Name
			}
		}
		if err := l.state.Add(state.Component{Name: c.Metadata.Name, Store: instance, Properties: o.properties, SecretNames: names}); err != nil {
			return initFailure(createFailure, c, errors.Join(err, instance.Close()))
		}
		if err := l.outbox.Add(c.Metadata.Name, instance, o.properties); err != nil {
			return initFailure(createFailure, c, errors.Join(err, l.state.Remove(ctx, c.Metadata.Name), instance.Close()))
		}
		if err := l.hosting.addActorStore(ctx, c.Metadata.Name, instance, o.properties); err != nil {
			return initFailure(initFailed, c, errors.Join(err, l.state.Remove(ctx, c.Metadata.Name), l.outbox.Remove(ctx, c.Metadata.Name), instance.Close()))
		}
		entry.capabilities = statestores.Capabilities(instance)
		entry.close = func(ctx context.Context) error {
			begun := ctx.Err() == nil
			l.hosting.endActorsOf(c.Metadata.Name)
			if begun && ctx.Err() != nil { // turns took all of the time to end; requests in hand have theirs
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), swapPatience)
				defer cancel()
			}
			return errors.Join(l.hosting.removeActorStore(ctx, c.Metadata.Name), l.state.Remove(ctx, c.Metadata.Name), l.outbox.Remove(ctx, c.Metadata.Name), instance.Close())
		}
	case secretstores.Store:
		if err := l.secrets.Add(c.Metadata.Name, instance); err != nil {
			return initFailure(createFailure, c, errors.Join(err, instance.Close()))
		}
		entry.capabilities = secretstores.Capabilities(instance)
		entry.close = func(ctx context.Context) error {
			return errors.Join(l.secrets.Remove(ctx, c.Metadata.Name), instance.Close())
		}
	case brokers.Broker:
		if err := l.pubsub.Add(pubsub.Component{Name: c.Metadata.Name, Broker: instance, Properties: o.properties, Namespaced: o.namespaced}); err != nil {
			return initFailure(createFailure, c, errors.Join(err, instance.Close()))
		}
		entry.capabilities = brokers.Capabilities(instance)
		entry.close = func(ctx context.Context) error {
			return errors.Join(l.pubsub.Remove(ctx, c.Metadata.Name), instance.Close())
		}
	case middleware.Middleware:
		if err := l.middlewares.Add(c.Metadata.Name, c.Spec.Type, c.Spec.Version, instance); err != nil {
			return initFailure(createFailure, c, errors.Join(err, instance.Close()))
		}
		entry.close = func(ctx context.Context) error {
			return errors.Join(l.middlewares.Remove(ctx, c.Metadata.Name), instance.Close())
		}
	case contracts.Binding: // last: it asks for nothing but Close
		binding := bindings.Component{Name: c.Metadata.Name, Type: c.Spec.Type, Binding: instance, Properties: o.properties}
		if err := l.bindings.Add(binding); err != nil {
			return initFailure(createFailure, c, errors.Join(err, instance.Close()))
		}
		entry.capabilities = binding.Capabilities()
		entry.close = func(ctx context.Context) error {
			return errors.Join(l.bindings.Remove(ctx, c.Metadata.Name), instance.Close())
		}
	default:
		return initFailure(createFailure, c, fmt.Errorf("components of type %s cannot be declared as resources", c.Spec.Type))
	}
	l.mu.Lock()
	if l.closed { // hot reload was at it when the end came
		l.mu.Unlock()
		return errors.Join(errClosing, entry.close(ctx))
	}
	at := len(l.loaded)
	for at > 0 && l.loaded[at-1].order > order {
		at--
	}
	l.loaded = append(l.loaded[:at:at], append([]*loaded{entry}, l.loaded[at:]...)...)
	l.mu.Unlock()
	l.metrics.Components().Loaded()
	l.metrics.Components().Init(c.Spec.Type)
	l.log.Info("Component loaded: "+c.LogName(), "component", c.LogName())
	return nil
}

// errClosing says why a component that opened was not put into service.
var errClosing = errors.New("the sidecar is being shut down")

// report logs what is wrong with resources without stopping the sidecar.
func (l *loader) report(problems []resource.Problem) { reportProblems(l.log, problems) }

func reportProblems(log *slog.Logger, problems []resource.Problem) {
	for _, p := range problems {
		log.Warn(p.String())
	}
}

// close takes all components out of service and closes them, side by side.
func (l *loader) close(ctx context.Context) error {
	l.mu.Lock()
	all := l.loaded
	l.loaded, l.closed = nil, true
	l.mu.Unlock()
	errs := make([]error, len(all))
	var group sync.WaitGroup
	for i, c := range all {
		group.Go(func() {
			l.log.Info(fmt.Sprintf("Shutting down component %s (%s/%s)", c.name, c.typ, c.version))
			errs[i] = c.close(ctx)
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// newTemplates are the values of {uuid}, {podName}, {namespace} and {appID} in component metadata.
func newTemplates(o *Options, namespace string) *resource.Templates {
	pod, _ := o.LookupEnv("POD_NAME")
	return &resource.Templates{PodName: pod, Namespace: namespace, AppID: o.AppID, Random: rand.Reader}
}
