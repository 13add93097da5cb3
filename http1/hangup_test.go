//go:build unix

package http1

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

// wrapping is a connection around another.
type wrapping struct{ net.Conn }

func (w wrapping) NetConn() net.Conn { return w.Conn }

// tlsPair is the two ends of a connection under TLS, and the client's below it.
func tlsPair(t *testing.T) (client, server *tls.Conn, raw net.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if raw, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close(); accepted.Close() })
	client = tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	server = tls.Server(accepted, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, SessionTicketsDisabled: true})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- client.HandshakeContext(ctx) }()
	if err := server.HandshakeContext(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	return client, server, raw
}

// TestGoneUnderTLS looks at connections whose other side has left with, and without, a word of goodbye.
func TestGoneUnderTLS(t *testing.T) {
	for name, leave := range map[string]func(client *tls.Conn, raw net.Conn){
		"orderly":          func(c *tls.Conn, _ net.Conn) { _ = c.Close() },
		"without goodbye":  func(_ *tls.Conn, raw net.Conn) { _ = raw.Close() },
		"after more bytes": func(c *tls.Conn, _ net.Conn) { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\n"); _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			client, server, raw := tlsPair(t)
			wrapped := wrapping{server}
			if gone(wrapped) || gone(server) || !alive(socket(wrapped)) {
				t.Fatal("a connection that is open is taken for closed")
			}
			leave(client, raw)
			until(t, "the end is noticed", func() bool { return gone(wrapped) && gone(server) })
			if alive(socket(wrapped)) {
				t.Error("the connection would be used again")
			}
		})
	}
	t.Run("bytes are no end", func(t *testing.T) {
		client, server, _ := tlsPair(t)
		if _, err := io.WriteString(client, "GET / HTTP/1.1\r\n"); err != nil {
			t.Fatal(err)
		}
		until(t, "the bytes have come", func() bool { return !alive(socket(server)) })
		if gone(server) {
			t.Error("a connection with bytes to read is taken for closed")
		}
	})
}

// TestExchangeConn has the connection as it was handed to the server.
func TestExchangeConn(t *testing.T) {
	var seen net.Conn
	s := NewServer(ServerOptions{Handler: func(x *Exchange) { seen = x.Conn() }})
	here, there := net.Pipe()
	given := wrapping{there}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeConn(given, []byte("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
	}()
	_, _ = io.Copy(io.Discard, here)
	<-done
	if seen != net.Conn(given) {
		t.Errorf("got %T", seen)
	}
	if below := socket(Replay(given, []byte("x"))); below != there {
		t.Errorf("below a replayed connection is %T", below)
	}
}
