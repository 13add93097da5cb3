package ca

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
	"slices"
	"time"
)

// Files keep documents in a directory (Dapr API, Sentry: storage, self-hosted), in files of mode 0600 that are replaced as wholes.
// Writers exclude each other by a lock on the file .sentry.lock. As several files cannot be replaced at once, a writer first writes all of them
// into the journal .sentry-journal.json: whoever comes after a crash finds them there.
type Files struct {
	// Directory is where the files are.
	Directory string
	// Names of the files, relative to the directory or absolute; empty ones have Dapr's names.
	Anchors, Issuer, IssuerKey, JWTKey, JWKS string
}

var _ Store = (*Files)(nil)

const (
	lockName    = ".sentry.lock"
	journalName = ".sentry-journal.json"
	// maxDocument bounds what is read of a file, in bytes.
	maxDocument = 4 << 20
	// lockPoll is how often a lock that another process holds is tried.
	lockPoll = 20 * time.Millisecond
)

// paths are those of the documents, in the order of [Documents.list].
func (f *Files) paths() []string {
	at := func(name, standard string) string {
		if name == "" {
			name = standard
		}
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(f.Directory, name)
	}
	return []string{
		at(f.Anchors, AnchorsName), at(f.Issuer, IssuerName), at(f.IssuerKey, IssuerKeyName),
		at(f.JWTKey, JWTKeyName), at(f.JWKS, JWKSName), at(RecordName, RecordName),
	}
}

// Watch implements [Store].
func (f *Files) Watch() []string {
	dirs := []string{f.Directory}
	for _, path := range f.paths() {
		dirs = append(dirs, filepath.Dir(path))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// Load implements [Store].
func (f *Files) Load(ctx context.Context) (Documents, error) {
	// Without a lock file there was no writer of ours, and a directory may well be read-only.
	file, err := os.OpenFile(filepath.Join(f.Directory, lockName), os.O_RDWR, 0)
	if err == nil {
		defer file.Close()
		if err := f.lock(ctx, file); err != nil {
			return Documents{}, err
		}
	}
	d, _, err := f.read()
	return d, err
}

// Update implements [Store].
func (f *Files) Update(ctx context.Context, change func(Documents) (Documents, bool, error)) error {
	if err := os.MkdirAll(f.Directory, 0o700); err != nil {
		return fmt.Errorf("the directory of the credentials cannot be made: %w; set --issuer-credentials to one that can be written", err)
	}
	file, err := os.OpenFile(filepath.Join(f.Directory, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("the credentials in %s cannot be locked: %w; set --issuer-credentials to a directory that can be written", f.Directory, err)
	}
	defer file.Close()
	if err := f.lock(ctx, file); err != nil {
		return err
	}
	present, interrupted, err := f.read()
	if err != nil {
		return err
	}
	next, changed, err := change(present)
	switch {
	case err != nil:
		return err
	case changed:
		return f.write(&next)
	case interrupted:
		return f.write(&present)
	}
	return nil
}

// lock waits for the lock. Closing the file releases it.
func (f *Files) lock(ctx context.Context, file *os.File) error {
	for {
		locked, err := tryLock(file)
		if err != nil {
			return fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		if locked {
			return nil
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return fmt.Errorf("another process holds the lock %s: %w", file.Name(), context.Cause(ctx))
		}
	}
}

// read reads the documents, from the journal if a writer was interrupted.
func (f *Files) read() (d Documents, interrupted bool, err error) {
	for i, document := range d.list() {
		if *document, err = readBounded(f.paths()[i]); err != nil {
			return d, false, err
		}
	}
	journal, err := readBounded(filepath.Join(f.Directory, journalName))
	if err != nil || len(journal) == 0 {
		return d, false, err
	}
	var written Documents
	if err := json.Unmarshal(journal, &written); err != nil {
		return d, false, fmt.Errorf("the journal %s cannot be read: %w; remove it", filepath.Join(f.Directory, journalName), err)
	}
	for i, document := range written.list() {
		if len(*document) > 0 {
			*d.list()[i] = *document
		}
	}
	return d, true, nil
}

// readBounded reads a file; one that does not exist is empty.
func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxDocument+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case len(data) > maxDocument:
		return nil, fmt.Errorf("%s is larger than %d bytes: this is no credentials file", path, maxDocument)
	}
	return data, nil
}

// write writes the documents by way of the journal.
func (f *Files) write(d *Documents) error {
	journal, err := json.Marshal(d)
	if err != nil {
		return err
	}
	journalPath := filepath.Join(f.Directory, journalName)
	if err := writeFile(journalPath, journal); err != nil {
		return err
	}
	for i, document := range d.list() {
		path := f.paths()[i]
		if len(*document) == 0 {
			continue
		}
		if present, err := readBounded(path); err == nil && bytes.Equal(present, *document) {
			continue
		}
		if err := writeFile(path, *document); err != nil {
			return err
		}
	}
	return os.Remove(journalPath)
}

// writeFile replaces a file as a whole, with mode 0600, and waits until it is on the disk.
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(dir, ".sentry-*") // of mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	_, err = file.Write(data)
	err = errors.Join(err, file.Sync(), file.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return syncDirectory(dir)
}
