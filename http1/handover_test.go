package http1

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/iotest"
)

func TestHandover(t *testing.T) {
	h := NewHandover()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go h.Give(ours)
	got, err := h.Accept()
	if err != nil || got != ours {
		t.Fatal(got, err)
	}
	if err := errors.Join(h.Close(), h.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	h.Give(got) // closes it
	if _, err := theirs.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the other end of a connection given too late: %v", err)
	}
}

func TestReplay(t *testing.T) {
	for _, first := range []string{"", "P", "PRI * HTTP/2.0"} {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			_, _ = io.WriteString(theirs, "rest")
		}()
		c := Replay(ours, []byte(first))
		if (c == ours) != (first == "") {
			t.Errorf("%q: wrapped: %v", first, c != ours)
		}
		text, err := io.ReadAll(iotest.OneByteReader(c))
		if string(text) != first+"rest" || err != nil {
			t.Errorf("%q: read %q, %v", first, text, err)
		}
		_ = ours.Close()
	}
}
