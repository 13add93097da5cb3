package routeralias

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// route is a path pattern and what takes its place.
type route struct {
	pattern       string
	target, query string
	names         []string
	groups        []int // of the names in expression
	expression    *regexp.Regexp
}

// newRoute reads a pattern such as "/a/{name}/{id:[0-9]+}" and the target for it.
func newRoute(pattern, target string) (route, error) {
	r := route{pattern: pattern}
	if !strings.HasPrefix(pattern, "/") {
		return r, fmt.Errorf("the route %q must begin with \"/\"", pattern)
	}
	if !strings.HasPrefix(target, "/") {
		return r, fmt.Errorf("the route %q has the target %q, which must begin with \"/\"", pattern, target)
	}
	target, r.query, _ = strings.Cut(target, "?")
	r.target = escapePath(target)
	if len(pattern) > 1 {
		pattern = strings.TrimSuffix(pattern, "/")
	}
	var b strings.Builder
	b.WriteString("^")
	group := 1
	for rest := pattern; rest != ""; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			open = len(rest)
		}
		if strings.IndexByte(rest[:open], '}') >= 0 {
			return r, fmt.Errorf("the route %q has a } without a {", r.pattern)
		}
		b.WriteString(regexp.QuoteMeta(rest[:open]))
		if rest = rest[open:]; rest == "" {
			break
		}
		end := closing(rest)
		if end < 0 {
			return r, fmt.Errorf("the route %q has a { without a }", r.pattern)
		}
		name, expression, _ := strings.Cut(rest[1:end], ":")
		rest = rest[end+1:]
		if name == "" {
			return r, fmt.Errorf("the route %q has a parameter without a name; write {name} or {name:regex}", r.pattern)
		}
		if slices.Contains(r.names, name) {
			return r, fmt.Errorf("the route %q has the parameter %q twice", r.pattern, name)
		}
		if expression == "" {
			expression = "[^/]+"
		}
		compiled, err := regexp.Compile(expression)
		if err != nil {
			return r, fmt.Errorf("the route %q has the parameter %q, whose pattern is not a regular expression: %w", r.pattern, name, err)
		}
		r.names, r.groups = append(r.names, name), append(r.groups, group)
		b.WriteString("(" + expression + ")")
		group += 1 + compiled.NumSubexp()
	}
	b.WriteString("$")
	if len(r.names) == 0 {
		r.pattern = pattern
		return r, nil
	}
	var err error
	if r.expression, err = regexp.Compile(b.String()); err != nil {
		return r, fmt.Errorf("the route %q has parameters that make no regular expression together: %w", r.pattern, err)
	}
	return r, nil
}

// escapePath escapes what cannot stand in a path, and leaves the escapes that are there.
func escapePath(path string) string {
	var b strings.Builder
	for i := range len(path) {
		c := path[i]
		escaped := c == '%' && i+2 < len(path) && isHex(path[i+1]) && isHex(path[i+2])
		if escaped || c > ' ' && c < 0x7f && strings.IndexByte("\"<>\\^`{|}%#", c) < 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// closing is the index of the brace that closes the one that text begins with, -1 when there is none.
func closing(text string) int {
	depth := 0
	for i := range len(text) {
		switch text[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// match reports whether the route is for a decoded path, and the values of its parameters.
func (r *route) match(path string) (values []string, ok bool) {
	if r.expression == nil {
		return nil, path == r.pattern
	}
	found := r.expression.FindStringSubmatch(path)
	if found == nil {
		return nil, false
	}
	for _, g := range r.groups {
		values = append(values, found[g])
	}
	return values, true
}
