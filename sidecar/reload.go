package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"outrigger.dev/blocks/pubsub"
	"outrigger.dev/resource"
	"outrigger.dev/telemetry/health"
	"outrigger.dev/telemetry/logging"
)

// ErrRestart ends Run when something changed that a running sidecar cannot take over: it is to be made and run again, with the
// same options (Dapr API, hot reload: restarts).
var ErrRestart = errors.New("the configuration changed")

// featureHotReload is the feature flag that switches hot reload off.
const featureHotReload = "HotReload"

// swapPatience bounds how long requests in hand may keep a component that is to be replaced, and how long replacing an
// HTTPEndpoint waits for them.
const swapPatience = 5 * time.Second

// reloader takes over changes of the Configuration and the resources while the sidecar runs.
type reloader struct {
	sidecar *Sidecar
	changes <-chan struct{}
	log     *slog.Logger
	// said are the problems that were reported already, so that a file that stays broken is not reported again every minute.
	said map[string]bool
}

// watch begins to look for changes before the resources are read for the first time, so that none is missed. With the feature off it
// does nothing.
func (s *Sidecar) watch() error {
	if !slices.Contains(s.features, featureHotReload) {
		return nil
	}
	changes, err := s.source.watch(s.options.ReconcileInterval)
	if err != nil {
		return err
	}
	s.reloader = &reloader{sidecar: s, changes: changes, log: logging.Scope(s.options.Log, logging.ScopeHotReload), said: map[string]bool{}}
	for _, name := range reconcilers() {
		s.health.Target(name)
	}
	return nil
}

// reconcilers are the health targets of hot reload.
func reconcilers() []string {
	return []string{
		health.ComponentReconciler, health.SubscriptionReconciler, health.MCPServerReconciler, health.WorkflowAccessPolicyReconciler,
		health.ConfigurationSighupReconciler, health.HTTPEndpointSighupReconciler, health.ResiliencySighupReconciler,
	}
}

// ready says that changes are followed from now on.
func (r *reloader) ready() {
	for _, name := range reconcilers() {
		r.sidecar.health.Target(name).Ready()
	}
}

// follow takes over changes until ctx ends.
func (r *reloader) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.sidecar.ended:
			return
		case <-r.changes:
			if r.configurationChanged(ctx) {
				r.restart("Configuration")
				return
			}
			r.reload(ctx)
		}
	}
}

// configurationChanged reports whether the Configuration is another one now. One that cannot be used leaves the present one in
// force.
func (r *reloader) configurationChanged(ctx context.Context) bool {
	s := r.sidecar
	config, problems, err := s.source.configuration(ctx)
	if err == nil {
		err = errors.Join(config.Spec.AccessControl.Validate(), emptied(problems))
	}
	if err != nil {
		r.sayOnce(slog.LevelError, fmt.Sprintf("the changed Configuration cannot be used, the present one stays in force: %s", err))
		return false
	}
	if resource.Same(config, s.config) {
		return false
	}
	r.report(problems)
	return true
}

// emptied is the error of a file that holds nothing: at the start that is a Configuration without settings, but of a sidecar that runs it is most
// likely one that is being written at this moment.
func emptied(problems []resource.Problem) error {
	for _, p := range problems {
		if p.Message == resource.EmptyConfiguration {
			return fmt.Errorf("%s is empty; restart the sidecar if it is to have no Configuration", p.Origin.File)
		}
	}
	return nil
}

// reload reads the resources and brings what runs in line with them.
func (r *reloader) reload(ctx context.Context) {
	s := r.sidecar
	before := s.resources.Load()
	now, problems, err := s.source.resources(ctx, s.loadOptions(), before)
	if ctx.Err() != nil {
		return
	}
	r.report(problems)
	if err != nil {
		r.sayOnce(slog.LevelError, fmt.Sprintf("the resources cannot be read, everything stays as it is: %s", err))
		return
	}
	now.Subscriptions = r.usable(now.Subscriptions, before.Subscriptions)
	s.resources.Store(now)
	if !same(before.Resiliencies, now.Resiliencies) {
		r.restart("Resiliency")
		return
	}
	if !same(before.HTTPEndpoints, now.HTTPEndpoints) {
		r.swapEndpoints(ctx, len(now.HTTPEndpoints))
	}
	s.loader.reconcile(ctx, now.Components)
	if !same(before.Subscriptions, now.Subscriptions) {
		if err := s.declareSubscriptions(); err != nil { // rules were looked at above
			r.log.Error(err.Error())
			return
		}
		r.log.Info(fmt.Sprintf("Subscriptions reloaded: %d declared", len(now.Subscriptions)))
	}
}

// swapEndpoints takes over HTTPEndpoints. Those with settings that cannot be used leave all as they were.
func (r *reloader) swapEndpoints(ctx context.Context, count int) {
	if err := r.sidecar.swapEndpoints(ctx); err != nil {
		r.log.Error(fmt.Sprintf("the changed HTTPEndpoints cannot be used, the present ones stay in force: %s", err))
		return
	}
	r.log.Info(fmt.Sprintf("HTTPEndpoints reloaded: %d", count))
}

// restart has the sidecar made anew.
func (r *reloader) restart(kind string) {
	r.log.Info(kind + " changed: the runtime restarts")
	r.sidecar.blockShutdown()
	r.sidecar.stop(ErrRestart)
}

// usable puts, for subscriptions whose rules cannot be compiled, the versions before, if there are any.
func (r *reloader) usable(now, before []*resource.Subscription) []*resource.Subscription {
	kept := make([]*resource.Subscription, 0, len(now))
	for _, subscription := range now {
		err := checkRules(subscription)
		if err == nil {
			kept = append(kept, subscription)
			continue
		}
		at := slices.IndexFunc(before, func(b *resource.Subscription) bool { return b.Metadata.Name == subscription.Metadata.Name })
		if at < 0 {
			r.sayOnce(slog.LevelError, fmt.Sprintf("Subscription %s in %s is not started: %s", subscription.Metadata.Name, subscription.Origin, err))
			continue
		}
		r.sayOnce(slog.LevelError, fmt.Sprintf("Subscription %s in %s stays as it was: %s", subscription.Metadata.Name, subscription.Origin, err))
		kept = append(kept, before[at])
	}
	return kept
}

func checkRules(s *resource.Subscription) error {
	for _, rule := range pubsub.FromResource(s).Rules {
		if err := pubsub.CheckRule(rule); err != nil {
			return err
		}
	}
	return nil
}

// same reports whether two lists of resources are equal for hot reload.
func same[T resource.Resource](a, b []T) bool {
	return slices.EqualFunc(a, b, func(x, y T) bool { return resource.Same(x, y) })
}

// report logs what is wrong with files, each thing once until it changes.
func (r *reloader) report(problems []resource.Problem) {
	now := map[string]bool{}
	for _, p := range problems {
		text := p.String()
		now[text] = true
		if r.said[text] {
			continue
		}
		if p.Severity == resource.Error {
			r.log.Error(text)
		} else {
			r.log.Warn(text)
		}
	}
	r.said = now
}

func (r *reloader) sayOnce(level slog.Level, text string) {
	if r.said[text] {
		return
	}
	r.said[text] = true
	r.log.Log(context.Background(), level, text)
}
