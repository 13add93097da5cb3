package metrics

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// invokePrefix begins the path of a service invocation on the HTTP API.
const invokePrefix = "/v1.0/invoke/"

// patternTree matches paths against patterns in the syntax of net/http's ServeMux. It gives the same answers without a request to
// match and without allocating, and does not mind patterns that overlap without one being more specific: there, the pattern with
// the earlier literal segment wins.
type patternTree struct{ root patternNode }

// patternNode is the state after some segments of a path.
type patternNode struct {
	literals map[string]*patternNode
	wildcard *patternNode // {name}
	leaf     string       // the pattern that ends here
	slash    string       // the pattern that ends here with {$}
	subtree  string       // the pattern that ends here with a slash or {name...}
}

// newPatternTree builds the tree of the patterns and of their forms for service invocation. A pattern that ServeMux would refuse
// is an error that names it.
func newPatternTree(patterns []string) (*patternTree, error) {
	t := new(patternTree)
	normal := make([]string, 0, len(patterns))
	for _, given := range patterns {
		p := normalizePattern(given)
		if err := checkPattern(p); err != nil {
			return nil, fmt.Errorf("pattern %q is not a path pattern such as /orders/{id}: %w", given, err)
		}
		normal = append(normal, p)
		t.add(p)
	}
	// After the patterns as written, so that one written in full for invocation wins over one derived.
	for _, p := range normal {
		if !strings.HasPrefix(p, invokePrefix) {
			t.add(invokePrefix + "{app_id}/method" + p)
		}
	}
	return t, nil
}

// normalizePattern adds a leading slash and merges repeated ones.
func normalizePattern(p string) string {
	p = "/" + p
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	return p
}

// checkPattern asks ServeMux, which reports a bad pattern by a panic.
func checkPattern(p string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	http.NewServeMux().Handle(p, http.NotFoundHandler())
	return nil
}

// add puts a valid pattern into the tree, unless one like it is there.
func (t *patternTree) add(pattern string) {
	n := &t.root
	rest := pattern
	for rest != "" {
		seg := rest[1:] // rest begins with a slash
		rest = ""
		if i := strings.IndexByte(seg, '/'); i >= 0 {
			seg, rest = seg[:i], seg[i:]
		}
		switch {
		case seg == "" || strings.HasSuffix(seg, "...}"): // last, or ServeMux would have refused it
			setOnce(&n.subtree, pattern)
			return
		case seg == "{$}":
			setOnce(&n.slash, pattern)
			return
		case seg[0] == '{':
			if n.wildcard == nil {
				n.wildcard = new(patternNode)
			}
			n = n.wildcard
		default:
			if plain, err := url.PathUnescape(seg); err == nil {
				seg = plain
			}
			next := n.literals[seg]
			if next == nil {
				next = new(patternNode)
				if n.literals == nil {
					n.literals = make(map[string]*patternNode)
				}
				n.literals[seg] = next
			}
			n = next
		}
	}
	setOnce(&n.leaf, pattern)
}

func setOnce(s *string, v string) {
	if *s == "" {
		*s = v
	}
}

// match is the most specific pattern that matches the path, or "".
func (t *patternTree) match(path string) string {
	if path == "" || path[0] != '/' {
		return ""
	}
	return t.root.match(path)
}

// match looks at what is left of the path: nothing, or a slash and more.
func (n *patternNode) match(rest string) string {
	if rest == "" {
		return n.leaf
	}
	if rest == "/" && n.slash != "" {
		return n.slash
	}
	seg, next := rest[1:], ""
	if i := strings.IndexByte(seg, '/'); i >= 0 {
		seg, next = seg[:i], seg[i:]
	}
	if seg != "" {
		if c := n.literals[seg]; c != nil {
			if p := c.match(next); p != "" {
				return p
			}
		}
		if n.wildcard != nil {
			if p := n.wildcard.match(next); p != "" {
				return p
			}
		}
	}
	return n.subtree
}
