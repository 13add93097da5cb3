package resource

import (
	"fmt"
	"os"
	"strings"
)

// EmptyConfiguration is the message of the problem of a file without any document.
const EmptyConfiguration = "the file is empty"

// LoadConfiguration reads configuration files onto the defaults, later files over earlier ones (Dapr API, configuration
// files): environment variables are expanded ($VAR, ${VAR}; unset is empty), the first document counts, field names are
// exact case, objects merge, scalars and lists are replaced. lookupEnv stands for os.LookupEnv. The error is fatal at start
// and reads like "stat ./x: no such file or directory" or "yaml: ..."; invalid secret scopes are errors too. Call
// AccessControl.Validate for the rest.
func LoadConfiguration(paths []string, lookupEnv func(string) (string, bool)) (*Configuration, []Problem, error) {
	c := DefaultConfiguration()
	d := newDecoder(Origin{}, true)
	var problems []Problem
	defaultWritten := false
	for _, path := range paths {
		if _, err := os.Stat(path); err != nil {
			return nil, problems, err
		}
		data, err := readFile(path)
		if err != nil {
			return nil, problems, err
		}
		origin := Origin{File: path}
		data, unset := expandEnv(data, lookupEnv)
		for _, name := range unset {
			problems = append(problems, Problem{
				Origin: origin, Kind: KindConfiguration, Message: fmt.Sprintf("environment variable %s is not set and became empty text", name),
				Remedy: "set the variable; a literal $ followed by letters cannot be written in a configuration file",
			})
		}
		found, written, err := c.merge(data, origin, d)
		problems = append(problems, found...)
		if err != nil {
			return nil, problems, fmt.Errorf("%w (in %s)", err, path)
		}
		defaultWritten = defaultWritten || written
	}
	if err := c.Spec.Secrets.Validate(); err != nil {
		return nil, problems, err
	}
	return c, append(problems, c.check(defaultWritten)...), nil
}

// DecodeConfiguration reads one Configuration, e.g. the JSON sent by the operator, onto the defaults. Field names match
// ignoring case and nothing is expanded. Invalid secret scopes are errors.
func DecodeConfiguration(data []byte, origin Origin) (*Configuration, []Problem, error) {
	c := DefaultConfiguration()
	problems, written, err := c.merge(data, origin, newDecoder(origin, false))
	if err != nil {
		return nil, problems, err
	}
	if err := c.Spec.Secrets.Validate(); err != nil {
		return nil, problems, err
	}
	return c, append(problems, c.check(written)...), nil
}

// merge applies the first document of a file. defaultWritten tells whether it sets accessControl.defaultAction.
func (c *Configuration) merge(data []byte, origin Origin, d *decoder) (problems []Problem, defaultWritten bool, err error) {
	docs := splitDocuments(data)
	if len(docs) == 0 {
		return []Problem{{Origin: origin, Kind: KindConfiguration, Message: EmptyConfiguration, Remedy: "write a Configuration, or do not pass the file"}}, false, nil
	}
	doc := docs[0]
	root, repeated, err := parseNode(doc)
	if err != nil || root == nil || root.kind == kindNull {
		return nil, false, err
	}
	origin.Document, origin.Line = doc.index, root.line
	d.origin, d.problems, d.errors = origin, nil, nil
	for _, f := range repeated {
		d.warn(f.line, fmt.Sprintf("key %s is written twice; the last one is used", f.name), "remove one of them")
	}
	if len(docs) > 1 {
		d.warn(docs[1].line, "only the first document of a configuration file is used", "put the other documents into files of their own")
	}
	d.decode(root, elem(c), "")
	if err := d.err(); err != nil {
		return nil, false, err
	}
	c.Origin = origin
	// Neither is checked on load, but a file of another kind is surely a mistake. The operator may leave the kind out.
	if kind := rootText(root, "kind"); kind != KindConfiguration && (kind != "" || d.exactCase) {
		d.warn(root.line, fmt.Sprintf("kind is %q; the file is read as a Configuration all the same", kind), "set kind: "+KindConfiguration)
	}
	for i := range d.problems {
		d.problems[i].Kind, d.problems[i].Name = KindConfiguration, c.Metadata.Name
	}
	if spec := root.get("spec"); spec != nil {
		if ac := spec.get("accessControl"); ac != nil {
			action := ac.get("defaultAction")
			defaultWritten = action != nil && action.kind != kindNull
		}
	}
	return d.problems, defaultWritten, nil
}

// check warns about settings that load but do not do what they seem to.
func (c *Configuration) check(defaultWritten bool) []Problem {
	r := &reporter{origin: c.Origin}
	c.Spec.AccessControl.check(r, defaultWritten)
	c.Spec.API.check(r)
	for i, h := range c.Spec.HTTPPipeline.Handlers {
		r.required(fmt.Sprintf("spec.httpPipeline.handlers[%d].name", i), h.Name)
		r.required(fmt.Sprintf("spec.httpPipeline.handlers[%d].type", i), h.Type)
	}
	for i, h := range c.Spec.AppHTTPPipeline.Handlers {
		r.required(fmt.Sprintf("spec.appHttpPipeline.handlers[%d].name", i), h.Name)
		r.required(fmt.Sprintf("spec.appHttpPipeline.handlers[%d].type", i), h.Type)
	}
	for i, s := range c.Spec.Secrets.Scopes {
		r.required(fmt.Sprintf("spec.secrets.scopes[%d].storeName", i), s.StoreName)
	}
	for i := range r.problems {
		r.problems[i].Kind, r.problems[i].Name = KindConfiguration, c.Metadata.Name
	}
	return r.problems
}

// expandEnv replaces $VAR and ${VAR} and returns the names that are not set, each once.
func expandEnv(data []byte, lookupEnv func(string) (string, bool)) (expanded []byte, unset []string) {
	seen := map[string]bool{}
	text := os.Expand(string(data), func(name string) string {
		value, ok := lookupEnv(name)
		if !ok && !seen[name] {
			seen[name] = true
			unset = append(unset, name)
		}
		return value
	})
	return []byte(strings.TrimPrefix(text, "\ufeff")), unset
}
