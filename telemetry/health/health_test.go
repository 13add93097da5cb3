package health_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/telemetry/health"
)

func TestStatus(t *testing.T) {
	h := health.New()
	check := func(step string, want ...string) {
		t.Helper()
		ready, unready := h.Status()
		if ready != (len(want) == 0) || !reflect.DeepEqual(unready, want) {
			t.Fatalf("%s: got ready=%v unready=%v, want %v", step, ready, unready, want)
		}
	}
	check("no targets")
	runtime := h.Target(health.Runtime)
	api := h.Target(health.GRPCAPIServer)
	metrics := h.Target(health.MetricsExporter)
	check("all new", "grpc-api-server", "metrics-exporter", "runtime")
	metrics.Ready()
	metrics.Ready()
	check("one up", "grpc-api-server", "runtime")
	runtime.Ready()
	api.Ready()
	check("all up")
	if again := h.Target(health.Runtime); again != runtime || again.Name() != "runtime" {
		t.Fatalf("a registered name gave another handle %q", again.Name())
	}
	check("asked again")
	api.NotReady()
	api.NotReady()
	check("shutting down", "grpc-api-server")
	api.Ready()
	check("back")
}

func TestStatusSliceBelongsToCaller(t *testing.T) {
	h := health.New()
	h.Target("a")
	_, names := h.Status()
	names[0] = "overwritten"
	if _, again := h.Status(); again[0] != "a" {
		t.Fatalf("got %v after the caller changed its slice", again)
	}
}

func TestWait(t *testing.T) {
	h := health.New()
	a, b := h.Target("a"), h.Target("b")
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go func() { done <- h.Wait(ctx) }()
	a.Ready()
	select {
	case err := <-done:
		t.Fatalf("Wait returned %v while b was not ready", err)
	default:
	}
	b.Ready()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestWaitGivesUp(t *testing.T) {
	h := health.New()
	h.Target("runtime")
	h.Target("grpc-api-server")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := h.Wait(ctx)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "[grpc-api-server runtime]") {
		t.Fatalf("got %v", err)
	}
}

func TestConcurrentReports(t *testing.T) {
	h := health.New()
	stays := h.Target("stays")
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		target := h.Target(name)
		wg.Go(func() {
			for range 200 {
				target.NotReady()
				if ready, _ := h.Status(); ready {
					t.Error("ready although two targets are not")
				}
				target.Ready()
			}
		})
	}
	wg.Wait()
	if _, unready := h.Status(); !reflect.DeepEqual(unready, []string{"stays"}) {
		t.Fatalf("got %v", unready)
	}
	stays.Ready()
	if ready, _ := h.Status(); !ready {
		t.Fatal("not ready in the end")
	}
}

func TestStatusWhenReadyDoesNotAllocate(t *testing.T) {
	h := health.New()
	h.Target("a").Ready()
	if n := testing.AllocsPerRun(100, func() { h.Status() }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
