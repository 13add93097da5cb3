package mqttclient

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

// scripted is a broker that does what a test says.
type scripted struct {
	t        testing.TB
	listener net.Listener
}

func script(t testing.TB) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &scripted{t, l}
}

func (s *scripted) options() *Options { return &Options{URL: "mqtt://" + s.listener.Addr().String()} }

// peer is one connection of the client, as the broker sees it.
type peer struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

// accept takes the client's next connection, and says whether there is a session of it.
func (s *scripted) accept(present bool) *peer {
	s.t.Helper()
	if err := s.listener.(*net.TCPListener).SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	conn, err := s.listener.Accept()
	if err != nil {
		s.t.Fatalf("the client does not connect: %v", err)
	}
	s.t.Cleanup(func() { conn.Close() })
	p := &peer{s.t, conn, bufio.NewReader(conn)}
	p.expect(firstConnect)
	if present {
		p.send("\x20\x02\x01\x00")
	} else {
		p.send("\x20\x02\x00\x00")
	}
	return p
}

func (p *peer) send(frames ...string) {
	p.t.Helper()
	if _, err := p.conn.Write([]byte(strings.Join(frames, ""))); err != nil {
		p.t.Fatal(err)
	}
}

// expect reads the next packet, which begins with first, and returns the rest of it. Pings are answered.
func (p *peer) expect(first byte) string {
	p.t.Helper()
	_ = p.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		got, err := p.r.ReadByte()
		if err != nil {
			p.t.Fatalf("instead of a packet %#02x: %v", first, err)
		}
		n, err := readLength(p.r)
		if err != nil {
			p.t.Fatal(err)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(p.r, body); err != nil {
			p.t.Fatal(err)
		}
		if got == firstPingreq {
			p.send("\xd0\x00")
		}
		if got == first {
			return string(body)
		}
		if got != firstPingreq {
			p.t.Fatalf("packet %#02x %q, want %#02x", got, body, first)
		}
	}
}

// expectID is expect for packets that hold an identifier only.
func (p *peer) expectID(first byte, id string) {
	p.t.Helper()
	if got := p.expect(first); got != id {
		p.t.Fatalf("packet %#02x for %q, want it for %q", first, got, id)
	}
}

// subscribed confirms the request for a filter.
func (p *peer) subscribed() {
	p.t.Helper()
	body := p.expect(firstSubscribe)
	p.send("\x90\x03" + body[:2] + body[len(body)-1:])
}

// dial connects a client, which is closed with the test.
func (s *scripted) dial(log *slog.Logger) (*Client, *peer) {
	s.t.Helper()
	type result struct {
		client *Client
		err    error
	}
	done := make(chan result, 1)
	go func() {
		c, err := s.options().Connect(context.Background(), Session{ClientID: "me", Log: log})
		done <- result{c, err}
	}()
	p := s.accept(false)
	r := <-done
	if r.err != nil {
		s.t.Fatal(r.err)
	}
	s.t.Cleanup(func() { r.client.Close() })
	return r.client, p
}

// subscribe starts a subscription whose handler is the test.
func (s *scripted) subscribe(c *Client, p *peer, topic string, qos byte) (*Subscription, <-chan *call) {
	s.t.Helper()
	calls := make(chan *call, 100)
	done := make(chan *Subscription, 1)
	go func() {
		sub, err := c.Subscribe(context.Background(), topic, qos, func(_ context.Context, m *Message) error {
			call := &call{m, make(chan error, 1)}
			calls <- call
			return <-call.verdict
		})
		if err != nil {
			s.t.Error(err)
		}
		done <- sub
	}()
	p.subscribed()
	sub := <-done
	if sub == nil {
		s.t.FailNow()
	}
	return sub, calls
}

// call is one of a handler.
type call struct {
	*Message
	verdict chan error
}

func next(t testing.TB, calls <-chan *call, payload string) *call {
	t.Helper()
	select {
	case c := <-calls:
		if string(c.Payload) != payload {
			t.Fatalf("message %q, want %q", c.Payload, payload)
		}
		return c
	case <-time.After(30 * time.Second):
		t.Fatalf("the message %q does not come", payload)
		return nil
	}
}

// ping sees to it that all that the client has sent before was read.
func ping(t testing.TB, c *Client, p *peer) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- c.Ping(context.Background()) }()
	p.expect(firstPingreq)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func incoming(payload string, qos byte, id uint16, duplicate bool) string {
	frame := publishFrame(&Publication{Topic: "t", Payload: []byte(payload), QoS: qos}, id)
	if duplicate {
		frame[0] |= flagDuplicate
	}
	return string(frame)
}
