package resource

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"outrigger.dev/suggest"
)

// Options say what Load reads and keeps.
type Options struct {
	// Dirs are the resource directories, read in this order and not recursively.
	Dirs []string
	// Namespace is that of the process; empty turns the namespace filter off.
	Namespace string
	// AppID is what scopes are compared with.
	AppID string
	// Deny is components.deny of the Configuration.
	Deny []string
}

// Set holds loaded resources, each kind in load order: directories as given, files by name, documents from top to bottom.
type Set struct {
	Components             []*Component
	HTTPEndpoints          []*HTTPEndpoint
	Subscriptions          []*Subscription
	Resiliencies           []*Resiliency
	MCPServers             []*MCPServer
	WorkflowAccessPolicies []*WorkflowAccessPolicy
}

// LoadError is a fatal error of Load.
type LoadError struct {
	// Kind that cannot be loaded; empty if a directory cannot be read, which concerns all kinds.
	Kind string
	// Err is the cause. For duplicates it has one line for each.
	Err error
}

// Error returns the text of the cause.
func (e *LoadError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *LoadError) Unwrap() error { return e.Err }

// Load reads the resources of the directories (Dapr API, resource loading). Problems are what users should hear about but what does not
// stop a sidecar. An error is fatal at start: a directory that cannot be read, duplicate names of components, MCP servers or
// workflow access policies; it holds one *LoadError for each kind concerned, components first. The Set is never nil: it
// has the kinds that loaded.
func Load(ctx context.Context, opts Options) (*Set, []Problem, error) {
	l := newLoader(opts)
	err := l.dirs(ctx)
	if ctx.Err() != nil {
		return &Set{}, l.problems, err
	}
	return &l.set, l.problems, err
}

// dirs loads everything.
func (l *loader) dirs(ctx context.Context) error {
	var fatal []error
	for _, dir := range l.opts.Dirs {
		files, problems, err := resourceFiles(dir)
		l.problems = append(l.problems, problems...)
		if err != nil {
			fatal = append(fatal, &LoadError{Err: err})
			continue
		}
		for _, file := range files {
			if err := ctx.Err(); err != nil {
				return err
			}
			data, err := readFile(file)
			if err != nil {
				l.unreadable(file, err)
				continue
			}
			if len(data) == 0 {
				l.again.broke(file)
			}
			l.read(file, data)
		}
	}
	return errors.Join(append(fatal, l.finish()...)...)
}

// loader is the state of one Load.
type loader struct {
	opts    Options
	decoder *decoder
	// again is what a load that is repeated while a sidecar runs needs; nil at start.
	again         *again
	set           Set
	problems      []Problem
	subscriptions map[string]int // position in set.Subscriptions by name

	components *collector[*Component]
	endpoints  *collector[*HTTPEndpoint]
	servers    *collector[*MCPServer]
	policies   *collector[*WorkflowAccessPolicy]
}

func newLoader(opts Options) *loader {
	l := &loader{opts: opts, decoder: newDecoder(Origin{}, false)}
	l.components = newCollector[*Component](l, KindComponent, true)
	l.endpoints = newCollector[*HTTPEndpoint](l, KindHTTPEndpoint, true)
	l.servers = newCollector[*MCPServer](l, KindMCPServer, true)
	l.policies = newCollector[*WorkflowAccessPolicy](l, KindWorkflowAccessPolicy, false)
	return l
}

// read loads all documents of a file.
func (l *loader) read(path string, data []byte) {
	for _, doc := range splitDocuments(data) {
		origin := Origin{File: path, Document: doc.index, Line: doc.line}
		root, repeated, err := parseNode(doc)
		if err != nil {
			l.unparsable(origin, errorLine(err), knownKind(sniffKind(doc.data)), "", fmt.Errorf("error converting YAML to JSON: %w", err))
			continue
		}
		if root == nil || root.kind == kindNull {
			continue
		}
		origin.Line = root.line
		if root.kind != kindObject {
			l.unparsable(origin, root.line, KindComponent, "", fmt.Errorf("the document is %s, not an object", root.describe()))
			continue
		}
		l.document(origin, root, repeated)
	}
}

func knownKind(kind string) string {
	for _, k := range allKinds() {
		if strings.EqualFold(k, kind) {
			return k
		}
	}
	return KindComponent
}

func allKinds() []string {
	return []string{KindComponent, KindConfiguration, KindSubscription, KindResiliency, KindHTTPEndpoint, KindWorkflowAccessPolicy, KindMCPServer}
}

// unparsable reports a document that is skipped.
func (l *loader) unparsable(origin Origin, line int, kind, name string, err error) {
	if line > 0 {
		origin.Line = line
	}
	l.again.broke(origin.File)
	l.problems = append(l.problems, Problem{
		Origin: origin, Severity: Error, Kind: kind, Name: name,
		Message: fmt.Sprintf("daprd load %s error when parsing manifests yaml resource in %s: %v", kind, origin.File, err),
		Remedy:  "correct the document; it is not loaded until then",
	})
}

