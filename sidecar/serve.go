package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strconv"
	"time"

	"outrigger.dev/api"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/blocks/actors"
	"outrigger.dev/blocks/bindings"
	"outrigger.dev/blocks/invoke"
	"outrigger.dev/blocks/jobs"
	"outrigger.dev/blocks/pubsub"
	"outrigger.dev/blocks/secrets"
	"outrigger.dev/blocks/state"
	"outrigger.dev/mesh"
	"outrigger.dev/sidecar/server"
	"outrigger.dev/telemetry/health"
	"outrigger.dev/telemetry/logging"
)

func (s *Sidecar) serveMetrics(down *teardown) error {
	o := &s.options
	if !o.EnableMetrics {
		return nil
	}
	l, err := o.Listen("tcp", net.JoinHostPort(unbracket(o.MetricsListenAddress), strconv.Itoa(o.MetricsPort)))
	if err != nil {
		return fmt.Errorf("failed to listen on %s:%d: %w; choose another --metrics-port or switch metrics off with --enable-metrics=false", o.MetricsListenAddress, o.MetricsPort, err)
	}
	s.serveHTTP(&http.Server{Handler: s.metrics.Handler(), WriteTimeout: sideWriteTimeout}, l, down)
	return nil
}

// scrapePatience is how long a scrape of the metrics, or a profile, may take after the end has come (Dapr API, shutdown: metrics
// server).
const scrapePatience = 5 * time.Second

// The limits of the side listeners.
const (
	sideReadTimeout  = 10 * time.Second // of a header, and of a body that nobody wants
	sideWriteTimeout = time.Minute
	sideIdleTimeout  = 3 * time.Minute
	sideHeaderBytes  = 16 << 10
)

// serveHTTP serves one of the side listeners with the standard library, whose clients may not cost more than a request of theirs
// is worth. What is asked there has no body, or a short one.
func (s *Sidecar) serveHTTP(h *http.Server, l net.Listener, down *teardown) {
	h.ReadHeaderTimeout, h.IdleTimeout, h.MaxHeaderBytes = sideReadTimeout, sideIdleTimeout, sideHeaderBytes
	handler := h.Handler
	h.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(sideReadTimeout)) // it can be set on all connections
		}
		handler.ServeHTTP(w, r)
	})
	h.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	s.tasks.Go(func() {
		if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("a listener stopped serving", "address", l.Addr().String(), "error", err)
		}
	})
	down.drain = append(down.drain, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, scrapePatience)
		defer cancel()
		if err := h.Shutdown(ctx); err != nil {
			return h.Close()
		}
		return nil
	})
}

// bindFree binds the APIs early when their ports are to be chosen by the system, so that everything can know them.
func (s *Sidecar) bindFree(ctx context.Context, down *teardown) (err error) {
	o := &s.options
	if o.UnixDomainSocket != "" {
		return nil
	}
	if o.HTTPPort == 0 {
		if s.httpListeners, err = s.bindAPI(ctx, "http", 0); err != nil {
			return fmt.Errorf("failed to start HTTP server: %w", err)
		}
	}
	if o.GRPCPort == 0 {
		if s.grpcListeners, err = s.bindAPI(ctx, "grpc", 0); err != nil {
			return fmt.Errorf("failed to start API gRPC server: %w", err)
		}
	}
	// Their servers close them too, if starting gets that far.
	for _, l := range slices.Concat(s.httpListeners, s.grpcListeners) {
		down.close = append(down.close, func(context.Context) error { return ignoreClosed(l.Close()) })
	}
	return nil
}

func (s *Sidecar) apiPort(bound []net.Listener, wanted int) int {
	if len(bound) > 0 {
		return port(bound[0])
	}
	return wanted
}

// daprServer puts the gRPC faces of the blocks together; methods of blocks that do not exist yet are the embedded default's
// and refused before they get there.
type daprServer struct {
	state.StateServer
	secrets.SecretsServer
	invoke.InvokeServer
	pubsub.PubsubServer
	bindings.BindingsServer
	actors.ActorsServer
	jobs.JobsServer
	statusServer
	unbuiltServer
}

// unbuiltServer lies one level deeper than the faces, so that their methods win.
type unbuiltServer struct {
	runtimev1.UnimplementedDaprServer
}

