package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/app/apptest"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/logging/logtest"
)

// run runs the health checks until the test ends.
func run(t *testing.T, h *Health) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); h.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func TestHealth(t *testing.T) {
	for _, p := range []Protocol{HTTP, HTTPS, H2C, GRPC} {
		t.Run(string(p), func(t *testing.T) {
			clock := clockwork.NewFakeClock()
			var log logtest.Log
			options := Options{Protocol: p, Log: log.Logger(), APIToken: "t", Health: &HealthOptions{Path: "live", Threshold: 2, Clock: clock}}
			var sick atomic.Int32
			asked := make(chan struct{}, 100)
			var c Channel
			if p == GRPC {
				app := &apptest.Callbacks{}
				c = serveGRPC(t, options, app)
				app.Health = func() error {
					if sick.Load() != 0 {
						return status.Error(codes.Unimplemented, "sick")
					}
					return nil
				}
			} else {
				c = serve(t, options, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/live" {
						if len(r.Header) > 0 || r.Method != "GET" {
							t.Errorf("%s %v", r.Method, r.Header)
						}
						w.WriteHeader(204 + int(sick.Load()))
					}
				})
			}
			h := c.Health()
			probed := h.probe
			h.probe = func(ctx context.Context) string {
				defer func() { asked <- struct{}{} }()
				return probed(ctx)
			}
			changes := make(chan bool, 10)
			h.OnChange(func(healthy bool) { changes <- healthy })
			req := &invocation.Request{Verb: "GET"}
			if _, err := c.Invoke(t.Context(), req); !errors.Is(err, ErrUnhealthy) ||
				err.Error() != "rpc error: code = Internal desc = app is not in a healthy state" {
				t.Errorf("before the first probe: %v", err)
			}
			_, changed := h.Watch()
			run(t, h)
			<-asked
			if !<-changes {
				t.Error("not healthy after a good probe")
			}
			<-changed
			if _, err := c.Invoke(t.Context(), req); err != nil {
				t.Error(err)
			}
			probe := func(status int32) {
				t.Helper()
				sick.Store(status)
				clock.Advance(5 * time.Second)
				<-asked
			}
			// Failures with a success between them do not add up.
			probe(98)
			probe(0)
			probe(98)
			probe(0)
			if len(changes) > 0 || !h.Healthy() {
				t.Error("failures that are not consecutive count")
			}
			probe(98) // 302: redirects are failures
			probe(299)
			if <-changes {
				t.Error("healthy after two failures")
			}
			if _, err := c.Invoke(t.Context(), req); !errors.Is(err, ErrUnhealthy) {
				t.Error(err)
			}
			probe(0)
			if !<-changes {
				t.Error("not healthy again")
			}
			reason := "Health check failed with status code: 503"
			if p == GRPC {
				reason = "Probe error: "
			}
			if log.Count("App entered healthy status") != 2 || log.Count("App entered un-healthy status: "+reason) != 1 {
				t.Errorf("logged %q", log.Lines())
			}
		})
	}
}

func TestProbeOfAbsentApp(t *testing.T) {
	for _, p := range []Protocol{HTTP, H2C} {
		c, err := New(Options{Protocol: p, Port: 1, Health: &HealthOptions{}})
		if err != nil {
			t.Fatal(err)
		}
		h := c.Health()
		if got, want := h.ask(t.Context()), `Network error: Get "http://127.0.0.1:1/healthz": dial tcp 127.0.0.1:1: connect: connection refused`; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		c.Close(t.Context())
	}
}

func TestProbeTimeout(t *testing.T) {
	c := serve(t, Options{Health: &HealthOptions{Timeout: 20 * time.Millisecond}}, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if reason := c.Health().ask(t.Context()); reason != "Network error: no answer within 20ms" {
		t.Errorf("reason %q", reason)
	}
}

func TestHealthOff(t *testing.T) {
	c := serve(t, Options{}, func(http.ResponseWriter, *http.Request) {})
	changes := make(chan bool, 2)
	c.Health().OnChange(func(healthy bool) { changes <- healthy })
	if healthy, _ := c.Health().Watch(); !healthy || !c.Health().Healthy() {
		t.Error("not healthy")
	}
	run(t, c.Health())
	if !<-changes {
		t.Error("not reported healthy")
	}
}

func TestHealthOptions(t *testing.T) {
	if err := (HealthOptions{Interval: time.Second, Timeout: 2 * time.Second}).Check(); err == nil ||
		err.Error() != "value for 'health-probe-timeout' must be smaller than 'health-probe-interval'" {
		t.Error(err)
	}
	if err := (HealthOptions{Interval: -1, Timeout: -1}).Check(); err != nil {
		t.Error(err)
	}
}

func TestWaitForPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	var log logtest.Log
	clock := clockwork.NewFakeClock()
	done := make(chan error)
	go func() { done <- WaitForPort(t.Context(), WaitOptions{Port: port, Log: log.Logger(), Clock: clock}) }()
	waiting := fmt.Sprintf("waiting for application to listen on port %d", port)
	apptest.Until(t, "it logs that it waits", func() bool {
		clock.Advance(100 * time.Millisecond)
		return log.Count(waiting) > 0
	})
	if l, err = net.Listen("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	apptest.Until(t, "it finds the app", func() bool {
		clock.Advance(100 * time.Millisecond)
		select {
		case err = <-done:
			return true
		default:
			return false
		}
	})
	if err != nil || log.Count(fmt.Sprintf("application discovered on port %d", port)) != 1 ||
		log.Lines()[0] != fmt.Sprintf("INFO application protocol: http. waiting on port %d.  This will block until the app is listening on that port.", port) {
		t.Errorf("%v, %q", err, log.Lines())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := WaitForPort(ctx, WaitOptions{Protocol: HTTPS, Port: port}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a port without TLS passed for https: %v", err)
	}
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	s.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelError)
	if err := WaitForPort(t.Context(), WaitOptions{Protocol: GRPCS, Port: s.Listener.Addr().(*net.TCPAddr).Port}); err != nil {
		t.Error(err)
	}
}