// document loads one parsed document.
func (l *loader) document(origin Origin, root *node, repeated []field) {
	l.typed(origin, root, repeated, rootText(root, "apiVersion"), rootText(root, "kind"))
}

// typed loads one parsed document of a kind.
func (l *loader) typed(origin Origin, root *node, repeated []field, apiVersion, kind string) {
	into := newResource(apiVersion, kind)
	if into == nil {
		l.unknownKind(origin, root, apiVersion, kind)
		return
	}
	if kind == KindResiliency && apiVersion != V1alpha1 {
		l.unknownKind(origin, root, apiVersion, kind)
	}
	into.Head().Kind, into.Head().APIVersion = kind, apiVersion // a listed document may leave them out
	problems, err := decodeResource(root, repeated, origin, l.decoder, into)
	if err != nil {
		name := ""
		if m := root.get("metadata"); m != nil {
			name = rootText(m, "name")
		}
		l.unparsable(origin, 0, kind, name, err)
		return
	}
	l.problems = append(l.problems, problems...)
	switch r := into.(type) {
	case *Component:
		l.components.add(r)
	case *HTTPEndpoint:
		l.endpoints.add(r)
	case *MCPServer:
		l.servers.add(r)
	case *WorkflowAccessPolicy:
		l.policies.add(r)
	case *Resiliency:
		if InScope(r.Scopes, l.opts.AppID) {
			l.set.Resiliencies = append(l.set.Resiliencies, r)
		}
	case *Subscription:
		if InScope(r.Scopes, l.opts.AppID) {
			l.subscription(r)
		}
	}
}

// newResource returns an empty resource for the pair, nil if it names none that is loaded. A Configuration in a resources
// directory is not applied. Resiliency is taken with any version of the dapr.io group, as it always was.
func newResource(apiVersion, kind string) Resource {
	switch {
	case kind == KindSubscription && (apiVersion == V1alpha1 || apiVersion == V2alpha1):
		return &Subscription{}
	case kind == KindResiliency && (apiVersion == "" || strings.HasPrefix(apiVersion, "dapr.io/")):
		return &Resiliency{}
	case apiVersion != V1alpha1:
		return nil
	case kind == KindComponent:
		return &Component{}
	case kind == KindHTTPEndpoint:
		return &HTTPEndpoint{}
	case kind == KindMCPServer:
		return &MCPServer{}
	case kind == KindWorkflowAccessPolicy:
		return &WorkflowAccessPolicy{}
	}
	return nil
}

func rootText(n *node, name string) string {
	if v := n.get(name); v != nil && v.kind < kindList {
		return v.scalarText()
	}
	return ""
}

// unknownKind warns about documents that are not loaded but look as if they should be: a slip in the kind or the version.
// All others are ignored without a word, since directories are shared with other tools.
func (l *loader) unknownKind(origin Origin, root *node, apiVersion, kind string) {
	ours := false
	for _, k := range allKinds() {
		ours = ours || k == kind
	}
	group, _, _ := strings.Cut(apiVersion, "/")
	_, nearDapr := suggest.Nearest(group, []string{"dapr.io"})
	isDapr := nearDapr || ours && strings.Contains(strings.ToLower(group), "dapr")
	if !isDapr && (apiVersion != "" || !ours) {
		return
	}
	versions := V1alpha1
	if kind == KindSubscription {
		versions = V1alpha1 + " or " + V2alpha1
	}
	accepted := apiVersion == V1alpha1 || kind == KindSubscription && apiVersion == V2alpha1
	name := ""
	if m := root.get("metadata"); m != nil {
		name = rootText(m, "name")
	}
	p := Problem{Origin: origin, Kind: kind, Name: name}
	switch {
	case ours && accepted: // a Configuration, which belongs in a configuration file
		return
	case ours && kind == KindResiliency:
		p.Message = fmt.Sprintf("apiVersion %q is not a known version of Resiliency; the document is loaded all the same", apiVersion)
		p.Remedy = "set apiVersion: " + versions
	case ours:
		p.Message = fmt.Sprintf("apiVersion %q is not a version of %s, so the document is ignored", apiVersion, kind)
		p.Remedy = "set apiVersion: " + versions
	default:
		p.Message = fmt.Sprintf("kind %q of %s is unknown, so the document is ignored", kind, apiVersion)
		p.Remedy = "use one of " + strings.Join(allKinds(), ", ")
		if near, ok := suggest.Nearest(kind, allKinds()); ok {
			p.Remedy = "did you mean kind: " + near + "?"
		}
	}
	l.problems = append(l.problems, p)
}

// subscription adds one; a later one of the same name replaces the earlier and goes to the end.
func (l *loader) subscription(s *Subscription) {
	if l.subscriptions == nil {
		l.subscriptions = map[string]int{}
	}
	name := s.Metadata.Name
	if at, ok := l.subscriptions[name]; ok {
		old := l.set.Subscriptions[at]
		l.set.Subscriptions[at] = nil
		l.problems = append(l.problems, Problem{
			Origin: s.Origin, Kind: KindSubscription, Name: name,
			Message: fmt.Sprintf("it replaces the subscription of the same name in %s", old.Origin), Remedy: "rename one of the two",
		})
	}
	l.subscriptions[name] = len(l.set.Subscriptions)
	l.set.Subscriptions = append(l.set.Subscriptions, s)
}

