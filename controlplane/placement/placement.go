package placement

import (
	"context"
	"fmt"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	placementv1 "outrigger.dev/api/gen/placement/v1"
	"outrigger.dev/controlplane/internal/serving"
	"outrigger.dev/telemetry/health"
)

// Health targets of the process (Dapr API, placement: readiness).
const (
	targetRaft = "placement-raft-leadership"
	targetGRPC = "placement-grpc-server"
)

// Run runs a placement service until the context ends, which is no error. An error names what could not be used: a port, an identity, a setting.
func Run(ctx context.Context, o Options) error {
	o, err := o.normalised()
	if err != nil {
		return err
	}
	g := serving.NewGroup(ctx, "placement", o.Log)
	defer g.Close()
	return g.Wait(start(g, o))
}

// start starts all parts: first the ones that tell how it goes. The ports are taken before anything else, so that a port that is not free has
// no other consequence.
func start(g *serving.Group, o Options) error {
	for _, target := range []string{targetRaft, targetGRPC, health.SecurityProvider} {
		g.Health.Target(target)
	}
	m := newMetrics()
	s := &server{o: o, metrics: m}
	at := Addresses{}
	listener, err := g.Listen("gRPC", o.Listen)
	if err != nil {
		return err
	}
	at.GRPC = listener.Addr()
	routes := map[string]http.Handler{}
	if o.State {
		routes["GET /placement/state"] = http.HandlerFunc(s.serveState)
	}
	if at.Healthz, at.Metrics, err = g.Observe(o.Observed, serving.MetricsHandler(m.registry), routes); err != nil {
		return err
	}
	if err := o.Security.Start(g); err != nil {
		return err
	}
	g.Health.Target(health.SecurityProvider).Ready()

	// Whoever connects before the election is told to look elsewhere.
	g.ServeGRPC(newGRPCServer(s, o), listener)
	g.Health.Target(targetGRPC).Ready()

	var elect func(ctx context.Context) error
	if len(o.Peers) == 1 {
		elect = s.alone
		s.lead()
	} else {
		e, err := newElector(g.Context(), o, s)
		if err != nil {
			return err
		}
		at.Raft, elect = e.listener.Addr(), e.run
	}
	g.Go(elect)
	g.Health.Target(targetRaft).Ready()

	g.WhenReady(func() {
		o.Log.Info(fmt.Sprintf("Placement service %s is running on %s", o.ID, at.GRPC))
		if o.Started != nil {
			o.Started(at)
		}
	})
	return nil
}

// newGRPCServer makes the server of the service Placement.
func newGRPCServer(s *server, o Options) *grpc.Server {
	g := serving.NewGRPC(serving.GRPCOptions{
		Name: "placement", Credentials: o.Security.GRPC(), Log: o.Log, ClientPings: minKeepalive,
		Keepalive: keepalive.ServerParameters{Time: o.KeepaliveTime, Timeout: o.KeepaliveTimeout},
		More:      []grpc.ServerOption{grpc.ForceServerCodecV2(newCodec())},
	})
	placementv1.RegisterPlacementServer(g, s)
	return g
}

// alone leads without an election until ctx ends, as the only member does.
func (s *server) alone(ctx context.Context) error {
	<-ctx.Done()
	s.stop()
	return nil
}
