// Command protogen compiles the wire contracts and generates their Go code.
//
// It needs no protoc: the compiler is a library, and the code generators are
// the tools pinned in this module. It is run by "go generate ./api".
//
// A contract is named in its descriptor as its import path, which clients see
// through server reflection. Most import paths begin at the root folder; the
// folders given with -nested are import roots of their own inside it.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// digestFile lists the SHA-256 of every contract that was generated from, in
// the format of sha256sum, so that a test can tell stale code without a compiler.
const digestFile = "sources.sha256"

// options are what the command line asks for.
type options struct {
	root   string   // folder of the contracts
	nested []string // folders below root that are import roots of their own
	out    string   // folder of the generated code; emptied first
	module string   // Go import path of out
}

func main() {
	var o options
	var nested string
	flag.StringVar(&o.root, "root", "", "folder of the .proto files")
	flag.StringVar(&nested, "nested", "", "comma separated folders below root that are import roots of their own")
	flag.StringVar(&o.out, "out", "", "folder of the generated code; emptied first")
	flag.StringVar(&o.module, "module", "", "Go import path of the out folder")
	flag.Parse()
	if nested != "" {
		o.nested = strings.Split(nested, ",")
	}
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintf(os.Stderr, "protogen: %v\n", err)
		os.Exit(1)
	}
}

// source is one contract on disk.
type source struct {
	name string // import path
	rel  string // path below the root folder, with slashes
	sum  string // SHA-256 of the content, in hexadecimal
}

// run generates everything, or leaves the out folder alone if a contract does
// not compile or a generator fails.
func run(ctx context.Context, o options) error {
	if o.root == "" || o.out == "" || o.module == "" {
		return errors.New("flags -root, -out and -module are required")
	}
	sources, err := find(o)
	if err != nil {
		return err
	}
	request, err := compile(ctx, o, sources)
	if err != nil {
		return err
	}
	generated := map[string][]byte{digestFile: digests(sources)}
	for _, tool := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
		if err := generate(ctx, tool, request, generated); err != nil {
			return err
		}
	}
	return write(o.out, generated)
}

// find lists the contracts below the root, sorted by import path.
func find(o options) ([]source, error) {
	var sources []source
	err := filepath.WalkDir(o.root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(file) != ".proto" {
			return err
		}
		rel, err := filepath.Rel(o.root, file)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		s := source{rel: filepath.ToSlash(rel), sum: fmt.Sprintf("%x", sha256.Sum256(content))}
		s.name = s.rel
		for _, nested := range o.nested {
			if below, ok := strings.CutPrefix(s.rel, nested+"/"); ok {
				s.name = below
			}
		}
		sources = append(sources, s)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(sources) == 0 {
		return nil, fmt.Errorf("no .proto file below %s: check -root", o.root)
	}
	slices.SortFunc(sources, func(a, b source) int { return strings.Compare(a.name, b.name) })
	return sources, nil
}

// compile turns the contracts into the request that the generators read.
func compile(ctx context.Context, o options, sources []source) (*pluginpb.CodeGeneratorRequest, error) {
	roots := []string{o.root}
	for _, nested := range o.nested {
		roots = append(roots, filepath.Join(o.root, filepath.FromSlash(nested)))
	}
	names := make([]string, len(sources))
	for i, s := range sources {
		names[i] = s.name
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: roots}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(ctx, names...)
	if err != nil {
		return nil, err
	}
	request := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: names,
		Parameter:      proto.String("module=" + o.module),
	}
	done := make(map[string]bool)
	for _, file := range files {
		request.ProtoFile = appendFile(request.ProtoFile, file, done)
	}
	return request, nil
}

// appendFile appends the descriptor of a file after those of its imports.
func appendFile(
	list []*descriptorpb.FileDescriptorProto, file protoreflect.FileDescriptor, done map[string]bool,
) []*descriptorpb.FileDescriptorProto {
	if done[file.Path()] {
		return list
	}
	done[file.Path()] = true
	imports := file.Imports()
	for i := range imports.Len() {
		list = appendFile(list, imports.Get(i).FileDescriptor, done)
	}
	return append(list, protoutil.ProtoFromFileDescriptor(file))
}

// generate runs one code generator and adds its files to generated.
func generate(
	ctx context.Context, tool string, request *pluginpb.CodeGeneratorRequest, generated map[string][]byte,
) error {
	input, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, "go", "tool", tool)
	command.Stdin = bytes.NewReader(input)
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(output, &response); err != nil {
		return fmt.Errorf("%s: reading its answer: %w", tool, err)
	}
	if response.Error != nil {
		return fmt.Errorf("%s: %s", tool, response.GetError())
	}
	for _, file := range response.GetFile() {
		generated[path.Clean(file.GetName())] = []byte(file.GetContent())
	}
	return nil
}

// digests renders the digest file.
func digests(sources []source) []byte {
	lines := make([]string, len(sources))
	for i, s := range sources {
		lines[i] = s.sum + "  " + s.rel + "\n"
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	return []byte(strings.Join(lines, ""))
}

// write replaces the content of the out folder. It refuses a folder that holds
// files but no digest file: that one was not generated here.
func write(out string, generated map[string][]byte) error {
	entries, err := os.ReadDir(out)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(out, digestFile)); err != nil {
			return fmt.Errorf("%s was not generated by this command (it has no %s): check -out, or empty it", out, digestFile)
		}
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	for name, content := range generated {
		file := filepath.Join(out, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
