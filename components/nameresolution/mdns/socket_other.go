//go:build !windows && (!unix || aix || solaris)

package mdns

import "syscall"

// sharePort does nothing where ports cannot be shared; multicast DNS then works for one program at a time.
func sharePort(_, _ string, _ syscall.RawConn) error { return nil }

// inUse cannot be told here.
func inUse(error) bool { return false }
