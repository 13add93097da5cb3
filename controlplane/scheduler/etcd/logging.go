package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newZap is a log for etcd that writes to log. What etcd finds worth telling is detail for the users of the scheduler: its infos are debug lines
// here. etcd would end the process when its disk fails; instead the goroutine in question ends, and fail is told why.
// Once closing is set, everything is detail, as etcd reports its own listeners' end as errors.
func newZap(log *slog.Logger, closing *atomic.Bool, fail func(error)) *zap.Logger {
	hook := fatal{fail}
	return zap.New(core{log, closing}, zap.WithFatalHook(hook), zap.WithPanicHook(hook))
}

// core is a [zapcore.Core].
type core struct {
	log     *slog.Logger
	closing *atomic.Bool
}

// meant reports whether a message is about something that is meant to be so, or that passes by itself when a member starts.
func meant(message string) bool {
	switch message {
	case "Running http and grpc server on single port. This is not recommended for production.", "exceeded recommended request limit",
		"simple token is not cryptographically signed", "quota exceeds the maximum value",
		"Failed to detect schema version", "failed to update storage version":
		return true
	}
	return strings.HasSuffix(message, "since there are still pending configuration changes to apply") // of a first election
}

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l >= zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// Enabled implements [zapcore.LevelEnabler]. Debug lines of etcd itself are never wanted.
func (c core) Enabled(l zapcore.Level) bool {
	return l > zapcore.DebugLevel && c.log.Enabled(context.Background(), level(l))
}

// With implements [zapcore.Core].
func (c core) With(fields []zapcore.Field) zapcore.Core {
	return core{slog.New(c.log.Handler().WithAttrs(attributes(fields))), c.closing}
}

// Check implements [zapcore.Core].
func (c core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write implements [zapcore.Core].
func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	l := level(e.Level)
	if c.closing.Load() || meant(e.Message) {
		l = slog.LevelDebug
	}
	if c.log.Enabled(context.Background(), l) {
		c.log.LogAttrs(context.Background(), l, "etcd: "+e.Message, attributes(fields)...)
	}
	return nil
}

// Sync implements [zapcore.Core].
func (core) Sync() error { return nil }

func attributes(fields []zapcore.Field) []slog.Attr {
	if len(fields) == 0 {
		return nil
	}
	encoder := zapcore.NewMapObjectEncoder()
	attrs := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		f.AddTo(encoder)
		if v, ok := encoder.Fields[f.Key]; ok {
			attrs = append(attrs, slog.Any(f.Key, v))
		}
	}
	return attrs
}

// fatal is what etcd's fatal and panic entries do.
type fatal struct{ fail func(error) }

// OnWrite implements [zapcore.CheckWriteHook].
func (h fatal) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	detail := ""
	for _, a := range attributes(fields) {
		if a.Key == "error" {
			detail = fmt.Sprintf(": %v", a.Value)
		}
	}
	h.fail(fmt.Errorf("the embedded etcd cannot go on: %s%s", e.Message, detail))
	runtime.Goexit()
}
