package mesh

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
)

// headerOf reads lines "name: value".
func headerOf(lines string) (h invocation.Header) {
	for line := range strings.SplitSeq(lines, "\n") {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

// checkEncoding compares the direct encoding of a header with that of the map.
func checkEncoding(t *testing.T, h invocation.Header) {
	t.Helper()
	message := &internalsv1.InternalInvokeRequest{Ver: 1, Message: &commonv1.InvokeRequest{Method: "m"}}
	raw, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	var got internalsv1.InternalInvokeRequest
	if err := proto.Unmarshal(appendHeader(raw, h), &got); err != nil {
		t.Fatal(err)
	}
	if message.Metadata = toMap(h, 0); !proto.Equal(&got, message) {
		t.Errorf("got %v, want %v", &got, message)
	}
}

// checkDecoding compares the direct decoding of a message with the usual one.
func checkDecoding(t *testing.T, raw []byte) {
	t.Helper()
	var want internalsv1.InternalInvokeRequest
	failure := proto.Unmarshal(raw, &want)
	h, rest, err := splitHeader(raw)
	if errors.Is(err, errManyEntries) {
		return
	}
	var got internalsv1.InternalInvokeRequest
	if err == nil {
		err = proto.Unmarshal(rest, &got)
	}
	if failure != nil {
		if err == nil {
			t.Errorf("it is decoded in spite of: %v", failure)
		}
		return
	}
	if err != nil {
		t.Fatalf("it is not decoded: %v", err)
	}
	if a, b := headerLines(onlyPassed(h)), headerLines(fromMap(want.Metadata)); !slices.Equal(a, b) {
		t.Errorf("the header is %q, want %q", a, b)
	}
	if want.Metadata = nil; !proto.Equal(&got, &want) {
		t.Errorf("the rest is %v, want %v", &got, &want)
	}
}

func TestWireHeader(t *testing.T) {
	for _, lines := range []string{
		"", "A: 1", "A: 1\nB: 2\nA: 3\na: 4", "Connection: x\nContent-Type: y\nOutrigger-Status: z\nA: ", "\xff: \xfe\nA: \xe9", ": x",
		"A: " + strings.Repeat("long", 1000) + "\nA: " + strings.Repeat("x", 127) + "\nA: " + strings.Repeat("x", 128),
	} {
		checkEncoding(t, headerOf(lines))
		raw, err := proto.Marshal(&internalsv1.InternalInvokeRequest{Ver: 1, Metadata: toMap(headerOf(lines), 0), Actor: &internalsv1.Actor{ActorType: "T"}})
		if err != nil {
			t.Fatal(err)
		}
		checkDecoding(t, raw)
		more := append(appendHeader(slices.Clone(raw), headerOf("A: again\nC: 1")), raw...)
		checkDecoding(t, more)
	}
	var many invocation.Header
	for i := range maxDirect + 1 {
		many.Add(fmt.Sprint("X-", i), "1")
	}
	checkEncoding(t, many)
	if _, _, err := splitHeader(appendHeader(nil, many)); !errors.Is(err, errManyEntries) {
		t.Errorf("many entries: %v", err)
	}
	if _, _, err := splitHeader(appendHeader(nil, many[1:])); err != nil {
		t.Errorf("as many as may be: %v", err)
	}
}

func FuzzWireHeader(f *testing.F) {
	raw, err := proto.Marshal(&internalsv1.InternalInvokeRequest{Ver: 1, Metadata: toMap(headerOf("A: 1\nB: 2\nB: 3"), 0), Message: &commonv1.InvokeRequest{Method: "m"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, "A: 1\nB: 2\nB: 3")
	f.Add([]byte{0x12, 0}, "")
	f.Fuzz(func(t *testing.T, raw []byte, lines string) {
		checkDecoding(t, raw)
		h := headerOf(lines)
		for _, f := range h {
			if !utf8.Valid(f.Name) { // no name of a header; as ISO 8859-1 it could be that of another
				return
			}
		}
		checkEncoding(t, h)
	})
}
