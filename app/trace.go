package app

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// decodeBin decodes the value of a "-bin" metadata key as it travels in an [invocation.Header]: standard base64, padded or
// not.
func decodeBin(value []byte) ([]byte, bool) {
	decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(string(value), "="))
	return decoded, err == nil
}

// textTraceContext turns the value of grpc-trace-bin, in base64, into a traceparent. The binary form is version 0, then
// field 0 with the trace ID, field 1 with the span ID and field 2 with the flags (Dapr API, tracing: context formats).
func textTraceContext(value []byte) (string, bool) {
	if len(value) == 0 {
		return "", false
	}
	b, ok := decodeBin(value)
	if !ok || len(b) < 18 || b[0] != 0 || b[1] != 0 {
		return "", false
	}
	var span [8]byte
	var flags byte
	trace, rest := b[2:18], b[18:]
	if len(rest) >= 9 && rest[0] == 1 {
		copy(span[:], rest[1:9])
		rest = rest[9:]
	}
	if len(rest) >= 2 && rest[0] == 2 {
		flags = rest[1]
	}
	if allZero(trace) || allZero(span[:]) {
		return "", false
	}
	text := make([]byte, 0, 55)
	text = append(text, "00-"...)
	text = hex.AppendEncode(text, trace)
	text = append(text, '-')
	text = hex.AppendEncode(text, span[:])
	text = append(text, '-')
	text = hex.AppendEncode(text, []byte{flags})
	return string(text), true
}

// binaryTraceContext turns a traceparent into the value of grpc-trace-bin, as bytes.
func binaryTraceContext(traceparent []byte) (string, bool) {
	fields := strings.Split(strings.TrimSpace(string(traceparent)), "-")
	if len(fields) < 4 || len(fields[0]) != 2 || len(fields[1]) != 32 || len(fields[2]) != 16 || len(fields[3]) != 2 ||
		fields[0] == "ff" || fields[0] == "00" && len(fields) != 4 {
		return "", false
	}
	b := make([]byte, 0, 29)
	b = append(b, 0, 0)
	for i, field := range fields[1:4] {
		if i > 0 {
			b = append(b, byte(i))
		}
		decoded, err := hex.DecodeString(field)
		if err != nil || i < 2 && allZero(decoded) {
			return "", false
		}
		b = append(b, decoded...)
	}
	return string(b), true
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
