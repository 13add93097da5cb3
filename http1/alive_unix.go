//go:build unix

package http1

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// alive reports whether an unused connection is still open: nothing to read and not closed by the other side. A connection
// it cannot look into counts as open.
func alive(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	open := true
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, e := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		open = e == unix.EAGAIN || e == unix.EWOULDBLOCK
		return true
	})
	return err == nil && open
}

// gone reports whether the other side has closed the connection. Bytes waiting to be read, as of a next request, count as
// presence; so does a connection it cannot look into.
func gone(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	closed := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, e := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		closed = e == nil && n == 0 || e != nil && e != unix.EAGAIN && e != unix.EWOULDBLOCK && e != unix.EINTR
	})
	return err != nil || closed
}
