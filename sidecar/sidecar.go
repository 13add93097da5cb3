package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"outrigger.dev/app"
	"outrigger.dev/blocks/bindings"
	"outrigger.dev/blocks/invoke"
	"outrigger.dev/blocks/outbox"
	"outrigger.dev/blocks/pubsub"
	"outrigger.dev/components"
	"outrigger.dev/identity/workload"
	"outrigger.dev/mesh"
	"outrigger.dev/resiliency"
	"outrigger.dev/resource"
	"outrigger.dev/sidecar/pipeline"
	"outrigger.dev/telemetry/health"
	"outrigger.dev/telemetry/logging"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/tracing/export"
)

// Errors that end Run in a way the process has to answer with exit code 1.
var (
	// ErrShutdownTimeout says that the graceful period was over before everything had ended.
	//
	//lint:ignore ST1005 the log line that Dapr ends with, word for word
	ErrShutdownTimeout = errors.New("Graceful shutdown timeout exceeded, forcing shutdown")
	// ErrForced says that an immediate end was asked for by the shutdown API.
	ErrForced = errors.New("forced shutdown requested")

	errShutdownAPI = errors.New("shutdown requested")
)

// Sidecar is one sidecar. It runs once.
type Sidecar struct {
	options Options
	log     *slog.Logger
	config  *resource.Configuration
	// resources are replaced as a whole by hot reload.
	resources  atomic.Pointer[resource.Set]
	source     source
	reloader   *reloader
	identity   *workload.Source // nil without mTLS
	features   []string
	metrics    *metrics.Metrics
	traces     *export.Provider
	health     *health.Registry
	outbound   atomic.Bool
	extended   extended
	loader     *loader
	invoke     *invoke.Block
	pubsub     *pubsub.PubSub
	resiliency *resiliency.Engine
	// middlewares are the loaded HTTP middlewares; appPipeline those around calls to the app, nil when the Configuration names none.
	middlewares *pipeline.Middlewares
	appPipeline app.Pipeline
	bindings    *bindings.Bindings
	outbox      *outbox.Outbox
	hosting     *hosting

	channel   app.Channel
	endpoints endpoints
	resolver  *mesh.Resolver
	peers     *mesh.Client

	httpListeners, grpcListeners []net.Listener
	publicListener, internal     net.Listener

	ready   chan struct{} // closed when the APIs answer
	ended   chan struct{} // closed by stop
	endOnce sync.Once
	reason  error
	tasks   sync.WaitGroup
}

// New makes a sidecar; nothing runs and nothing is opened yet. It refuses options that contradict themselves.
func New(o Options) (*Sidecar, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	// Pluggable components are this sidecar's alone.
	o.Registry = o.Registry.Clone()
	s := &Sidecar{options: o, log: logging.Scope(o.Log, logging.ScopeRuntime), health: health.New(), ready: make(chan struct{}), ended: make(chan struct{})}
	s.resources.Store(&resource.Set{})
	return s, nil
}

// stop ends Run for a reason; only the first call counts.
func (s *Sidecar) stop(reason error) {
	s.endOnce.Do(func() {
		s.reason = reason
		close(s.ended)
	})
}

// Ready is closed when the APIs answer and calls can go out: what /v1.0/healthz/outbound tells.
func (s *Sidecar) Ready() <-chan struct{} { return s.ready }

// Healthy reports whether the whole sidecar is ready, as /v1.0/healthz does, and if not, which parts are missing.
func (s *Sidecar) Healthy() (bool, []string) { return s.health.Status() }

// HTTPAddress is the address of the HTTP API, valid once Ready.
func (s *Sidecar) HTTPAddress() string { return s.httpListeners[0].Addr().String() }

// GRPCAddress is the address of the gRPC API, valid once Ready.
func (s *Sidecar) GRPCAddress() string { return s.grpcListeners[0].Addr().String() }

// InternalAddress is the address other sidecars reach this one at, valid once Ready.
func (s *Sidecar) InternalAddress() string { return s.internal.Addr().String() }

// PublicAddress is the address of the public port, "" if there is none; valid once Ready.
func (s *Sidecar) PublicAddress() string {
	if s.publicListener == nil {
		return ""
	}
	return s.publicListener.Addr().String()
}

