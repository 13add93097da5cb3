package resource

import (
	"fmt"
	"strings"
)

// Origin says where a resource or a field was written.
type Origin struct {
	// File is the path as it was opened; empty when the document did not come from a file.
	File string
	// Document is the 1-based position of the document in the file; 0 when it does not apply.
	Document int
	// Line is the 1-based line in the file; 0 when unknown.
	Line int
}

// String renders the origin as "file, document 2, line 14", leaving out what is unknown.
func (o Origin) String() string {
	parts := make([]string, 0, 3)
	if o.File != "" {
		parts = append(parts, o.File)
	}
	if o.Document > 0 {
		parts = append(parts, fmt.Sprintf("document %d", o.Document))
	}
	if o.Line > 0 {
		parts = append(parts, fmt.Sprintf("line %d", o.Line))
	}
	return strings.Join(parts, ", ")
}

// Severity grades a Problem.
type Severity int

const (
	// Warning marks something suspicious: the resource was loaded, or was left out on purpose.
	Warning Severity = iota
	// Error marks something that was asked for and could not be loaded.
	Error
)

// String returns "warning" or "error".
func (s Severity) String() string {
	if s == Error {
		return "error"
	}
	return "warning"
}

// Problem is one finding about a resource file. It never stops the load by itself.
type Problem struct {
	// Origin is the place of the finding, down to the line of the field where known.
	Origin Origin
	// Severity tells whether the resource is missing (Error) or only suspicious (Warning).
	Severity Severity
	// Kind is the kind of the resource, e.g. "Component"; empty if unknown.
	Kind string
	// Name is the metadata.name of the resource; empty if unknown.
	Name string
	// Message says what is wrong.
	Message string
	// Remedy says what to do about it; empty if the message already does.
	Remedy string
}

// String renders the problem on one line:
// "warning: a.yaml, document 2, line 14: Component "x": <message>; fix: <remedy>".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.Severity.String())
	b.WriteString(": ")
	if o := p.Origin.String(); o != "" {
		b.WriteString(o)
		b.WriteString(": ")
	}
	switch {
	case p.Kind != "" && p.Name != "":
		fmt.Fprintf(&b, "%s %q: ", p.Kind, p.Name)
	case p.Kind != "":
		b.WriteString(p.Kind)
		b.WriteString(": ")
	case p.Name != "":
		fmt.Fprintf(&b, "%q: ", p.Name)
	}
	b.WriteString(strings.ReplaceAll(p.Message, "\n", " "))
	if p.Remedy != "" {
		b.WriteString("; fix: ")
		b.WriteString(p.Remedy)
	}
	return b.String()
}
