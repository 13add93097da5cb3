// Package components holds what all component types share: the registry that YAML types are looked up in, the decoding
// of their metadata into typed options, and the life of an instance.
//
// A component type is declared once, by a call of its contract's Register function (for example state.Register) with an
// [Info], an options struct and a function that opens an instance. That declaration feeds decoding, validation with exact
// messages, the generated reference and `dapr components check`.
package components

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/identity"
)

// Category is the first part of a component's type in YAML: the "state" of "state.redis".
type Category string

// The categories of component types (Dapr API, component schema).
const (
	Bindings       Category = "bindings"
	Configuration  Category = "configuration"
	Conversation   Category = "conversation"
	Crypto         Category = "crypto"
	Lock           Category = "lock"
	Middleware     Category = "middleware"
	NameResolution Category = "nameresolution"
	PubSub         Category = "pubsub"
	SecretStores   Category = "secretstores"
	State          Category = "state"
)

// noun is how Dapr's "couldn't find ..." messages call a component of the category.
func (c Category) noun() string {
	switch c {
	case State:
		return "state store"
	case SecretStores:
		return "secret store"
	case PubSub:
		return "message bus"
	case Lock:
		return "lock store"
	case Configuration:
		return "configuration store"
	case Crypto:
		return "crypto provider"
	case Bindings:
		return "binding"
	case Conversation:
		return "conversation"
	case NameResolution:
		return "name resolver"
	default:
		return string(c) + " component"
	}
}

// Status is the certification level of a component type.
type Status string

// The levels that Dapr's component reference uses.
const (
	Alpha  Status = "alpha"
	Beta   Status = "beta"
	Stable Status = "stable"
)

// Info describes one version of a component type.
type Info struct {
	// Name is the type without its category, such as "redis" or "local.file". It is matched without regard to case.
	Name string
	// Aliases are further names of the same type.
	Aliases []string
	// Version is "v1", "v2", ...
	Version string
	// Default marks the version meant when YAML names none; needed only for types with several versions.
	Default bool
	Status  Status
	// Deprecated, when not empty, is the type/version to use instead.
	Deprecated string
	// Description is one sentence for the generated reference.
	Description string
	// Capabilities are the names the metadata API may list for an instance, for the generated reference.
	Capabilities []string
}

// Sidecar is what a component may know of the sidecar it serves.
type Sidecar struct {
	AppID string
	// Namespace is the app's namespace, "default" when none was given.
	Namespace string
	// HostAddress is the IP address (or loopback name) other sidecars reach this one at.
	HostAddress string
	// HTTPPort, GRPCPort, InternalPort and AppPort are 0 when there is none.
	HTTPPort, GRPCPort, InternalPort, AppPort int
	// Identity is the sidecar's own X.509 and JWT identity, for components that authenticate with it; nil without mTLS.
	Identity identity.Source
}

// Instance is one configured component: the identity and surroundings given to the function that opens it.
type Instance struct {
	// Name is the metadata.name of the resource.
	Name string
	// Type and Version are as the resource gave them.
	Type, Version string
	// Properties are the metadata properties, with secrets resolved and templates replaced.
	Properties map[string]string
	Sidecar    Sidecar
	Log        *slog.Logger
	Clock      clockwork.Clock
}

// Descriptor is a registered version of a component type.
type Descriptor struct {
	Info
	Category Category
	// Fields are the metadata properties that the type knows, in the order of its options struct.
	Fields []Field
	// FreeForm is true for types that take properties of any name.
	FreeForm bool

	options reflect.Type
	open    func(ctx context.Context, inst Instance, options any) (any, error)
}

// Type is the full name of the type as written in YAML.
func (d *Descriptor) Type() string { return string(d.Category) + "." + d.Name }