// Run brings the sidecar up and serves until ctx ends, the shutdown API is called or something fatal happens, and then
// brings it down within the graceful period. It returns nil after a clean end.
func (s *Sidecar) Run(ctx context.Context) error {
	start := s.options.Clock.Now()
	run, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stopOnEnd := context.AfterFunc(ctx, func() {
		s.blockShutdown()
		s.stop(nil)
	})
	defer stopOnEnd()
	// Starting is broken off when the end comes meanwhile.
	starting, started := context.WithCancel(run)
	defer started()
	s.tasks.Go(func() {
		select {
		case <-s.ended:
			started()
		case <-starting.Done():
		}
	})
	down := &teardown{}
	err := s.up(starting, down, start)
	if err != nil {
		select {
		case <-s.ended:
			if s.reason == nil || errors.Is(s.reason, errShutdownAPI) {
				err = nil // the end was asked for while starting
			}
		default:
		}
		s.stop(err)
	}
	<-s.ended
	started()
	if errors.Is(s.reason, ErrForced) {
		return ErrForced
	}
	downErr := s.down(down)
	switch {
	case err != nil:
		return err
	case s.reason != nil && !errors.Is(s.reason, errShutdownAPI):
		return s.reason
	default:
		return downErr
	}
}

// blockShutdown keeps everything running for the blocking period, or until the app is not healthy.
func (s *Sidecar) blockShutdown() {
	d := s.options.BlockShutdown
	if d <= 0 {
		return
	}
	select {
	case <-s.ready:
	default: // still starting: there is nothing to go on with
		return
	}
	s.log.Info(fmt.Sprintf("Blocking graceful shutdown for %s or until app reports unhealthy...", d))
	var stopping sync.WaitGroup
	stopping.Go(func() { s.pubsub.Stop(context.Background(), true) })
	stopping.Go(func() { s.endBindings(context.Background()) })
	stopping.Wait()
	timer := s.options.Clock.NewTimer(d)
	defer timer.Stop()
	unhealthy := s.appUnhealthy()
	select {
	case <-timer.Chan():
		s.log.Info("Block shutdown period expired, entering shutdown...")
	case <-unhealthy:
		s.log.Info("App reported unhealthy, entering shutdown...")
	case <-s.ended:
	}
}

// teardown collects what has to be undone, in the order it is to be undone.
type teardown struct {
	quiet  []func(context.Context)       // before that: take nothing new from outside, side by side
	drain  []func(context.Context) error // stop serving: side by side
	close  []func(context.Context) error // then, one after the other, in reverse order of being added
	notice []func()                      // first of all: tell the world
}

