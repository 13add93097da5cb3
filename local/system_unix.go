//go:build unix

package local

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// tryLock locks a file unless another process has it. Shared locks exclude only exclusive ones.
func tryLock(file *os.File, exclusive bool) (bool, error) {
	how := syscall.LOCK_SH
	if exclusive {
		how = syscall.LOCK_EX
	}
	for {
		err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		default:
			return false, err
		}
	}
}

// detach gives a program a session of its own, which neither an interrupt nor the end of the terminal reaches.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// terminate asks a process to end.
func terminate(pid int) error { return syscall.Kill(pid, syscall.SIGTERM) }

// kill ends a process.
func kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }
