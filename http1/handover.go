package http1

import (
	"net"
	"sync"
)

// Handover is a listener whose connections were accepted elsewhere: it brings those that turned out to speak another protocol
// to the server of that protocol.
type Handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// NewHandover returns a listener without connections.
func NewHandover() *Handover { return &Handover{conns: make(chan net.Conn), done: make(chan struct{})} }

// Give hands a connection to the server, or closes it when the listener is closed. It returns when either is done.
func (h *Handover) Give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		_ = c.Close()
	}
}

// Accept returns the next connection given, and net.ErrClosed after Close.
func (h *Handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close stops the listener. The connections that it gave stay open. It never fails.
func (h *Handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr is a placeholder: the connections know theirs.
func (h *Handover) Addr() net.Addr { return &net.TCPAddr{} }

// Replay returns c with the bytes that were read of it already, by Sniff for example, to be read once more.
func Replay(c net.Conn, first []byte) net.Conn {
	if len(first) == 0 {
		return c
	}
	return &replayed{Conn: c, first: first}
}

// replayed is a connection of which some bytes were read already.
type replayed struct {
	net.Conn
	first []byte
}

// NetConn is the connection itself, for those that look at its socket or its peer.
func (c *replayed) NetConn() net.Conn { return c.Conn }

func (c *replayed) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
