package cli

import (
	"os"
	"os/exec"
	"syscall"
)

func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// terminate ends the program at once: Windows has no signal that asks.
func (p *process) terminate() { _ = p.cmd.Process.Kill() }

func (p *process) kill() { _ = p.cmd.Process.Kill() }

func (p *process) groupAlive() bool { return false }

// terminatePID ends a process that is not ours.
func terminatePID(pid int) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return process.Kill()
}

func signalOf(error) string { return "" }
