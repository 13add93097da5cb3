package mdns

import (
	"errors"
	"syscall"

	"golang.org/x/sys/windows"
)

// sharePort lets several programs receive on the port of multicast DNS (RFC 6762, section 15).
func sharePort(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_REUSEADDR, 1)
	})
	if err != nil {
		return err
	}
	return failed
}

// inUse reports whether an address could not be had because somebody has it.
func inUse(err error) bool { return errors.Is(err, windows.WSAEADDRINUSE) }