// serveAPIs starts the gRPC API, then the HTTP API, the public port and profiling.
func (s *Sidecar) serveAPIs(ctx context.Context, down *teardown, targets map[string]*health.Target) (err error) {
	o := &s.options
	var apiLog *server.APILog
	logged := s.config.Spec.Logging.APILogging
	enabled := o.EnableAPILogging
	if enabled == nil {
		enabled = logged.Enabled
	}
	if enabled != nil && *enabled {
		apiLog = &server.APILog{
			HTTP:          logging.Always(logging.Scope(o.Log, logging.ScopeHTTPInfo)),
			GRPC:          logging.Always(logging.Scope(o.Log, logging.ScopeGRPCInfo)),
			ObfuscateURLs: logged.ObfuscateURLs, OmitHealthChecks: logged.OmitHealthChecks, InvokeTarget: invoke.Target,
			OmitActorIDs: !s.config.EffectiveMetrics().IncreasedCardinality,
		}
	}
	if s.grpcListeners == nil {
		if s.grpcListeners, err = s.bindAPI(ctx, "grpc", o.GRPCPort); err != nil {
			return fmt.Errorf("failed to start API gRPC server: %w", err)
		}
	}
	grpcServer := server.NewGRPC(server.GRPCOptions{
		Proxy:   s.invoke.Proxy,
		Dapr:    &daprServer{StateServer: s.loader.state.Server(), SecretsServer: s.loader.secrets.Server(), InvokeServer: invoke.NewServer(s.invoke), PubsubServer: s.pubsub.Server(), BindingsServer: s.bindings.Server(), ActorsServer: s.hosting.service.Server(), JobsServer: s.hosting.jobs.Server(), statusServer: statusServer{s}},
		Unbuilt: unbuiltMethods(), Token: o.APIToken, Access: s.config.Spec.API.GRPC(), MaxMessageBytes: int(o.MaxBodySize),
		MaxHeaderBytes: uint32(min(o.ReadBufferSize*1024, 1<<31)), AppID: o.AppID, Tracer: s.traces.Tracer(), APILog: apiLog, Metrics: s.metrics, Log: logging.Scope(o.Log, logging.ScopeGRPC),
	})
	down.drain = append(down.drain, func(ctx context.Context) error { grpcServer.Shutdown(ctx); return nil })
	for _, l := range s.grpcListeners {
		s.tasks.Go(func() {
			if err := grpcServer.Serve(l); err != nil {
				s.stop(fmt.Errorf("gRPC API server failed: %w", err))
			}
			removeSocket(l)
		})
	}
	s.log.Info(fmt.Sprintf("gRPC server is running on port %d", s.apiPort(s.grpcListeners, o.GRPCPort)))
	targets[health.GRPCAPIServer].Ready()

	if s.httpListeners == nil {
		if s.httpListeners, err = s.bindAPI(ctx, "http", o.HTTPPort); err != nil {
			return fmt.Errorf("failed to start HTTP server: %w", err)
		}
	}
	httpLog := logging.Scope(o.Log, logging.ScopeHTTP)
	routes, fallback := s.routes()
	httpOptions := server.HTTPOptions{
		Routes: routes, Fallback: fallback, Pipeline: s.serverPipeline(), Token: o.APIToken, AllowedOrigins: o.AllowedOrigins, Tracer: s.traces.Tracer(), MaxBodyBytes: o.MaxBodySize,
		MaxHeaderBytes: headerBytes(o.ReadBufferSize), H2C: !o.DisableH2C, APILog: apiLog, Metrics: s.metrics, Log: httpLog,
	}
	s.serveListeners(server.NewHTTP(httpOptions), s.httpListeners, down)
	s.log.Info(fmt.Sprintf("HTTP server is running on port %d", s.apiPort(s.httpListeners, o.HTTPPort)))
	if o.PublicPort > 0 {
		if s.publicListener, err = o.Listen("tcp", net.JoinHostPort(unbracket(o.PublicListenAddress), strconv.Itoa(o.PublicPort))); err != nil {
			return fmt.Errorf("failed to start public HTTP server: %w; end what holds the address, or choose another --dapr-public-port", err)
		}
		var public []*api.Route
		for _, r := range routes {
			if r.Public {
				public = append(public, r)
			}
		}
		s.serveListeners(server.NewHTTP(server.HTTPOptions{Routes: public, Tracer: s.traces.Tracer(), MaxBodyBytes: max(o.MaxBodySize, publicBody), MaxHeaderBytes: headerBytes(o.ReadBufferSize), Metrics: s.metrics, Log: httpLog}), []net.Listener{s.publicListener}, down)
	}
	return s.serveProfiling(down)
}

