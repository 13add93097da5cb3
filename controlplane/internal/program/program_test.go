package program

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/controlplane/internal/serving"
	"outrigger.dev/telemetry/logging/logtest"
)

func none(string) (string, bool) { return "", false }

// define makes a program that takes the flags of a service.
func define(stderr *logtest.Output, run func(context.Context) error) Program {
	common, security := &Common{}, &Security{}
	set := NewFlags("demo", stderr)
	common.Declare(set)
	security.Declare(set, none)
	return Program{
		Name: "demo", Label: "Demo", Title: "the demo", Scope: "dapr.demo", Flags: set, Common: common, SingleDash: true,
		Serve: func(ctx context.Context, _ *slog.Logger) error { return run(ctx) },
	}
}

func TestMainEnds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		run    func(context.Context) error
		signal []os.Signal
		code   int
		stdout string
	}{
		{"by itself", func(context.Context) error { return nil }, nil, ExitClean, "Demo shut down gracefully"},
		{"by an error", func(context.Context) error { return errors.New("no luck") }, nil, ExitFatal, "Fatal error from demo: no luck"},
		{"by a signal", func(ctx context.Context) error { <-ctx.Done(); return nil }, []os.Signal{syscall.SIGTERM}, ExitClean, "Received signal 'terminated'; beginning shutdown"},
		{"by an error after a signal", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, []os.Signal{syscall.SIGTERM}, ExitClean, "Demo shut down gracefully"},
		{
			"by a second signal", nil,
			[]os.Signal{syscall.SIGINT, syscall.SIGTERM},
			ExitFatal,
			"Received signal 'terminated' during shutdown; exiting immediately",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "by a second signal" {
				// The service is left behind, as by an exit of the process.
				release := make(chan struct{})
				t.Cleanup(func() { close(release) })
				tt.run = func(context.Context) error { <-release; return nil }
			}
			var stdout, stderr logtest.Output
			signals := make(chan os.Signal, 2)
			for _, s := range tt.signal {
				signals <- s
			}
			code := Main(Process[struct{}]{Stdout: &stdout, Stderr: &stderr, Signals: signals}, define(&stderr, tt.run))
			if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stdout.String(), "Starting the demo -- version edge") {
				t.Errorf("exit code %d\n%s", code, stdout.String())
			}
		})
	}
}

func TestDoubleDashes(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"-metrics-port 1 -mode=x", "--metrics-port 1 --mode=x"},
		{"--metrics-port 1 stray", "--metrics-port 1 stray"},
		{"-log-as-json -mode x", "--log-as-json --mode x"},
		{"-log-as-json=false", "--log-as-json=false"},
		{"--mode -log-level", "--mode -log-level"},
		{"-nope", "-nope"},
		{"-h", "-h"},
		{"-help", "--help"},
		{"mode", "mode"},
		{"-- -mode x", "-- -mode x"},
		{"-mode", "--mode"},
		{"- --", "- --"},
	} {
		if got := doubleDashes(define(&logtest.Output{}, nil).Flags, strings.Fields(tt.in)); !slices.Equal(got, strings.Fields(tt.want)) {
			t.Errorf("%s: %q, want %s", tt.in, got, tt.want)
		}
	}
}

func TestOpenSecurity(t *testing.T) {
	open := func(env map[string]string, args ...string) (*serving.Security, error) {
		lookup := func(name string) (string, bool) { value, ok := env[name]; return value, ok }
		set, f := NewFlags("demo", &logtest.Output{}), &Security{}
		f.Declare(set, lookup)
		if err := set.Parse(args); err != nil {
			t.Fatal(err)
		}
		return f.Open("dapr-demo", lookup, slog.New(slog.DiscardHandler))
	}
	if s, err := open(nil); err != nil || s.Enabled() || s.GRPC() != nil || s.TLS() != nil || s.Source() != nil {
		t.Errorf("%v %v", s, err)
	}
	s, err := open(map[string]string{"NAMESPACE": "mesh"}, "--tls-enabled", "--trust-domain", "td")
	if err != nil || !s.Enabled() || s.ID().String() != "spiffe://td/ns/mesh/dapr-demo" || s.GRPC() == nil || s.TLS() == nil || s.Source() == nil {
		t.Errorf("%v %v", s, err)
	}
	if _, err := open(nil, "--mode", "kubernetes"); err == nil || !strings.Contains(err.Error(), "NAMESPACE is not set") {
		t.Error(err)
	}
	if _, err := open(nil, "--mode", "x"); err == nil || !strings.Contains(err.Error(), `invalid value for --mode: "x"`) {
		t.Error(err)
	}
	if _, err := open(nil, "--tls-enabled", "--sentry-address", ""); err == nil || !strings.Contains(err.Error(), "--sentry-address") {
		t.Error(err)
	}
}

// TestSignalsOfTheSystem has the process itself get one.
func TestSignalsOfTheSystem(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot send itself signals here")
	}
	var stdout, stderr logtest.Output
	serving, code := make(chan struct{}), make(chan int, 1)
	go func() {
		code <- Main(Process[struct{}]{Stdout: &stdout, Stderr: &stderr}, define(&stderr, func(ctx context.Context) error {
			close(serving)
			<-ctx.Done()
			return nil
		}))
	}()
	<-serving
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case c := <-code:
		if c != ExitClean {
			t.Errorf("exit code %d", c)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
}
