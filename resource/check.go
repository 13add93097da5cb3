package resource

import (
	"fmt"
	"reflect"
	"strconv"
)

// checker is implemented by kinds that can tell more than types can. Its findings never stop a resource from loading.
type checker interface{ check(r *reporter) }

// reporter collects the findings about one resource.
type reporter struct {
	origin   Origin
	problems []Problem
}

func (r *reporter) warn(message, remedy string) {
	r.problems = append(r.problems, Problem{Origin: r.origin, Severity: Warning, Message: message, Remedy: remedy})
}

func (r *reporter) required(path, value string) {
	if value == "" {
		r.warn(path+" is missing", "set "+path)
	}
}

// items checks a list of NameValue.
func (r *reporter) items(path string, items []NameValue) {
	seen := make(map[string]bool, len(items))
	for i, item := range items {
		if item.Name == "" {
			r.warn(fmt.Sprintf("%s[%d] has no name", path, i), "give the item a name")
			continue
		}
		if seen[item.Name] {
			r.warn(fmt.Sprintf("%s has %q twice; the last one is used", path, item.Name), "remove one of them")
		}
		seen[item.Name] = true
		switch {
		case item.Value.IsSet() && item.EnvRef != "":
			r.warn(fmt.Sprintf("%s %q has both value and envRef; value is used", path, item.Name), "remove one of them")
		case item.SecretKeyRef.Key != "" && item.SecretKeyRef.Name == "":
			r.warn(fmt.Sprintf("%s %q has a secretKeyRef without name, which is ignored", path, item.Name), "set secretKeyRef.name")
		}
	}
}

func quote(s string) string { return strconv.Quote(clip(s)) }

// decodeResource decodes a parsed document, completes its header and checks it.
func decodeResource(root *node, repeated []field, origin Origin, d *decoder, into Resource) ([]Problem, error) {
	if origin.Line == 0 || root.line > origin.Line {
		origin.Line = root.line
	}
	d.origin, d.problems, d.errors = origin, nil, nil
	for _, f := range repeated {
		d.warn(f.line, fmt.Sprintf("key %s is written twice; the last one is used", f.name), "remove one of them")
	}
	d.decode(root, reflect.ValueOf(into).Elem(), "")
	if err := d.err(); err != nil {
		return nil, err
	}
	head := into.Head()
	head.Origin = origin
	if err := checkName(head.Metadata.Name); err != nil {
		return nil, err
	}
	r := &reporter{origin: origin, problems: d.problems}
	if s, ok := into.(*Subscription); ok {
		s.normalise(r)
	}
	if c, ok := into.(checker); ok {
		c.check(r)
	}
	for i := range r.problems {
		r.problems[i].Kind, r.problems[i].Name = head.Kind, head.Metadata.Name
	}
	return r.problems, nil
}

// Same tells whether two resources of one kind are equal for hot reload: name, spec, auth and scopes; labels, annotations and
// origin do not count (Dapr API, hot reload).
func Same(a, b Resource) bool {
	return a.Head().Kind == b.Head().Kind && reflect.DeepEqual(a.identity(), b.identity())
}
