//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package servers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// supported says that servers can be started on this operating system.
const supported = true

const sigStop = syscall.SIGSTOP

func signal(pid int, s syscall.Signal) error { return syscall.Kill(pid, s) }

func signalGroup(pid int, s syscall.Signal) error { return syscall.Kill(-pid, s) }

// account is a user of this machine that a server runs as.
type account struct{ uid, gid uint32 }

// unprivileged is the account for a server that refuses to run as root: nil
// (our own) when we are not root, else the first of the names that exists.
func unprivileged(names ...string) (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("servers: account %s: %w", name, err)
		}
		return &account{uint32(uid), uint32(gid)}, nil
	}
	return nil, fmt.Errorf("servers: running as root, and none of the accounts %s exists to run the server as; make one", strings.Join(names, ", "))
}

// credential is how a child gets the account. It is set at the fork, because a
// process that changes its user by itself loses its parent-death signal.
func (a *account) credential() *syscall.Credential {
	if a == nil {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

// own gives a file or directory to the account.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Lchown(path, int(a.uid), int(a.gid))
}

// tryLock takes a lock on an open file that is given up when the file is
// closed, at the latest with the process. It says whether it got it.
func tryLock(f *os.File, exclusive bool) (bool, error) {
	how := syscall.LOCK_SH
	if exclusive {
		how = syscall.LOCK_EX
	}
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, syscall.EINTR):
			return false, fmt.Errorf("servers: lock %s: %w", f.Name(), err)
		}
	}
}

// ownedByUs says whether a file is ours, not put there by another user.
func ownedByUs(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}
