package app

import (
	"encoding/base64"
	"strings"

	"outrigger.dev/telemetry/tracing"
)

// decodeBin decodes the value of a "-bin" metadata key as it travels in an [invocation.Header]: standard base64, padded or
// not.
func decodeBin(value []byte) ([]byte, bool) {
	decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(string(value), "="))
	return decoded, err == nil
}

// textTraceContext turns the value of grpc-trace-bin, in base64, into a traceparent.
func textTraceContext(value []byte) (string, bool) {
	c, ok := tracing.ParseBase64(value)
	return c.Parent(), ok
}

// binaryTraceContext turns a traceparent into the value of grpc-trace-bin, as bytes.
func binaryTraceContext(traceparent []byte) (string, bool) {
	c, ok := tracing.ParseParent(traceparent)
	return c.Binary(), ok
}
