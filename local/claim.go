package local

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// claimLife is how long a port is kept for a process that is about to listen on it.
const claimLife = time.Minute

// claimFile is the file by which a port is claimed among all directories and users of the machine.
func claimFile(port int) string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("outrigger-port-%d", port))
}

// claim keeps a free port for the services of a directory until they listen on it: between being chosen and that, it looks free to
// others too. It is false when another directory has claimed the port a moment ago. Where no claim can be written, chance decides.
func claim(dir string, port int) bool {
	path := claimFile(port)
	for range 2 {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err == nil {
			_, err = f.WriteString(dir)
			return f.Close() == nil && err == nil
		}
		if !os.IsExist(err) {
			return true
		}
		info, err := os.Lstat(path)
		if err != nil {
			continue // it was just released
		}
		if time.Since(info.ModTime()) < claimLife {
			owner, err := os.ReadFile(path)
			return err == nil && string(owner) == dir
		}
		if os.Remove(path) != nil {
			return true // another user's, and out of date
		}
	}
	return true
}

// release ends a claim, once the port is listened on.
func release(port int) { _ = os.Remove(claimFile(port)) }
