//go:build unix

package pluggable

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// logText collects log lines.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logText) has(text string) bool { return strings.Contains(l.String(), text) }

func (l *logText) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// testLog shows the log of a test that failed.
func testLog(t testing.TB) *slog.Logger {
	l := &logText{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.String())
		}
	})
	return l.logger()
}
