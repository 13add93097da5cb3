// Package sftp is the output binding bindings.sftp, which keeps files on a server over SSH (Dapr API, bindings: SFTP).
package sftp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
)

// Register adds bindings.sftp to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name:        "sftp",
		Version:     "v1",
		Status:      components.Alpha,
		Description: "Keeps files on a server that speaks SFTP.",
	}, func(ctx context.Context, inst components.Instance, o Options) (*Binding, error) {
		return Open(ctx, o, inst.Log)
	})
}

// Options are the metadata of bindings.sftp.
type Options struct {
	Address              string `name:"address" required:"true" help:"the server as host:port, or host for port 22"`
	RootPath             string `name:"rootPath" required:"true" help:"directory of the server beneath which all files are; a relative one begins where the user's login leads"`
	FileName             string `name:"fileName" help:"the file of requests without the metadata entry fileName"`
	Username             string `name:"username" required:"true" help:"who logs in"`
	Password             string `name:"password" secret:"true" help:"the user's password; this, privateKey, or both"`
	PrivateKey           string `name:"privateKey" secret:"true" help:"the user's private key in PEM, or the path of a file with it"`
	PrivateKeyPassphrase string `name:"privateKeyPassphrase" secret:"true" help:"what privateKey is encrypted with"`
	HostPublicKey        string `name:"hostPublicKey" help:"the public key that the server must have, as in authorized_keys: ssh-ed25519 AAAA..."`
	KnownHostsFile       string `name:"knownHostsFile" help:"path of a file in known_hosts format with the keys that servers must have"`
	InsecureIgnoreHost   bool   `name:"insecureIgnoreHostKey" help:"take any server for the right one; for tests only"`
	SequentialMode       bool   `name:"sequentialMode" help:"one request at a time, each in small steps that wait for each other; for servers that cannot do better"`
}

// Check refuses what nobody could log in with. It implements [components.Checker].
func (o *Options) Check() error {
	_, err := o.login()
	return err
}

// fileName is the metadata entry that names the file.
const fileName = "fileName"

// Binding keeps files beneath one directory of a server. Neither ".." nor symbolic links lead out of it.
type Binding struct {
	options Options
	pool    *pool
}

var _ bindings.Output = (*Binding)(nil)

// Open connects to the server.
func Open(ctx context.Context, o Options, log *slog.Logger) (*Binding, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	login, err := o.login()
	if err != nil {
		return nil, err
	}
	if o.InsecureIgnoreHost {
		log.Warn("insecureIgnoreHostKey is set, so any server can pass for the right one and read the files and the password; set hostPublicKey or knownHostsFile instead", "address", login.address)
	}
	b := &Binding{options: o, pool: newPool(login, o.RootPath, o.SequentialMode)}
	// What is wrong with the metadata shows now, not with the first request.
	if err := b.pool.with(ctx, func(*channel) error { return nil }); err != nil {
		_ = b.Close()
		return nil, err
	}
	return b, nil
}

// Close implements [bindings.Binding]. Requests that run are given up.
func (b *Binding) Close() error { return b.pool.close() }

// Operations implements [bindings.Output].
func (*Binding) Operations() []string {
	return []string{bindings.Create, bindings.Get, bindings.Delete, bindings.List}
}

// Invoke carries out an operation on the file that the metadata fileName names, from rootPath on. A connection that was lost
// is made again, and the operation repeated once.
func (b *Binding) Invoke(ctx context.Context, req bindings.Request) (response *bindings.Response, err error) {
	name := req.Metadata[fileName]
	if name == "" && req.Operation != bindings.List {
		name = b.options.FileName
	}
	var do func(ctx context.Context, c *channel, relative string) (*bindings.Response, error)
	switch req.Operation {
	case bindings.Create:
		data := bindings.Unquoted(req.Data)
		do = func(_ context.Context, c *channel, relative string) (*bindings.Response, error) {
			return create(c, relative, data)
		}
	case bindings.Get:
		do = get
	case bindings.Delete:
		do = remove
	case bindings.List:
		do = list
	default:
		return nil, fmt.Errorf("sftp: the operation %q is not known: use create, get, delete or list", req.Operation)
	}
	relative, err := clean(name, req.Operation == bindings.List)
	if err != nil {
		return nil, fmt.Errorf("sftp: %w", err)
	}
	repeated := false
	err = b.pool.with(ctx, func(c *channel) error {
		defer func() { repeated = true }()
		if err := c.check(relative); err != nil {
			return err
		}
		var err error
		response, err = do(ctx, c, relative)
		if repeated && req.Operation == bindings.Delete && errors.Is(err, fs.ErrNotExist) {
			return nil // the first attempt has removed it
		}
		return err
	})
	if err != nil {
		return nil, explain(req.Operation, relative, err)
	}
	return response, nil
}

