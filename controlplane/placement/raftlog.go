package placement

import (
	"context"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLog writes what the election says to the log of the program. That members come and go is no error to it: what matters is logged by the
// elector, so that all but errors are for debugging.
type raftLog struct {
	log  *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = (*raftLog)(nil)

func newRaftLog(l *slog.Logger) *raftLog { return &raftLog{log: l, name: "raft"} }

// Log implements [hclog.Logger].
func (l *raftLog) Log(level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	if level >= hclog.Error {
		to = slog.LevelWarn
	}
	if ctx := context.Background(); l.log.Enabled(ctx, to) {
		l.log.Log(ctx, to, l.name+": "+msg, append(append([]any(nil), l.args...), args...)...)
	}
}

// Trace implements [hclog.Logger].
func (l *raftLog) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }

// Debug implements [hclog.Logger].
func (l *raftLog) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }

// Info implements [hclog.Logger].
func (l *raftLog) Info(msg string, args ...any) { l.Log(hclog.Info, msg, args...) }

// Warn implements [hclog.Logger].
func (l *raftLog) Warn(msg string, args ...any) { l.Log(hclog.Warn, msg, args...) }

// Error implements [hclog.Logger].
func (l *raftLog) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

// IsTrace implements [hclog.Logger].
func (l *raftLog) IsTrace() bool { return false }

// IsDebug implements [hclog.Logger].
func (l *raftLog) IsDebug() bool { return l.log.Enabled(context.Background(), slog.LevelDebug) }

// IsInfo implements [hclog.Logger].
func (l *raftLog) IsInfo() bool { return l.IsDebug() }

// IsWarn implements [hclog.Logger].
func (l *raftLog) IsWarn() bool { return l.IsDebug() }

// IsError implements [hclog.Logger].
func (l *raftLog) IsError() bool { return true }

// ImpliedArgs implements [hclog.Logger].
func (l *raftLog) ImpliedArgs() []any { return l.args }

// With implements [hclog.Logger].
func (l *raftLog) With(args ...any) hclog.Logger {
	return &raftLog{log: l.log, name: l.name, args: append(append([]any(nil), l.args...), args...)}
}

// Name implements [hclog.Logger].
func (l *raftLog) Name() string { return l.name }

// Named implements [hclog.Logger].
func (l *raftLog) Named(name string) hclog.Logger { return l.ResetNamed(l.name + "." + name) }

// ResetNamed implements [hclog.Logger].
func (l *raftLog) ResetNamed(name string) hclog.Logger {
	return &raftLog{log: l.log, name: name, args: l.args}
}

// SetLevel implements [hclog.Logger]; the level is the program's.
func (*raftLog) SetLevel(hclog.Level) {}

// GetLevel implements [hclog.Logger].
func (l *raftLog) GetLevel() hclog.Level {
	if l.IsDebug() {
		return hclog.Debug
	}
	return hclog.Error
}

// StandardLogger implements [hclog.Logger].
func (l *raftLog) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(o), "", 0)
}

// StandardWriter implements [hclog.Logger].
func (l *raftLog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{l} }

// lineWriter logs each write.
type lineWriter struct{ log *raftLog }

func (w lineWriter) Write(p []byte) (int, error) {
	w.log.Info(string(p))
	return len(p), nil
}
