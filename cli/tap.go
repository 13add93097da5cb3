package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"sync"
)

// maxLine bounds how much of a line without an end is kept, in bytes.
const maxLine = 64 << 10

// lines calls emit for every line written to it, without the line's end. It is safe for concurrent use.
type lines struct {
	mu      sync.Mutex
	partial []byte
	emit    func(line []byte)
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := p
	for {
		line, after, found := bytes.Cut(rest, []byte("\n"))
		if !found {
			break
		}
		if len(l.partial) > 0 {
			line = append(l.partial, line...)
			l.partial = l.partial[:0]
		}
		l.emit(bytes.TrimSuffix(line, []byte("\r")))
		rest = after
	}
	l.partial = append(l.partial, rest...)
	if len(l.partial) > maxLine {
		l.emit(l.partial)
		l.partial = l.partial[:0]
	}
	return len(p), nil
}

// flush emits what is left of a last line without an end.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.emit(l.partial)
		l.partial = nil
	}
}

// tap passes a sidecar's output on and remembers why it ended.
type tap struct {
	out   io.Writer
	lines lines

	mu          sync.Mutex
	fatal, last string
}

func newTap(out io.Writer) *tap {
	t := &tap{out: out}
	t.lines.emit = t.line
	return t
}

// Write implements io.Writer.
func (t *tap) Write(p []byte) (int, error) {
	n, err := t.out.Write(p)
	if err != nil {
		return n, err
	}
	return t.lines.Write(p)
}

func (t *tap) line(line []byte) {
	message, fatal := fatalMessage(line)
	t.mu.Lock()
	defer t.mu.Unlock()
	if fatal {
		t.fatal = message
	} else if text := strings.TrimSpace(string(line)); text != "" {
		t.last = text
	}
}

// reason is why the sidecar ended: its last fatal log line, or else its last line of output.
func (t *tap) reason() string {
	t.lines.flush()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fatal != "" {
		return t.fatal
	}
	return t.last
}

// fatalMessage reads the message of a log line of level fatal, in the text or the JSON form.
func fatalMessage(line []byte) (message string, ok bool) {
	if !bytes.Contains(line, []byte("fatal")) {
		return "", false
	}
	if bytes.HasPrefix(line, []byte("{")) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) != nil || entry.Level != "fatal" {
			return "", false
		}
		message = entry.Msg
	} else {
		_, after, found := strings.Cut(string(line), " level=fatal msg=")
		if !found {
			return "", false
		}
		if quoted, err := strconv.QuotedPrefix(after); err == nil {
			message, _ = strconv.Unquote(quoted)
		} else {
			message, _, _ = strings.Cut(after, " ")
		}
	}
	return strings.TrimPrefix(message, "Fatal error from runtime: "), true
}