// clean is a file's path relative to the root. A slash in front means the root, and ".." stops there.
func clean(name string, emptyIsRoot bool) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", &bindings.ParameterError{Name: fileName, Value: name, Remedy: "a name cannot have the character 0"}
	}
	relative := strings.TrimPrefix(path.Clean("/"+name), "/")
	if relative == "" && !emptyIsRoot {
		return "", &bindings.ParameterError{Name: fileName, Value: name, Remedy: "give the name of the file, from the component's rootPath on"}
	}
	return relative, nil
}

// explain says which file an operation failed on.
func explain(operation, name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("sftp: file not found: %s", name)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("sftp: cannot %s %q: %w: the user of the component must be allowed to", operation, name, err)
	}
	return fmt.Errorf("sftp: cannot %s %q: %w", operation, name, err)
}

// createResponse is the answer to create.
type createResponse struct {
	FileName string `json:"fileName"`
}

// create writes a file, with the directories that lead to it.
func create(c *channel, relative string, data []byte) (*bindings.Response, error) {
	file := c.path(relative)
	const how = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	f, err := c.sftp.OpenFile(file, how)
	if errors.Is(err, fs.ErrNotExist) {
		if err := c.sftp.MkdirAll(path.Dir(file)); err != nil {
			return nil, err
		}
		f, err = c.sftp.OpenFile(file, how)
	}
	if err != nil {
		return nil, c.directory(file, err)
	}
	_, err = f.ReadFrom(bytes.NewReader(data))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	reply, err := json.Marshal(createResponse{FileName: relative})
	if err != nil {
		return nil, err
	}
	return &bindings.Response{Data: reply}, nil
}

func get(_ context.Context, c *channel, relative string) (*bindings.Response, error) {
	file := c.path(relative)
	f, err := c.sftp.Open(file)
	if err != nil {
		return nil, c.directory(file, err)
	}
	var data bytes.Buffer
	_, err = f.WriteTo(&data)
	// The library takes some ways to lose the channel for the end of the file. What the server answers to Close tells them apart.
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, c.directory(file, err)
	}
	return &bindings.Response{Data: data.Bytes()}, nil
}

// directory says so when an operation failed because what it meant to be a file is a directory.
func (c *channel) directory(file string, err error) error {
	if info, statErr := c.sftp.Stat(file); statErr == nil && info.IsDir() {
		return errors.New("it is a directory: give the fileName of a file")
	}
	return err
}

// remove removes a file, or a directory that is empty.
func remove(_ context.Context, c *channel, relative string) (*bindings.Response, error) {
	return nil, c.sftp.Remove(c.path(relative))
}

// listEntry is what the answer to list has for one file.
type listEntry struct {
	FileName    string `json:"fileName"`
	IsDirectory bool   `json:"isDirectory"`
}

// list gives what is in a directory.
func list(ctx context.Context, c *channel, relative string) (*bindings.Response, error) {
	directory := c.path(relative)
	files, err := c.sftp.ReadDirContext(ctx, directory)
	if err != nil {
		return nil, err
	}
	if _, err := c.sftp.Stat(directory); err != nil { // see get: or the list may have been cut off
		return nil, err
	}
	entries := make([]listEntry, len(files))
	for i, f := range files {
		entries[i] = listEntry{f.Name(), f.IsDir()}
	}
	reply, err := json.Marshal(entries)
	if err != nil {
		return nil, err
	}
	return &bindings.Response{Data: reply}, nil
}
