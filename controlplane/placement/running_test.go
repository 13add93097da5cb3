package placement

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	placementv1 "outrigger.dev/api/gen/placement/v1"
	"outrigger.dev/controlplane/internal/serving"
	"outrigger.dev/controlplane/placement/placementtest"
	"outrigger.dev/identity"
	"outrigger.dev/identity/identitytest"
	"outrigger.dev/telemetry/logging/logtest"
)

// running is a placement service of a test.
type running struct {
	t         *testing.T
	log       *logtest.Log
	addresses Addresses
	stop      func() error // ends it, once
}

// launch runs a service on free ports of loopback until the test ends.
func launch(t *testing.T, change func(*Options)) *running {
	t.Helper()
	r := &running{t: t, log: &logtest.Log{}}
	local := Address{Host: "127.0.0.1"}
	o := Options{Listen: local, Observed: Observed{Healthz: local, MetricsEnabled: true, Metrics: local}, State: true, Log: r.log.Logger()}
	if change != nil {
		change(&o)
	}
	started := make(chan Addresses, 1)
	o.Started = func(a Addresses) { started <- a }
	ctx, cancel := context.WithCancel(context.Background())
	done, ended := make(chan error, 1), false
	go func() { done <- Run(ctx, o) }()
	r.stop = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			t.Fatalf("Run does not end; log:\n%s", r.log)
			return nil
		}
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case r.addresses = <-started:
	case err := <-done:
		done <- err
		t.Fatalf("Run ended: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatalf("placement does not start; log:\n%s", r.log)
	}
	return r
}

// dial is a connection to it; nil credentials are clear text.
func (r *running) dial(creds credentials.TransportCredentials, options ...grpc.DialOption) placementv1.PlacementClient {
	r.t.Helper()
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient(r.addresses.GRPC.String(), append(options, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return placementv1.NewPlacementClient(conn)
}

// host runs a sidecar of app "app" in "ns" until the test ends.
func (r *running) host(name string, types ...string) *placementtest.Host {
	return run(r.t, &placementtest.Host{Addresses: []string{r.addresses.GRPC.String()}, Name: name, AppID: "app", Namespace: "ns", Types: types})
}

// run runs a sidecar until the test ends, when all that it was told must have followed the protocol.
func run(t *testing.T, h *placementtest.Host) *placementtest.Host {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		if wrong := h.State().Wrong; len(wrong) > 0 {
			t.Errorf("sidecar %s: %q", h.Name, wrong)
		}
	})
	return h
}

// await waits for a table.
func await(t *testing.T, table string, hosts ...*placementtest.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, h := range hosts {
		if err := h.Await(ctx, func(s placementtest.State) bool { return s.Settled && s.Table == table }); err != nil {
			t.Fatalf("want {%s}: %v", table, err)
		}
	}
}

// get reads a URL.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

var placementID = identity.ID{TrustDomain: "localhost", Namespace: "dapr-system", AppID: AppID}

// secured is the security of a service with an identity of an authority.
func secured(t *testing.T, ca *identitytest.CA, id identity.ID) *Security {
	return serving.MutualTLS(ca.NewSource(t, id.String()), id)
}

// credentialsOf are those of a sidecar that calls the placement service.
func credentialsOf(t *testing.T, ca *identitytest.CA, uri string) credentials.TransportCredentials {
	return credentials.NewTLS(identity.NewTLS(ca.NewSource(t, uri), nil).Client(identity.Exactly(placementID), "h2"))
}
