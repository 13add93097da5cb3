//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package servers

import "syscall"

// processAttributes puts a child in a process group of its own (an interrupt
// from the terminal is for the test binary alone) and under an account. These
// systems have no parent-death signal: here Main alone stops the servers.
func processAttributes(as *account, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: as.credential()}
}

// descendants is empty: children of a killed server end by themselves here.
func descendants(int) []int { return nil }

// alive says whether a process is there.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// memoryDir is empty: these systems have no directory in memory by default.
func memoryDir() string { return "" }
