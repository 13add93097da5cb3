package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"outrigger.dev/api"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/app"
	"outrigger.dev/blocks/actors"
	"outrigger.dev/blocks/actors/apphost"
	"outrigger.dev/blocks/jobs"
	"outrigger.dev/components"
	statestores "outrigger.dev/components/state"
	"outrigger.dev/identity"
	"outrigger.dev/mesh"
	"outrigger.dev/mesh/placement"
	"outrigger.dev/mesh/scheduler"
	"outrigger.dev/telemetry/health"
	"outrigger.dev/telemetry/logging"
)

// The app IDs of placement and the scheduler, for their identities.
const (
	placementID = "dapr-placement"
	schedulerID = "dapr-scheduler"
)

// featureActorStateTTL allows actor state that expires (Dapr API, features).
const featureActorStateTTL = "ActorStateTTL"

// hosting is what this sidecar has to do with actors and jobs: the parts of both blocks, the clients of the services that they stand on, and
// what the app hosts.
type hosting struct {
	runtime   *actors.Runtime
	state     *actors.State
	timers    *actors.Timers
	reminders *actors.Reminders
	migration *actors.Migration
	service   *actors.Service
	streams   *apphost.Streams
	jobs      *jobs.Jobs
	placement *placement.Client // nil when none is configured
	scheduler *scheduler.Client

	mu sync.Mutex
	// accepted is what the scheduler may send; nothing any more once left is set.
	accepted scheduler.Accept
	left     bool
	// kept is the name of the actor state store while it is being replaced.
	kept string
	// connected is closed when the placement client was started.
	connected chan struct{}
	connect   sync.Once
	leaving   sync.WaitGroup

	// app is what the app said about its actors, once it was asked; withdraw takes its registration back while there is one. Both belong to
	// the goroutine that follows the app's health.
	app      *actors.Hosting
	withdraw func(context.Context)
}

// places is the placement client that the actor runtime asks: the two need each other to be made.
type places struct{ *placement.Client }

// openActors makes the parts of actors and jobs. Nothing is connected yet.
func (s *Sidecar) openActors(identity components.Sidecar, host string) {
	o := &s.options
	log := logging.Scope(o.Log, logging.ScopeActor)
	h := &hosting{connected: make(chan struct{})}
	s.hosting = h
	h.scheduler = scheduler.New(scheduler.Options{
		Addresses: o.SchedulerAddresses, Credentials: s.controlPlane(schedulerID), AppID: o.AppID, Namespace: identity.Namespace, JobStreams: o.SchedulerJobStreams,
		Trigger: s.trigger, Clock: o.Clock, Log: logging.Scope(o.Log, logging.ScopeScheduler), Dial: o.Dial,
	})
	where := &places{}
	h.runtime = actors.New(actors.Options{
		Namespace: identity.Namespace, PlacementConfigured: s.hasPlacement(), Placement: where, Peers: s.peers,
		OnSettled: s.settled, OnEnded: func(actorType, id string) { h.timers.Ended(actorType, id) },
		Resiliency: s.resiliency, Metrics: s.metrics.Actors(), Tracer: s.traces.Tracer(), Clock: o.Clock, Log: log,
	})
	if s.hasPlacement() {
		h.placement = placement.New(placement.Options{
			Addresses: o.PlacementAddresses, Kubernetes: o.Kubernetes, Credentials: s.controlPlane(placementID), HostName: fmt.Sprintf("%s:%d", host, identity.InternalPort),
			AppID: o.AppID, Namespace: identity.Namespace, DisseminateTimeout: o.ActorsDisseminateTimeout, Hooks: h.runtime, Clock: o.Clock,
			Log: logging.Scope(o.Log, logging.ScopePlacement), Dial: o.Dial,
		})
		where.Client = h.placement
	}
	h.state = actors.NewState(actors.StateOptions{
		AppID: o.AppID, Core: h.runtime, Settle: h.settle, TTL: slices.Contains(s.features, featureActorStateTTL), Resiliency: s.resiliency, Metrics: s.metrics.State(), Clock: o.Clock,
	})
	h.timers = actors.NewTimers(actors.TimersOptions{Core: h.runtime, Metrics: s.metrics.Actors(), Clock: o.Clock, Log: log})
	h.reminders = actors.NewReminders(actors.RemindersOptions{AppID: o.AppID, Namespace: identity.Namespace, Core: h.runtime, Scheduler: h.scheduler, Metrics: s.metrics.Actors(), Log: log})
	h.migration = actors.NewMigration(actors.MigrationOptions{State: h.state, Reminders: h.reminders, Clock: o.Clock, Log: log})
	h.streams = apphost.NewStreams(apphost.StreamsOptions{
		AppID: o.AppID, Namespace: identity.Namespace, HTTPApp: o.AppPort > 0 && !s.grpcApp(), DisseminateTimeout: o.ActorsDisseminateTimeout, Log: log,
	})
	h.service = actors.NewService(actors.ServiceOptions{
		AppID: o.AppID, Namespace: identity.Namespace, Core: h.runtime, State: h.state, Timers: h.timers, Reminders: h.reminders, Streams: streamHosts{h},
	})
	h.jobs = jobs.New(jobs.Options{
		AppID: o.AppID, Namespace: identity.Namespace, Scheduler: h.scheduler, App: func() app.Channel { return s.channel }, Tracer: s.traces.Tracer(),
		Metrics: s.metrics.Jobs(), Clock: o.Clock, Log: logging.Scope(o.Log, logging.ScopeScheduler),
	})
}

