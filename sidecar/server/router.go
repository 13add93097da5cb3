package server

import (
	"net/url"
	"path"
	"sort"
	"strings"

	"outrigger.dev/api"
)

// router finds the route for a path and verb. Static segments win over parameters; the path is matched as it was sent, so
// that an escaped slash does not split a segment (Dapr API, API surface: path normalisation and matching).
type router struct {
	root node
}

type node struct {
	static map[string]*node
	param  *node
	routes []methodRoute
	rest   []methodRoute // a last parameter that takes the remaining segments
}

type methodRoute struct {
	method string
	route  *api.Route
}

func newRouter(routes []*api.Route) *router {
	r := &router{}
	for _, route := range routes {
		r.add(route)
	}
	return r
}

func (r *router) add(route *api.Route) {
	route.Parameters() // computed once, before requests read them concurrently
	n := &r.root
	for segment := range strings.SplitSeq(strings.TrimPrefix(route.Path, "/"), "/") {
		switch {
		case strings.HasSuffix(segment, "...}"):
			for _, m := range route.Methods {
				n.rest = append(n.rest, methodRoute{m, route})
			}
			return
		case strings.HasPrefix(segment, "{"):
			if n.param == nil {
				n.param = &node{}
			}
			n = n.param
		default:
			if n.static == nil {
				n.static = map[string]*node{}
			}
			next := n.static[segment]
			if next == nil {
				next = &node{}
				n.static[segment] = next
			}
			n = next
		}
	}
	for _, m := range route.Methods {
		n.routes = append(n.routes, methodRoute{m, route})
	}
}

// match is the outcome of looking for a path.
type match struct {
	route *api.Route
	// allowed are the verbs of the routes that have the path but not the verb.
	allowed []string
	values  [4]string // parameters, still escaped
	count   int
}

// find looks up a cleaned path.
func (r *router) find(method, cleaned string) (m match) {
	r.root.find(method, strings.TrimPrefix(cleaned, "/"), &m)
	return m
}

func (n *node) find(method, left string, m *match) bool {
	if left == "" {
		return pick(n.routes, method, m)
	}
	segment, rest, _ := strings.Cut(left, "/")
	if next := n.static[segment]; next != nil && next.find(method, rest, m) {
		return true
	}
	if n.param != nil && m.count < len(m.values) {
		m.values[m.count] = segment
		m.count++
		if n.param.find(method, rest, m) {
			return true
		}
		m.count--
	}
	if n.rest != nil && m.count < len(m.values) {
		m.values[m.count] = left
		m.count++
		if pick(n.rest, method, m) {
			return true
		}
		m.count--
	}
	return false
}

func pick(routes []methodRoute, method string, m *match) bool {
	for _, r := range routes {
		if r.method == method {
			m.route = r.route
			return true
		}
	}
	for _, r := range routes {
		m.allowed = append(m.allowed, r.method)
	}
	return false
}

// bind decodes the parameters into the call, with the rules of query strings: "+" is a space. It reports whether all could
// be decoded.
func (m *match) bind(call *api.Call) bool {
	for i := range m.count {
		v := m.values[i]
		if strings.ContainsAny(v, "%+") {
			decoded, err := url.QueryUnescape(v)
			if err != nil {
				return false
			}
			v = decoded
		}
		call.SetParameter(i, v)
	}
	return true
}

// allow is the value of an Allow header.
func (m *match) allow() []string {
	sort.Strings(m.allowed)
	return m.allowed
}

// cleanPath collapses repeated slashes, resolves "." and ".." and drops a trailing slash, without touching escapes.
func cleanPath(p string) string {
	if p == "" || p[0] != '/' {
		p = "/" + p
	}
	if !strings.Contains(p, "//") && !strings.Contains(p, "/.") && (len(p) == 1 || p[len(p)-1] != '/') {
		return p
	}
	return path.Clean(p)
}
