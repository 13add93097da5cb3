package server

import (
	"net/http"
	"slices"
	"strings"
)

// cors answers browsers that ask whether a page of another origin may call the sidecar (Dapr API, CORS).
type cors struct {
	any      bool
	exact    []string
	wildcard [][2]string // what stands before and after the *
}

var corsMethods = []string{"HEAD", "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

func newCORS(origins string) *cors {
	c := &cors{}
	for o := range strings.SplitSeq(origins, ",") {
		o = strings.ToLower(strings.TrimSpace(o))
		before, after, star := strings.Cut(o, "*")
		switch {
		case o == "*":
			c.any = true
		case star:
			c.wildcard = append(c.wildcard, [2]string{before, after})
		case o != "":
			c.exact = append(c.exact, o)
		}
	}
	return c
}

func (c *cors) allows(origin string) bool {
	if c.any {
		return true
	}
	origin = strings.ToLower(origin)
	return slices.Contains(c.exact, origin) || slices.ContainsFunc(c.wildcard, func(w [2]string) bool {
		return len(origin) >= len(w[0])+len(w[1]) && strings.HasPrefix(origin, w[0]) && strings.HasSuffix(origin, w[1])
	})
}

// handle adds the headers to a reply, and reports whether it answered the request, which it does for a preflight.
func (c *cors) handle(x exchange) (answered bool) {
	origin := string(x.Header("Origin"))
	method := string(x.Header("Access-Control-Request-Method"))
	if x.Method() == http.MethodOptions && method != "" {
		for _, name := range [...]string{"Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"} {
			x.AddHeader([]byte("Vary"), []byte(name))
		}
		x.SetStatus(http.StatusOK)
		method = strings.ToUpper(method)
		if origin == "" || !c.allows(origin) || !slices.Contains(corsMethods, method) {
			return true
		}
		c.allowOrigin(x, origin)
		x.SetHeader("Access-Control-Allow-Methods", method)
		if headers := canonicalList(string(x.Header("Access-Control-Request-Headers"))); headers != "" {
			x.SetHeader("Access-Control-Allow-Headers", headers)
		}
		return true
	}
	x.AddHeader([]byte("Vary"), []byte("Origin"))
	if origin != "" && c.allows(origin) && slices.Contains(corsMethods, x.Method()) {
		c.allowOrigin(x, origin)
	}
	return false
}

func (c *cors) allowOrigin(x exchange, origin string) {
	if c.any {
		origin = "*"
	}
	x.SetHeader("Access-Control-Allow-Origin", origin)
}

func canonicalList(names string) string {
	var list []string
	for n := range strings.SplitSeq(names, ",") {
		if n = strings.TrimSpace(n); n != "" {
			list = append(list, http.CanonicalHeaderKey(n))
		}
	}
	return strings.Join(list, ", ")
}
