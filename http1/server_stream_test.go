package http1

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// pieces is a reply body fed by the test.
type pieces struct {
	next   chan string
	err    error
	closed chan struct{}
}

func newPieces() *pieces { return &pieces{next: make(chan string), closed: make(chan struct{})} }

func (p *pieces) Read(b []byte) (int, error) {
	piece, ok := <-p.next
	if !ok {
		if p.err != nil {
			return 0, p.err
		}
		return 0, io.EOF
	}
	if piece == "panic" {
		panic("piece")
	}
	return copy(b, piece), nil
}

func (p *pieces) Close() error { close(p.closed); return nil }

func TestServerStreamedReply(t *testing.T) {
	var body *pieces
	length := int64(-1)
	var ended atomic.Int32
	var ctx context.Context
	s := serve(t, ServerOptions{Handler: func(x *Exchange) {
		ctx = x.Context()
		x.AtEnd(func() { ended.Add(1) })
		x.ReplyStream(body, length)
	}})
	start := func(n int64) (*rawConn, *http.Response) {
		body, length = newPieces(), n
		ended.Store(0)
		c := s.dial()
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		resp, err := http.ReadResponse(c.reader, nil) // the header comes before the body
		if err != nil {
			t.Fatal(err)
		}
		return c, resp
	}
	read := func(resp *http.Response, want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Errorf("read %q, %v, want %q", got, err, want)
		}
	}
	t.Run("each piece is flushed", func(t *testing.T) {
		c, resp := start(-1)
		for _, piece := range []string{"a", "bcd", "e"} {
			body.next <- piece
			read(resp, piece)
		}
		if ctx.Err() != nil {
			t.Error("the context ended before the reply")
		}
		close(body.next)
		if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
			t.Errorf("%q, %v", rest, err)
		}
		eventually(t, "the exchange ends", func() bool { return ended.Load() == 1 && ctx.Err() != nil })
		<-body.closed
		body = newPieces()
		close(body.next)
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("GET", 200, "")
	})
	t.Run("known length", func(t *testing.T) {
		_, resp := start(3)
		body.next <- "abc"
		read(resp, "abc")
		if resp.ContentLength != 3 {
			t.Errorf("length %d", resp.ContentLength)
		}
		close(body.next)
		eventually(t, "the exchange ends", func() bool { return ended.Load() == 1 && ctx.Err() != nil })
	})
	for name, n := range map[string]int64{"chunked": -1, "fixed": 10} {
		for _, how := range []string{"error", "panic", "short"} {
			if how == "short" && n < 0 {
				continue
			}
			t.Run(how+" cuts the reply, "+name, func(t *testing.T) {
				_, resp := start(n)
				body.next <- "abc"
				read(resp, "abc")
				switch how {
				case "error":
					body.err = errors.New("broken")
					close(body.next)
				case "panic":
					body.next <- "panic"
				case "short":
					close(body.next)
				}
				if rest, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("the client saw %q, %v", rest, err)
				}
				<-body.closed
				eventually(t, "the exchange ends", func() bool { return ended.Load() == 1 && ctx.Err() != nil })
			})
		}
	}
}

