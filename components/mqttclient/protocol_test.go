package mqttclient

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
)

// The tests of this file play the broker, to see and to say what real ones show seldom.

func TestAcknowledgedAfterTheVerdictOnly(t *testing.T) {
	for _, test := range []struct {
		qos byte
		ack byte
	}{{1, firstPuback}, {2, firstPubrec}} {
		s := script(t)
		c, p := s.dial(nil)
		_, calls := s.subscribe(c, p, "t", test.qos)
		p.send(incoming("first", test.qos, 7, false), incoming("second", test.qos, 8, false), incoming("third", test.qos, 9, false))
		got := map[string]*call{}
		for range 3 {
			call := <-calls
			got[string(call.Payload)] = call
		}
		ping(t, c, p) // expects that nothing else comes
		got["second"].verdict <- nil
		p.expectID(test.ack, "\x00\x08")
		got["third"].verdict <- errors.New("not now")
		ping(t, c, p)
		got["first"].verdict <- nil
		p.expectID(test.ack, "\x00\x07")
		ping(t, c, p)
	}
}

// A message of qos 2 that the broker sends again since it does not know that it was processed is not processed again, but a
// different one with the same identifier is.
func TestReceivesExactlyOnce(t *testing.T) {
	s := script(t)
	c, p := s.dial(nil)
	_, calls := s.subscribe(c, p, "t", 2)
	p.send(incoming("m", 2, 7, false))
	next(t, calls, "m").verdict <- nil
	p.expectID(firstPubrec, "\x00\x07")
	p.conn.Close()

	p = s.accept(true)
	p.subscribed()
	p.send(incoming("m", 2, 7, true))
	p.expectID(firstPubrec, "\x00\x07")
	p.send("\x62\x02\x00\x07")
	p.expectID(firstPubcomp, "\x00\x07")
	p.send(incoming("m", 2, 7, true)) // released, so it is another
	next(t, calls, "m").verdict <- nil
	p.expectID(firstPubrec, "\x00\x07")

	// The broker forgets what it did last, as after a crash.
	p.conn.Close()
	p = s.accept(true)
	p.subscribed()
	p.send(incoming("other", 2, 7, true))
	next(t, calls, "other").verdict <- nil
	p.expectID(firstPubrec, "\x00\x07")
	p.send(incoming("other", 2, 7, false))
	next(t, calls, "other").verdict <- nil
	p.expectID(firstPubrec, "\x00\x07")

	// Without its session the broker has nothing to release.
	p.conn.Close()
	p = s.accept(false)
	p.subscribed()
	p.send(incoming("other", 2, 7, true))
	next(t, calls, "other").verdict <- nil
	p.expectID(firstPubrec, "\x00\x07")
	if len(calls) > 0 {
		t.Errorf("message %q came, too", (<-calls).Payload)
	}
}

// A verdict that comes after its connection has ended acknowledges nothing on the next.
func TestVerdictOfAnOldConnection(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		s := script(t)
		c, p := s.dial(nil)
		_, calls := s.subscribe(c, p, "t", qos)
		p.send(incoming("old", qos, 7, false))
		old := next(t, calls, "old")
		p.conn.Close()
		p = s.accept(true)
		p.subscribed()
		p.send(incoming("new", qos, 7, false))
		again := next(t, calls, "new")
		old.verdict <- nil
		ping(t, c, p)
		again.verdict <- nil
		p.expectID(byte(map[byte]int{1: firstPuback, 2: firstPubrec}[qos]), "\x00\x07")
	}
}

func publishing(c *Client, payload string, qos byte) (result <-chan error, giveUp func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- c.Publish(ctx, Publication{Topic: "t", Payload: []byte(payload), QoS: qos})
	}()
	return done, cancel
}

func TestPublishAtLeastOnce(t *testing.T) {
	for _, present := range []bool{true, false} {
		s := script(t)
		c, p := s.dial(nil)
		first, _ := publishing(c, "first", 1)
		p.expectID(0x32, "\x00\x01t\x00\x01first")
		second, _ := publishing(c, "second", 1)
		p.expectID(0x32, "\x00\x01t\x00\x02second")
		p.conn.Close()
		p = s.accept(present)
		p.expectID(0x3a, "\x00\x01t\x00\x01first") // again, in order, as duplicates
		p.expectID(0x3a, "\x00\x01t\x00\x02second")
		select {
		case err := <-first:
			t.Errorf("published without an acknowledgement: %v", err)
		default:
		}
		p.send("\x40\x02\x00\x02")
		if err := <-second; err != nil {
			t.Error(err)
		}
		p.send("\x40\x02\x00\x01")
		if err := <-first; err != nil {
			t.Error(err)
		}
	}
}

