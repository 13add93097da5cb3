package mesh_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/sidecar/sidecartest"
)

// Two sidecars, certificates that are renewed about every two and a half seconds, and load in every form: not one call fails, also
// when new sidecars come all the time and stay past the end of their first certificate.
func TestRotationUnderLoad(t *testing.T) {
	rotate(t, ca.Settings{WorkloadTTL: 5 * time.Second}, 14*time.Second)
}

// The same while the authority replaces its issuer and its root.
func TestRotationOfTheAuthorityUnderLoad(t *testing.T) {
	rotate(t, ca.Settings{WorkloadTTL: 5 * time.Second, IssuerTTL: 15 * time.Second, RootTTL: 24 * time.Second, SelfRenewing: true}, 28*time.Second)
}

func rotate(t *testing.T, settings ca.Settings, length time.Duration) {
	if testing.Short() {
		t.Skip("it takes as long as several rotations")
	}
	t.Parallel()
	authority := startAuthority(t, settings)
	before := authority.anchors()
	network := sidecartest.NewNetwork()
	web := sidecartest.Start(t, network.Join("web"), authority.member(), sidecartest.WithApp(sidecartest.NewApp(t, echo())))
	checks := health.NewServer()
	rpc := sidecartest.Start(t, network.Join("rpc"), authority.member(), withGRPCApp(grpcApp(t, func(s *grpc.Server) { healthv1.RegisterHealthServer(s, checks) })))
	web.WaitHealthy()
	rpc.WaitHealthy()

	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var failed failures
	var calls, sidecars atomic.Int64
	var group sync.WaitGroup

	large := bytes.Repeat([]byte("0123456789abcdef"), 4<<10) // 64 KiB
	overHTTP := func(from *sidecartest.Sidecar, caller string, until context.Context) {
		for i := 0; until.Err() == nil; i++ {
			body := "small"
			if i%8 == 0 {
				body = string(large)
			}
			r := from.Post("/v1.0/invoke/web/method/x", body)
			calls.Add(1)
			if r.Status != 200 || r.Body != body || r.Header.Get("X-Caller") != caller {
				failed.add("HTTP from %s: %d %.200q, caller %q", caller, r.Status, r.Body, r.Header.Get("X-Caller"))
			}
		}
	}
	overGRPC := func(from *sidecartest.Sidecar, until context.Context) {
		client := healthv1.NewHealthClient(from.Conn())
		out := metadata.AppendToOutgoingContext(context.Background(), "dapr-app-id", "rpc")
		for until.Err() == nil {
			call, end := context.WithTimeout(out, patience)
			reply, err := client.Check(call, &healthv1.HealthCheckRequest{})
			end()
			calls.Add(1)
			if err != nil || reply.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				failed.add("gRPC: %v, %v", reply, err)
			}
		}
	}
	caller := sidecartest.Start(t, network.Join("caller"), authority.member())
	caller.Conn() // before the goroutines share it
	for range 3 {
		group.Go(func() { overHTTP(caller, "caller", ctx) })
		group.Go(func() { overGRPC(caller, ctx) })
	}

	// A stream that is open all the time.
	watch, stopWatching := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "dapr-app-id", "rpc"))
	defer stopWatching()
	stream, err := healthv1.NewHealthClient(caller.Conn()).Watch(watch, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}

	// New sidecars, which shake hands with the certificates of the moment.
	group.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			id := fmt.Sprintf("guest-%d", n)
			guest := sidecartest.Start(t, network.Join(id), authority.member())
			sidecars.Add(1)
			stay, leave := context.WithTimeout(ctx, 400*time.Millisecond)
			overHTTP(guest, id, stay)
			leave()
			stay, leave = context.WithTimeout(ctx, 200*time.Millisecond)
			overGRPC(guest, stay)
			leave()
			if err := guest.Stop(); err != nil {
				failed.add("%s did not stop cleanly: %v", id, err)
			}
		}
	})
	group.Wait()

	checks.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	if reply, err := stream.Recv(); err != nil || reply.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("the stream that was open all the time: %v, %v", reply, err)
	}
	stopWatching()
	if _, err := stream.Recv(); err == nil || err == io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
	t.Logf("%d calls, %d new sidecars", calls.Load(), sidecars.Load())
	if failed.count > 0 {
		t.Errorf("%d of %d calls failed, first: %s\n%s", failed.count, calls.Load(), failed.first, authority.log)
	}
	if calls.Load() < 100 || sidecars.Load() < 3 {
		t.Errorf("only %d calls and %d new sidecars", calls.Load(), sidecars.Load())
	}
	if settings.SelfRenewing && authority.anchors() == before {
		t.Error("the authority did not renew its root")
	}
}
