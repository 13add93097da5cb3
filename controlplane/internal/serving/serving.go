// Package serving is what the services of the control plane have in common when they run: tasks that end together, listeners, HTTP and gRPC
// servers with bounds on everything that a client decides, the health and metrics ports, and the identity of the service.
//
//	g := serving.NewGroup(ctx, "placement", log)
//	defer g.Close()
//	err := start(g) // g.Listen, g.Observe, g.Go, ...
//	return g.Wait(err)
package serving

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"outrigger.dev/telemetry/health"
)

// Health targets that all services have (Dapr API, control plane: readiness).
const (
	TargetHealthz = "healthz-server"
	TargetMetrics = "metrics-server"
)

// Address is where a server listens: all addresses if Host is empty, a free port if Port is 0.
type Address struct {
	Host string
	Port int
}

// Group is the tasks and listeners of one running service. The first task that fails ends all.
type Group struct {
	// Name is the service's, in lower case.
	Name   string
	Health *health.Registry
	Log    *slog.Logger

	outer, ctx context.Context
	tasks      *errgroup.Group
	listeners  []net.Listener
}

// NewGroup is a group without tasks that ends with ctx.
func NewGroup(ctx context.Context, name string, log *slog.Logger) *Group {
	g := &Group{Name: name, Health: health.New(), Log: log, outer: ctx}
	g.tasks, g.ctx = errgroup.WithContext(ctx)
	return g
}

// Context ends when the service does: by its caller, or by the first task that fails.
func (g *Group) Context() context.Context { return g.ctx }

// Go runs a task. It has to return when the context that it gets has ended.
func (g *Group) Go(task func(ctx context.Context) error) {
	g.tasks.Go(func() error { return task(g.ctx) })
}

// WhenReady has f called, as a task, once all health targets are ready; it is not if the service ends before.
func (g *Group) WhenReady(f func()) {
	g.Go(func(ctx context.Context) error {
		if g.Health.Wait(ctx) == nil {
			f()
		}
		return nil
	})
}

// Wait waits for the end of all tasks. err is why the service could not be started, nil if it could: then an end of the group's outer context
// is no error.
func (g *Group) Wait(err error) error {
	if err != nil {
		// The context of the group has to end for what already runs.
		g.tasks.Go(func() error { return err })
	}
	if err := g.tasks.Wait(); err != nil && g.outer.Err() == nil {
		return err
	}
	return nil
}

// Close closes the listeners that no server has taken over; closing twice does no harm.
func (g *Group) Close() {
	for _, l := range g.listeners {
		l.Close()
	}
}

// Listen takes a port over TCP. what names it in the error, such as "gRPC".
func (g *Group) Listen(what string, a Address) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(g.ctx, "tcp", net.JoinHostPort(a.Host, strconv.Itoa(a.Port)))
	if err != nil {
		return nil, fmt.Errorf("the %s port %d is not to be had: %w; stop what holds it, or choose another", what, a.Port, err)
	}
	g.listeners = append(g.listeners, listener)
	return listener, nil
}

// ServeHTTP serves a handler on a listener, as a task.
func (g *Group) ServeHTTP(listener net.Listener, handler http.Handler) {
	g.Go(func(ctx context.Context) error { return ServeHTTP(ctx, g.Name, listener, handler, g.Log) })
}

// ServeGRPC serves a gRPC server on a listener, as a task.
func (g *Group) ServeGRPC(server *grpc.Server, listener net.Listener) {
	g.Go(func(ctx context.Context) error { return ServeGRPC(ctx, server, listener) })
}

// Observed says where a service shows how it is.
type Observed struct {
	Healthz        Address
	MetricsEnabled bool
	Metrics        Address
}

// Observe starts the health port, which serves routes too (patterns of [http.ServeMux]), and the metrics port. It returns where they listen;
// without metrics the second address is nil.
func (g *Group) Observe(o Observed, metrics http.Handler, routes map[string]http.Handler) (healthz, metricsAt net.Addr, err error) {
	target := g.Health.Target(TargetHealthz)
	if o.MetricsEnabled {
		g.Health.Target(TargetMetrics)
	}
	listener, err := g.Listen("healthz", o.Healthz)
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", Healthz(g.Health))
	for pattern, handler := range routes {
		mux.Handle(pattern, handler)
	}
	g.ServeHTTP(listener, mux)
	target.Ready()
	healthz = listener.Addr()
	if !o.MetricsEnabled {
		return healthz, nil, nil
	}
	if listener, err = g.Listen("metrics", o.Metrics); err != nil {
		return healthz, nil, err
	}
	g.ServeHTTP(listener, metrics)
	g.Health.Target(TargetMetrics).Ready()
	return healthz, listener.Addr(), nil
}
