//go:build unix

package pluggable

import (
	"os"
	"syscall"
	"testing"
)

// suspend stops a process, or lets it go on.
func suspend(t testing.TB, p *os.Process, stop bool) {
	t.Helper()
	signal := syscall.SIGCONT
	if stop {
		signal = syscall.SIGSTOP
	}
	if err := p.Signal(signal); err != nil {
		t.Fatal(err)
	}
}
