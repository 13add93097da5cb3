package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"outrigger.dev/api"
)

// testServer is a server on a listener of its own.
type testServer struct {
	*Server
	t       testing.TB
	address string
}

func serve(t testing.TB, o ServerOptions) *testServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{Server: NewServer(o), t: t, address: l.Addr().String()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.ServeConn(c, nil)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return s
}

// rawConn is a client that writes what it likes.
type rawConn struct {
	net.Conn
	t      testing.TB
	reader *bufio.Reader
}

func (s *testServer) dial() *rawConn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &rawConn{Conn: c, t: s.t, reader: bufio.NewReader(c)}
}

func (c *rawConn) send(text string) *rawConn {
	c.t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		c.t.Fatalf("write: %v", err)
	}
	return c
}

// response reads a response with its body.
func (c *rawConn) response(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.reader, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("no response: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("body after %q: %v", body, err)
	}
	return resp, string(body)
}

// closed waits for the server to close the connection and returns what came before.
func (c *rawConn) closed() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.reader)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		c.t.Fatalf("the connection is still open after %q", rest)
	}
	return string(rest)
}

func (c *rawConn) expect(method string, status int, body string) {
	c.t.Helper()
	resp, got := c.response(method)
	if resp.StatusCode != status || got != body {
		c.t.Errorf("got %d %q, want %d %q", resp.StatusCode, got, status, body)
	}
}

