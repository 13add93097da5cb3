package resource

import (
	"context"
	"errors"
	"fmt"
)

// Listed is a resource as somebody lists it who has read it already, for example the operator of a cluster.
type Listed struct {
	// Kind and APIVersion are what the list is of; documents often leave them out.
	Kind, APIVersion string
	// Data is the document, JSON or YAML.
	Data []byte
}

// LoadListed loads resources from lists, with the same rules as [Load] and, when previous is not nil, [Reload]. from names where
// the lists came from, for messages.
func LoadListed(ctx context.Context, from string, listed []Listed, opts Options, previous *Set) (*Set, []Problem, error) {
	l := newLoader(opts)
	if previous != nil {
		l.again = &again{previous: previous, broken: map[string]bool{}}
	}
	for i, item := range listed {
		if err := ctx.Err(); err != nil {
			return nil, l.problems, err
		}
		l.listed(Origin{File: from + ", " + item.Kind, Document: i + 1, Line: 1}, item)
	}
	err := errors.Join(l.finish()...)
	if err != nil {
		return nil, l.problems, err
	}
	l.keepBroken()
	return &l.set, l.problems, nil
}

func (l *loader) listed(origin Origin, item Listed) {
	root, repeated, err := parseNode(document{index: origin.Document, line: 1, data: item.Data})
	if err == nil && (root == nil || root.kind != kindObject) {
		err = errors.New("it is not an object")
	}
	if err != nil {
		l.unparsable(origin, 1, item.Kind, "", fmt.Errorf("error converting JSON: %w", err))
		return
	}
	l.typed(origin, root, repeated, item.APIVersion, item.Kind)
}
