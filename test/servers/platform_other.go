//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package servers

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// supported says that servers can be started on this operating system: here
// every test that asks for one is skipped, and nothing below is reached.
const supported = false

const sigStop = syscall.SIGKILL

var errUnsupported = errors.New("servers: not supported on this operating system; run these tests on Linux")

type account struct{}

func (*account) own(string) error { return errUnsupported }

func unprivileged(...string) (*account, error) { return nil, errUnsupported }

func processAttributes(*account, syscall.Signal) *syscall.SysProcAttr { return nil }

func signal(int, syscall.Signal) error { return errUnsupported }

func signalGroup(int, syscall.Signal) error { return errUnsupported }

func descendants(int) []int { return nil }

func alive(int) bool { return false }

func tryLock(*os.File, bool) (bool, error) { return false, errUnsupported }

func ownedByUs(fs.FileInfo) bool { return false }

// memoryDir is empty: these systems have no directory in memory by default.
func memoryDir() string { return "" }
