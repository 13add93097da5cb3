package servers

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Making an empty database takes a second or more, copying one a tenth of that.
// So the data directory is made once per version of the server and recipe, kept
// in the user's cache directory, and copied for every server.

// templateAge is how long the template of another version is kept.
const templateAge = 7 * 24 * time.Hour

// dataFromTemplate fills a new directory, owned by the account, with fresh data
// that make puts into an empty directory. The recipe tells its variants apart.
func dataFromTemplate(k kind, program, recipe, dir string, as *account, build func(dir string) error) error {
	info, err := os.Stat(program)
	if err != nil {
		return fmt.Errorf("servers: %w", err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d %s", program, info.Size(), info.ModTime().UnixNano(), recipe))
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	template := filepath.Join(cache, fmt.Sprintf("%s-%x", k, sum[:8]))
	for {
		// Shared while it is copied, so that no other binary removes it meanwhile.
		lock, err := lockFile(template+".lock", false)
		if err != nil {
			return err
		}
		if _, err = os.Stat(template); err == nil {
			err = copyTree(template, dir, as)
			lock.release()
			return err
		}
		lock.release()
		if err := makeTemplate(template, dir+"-template", as, build); err != nil {
			return err
		}
		removeOldTemplates(cache, k, template)
	}
}

// makeTemplate builds a template unless another test binary just did. It is
// put in place by a rename, so that a template is complete or absent.
func makeTemplate(template, work string, as *account, build func(dir string) error) error {
	lock, err := lockFile(template+".lock", true)
	if err != nil {
		return err
	}
	defer lock.release()
	if _, err := os.Stat(template); err == nil {
		return nil
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return fmt.Errorf("servers: %w", err)
	}
	defer os.RemoveAll(work)
	if err := as.own(work); err != nil {
		return fmt.Errorf("servers: %w", err)
	}
	if err := build(work); err != nil {
		return err
	}
	partial := template + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return fmt.Errorf("servers: %w", err)
	}
	if err := copyTree(work, partial, nil); err != nil {
		return err
	}
	if err := os.Rename(partial, template); err != nil {
		return fmt.Errorf("servers: %w", err)
	}
	return nil
}

// removeOldTemplates removes templates of other versions that have not been made lately.
func removeOldTemplates(cache string, k kind, keep string) {
	templates, _ := filepath.Glob(filepath.Join(cache, k.String()+"-*[0-9a-f]"))
	for _, old := range templates {
		info, err := os.Stat(old)
		if old == keep || err != nil || !info.IsDir() || time.Since(info.ModTime()) < templateAge {
			continue
		}
		f, err := os.OpenFile(old+".lock", os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			continue
		}
		if free, err := tryLock(f, true); err == nil && free {
			_ = os.RemoveAll(old)
		}
		f.Close()
	}
}

// cacheDir is where templates are kept: the user's cache, or the directory for
// temporary files where there is no writable home.
func cacheDir() (string, error) {
	if user, err := os.UserCacheDir(); err == nil {
		dir := filepath.Join(user, "outrigger", "test-servers")
		if os.MkdirAll(dir, 0o755) == nil && writable(dir) {
			return dir, nil
		}
	}
	base, err := baseDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "templates")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("servers: templates: %w", err)
	}
	return dir, nil
}

func writable(dir string) bool {
	f, err := os.CreateTemp(dir, "probe-")
	if err != nil {
		return false
	}
	f.Close()
	return os.Remove(f.Name()) == nil
}

// copyTree copies directories and regular files, with their modes, to a
// directory that does not exist yet, all owned by the account. Sockets and the
// like belong to a server that runs and are left out.
func copyTree(from, to string, as *account) error {
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case info.IsDir():
			if err := os.Mkdir(target, info.Mode().Perm()); err != nil {
				return err
			}
		case info.Mode().IsRegular():
			if err := copyFile(path, target, info.Mode().Perm()); err != nil {
				return err
			}
		default:
			return nil
		}
		return as.own(target)
	})
	if err != nil {
		return fmt.Errorf("servers: copy of %s: %w", from, err)
	}
	return nil
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
