package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// FuzzServerBody sends bodies with the right framing and another request after them: whatever the handler does with the body,
// it is never taken for a request, nor the next request for a part of it.
func FuzzServerBody(f *testing.F) {
	f.Add([]byte("GET /inner HTTP/1.1\r\nHost: h\r\n\r\n"), true, uint8(0))
	f.Add([]byte("0\r\n\r\n"), false, uint8(1))
	f.Add([]byte(""), true, uint8(2))
	f.Fuzz(func(t *testing.T, body []byte, chunked bool, read uint8) {
		var paths []string
		s := NewServer(ServerOptions{Handler: func(x *Exchange) {
			paths = append(paths, x.Path())
			if x.Path() != "/body" {
				return
			}
			switch read % 3 {
			case 0:
				if got, err := x.ReadBody(); err != nil || !bytes.Equal(got, body) {
					t.Errorf("read %q, %v, want %q", got, err, body)
				}
			case 1:
				_, _ = x.BodyReader().Read(make([]byte, read))
			}
		}})
		var in bytes.Buffer
		if chunked {
			in.WriteString("POST /body HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
			for rest := body; len(rest) > 0; {
				n := min(len(rest), int(read)+1)
				fmt.Fprintf(&in, "%x\r\n%s\r\n", n, rest[:n])
				rest = rest[n:]
			}
			in.WriteString("0\r\n\r\n")
		} else {
			fmt.Fprintf(&in, "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
		in.WriteString("GET /after HTTP/1.1\r\nHost: h\r\n\r\n")
		s.ServeConn(&memoryConn{in: bytes.NewReader(in.Bytes())}, nil)
		if got := strings.Join(paths, " "); got != "/body /after" && len(body) < drainLimit {
			t.Errorf("the server saw the requests %s", got)
		}
	})
}

// FuzzServer feeds a server raw bytes: it must not panic, and what it answers must be whole responses.
func FuzzServer(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
		"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 60\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
		"HEAD /%zz?%zz HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
		"GET http://x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\r\n\r\n\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		panicked := false
		s := NewServer(ServerOptions{MaxBodyBytes: 1 << 16, HeaderTimeout: time.Second, Handler: func(x *Exchange) {
			defer func() {
				if p := recover(); p != nil {
					panicked = true
					panic(p)
				}
			}()
			_ = x.BadPath()
			for range x.Headers() {
			}
			body, err := x.ReadBody()
			if n := x.ContentLength(); err == nil && n >= 0 && int64(len(body)) != n {
				t.Errorf("a body of %d bytes was read as %d", n, len(body))
			}
			x.SetHeader("X-Path", strings.ToValidUTF8(x.Path(), "?"))
			x.Reply(body)
		}})
		conn := &memoryConn{in: bytes.NewReader(input)}
		s.ServeConn(conn, nil)
		if panicked {
			t.Fatal("the handler panicked")
		}
		// Whatever was answered is a sequence of whole responses.
		out := bufio.NewReader(&conn.out)
		for out.Buffered() > 0 || conn.out.Len() > 0 {
			resp, err := http.ReadResponse(out, &http.Request{Method: "GET"})
			if err != nil {
				if bytes.Contains(input, []byte("HEAD")) || bytes.Contains(input, []byte("CONNECT")) {
					return // a length without a body
				}
				t.Fatalf("the answers are out of step: %v", err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
		}
	})
}

// memoryConn is a connection whose client sent everything already.
type memoryConn struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (c *memoryConn) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *memoryConn) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *memoryConn) Close() error                     { return nil }
func (c *memoryConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }
