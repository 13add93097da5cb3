package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"outrigger.dev/resource"
)

// source is a file to check.
type source struct {
	path string
	data []byte
	docs []sourceDocument
}

// sourceDocument is one YAML document of a file.
type sourceDocument struct {
	line int // of its first line, from 1
	data []byte
}

// readSources reads the given files and the YAML files of the given directories, without their subdirectories.
func readSources(paths []string) ([]*source, error) {
	var files []*source
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("%w; give directories or files that exist", err)
		}
		names := []string{path}
		if info.IsDir() {
			entries, err := os.ReadDir(path)
			if err != nil {
				return nil, err
			}
			names = nil
			for _, e := range entries {
				if isYAML(e.Name()) && !e.IsDir() {
					names = append(names, filepath.Join(path, e.Name()))
				}
			}
		} else if !isYAML(path) {
			return nil, fmt.Errorf("file %q is not a YAML file; give one that ends in .yaml or .yml", path)
		}
		for _, name := range names {
			f, err := readSource(name)
			if err != nil {
				return nil, err
			}
			files = append(files, f)
		}
	}
	return files, nil
}

func isYAML(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml":
		return true
	}
	return false
}

func readSource(path string) (*source, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case info.Size() > resource.MaxFileSize:
		return nil, fmt.Errorf("%s is larger than %d MiB, which a sidecar does not read", path, resource.MaxFileSize>>20)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return &source{path: path, data: data, docs: splitSource(data)}, nil
}

// splitSource cuts a file at its "---" lines, as loading does.
func splitSource(data []byte) []sourceDocument {
	var docs []sourceDocument
	start, startLine, line := 0, 1, 1
	flush := func(end int) {
		if chunk := data[start:end]; len(bytes.TrimSpace(bytes.TrimPrefix(chunk, []byte("---")))) > 0 {
			docs = append(docs, sourceDocument{line: startLine, data: chunk})
		}
	}
	for at := 0; at < len(data); line++ {
		if bytes.HasPrefix(data[at:], []byte("---")) {
			flush(at)
			start, startLine = at, line
		}
		next := bytes.IndexByte(data[at:], '\n')
		if next < 0 {
			break
		}
		at += next + 1
	}
	flush(len(data))
	return docs
}

// components decodes the Components of the file.
func (f *source) components() []*resource.Component {
	return decodeKind(f, resource.KindComponent, []string{resource.V1alpha1}, func() *resource.Component { return &resource.Component{} })
}

// subscriptions decodes the Subscriptions of the file.
func (f *source) subscriptions() []*resource.Subscription {
	return decodeKind(f, resource.KindSubscription, []string{resource.V1alpha1, resource.V2alpha1}, func() *resource.Subscription { return &resource.Subscription{} })
}

// decodeKind decodes the documents of one kind; those that do not decode are left to loading to complain about.
func decodeKind[R resource.Resource](f *source, kind string, versions []string, blank func() R) []R {
	var found []R
	for i, doc := range f.docs {
		var head struct {
			APIVersion string `yaml:"apiVersion"`
			Kind       string `yaml:"kind"`
		}
		if yaml.Unmarshal(doc.data, &head) != nil || head.Kind != kind || !slices.Contains(versions, head.APIVersion) {
			continue
		}
		r := blank()
		if _, err := resource.Decode(doc.data, resource.Origin{File: f.path, Document: i + 1, Line: doc.line}, r); err == nil {
			found = append(found, r)
		}
	}
	return found
}

// lineOf is the line on which a document, counted from 1, first has word as a key or as the name of a metadata property; 0 if none.
func (f *source) lineOf(document int, word string) int {
	if lines := f.linesOf(document, word); len(lines) > 0 {
		return lines[0]
	}
	return 0
}

// linesOf are all the lines on which a document, counted from 1, has word as a key or as the name of a metadata property.
func (f *source) linesOf(document int, word string) []int {
	if document < 1 || document > len(f.docs) || word == "" {
		return nil
	}
	doc := f.docs[document-1]
	line := doc.line
	var lines []int
	for text := range strings.Lines(string(doc.data)) {
		if mentions(text, word) {
			lines = append(lines, line)
		}
		line++
	}
	return lines
}

// mentions tells whether a line of YAML has word as a key ("word: ...") or as a name ("name: word"), ignoring case, in block or in
// flow form.
func mentions(text, word string) bool {
	lowered, word := strings.ToLower(text), strings.ToLower(word)
	for at := 0; ; {
		i := strings.Index(lowered[at:], word)
		if i < 0 {
			return false
		}
		before, after := lowered[:at+i], lowered[at+i+len(word):]
		at += i + len(word)
		if before != "" && wordByte(before[len(before)-1]) || after != "" && wordByte(after[0]) {
			continue
		}
		key := strings.HasPrefix(strings.TrimLeft(after, `"'`), ":")
		name := strings.HasSuffix(strings.TrimRight(before, `"' `), "name:")
		if key || name {
			return true
		}
	}
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.'
}

// stage lays copies of the files out in directories of their own, which loading wants, in the same order. origin turns a path in
// them into the original one; remove deletes them.
func stage(files []*source) (dirs []string, origin func(string) string, remove func(), err error) {
	root, err := os.MkdirTemp("", "dapr-check-")
	if err != nil {
		return nil, nil, func() {}, err
	}
	originals := make(map[string]string, len(files))
	origin = func(path string) string {
		if original, ok := originals[path]; ok {
			return original
		}
		return path
	}
	remove = func() { _ = os.RemoveAll(root) }
	for i, f := range files {
		dir := filepath.Join(root, strconv.Itoa(i))
		copied := filepath.Join(dir, filepath.Base(f.path))
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(copied, f.data, 0o600)); err != nil {
			return nil, origin, remove, err
		}
		originals[copied] = f.path
		dirs = append(dirs, dir)
	}
	return dirs, origin, remove, nil
}
