// Package mesh_test runs sidecars under the identities of a real certificate authority, and attacks them.
package mesh_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/controlplane/sentry/validator"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
	"outrigger.dev/telemetry/logging"
)

// patience bounds waiting for what must happen.
const patience = 30 * time.Second

// authority is a running Sentry.
type authority struct {
	t         testing.TB
	address   string
	addresses sentry.Addresses
	dir       string
	log       *sidecartest.Log
	cancel    context.CancelFunc
	done      chan error
}

// startAuthority runs a Sentry, which change may change, until the test ends.
func startAuthority(t testing.TB, settings ca.Settings, change ...func(*sentry.Options)) *authority {
	t.Helper()
	a := &authority{t: t, dir: filepath.Join(t.TempDir(), "credentials"), log: &sidecartest.Log{}}
	t.Cleanup(func() {
		if err := a.stop(); err != nil {
			t.Errorf("Sentry: %v\n%s", err, a.log)
		}
	})
	a.start(settings, change...)
	return a
}

// start runs the Sentry, on the credentials that are there.
func (a *authority) start(settings ca.Settings, change ...func(*sentry.Options)) {
	t := a.t
	t.Helper()
	settings.TrustDomain, settings.Namespace = "localhost", "default"
	options := sentry.Options{
		Settings: settings, Store: &ca.Files{Directory: a.dir},
		Validators:       map[validator.Name]validator.Validator{sentryv1.SignCertificateRequest_INSECURE: validator.Insecure{}},
		DefaultValidator: sentryv1.SignCertificateRequest_INSECURE,
		ListenAddress:    "127.0.0.1", HealthzListenAddress: "127.0.0.1",
		Log:       logging.New(logging.Options{Level: slog.LevelDebug, Out: a.log}),
		StorePoll: 200 * time.Millisecond, ReloadBatch: 50 * time.Millisecond,
	}
	for _, c := range change {
		c(&options)
	}
	started := make(chan sentry.Addresses, 1)
	options.Started = func(at sentry.Addresses) { started <- at }
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel, a.done = cancel, make(chan error, 1)
	go func() { a.done <- sentry.Run(ctx, options) }()
	select {
	case a.addresses = <-started:
		a.address = a.addresses.GRPC.String()
	case err := <-a.done:
		a.done <- nil
		t.Fatalf("Sentry did not start: %v\n%s", err, a.log)
	case <-time.After(patience):
		t.Fatalf("Sentry did not start\n%s", a.log)
	}
}

// stop ends the Sentry; it does nothing when it has ended.
func (a *authority) stop() error {
	if a.cancel == nil {
		return nil
	}
	a.cancel()
	a.cancel = nil
	return <-a.done
}

// anchors are the roots in PEM.
func (a *authority) anchors() string {
	text, err := os.ReadFile(filepath.Join(a.dir, "ca.crt"))
	if err != nil {
		a.t.Fatal(err)
	}
	return string(text)
}

// member makes a sidecar one of the authority's.
func (a *authority) member() sidecartest.Option {
	anchors := a.anchors()
	return sidecartest.With(func(o *sidecar.Options) {
		o.EnableMTLS, o.SentryAddress = true, a.address
		environment := o.LookupEnv
		if environment == nil {
			environment = os.LookupEnv
		}
		o.LookupEnv = func(name string) (string, bool) {
			if name == "DAPR_TRUST_ANCHORS" {
				return anchors, true
			}
			return environment(name)
		}
	})
}

// echo answers with what it got.
func echo() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(500)
			return
		}
		w.Header().Set("X-Caller", strings.Join(r.Header.Values("Dapr-Caller-App-Id"), ","))
		w.Header().Set("X-Caller-Namespace", strings.Join(r.Header.Values("Dapr-Caller-Namespace"), ","))
		w.Header().Set("X-Path", r.URL.EscapedPath())
		_, _ = w.Write(body)
	})
}

// grpcApp is a gRPC server of a test.
func grpcApp(t testing.TB, register func(*grpc.Server)) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	return l.Addr().(*net.TCPAddr).Port
}

// withGRPCApp gives a sidecar a gRPC app.
func withGRPCApp(port int) sidecartest.Option {
	return sidecartest.With(func(o *sidecar.Options) { o.AppPort, o.AppProtocol = port, "grpc" })
}

// failures collects what must not happen.
type failures struct {
	mu    sync.Mutex
	count int
	first string
}

func (f *failures) add(format string, values ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == 0 {
		f.first = fmt.Sprintf(format, values...)
	}
	f.count++
}

// newLogger logs all there is to l.
func newLogger(l *sidecartest.Log) *slog.Logger {
	return logging.New(logging.Options{Level: slog.LevelDebug, Out: l})
}
