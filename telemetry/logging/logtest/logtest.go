// Package logtest helps testing what is logged: it keeps the lines.
package logtest

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// Log keeps everything that its logger is given, of every level. A record is one line, such as
//
//	WARN the disk is full disk=sda free=0
//
// of its level, its message and its attributes; nothing is quoted. The zero Log is empty, and ready. It is safe for concurrent use.
type Log struct {
	mu    sync.Mutex
	lines []string
}

// Logger is what fills the log.
func (l *Log) Logger() *slog.Logger { return slog.New(handler{log: l}) }

// Lines are the lines so far.
func (l *Log) Lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// Count counts the lines that contain the text.
func (l *Log) Count(text string) (n int) {
	for _, line := range l.Lines() {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// String is all lines, for the message of a test that fails.
func (l *Log) String() string { return strings.Join(l.Lines(), "\n") }

// handler is a [slog.Handler] that writes to a log.
type handler struct {
	log *Log
	// group is the prefix of the names of attributes, attributes are those of all records.
	group, attributes string
}

func (h handler) Enabled(context.Context, slog.Level) bool { return true }

func (h handler) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message + h.attributes
	r.Attrs(func(a slog.Attr) bool { line += text(h.group, a); return true })
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	h.log.lines = append(h.log.lines, line)
	return nil
}

func (h handler) WithAttrs(list []slog.Attr) slog.Handler {
	for _, a := range list {
		h.attributes += text(h.group, a)
	}
	return h
}

func (h handler) WithGroup(name string) slog.Handler {
	if name != "" {
		h.group += name + "."
	}
	return h
}

// text is an attribute as a part of a line.
func text(group string, a slog.Attr) (line string) {
	value := a.Value.Resolve()
	if value.Kind() != slog.KindGroup {
		return " " + group + a.Key + "=" + value.String()
	}
	if a.Key != "" {
		group += a.Key + "."
	}
	for _, member := range value.Group() {
		line += text(group, member)
	}
	return line
}
