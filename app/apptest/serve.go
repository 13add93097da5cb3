package apptest

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

// Serve starts an HTTP app that ends with the test and returns its port on 127.0.0.1. The protocol is http, https or h2c; "" is
// http. The certificate of https is self-signed.
func Serve(t testing.TB, protocol string, h http.Handler) (port int) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	switch protocol {
	case "", "http":
		s.Start()
	case "https":
		s.StartTLS()
	case "h2c":
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
	default:
		s.Listener.Close()
		t.Fatalf("no HTTP app has protocol %q; give http, https or h2c", protocol)
	}
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).Port
}

// ServeGRPC starts a gRPC app that ends with the test and returns its port on 127.0.0.1. The protocol is grpc or grpcs; "" is grpc.
// The certificate of grpcs is self-signed.
func ServeGRPC(t testing.TB, protocol string, app *Callbacks) (port int) {
	t.Helper()
	var options []grpc.ServerOption
	switch protocol {
	case "", "grpc":
	case "grpcs":
		s := httptest.NewUnstartedServer(nil)
		s.StartTLS() // makes the certificate
		s.Close()
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: s.TLS.Certificates})))
	default:
		t.Fatalf("no gRPC app has protocol %q; give grpc or grpcs", protocol)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	runtimev1.RegisterAppCallbackServer(s, app)
	runtimev1.RegisterAppCallbackAlphaServer(s, app)
	runtimev1.RegisterAppCallbackHealthCheckServer(s, app)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

// Open makes a channel, as in apptest.Open(t, app.New, options), and closes it when the test has ended. The test fails when it
// cannot be made, or does not close within 5 seconds.
func Open[O any, C interface{ Close(context.Context) error }](t testing.TB, open func(O) (C, error), options O) C {
	t.Helper()
	c, err := open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}
