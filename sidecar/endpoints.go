package sidecar

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"outrigger.dev/app"
	"outrigger.dev/invocation"
)

// endpoints are the channels to HTTPEndpoint resources and absolute URLs, which hot reload replaces as a whole.
type endpoints struct {
	now atomic.Pointer[app.External]
}

// BaseURL implements invoke.External.
func (e *endpoints) BaseURL(name string) (string, bool) {
	return e.now.Load().BaseURL(name)
}

// Invoke implements invoke.External.
func (e *endpoints) Invoke(ctx context.Context, target string, req *invocation.Request) (*invocation.Response, error) {
	for {
		x := e.now.Load()
		resp, err := x.Invoke(ctx, target, req)
		// A call that came just when the channels were replaced was not made yet.
		if errors.Is(err, app.ErrClosed) && e.now.Load() != x {
			continue
		}
		return resp, err
	}
}

// Close closes the present channels.
func (e *endpoints) Close(ctx context.Context) error { return e.now.Load().Close(ctx) }

// openEndpoints makes the channels to HTTPEndpoint resources, whose secrets are resolved now that the stores are there.
func (s *Sidecar) openEndpoints(ctx context.Context) (*app.External, error) {
	options := s.externalOptions()
	for _, e := range s.resources.Load().HTTPEndpoints {
		resolved, problems, err := s.loader.resolver.HTTPEndpoint(ctx, e)
		reportProblems(s.log, problems)
		if err != nil {
			s.log.Warn(fmt.Sprintf("HTTPEndpoint %s is not loaded: %s", e.Metadata.Name, err))
			continue
		}
		options.Endpoints = append(options.Endpoints, resolved)
	}
	return app.NewExternal(options)
}

// externalOptions are those of the channels to what is outside, without endpoints.
func (s *Sidecar) externalOptions() app.ExternalOptions {
	o := &s.options
	return app.ExternalOptions{MaxConcurrency: o.AppMaxConcurrency, MaxBodySize: o.MaxBodySize, Pipeline: s.appPipeline, Log: s.log, Metrics: s.metrics}
}

// swapEndpoints puts new channels in the place of the present ones; calls in hand may finish, within a bound.
func (s *Sidecar) swapEndpoints(ctx context.Context) error {
	external, err := s.openEndpoints(ctx)
	if err != nil {
		return err
	}
	old := s.endpoints.now.Swap(external)
	if old == nil {
		return nil
	}
	s.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), swapPatience)
		defer cancel()
		if err := old.Close(ctx); err != nil {
			s.log.Warn("calls of an HTTPEndpoint that was changed were broken off", "error", err)
		}
	})
	return nil
}