// Open decodes the instance's properties, lets the options check themselves if they are a [Checker], and opens the component.
// The result has the type that the category's contract promises. An error names the property at fault, or is the component's
// own.
func (d *Descriptor) Open(ctx context.Context, inst Instance) (any, error) {
	options := reflect.New(d.options)
	if err := decode(inst.Properties, d.Fields, options.Elem()); err != nil {
		return nil, err
	}
	if err := checkOptions(options.Interface()); err != nil {
		return nil, err
	}
	if user, ok := options.Interface().(IdentityUser); ok && inst.Sidecar.Identity != nil {
		user.UseIdentity(inst.Sidecar.Identity)
	}
	if inst.Clock == nil {
		inst.Clock = clockwork.NewRealClock()
	}
	if inst.Log == nil {
		inst.Log = slog.New(slog.DiscardHandler)
	}
	return d.open(ctx, inst, options.Elem().Interface())
}

// IdentityUser is implemented by options, or by what they embed, that can log in with the sidecar's own identity. They are given
// it, when there is one, before the component is opened.
type IdentityUser interface {
	UseIdentity(source identity.Source)
}

// Registry maps the types that YAML names to their descriptors. The zero value is empty and ready to use. Filling it by
// [Register] is not safe for concurrent use; [Replace] and looking up are.
type Registry struct {
	byKey map[string]*Descriptor
	all   []*Descriptor

	mu sync.RWMutex
	// replaced are the types that Replace has put before those of the build, by their plain name.
	replaced map[string]*Descriptor
}

// Clone is a registry of its own with the same types: what is added to it is not in r.
func (r *Registry) Clone() *Registry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return &Registry{byKey: maps.Clone(r.byKey), all: slices.Clone(r.all), replaced: maps.Clone(r.replaced)}
}

// Register adds a component type to r. O is the options struct (see [Field] for its tags), C what the category's contract
// promises. Contract packages wrap it; components call the wrapper. Registering a name and version twice panics, for it
// is a mistake in the program.
func Register[O, C any](r *Registry, category Category, info Info, open func(ctx context.Context, inst Instance, options O) (C, error)) {
	d := describe(category, info, open)
	if r.byKey == nil {
		r.byKey = map[string]*Descriptor{}
	}
	for _, name := range append([]string{info.Name}, info.Aliases...) {
		k := key(category, name, info.Version)
		if _, taken := r.byKey[k]; taken {
			panic("components: registered twice: " + k)
		}
		r.byKey[k] = d
	}
	r.all = append(r.all, d)
}

