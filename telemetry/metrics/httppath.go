package metrics

import "strings"

// pathLabeller makes the label path of HTTP metrics (Dapr API, metrics: label path).
type pathLabeller struct {
	increased bool
	patterns  *patternTree // nil if none are configured
}

func newPathLabeller(o HTTPOptions) (*pathLabeller, error) {
	l := &pathLabeller{increased: o.IncreasedCardinality}
	if len(o.PathMatching) > 0 {
		tree, err := newPatternTree(o.PathMatching)
		if err != nil {
			return nil, err
		}
		l.patterns = tree
	}
	return l, nil
}

// label is the label of a request path. It may share memory with path. It allocates only for paths of actors and workflows.
func (l *pathLabeller) label(path string) string {
	switch path {
	case "/dapr/config", "/dapr/metrics", "/dapr/subscribe", "/healthz":
		return path
	}
	if l.patterns == nil && !l.increased {
		return ""
	}
	if i := strings.IndexByte(path, '?'); i >= 0 {
		path = path[:i] // a query is not part of the path, and may hold anything
	}
	if l.patterns != nil {
		if p := l.patterns.match(path); p != "" {
			return p
		}
	}
	short := shortenPath(path)
	if l.patterns != nil && short != path {
		if p := l.patterns.match(short); p != "" {
			return p
		}
	}
	if l.increased {
		return short
	}
	return ""
}

// shortenPath takes keys, names of secrets, actor ids and workflow instance ids out of a path. Everything else stays as it is.
func shortenPath(path string) string {
	var (
		seg    [6]string // the first segments
		starts [6]int
		ends   [6]int
		n      int
	)
	at := 0
	if strings.HasPrefix(path, "/") {
		at = 1
	}
	for n < len(seg) && at <= len(path) {
		end := len(path)
		if i := strings.IndexByte(path[at:], '/'); i >= 0 {
			end = at + i
		}
		seg[n], starts[n], ends[n] = path[at:end], at, end
		n++
		at = end + 1
	}

	// A call to the app's own actors.
	if n >= 3 && seg[0] == "actors" && seg[2] != "" {
		return path[:starts[2]] + "{id}" + path[ends[2]:]
	}
	if n < 3 || !isAPIVersion(seg[0]) {
		return path
	}
	switch seg[1] {
	case "state", "secrets":
		return path[:ends[2]]
	case "actors":
		if n < 4 {
			return path
		}
		if n == 4 {
			return path[:starts[3]] + "{id}"
		}
		return path[:starts[3]] + "{id}" + path[ends[3]:ends[4]]
	case "workflows":
		switch {
		case n < 4:
			return path
		case n == 4:
			return path[:starts[3]] + "{instanceId}"
		case seg[4] == "start":
			return path[:ends[4]] // the segment before is the name of the workflow
		case seg[4] == "raiseEvent" && n > 5:
			return path[:starts[3]] + "{instanceId}/raiseEvent/{eventName}"
		}
		return path[:starts[3]] + "{instanceId}" + path[ends[3]:ends[4]]
	}
	return path
}

// isAPIVersion recognises v1.0, v1.0-alpha1 and the like.
func isAPIVersion(s string) bool {
	return len(s) >= 2 && s[0] == 'v' && s[1] >= '0' && s[1] <= '9'
}