// up starts everything, in the order of the Dapr API (start-up).
func (s *Sidecar) up(ctx context.Context, down *teardown, start time.Time) error {
	o := &s.options
	targets := map[string]*health.Target{}
	for _, name := range []string{health.MetricsExporter, health.GRPCAPIServer, health.GRPCInternalServer, health.Runtime} {
		targets[name] = s.health.Target(name)
	}
	down.notice = append(down.notice, targets[health.GRPCAPIServer].NotReady, targets[health.GRPCInternalServer].NotReady)
	if err := s.secure(ctx, down); err != nil {
		return err
	}
	if err := s.openSource(ctx); err != nil {
		return err
	}
	down.close = append(down.close, func(context.Context) error { return s.source.close() })
	host, err := s.hostAddress()
	if err != nil {
		return err
	}
	if s.internal, err = s.bindInternal(ctx); err != nil {
		return fmt.Errorf("failed to start internal gRPC server: %w", err)
	}
	down.close = append(down.close, func(context.Context) error { return ignoreClosed(s.internal.Close()) })
	s.publishEnv(host)
	// The last thing to close: until then there are spans.
	down.close = append(down.close, func(ctx context.Context) error { return s.traces.Close(ctx) })
	if err := s.configure(ctx); err != nil {
		return err
	}
	if err := s.serveMetrics(down); err != nil {
		return err
	}
	targets[health.MetricsExporter].Ready()

	if err := s.bindFree(ctx, down); err != nil {
		return err
	}
	namespace := s.namespace()
	identity := components.Sidecar{
		AppID: o.AppID, Identity: s.identitySource(), Namespace: namespace, HostAddress: host, InternalPort: port(s.internal), AppPort: o.AppPort,
		HTTPPort: s.apiPort(s.httpListeners, o.HTTPPort), GRPCPort: s.apiPort(s.grpcListeners, o.GRPCPort),
	}
	s.openResolver(ctx, identity, down)
	s.openBlocks(ctx, namespace, identity, down)
	s.peers = mesh.NewClient(mesh.ClientOptions{MaxBodySize: o.MaxBodySize, Security: s.security(), Dial: o.Dial, Log: s.log, Metrics: s.metrics, Clock: o.Clock})
	down.close = append(down.close, func(context.Context) error { s.peers.Close(); return nil })
	s.openActors(identity, host)
	s.loader.hosting = s.hosting
	if err := s.loader.load(ctx, s.resources.Load().Components); err != nil {
		return err
	}
	s.middlewares.Ready()
	s.warnUnusedScopes()
	if err := s.declareSubscriptions(); err != nil {
		return err
	}
	down.quiet = append(down.quiet, func(ctx context.Context) {
		s.outbox.Stop(ctx)
		s.pubsub.Stop(ctx, false)
	}, s.endBindings)
	if err := s.openInvocation(ctx, identity, host, down); err != nil {
		return err
	}
	if err := s.serveAPIs(ctx, down, targets); err != nil {
		return err
	}
	s.serveInternal(down)
	targets[health.GRPCInternalServer].Ready()
	s.startActors(ctx, down)
	if s.reloader != nil {
		s.reloader.ready()
		s.tasks.Go(func() { s.reloader.follow(ctx) })
	}
	s.outbound.Store(true)
	close(s.ready)
	s.tasks.Go(func() { s.awaitApp(ctx, start, targets[health.Runtime]) })
	// The calls above use ctx only while starting; from here on it lives until the end.
	<-s.ended
	return nil
}

// afterTimeout is how long what was broken off at the end of the graceful period may take to notice.
const afterTimeout = 2 * time.Second

// down undoes what up did. It is done when everything has ended, or soon after the graceful period is over: a component that
// does not close cannot hold the sidecar.
func (s *Sidecar) down(t *teardown) error {
	s.log.Info("Dapr is shutting down")
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if s.options.GracefulShutdown > 0 {
		ctx, cancel = context.WithTimeout(ctx, s.options.GracefulShutdown)
	}
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := s.undo(ctx, t)
		s.tasks.Wait()
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	patience := time.NewTimer(afterTimeout)
	defer patience.Stop()
	select {
	case <-ended:
	case <-patience.C:
		s.log.Warn("something did not end when it was broken off; it is left behind")
	}
	return ErrShutdownTimeout
}

// undo tells the world, lets running calls finish, and then closes what they used.
func (s *Sidecar) undo(ctx context.Context, t *teardown) error {
	for _, f := range t.notice {
		f()
	}
	s.quieten(ctx, t)
	var draining sync.WaitGroup
	errs := make([]error, len(t.drain))
	for i, f := range t.drain {
		draining.Go(func() { errs[i] = f(ctx) })
	}
	draining.Wait()
	for i := len(t.close) - 1; i >= 0; i-- {
		if err := t.close[i](ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("something did not close cleanly", "error", err)
		}
	}
	s.log.Info("Dapr runtime stopped")
	if ctx.Err() != nil {
		return ErrShutdownTimeout
	}
	if err := errors.Join(errs...); err != nil {
		s.log.Debug("draining", "error", err)
	}
	return nil
}

// quietShare is how much of the graceful period the messages may take that the app has when the end comes. The app can still
// call the sidecar in that time.
const quietShare = 0.7

func (s *Sidecar) endBindings(ctx context.Context) {
	if err := s.bindings.Shutdown(ctx); err != nil {
		s.log.Warn("events of input bindings were still with the app; they were broken off", "error", err)
	}
}

func (s *Sidecar) quieten(ctx context.Context, t *teardown) {
	if end, bounded := ctx.Deadline(); bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(quietShare*float64(time.Until(end))))
		defer cancel()
	}
	var group sync.WaitGroup
	for _, f := range t.quiet {
		group.Go(func() { f(ctx) })
	}
	group.Wait()
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
