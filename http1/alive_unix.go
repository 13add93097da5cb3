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
// presence, except under TLS, which ends with a message of its own; so does a connection it cannot look into.
func gone(c net.Conn) bool {
	below := socket(c)
	hungUp := encrypted(c)
	sc, ok := below.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	closed := false
	err = raw.Control(func(fd uintptr) {
		if hungUp {
			closed = hasHungUp(fd)
			return
		}
		var b [1]byte
		n, _, e := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		closed = e == nil && n == 0 || e != nil && e != unix.EAGAIN && e != unix.EWOULDBLOCK && e != unix.EINTR
	})
	return err != nil || closed
}

// hasHungUp reports whether the other side has closed the connection, even if bytes it sent before are still waiting.
func hasHungUp(fd uintptr) bool {
	set := []unix.PollFd{{Fd: int32(fd), Events: pollHangUp}}
	n, err := unix.Poll(set, 0)
	return err == nil && n > 0 && set[0].Revents&(pollHangUp|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}
