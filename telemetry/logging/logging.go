// Package logging writes Dapr's log lines through log/slog.
//
// A [Handler] writes one line per record, as text
//
//	time="2026-01-02T03:04:05.678Z" level=info msg="dapr initialized" app_id=myapp instance=host scope=dapr.runtime type=log ver=1.18.3
//
// or as a JSON object with the same keys in alphabetical order. Fields added by the program are sorted among the standard ones.
// A logger is handed down, never global: [New] makes the sidecar's logger, [Scope] the logger of one of its parts, and [Always]
// the logger of the API log, which does not obey the log level.
package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"
)

// Scopes that tools and users filter by (Dapr API, sidecar: logging scopes). A part that has no constant here makes its scope by
// appending ".<part>" to [ScopeRuntime].
const (
	ScopeRuntime      = "dapr.runtime"
	ScopeHTTP         = "dapr.runtime.http"
	ScopeHTTPInfo     = "dapr.runtime.http-info"
	ScopeGRPC         = "dapr.runtime.grpc.api"
	ScopeGRPCInfo     = "dapr.runtime.grpc.api-info"
	ScopeGRPCInternal = "dapr.runtime.grpc.internal"
	ScopeProcessor    = "dapr.runtime.processor"
	ScopeDiskLoader   = "dapr.runtime.loader.disk"
	ScopeHotReload    = "dapr.runtime.hotreload"
	ScopeSecurity     = "dapr.runtime.security"
	ScopeActor        = "dapr.runtime.actor"
	ScopeScheduler    = "dapr.runtime.scheduler"
	ScopePlacement    = "dapr.runtime.actors.placement"
	ScopeTrace        = "dapr.runtime.trace"
	ScopeContrib      = "dapr.contrib"
	ScopeAPI          = "dapr.api"
	ScopeAppHealth    = "dapr.apphealth"
	ScopeSignals      = "dapr.signals"
	ScopeMiddleware   = "dapr.middleware.http"
)

// keyScope is the field that says which part of the program a line comes from.
const keyScope = "scope"

// Options say how a [Handler] writes.
type Options struct {
	// Level is the lowest level written; a *[slog.LevelVar] lets it change later. Nil means info.
	Level slog.Leveler
	// JSON selects the JSON form; otherwise lines are text.
	JSON bool
	// Out receives every line in one Write. Nil means standard output.
	Out io.Writer
	// AppID is the value of app_id. The field is absent if it is empty.
	AppID string
	// Instance is the value of instance. Empty means the host name.
	Instance string
	// Scope is the scope of lines whose logger has none of its own. Empty means [ScopeRuntime].
	Scope string
	// Version is the value of ver. Empty means "edge", the version of a build that was given none.
	Version string
	// Clock tells the time of a line in place of the time slog took. Nil keeps slog's.
	Clock func() time.Time
}

// New is a logger that writes through a new [Handler].
func New(o Options) *slog.Logger {
	return slog.New(NewHandler(o))
}

// Scope is the same logger for the part of the program called scope, for example "dapr.runtime.http". It replaces the scope the
// logger had, also inside an open group.
func Scope(l *slog.Logger, scope string) *slog.Logger {
	if h, ok := l.Handler().(*Handler); ok {
		return slog.New(h.withField("", slog.String(keyScope, scope)))
	}
	return l.With(keyScope, scope)
}

// Always is the same logger with a fixed level of info: it writes info and above whatever level the program logs at. The API log
// uses it (Dapr API, sidecar: API logging).
func Always(l *slog.Logger) *slog.Logger {
	if h, ok := l.Handler().(*Handler); ok {
		c := *h
		c.level = slog.LevelInfo
		return slog.New(&c)
	}
	return slog.New(always{l.Handler()})
}

// always gives a handler that is not ours a fixed level of info.
type always struct{ slog.Handler }

func (a always) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (a always) WithAttrs(attrs []slog.Attr) slog.Handler { return always{a.Handler.WithAttrs(attrs)} }

func (a always) WithGroup(name string) slog.Handler { return always{a.Handler.WithGroup(name)} }

// Fatal logs at [LevelFatal]. It returns: ending the process is left to main, so that whatever is open gets closed.
func Fatal(ctx context.Context, l *slog.Logger, msg string, args ...any) {
	l.Log(ctx, LevelFatal, msg, args...)
}

// OpenFile opens the file that log lines are appended to, creating it with mode 0644 (Dapr API, sidecar: flag log-file). The
// caller closes it.
func OpenFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log file %q cannot be opened for appending (check that its directory exists and is writable): %w", path, err)
	}
	return f, nil
}

// hostname is the default instance; a host without a name logs an empty one.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
