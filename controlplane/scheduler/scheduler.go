package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/anypb"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/internal/serving"
	"outrigger.dev/controlplane/scheduler/delivery"
	"outrigger.dev/controlplane/scheduler/engine"
	"outrigger.dev/controlplane/scheduler/etcd"
	"outrigger.dev/telemetry/health"
)

// Health targets of the process (Dapr API, scheduler: health).
const (
	targetServer     = "scheduler-server"
	targetEmbedded   = "scheduler-etcd-embed"
	targetExternal   = "scheduler-etcd-external"
	targetController = "scheduler-controller"
)

// How connections of sidecars are tried (Dapr API, scheduler: API).
const (
	keepaliveTime    = 3 * time.Second
	keepaliveTimeout = 5 * time.Second
	clientPings      = time.Second
)

// maxStreams is how many calls one connection may make at a time. A sidecar makes one for every job that it schedules.
const maxStreams = 1 << 20

// Run runs a scheduler service until the context ends, which is no error. An error names what could not be used: a port, an identity, a setting,
// the etcd.
func Run(ctx context.Context, o Options) error {
	o, err := o.normalised()
	if err != nil {
		return err
	}
	g := serving.NewGroup(ctx, "scheduler", o.Log)
	defer g.Close()
	r := &running{o: o, group: g, server: &server{o: o, metrics: newMetrics(), joined: make(chan struct{}), stopping: make(chan struct{})}}
	r.server.pool = delivery.New(delivery.Options{Observer: r.server.metrics, Clock: o.Clock})
	err = g.Wait(r.start())
	r.server.tasks.Wait()
	// The engine has left the group by now; etcd is the last to go.
	if r.store != nil {
		if closing := r.store.Close(); closing != nil {
			o.Log.Warn(closing.Error())
		}
	}
	return err
}

// running is a scheduler that runs.
type running struct {
	o      Options
	group  *serving.Group
	server *server
	store  *etcd.Store
	target string
	at     Addresses
}

// start starts all parts: first the ones that tell how it goes. The ports are taken before anything else, so that a port that is not free has
// no other consequence.
func (r *running) start() error {
	o, g := r.o, r.group
	r.target = targetEmbedded
	if o.External != nil {
		r.target = targetExternal
	}
	targets := []string{targetServer, r.target, health.SecurityProvider}
	if o.Namespaces != nil {
		targets = append(targets, targetController)
	}
	for _, target := range targets {
		g.Health.Target(target)
	}
	listener, err := g.Listen("gRPC", o.Listen)
	if err != nil {
		return err
	}
	r.at.GRPC = listener.Addr()
	broadcast := o.broadcast(listener.Addr())
	if r.at.Healthz, r.at.Metrics, err = g.Observe(o.Observed, r.server.metrics.handler(o.Embedded != nil), map[string]http.Handler{}); err != nil {
		return err
	}
	if err := o.Security.Start(g); err != nil {
		return err
	}
	g.Health.Target(health.SecurityProvider).Ready()

	if r.store, err = etcd.Open(r.etcd()); err != nil {
		return err
	}
	r.at.Etcd = r.store.ClientAddress()
	g.Go(r.store.Run)
	// Whoever calls before the engine is there waits for it.
	g.ServeGRPC(r.grpc(), listener)
	g.Go(func(ctx context.Context) error {
		<-ctx.Done()
		g.Health.Target(targetServer).NotReady()
		close(r.server.stopping)
		r.server.pool.Close()
		return nil
	})
	g.Go(func(ctx context.Context) error { return r.work(ctx, broadcast) })
	if o.Namespaces != nil {
		g.Go(func(ctx context.Context) error {
			return o.Namespaces.Run(ctx, g.Health.Target(targetController).Ready, r.server.deleteNamespace)
		})
	}
	g.WhenReady(func() {
		o.Log.Info(fmt.Sprintf("Scheduler service %s is running on %s and told to sidecars as %s", o.ID, r.at.GRPC, broadcast))
		if o.Started != nil {
			o.Started(r.at)
		}
	})
	return nil
}

// etcd is what the store is made from.
func (r *running) etcd() etcd.Options {
	o := etcd.Options{Embedded: r.o.Embedded, External: r.o.External, Log: r.o.Log, Clock: r.o.Clock}
	if o.Embedded != nil && r.o.Security.Enabled() {
		o.Embedded.Source = r.o.Security.Source()
		if o.Embedded.IdentityDir == "" {
			o.Embedded.IdentityDir = os.TempDir() + "/secrets/dapr.io/tls"
		}
		if o.Embedded.PeerDomain == "" {
			id := r.o.Security.ID()
			o.Embedded.PeerDomain = id.Namespace + ".svc." + id.TrustDomain
		}
	}
	return o
}

// work waits for the etcd and runs the engine on it until the context ends.
func (r *running) work(ctx context.Context, broadcast string) error {
	if err := r.store.Ready(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	r.group.Health.Target(r.target).Ready()
	replica, err := anypb.New(&schedulerv1.Host{Address: broadcast})
	if err != nil {
		return err
	}
	e, err := engine.New(engine.Options{
		Client: r.store.Client(), ID: r.o.ID, Replica: replica, Deliver: deliverer{r.server}, Workers: r.o.Workers,
		// The directory of an embedded etcd cannot be open twice.
		Takeover: r.o.Embedded != nil, Clock: r.o.Clock, Log: r.o.Log,
	})
	if err != nil {
		return err
	}
	r.server.engine = e
	r.group.Go(func(ctx context.Context) error {
		if e.Joined(ctx) == nil {
			close(r.server.joined)
			r.group.Health.Target(targetServer).Ready()
		}
		return nil
	})
	r.group.Go(func(ctx context.Context) error { return r.share(ctx, e, broadcast) })
	err = e.Run(ctx)
	if err == nil && ctx.Err() == nil {
		return errors.New("the engine of the scheduler ended without a reason")
	}
	return err
}

// share keeps the pool informed of how many instances share the concurrency limits (Dapr API, scheduler: concurrency limits).
func (r *running) share(ctx context.Context, e *engine.Engine, broadcast string) error {
	for {
		replicas, changed := e.Members()
		if hosts := addresses(replicas); len(hosts) > 0 {
			r.server.pool.SetMembership(max(slices.Index(hosts, broadcast), 0), len(hosts))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// grpc makes the server of the service Scheduler.
func (r *running) grpc() *grpc.Server {
	g := serving.NewGRPC(serving.GRPCOptions{
		Name: "scheduler", Credentials: r.o.Security.GRPC(), Log: r.o.Log, MessageBytes: math.MaxInt32, Streams: maxStreams,
		ClientPings: clientPings, Keepalive: keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout},
		More: []grpc.ServerOption{grpc.MaxSendMsgSize(math.MaxInt32)},
	})
	schedulerv1.RegisterSchedulerServer(g, r.server)
	return g
}