// finish applies what needs all resources and fills the set.
func (l *loader) finish() []error {
	var fatal []error
	failed := func(err error) bool {
		if err != nil {
			fatal = append(fatal, err)
		}
		return err != nil
	}
	if !failed(l.components.err()) {
		l.set.Components = l.allowed(l.components.items)
	}
	if !failed(l.servers.err()) {
		l.set.MCPServers = l.servers.items
	}
	if !failed(l.policies.err()) {
		for _, p := range l.policies.items {
			if err := p.Validate(); err != nil {
				l.again.broke(p.Origin.File)
				l.problems = append(l.problems, Problem{
					Origin: p.Origin, Severity: Error, Kind: KindWorkflowAccessPolicy, Name: p.Metadata.Name,
					Message: fmt.Sprintf("WorkflowAccessPolicy %q failed validation, skipping: %v", p.Metadata.Name, err),
					Remedy:  "correct the policy; without it other policies, or none, decide",
				})
				continue
			}
			l.set.WorkflowAccessPolicies = append(l.set.WorkflowAccessPolicies, p)
		}
	}
	if err := l.endpoints.err(); err != nil {
		// The only kind whose duplicates do not stop a sidecar: it runs without any endpoint.
		l.problems = append(l.problems, Problem{
			Severity: Error, Kind: KindHTTPEndpoint, Message: "no HTTPEndpoint is loaded: " + err.Error(), Remedy: "give every HTTPEndpoint its own metadata.name",
		})
	} else {
		l.set.HTTPEndpoints = l.endpoints.items
	}
	kept := l.set.Subscriptions[:0]
	for _, s := range l.set.Subscriptions {
		if s != nil {
			kept = append(kept, s)
		}
	}
	l.set.Subscriptions = kept
	return fatal
}

// allowed drops the components that the deny list refuses.
func (l *loader) allowed(items []*Component) []*Component {
	var kept []*Component
	for _, c := range items {
		if !c.Denied(l.opts.Deny) {
			kept = append(kept, c)
			continue
		}
		p := Problem{
			Origin: c.Origin, Kind: KindComponent, Name: c.Metadata.Name,
			Message: fmt.Sprintf("component %s is denied by components.deny of the configuration and is not loaded", c.LogName()),
			Remedy:  "remove the component, or its entry in components.deny",
		}
		if c.Spec.Version == "" {
			p.Remedy = "set spec.version: with a deny list, components without a version are denied too"
		}
		l.problems = append(l.problems, p)
	}
	return kept
}

// collector gathers the resources of a kind whose names must be unique.
type collector[T Resource] struct {
	loader   *loader
	kind     string
	needName bool // resources without name are left out
	items    []T
	byName   map[string]T
	repeats  []string
}

func newCollector[T Resource](l *loader, kind string, needName bool) *collector[T] {
	return &collector[T]{loader: l, kind: kind, needName: needName, byName: map[string]T{}}
}

// add applies, in this order, the rules for empty names, namespaces, duplicates and scopes (Dapr API, resource loading:
// filtering).
func (c *collector[T]) add(r T) {
	head := r.Head()
	name := head.Metadata.Name
	if name == "" && c.needName {
		c.loader.problems = append(c.loader.problems, Problem{
			Origin: head.Origin, Kind: c.kind, Message: "metadata.name is missing, so the document is ignored", Remedy: "give it a metadata.name",
		})
		return
	}
	if !InNamespace(head.Metadata.Namespace, c.loader.opts.Namespace) {
		return
	}
	if existing, ok := c.byName[name]; ok {
		if c.loader.again.prefers(c.kind, r, existing) {
			c.replace(existing, r)
			r, existing = existing, r
			head = r.Head()
		}
		c.repeats = append(c.repeats, fmt.Sprintf("duplicate definition of %s name %s with existing %s: %s repeats %s, rename one of them",
			c.kind, r.LogName(), existing.LogName(), head.Origin, existing.Head().Origin))
		return
	}
	if !InScope(r.AppScopes(), c.loader.opts.AppID) {
		return
	}
	c.byName[name] = r
	c.items = append(c.items, r)
}

// replace puts a resource in the place of another of the same name.
func (c *collector[T]) replace(old, r T) {
	name := old.Head().Metadata.Name
	c.byName[name] = r
	for i := range c.items {
		if any(c.items[i]) == any(old) {
			c.items[i] = r
		}
	}
}

// err returns the duplicates as one error, a line for each. While a sidecar runs they are only reported: the first counts, or
// the one that is in use.
func (c *collector[T]) err() error {
	if len(c.repeats) == 0 {
		return nil
	}
	if c.loader.again != nil {
		for _, text := range c.repeats {
			c.loader.problems = append(c.loader.problems, Problem{Severity: Error, Kind: c.kind, Message: text, Remedy: "the repetition has no effect"})
		}
		return nil
	}
	return &LoadError{Kind: c.kind, Err: errors.New(strings.Join(c.repeats, "\n"))}
}
