package components

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"outrigger.dev/suggest"
)

// Checker is an options struct, more exactly a pointer to one, that knows more of its values than the tags of its fields say:
// which ones contradict each other or cannot be followed.
//
// Check looks at the options alone and touches neither the network nor, but for reading the files that properties name, the
// file system. Its error names the property, the value and the remedy, and shows no secret; a property at fault stands in it as
// metadata property "x". Check may complete options by what follows from others, as [Descriptor.Open] calls it before the
// component is opened, which therefore need not. [Descriptor.Check] calls it too.
type Checker interface {
	Check() error
}

// checkOptions calls the Check of options, a pointer to an options struct, if it has one.
func checkOptions(options any) error {
	if c, ok := options.(Checker); ok {
		return c.Check()
	}
	return nil
}

// Finding is something to tell the author of a component's YAML about one of its properties.
type Finding struct {
	// Property is the name as the author wrote it, or the missing one; empty for what concerns several properties.
	Property string
	Message  string
	// Remedy says what to do.
	Remedy string
	// Fatal findings keep the component from opening; the others are worth a warning.
	Fatal bool
}

func (f Finding) String() string {
	if f.Remedy == "" {
		return f.Message
	}
	return f.Message + "; " + f.Remedy
}

// properties that the runtime itself reads from components, whatever their type.
var runtimeProperties = map[Category][]string{
	State:    {"actorStateStore", "keyPrefix", "primaryEncryptionKey", "secondaryEncryptionKey", "outboxPublishPubsub", "outboxPublishTopic", "outboxPubsub", "outboxDiscardWhenMissingState"},
	PubSub:   {"consumerID", "protectedTopics", "allowedTopics", "publishingScopes", "subscriptionScopes"},
	Bindings: {"direction", "route"},
}

// Check examines properties as [Descriptor.Open] would, without opening anything: each by itself as [Descriptor.CheckEach] does,
// and if none of them is fatal all together by the [Checker] that the options are. All values must be known; with some that are
// not, such as references to secrets, use CheckEach.
func (d *Descriptor) Check(properties map[string]string) []Finding {
	findings, options := d.check(properties)
	if slices.ContainsFunc(findings, func(f Finding) bool { return f.Fatal }) {
		return findings
	}
	if err := checkOptions(options.Addr().Interface()); err != nil {
		findings = append(findings, Finding{Property: namedProperty(err.Error()), Message: err.Error(), Fatal: true})
	}
	return findings
}

// CheckEach examines each of the properties by itself and reports every fault: unknown names with the nearest known one, missing
// required ones, values of the wrong type or outside the allowed ones.
func (d *Descriptor) CheckEach(properties map[string]string) []Finding {
	findings, _ := d.check(properties)
	return findings
}

// check is CheckEach, and the options that the properties come to, which are of no use after a fatal finding.
func (d *Descriptor) check(properties map[string]string) (findings []Finding, options reflect.Value) {
	known := map[string]bool{}
	var names []string
	for _, f := range d.Fields {
		for _, n := range append([]string{f.Name}, f.Aliases...) {
			known[strings.ToLower(n)] = true
			names = append(names, n)
		}
	}
	for _, n := range runtimeProperties[d.Category] {
		known[strings.ToLower(n)] = true
		names = append(names, n)
	}
	options = reflect.New(d.options).Elem()
	lowered, err := lower(properties)
	if err != nil {
		return []Finding{{Message: err.Error(), Remedy: "keep one of the two spellings", Fatal: true}}, options
	}
	given := make([]string, 0, len(properties))
	for n := range properties {
		given = append(given, n)
	}
	slices.Sort(given)
	for _, n := range given {
		if d.FreeForm || known[strings.ToLower(n)] {
			continue
		}
		f := Finding{Property: n, Message: fmt.Sprintf("%s does not know the metadata property %q, so it has no effect", d.Type(), n)}
		if near, ok := suggest.Nearest(n, names); ok {
			f.Remedy = fmt.Sprintf("did you mean %q?", near)
		} else {
			f.Remedy = "remove it, or see the component reference for the names it takes"
		}
		findings = append(findings, f)
	}
	for _, f := range d.Fields {
		if f.Name == "*" {
			options.FieldByIndex(f.index).Set(reflect.ValueOf(properties))
		} else if err := f.decode(lowered, options); err != nil {
			findings = append(findings, Finding{Property: f.Name, Message: err.Error(), Fatal: true})
		} else if text, name, ok := f.find(lowered); ok && f.Kind == "bool" && !boolWord(text) {
			findings = append(findings, Finding{
				Property: name,
				Message:  fmt.Sprintf("metadata property %q is %q, which counts as false", name, text),
				Remedy:   `write "true" or "false"`,
			})
		}
	}
	return findings, options
}

var propertyInMessage = regexp.MustCompile(`metadata property "([^"]+)"`)

// namedProperty is the property that a message names as metadata property "x", empty when that are several or none.
func namedProperty(message string) string {
	name := ""
	for _, match := range propertyInMessage.FindAllStringSubmatch(message, -1) {
		if name != "" && match[1] != name {
			return ""
		}
		name = match[1]
	}
	return name
}
