// Package localstorage is the output binding that keeps files in a directory of this machine (Dapr API,
// bindings.localstorage).
package localstorage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
)

// fileName is the metadata entry that names the file.
const fileName = "fileName"

// Options are the metadata properties of the component.
type Options struct {
	RootPath string `name:"rootPath" required:"true" help:"directory beneath which all files are; it is made if missing"`
	FileName string `name:"fileName" help:"the file of requests without the metadata entry fileName; create then makes up a name if this is empty too"`
}

// unusable is an error of the property rootPath.
func (o *Options) unusable(err error) error {
	return fmt.Errorf("metadata property \"rootPath\" is %q, which cannot be used: %w; give a directory in which the sidecar may write", o.RootPath, err)
}

// Check refuses a directory that is the system's. It implements [components.Checker].
func (o *Options) Check() error {
	path, err := filepath.Abs(o.RootPath)
	if err == nil {
		err = allowed(path)
	}
	if err != nil {
		return o.unusable(err)
	}
	return nil
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name: "localstorage", Version: "v1", Status: components.Stable,
		Description: "Keeps files in a directory of this machine.",
	}, func(ctx context.Context, inst components.Instance, options Options) (*Binding, error) {
		return Open(ctx, inst, options)
	})
}

var _ bindings.Output = (*Binding)(nil)

// Binding keeps files beneath one directory. Neither ".." nor symbolic links lead out of it.
type Binding struct {
	path    string // absolute
	root    *os.Root
	byName  string
	newName func() string
}

// forbidden are directories that hold what no app may read or change through the binding.
var forbidden = [...]string{"/var/run/secrets", "/run/secrets", "/proc", "/sys", "/boot", "/dev"}

// shm lies beneath a forbidden directory and is an ordinary one all the same.
const shm = "/dev/shm"

// Open makes the directory, which [Options.Check] has let pass, if it is missing.
func Open(_ context.Context, _ components.Instance, options Options) (*Binding, error) {
	bad := func(err error) (*Binding, error) {
		return nil, options.unusable(err)
	}
	path, err := filepath.Abs(options.RootPath)
	if err != nil {
		return bad(err)
	}
	if err := os.MkdirAll(path, 0o777); err != nil {
		return bad(err)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return bad(err)
	}
	// Again, with its links followed.
	if err := allowed(real); err != nil {
		return bad(err)
	}
	root, err := os.OpenRoot(real)
	if err != nil {
		return bad(err)
	}
	return &Binding{path: path, root: root, byName: options.FileName, newName: uuid.NewString}, nil
}

func allowed(path string) error {
	if path == string(filepath.Separator) {
		return errors.New("it is the root of the file system")
	}
	for _, dir := range forbidden {
		if beneath(dir, path) && !beneath(shm, path) {
			return fmt.Errorf("it is in %s, which is the system's", dir)
		}
	}
	return nil
}

// beneath reports whether path is dir or lies in it.
func beneath(dir, path string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || os.IsPathSeparator(rest[0]))
}

// Close gives the directory up.
func (b *Binding) Close() error { return b.root.Close() }

// Operations are create, get, list and delete.
func (b *Binding) Operations() []string {
	return []string{bindings.Create, bindings.Get, bindings.List, bindings.Delete}
}

// Invoke carries out an operation on the file that metadata "fileName" names.
func (b *Binding) Invoke(_ context.Context, req bindings.Request) (*bindings.Response, error) {
	name := req.Metadata[fileName]
	if name == "" && req.Operation != bindings.List {
		name = b.byName
	}
	switch req.Operation {
	case bindings.Create:
		return b.create(name, req.Data)
	case bindings.Get:
		return b.get(name)
	case bindings.List:
		return b.list(name)
	case bindings.Delete:
		return b.delete(name)
	default:
		return nil, fmt.Errorf("operation %q is not one of create, get, list and delete", req.Operation)
	}
}

// relative is the file's path from the root. A path that begins with the root's, as list gives them, is taken for what it is;
// any other is from the root on, whether it begins with a slash or not.
func (b *Binding) relative(name string) (string, error) {
	if name == "" {
		return "", &bindings.ParameterError{Name: fileName, Remedy: "give the name of the file, from the component's rootPath on"}
	}
	if clean := filepath.Clean(name); beneath(b.path, clean) {
		name = strings.TrimPrefix(clean, b.path)
	}
	// Cleaned as if the root were that of the file system, ".." stops there.
	name = strings.TrimPrefix(filepath.Clean(string(filepath.Separator)+name), string(filepath.Separator))
	if name == "" {
		name = "."
	}
	if !filepath.IsLocal(name) || strings.ContainsRune(name, 0) {
		return "", &bindings.ParameterError{Name: fileName, Value: name, Remedy: "it is no name that a file can have"}
	}
	return name, nil
}

// explain says which file an operation failed on.
func explain(operation, name string, err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		err = e.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("file not found: %s", name)
	case errors.Is(err, fs.ErrClosed):
		return errors.New("the local storage binding is closed; the sidecar is shutting down or the component was replaced")
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot %s file %s: %w; let the sidecar's user do it", operation, name, err)
	}
	return fmt.Errorf("cannot %s file %s: %w", operation, name, err)
}

