package tracing

import (
	"strings"

	"go.opentelemetry.io/otel/trace"
)

// Context is what travels of a span: its identity and what its trace asks of those that take part. The zero value is none.
type Context struct {
	TraceID trace.TraceID
	SpanID  trace.SpanID
	// Flags are trace-flags of W3C Trace Context; of the bits, sampled and random are known.
	Flags trace.TraceFlags
	// State is the tracestate, "" for none. It is valid if it was made by [ParseState].
	State string
}

// knownFlags are the bits of the flags that have a meaning; others must not be passed on (W3C Trace Context, trace-flags).
const knownFlags = trace.FlagsSampled | trace.FlagsRandom

// Lengths of the two forms of a context.
const (
	parentSize = 55
	binarySize = 29
)

// Valid reports whether it is the context of a span: neither ID is zero.
func (c *Context) Valid() bool { return c.TraceID.IsValid() && c.SpanID.IsValid() }

// Sampled reports whether the trace is recorded.
func (c *Context) Sampled() bool { return c.Flags.IsSampled() }

// ParseParent reads a traceparent: version 00 to fe, exactly four fields for version 00, no zero IDs (Dapr API, tracing: context
// formats). Spaces around it are ignored.
func ParseParent[T string | []byte](text T) (c Context, ok bool) {
	for len(text) > 0 && (text[0] == ' ' || text[0] == '\t') {
		text = text[1:]
	}
	for len(text) > 0 && (text[len(text)-1] == ' ' || text[len(text)-1] == '\t') {
		text = text[:len(text)-1]
	}
	if len(text) < parentSize || text[2] != '-' || text[35] != '-' || text[52] != '-' {
		return Context{}, false
	}
	var version, flags [1]byte
	if !unhex(version[:], text[:2]) || version[0] == 0xff || !unhex(c.TraceID[:], text[3:35]) || !unhex(c.SpanID[:], text[36:52]) || !unhex(flags[:], text[53:55]) {
		return Context{}, false
	}
	if len(text) > parentSize && (version[0] == 0 || text[parentSize] != '-') {
		return Context{}, false
	}
	c.Flags = trace.TraceFlags(flags[0]) & knownFlags
	if !c.Valid() {
		return Context{}, false
	}
	return c, true
}

// unhex decodes lower-case hexadecimal text of twice the length of dst.
func unhex[T string | []byte](dst []byte, text T) bool {
	for i := range dst {
		high, low := nibble(text[2*i]), nibble(text[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}

func nibble(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

const digits = "0123456789abcdef"

// AppendParent appends the traceparent to dst.
func (c *Context) AppendParent(dst []byte) []byte {
	dst = append(dst, "00-"...)
	dst = appendHex(dst, c.TraceID[:])
	dst = append(dst, '-')
	dst = appendHex(dst, c.SpanID[:])
	return append(dst, '-', digits[c.Flags>>4], digits[c.Flags&15])
}

func appendHex(dst, b []byte) []byte {
	for _, x := range b {
		dst = append(dst, digits[x>>4], digits[x&15])
	}
	return dst
}

// Parent is the traceparent, "" when the context is not valid.
func (c *Context) Parent() string {
	if !c.Valid() {
		return ""
	}
	var text [parentSize]byte
	return string(c.AppendParent(text[:0]))
}

// ParseBinary reads the bytes of a grpc-trace-bin: version 0, then field 0 with the trace ID, field 1 with the span ID and field 2
// with the flags, of which the latter two may be missing (Dapr API, tracing: context formats). A context without a span ID is not
// valid, and so is of no use to anybody.
func ParseBinary[T string | []byte](b T) (c Context, ok bool) {
	if len(b) < 18 || b[0] != 0 || b[1] != 0 {
		return Context{}, false
	}
	copy(c.TraceID[:], b[2:18])
	b = b[18:]
	if len(b) >= 9 && b[0] == 1 {
		copy(c.SpanID[:], b[1:9])
		b = b[9:]
	}
	if len(b) >= 2 && b[0] == 2 {
		c.Flags = trace.TraceFlags(b[1]) & knownFlags
	}
	if !c.Valid() {
		return Context{}, false
	}
	return c, true
}

// AppendBinary appends the bytes of the grpc-trace-bin to dst.
func (c *Context) AppendBinary(dst []byte) []byte {
	dst = append(dst, 0, 0)
	dst = append(dst, c.TraceID[:]...)
	dst = append(dst, 1)
	dst = append(dst, c.SpanID[:]...)
	return append(dst, 2, byte(c.Flags))
}

// Binary are the bytes of the grpc-trace-bin, "" when the context is not valid.
func (c *Context) Binary() string {
	if !c.Valid() {
		return ""
	}
	var b [binarySize]byte
	return string(c.AppendBinary(b[:0]))
}

// Limits of a tracestate (W3C Trace Context, tracestate). One member has at most 256 characters on either side of its "=".
const (
	maxStateMembers = 32
	maxStatePart    = 256
	// MaxResponseState is up to how many characters a reply carries a tracestate (Dapr API, tracing: context formats).
	MaxResponseState = 512
)

// ParseState holds a tracestate against its grammar and limits and returns it without spaces around it and empty members; "" when it is none, for
// then it is to be dropped as a whole.
func ParseState[T string | []byte](text T) string {
	if len(text) == 0 || len(text) > maxStateMembers*(2*maxStatePart+2) {
		return ""
	}
	state := strings.Trim(string(text), " \t")
	count, blank := 0, false
	for rest, more := state, true; more; {
		var member string
		member, rest, more = strings.Cut(rest, ",")
		if member = strings.Trim(member, " \t"); member == "" { // which is allowed, but not liked
			blank = true
			continue
		}
		key, value, _ := strings.Cut(member, "=")
		if count++; count > maxStateMembers || !validStateKey(key) || !validStateValue(value) || repeats(state[:len(state)-len(rest)], key) {
			return ""
		}
	}
	switch {
	case count == 0:
		return ""
	case blank:
		return withoutBlanks(state)
	}
	return state
}

// withoutBlanks is a list of members without those that are empty.
func withoutBlanks(state string) string {
	kept := make([]string, 0, maxStateMembers)
	for member := range strings.SplitSeq(state, ",") {
		if member = strings.Trim(member, " \t"); member != "" {
			kept = append(kept, member)
		}
	}
	return strings.Join(kept, ",")
}

// repeats reports whether a key stands more than once in a list of members.
func repeats(members, key string) bool {
	n := 0
	for member := range strings.SplitSeq(members, ",") {
		if name, _, _ := strings.Cut(strings.Trim(member, " \t"), "="); name == key {
			n++
		}
	}
	return n > 1
}

func validStateKey(key string) bool {
	tenant, system, multi := strings.Cut(key, "@")
	if !multi {
		return validKeyPart(key, maxStatePart) && 'a' <= key[0] && key[0] <= 'z'
	}
	return validKeyPart(tenant, 241) && validKeyPart(system, 14) && 'a' <= system[0] && system[0] <= 'z'
}

// validKeyPart checks one side of the "@" of a key, or a key without it.
func validKeyPart(part string, limit int) bool {
	if part == "" || len(part) > limit {
		return false
	}
	for i := range len(part) {
		c := part[i]
		letter := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || strings.IndexByte("_-*/", c) < 0) {
			return false
		}
	}
	return true
}

func validStateValue(value string) bool {
	if value == "" || len(value) > maxStatePart {
		return false
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == '=' {
			return false
		}
	}
	return true
}
