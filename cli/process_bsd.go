//go:build unix && !linux

package cli

import "syscall"

// endWithParent does nothing: this system has no such notice.
func endWithParent(*syscall.SysProcAttr) {}
