package server

import (
	"io"
	"net"
	"time"
)

// lingerTime is how long a connection that the server ends is still read from.
const lingerTime = 500 * time.Millisecond

// lingeringConn ends in two steps (RFC 9112, section 9.6): a client that is still sending, as after a body over the limit, would
// otherwise see its connection reset instead of the reply.
type lingeringConn struct {
	net.Conn
	server *HTTP
}

// NetConn is the connection itself, for those that look at its socket.
func (c *lingeringConn) NetConn() net.Conn { return c.Conn }

// Close says that nothing more comes, reads away what the client still sends, for a moment, and closes the connection. A server
// that is being shut down does not wait for that.
func (c *lingeringConn) Close() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if ok && !c.server.isStopping() && half.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.Copy(io.Discard, c.Conn) // ends by the deadline, or when the client closes
	}
	return c.Conn.Close()
}

func (s *HTTP) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}
