package sidecar

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"outrigger.dev/app"
	"outrigger.dev/blocks/bindings"
	"outrigger.dev/blocks/invoke"
	"outrigger.dev/blocks/outbox"
	"outrigger.dev/blocks/pubsub"
	"outrigger.dev/blocks/secrets"
	"outrigger.dev/blocks/state"
	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
	"outrigger.dev/components/pluggable"
	"outrigger.dev/identity/accesscontrol"
	"outrigger.dev/mesh"
	"outrigger.dev/resiliency"
	"outrigger.dev/resource"
	"outrigger.dev/sidecar/pipeline"
	"outrigger.dev/telemetry/logging"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/tracing"
)

// openResolver starts name resolution. A failure is logged and leaves the sidecar without: calls of other apps then fail.
func (s *Sidecar) openResolver(ctx context.Context, identity components.Sidecar, down *teardown) {
	name, version := s.config.Spec.NameResolution.Component, s.config.Spec.NameResolution.Version
	properties := map[string]string{}
	var err error
	if name == "" {
		name = s.options.NameResolution
		maps.Copy(properties, s.options.NameResolutionProperties)
	} else {
		if properties, err = resolverProperties(s.config.Spec.NameResolution.Configuration); err != nil {
			s.log.Error("spec.nameResolution.configuration is not an object", "error", err)
		}
	}
	if version == "" {
		version = "v1"
	}
	var resolver nameresolution.Resolver
	var descriptor *components.Descriptor
	descriptor, err = s.options.Registry.Lookup(components.NameResolution, name, version)
	if err == nil {
		for _, f := range descriptor.CheckEach(properties) {
			if !f.Fatal {
				s.log.Warn("name resolution: " + f.String())
			}
		}
		var opened any
		if opened, err = descriptor.Open(ctx, components.Instance{
			Name: name, Type: descriptor.Type(), Version: version, Properties: properties, Sidecar: identity,
			Log: logging.Scope(s.options.Log, logging.ScopeContrib).With("component", descriptor.Type()), Clock: s.options.Clock,
		}); err == nil {
			resolver = opened.(nameresolution.Resolver)
		}
	}
	if err != nil {
		reason := metrics.ReasonInit
		if descriptor == nil {
			reason = metrics.ReasonCreation
		}
		s.metrics.Components().InitFailed("nameResolution", reason, name)
		s.log.Error(fmt.Sprintf("failed to init name resolution %s: %s; calls of other apps will fail", name, err))
	} else {
		s.log.Info("Initialized name resolution to " + name)
	}
	s.resolver = mesh.NewResolver(mesh.ResolverOptions{Resolver: resolver, Name: name, Namespace: identity.Namespace, Log: s.log, Clock: s.options.Clock})
	// Withdrawn at the first notice, so that nobody is sent here any more.
	down.notice = append(down.notice, func() {
		if resolver != nil {
			if err := resolver.Close(); err != nil {
				s.log.Warn("name resolution did not end cleanly", "error", err)
			}
		}
	})
}

// resolverProperties are the members of spec.nameResolution.configuration as texts: strings as they are, other values as
// JSON.
func resolverProperties(configuration resource.Value) (map[string]string, error) {
	properties := map[string]string{}
	if !configuration.IsSet() {
		return properties, nil
	}
	var members map[string]resource.Value
	if err := json.Unmarshal(configuration.JSON(), &members); err != nil {
		return properties, err
	}
	for name, value := range members {
		properties[name] = value.String()
	}
	return properties, nil
}

