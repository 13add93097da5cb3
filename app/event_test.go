package app

import (
	"encoding/base64"
	"testing"
)

func TestEventTrace(t *testing.T) {
	const parent = "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01"
	const other = "00-0102030405060708090a0b0c0d0e0f10-0807060504030201-00"
	binary, ok := binaryTraceContext([]byte(parent))
	if !ok {
		t.Fatal("not a traceparent")
	}
	bin := base64.StdEncoding.EncodeToString([]byte(binary))
	for name, tc := range map[string]struct {
		event         map[string]string
		parent, state string
	}{
		"nothing":            {},
		"text":               {map[string]string{"traceparent": parent, "tracestate": "a=b"}, parent, "a=b"},
		"binary":             {map[string]string{"grpc-trace-bin": bin}, parent, ""},
		"binary comes first": {map[string]string{"grpc-trace-bin": bin, "traceparent": other, "tracestate": "a=b"}, parent, ""},
		"binary is broken":   {map[string]string{"grpc-trace-bin": "!", "traceparent": other}, other, ""},
		"a state alone":      {map[string]string{"tracestate": "a=b"}, "", ""},
	} {
		if p, s := EventTrace(tc.event); p != tc.parent || s != tc.state {
			t.Errorf("%s: %q %q, want %q %q", name, p, s, tc.parent, tc.state)
		}
	}
	md := TraceMetadata(parent, "a=b")
	if len(md) != 3 || md["traceparent"][0] != parent || md["grpc-trace-bin"][0] != binary || md["tracestate"][0] != "a=b" {
		t.Errorf("metadata %q", md)
	}
	if md := TraceMetadata(parent, "a=\n"); len(md) != 2 {
		t.Errorf("a state that gRPC cannot carry: %q", md)
	}
	for _, bad := range []string{"", "x", "00-0-0-00"} {
		if md := TraceMetadata(bad, "a=b"); md != nil {
			t.Errorf("%q: %q", bad, md)
		}
	}
}
