package middleware

import (
	"net/url"
	"path"
	"strings"
)

// DecodedPath is the path as routing sees it in the end: without escapes, repeated slashes and dot segments, beginning with "/".
// Whatever decides by the path looks at this one, for two spellings of the same path must not be decided differently. A path whose
// escapes are not valid counts as it is.
func (r *Request) DecodedPath() string {
	p := r.Path
	if strings.IndexByte(p, '%') >= 0 {
		if decoded, err := url.PathUnescape(p); err == nil {
			p = decoded
		}
	}
	return CleanPath(p)
}

// URI is the request target: the path and, if there is one, the query.
func (r *Request) URI() string {
	if r.RawQuery == "" {
		return r.Path
	}
	return r.Path + "?" + r.RawQuery
}

// SetURI replaces the path and the query by those of a request target such as "/path?query".
func (r *Request) SetURI(uri string) {
	r.Path, r.RawQuery, _ = strings.Cut(uri, "?")
	if !strings.HasPrefix(r.Path, "/") {
		r.Path = "/" + r.Path
	}
}

// CleanPath collapses repeated slashes, resolves "." and ".." and drops a trailing slash, without touching escapes.
func CleanPath(p string) string {
	if p == "" || p[0] != '/' {
		p = "/" + p
	}
	if !strings.Contains(p, "//") && !strings.Contains(p, "/.") && (len(p) == 1 || p[len(p)-1] != '/') {
		return p
	}
	return path.Clean(p)
}