// checkActors refuses settings with which actors cannot be hosted (Dapr API, actors: registration).
func (o *Options) checkActors() error {
	if o.Kubernetes && o.EnableMTLS && o.Namespace == "" && len(o.PlacementAddresses) > 0 {
		return api.ErrActorNamespaceRequired()
	}
	return nil
}

// hasPlacement tells whether there are actors at all.
func (s *Sidecar) hasPlacement() bool { return len(s.options.PlacementAddresses) > 0 }

// controlPlane are the credentials for a service of the control plane; nil is clear text.
func (s *Sidecar) controlPlane(appID string) credentials.TransportCredentials {
	if !s.options.EnableMTLS {
		return nil
	}
	return credentials.NewTLS(identity.NewTLS(s.identity, s.options.Clock.Now).Client(identity.Exactly(s.identity.ControlPlane(appID)), mesh.ProtocolGRPC))
}

// startActors starts what needs no app, until ctx ends: the client of the scheduler, the timers, and placement if it need not wait for what
// the app hosts (Dapr API, placement: connecting).
func (s *Sidecar) startActors(ctx context.Context, down *teardown) {
	h := s.hosting
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	follow := func(name string, ready <-chan struct{}) {
		target := s.health.Target(name)
		running.Go(func() {
			select {
			case <-ready:
				target.Ready()
			case <-life.Done():
			}
		})
	}
	follow(health.SchedulerWatchHosts, h.scheduler.Ready())
	running.Go(func() {
		if err := h.scheduler.Run(life); err != nil {
			s.log.Error("the client of the scheduler failed", "error", err)
		}
	})
	running.Go(func() { h.timers.Run(life) })
	running.Go(func() { h.migration.Run(life) })
	if h.placement != nil {
		follow(health.InternalPlacementService, h.placement.Ready())
		running.Go(func() {
			select {
			case <-h.connected:
			case <-life.Done():
				return
			}
			if err := h.placement.Run(life); err != nil && life.Err() == nil {
				s.log.Error("the client of placement failed", "error", err)
			}
		})
		if h.state.Store() == "" {
			h.connectPlacement()
		}
	}
	down.quiet = append(down.quiet, h.moveAway)
	down.close = append(down.close, func(context.Context) error {
		end()
		running.Wait()
		return nil
	}, func(ctx context.Context) error {
		// The actors are told first, also over the streams.
		err := errors.Join(h.runtime.Close(ctx), h.streams.Close(ctx))
		h.leaving.Wait()
		return err
	})
}

// moveAway gives the actors to other sidecars, and no more work from the scheduler, while everything still serves: turns may end, and those who
// call are sent on.
func (h *hosting) moveAway(ctx context.Context) {
	h.mu.Lock()
	h.left = true // the types that are withdrawn now settle later: that must not open streams again
	h.mu.Unlock()
	moved := make(chan struct{})
	h.leaving.Go(func() {
		defer close(moved)
		h.runtime.SetStore(false)
		_ = h.streams.Close(ctx) // nobody is called back any more, and the server that drains next would wait for them
	})
	_ = h.scheduler.Drain(ctx) // what is still with the app then comes again
	select {
	case <-moved:
	case <-ctx.Done(): // closing the runtime breaks them off
	}
}

func (h *hosting) connectPlacement() { h.connect.Do(func() { close(h.connected) }) }

// settle waits while an actor moves.
func (h *hosting) settle(ctx context.Context, actorType, id string) error {
	if h.placement == nil {
		return nil
	}
	_, err := h.placement.Lookup(ctx, actorType, id)
	return err
}

// settled is told the actor types in force: only now the scheduler may send their reminders.
func (s *Sidecar) settled(types []string) {
	s.hosting.accept(func(a *scheduler.Accept) { a.ActorTypes = types })
	s.hosting.migration.Settled(types)
}

// accept changes what the scheduler may send.
func (h *hosting) accept(change func(*scheduler.Accept)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.accepted)
	if !h.left {
		h.scheduler.Accept(h.accepted)
	}
}

// trigger handles what the scheduler sends.
func (s *Sidecar) trigger(ctx context.Context, job *schedulerv1.WatchJobsResponse) schedulerv1.WatchJobsRequestResultStatus {
	switch target := job.GetMetadata().GetTarget().GetType().(type) {
	case *schedulerv1.JobTargetMetadata_Job:
		return s.hosting.jobs.Trigger(ctx, job)
	case *schedulerv1.JobTargetMetadata_Actor:
		return s.hosting.reminders.Trigger(ctx, job)
	default:
		s.log.Error(fmt.Sprintf("the scheduler triggered %q for an unknown target %T; it is refused", job.GetName(), target))
		return schedulerv1.WatchJobsRequestResultStatus_FAILED
	}
}

