package main

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestResponses(t *testing.T) {
	long := strings.Repeat("x", 40<<10)
	tests := []struct {
		name, in     string
		status, body int
		err          string
	}{
		{"length", "HTTP/1.1 200 OK\r\nServer: a\r\ncontent-length: 3\r\n\r\nabc", 200, 3, ""},
		{"long", "HTTP/1.1 200 OK\r\nContent-Length:40960\r\n\r\n" + long, 200, 40 << 10, ""},
		{"no content", "HTTP/1.1 204 No Content\r\n\r\n", 204, 0, ""},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0a\r\n0123456789\r\n0\r\nTrailer: z\r\n\r\n", 200, 13, ""},
		{"error", "HTTP/1.0 500 \r\nContent-Length: 0\r\n\r\n", 500, 0, ""},
		{"no length", "HTTP/1.1 200 OK\r\nA: b\r\n\r\nabc", 0, 0, "without Content-Length"},
		{"negative", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 0, 0, "not a length"},
		{"not HTTP", "PRI * HTTP/2.0\r\n\r\n", 0, 0, "not an HTTP/1.1 reply"},
		{"status", "HTTP/1.1 abc OK\r\n\r\n", 0, 0, "not a status"},
		{"chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 0, 0, "not a chunk's size"},
		{"chunk end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 0, 0, "after a chunk"},
		{"cut", "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nab", 0, 0, "EOF"},
		{"head", "HTTP/1.1 200 OK\r\nA: " + long, 0, 0, "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Twice, byte by byte, so that a reply is seen to end where it does.
			for _, in := range []io.Reader{strings.NewReader(tt.in + tt.in), iotest.OneByteReader(strings.NewReader(tt.in + tt.in))} {
				r := newResponses(in)
				for range 2 {
					status, body, err := r.read()
					if tt.err != "" {
						if err == nil || !strings.Contains(err.Error(), tt.err) {
							t.Fatalf("error %v instead of %q", err, tt.err)
						}
						break
					}
					if err != nil || status != tt.status || body != tt.body {
						t.Fatalf("status %d, body %d, error %v; want %d, %d", status, body, err, tt.status, tt.body)
					}
				}
			}
		})
	}
}

func FuzzResponses(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	f.Fuzz(func(t *testing.T, in string) {
		whole := newResponses(strings.NewReader(in))
		parts := newResponses(iotest.OneByteReader(strings.NewReader(in)))
		for range 3 {
			s1, b1, err1 := whole.read()
			s2, b2, err2 := parts.read()
			if (err1 == nil) != (err2 == nil) || err1 == nil && (s1 != s2 || b1 != b2) {
				t.Fatalf("at once %d, %d, %v; in parts %d, %d, %v", s1, b1, err1, s2, b2, err2)
			}
			if err1 != nil {
				return
			}
		}
	})
}
