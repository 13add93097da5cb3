package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long until %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// rawServer answers on raw connections: serve gets each connection with its number, from 1.
func rawServer(t *testing.T, serve func(n int, c net.Conn, r *bufio.Reader)) (client *Client, dials *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	running.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			running.Go(func() {
				defer c.Close()
				serve(n, c, bufio.NewReader(c))
			})
		}
	})
	client, dials = dialing(l.Addr().String(), Options{})
	t.Cleanup(func() {
		client.Abort()
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return client, dials
}

func dialing(address string, o Options) (*Client, *atomic.Int32) {
	dials := new(atomic.Int32)
	o.Dial = func(ctx context.Context) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	return New(o), dials
}

func httpServer(t *testing.T, o Options, h http.HandlerFunc) (*Client, *atomic.Int32) {
	t.Helper()
	s := httptest.NewServer(h)
	client, dials := dialing(s.Listener.Addr().String(), o)
	t.Cleanup(func() {
		client.Abort()
		s.Close()
	})
	return client, dials
}

// skipRequest reads a request without a body.
func skipRequest(r *bufio.Reader) bool {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		if line == "\r\n" {
			return true
		}
	}
}

func do(t *testing.T, c *Client, method, target string, body []byte) (status int, text string, err error) {
	t.Helper()
	req := NewRequest(method, []byte(target), "app")
	defer req.Release()
	req.Body = body
	resp, err := c.Do(t.Context(), req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Close()
	b, err := resp.ReadAll(nil, 0)
	return resp.Status(), string(b), err
}

func TestBodiesAndReuse(t *testing.T) {
	large := strings.Repeat("x", 300_000)
	tests := map[string]struct {
		response string
		body     string
		length   int64
		reused   bool
		cut      bool
	}{
		"fixed":                  {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 5, true, false},
		"empty":                  {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", 0, true, false},
		"no content":             {"HTTP/1.1 204 No Content\r\n\r\n", "", 0, true, false},
		"chunked":                {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "hello", -1, true, false},
		"chunked with trailer":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n", "hello", -1, true, false},
		"large":                  {"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + large, large, 300000, true, false},
		"identity":               {"HTTP/1.1 200 OK\r\n\r\nhello", "hello", -1, false, false},
		"HTTP/1.0":               {"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 5, false, false},
		"HTTP/1.0 kept alive":    {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", "hello", 5, true, false},
		"close":                  {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", "hello", 5, false, false},
		"close, capital":         {"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 5\r\n\r\nhello", "hello", 5, false, false},
		"close in a list":        {"HTTP/1.1 200 OK\r\nConnection: X-A, close\r\nContent-Length: 5\r\n\r\nhello", "hello", 5, false, false},
		"interim":                {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", 2, true, false},
		"bytes after the end":    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP", "ok", 2, false, false},
		"cut fixed":              {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "hello", 9, false, true},
		"cut chunked":            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "hello", -1, false, true},
		"cut before the trailer": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n", "hello", -1, false, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			client, dials := rawServer(t, func(n int, c net.Conn, r *bufio.Reader) {
				for skipRequest(r) {
					io.WriteString(c, test.response)
					if !test.reused {
						return
					}
				}
			})
			for i := range 2 {
				req := NewRequest("GET", []byte("/"), "app")
				resp, err := client.Do(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				if resp.Length() != test.length {
					t.Errorf("length %d, want %d", resp.Length(), test.length)
				}
				body, err := resp.ReadAll(nil, 0)
				if string(body) != test.body {
					t.Errorf("body %.40q, want %.40q", body, test.body)
				}
				if test.cut != errors.Is(err, io.ErrUnexpectedEOF) || !test.cut && err != nil {
					t.Errorf("error %v", err)
				}
				resp.Close()
				resp.Close() // once more does no harm
				if _, err := resp.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Error("a closed response can be read")
				}
				req.Release()
				if want := map[bool]int32{true: 1, false: int32(i) + 1}[test.reused]; dials.Load() != want {
					t.Errorf("%d connections after %d requests, want %d", dials.Load(), i+1, want)
				}
			}
		})
	}
}

// A body that a 204 announces, and that comes a little later, must not be taken for the next response.
func TestBodyOfNoContent(t *testing.T) {
	for name, announced := range map[string]string{"length": "Content-Length: 5", "chunks": "Transfer-Encoding: chunked"} {
		t.Run(name, func(t *testing.T) {
			client, dials := rawServer(t, func(n int, c net.Conn, r *bufio.Reader) {
				for skipRequest(r) {
					io.WriteString(c, "HTTP/1.1 204 No Content\r\n"+announced+"\r\n\r\n")
				}
			})
			for i := range int32(2) {
				if status, body, err := do(t, client, "POST", "/", nil); status != 204 || body != "" || err != nil {
					t.Fatalf("%d %q: %v", status, body, err)
				}
				if dials.Load() != i+1 {
					t.Errorf("%d connections after %d requests", dials.Load(), i+1)
				}
			}
		})
	}
}

func TestBadResponses(t *testing.T) {
	tests := map[string]struct{ response, text string }{
		"nothing":          {"", "EOF"},
		"half a header":    {"HTTP/1.1 200 OK\r\nA: b", "unexpected EOF"},
		"no HTTP":          {"SSH-2.0-x y\r\n\r\n", "malformed HTTP response"},
		"status":           {"HTTP/1.1 2x0 OK\r\n\r\n", "malformed HTTP response"},
		"two lengths":      {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "malformed HTTP response"},
		"negative length":  {"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "malformed HTTP response"},
		"unknown encoding": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "malformed HTTP response"},
		"large header":     {"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 70000) + "\r\n\r\n", "the response header is larger than 65536 bytes"},
		"interim only":     {strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 200), "more than 100 interim responses"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			client, _ := rawServer(t, func(n int, c net.Conn, r *bufio.Reader) {
				skipRequest(r)
				io.WriteString(c, test.response)
			})
			_, _, err := do(t, client, "POST", "/", []byte("x"))
			var incomplete *ResponseError
			if !errors.As(err, &incomplete) || !strings.Contains(err.Error(), test.text) || len(err.Error()) > 400 {
				t.Errorf("error %v, want %q", err, test.text)
			}
		})
	}
}

func TestStaleConnection(t *testing.T) {
	// Each connection answers one request and ends when the next one comes.
	var served atomic.Int32
	client, dials := rawServer(t, func(n int, c net.Conn, r *bufio.Reader) {
		for i := 0; skipRequest(r); i++ {
			if i == 1 {
				return
			}
			served.Add(1)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	for range 2 {
		if _, text, err := do(t, client, "GET", "/", nil); err != nil || text != "ok" {
			t.Fatalf("%q, %v", text, err)
		}
	}
	if dials.Load() != 2 || served.Load() != 2 {
		t.Errorf("%d connections, %d requests served", dials.Load(), served.Load())
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
		// The first call may find no kept connection; the one after that does, and must not be sent twice.
		_, _, first := do(t, client, "GET", "/", nil)
		before := served.Load()
		_, _, err := do(t, client, method, "/", nil)
		if first != nil || err == nil || served.Load() != before {
			t.Errorf("%s: %v, then %v: it was sent again", method, first, err)
		}
	}
}

func TestClosedConnectionIsNoticed(t *testing.T) {
	closed := make(chan struct{}, 1)
	client, dials := rawServer(t, func(n int, c net.Conn, r *bufio.Reader) {
		skipRequest(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		c.Close()
		closed <- struct{}{}
	})
	for i := range 5 {
		// A POST is not sent twice: it succeeds because the client looks before it sends.
		if _, _, err := do(t, client, "POST", "/", nil); err != nil {
			t.Fatal(err)
		}
		<-closed
		if dials.Load() != int32(i)+1 {
			t.Fatalf("%d connections", dials.Load())
		}
	}
}

func TestReplayKeepsTheRequestWhole(t *testing.T) {
	bodies := make(chan string, 4)
	client, _ := rawServer(t, func(n int, c net.Conn, r *bufio.Reader) {
		for i := 0; ; i++ {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			b, _ := io.ReadAll(req.Body)
			if n == 1 && i == 1 {
				return
			}
			bodies <- fmt.Sprintf("%s %q rest %d", req.Method, b, r.Buffered())
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	for range 2 {
		if _, _, err := do(t, client, "GET", "/", []byte("line\n")); err != nil {
			t.Fatal(err)
		}
		if got := <-bodies; got != `GET "line\n" rest 0` {
			t.Error(got)
		}
	}
}

func TestRequestBytes(t *testing.T) {
	got := make(chan *http.Request, 1)
	client, _ := httpServer(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(b))
		got <- r
	})
	t.Run("injection", func(t *testing.T) {
		req := NewRequest("GET", []byte("/a\r\nX-Evil:1"), "h\r\nX-Evil: 2")
		req.AddHeader([]byte("X-A\r\nX-Evil"), []byte("b\r\nX-Evil: 3"))
		req.AddHeaderString("X-B", "c\n\nGET / HTTP/1.1\x00")
		text := string(req.buffer)
		if n := strings.Count(text, "\r\n"); n != 4 || strings.Count(text, "\n") != 4 || strings.Contains(text, "\x00") {
			t.Errorf("%d lines in %q", n, text)
		}
		req.Release()
	})
	large := strings.Repeat("large ", 100_000)
	tests := map[string]struct {
		method   string
		body     []byte
		stream   io.Reader
		length   int64
		want     string
		wantSize int64
	}{
		"POST":               {method: "POST", body: []byte("abc"), want: "abc", wantSize: 3},
		"POST without body":  {method: "POST"},
		"GET without body":   {method: "GET"},
		"GET with body":      {method: "GET", body: []byte("q"), want: "q", wantSize: 1},
		"large":              {method: "POST", body: []byte(large), want: large, wantSize: int64(len(large))},
		"stream":             {method: "POST", stream: strings.NewReader("abc"), length: 3, want: "abc", wantSize: 3},
		"stream, unknown":    {method: "PUT", stream: strings.NewReader(large), length: -1, want: large, wantSize: -1},
		"empty stream":       {method: "PUT", stream: strings.NewReader(""), length: -1, wantSize: -1},
		"one byte at a time": {method: "PUT", stream: iotestOneByte{strings.NewReader("abcdef")}, length: -1, want: "abcdef", wantSize: -1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			req := NewRequest(test.method, []byte("/p?q=1"), "app:1")
			defer req.Release()
			req.AddHeaderString("X-A", "1")
			req.AddHeaderString("X-A", "2")
			req.Body, req.Stream, req.StreamLength = test.body, test.stream, test.length
			resp, err := client.Do(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Close()
			r := <-got
			b, _ := io.ReadAll(r.Body)
			if string(b) != test.want || r.ContentLength != test.wantSize || r.Method != test.method || r.RequestURI != "/p?q=1" ||
				r.Host != "app:1" || len(r.Header["X-A"]) != 2 {
				t.Errorf("%s %s %s length %d, %.40q, %v", r.Method, r.RequestURI, r.Host, r.ContentLength, b, r.Header)
			}
			if len(r.Header) != 1+map[bool]int{true: 1}[r.Header.Get("Content-Length") != ""] {
				t.Errorf("more headers than given: %v", r.Header)
			}
		})
	}
}

type iotestOneByte struct{ r io.Reader }

func (o iotestOneByte) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

func TestStreamBothWays(t *testing.T) {
	client, dials := httpServer(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		c.EnableFullDuplex()
		w.WriteHeader(200)
		c.Flush()
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			w.Write(bytes.ToUpper(b[:n]))
			c.Flush()
			if err != nil {
				return
			}
		}
	})
	for range 2 {
		in, out := io.Pipe()
		req := NewRequest("POST", []byte("/"), "app")
		req.Stream, req.StreamLength = in, -1
		resp, err := client.Do(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"one", "two", "three"} {
			io.WriteString(out, word)
			b := make([]byte, len(word))
			if _, err := io.ReadFull(resp, b); err != nil || string(b) != strings.ToUpper(word) {
				t.Fatalf("%q, %v", b, err)
			}
		}
		out.Close()
		if rest, err := resp.ReadAll(nil, 0); err != nil || len(rest) > 0 {
			t.Errorf("%q, %v", rest, err)
		}
		resp.Close()
		req.Release()
	}
	if dials.Load() != 1 {
		t.Errorf("%d connections", dials.Load())
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

func TestStreamFailures(t *testing.T) {
	client, _ := httpServer(t, Options{}, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	bad := errors.New("bad body")
	tests := map[string]struct {
		stream io.Reader
		length int64
		text   string
	}{
		"reader fails": {io.MultiReader(strings.NewReader("abc"), failingReader{bad}), -1, "bad body"},
		"too long":     {strings.NewReader("abcdef"), 3, "the body is longer than the 3 bytes announced"},
		"too short":    {strings.NewReader("ab"), 3, "unexpected EOF"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			req := NewRequest("POST", []byte("/"), "app")
			defer req.Release()
			req.Stream, req.StreamLength = test.stream, test.length
			_, err := client.Do(t.Context(), req)
			var body *BodyError
			if !errors.As(err, &body) || err.Error() != test.text {
				t.Errorf("error %T %v", err, err)
			}
		})
	}
}

func TestEarlyAnswer(t *testing.T) {
	// The server answers without reading the body, and closes.
	for _, streamed := range []bool{false, true} {
		client, _ := rawServer(t, func(n int, c net.Conn, r *bufio.Reader) {
			skipRequest(r)
			io.WriteString(c, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, io.LimitReader(r, 100_000))
		})
		req := NewRequest("POST", []byte("/"), "app")
		in, out := io.Pipe()
		if streamed {
			req.Stream, req.StreamLength = in, -1 // never ends
		} else {
			req.Body = make([]byte, 8<<20)
		}
		resp, err := client.Do(t.Context(), req)
		if err != nil {
			t.Fatal(streamed, err)
		}
		body, err := resp.ReadAll(nil, 0)
		if resp.Status() != 413 || string(body) != "big" || err != nil {
			t.Errorf("%d %q %v", resp.Status(), body, err)
		}
		resp.Close()
		if streamed {
			if _, err := out.Write([]byte("x")); err == nil {
				t.Error("the stream was not closed")
			}
		}
		req.Release()
	}
}

// abortable is a stream whose reader blocks until it is aborted.
type abortable struct {
	once sync.Once
	gone chan struct{}
}

func (a *abortable) Read([]byte) (int, error) {
	<-a.gone
	return 0, errors.New("aborted")
}
func (a *abortable) Abort() { a.once.Do(func() { close(a.gone) }) }

func TestCancellation(t *testing.T) {
	ended := make(chan struct{}, 1)
	client, _ := httpServer(t, Options{MaxConns: 1}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			http.NewResponseController(w).Flush()
		}
		if r.URL.Path == "/ok" {
			return
		}
		if r.URL.Path == "/stream" {
			io.Copy(io.Discard, r.Body)
		} else {
			<-r.Context().Done()
		}
		ended <- struct{}{}
	})
	for _, kind := range []string{"header", "body", "stream"} {
		t.Run(kind, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req := NewRequest("POST", []byte("/"+kind), "app")
			defer req.Release()
			if kind == "stream" {
				req.Stream, req.StreamLength = &abortable{gone: make(chan struct{})}, -1
			}
			if kind != "body" {
				stop := time.AfterFunc(30*time.Millisecond, cancel)
				defer stop.Stop()
			}
			resp, err := client.Do(ctx, req)
			if kind == "body" {
				if err != nil {
					t.Fatal(err)
				}
				cancel()
				_, err = resp.Read(make([]byte, 1))
				resp.Close()
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				t.Error("the server was not told")
			}
		})
	}
	if _, _, err := do(t, client, "GET", "/ok", nil); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Do(ctx, NewRequest("GET", []byte("/ok"), "app")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestMaxConns(t *testing.T) {
	release := make(chan struct{})
	client, dials := httpServer(t, Options{MaxConns: 2}, func(http.ResponseWriter, *http.Request) { <-release })
	var calls sync.WaitGroup
	for range 2 {
		calls.Go(func() { do(t, client, "GET", "/", nil) })
	}
	until(t, "two calls run", func() bool { return len(client.slots) == 2 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := client.Do(ctx, NewRequest("GET", []byte("/"), "app")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	calls.Go(func() { do(t, client, "GET", "/", nil) })
	close(release)
	calls.Wait()
	if dials.Load() > 2 || len(client.slots) != 0 {
		t.Errorf("%d connections, %d slots taken", dials.Load(), len(client.slots))
	}
}

func TestIdleSweep(t *testing.T) {
	client, dials := httpServer(t, Options{IdleTimeout: 20 * time.Millisecond, MaxIdle: 1}, func(http.ResponseWriter, *http.Request) {})
	do(t, client, "GET", "/", nil)
	until(t, "the connection is closed", func() bool {
		client.mu.Lock()
		defer client.mu.Unlock()
		return len(client.idle) == 0 && client.sweeper == nil
	})
	do(t, client, "GET", "/", nil)
	if dials.Load() != 2 {
		t.Errorf("%d connections", dials.Load())
	}
}

func TestCloseAndAbort(t *testing.T) {
	started := make(chan struct{}, 2)
	release := make(chan struct{})
	client, _ := httpServer(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-release:
		}
	})
	results := make(chan error, 1)
	call := func() {
		_, _, err := do(t, client, "GET", "/", nil)
		results <- err
	}
	go call()
	<-started
	client.Close()
	if _, _, err := do(t, client, "GET", "/", nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	client.Abort()
	if err := <-results; err == nil {
		t.Error("Abort did not end the call")
	}
	close(release)
}

func TestDialError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	client, _ := dialing(address, Options{MaxConns: 1})
	defer client.Close()
	for range 3 { // a failed dial gives its slot back
		_, _, err := do(t, client, "GET", "/", nil)
		var failed *DialError
		if !errors.As(err, &failed) || err.Error() != "dial tcp "+address+": connect: connection refused" {
			t.Fatal(err)
		}
	}
}

func TestNoGoroutineStays(t *testing.T) {
	client, _ := httpServer(t, Options{}, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	do(t, client, "GET", "/", nil)
	before := runtime.NumGoroutine()
	for range 50 {
		req := NewRequest("POST", []byte("/"), "app")
		req.Stream, req.StreamLength = strings.NewReader(strings.Repeat("x", 1000)), -1
		ctx, cancel := context.WithCancel(t.Context())
		resp, err := client.Do(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		resp.ReadAll(nil, 0)
		resp.Close()
		req.Release()
		cancel()
	}
	until(t, "goroutines are gone", func() bool { return runtime.NumGoroutine() <= before })
}

// pipe is a connection that reads given bytes and swallows what is written.
type pipe struct{ r io.Reader }

func (p pipe) Read(b []byte) (int, error)       { return p.r.Read(b) }
func (p pipe) Write(b []byte) (int, error)      { return len(b), nil }
func (p pipe) Close() error                     { return nil }
func (p pipe) LocalAddr() net.Addr              { return nil }
func (p pipe) RemoteAddr() net.Addr             { return nil }
func (p pipe) SetDeadline(time.Time) error      { return nil }
func (p pipe) SetReadDeadline(time.Time) error  { return nil }
func (p pipe) SetWriteDeadline(time.Time) error { return nil }

func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 404 x\r\nConnection: keep-alive\r\n\r\nrest",
		"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nabc",
		"HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n",
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, head bool) {
		c := New(Options{Dial: func(context.Context) (net.Conn, error) { return pipe{bytes.NewReader(data)}, nil }})
		defer c.Close()
		method := "GET"
		if head {
			method = "HEAD"
		}
		req := NewRequest(method, []byte("/"), "app")
		defer req.Release()
		resp, err := c.Do(context.Background(), req)
		if err == nil {
			body, err := resp.ReadAll(nil, 0)
			if err == nil && resp.Length() >= 0 && int64(len(body)) != resp.Length() {
				t.Errorf("%d bytes of %d without an error", len(body), resp.Length())
			}
			if len(body) > len(data) {
				t.Error("more came out than went in")
			}
			resp.Close()
		}
		if len(c.slots) != 0 || len(c.busy) != 0 {
			t.Errorf("%d slots, %d connections are still taken", len(c.slots), len(c.busy))
		}
	})
}

func BenchmarkGet(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 1024)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		answer := append([]byte("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n"), body...)
		buffer := make([]byte, 4096)
		for {
			if _, err := c.Read(buffer); err != nil {
				return
			}
			c.Write(answer)
		}
	}()
	client, _ := dialing(l.Addr().String(), Options{})
	defer client.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var into []byte
	b.ReportAllocs()
	for b.Loop() {
		req := NewRequest("GET", []byte("/"), "app")
		resp, err := client.Do(ctx, req)
		if err != nil {
			b.Fatal(err)
		}
		into, _ = resp.ReadAll(into[:0], 0)
		resp.Close()
		req.Release()
	}
}
