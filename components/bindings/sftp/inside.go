package sftp

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// outsideError says that a file is not beneath the root.
type outsideError struct{ real string }

func (e *outsideError) Error() string {
	return fmt.Sprintf("a symbolic link leads out of rootPath, to %s: use a file beneath rootPath", e.real)
}

// path is a file's on the server.
func (c *channel) path(relative string) string { return path.Join(c.conn.root, relative) }

// inside reports whether a path that has neither links nor ".." is the root's or beneath it.
func (c *channel) inside(real string) bool {
	return c.conn.root == "/" || real == c.conn.root || strings.HasPrefix(real, c.conn.root+"/")
}

// check says no to a file that symbolic links lead out of the root for: where it is, or would be made.
func (c *channel) check(relative string) error {
	for wanted := relative; ; {
		real, err := c.sftp.RealPath(c.path(relative))
		switch {
		case err == nil && !c.inside(real):
			return &outsideError{real}
		case err == nil && !c.conn.resolves:
			return c.follow(wanted)
		case err == nil || relative == "":
			return err
		case c.lost(err):
			return err
		}
		// Its directory is missing too.
		if relative = path.Dir(relative); relative == "." {
			relative = ""
		}
	}
}

// mostLinks is how many symbolic links a path may lead over.
const mostLinks = 40

// follow is check for servers whose real paths may be no more than tidy ones: it looks at every step of the way.
func (c *channel) follow(relative string) error {
	at, steps, links := c.conn.root, strings.Split(relative, "/"), 0
	for len(steps) > 0 {
		step := steps[0]
		steps = steps[1:]
		switch step {
		case "", ".":
			continue
		case "..": // of a link
			if at == c.conn.root {
				return &outsideError{path.Dir(at)}
			}
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, step)
		info, err := c.sftp.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		target, err := c.sftp.ReadLink(next)
		if err != nil {
			return err
		}
		if links++; links > mostLinks {
			return fmt.Errorf("it leads over more than %d symbolic links: use a file without", mostLinks)
		}
		if path.IsAbs(target) {
			if !c.inside(target) {
				return &outsideError{target}
			}
			at, target = c.conn.root, strings.TrimPrefix(target, c.conn.root)
		}
		steps = append(strings.Split(target, "/"), steps...)
	}
	return nil
}