func describe[O, C any](category Category, info Info, open func(ctx context.Context, inst Instance, options O) (C, error)) *Descriptor {
	t := reflect.TypeFor[O]()
	d := &Descriptor{Info: info, Category: category, options: t}
	d.Fields, d.FreeForm = fieldsOf(t)
	d.open = func(ctx context.Context, inst Instance, options any) (any, error) {
		c, err := open(ctx, inst, options.(O))
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	return d
}

// Replace adds a component type that the build does not have, such as a pluggable one, to r. It is found under the version
// "v1", and so under "v0" and none, in place of a type of the build with the same name (or alias) and no other version, and of
// one that Replace has added before. A name that the build has in several versions stays what it is, and the error says so (Dapr
// API, pluggable components: registration).
func Replace[O, C any](r *Registry, category Category, info Info, open func(ctx context.Context, inst Instance, options O) (C, error)) error {
	info.Version = "v1"
	d := describe(category, info, open)
	r.mu.Lock()
	defer r.mu.Unlock()
	if versions := r.built(category, info.Name); len(versions) > 1 || len(versions) == 1 && versions[0].Version != "v1" {
		return fmt.Errorf("%s has the versions %s in this build, which come first: give the component another name", d.Type(), strings.Join(versionNames(versions), ", "))
	}
	if r.replaced == nil {
		r.replaced = map[string]*Descriptor{}
	}
	r.replaced[key(category, info.Name, info.Version)] = d
	return nil
}

func key(c Category, name, version string) string {
	return string(c) + "." + strings.ToLower(name) + "/" + strings.ToLower(version)
}

// All returns every registered descriptor, sorted by type and version. Types of the build whose own name was replaced are not
// among them.
func (r *Registry) All() []*Descriptor {
	r.mu.RLock()
	all := slices.Collect(maps.Values(r.replaced))
	for _, d := range r.all {
		if _, hidden := r.replaced[key(d.Category, d.Name, d.Version)]; !hidden {
			all = append(all, d)
		}
	}
	r.mu.RUnlock()
	slices.SortFunc(all, func(a, b *Descriptor) int {
		if c := strings.Compare(a.Type(), b.Type()); c != 0 {
			return c
		}
		return strings.Compare(a.Version, b.Version)
	})
	return all
}

// Categories returns the categories that have at least one type, sorted.
func (r *Registry) Categories() []Category {
	var cs []Category
	for _, d := range r.All() {
		if !slices.Contains(cs, d.Category) {
			cs = append(cs, d.Category)
		}
	}
	return cs
}

// SplitType cuts a YAML type into its category and the name within it. ok is false when there is no known category in
// front (the category's case matters, the rest's does not).
func SplitType(full string) (c Category, name string, ok bool) {
	head, name, found := strings.Cut(full, ".")
	if !found || name == "" {
		return "", "", false
	}
	switch c := Category(head); c {
	case Bindings, Configuration, Conversation, Crypto, Lock, Middleware, NameResolution, PubSub, SecretStores, State:
		return c, name, true
	default:
		return "", "", false
	}
}

// Lookup finds the descriptor for a category, a name within it and a version (Dapr API, component schema: version). The
// empty version, "v0" and "v1" mean the same for types with one version; for types with several an empty version means
// the default one.
func (r *Registry) Lookup(c Category, name, version string) (*Descriptor, error) {
	initial := false
	switch strings.ToLower(version) {
	case "", "v0", "v1":
		initial = true
		r.mu.RLock()
		d, ok := r.replaced[key(c, name, "v1")]
		r.mu.RUnlock()
		if ok {
			return d, nil
		}
	}
	if d, ok := r.byKey[key(c, name, version)]; ok {
		return d, nil
	}
	versions := r.versions(c, name)
	for _, d := range versions {
		if initial && (d.Default || len(versions) == 1 && d.Version == "v1") {
			return d, nil
		}
	}
	return nil, &NotFoundError{Category: c, Name: name, Version: version, Versions: versionNames(versions), Known: r.names(c)}
}

func (r *Registry) versions(c Category, name string) []*Descriptor {
	return named(r.All(), c, name)
}

// built are the versions of a name that Register has added.
func (r *Registry) built(c Category, name string) []*Descriptor { return named(r.all, c, name) }

func named(all []*Descriptor, c Category, name string) []*Descriptor {
	var found []*Descriptor
	for _, d := range all {
		if d.Category == c && (strings.EqualFold(d.Name, name) || slices.ContainsFunc(d.Aliases, func(a string) bool { return strings.EqualFold(a, name) })) {
			found = append(found, d)
		}
	}
	return found
}

func versionNames(ds []*Descriptor) []string {
	var names []string
	for _, d := range ds {
		names = append(names, d.Version)
	}
	return names
}

func (r *Registry) names(c Category) []string {
	var names []string
	for _, d := range r.All() {
		if d.Category == c {
			names = append(names, d.Name)
			names = append(names, d.Aliases...)
		}
	}
	return names
}

// NotFoundError says that no registered component has the wanted type and version, and which one may have been meant.
type NotFoundError struct {
	Category      Category
	Name, Version string
	// Versions are the versions that the name does have, Known all names of the category.
	Versions, Known []string
}

func (e *NotFoundError) Error() string {
	version := e.Version
	if version == "" {
		version = "v1"
	}
	return fmt.Sprintf("couldn't find %s %s.%s/%s", e.Category.noun(), e.Category, e.Name, version) + e.remedy()
}
