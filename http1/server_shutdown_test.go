package http1

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

func TestServerShutdown(t *testing.T) {
	t.Run("unused connections", func(t *testing.T) {
		s := serve(t, ServerOptions{Handler: echo})
		used, fresh := s.dial(), s.dial()
		used.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").expect("GET", 200, "GET /a? ")
		eventually(t, "both are accepted", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.conns) == 2 })
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		for _, c := range []*rawConn{used, fresh} {
			if rest := c.closed(); rest != "" {
				t.Errorf("got %q", rest)
			}
		}
	})
	t.Run("a running request ends well", func(t *testing.T) {
		started, release := make(chan struct{}), make(chan struct{})
		s := serve(t, ServerOptions{Handler: func(x *Exchange) {
			close(started)
			<-release
			x.Reply([]byte("done"))
		}})
		c := s.dial()
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		<-started
		ended := make(chan error, 1)
		go func() { ended <- s.Shutdown(context.Background()) }()
		eventually(t, "the server is stopping", s.stopping.Load)
		close(release)
		resp, body := c.response("GET")
		if body != "done" || !resp.Close {
			t.Errorf("%q, close %v", body, resp.Close)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Run("a request without end is broken off", func(t *testing.T) {
		started := make(chan struct{})
		s := serve(t, ServerOptions{Handler: func(x *Exchange) {
			close(started)
			<-x.Context().Done()
		}})
		s.dial().send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		<-started
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	t.Run("a handler that does not listen is left", func(t *testing.T) {
		started, release := make(chan struct{}), make(chan struct{})
		s := serve(t, ServerOptions{Handler: func(*Exchange) {
			close(started)
			<-release
		}})
		s.dial().send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		<-started
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 requests did not end") {
			t.Error(err)
		}
		close(release)
	})
	// A connection whose request ends just when the server begins to stop must not stay open.
	t.Run("race with the end of a request", func(t *testing.T) {
		for range 200 {
			s := NewServer(ServerOptions{Handler: echo})
			client, server := net.Pipe()
			go s.ServeConn(server, nil)
			go func() { _, _ = client.Write([]byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n")) }()
			if _, err := client.Read(make([]byte, 1024)); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if err := s.Shutdown(ctx); err != nil {
				t.Fatal(err)
			}
			cancel()
			_ = client.Close()
		}
	})
}

func TestSniff(t *testing.T) {
	for _, test := range []struct {
		sent  []string
		http2 bool
	}{
		{[]string{"GET / HTTP/1.1\r\n"}, false},
		{[]string{"P", "OST / HTTP/1.1\r\n"}, false},
		{[]string{"PR", "OPFIND / HTTP/1.1\r\n"}, false},
		{[]string{"P", "RI * HT", "TP/2.0\r\n\r\nSM\r\n\r\n"}, true},
		{[]string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00"}, true},
	} {
		client, server := net.Pipe()
		go func() {
			for _, piece := range test.sent {
				_, _ = client.Write([]byte(piece))
			}
			_ = client.Close()
		}()
		first, err := Sniff(server, 5*time.Second)
		if err != nil || len(first) == 0 || !strings.HasPrefix(strings.Join(test.sent, ""), string(first)) || IsHTTP2(first) != test.http2 {
			t.Errorf("%q: first %q, HTTP/2 %v, %v", test.sent, first, IsHTTP2(first), err)
		}
		_ = server.Close()
	}
	client, server := net.Pipe()
	defer client.Close()
	if _, err := Sniff(server, 20*time.Millisecond); err == nil {
		t.Error("a silent connection was sniffed")
	}
}
