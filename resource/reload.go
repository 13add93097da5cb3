package resource

import "context"

// again is what a load knows of the one before it.
type again struct {
	previous *Set
	// broken are the files of which something could not be read.
	broken map[string]bool
}

// broke notes that a file could not be read as a whole. It does nothing at start.
func (a *again) broke(file string) {
	if a != nil {
		a.broken[file] = true
	}
}

// prefers reports whether of two resources of one name the later is to be kept, because it is the one in use.
func (a *again) prefers(kind string, later, first Resource) bool {
	if a == nil {
		return false
	}
	name := later.Head().Metadata.Name
	inUse := ""
	switch kind {
	case KindComponent:
		inUse = fileOf(a.previous.Components, name)
	case KindHTTPEndpoint:
		inUse = fileOf(a.previous.HTTPEndpoints, name)
	case KindMCPServer:
		inUse = fileOf(a.previous.MCPServers, name)
	case KindWorkflowAccessPolicy:
		inUse = fileOf(a.previous.WorkflowAccessPolicies, name)
	}
	return inUse != "" && later.Head().Origin.File == inUse && first.Head().Origin.File != inUse
}

func fileOf[T Resource](list []T, name string) string {
	for _, r := range list {
		if r.Head().Metadata.Name == name {
			return r.Head().Origin.File
		}
	}
	return ""
}

// Reload loads the resources again for a sidecar that runs with previous (Dapr API, hot reload). Nothing in a file can take a
// resource away by mistake: what stood in a file that cannot be read now, or not as a whole, stays as it was until the file
// is mended or removed, and so it is with a file that is empty, as files are for a moment while they are written. Of resources with the same name the one in
// use stays, else the first counts. An error means that nothing is to be changed: a directory cannot be read, or ctx ended.
func Reload(ctx context.Context, opts Options, previous *Set) (*Set, []Problem, error) {
	l := newLoader(opts)
	l.again = &again{previous: previous, broken: map[string]bool{}}
	if err := l.dirs(ctx); err != nil {
		return nil, l.problems, err
	}
	l.keepBroken()
	return &l.set, l.problems, nil
}

// keepBroken adds the previous versions of what cannot be read now.
func (l *loader) keepBroken() {
	if l.again == nil {
		return
	}
	previous := l.again.previous
	keep(l.again, &l.set.Components, previous.Components)
	keep(l.again, &l.set.HTTPEndpoints, previous.HTTPEndpoints)
	keep(l.again, &l.set.Subscriptions, previous.Subscriptions)
	keep(l.again, &l.set.Resiliencies, previous.Resiliencies)
	keep(l.again, &l.set.MCPServers, previous.MCPServers)
	keep(l.again, &l.set.WorkflowAccessPolicies, previous.WorkflowAccessPolicies)
}

// keep adds the previous resources of files that cannot be read now to the new ones.
func keep[T Resource](a *again, now *[]T, previous []T) {
	for _, r := range previous {
		if a.broken[r.Head().Origin.File] && fileOf(*now, r.Head().Metadata.Name) == "" {
			*now = append(*now, r)
		}
	}
}
