package process

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"outrigger.dev/controlplane/placement"
	"outrigger.dev/controlplane/placement/placementtest"
	"outrigger.dev/controlplane/sentry"
	sentryprocess "outrigger.dev/controlplane/sentry/process"
	"outrigger.dev/identity"
	"outrigger.dev/identity/workload"
	"outrigger.dev/telemetry/logging/logtest"
)

// launch runs a program until the test ends, and returns where it listens.
func launch[A any](t *testing.T, run func(signals chan os.Signal, out *logtest.Output, started func(A)) int) A {
	t.Helper()
	signals, code, started, out := make(chan os.Signal, 1), make(chan int, 1), make(chan A, 1), &logtest.Output{}
	go func() { code <- run(signals, out, func(a A) { started <- a }) }()
	select {
	case a := <-started:
		t.Cleanup(func() {
			signals <- syscall.SIGTERM
			if c := <-code; c != 0 {
				t.Errorf("exit code %d\n%s", c, out)
			}
		})
		return a
	case c := <-code:
		t.Fatalf("exit code %d\n%s", c, out)
	case <-time.After(30 * time.Second):
		t.Fatalf("it does not start\n%s", out)
	}
	panic("not reached")
}

// TestIdentityFromSentry runs the program with an identity that a real Sentry gives it, and a sidecar with another one.
func TestIdentityFromSentry(t *testing.T) {
	dir, env := t.TempDir(), environment(map[string]string{"NAMESPACE": "mesh"})
	local := []string{"--port", "0", "--listen-address", "127.0.0.1", "--healthz-port", "0", "--enable-metrics=false", "--trust-domain", "example.org"}
	ca := launch(t, func(signals chan os.Signal, out *logtest.Output, started func(sentry.Addresses)) int {
		return sentryprocess.Main(sentryprocess.Process{
			Args: append([]string{"--issuer-credentials", dir}, local...), Stdout: out, Stderr: out, LookupEnv: env, Signals: signals, Started: started,
		})
	})
	anchors := filepath.Join(dir, "ca.crt")
	at := launch(t, func(signals chan os.Signal, out *logtest.Output, started func(placement.Addresses)) int {
		return Main(Process{
			Args:   append([]string{"--tls-enabled", "--trust-anchors-file", anchors, "--sentry-address", ca.GRPC.String()}, local...),
			Stdout: out, Stderr: out, LookupEnv: env, Signals: signals, Started: started,
		})
	})

	source, err := workload.New(workload.Options{
		SentryAddress: ca.GRPC.String(), TrustAnchorsFile: anchors, ControlPlaneTrustDomain: "example.org", ControlPlaneNamespace: "mesh", AppID: "app", Namespace: "ns",
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	done := make(chan struct{}, 2)
	go func() { _ = source.Run(ctx); done <- struct{}{} }()
	if err := source.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	h := &placementtest.Host{
		Addresses: []string{at.GRPC.String()}, Name: "a", AppID: "app", Namespace: "ns", Types: []string{"T"},
		Credentials: credentials.NewTLS(identity.NewTLS(source, nil).Client(identity.Exactly(source.ControlPlane(placement.AppID)), "h2")),
	}
	go func() { h.Run(ctx); done <- struct{}{} }()
	t.Cleanup(func() { cancel(); <-done; <-done })
	if err := h.Await(ctx, func(s placementtest.State) bool { return s.Settled && s.Table == "T:a" }); err != nil {
		t.Fatal(err)
	}
}
