package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"outrigger.dev/components"
	"outrigger.dev/components/all"
	"outrigger.dev/components/bindings"
	"outrigger.dev/resource"
)

// finding is something that a check says about a resource file.
type finding struct {
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Severity string `json:"severity"`
	Kind     string `json:"kind,omitempty"`
	Name     string `json:"name,omitempty"`
	Message  string `json:"message"`
	Remedy   string `json:"remedy,omitempty"`
}

func (f finding) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File + ":")
		if f.Line > 0 {
			b.WriteString(strconv.Itoa(f.Line) + ":")
		}
		b.WriteString(" ")
	}
	b.WriteString(f.Severity + ": ")
	if f.Name != "" {
		fmt.Fprintf(&b, "%s %q: ", cmp.Or(f.Kind, "resource"), f.Name)
	}
	b.WriteString(strings.ReplaceAll(f.Message, "\n", " "))
	if f.Remedy != "" {
		b.WriteString("; " + f.Remedy)
	}
	return b.String()
}

func (c *command) componentsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "components", Short: "Check component files", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.checkCommand(), c.componentsDocsCommand())
	return cmd
}

func (c *command) checkCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "check PATH...",
		Short: "Check resource files without starting anything",
		Long: `Check reads the YAML files of directories, or single files, as a sidecar would, and reports what would not load or not
work: syntax, unknown kinds and fields, component types and versions that do not exist, metadata properties that are
unknown, missing, of the wrong form or in contradiction to each other, rules of subscriptions that are no expressions,
references to secret stores and pub/sub components that are not there, and names used twice.

Whether properties go together is not known, and not checked, for components with references to secrets or to the
environment, or with templates such as {podName}.

It exits with 1 if there are errors, and with 0 if there are only warnings.`,
		Example: "  dapr components check ./resources",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			if output != "text" && output != "json" {
				c.print.failure("An invalid output format was specified.")
				return failed()
			}
			registry := &components.Registry{}
			all.Register(registry)
			findings, count, err := checkPaths(cmd.Context(), registry, paths)
			if err != nil {
				c.print.failure("%s", err)
				return failed()
			}
			errorCount := 0
			for _, f := range findings {
				if f.Severity == resource.Error.String() {
					errorCount++
				}
			}
			if output == "json" {
				if findings == nil {
					findings = []finding{}
				}
				if err := writeStructured(c.program.Stdout, "json", findings); err != nil {
					return err
				}
			} else {
				for _, f := range findings {
					c.print.plain("%s\n", f)
				}
				c.print.plain("%s\n", summary(count, errorCount, len(findings)-errorCount))
			}
			if errorCount > 0 {
				return failed()
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func summary(componentCount, errorCount, warningCount int) string {
	plural := func(n int, word string) string {
		if n == 1 {
			return "1 " + word
		}
		return strconv.Itoa(n) + " " + word + "s"
	}
	return fmt.Sprintf("%s checked: %s, %s", plural(componentCount, "component"), plural(errorCount, "error"), plural(warningCount, "warning"))
}

// checkPaths examines files and directories together, as one sidecar would get them. count is the number of components.
func checkPaths(ctx context.Context, registry *components.Registry, paths []string) (findings []finding, count int, err error) {
	files, err := readSources(paths)
	if err != nil {
		return nil, 0, err
	}
	c := &checker{registry: registry, files: files}
	for _, f := range files {
		c.components = append(c.components, f.components()...)
		c.subscriptions = append(c.subscriptions, f.subscriptions()...)
	}
	if err := c.load(ctx); err != nil {
		return nil, 0, err
	}
	c.duplicates()
	for _, component := range c.components {
		c.component(component)
	}
	c.checkSubscriptions()
	slices.SortStableFunc(c.findings, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return c.findings, len(c.components), nil
}

// checker collects findings.
type checker struct {
	registry      *components.Registry
	files         []*source
	components    []*resource.Component
	subscriptions []*resource.Subscription
	findings      []finding
}

// load reads the files as sidecars would, once for every app that scopes name, and keeps what it complains about.
func (c *checker) load(ctx context.Context) error {
	dirs, origin, remove, err := stage(c.files)
	defer remove()
	if err != nil {
		return err
	}
	apps := []string{""}
	for _, component := range c.components {
		for _, app := range component.Scopes {
			if !slices.Contains(apps, app) {
				apps = append(apps, app)
			}
		}
	}
	seen := map[finding]bool{}
	for _, app := range apps {
		_, problems, err := resource.Load(ctx, resource.Options{Dirs: dirs, AppID: app})
		for _, p := range problems {
			p.Origin.File = origin(p.Origin.File)
			c.problem(p, seen)
		}
		for e := range loadErrors(err) {
			if e.Kind == resource.KindComponent {
				continue // found with their places by duplicates
			}
			f := finding{Severity: resource.Error.String(), Kind: e.Kind, Message: e.Error(), Remedy: "give each its own metadata.name"}
			if !seen[f] {
				seen[f] = true
				c.findings = append(c.findings, f)
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// problem keeps a problem of loading, once. What it says of a component's type is left to the check of the component.
func (c *checker) problem(p resource.Problem, seen map[finding]bool) {
	if p.Kind == resource.KindComponent && (strings.HasPrefix(p.Message, "incorrect type ") || strings.HasPrefix(p.Message, "spec.type ")) {
		return
	}
	if p.Kind == resource.KindSubscription && strings.HasPrefix(p.Message, "it replaces the subscription of the same name") {
		return // found for all apps, with their places, by checkSubscriptions
	}
	message := p.Message
	if p.Origin.File != "" {
		// The staged file's path is of no use to anybody.
		if _, after, ok := strings.Cut(message, "error when parsing manifests yaml resource in "); ok {
			if _, cause, ok := strings.Cut(after, ": "); ok {
				message = cause
			}
		}
	}
	f := finding{File: p.Origin.File, Line: p.Origin.Line, Severity: p.Severity.String(), Kind: p.Kind, Name: p.Name, Message: message, Remedy: p.Remedy}
	if !seen[f] {
		seen[f] = true
		c.findings = append(c.findings, f)
	}
}

// loadErrors goes through the errors of a load.
func loadErrors(err error) func(yield func(*resource.LoadError) bool) {
	return func(yield func(*resource.LoadError) bool) {
		if err == nil {
			return
		}
		list := []error{err}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			list = joined.Unwrap()
		}
		for _, e := range list {
			le, ok := errors.AsType[*resource.LoadError](e)
			if !ok {
				le = &resource.LoadError{Err: e}
			}
			if !yield(le) {
				return
			}
		}
	}
}

// duplicates finds components of one name that one app would get.
func (c *checker) duplicates() {
	for i, later := range c.components {
		for _, earlier := range c.components[:i] {
			if earlier.Metadata.Name == later.Metadata.Name && resource.InNamespace(earlier.Metadata.Namespace, later.Metadata.Namespace) && shareApp(earlier.Scopes, later.Scopes) {
				c.add(later, resource.Error, 0, fmt.Sprintf("the name is already used by %s at %s:%d", earlier.LogName(), earlier.Origin.File, earlier.Origin.Line),
					"give one of them another metadata.name, or scopes without a common app")
				break
			}
		}
	}
}

// shareApp tells whether some app gets both of two resources with these scopes.
func shareApp(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(app string) bool { return slices.Contains(b, app) })
}

// add keeps a finding about a component, at a line if one is given.
func (c *checker) add(component *resource.Component, severity resource.Severity, line int, message, remedy string) {
	c.findings = append(c.findings, finding{
		File: component.Origin.File, Line: cmp.Or(line, component.Origin.Line), Severity: severity.String(),
		Kind: resource.KindComponent, Name: component.Metadata.Name, Message: message, Remedy: remedy,
	})
}

// component checks one component's type, properties and secrets.
func (c *checker) component(component *resource.Component) {
	c.secrets(component)
	typeLine := c.lineOf(component, "type")
	category, name, ok := components.SplitType(component.Spec.Type)
	if !ok {
		c.add(component, resource.Error, typeLine, fmt.Sprintf("incorrect type %q", component.Spec.Type), "write a type of the form category.name, such as state.redis")
		return
	}
	if !slices.Contains(c.registry.Categories(), category) {
		c.add(component, resource.Warning, typeLine, fmt.Sprintf("this version has no components of category %s, so %s is not loaded", category, component.Spec.Type), "")
		return
	}
	if category == components.NameResolution {
		c.add(component, resource.Error, typeLine, fmt.Sprintf("components of type %s cannot be declared as resources", component.Spec.Type),
			"name the resolver in spec.nameResolution of a Configuration")
		return
	}
	descriptor, err := c.registry.Lookup(category, name, component.Spec.Version)
	if err != nil {
		c.add(component, resource.Error, typeLine, err.Error(), "correct spec.type or spec.version")
		return
	}
	if descriptor.Deprecated != "" {
		c.add(component, resource.Warning, typeLine, fmt.Sprintf("%s/%s is deprecated", descriptor.Type(), descriptor.Version), "use "+descriptor.Deprecated)
	}
	c.properties(component, descriptor)
}

// templates are what stands in a property for a value that only the sidecar knows.
var templates = [...]string{"{uuid}", "{podName}", "{namespace}", "{appID}"}

// properties checks a component's metadata. The values of references and templates are not known, so nothing is said about the
// form of references, and of components with either nothing about how their properties go together.
func (c *checker) properties(component *resource.Component, descriptor *components.Descriptor) {
	properties := map[string]string{}
	referenced := map[string]bool{}
	known := true
	for _, item := range component.Spec.Metadata {
		properties[item.Name] = item.Value.String()
		for _, template := range templates {
			known = known && !strings.Contains(properties[item.Name], template)
		}
		if item.SecretKeyRef.Name != "" || !item.Value.IsSet() && item.EnvRef != "" {
			referenced[strings.ToLower(item.Name)] = true
			known = false
			if properties[item.Name] == "" {
				properties[item.Name] = "reference"
			}
		}
	}
	// A finding may call a property by its main name where the file has an alias.
	for _, field := range descriptor.Fields {
		for _, alias := range field.Aliases {
			if referenced[strings.ToLower(alias)] {
				referenced[strings.ToLower(field.Name)] = true
			}
		}
	}
	if descriptor.Category == components.Bindings {
		c.direction(component, descriptor)
	}
	check := descriptor.CheckEach
	if known {
		check = descriptor.Check
		if descriptor.Category == components.PubSub {
			fillConsumerID(properties)
		}
	}
	for _, f := range check(properties) {
		if f.Fatal && referenced[strings.ToLower(f.Property)] {
			continue
		}
		severity := resource.Warning
		if f.Fatal {
			severity = resource.Error
		}
		c.add(component, severity, c.lineOfProperty(component, descriptor, f.Property), f.Message, f.Remedy)
	}
}

// fillConsumerID gives properties without a consumerID one, as the sidecar does with the id of its app.
func fillConsumerID(properties map[string]string) {
	name := "consumerID"
	for given, value := range properties {
		if strings.EqualFold(given, name) {
			if strings.TrimSpace(value) != "" {
				return
			}
			name = given
		}
	}
	properties[name] = "app"
}

// lineOfProperty is the line on which a component has the property, under its name or one of its aliases; 0 if on none.
func (c *checker) lineOfProperty(component *resource.Component, descriptor *components.Descriptor, name string) int {
	line := c.lineOf(component, name)
	for _, field := range descriptor.Fields {
		if strings.EqualFold(field.Name, name) {
			for _, alias := range field.Aliases {
				line = cmp.Or(line, c.lineOf(component, alias))
			}
		}
	}
	return line
}

// direction checks the property direction of a binding (Dapr API, bindings: direction). A type that has only one of the two that
// are named is used in that one.
func (c *checker) direction(component *resource.Component, descriptor *components.Descriptor) {
	var given []string
	usable := len(descriptor.Capabilities) == 0 // then it is not known
	for _, item := range component.Spec.Metadata {
		if !strings.EqualFold(item.Name, "direction") || item.SecretKeyRef.Name != "" || !item.Value.IsSet() {
			continue
		}
		for word := range strings.SplitSeq(item.Value.String(), ",") {
			capability := ""
			switch word = strings.TrimSpace(word); strings.ToLower(word) {
			case "":
				continue
			case "input":
				capability = bindings.CapabilityInput
			case "output":
				capability = bindings.CapabilityOutput
			default:
				c.add(component, resource.Error, c.lineOf(component, item.Name), fmt.Sprintf("metadata property \"direction\" has %q, which is no direction", word), "write input, output, or both separated by a comma")
				return
			}
			given = append(given, word)
			usable = usable || slices.Contains(descriptor.Capabilities, capability)
		}
	}
	if len(given) > 0 && !usable {
		has := "output"
		if slices.Contains(descriptor.Capabilities, bindings.CapabilityInput) {
			has = "input"
		}
		message := fmt.Sprintf("metadata property \"direction\" is %q, but %s is an %s binding only", strings.Join(given, ","), descriptor.Type(), has)
		c.add(component, resource.Error, c.lineOf(component, "direction"), message, "write "+has+", or remove the property")
	}
}

// secrets checks that the stores of secret references exist.
func (c *checker) secrets(component *resource.Component) {
	refers := slices.ContainsFunc(component.Spec.Metadata, func(item resource.NameValue) bool { return item.SecretKeyRef.Name != "" })
	store := component.Auth.SecretStore
	switch {
	case !refers:
		return
	case store == "":
		c.add(component, resource.Error, c.lineOf(component, "secretKeyRef"), "it refers to a secret, but names no secret store",
			"set auth.secretStore to the name of a secret store component")
	case store == resource.KubernetesSecretStore:
		// There by itself on Kubernetes.
	case !slices.ContainsFunc(c.components, func(other *resource.Component) bool {
		return other.Metadata.Name == store && other.Category() == string(components.SecretStores) && shareApp(component.Scopes, other.Scopes)
	}):
		message := fmt.Sprintf("it refers to the secret store %q, which does not exist, so it would not be loaded", store)
		c.add(component, resource.Error, c.lineOf(component, "secretStore"), message, "add the store, or correct auth.secretStore")
	}
}

// lineOf is the line on which a component's document first has a key or a metadata property, 0 if it cannot be told.
func (c *checker) lineOf(component *resource.Component, word string) int {
	if f := c.file(component.Origin); f != nil {
		return f.lineOf(component.Origin.Document, word)
	}
	return 0
}

// file is the one that a resource comes from, nil if it is none of the checked ones.
func (c *checker) file(origin resource.Origin) *source {
	for _, f := range c.files {
		if f.path == origin.File {
			return f
		}
	}
	return nil
}

// componentsDocsCommand writes the reference of component types; the build of the documentation uses it.
func (c *command) componentsDocsCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "docs", Short: "Write the reference of component types in Markdown", Args: cobra.NoArgs, Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			registry := &components.Registry{}
			all.Register(registry)
			text := componentsReference(registry)
			if file == "" {
				c.print.plain("%s", text)
				return nil
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				c.print.failure("%s", err)
				return failed()
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "The file to write; empty for standard output")
	return cmd
}
