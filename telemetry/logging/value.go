package logging

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"time"

	"outrigger.dev/jsontext"
)

// appendTextString writes s bare if it holds only letters, digits and -._/@^+, else as a quoted Go string. An empty string is
// written as nothing. These are the rules of Dapr's text lines; since quoting escapes line ends, no value can forge a line.
func appendTextString(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			continue
		}
		switch c {
		case '-', '.', '_', '/', '@', '^', '+':
		default:
			return strconv.AppendQuote(b, s)
		}
	}
	return append(b, s...)
}

// appendTextValue writes a resolved value that is not a group, by the rules of [appendTextString].
func appendTextValue(b []byte, v slog.Value) []byte {
	switch v.Kind() {
	case slog.KindString:
		return appendTextString(b, v.String())
	case slog.KindInt64:
		return strconv.AppendInt(b, v.Int64(), 10)
	case slog.KindUint64:
		return strconv.AppendUint(b, v.Uint64(), 10)
	case slog.KindFloat64:
		return strconv.AppendFloat(b, v.Float64(), 'g', -1, 64)
	case slog.KindBool:
		return strconv.AppendBool(b, v.Bool())
	case slog.KindDuration:
		return appendTextString(b, v.Duration().String())
	case slog.KindTime:
		b = append(b, '"')
		b = v.Time().AppendFormat(b, time.RFC3339Nano)
		return append(b, '"')
	default:
		return appendTextString(b, fmt.Sprint(v.Any()))
	}
}

// appendJSONValue writes a resolved value that is not a group as JSON. An error is its text, a duration its nanoseconds; a value
// that JSON cannot hold is the text fmt gives it.
func appendJSONValue(b []byte, v slog.Value) []byte {
	switch v.Kind() {
	case slog.KindString:
		return jsontext.AppendString(b, v.String())
	case slog.KindInt64:
		return strconv.AppendInt(b, v.Int64(), 10)
	case slog.KindUint64:
		return strconv.AppendUint(b, v.Uint64(), 10)
	case slog.KindFloat64:
		return appendJSONFloat(b, v.Float64())
	case slog.KindBool:
		return strconv.AppendBool(b, v.Bool())
	case slog.KindDuration:
		return strconv.AppendInt(b, int64(v.Duration()), 10)
	case slog.KindTime:
		b = append(b, '"')
		b = v.Time().AppendFormat(b, time.RFC3339Nano)
		return append(b, '"')
	default:
		return appendJSONAny(b, v.Any())
	}
}

func appendJSONAny(b []byte, v any) []byte {
	if err, ok := v.(error); ok {
		return jsontext.AppendString(b, fmt.Sprint(err)) // Sprint survives an Error method that panics
	}
	text, err := marshal(v)
	if err != nil {
		return jsontext.AppendString(b, fmt.Sprint(v))
	}
	return append(b, text...)
}

// marshal is json.Marshal, with a panic of a value's own method turned into an error: a log line must not end a request.
func marshal(v any) (text []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("marshal %T: %v", v, p)
		}
	}()
	return json.Marshal(v)
}

// appendJSONFloat writes f as encoding/json does, and the numbers JSON does not know as strings.
func appendJSONFloat(b []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		b = append(b, '"')
		b = strconv.AppendFloat(b, f, 'g', -1, 64)
		return append(b, '"')
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	b = strconv.AppendFloat(b, f, format, -1, 64)
	// e-09 is written e-9.
	if n := len(b); format == 'e' && n >= 4 && b[n-4] == 'e' && b[n-3] == '-' && b[n-2] == '0' {
		b[n-2] = b[n-1]
		b = b[:n-1]
	}
	return b
}