func TestPublishExactlyOnce(t *testing.T) {
	s := script(t)
	c, p := s.dial(nil)
	done, _ := publishing(c, "m", 2)
	p.expectID(0x34, "\x00\x01t\x00\x01m")
	p.conn.Close()
	p = s.accept(true)
	p.expectID(0x3c, "\x00\x01t\x00\x01m")
	p.send("\x50\x02\x00\x01")
	p.expectID(firstPubrel, "\x00\x01")
	p.conn.Close()
	p = s.accept(true)
	p.expectID(firstPubrel, "\x00\x01") // the message itself would come twice
	p.conn.Close()
	p = s.accept(false)
	p.expectID(0x3c, "\x00\x01t\x00\x01m") // the broker has forgotten it
	p.send("\x50\x02\x00\x01")
	p.expectID(firstPubrel, "\x00\x01")
	select {
	case err := <-done:
		t.Errorf("published before the broker completed: %v", err)
	default:
	}
	p.send("\x70\x02\x00\x01")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What nobody waits for any more is not sent again; but of qos 2 the broker is released, and identifiers are not used for
// something else while an answer to them can come.
func TestPublishGivenUp(t *testing.T) {
	s := script(t)
	c, p := s.dial(nil)
	for i, qos := range []byte{1, 2, 2} {
		done, giveUp := publishing(c, "m", qos)
		p.expectID(0x30|qos<<1, "\x00\x01t\x00"+string(rune(i+1))+"m")
		giveUp()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
	}
	p.send("\x50\x02\x00\x03")
	p.expectID(firstPubrel, "\x00\x03")
	c.mu.Lock()
	c.lastID = 0
	c.mu.Unlock()
	done, _ := publishing(c, "next", 1)
	p.expectID(0x32, "\x00\x01t\x00\x04next")
	p.conn.Close()
	p = s.accept(true)
	p.expectID(firstPubrel, "\x00\x02")
	p.expectID(firstPubrel, "\x00\x03")
	p.expectID(0x3a, "\x00\x01t\x00\x04next")
	p.send("\x70\x02\x00\x02", "\x70\x02\x00\x03", "\x40\x02\x00\x04")
	if err := <-done; err != nil {
		t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.flows) > 0 {
		t.Errorf("%d exchanges are left", len(c.flows))
	}
}

// buffer is a log that can be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// What is not MQTT ends the connection, not the session, and is told.
func TestMalformedPackets(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"\x36\x05\x00\x01t\x00\x01", "qos 3"},
		{"\x20\x02\x00\x00", "type 2 in the middle"},
		{"\x00", "begins with 0x00"},
		{"\x70\x02\x00\x02", "type 7 in answer to request 2"},
		{"\x50\x02\x00\x02", "PUBREC in answer to request 2"},
	} {
		var text buffer
		s := script(t)
		c, p := s.dial(slog.New(slog.NewTextHandler(&text, nil)))
		_, calls := s.subscribe(c, p, "t", 1)
		done, _ := publishing(c, "m", 1)
		p.expectID(0x32, "\x00\x01t\x00\x02m")
		p.send(test.text)
		p = s.accept(true)
		p.subscribed()
		p.expectID(0x3a, "\x00\x01t\x00\x02m")
		p.send("\x40\x02\x00\x02", incoming("hello", 1, 7, false))
		if err := <-done; err != nil {
			t.Error(err)
		}
		next(t, calls, "hello").verdict <- nil
		p.expectID(firstPuback, "\x00\x07")
		if !strings.Contains(text.String(), test.want) {
			t.Errorf("%q: log %s, want %s in it", test.text, text.String(), test.want)
		}
	}
}

