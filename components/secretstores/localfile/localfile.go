// Package localfile is the secret store secretstores.local.file: the secrets of a JSON file, for development.
package localfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"outrigger.dev/components"
	"outrigger.dev/components/secretstores"
)

var (
	_ secretstores.Store       = (*Store)(nil)
	_ secretstores.MultiValued = (*Store)(nil)
)

// Options are the metadata properties of the component (Dapr API, component schema: local file secret store).
type Options struct {
	SecretsFile     string `name:"secretsFile" required:"true" help:"the path of the JSON file with the secrets, relative to the working directory of the sidecar"`
	NestedSeparator string `name:"nestedSeparator" default:":" help:"what joins the keys of nested objects to the name of a secret"`
	MultiValued     bool   `name:"multiValued" default:"false" help:"whether an object at the top of the file is one secret with several entries"`
}

// Register adds secretstores.local.file to r.
func Register(r *components.Registry) {
	secretstores.Register(r, components.Info{
		Name:        "local.file",
		Version:     "v1",
		Status:      components.Stable,
		Description: "Reads secrets from a JSON file, for development on one machine.",
	}, open)
}

// Store holds the secrets that the file had when the store was opened.
type Store struct {
	// secrets maps names to entries.
	secrets     map[string]map[string]string
	multiValued bool
}

func open(_ context.Context, _ components.Instance, o Options) (secretstores.Store, error) {
	if o.NestedSeparator == "" {
		o.NestedSeparator = ":"
	}
	document, err := read(o.SecretsFile)
	if err != nil {
		return nil, err
	}
	s := &Store{multiValued: o.MultiValued}
	if o.MultiValued {
		s.secrets, err = multiValued(document, o.NestedSeparator)
	} else {
		s.secrets, err = singleValued(document, o.NestedSeparator)
	}
	if err != nil {
		return nil, fmt.Errorf("secrets file %s: %w", shownPath(o.SecretsFile), err)
	}
	return s, nil
}

// read loads the file and parses it.
func read(path string) (map[string]any, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("secrets file %s does not exist; create it, or correct the metadata property secretsFile %q, which is relative to the working directory of the sidecar", shownPath(path), path)
	}
	if err != nil {
		return nil, fmt.Errorf("secrets file %s cannot be read: %w; correct the metadata property secretsFile or the permissions of the file", shownPath(path), err)
	}
	document, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("secrets file %s: %w", shownPath(path), err)
	}
	return document, nil
}

// shownPath is the absolute form of path, which says where a relative one was looked for.
func shownPath(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// Get returns the entries of a secret. The text of the error for an unknown name is part of the API.
func (s *Store) Get(_ context.Context, name string, _ map[string]string) (map[string]string, error) {
	entries, ok := s.secrets[name]
	if !ok {
		return nil, fmt.Errorf("secret %s not found", name)
	}
	return maps.Clone(entries), nil
}

// BulkGet returns all secrets of the file.
func (s *Store) BulkGet(context.Context, map[string]string) (map[string]map[string]string, error) {
	all := make(map[string]map[string]string, len(s.secrets))
	for name, entries := range s.secrets {
		all[name] = maps.Clone(entries)
	}
	return all, nil
}

// MultiValued reports whether secrets may have several entries.
func (s *Store) MultiValued() bool { return s.multiValued }

// Close does nothing; the file is not kept open.
func (s *Store) Close() error { return nil }