// createResponse is the answer to create.
type createResponse struct {
	FileName string `json:"fileName"`
}

// create writes a file, whole or not at all, with the directories that lead to it.
func (b *Binding) create(name string, data []byte) (*bindings.Response, error) {
	if name == "" {
		name = b.newName()
	}
	name, err := b.relative(name)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(name)
	if err := b.root.MkdirAll(dir, 0o777); err != nil {
		return nil, explain("create", name, err)
	}
	permissions := fs.FileMode(0)
	if info, err := b.root.Stat(name); err == nil {
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("cannot create file %s: it is %s; give another fileName", name, kind(info.Mode()))
		}
		permissions = info.Mode().Perm()
	}
	// Readers see the old content or the new one, and a full disk leaves the old.
	partial := filepath.Join(dir, partialPrefix+uuid.NewString())
	if err := b.write(partial, bindings.Unquoted(data), permissions); err != nil {
		_ = b.root.Remove(partial)
		return nil, explain("create", name, err)
	}
	if err := b.root.Rename(partial, name); err != nil {
		_ = b.root.Remove(partial)
		return nil, explain("create", name, err)
	}
	reply, err := json.Marshal(createResponse{FileName: name})
	if err != nil {
		return nil, err
	}
	return &bindings.Response{Data: reply}, nil
}

// partialPrefix begins the names of files that are being written; list leaves them out.
const partialPrefix = ".outrigger-partial-"

// write makes a file; permissions that are not 0 are those of the file that it replaces.
func (b *Binding) write(name string, data []byte, permissions fs.FileMode) error {
	f, err := b.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	if permissions != 0 {
		err = f.Chmod(permissions)
	}
	if err == nil {
		_, err = f.Write(data)
	}
	return errors.Join(err, f.Close())
}

// longestFile bounds in bytes what get reads into memory.
const longestFile = 1 << 30

// kind is what something is that is no file.
func kind(mode fs.FileMode) string {
	if mode.IsDir() {
		return "a directory"
	}
	return "no regular file"
}

func (b *Binding) get(name string) (*bindings.Response, error) {
	name, err := b.relative(name)
	if err != nil {
		return nil, err
	}
	// Looked at first, for opening a pipe would wait for its writer.
	info, err := b.root.Stat(name)
	if err != nil {
		return nil, explain("read", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot read file %s: it is %s; give the fileName of a file", name, kind(info.Mode()))
	}
	f, err := b.root.Open(name)
	if err != nil {
		return nil, explain("read", name, err)
	}
	defer f.Close()
	var data bytes.Buffer
	if info.Size() <= longestFile {
		data.Grow(int(info.Size()) + bytes.MinRead)
		if _, err := data.ReadFrom(io.LimitReader(f, longestFile+1)); err != nil {
			return nil, explain("read", name, err)
		}
	}
	if info.Size() > longestFile || data.Len() > longestFile {
		return nil, fmt.Errorf("cannot read file %s: it is larger than %d bytes; read it without the sidecar", name, longestFile)
	}
	return &bindings.Response{Data: data.Bytes()}, nil
}

// list gives the full paths of all files in a directory and those in it. That there is no such directory yet is an error,
// that it is a file too.
func (b *Binding) list(name string) (*bindings.Response, error) {
	if name == "" {
		name = "."
	}
	name, err := b.relative(name)
	if err != nil {
		return nil, err
	}
	info, err := b.root.Stat(name)
	if err != nil {
		return nil, explain("list", name, err)
	}
	if !info.IsDir() {
		return nil, &bindings.ParameterError{Name: fileName, Value: name, Remedy: "it is a file; list wants a directory"}
	}
	files := []string{}
	err = fs.WalkDir(b.root.FS(), filepath.ToSlash(name), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		file := entry.Type().IsRegular()
		if entry.Type()&fs.ModeSymlink != 0 { // which get follows too, unless it leads out
			info, err := b.root.Stat(filepath.FromSlash(path))
			file = err == nil && info.Mode().IsRegular()
		}
		if file && !strings.HasPrefix(entry.Name(), partialPrefix) {
			files = append(files, filepath.Join(b.path, filepath.FromSlash(path)))
		}
		return nil
	})
	if err != nil {
		return nil, explain("list", name, err)
	}
	reply, err := json.Marshal(files)
	if err != nil {
		return nil, err
	}
	return &bindings.Response{Data: reply}, nil
}

func (b *Binding) delete(name string) (*bindings.Response, error) {
	name, err := b.relative(name)
	if err != nil {
		return nil, err
	}
	info, err := b.root.Lstat(name)
	if err != nil {
		return nil, explain("delete", name, err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("cannot delete %s: it is a directory; give the fileName of a file", name)
	}
	if err := b.root.Remove(name); err != nil {
		return nil, explain("delete", name, err)
	}
	return nil, nil
}
