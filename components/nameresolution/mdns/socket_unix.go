//go:build unix && !aix && !solaris

package mdns

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// sharePort lets several programs receive on the port of multicast DNS (RFC 6762, section 15).
func sharePort(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		// Old kernels lack this one, and do without.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	})
	if err != nil {
		return err
	}
	return failed
}

// inUse reports whether an address could not be had because somebody has it.
func inUse(err error) bool { return errors.Is(err, unix.EADDRINUSE) }
