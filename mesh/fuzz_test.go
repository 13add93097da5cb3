package mesh

import (
	"bufio"
	"bytes"
	"iter"
	"net/url"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
	"google.golang.org/protobuf/proto"

	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
)

// lines makes a header of "name: value" lines.
func lines(raw string) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		for line := range strings.SplitSeq(raw, "\n") {
			name, value, _ := strings.Cut(line, ":")
			if !yield([]byte(name), []byte(strings.TrimSpace(value))) {
				return
			}
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add("/a/b", "x=1", "Outrigger-Exchange: 1\nX-A: 1\nContent-Type: a/b", true)
	f.Add("/", "", "outrigger-verb: NONE\nOutrigger-Type-Url: %zz\nConnection: close\n:\n", false)
	f.Fuzz(func(t *testing.T, path, query, raw string, grpc bool) {
		origin := invocation.FromHTTP
		if grpc {
			origin = invocation.FromGRPC
		}
		req := parseRequest("POST", path, query, lines(raw), origin)
		for _, field := range req.Header {
			if isReserved(field.Name) || invocation.HopByHop(field.Name) {
				t.Errorf("%q was passed on", field.Name)
			}
			if grpc && !bytes.Equal(field.Name, bytes.ToLower(field.Name)) && isASCII(field.Name) {
				t.Errorf("%q is not in lower case", field.Name)
			}
		}
	})
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

func FuzzParseResponse(f *testing.F) {
	f.Add(200, "Outrigger-Exchange: app\nX-A: 1")
	f.Add(200, "Outrigger-Exchange: grpc\nOutrigger-Status: 5\nOutrigger-Message: a%20b\nOutrigger-Details: AAAA\nOutrigger-Trailer-X: 1")
	f.Add(500, "Outrigger-Exchange: error\nOutrigger-Status: 13\nOutrigger-Message: %")
	f.Fuzz(func(t *testing.T, status int, raw string) {
		resp, failure, err := parseResponse(status, lines(raw))
		n := 0
		for _, ok := range []bool{resp != nil, failure != nil, err != nil} {
			if ok {
				n++
			}
		}
		if n != 1 {
			t.Fatalf("answer %v, failure %v, error %v", resp, failure, err)
		}
		if resp == nil {
			return
		}
		for _, field := range resp.Header {
			if isReserved(field.Name) || invocation.HopByHop(field.Name) {
				t.Errorf("%q was passed on", field.Name)
			}
		}
	})
}

func FuzzTarget(f *testing.F) {
	f.Add("a b/ž/%41?#", "x=1 2\r\n")
	f.Fuzz(func(t *testing.T, method, query string) {
		target := string(appendTarget(nil, method, query))
		path, q, _ := strings.Cut(target, "?")
		decoded, err := url.PathUnescape(path)
		if err != nil || decoded != "/"+method {
			t.Errorf("%q became %q, then %q, %v", method, target, decoded, err)
		}
		var h fasthttp.RequestHeader
		if err := h.Read(bufio.NewReaderSize(strings.NewReader("GET "+target+" HTTP/1.1\r\nHost: h\r\n\r\n"), 2*len(target)+100)); err != nil {
			t.Errorf("%q is no target: %v", target, err)
		}
		if strings.ContainsAny(q, " \r\n\x00") {
			t.Errorf("query %q", q)
		}
	})
}

func FuzzText(f *testing.F) {
	f.Add(" 100% ž\r\n ")
	f.Fuzz(func(t *testing.T, s string) {
		encoded := encodeText(s)
		if got, want := decodeText([]byte(encoded)), strings.ToValidUTF8(s, "\ufffd"); got != want && strings.ToValidUTF8(got, "\ufffd") != want {
			t.Errorf("%q became %q, then %q", s, encoded, got)
		}
		if strings.TrimSpace(encoded) != encoded || !isASCII([]byte(encoded)) || strings.ContainsAny(encoded, "\r\n") {
			t.Errorf("%q is no header value", encoded)
		}
	})
}

// FuzzLeading feeds what a peer could send as the messages of a call.
func FuzzLeading(f *testing.F) {
	seed, err := proto.Marshal(leading(map[string]string{"Content-Length": "3", "accept": "text/event-stream", "content-type": "application/grpc"}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, []byte{}, uint64(0))
	f.Add([]byte{}, seed, uint64(1))
	f.Fuzz(func(t *testing.T, request, response []byte, seq uint64) {
		var in internalsv1.InternalInvokeRequest
		if proto.Unmarshal(request, &in) == nil {
			req, length, err := receive(&in)
			if (req == nil) != (err != nil) || length < -1 {
				t.Errorf("%v, %d, %v", req, length, err)
			}
			if req != nil {
				for _, field := range req.Header {
					if isReserved(field.Name) || invocation.HopByHop(field.Name) || invocation.Is(field.Name, "content-length") {
						t.Errorf("%q was passed on", field.Name)
					}
				}
				if back := toInternal(req); len(back.GetMetadata()) == 0 {
					t.Error("an empty map")
				} else if _, err := proto.Marshal(back); err != nil {
					t.Error(err)
				}
			}
		}
		var out internalsv1.InternalInvokeResponse
		if proto.Unmarshal(response, &out) == nil {
			fromInternalResponse(&out, &invocation.Request{EventStream: seq%2 == 0})
		}
		var s payloads
		if _, err := s.next(payload(seq, "x")); (err == nil) != (seq == 0) {
			t.Errorf("sequence %d: %v", seq, err)
		}
	})
}
