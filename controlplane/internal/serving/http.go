package serving

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"outrigger.dev/telemetry/health"
)

// StopGrace is how long requests may go on when a server stops.
const StopGrace = 5 * time.Second

// ServeHTTP serves until the context ends, which is no error. What a client decides is bounded, and a panic of the handler ends only its
// request. name is the service's.
func ServeHTTP(ctx context.Context, name string, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           recovering(name, handler, log),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve HTTP on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), StopGrace)
	defer cancel()
	if err := server.Shutdown(end); err != nil {
		server.Close()
	}
	<-done
	return nil
}

func recovering(name string, handler http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				log.Error("Panic in an HTTP handler", "path", r.URL.Path, "panic", p)
				http.Error(w, "internal error of "+name, http.StatusInternalServerError)
			}
		}()
		handler.ServeHTTP(w, r)
	})
}

// Healthz answers whether all parts are ready: 200, or 503 with the names of those that are not (Dapr API, control plane: readiness).
func Healthz(registry *health.Registry) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if ready, missing := registry.Status(); !ready {
			http.Error(w, "not ready: ["+strings.Join(missing, " ")+"]", http.StatusServiceUnavailable)
		}
	})
}