// While one of two subscriptions that a message is for is paused, the message waits for the one after it.
func TestMessageForPausedSubscription(t *testing.T) {
	s := script(t)
	c, p := s.dial(nil)
	exact, exactCalls := s.subscribe(c, p, "t", 1)
	_, wildCalls := s.subscribe(c, p, "+", 1)
	exact.Pause()
	p.send(incoming("m", 1, 7, false))
	next(t, wildCalls, "m").verdict <- nil
	ping(t, c, p) // no acknowledgement
	if err := exact.Close(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	_, later := s.subscribe(c, p, "t", 1)
	next(t, later, "m").verdict <- nil
	p.expectID(firstPuback, "\x00\x07")
	if len(exactCalls) > 0 {
		t.Error("the paused subscription got the message")
	}
}

// Messages that nothing subscribes to wait, and the log says what that leads to.
func TestStrayMessages(t *testing.T) {
	var text buffer
	s := script(t)
	c, p := s.dial(slog.New(slog.NewTextHandler(&text, nil)))
	for i := range uint16(2 * manyStrays) {
		p.send(incoming("stray", 1, i+1, false))
	}
	ping(t, c, p)
	for _, want := range []string{"nothing subscribes to here (yet)", "keeps the MQTT broker from sending"} {
		if n := strings.Count(text.String(), want); n != 1 {
			t.Errorf("the log says %d times %q: %s", n, want, text.String())
		}
	}
	_, calls := s.subscribe(c, p, "t", 1)
	for range 2 * manyStrays {
		next(t, calls, "stray").verdict <- nil
		p.expect(firstPuback)
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct{ answer, want string }{
		{"\x20\x02\x00\x01", "does not speak MQTT 3.1.1"},
		{"\x20\x02\x00\x02", `client id "me"`},
		{"\x20\x02\x00\x03", "not available"},
		{"\x20\x02\x00\x04", "wrong user name or password"},
		{"\x20\x02\x00\x05", "not authorised"},
		{"\x20\x02\x00\x06", "unknown code 6"},
		{"HTTP/1.1 400 Bad Request\r\n\r\n", "something else than CONNACK"},
		{"\x15\x03\x01\x00\x02\x02\x16", "something else than CONNACK"}, // TLS
		{"\x40\x02\x00\x01", "something else than CONNACK"},
		{"\x20", "cannot connect"},
		{"", "without an answer"},
	} {
		s := script(t)
		done := make(chan error, 1)
		go func() {
			_, err := s.options().Connect(context.Background(), Session{ClientID: "me"})
			done <- err
		}()
		conn, err := s.listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		p := &peer{t, conn, bufio.NewReader(conn)}
		p.expect(firstConnect)
		p.send(test.answer)
		_ = conn.(*net.TCPConn).CloseWrite()
		if err := <-done; err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), conn.LocalAddr().String()) {
			t.Errorf("%q: %v, want an error with %s", test.answer, err, test.want)
		}
		conn.Close()
	}
	for _, id := range []string{"", "a\x00", strings.Repeat("x", longestTopic+1)} {
		if _, err := (&Options{URL: "mqtt://127.0.0.1:1"}).Connect(context.Background(), Session{ClientID: id}); err == nil || !strings.Contains(err.Error(), "consumerID") {
			t.Errorf("client id %.10q: %v", id, err)
		}
	}
}

func TestSubscriptionAnswers(t *testing.T) {
	var text buffer
	s := script(t)
	c, p := s.dial(slog.New(slog.NewTextHandler(&text, nil)))
	for _, test := range []struct{ codes, want string }{{"\x80", "refused"}, {"", "refused"}, {"\x01\x01", "refused"}, {"\x00", ""}} {
		done := make(chan error, 1)
		go func() {
			_, err := c.Subscribe(context.Background(), "t", 1, func(context.Context, *Message) error { return nil })
			done <- err
		}()
		id := p.expect(firstSubscribe)[:2]
		p.send("\x90" + string(rune(2+len(test.codes))) + id + test.codes)
		err := <-done
		_, refused := errors.AsType[*RefusedError](err)
		if refused != (test.want != "") || refused && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %s", test.codes, err, test.want)
		}
	}
	if !strings.Contains(text.String(), "asked=1 granted=0") {
		t.Errorf("log %s", text.String())
	}
}