// echo answers with what it saw of the request.
func echo(x *Exchange) {
	body, err := x.ReadBody()
	if err != nil {
		x.SetStatus(500)
		x.Reply([]byte(err.Error()))
		return
	}
	x.SetHeader("Content-Type", "text/plain")
	x.Reply(fmt.Appendf(nil, "%s %s?%s %s", x.Method(), x.Path(), x.RawQuery(), body))
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestServerRequests(t *testing.T) {
	s := serve(t, ServerOptions{Handler: echo})
	chunks := strings.Repeat("5\r\nhello\r\n", 3)
	for name, test := range map[string]struct {
		request string
		status  int
		body    string
	}{
		"plain":             {"GET /a/b?c=d HTTP/1.1\r\nHost: h\r\n\r\n", 200, "GET /a/b?c=d "},
		"fixed body":        {"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", 200, "POST /a? abc"},
		"body of a GET":     {"GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", 200, "GET /a? abc"},
		"chunked":           {"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + "0\r\n\r\n", 200, "POST /a? hellohellohello"},
		"chunked GET":       {"GET /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + "0\r\n\r\n", 200, "GET /a? hellohellohello"},
		"chunks and length": {"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + "0\r\n\r\n", 200, "POST /a? hellohellohello"},
		"trailer":           {"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n", 200, "POST /a? hello"},
		"absolute form":     {"GET http://other:80/x/y?z=1 HTTP/1.1\r\nHost: h\r\n\r\n", 200, "GET /x/y?z=1 "},
		"absolute, no path": {"GET http://other HTTP/1.1\r\nHost: h\r\n\r\n", 200, "GET /? "},
		"escapes":           {"GET /a%20b%2Fc?d%20e HTTP/1.1\r\nHost: h\r\n\r\n", 200, "GET /a b/c?d%20e "},
		"bad escape":        {"GET /a%zz HTTP/1.1\r\nHost: h\r\n\r\n", 200, "GET /a%zz? "},
		"asterisk":          {"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 200, "OPTIONS *? "},
		"odd verb":          {"PROPFIND /a HTTP/1.1\r\nHost: h\r\n\r\n", 200, "PROPFIND /a? "},
		"dots stay":         {"GET /a/../b//c HTTP/1.1\r\nHost: h\r\n\r\n", 200, "GET /a/../b//c? "},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial()
			c.t = t
			c.send(test.request)
			c.expect("GET", test.status, test.body)
			// The connection is in step: the next request is understood.
			c.send("GET /next HTTP/1.1\r\nHost: h\r\n\r\n").expect("GET", 200, "GET /next? ")
		})
	}
}

func TestServerRefuses(t *testing.T) {
	s := serve(t, ServerOptions{Handler: echo, MaxHeaderBytes: 4096})
	for name, test := range map[string]struct {
		request string
		status  int
	}{
		"large header":   {"GET / HTTP/1.1\r\nHost: h\r\nX-A: " + strings.Repeat("a", 5000) + "\r\n\r\n", 431},
		"large target":   {"GET /" + strings.Repeat("a", 5000) + " HTTP/1.1\r\nHost: h\r\n\r\n", 431},
		"no host":        {"GET / HTTP/1.1\r\n\r\n", 400},
		"bad length":     {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", 400},
		"two lengths":    {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
		"unknown coding": {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 400},
		"no request":     {"hello\r\n\r\n", 400},
		"space in name":  {"GET / HTTP/1.1\r\nHost: h\r\nX A : b\r\n\r\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial()
			c.t = t
			c.send(test.request)
			resp, _ := c.response("GET")
			if resp.StatusCode != test.status || !resp.Close {
				t.Errorf("status %d, close %v, want %d and close", resp.StatusCode, resp.Close, test.status)
			}
			c.closed()
		})
	}
}

func TestServerBodyLimit(t *testing.T) {
	s := serve(t, ServerOptions{MaxBodyBytes: 20 << 10, Handler: func(x *Exchange) {
		var err error
		if x.Path() == "/stream" {
			_, err = io.Copy(io.Discard, x.BodyReader())
		} else {
			_, err = x.ReadBody()
		}
		if errors.Is(err, api.ErrBodyTooLarge) {
			x.SetStatus(413)
		} else if err != nil {
			x.SetStatus(500)
		}
	}})
	for _, path := range []string{"/whole", "/stream"} {
		for _, test := range []struct {
			size   int
			status int
		}{{10, 200}, {20 << 10, 200}, {20<<10 + 1, 413}, {200 << 10, 413}} {
			body := strings.Repeat("x", test.size)
			t.Run(fmt.Sprintf("%s fixed %d", path, test.size), func(t *testing.T) {
				c := s.dial()
				go func() {
					_, _ = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", path, test.size, body)
				}()
				if resp, _ := c.response("POST"); resp.StatusCode != test.status {
					t.Errorf("status %d, want %d", resp.StatusCode, test.status)
				}
			})
			t.Run(fmt.Sprintf("%s chunked %d", path, test.size), func(t *testing.T) {
				c := s.dial()
				go func() {
					_, _ = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", path, test.size, body)
				}()
				if resp, _ := c.response("POST"); resp.StatusCode != test.status {
					t.Errorf("status %d, want %d", resp.StatusCode, test.status)
				}
			})
		}
	}
}

func TestServerUnreadBody(t *testing.T) {
	s := serve(t, ServerOptions{Handler: func(x *Exchange) { x.Reply([]byte(x.Path())) }})
	for _, size := range []int{1, 100, 8 << 10, 8<<10 + 1, 100 << 10, 256 << 10} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d %v", size, chunked), func(t *testing.T) {
				c := s.dial()
				body := strings.Repeat("x", size)
				request := fmt.Sprintf("POST /first HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", size, body)
				if chunked {
					request = fmt.Sprintf("POST /first HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", size, body)
				}
				c.send(request)
				resp, _ := c.response("POST")
				if resp.Close {
					if size < 256<<10 {
						t.Error("the connection was given up")
					}
					return
				}
				c.send("GET /second HTTP/1.1\r\nHost: h\r\n\r\n").expect("GET", 200, "/second")
			})
		}
	}
	t.Run("too long to drain", func(t *testing.T) {
		c := s.dial()
		c.send("POST /first HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\nabc")
		if resp, body := c.response("POST"); !resp.Close || body != "/first" {
			t.Errorf("close %v, body %q", resp.Close, body)
		}
		c.closed()
	})
}

func TestServerPipelining(t *testing.T) {
	s := serve(t, ServerOptions{Handler: echo})
	c := s.dial()
	var all strings.Builder
	for i := range 20 {
		fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n%02d", i, i)
	}
	c.send(all.String())
	for i := range 20 {
		c.expect("POST", 200, fmt.Sprintf("POST /%d? %02d", i, i))
	}
}