func TestServerClientGone(t *testing.T) {
	for name, half := range map[string]string{"waiting": "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "with a body": "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"} {
		t.Run(name, func(t *testing.T) {
			started, ended := make(chan struct{}), make(chan time.Time, 1)
			s := serve(t, ServerOptions{Handler: func(x *Exchange) {
				close(started)
				<-x.Context().Done()
				ended <- time.Now()
			}})
			c := s.dial()
			c.send(half)
			<-started
			<-time.After(60 * time.Millisecond)
			left := time.Now()
			_ = c.Close()
			if took := (<-ended).Sub(left); took > 200*time.Millisecond {
				t.Errorf("noticed after %s", took)
			}
		})
	}
	t.Run("derived context", func(t *testing.T) {
		started, ended := make(chan struct{}), make(chan error, 1)
		s := serve(t, ServerOptions{Handler: func(x *Exchange) {
			ctx, cancel := context.WithTimeout(x.Context(), time.Minute)
			defer cancel()
			close(started)
			<-ctx.Done()
			ended <- ctx.Err()
		}})
		c := s.dial()
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		<-started
		_ = c.Close()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("a pipelined request is presence", func(t *testing.T) {
		release, first := make(chan struct{}), make(chan error, 1)
		s := serve(t, ServerOptions{Handler: func(x *Exchange) {
			if x.Path() == "/first" {
				select {
				case <-x.Context().Done():
				case <-release:
				}
				first <- x.Context().Err()
			}
			x.Reply([]byte(x.Path()))
		}})
		c := s.dial()
		c.send("GET /first HTTP/1.1\r\nHost: h\r\n\r\n")
		c.send("GET /second HTTP/1.1\r\nHost: h\r\n\r\n")
		<-time.After(200 * time.Millisecond) // several looks at the connection
		close(release)
		if err := <-first; err != nil {
			t.Errorf("the context ended: %v", err)
		}
		c.expect("GET", 200, "/first")
		c.expect("GET", 200, "/second")
	})
}

func TestServerPanic(t *testing.T) {
	s := serve(t, ServerOptions{Handler: func(x *Exchange) {
		switch x.Path() {
		case "/plain":
			panic("plain")
		case "/stream":
			x.SetStatus(201)
			x.SetHeader("X-A", "1")
			x.ReplyStream(io.NopCloser(strings.NewReader("never")), -1)
			panic("stream")
		}
		x.Reply([]byte("ok"))
	}})
	c := s.dial()
	for _, path := range []string{"/plain", "/stream"} {
		c.send("GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n")
		resp, body := c.response("GET")
		if resp.StatusCode != 500 || !strings.Contains(body, `"errorCode":"ERROR"`) || resp.Header.Get("X-A") != "" {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
	c.send("GET /after HTTP/1.1\r\nHost: h\r\n\r\n").expect("GET", 200, "ok")
}

func TestServerExpectContinue(t *testing.T) {
	s := serve(t, ServerOptions{Handler: echo})
	for _, framing := range []struct{ head, body string }{
		{"Content-Length: 5\r\n", "hello"}, {"Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"},
	} {
		c := s.dial()
		c.send("POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n" + framing.head + "\r\n")
		line, err := c.reader.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
			t.Fatalf("got %q, %v", line, err)
		}
		if line, _ = c.reader.ReadString('\n'); line != "\r\n" {
			t.Fatalf("got %q", line)
		}
		c.send(framing.body).expect("POST", 200, "POST /a? hello")
	}
}

func TestServerAbortBody(t *testing.T) {
	for name, head := range map[string]string{"chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "fixed": "Content-Length: 100000\r\n\r\nhello"} {
		t.Run(name, func(t *testing.T) {
			read := make(chan error, 1)
			s := serve(t, ServerOptions{Handler: func(x *Exchange) {
				body := x.BodyReader()
				reading := make(chan struct{})
				go func() {
					_, _ = io.ReadFull(body, make([]byte, 5))
					close(reading)
					_, err := body.Read(make([]byte, 5))
					read <- err
				}()
				<-reading
				body.(interface{ Abort() }).Abort()
				read <- <-read // ended before the reply
				x.Reply([]byte("enough"))
			}})
			c := s.dial()
			c.send("POST / HTTP/1.1\r\nHost: h\r\n" + head)
			resp, body := c.response("POST")
			if body != "enough" || !resp.Close {
				t.Errorf("%q, close %v", body, resp.Close)
			}
			if err := <-read; err == nil || err == io.EOF {
				t.Errorf("the read ended with %v", err)
			}
			c.closed()
		})
	}
}

func TestServerCutBody(t *testing.T) {
	for name, head := range map[string]string{
		"in a chunk": "Transfer-Encoding: chunked\r\n\r\n5\r\nhe", "after a chunk": "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"before a chunk": "Transfer-Encoding: chunked\r\n\r\n", "in a size": "Transfer-Encoding: chunked\r\n\r\n5", "in the trailer": "Transfer-Encoding: chunked\r\n\r\n0\r\n",
		"fixed": "Content-Length: 100000\r\n\r\nhello",
	} {
		t.Run(name, func(t *testing.T) {
			read := make(chan error, 1)
			s := serve(t, ServerOptions{HeaderTimeout: time.Second, Handler: func(x *Exchange) {
				_, err := io.Copy(io.Discard, x.BodyReader())
				read <- err
			}})
			c := s.dial()
			c.send("POST / HTTP/1.1\r\nHost: h\r\n" + head)
			_ = c.Conn.(*net.TCPConn).CloseWrite()
			if err := <-read; err == nil {
				t.Error("a cut body was taken for a whole one")
			}
		})
	}
}

// TestServerChunks takes chunks as small as they like to be, but not any amount of what is no data.
func TestServerChunks(t *testing.T) {
	for name, test := range map[string]struct {
		piece string
		count int
		want  int64 // -1: it fails
	}{
		"of one byte":             {"1\r\nx\r\n", 300_000, 300_000},
		"with a short extension":  {"1;a=b\r\nx\r\n", 300_000, 300_000},
		"with a long extension":   {"10;" + strings.Repeat("a", 100<<10) + "\r\n0123456789abcdef\r\n", 100, -1},
		"with one long extension": {"1000;" + strings.Repeat("a", 20<<10) + "\r\n" + strings.Repeat("x", 4096) + "\r\n", 50, 50 * 4096},
	} {
		t.Run(name, func(t *testing.T) {
			type outcome struct {
				n   int64
				err error
			}
			read := make(chan outcome, 1)
			s := serve(t, ServerOptions{Handler: func(x *Exchange) {
				n, err := io.Copy(io.Discard, x.BodyReader())
				read <- outcome{n, err}
			}})
			c := s.dial()
			go func() { // ends with the connection
				_, _ = io.WriteString(c.Conn, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"+strings.Repeat(test.piece, test.count)+"0\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n")
			}()
			got := <-read
			if test.want < 0 && got.err == nil || test.want >= 0 && (got.err != nil || got.n != test.want) {
				t.Errorf("%d bytes, %v; want %d", got.n, got.err, test.want)
			}
			if test.want >= 0 { // and the next request is none of this one's
				c.response("POST")
				c.response("GET")
			}
		})
	}
}

// TestServerDuplex replies while the request's body is still being read by another goroutine.
func TestServerDuplex(t *testing.T) {
	s := serve(t, ServerOptions{Handler: func(x *Exchange) {
		r, w := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err := io.Copy(w, x.BodyReader())
			_ = w.CloseWithError(err)
		}()
		x.ReplyStream(&duplexBody{r, done}, -1)
	}})
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
	resp, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		c.send("5\r\nhello\r\n")
		got := make([]byte, 5)
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	c.send("0\r\n\r\n")
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

type duplexBody struct {
	*io.PipeReader
	done chan struct{}
}

func (d *duplexBody) Close() error {
	err := d.PipeReader.Close()
	<-d.done
	return err
}
