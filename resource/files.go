package resource

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// MaxFileSize is the largest resource or configuration file that is read, in bytes. It guards against a wrong path; documents
// within it may have any size.
const MaxFileSize = 16 << 20

// readFile reads a whole file of at most MaxFileSize bytes.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("%s is larger than the limit of %d MiB: split it into several files", path, MaxFileSize>>20)
	}
	return data, nil
}

// resourceFiles lists the YAML files directly in a directory, in name order, and warns about the other files. Directories and
// names starting with ".." (the links that Kubernetes puts into mounted volumes) are passed over.
func resourceFiles(dir string) (files []string, problems []Problem, err error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() || strings.HasPrefix(e.Name(), "..") {
			continue
		}
		switch strings.ToLower(filepath.Ext(e.Name())) {
		case ".yaml", ".yml":
		default:
			remedy := "move it out of the resources directory, or rename it to .yaml if it holds resources"
			problems = append(problems, Problem{
				Origin: Origin{File: path}, Kind: KindComponent, Remedy: remedy,
				Message: fmt.Sprintf("A non-YAML %s file %s was detected, it will not be loaded", KindComponent, e.Name()),
			})
			continue
		}
		// Opening a pipe would block, and a link to a directory is no file.
		info, err := os.Stat(path)
		if err == nil && info.IsDir() {
			continue
		}
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a regular file", path)
		}
		if err != nil {
			problems = append(problems, unreadable(path, err))
			continue
		}
		files = append(files, path)
	}
	return files, problems, nil
}

func unreadable(path string, err error) Problem {
	return Problem{
		Origin: Origin{File: path}, Severity: Error, Message: fmt.Sprintf("cannot read the resource file: %v", err),
		Remedy: "make it a readable file of at most 16 MiB, or remove it",
	}
}

// unreadable reports a file that is passed over.
func (l *loader) unreadable(file string, err error) {
	if !errors.Is(err, fs.ErrNotExist) || l.again == nil { // while a sidecar runs a file may go at any moment
		l.again.broke(file)
		l.problems = append(l.problems, unreadable(file, err))
	}
}
