package logging

import (
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"outrigger.dev/jsontext"
)

// Keys every line has. A field of the program with one of these names is written as "fields.<name>" so that it cannot pass for
// the line's own.
const (
	keyTime  = "time"
	keyLevel = "level"
	keyMsg   = "msg"
)

// Handler is a [slog.Handler] that writes Dapr's log lines. Groups are flattened: the field k of group g is "g.k". Of two fields
// with one name the later wins. It is safe for concurrent use; loggers derived from one handler share its output, and their lines
// never mix.
type Handler struct {
	out    *output
	level  slog.Leveler
	json   bool
	clock  func() time.Time
	fields []field // sorted by key, rendered
	group  string  // names of the open groups, each followed by a dot
}

// output is what all handlers derived from one share.
type output struct {
	mu    sync.Mutex
	w     io.Writer
	lines sync.Pool // of *line
}

// line is the scratch space in which one record is put together.
type line struct {
	buf    []byte
	fields []field
}

// maxPooled is the largest buffer kept for reuse, in bytes: one huge line must not pin its memory for ever.
const maxPooled = 16 << 10

// field is one key and its value, rendered already if the logger had it before the record came.
type field struct {
	key      string
	rendered []byte
	value    slog.Value
}

var _ slog.Handler = (*Handler)(nil)

// NewHandler is a handler that writes as o says.
func NewHandler(o Options) *Handler {
	if o.Level == nil {
		o.Level = slog.LevelInfo
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Instance == "" {
		o.Instance = hostname()
	}
	if o.Scope == "" {
		o.Scope = ScopeRuntime
	}
	if o.Version == "" {
		o.Version = "edge"
	}
	h := &Handler{
		out:   &output{w: o.Out, lines: sync.Pool{New: func() any { return new(line) }}},
		level: o.Level,
		json:  o.JSON,
		clock: o.Clock,
	}
	attrs := []slog.Attr{
		slog.String("instance", o.Instance),
		slog.String(keyScope, o.Scope),
		slog.String("type", "log"),
		slog.String("ver", o.Version),
	}
	if o.AppID != "" {
		attrs = append(attrs, slog.String("app_id", o.AppID))
	}
	return h.withField("", attrs...)
}

// Enabled says whether a record of this level is written.
func (h *Handler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

// WithAttrs is the same handler with more fields, rendered once here and not again per line.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.withField(h.group, attrs...)
}

// WithGroup is the same handler with a group opened: names of fields added from here on begin with name and a dot.
func (h *Handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.group += name + "."
	return &c
}

func (h *Handler) withField(group string, attrs ...slog.Attr) *Handler {
	c := *h
	c.fields = slices.Clone(h.fields)
	for _, a := range attrs {
		c.fields = addAttr(c.fields, group, a)
	}
	for i := range c.fields {
		if f := &c.fields[i]; f.rendered == nil {
			f.rendered = h.appendField(nil, *f)
			f.value = slog.Value{}
		}
	}
	return &c
}

// Handle writes one record as one line in one Write, and returns that Write's error.
func (h *Handler) Handle(_ context.Context, r slog.Record) error {
	at := r.Time
	if h.clock != nil && !at.IsZero() {
		at = h.clock()
	}
	l := h.out.lines.Get().(*line)
	l.fields = append(l.fields[:0], h.fields...)
	r.Attrs(func(a slog.Attr) bool {
		l.fields = addAttr(l.fields, h.group, a)
		return true
	})
	if h.json {
		h.buildJSON(l, at, r)
	} else {
		h.buildText(l, at, r)
	}

	h.out.mu.Lock()
	_, err := h.out.w.Write(l.buf)
	h.out.mu.Unlock()

	clear(l.fields) // let go of the record's values
	if cap(l.buf) <= maxPooled {
		h.out.lines.Put(l)
	}
	return err
}

func (h *Handler) buildText(l *line, at time.Time, r slog.Record) {
	b := l.buf[:0]
	if !at.IsZero() {
		b = append(b, `time="`...)
		b = at.AppendFormat(b, time.RFC3339Nano)
		b = append(b, `" `...)
	}
	b = append(b, "level="...)
	b = append(b, LevelWord(r.Level)...)
	if r.Message != "" {
		b = append(b, " msg="...)
		b = appendTextString(b, r.Message)
	}
	for _, f := range l.fields {
		b = append(b, ' ')
		b = h.appendField(b, f)
	}
	l.buf = append(b, '\n')
}

func (h *Handler) buildJSON(l *line, at time.Time, r slog.Record) {
	l.fields = place(l.fields, field{key: keyLevel, value: slog.StringValue(LevelWord(r.Level))})
	l.fields = place(l.fields, field{key: keyMsg, value: slog.StringValue(r.Message)})
	if !at.IsZero() {
		l.fields = place(l.fields, field{key: keyTime, value: slog.TimeValue(at)})
	}
	b := append(l.buf[:0], '{')
	for i, f := range l.fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = h.appendField(b, f)
	}
	l.buf = append(b, '}', '\n')
}

// appendField writes key=value or "key":value.
func (h *Handler) appendField(b []byte, f field) []byte {
	switch {
	case f.rendered != nil:
		return append(b, f.rendered...)
	case h.json:
		b = jsontext.AppendString(b, f.key)
		b = append(b, ':')
		return appendJSONValue(b, f.value)
	default:
		b = appendTextString(b, f.key)
		b = append(b, '=')
		return appendTextValue(b, f.value)
	}
}

// addAttr adds an attribute, or those of a group attribute, to sorted fields.
func addAttr(fields []field, group string, a slog.Attr) []field {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, member := range v.Group() {
			fields = addAttr(fields, group, member)
		}
		return fields
	}
	if a.Key == "" && v.Equal(slog.Value{}) {
		return fields // the zero Attr is ignored, as slog asks
	}
	key := a.Key
	if group != "" {
		key = group + key
	}
	switch key {
	case keyTime, keyLevel, keyMsg:
		key = "fields." + key
	}
	return place(fields, field{key: key, value: v})
}

// place puts f where it belongs in sorted fields, in place of one with the same key. Lines have few fields and most come in after
// the ones before them, so it searches from the end.
func place(fields []field, f field) []field {
	i := len(fields)
	for i > 0 && fields[i-1].key > f.key {
		i--
	}
	if i > 0 && fields[i-1].key == f.key {
		fields[i-1] = f
		return fields
	}
	return slices.Insert(fields, i, f)
}
