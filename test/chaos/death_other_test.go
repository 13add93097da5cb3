//go:build !linux

package chaos

import "syscall"

// attributes are none: the test ends its children itself.
func attributes() *syscall.SysProcAttr { return nil }