// withdrawTimeout bounds the end of the actors of an app that is not healthy.
const withdrawTimeout = 30 * time.Second

// hostApp registers what the app hosts, and asks it for that the first time (Dapr API, actors: registration). Also an app
// that hosts nothing, and no app, are registered: callers wait for that.
func (s *Sidecar) hostApp(ctx context.Context) {
	h := s.hosting
	if h.app == nil {
		hosts := s.discoverActors(ctx)
		h.app = &hosts
	}
	h.accept(func(a *scheduler.Accept) { a.Jobs = true })
	if h.withdraw != nil {
		return
	}
	withdraw, err := h.runtime.Register(*h.app)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("the app's actors cannot be hosted", "error", err)
		}
		return
	}
	h.withdraw = withdraw
	h.connectPlacement()
}

// dropApp takes back what the app hosts, because it is not healthy.
func (s *Sidecar) dropApp(ctx context.Context) {
	h := s.hosting
	h.accept(func(a *scheduler.Accept) { a.Jobs = false })
	if h.withdraw == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, withdrawTimeout)
	defer cancel()
	h.withdraw(ctx)
	h.withdraw = nil
}

// discoverActors asks the app for its configuration.
func (s *Sidecar) discoverActors(ctx context.Context) actors.Hosting {
	o := &s.options
	if s.channel == nil || s.grpcApp() || slices.Contains(o.DisableInitEndpoints, "config") {
		return actors.Hosting{}
	}
	ctx, cancel := context.WithTimeout(ctx, appConfigTimeout)
	defer cancel()
	host := apphost.NewHTTP(apphost.HTTPOptions{Channel: s.channel, AppID: o.AppID, Namespace: s.namespace(), MaxBodyBytes: o.MaxBodySize})
	hosts := host.Discover(ctx, apphost.ConfigOptions{DisseminateTimeout: o.ActorsDisseminateTimeout, Log: logging.Scope(o.Log, logging.ScopeActor)})
	if hosts.Host != nil {
		hosts.Host = s.hosting.reminders.Host(hosts.Host)
	}
	return hosts
}

// streamHosts lets the app host actors by streams.
type streamHosts struct{ *hosting }

// SubscribeActorEventsAlpha1 implements actors.Streams.
func (h streamHosts) SubscribeActorEventsAlpha1(stream grpc.BidiStreamingServer[runtimev1.SubscribeActorEventsRequestAlpha1, runtimev1.SubscribeActorEventsResponseAlpha1]) error {
	return h.streams.Serve(stream, func(offer actors.Hosting) (func(context.Context), error) {
		if h.placement == nil { // an offer to nobody
			return func(context.Context) {}, nil
		}
		offer.Host = h.reminders.Host(offer.Host)
		withdraw, err := h.runtime.Register(offer)
		h.connectPlacement()
		return withdraw, err
	})
}

// actorStore tells whether a state store is the one for actors (Dapr API, actors: state store).
func actorStore(properties map[string]string) bool {
	for name, value := range properties {
		if strings.EqualFold(name, "actorStateStore") {
			return components.Truthy(value)
		}
	}
	return false
}

// addActorStore makes a state store the one for actors, when it is meant to be.
func (h *hosting) addActorStore(ctx context.Context, name string, store statestores.Store, properties map[string]string) error {
	if h == nil || h.placement == nil || !actorStore(properties) {
		return nil
	}
	if err := h.state.SetStore(ctx, name, store); err != nil {
		return err
	}
	h.runtime.SetStore(true)
	h.mu.Lock()
	left := h.left
	h.mu.Unlock()
	if left { // the sidecar began to end meanwhile
		h.runtime.SetStore(false)
	}
	return nil
}

// endActorsOf ends all actors, if a state store is theirs: they end before it is taken out, unless [hosting.replaceActorStore] keeps them for its
// next version.
func (h *hosting) endActorsOf(name string) {
	if h != nil && h.state.Store() == name && !h.keeps(name) {
		h.runtime.SetStore(false)
	}
}

// removeActorStore takes a state store out, if it is the one for actors, and waits for the calls in hand.
func (h *hosting) removeActorStore(ctx context.Context, name string) error {
	switch {
	case h == nil:
		return nil
	case h.keeps(name):
		return h.state.HoldStore(ctx, name)
	}
	return h.state.RemoveStore(ctx, name)
}

func (h *hosting) keeps(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.kept == name
}

// replaceActorStore says that a state store which is removed now comes again, so that its actors stay and only wait for it. done is to be called
// when it has come, or not.
func (h *hosting) replaceActorStore(name string) (done func()) {
	if h == nil {
		return func() {}
	}
	h.mu.Lock()
	h.kept = name
	h.mu.Unlock()
	return func() {
		h.mu.Lock()
		h.kept = ""
		h.mu.Unlock()
		if h.state.Release() {
			return
		}
		h.runtime.SetStore(false)
	}
}
