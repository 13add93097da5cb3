package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// errLocked says that another process has the lock.
var errLocked = errors.New("locked by another process")

// lockPoll is how often a lock that another has is tried again.
const lockPoll = 20 * time.Millisecond

// fileLock is a lock of one process on a file, given up by the system with the process.
type fileLock struct{ file *os.File }

func (l *fileLock) release() { _ = l.file.Close() }

// acquire waits for the lock on a file, which it makes. When ctx ends before, the error is errLocked.
func acquire(ctx context.Context, path string) (*fileLock, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unusable("the lock of the local services cannot be had", err)
	}
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		got, err := tryLock(file, true)
		if got {
			return &fileLock{file}, nil
		}
		if err != nil {
			_ = file.Close()
			return nil, fmt.Errorf("the lock %s: %w", path, err)
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("%s: %w", path, errLocked)
		}
	}
}

// isHeld tells whether a process has the lock on a file.
func isHeld(path string) (bool, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("the lock of the local services: %w", err)
	}
	defer file.Close()
	got, err := tryLock(file, false)
	if err != nil {
		return false, fmt.Errorf("the lock %s: %w", path, err)
	}
	return !got, nil
}