// openBlocks makes the building blocks and the loader that feeds them.
func (s *Sidecar) openBlocks(ctx context.Context, namespace string, identity components.Sidecar, down *teardown) {
	o := &s.options
	log := logging.Scope(o.Log, logging.ScopeProcessor)
	s.resiliency = resiliency.New(resiliency.Options{Resources: s.resources.Load().Resiliencies, Metrics: s.metrics.Resiliency(), Clock: o.Clock, Log: s.log})
	down.close = append(down.close, s.resiliency.Close)
	s.middlewares = pipeline.New(logging.Scope(o.Log, logging.ScopeMiddleware))
	if c := s.middlewares.Chain("spec.appHttpPipeline", s.config.Spec.AppHTTPPipeline.Handlers); c != nil {
		s.appPipeline = c
	}
	secretBlock := secrets.New(secrets.Options{Resiliency: s.resiliency, Metrics: s.metrics.Secrets(), Clock: o.Clock, Allowed: s.config.SecretAllowed})
	s.pubsub = pubsub.New(pubsub.Options{
		AppID: o.AppID, Namespace: namespace, SkipAppSubscriptions: slices.Contains(o.DisableInitEndpoints, "subscribe"),
		Resiliency: s.resiliency, Tracer: s.traces.Tracer(), Metrics: s.metrics.PubSub(), Clock: o.Clock, Log: log,
	})
	s.outbox = outbox.New(outbox.Options{AppID: o.AppID, Namespace: namespace, Broker: s.pubsub, Clock: o.Clock, Log: log})
	stateBlock := state.New(state.Options{AppID: o.AppID, Namespace: o.Namespace, Outbox: s.outbox, Resiliency: s.resiliency, Metrics: s.metrics.State(), Clock: o.Clock, Log: log})
	s.bindings = bindings.New(bindings.Options{
		ProbeTimeout: o.AppBindingOptionsTimeout, MaxBodyBytes: o.MaxBodySize, CheckBaggage: tracing.CheckBaggage, Resiliency: s.resiliency, Tracer: s.traces.Tracer(),
		Metrics: s.metrics, Clock: o.Clock, Log: log,
	})
	plugged := pluggable.New(pluggable.Options{
		Folder: o.ComponentsSocketFolder, Registry: o.Registry, Log: log, Clock: o.Clock,
		Headers: func(ctx context.Context) []string { return tracing.FromContext(ctx).Pairs() },
	})
	// What is wrong with a socket is in the log; it keeps only components of that socket from loading.
	_, _ = plugged.Discover(ctx)
	s.loader = &loader{
		types: plugged, sidecar: identity, options: o, state: stateBlock, secrets: secretBlock, pubsub: s.pubsub, bindings: s.bindings, outbox: s.outbox,
		middlewares: s.middlewares, strictSandbox: s.config.Spec.WASM.StrictSandbox, metrics: s.metrics, log: log,
		resolver:  &resource.Resolver{Kubernetes: o.Kubernetes, Secrets: secretBlock, Env: resource.NewEnv(o.LookupEnv)},
		templates: newTemplates(o, namespace),
	}
	down.close = append(down.close, s.loader.close)
}

func (s *Sidecar) warnUnusedScopes() {
	for _, scope := range s.config.Spec.Secrets.Scopes {
		if !slices.ContainsFunc(s.loader.list(), func(c *loaded) bool {
			return c.name == scope.StoreName && strings.HasPrefix(c.typ, string(components.SecretStores)+".")
		}) {
			s.log.Warn(fmt.Sprintf("Secrets configuration added for '%s', but no matching secret store was found", scope.StoreName))
		}
	}
}

func (s *Sidecar) grpcApp() bool {
	return s.options.AppProtocol == "grpc" || s.options.AppProtocol == "grpcs"
}

// openInvocation makes the channels to the app, to endpoints outside and to other sidecars, and the block that uses them.
func (s *Sidecar) openInvocation(ctx context.Context, identity components.Sidecar, host string, down *teardown) error {
	o := &s.options
	var access invoke.Access
	hostName, err := os.Hostname()
	if err != nil {
		hostName = host
	}
	// A list that denies nothing is none: it need not be asked.
	if spec := s.config.Spec.AccessControl; len(spec.Policies) > 0 || spec.EffectiveDefaultAction() == resource.ActionDeny {
		access = accesscontrol.New(spec, !s.grpcApp(), accesscontrol.WithMetrics(s.metrics))
	}
	options := invoke.Options{
		Access: access,
		AppID:  o.AppID, Namespace: identity.Namespace, HostAddress: host, HostName: hostName, InternalPort: identity.InternalPort,
		Resolver: s.resolver, Resiliency: s.resiliency, MaxBodyBytes: o.MaxBodySize, Tracer: s.traces.Tracer(), Metrics: s.metrics, Log: logging.Scope(o.Log, logging.ScopeAPI), Clock: o.Clock,
	}
	if o.AppPort > 0 {
		channel, err := app.New(s.appOptions())
		if err != nil {
			s.log.Warn(fmt.Sprintf("failed to open %s channel to app: %s", o.AppProtocol, err))
		} else {
			s.channel = channel
			s.pubsub.SetApp(channel)
			options.App = channel
			down.close = append(down.close, channel.Close)
			forwarder, err := app.NewForwarder(s.appOptions(), channel)
			if err != nil {
				return err
			}
			options.Forward = forwarder
			down.close = append(down.close, func(context.Context) error { forwarder.Close(); return nil })
		}
	}
	external, err := s.openEndpoints(ctx)
	if err != nil {
		s.log.Warn(err.Error())
		if external, err = app.NewExternal(s.externalOptions()); err != nil {
			return err
		}
	}
	s.endpoints.now.Store(external)
	options.External = &s.endpoints
	down.close = append(down.close, s.endpoints.Close)
	options.Peers, options.Streams = s.peers, s.peers
	s.invoke = invoke.New(options)
	down.drain = append(down.drain, s.invoke.Drain)
	down.close = append(down.close, func(context.Context) error { s.invoke.Close(); return nil })
	return nil
}
