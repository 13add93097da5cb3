package sidecar

import (
	"context"
	"fmt"
	"time"

	"outrigger.dev/app"
	"outrigger.dev/blocks/pubsub"
	"outrigger.dev/telemetry/health"
	"outrigger.dev/telemetry/logging"
)

// appOptions are the settings of the channel to the app.
func (s *Sidecar) appOptions() app.Options {
	o := &s.options
	options := app.Options{
		Protocol: app.Protocol(o.AppProtocol), Address: o.AppChannelAddress, Port: o.AppPort, MaxConcurrency: o.AppMaxConcurrency,
		MaxBodySize: o.MaxBodySize, ReadBufferSize: int(o.ReadBufferSize), APIToken: o.AppToken, AppID: o.AppID,
		Pipeline: s.appPipeline, Log: logging.Scope(o.Log, logging.ScopeAppHealth), Metrics: s.metrics,
	}
	if o.EnableAppHealthCheck {
		options.Health = &app.HealthOptions{
			Path: o.AppHealthCheckPath, Interval: o.AppHealthProbeInterval, Timeout: o.AppHealthProbeTimeout, Threshold: o.AppHealthThreshold, Clock: o.Clock,
		}
	}
	return options
}

// awaitApp waits until the app listens, and follows its health from then on until ctx ends (Dapr API, start-up: steps 16
// to 18).
func (s *Sidecar) awaitApp(ctx context.Context, start time.Time, target *health.Target) {
	o := &s.options
	if s.channel == nil {
		s.hostApp(ctx)
		s.outbox.Start()
		s.running(start, target)
		return
	}
	if err := app.WaitForPort(ctx, app.WaitOptions{Protocol: app.Protocol(o.AppProtocol), Address: o.AppChannelAddress, Port: o.AppPort, Log: s.log, Clock: o.Clock}); err != nil {
		return // the sidecar ends
	}
	// Without health checks the app counts as healthy now, and is asked before the sidecar calls itself ready.
	if !o.EnableAppHealthCheck {
		s.hostApp(ctx)
		select {
		case <-s.pubsub.StartApp():
		case <-ctx.Done():
			return
		}
		s.startBindings(ctx)
	}
	s.channel.Health().OnChange(func(healthy bool) {
		if !healthy {
			s.pubsub.StopApp()
			s.bindings.Stop()
			s.dropApp(ctx)
			return
		}
		s.hostApp(ctx)
		s.pubsub.StartApp()
		s.startBindings(ctx)
		s.outbox.Start()
	})
	s.running(start, target)
	s.channel.Health().Run(ctx)
}

// bindingsPatience is how long the input bindings may take to be tried once each before the sidecar goes on without them.
const bindingsPatience = 5 * time.Second

func (s *Sidecar) startBindings(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, bindingsPatience)
	defer cancel()
	s.bindings.Start(ctx, s.channel)
}

// declareSubscriptions hands the Subscription resources that are meant for this app to the block.
func (s *Sidecar) declareSubscriptions() error {
	var list []pubsub.Subscription
	for _, r := range s.resources.Load().Subscriptions {
		list = append(list, pubsub.FromResource(r))
	}
	return s.pubsub.Declare(list)
}

func (s *Sidecar) running(start time.Time, target *health.Target) {
	s.log.Info(fmt.Sprintf("dapr initialized. Status: Running. Init Elapsed %dms", s.options.Clock.Since(start).Milliseconds()))
	target.Ready()
}

// appConfigTimeout bounds asking the app for its configuration.
const appConfigTimeout = 30 * time.Second

// appUnhealthy is closed when the app is not healthy, at once when it never was or there is none; nil never.
func (s *Sidecar) appUnhealthy() <-chan struct{} {
	if s.channel == nil {
		return nil
	}
	healthy, changed := s.channel.Health().Watch()
	if !healthy {
		now := make(chan struct{})
		close(now)
		return now
	}
	return changed
}