func TestServerFirstBytes(t *testing.T) {
	s := NewServer(ServerOptions{Handler: echo})
	client, server := net.Pipe()
	go s.ServeConn(server, []byte("GET /sniffed HT"))
	_ = client.SetDeadline(time.Now().Add(10 * time.Second))
	go func() { _, _ = client.Write([]byte("TP/1.1\r\nHost: h\r\n\r\n")) }()
	c := &rawConn{Conn: client, t: t, reader: bufio.NewReader(client)}
	c.expect("GET", 200, "GET /sniffed? ")
	_ = client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func TestServerSlowHeader(t *testing.T) {
	s := serve(t, ServerOptions{Handler: echo, HeaderTimeout: 100 * time.Millisecond})
	for name, request := range map[string]string{"silent": "", "half a header": "GET / HTTP/1.1\r\nHo"} {
		t.Run(name, func(t *testing.T) {
			c := s.dial()
			c.t = t
			c.send(request)
			start := time.Now()
			if rest := c.closed(); rest != "" {
				t.Errorf("the server answered %q", rest)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("closed after %s", took)
			}
		})
	}
	t.Run("second request", func(t *testing.T) {
		c := s.dial()
		c.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").expect("GET", 200, "GET /a? ")
		c.send("GET /b HT").closed()
	})
	t.Run("a slow body has time", func(t *testing.T) {
		c := s.dial()
		c.send("POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
		<-time.After(250 * time.Millisecond) // longer than the header may take
		c.send("1\r\nb\r\n0\r\n\r\n").expect("POST", 200, "POST /a? ab")
	})
	t.Run("an unused connection stays", func(t *testing.T) {
		c := s.dial()
		c.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").expect("GET", 200, "GET /a? ")
		<-time.After(250 * time.Millisecond)
		c.send("GET /b HTTP/1.1\r\nHost: h\r\n\r\n").expect("GET", 200, "GET /b? ")
	})
}

func TestServerBodilessReplies(t *testing.T) {
	s := serve(t, ServerOptions{Handler: func(x *Exchange) {
		if x.Path() == "/204" {
			x.SetStatus(204)
		}
		if x.RawQuery() == "stream" {
			x.ReplyStream(io.NopCloser(strings.NewReader("hello")), 5)
		} else if x.RawQuery() == "chunked" {
			x.ReplyStream(io.NopCloser(strings.NewReader("hello")), -1)
		} else {
			x.Reply([]byte("hello"))
		}
	}})
	for _, query := range []string{"", "?stream", "?chunked"} {
		c := s.dial()
		c.send("HEAD /a" + query + " HTTP/1.1\r\nHost: h\r\n\r\n")
		resp, body := c.response("HEAD")
		if body != "" || query != "?chunked" && resp.Header.Get("Content-Length") != "5" {
			t.Errorf("HEAD %s: %v %q", query, resp.Header, body)
		}
		c.send("GET /204"+query+" HTTP/1.1\r\nHost: h\r\n\r\n").expect("GET", 204, "")
		c.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").expect("GET", 200, "hello")
	}
}

func TestServerReplyHeader(t *testing.T) {
	s := serve(t, ServerOptions{Handler: func(x *Exchange) {
		x.AddHeader([]byte("Set-Cookie"), []byte("a=1; Path=/"))
		x.AddHeader([]byte("Set-Cookie"), []byte("a=2"))
		x.AddHeader([]byte("X-Split"), []byte("a\r\nX-Evil: 1"))
		x.SetHeader("X-Set", "a\r\nX-Evil: 2")
		x.SetHeader("X-One", "1")
		x.SetHeader("X-One", "2")
		x.SetStatus(201)
	}})
	c := s.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	resp, _ := c.response("GET")
	if got := resp.Header.Values("Set-Cookie"); len(got) != 2 || got[0] != "a=1; Path=/" || got[1] != "a=2" {
		t.Errorf("Set-Cookie %q", got)
	}
	if resp.Header.Get("X-Evil") != "" {
		t.Error("a header value could add a header")
	}
	if got := resp.Header.Values("X-One"); resp.StatusCode != 201 || len(got) != 1 || got[0] != "2" {
		t.Errorf("%d, X-One %q", resp.StatusCode, got)
	}
	if _, ok := resp.Header["Content-Type"]; ok {
		t.Errorf("Content-Type %q was made up", resp.Header["Content-Type"])
	}
}