// publicBody is the least limit on bodies of the public port, in bytes: a value of the metadata is all that is sent there. The port
// needs no token, so it has a limit also where the API has none.
const publicBody = 4 << 20

// serverPipeline are the middlewares around the HTTP API; nil when the Configuration names none.
func (s *Sidecar) serverPipeline() server.Pipeline {
	if c := s.middlewares.Chain("spec.httpPipeline", s.config.Spec.HTTPPipeline.Handlers); c != nil {
		return c
	}
	return nil
}

// headerBytes is the limit of a request's header: the flag's value and some slack; 0 is Go's default.
func headerBytes(readBuffer int64) int {
	if readBuffer == 0 {
		return 1 << 20
	}
	return int(readBuffer) + 4096
}

func (s *Sidecar) serveListeners(h *server.HTTP, listeners []net.Listener, down *teardown) {
	for _, l := range listeners {
		s.tasks.Go(func() {
			if err := h.Serve(l); err != nil {
				s.stop(fmt.Errorf("HTTP API server failed: %w", err))
			}
			removeSocket(l)
		})
	}
	down.drain = append(down.drain, h.Shutdown)
}

// routes are the endpoints that the allow and deny lists leave, and the one that takes every other call.
func (s *Sidecar) routes() (routes []*api.Route, fallback *api.Route) {
	all := s.ownRoutes()
	for _, block := range [][]api.Route{s.loader.state.Routes(), s.loader.secrets.Routes(), s.pubsub.Routes(), s.bindings.Routes(), s.hosting.service.Routes(), s.hosting.jobs.Routes()} {
		for i := range block {
			all = append(all, &block[i])
		}
	}
	all = append(all, unbuiltRoutes()...)
	for _, r := range all {
		if s.config.Spec.API.HTTPServed(r.Group, r.Path) {
			routes = append(routes, r)
		}
	}
	if r := s.invoke.Route(); s.config.Spec.API.HTTPServed(r.Group, r.Path) {
		fallback = r
	}
	return routes, fallback
}

func (s *Sidecar) serveProfiling(down *teardown) error {
	o := &s.options
	if !o.EnableProfiling {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	bound := 0
	var errs []error
	for _, host := range o.ListenAddresses {
		l, err := o.Listen("tcp", net.JoinHostPort(unbracket(host), strconv.Itoa(o.ProfilePort)))
		if err != nil {
			s.log.Warn("the profiling port could not be bound", "address", host, "port", o.ProfilePort, "error", err)
			errs = append(errs, err)
			continue
		}
		bound++
		s.serveHTTP(&http.Server{Handler: mux}, l, down) // a profile takes as long as its client wants
	}
	if bound == 0 {
		return fmt.Errorf("could not listen on any endpoint for profiling API: %w; choose another --profile-port", errors.Join(errs...))
	}
	return nil
}

// serveInternal serves calls of other sidecars.
func (s *Sidecar) serveInternal(down *teardown) {
	o := &s.options
	m := mesh.NewServer(mesh.ServerOptions{
		Handler: s.invoke.Receive, Proxy: s.invoke.ReceiveProxied, Actors: s.hosting.runtime, AppID: o.AppID, Security: s.security(), MaxBodySize: o.MaxBodySize, ReadBufferSize: int(o.ReadBufferSize),
		Log: logging.Scope(o.Log, logging.ScopeGRPCInternal), Metrics: s.metrics,
	})
	s.tasks.Go(func() {
		if err := m.Serve(s.internal); err != nil {
			s.stop(fmt.Errorf("internal gRPC server failed: %w", err))
		}
	})
	down.drain = append(down.drain, m.Shutdown)
	s.log.Info(fmt.Sprintf("Internal gRPC server is running on port %d", port(s.internal)))
}
