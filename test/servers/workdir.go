package servers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// runDir is where the servers of this test binary keep their data. Its lock is
// held while the binary lives; what a dead binary left is swept by the next.
type runDir struct {
	path string
	lock *fileLock
}

// newRunDir makes a run directory in the directory for temporary files and
// removes those of dead test binaries there.
func newRunDir(temp string) (*runDir, error) {
	base, err := baseDirIn(temp)
	if err != nil {
		return nil, err
	}
	// Held while directories appear and vanish, so that none is swept between its making and its lock.
	gate, err := lockFile(filepath.Join(base, "lock"), true)
	if err != nil {
		return nil, err
	}
	defer gate.release()
	sweep(base)
	path, err := os.MkdirTemp(base, "run-")
	if err != nil {
		return nil, fmt.Errorf("servers: no run directory: %w", err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(path, "lock"), true)
	if err != nil {
		return nil, err
	}
	return &runDir{path, lock}, nil
}

// sweep removes run directories whose lock is free. One that cannot be removed is left for the next.
func sweep(base string) {
	runs, _ := filepath.Glob(filepath.Join(base, "run-*"))
	for _, run := range runs {
		f, err := os.OpenFile(filepath.Join(run, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			continue
		}
		if free, err := tryLock(f, true); err == nil && free {
			_ = os.RemoveAll(run)
		}
		f.Close()
	}
}

func (r *runDir) remove() {
	_ = os.RemoveAll(r.path)
	r.lock.release()
}

// baseDir is the directory for what the test binaries of one user share.
func baseDir() (string, error) { return baseDirIn(tempDir()) }

// baseDirIn is such a directory in a directory for temporary files. Its name is
// short, because the path of a Unix socket may have about 100 bytes.
func baseDirIn(temp string) (string, error) {
	dir := filepath.Join(temp, "outrigger-servers-"+strconv.Itoa(os.Geteuid()))
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return "", fmt.Errorf("servers: no directory for test servers: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("servers: no directory for test servers: %w", err)
	}
	if !info.IsDir() || !ownedByUs(info) {
		return "", fmt.Errorf("servers: %s belongs to another user; remove it or set TMPDIR", dir)
	}
	return dir, nil
}

// tempDir is the system's directory for temporary files, or /tmp where a server
// under another account could not get through to that.
func tempDir() string {
	dir := os.TempDir()
	if os.Geteuid() != 0 {
		return dir
	}
	for d := dir; ; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err != nil || info.Mode()&0o001 == 0 {
			return "/tmp"
		}
		if d == filepath.Dir(d) {
			return dir
		}
	}
}

// fileLock is a lock between test binaries, given up by the kernel with the process.
type fileLock struct{ f *os.File }

// lockFile waits for the lock on a file, which it makes when it is not there.
func lockFile(path string, exclusive bool) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("servers: lock: %w", err)
	}
	// Whoever holds it may be making a data directory.
	err = await(4*startLimit, func(context.Context) error {
		got, err := tryLock(f, exclusive)
		if err != nil {
			return final{err}
		}
		if !got {
			return fmt.Errorf("servers: %s is locked by another process; end it or remove the file", path)
		}
		return nil
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return &fileLock{f}, nil
}

func (l *fileLock) release() { l.f.Close() }
