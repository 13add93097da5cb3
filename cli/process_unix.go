//go:build unix

package cli

import (
	"errors"
	"os/exec"
	"syscall"
)

func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	endWithParent(cmd.SysProcAttr)
}

func (p *process) terminate() { _ = syscall.Kill(-p.pid(), syscall.SIGTERM) }

func (p *process) kill() { _ = syscall.Kill(-p.pid(), syscall.SIGKILL) }

// groupAlive tells whether the process group has a member left.
func (p *process) groupAlive() bool { return !errors.Is(syscall.Kill(-p.pid(), 0), syscall.ESRCH) }

// terminatePID asks a process that is not ours to end.
func terminatePID(pid int) error { return syscall.Kill(pid, syscall.SIGTERM) }

// signalOf is the signal that ended a program, empty if none did.
func signalOf(err error) string {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := e.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return status.Signal().String()
		}
	}
	return ""
}
