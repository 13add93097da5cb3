package api

import (
	"context"
	"io"
	"iter"
	"net/url"
	"strings"
)

// Exchange is one HTTP request and the reply being made, as the HTTP server that accepted it offers them. Byte slices it
// hands out are valid until the handler returns, and must not be changed.
type Exchange interface {
	// Context is cancelled when the client goes away, when the reply is complete, and when the sidecar stops for good.
	Context() context.Context
	// Method is the verb as sent.
	Method() string
	// Path is the whole path, percent-decoded.
	Path() string
	// RawPath is the path as sent, without the query.
	RawPath() string
	// RawQuery is the text after the "?", as sent.
	RawQuery() string
	// RemoteAddress is the client's "ip:port".
	RemoteAddress() string
	// Header is the first value of a request header, nil when it is absent. The name must be in canonical form.
	Header(name string) []byte
	// Headers are all request headers in the order and canonical spelling of their names; repeated names come repeatedly.
	Headers() iter.Seq2[[]byte, []byte]
	// RemoveHeader takes a header out of the request, so that it is not passed on.
	RemoveHeader(name string)
	// ContentLength is the length of the request body in bytes, -1 when it is unknown (chunked).
	ContentLength() int64
	// ReadBody reads the whole request body. A body over the server's limit fails with [ErrBodyTooLarge].
	ReadBody() ([]byte, error)
	// BodyReader streams the request body, within the same limit.
	BodyReader() io.Reader

	// SetHeader sets, AddHeader adds a reply header. Content-Length and Transfer-Encoding are the server's business.
	SetHeader(name, value string)
	AddHeader(name, value []byte)
	// SetStatus sets the reply's status; it is 200 at first.
	SetStatus(status int)
	// Reply sets the reply's body, which is copied.
	Reply(body []byte)
	// ReplyStream makes body the reply's body: it is sent, each read flushed, after the handler has returned, and then closed.
	// length is in bytes, -1 when unknown. A read error other than io.EOF aborts the client's connection, so that it sees
	// that the body was cut.
	ReplyStream(body io.ReadCloser, length int64)
}

// Call is what the HTTP face of a building block sees: the exchange, the route it came by and the path's parameters.
type Call struct {
	Exchange
	Route *Route

	params [4]string
}

// Handler serves a call. An error it returns is written by the server: an [*Error] with its status and code, any other as
// the unclassified error of the API.
type Handler func(*Call) error

// Route is one endpoint of the HTTP API (Dapr API, API surface: routes).
type Route struct {
	// Methods are the verbs, exactly.
	Methods []string
	// Path is the template: "/v1.0/state/{storeName}/{key}"; a last parameter written "{topic...}" takes the rest of the path.
	Path string
	// Name is the endpoint's name in obfuscated logs and metrics.
	Name string
	// Group is the key of allow and deny lists: "v1/state".
	Group string
	// Health routes are served whatever the lists say, and need no token on GET.
	Health bool
	// Public routes are served on the public port too.
	Public  bool
	Handler Handler

	names []string
}

// Parameters are the names in the path template, in order.
func (r *Route) Parameters() []string {
	if r.names == nil {
		r.names = []string{}
		for _, segment := range strings.Split(r.Path, "/") {
			if strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "}") {
				r.names = append(r.names, strings.TrimSuffix(segment[1:len(segment)-1], "..."))
			}
		}
	}
	return r.names
}

// SetParameter sets the i-th parameter's value; for servers and tests.
func (c *Call) SetParameter(i int, value string) { c.params[i] = value }

// Parameter is the decoded value of a parameter of the route's path; asking for one it does not have panics, for that is
// a mistake in the program.
func (c *Call) Parameter(name string) string {
	for i, n := range c.Route.names {
		if n == name {
			return c.params[i]
		}
	}
	panic("api: route " + c.Route.Path + " has no parameter " + name)
}

// Query is the first value of a query parameter and whether there is one.
func (c *Call) Query(name string) (value string, ok bool) {
	for k, v := range queryPairs(c.RawQuery()) {
		if k == name {
			return v, true
		}
	}
	return "", false
}

// Metadata are the query parameters that start with "metadata.", without that prefix; of a repeated one the first value
// counts (Dapr API, HTTP conventions). It is nil when there is none.
func (c *Call) Metadata() map[string]string {
	query := c.RawQuery()
	if query == "" {
		return nil
	}
	var metadata map[string]string
	for k, v := range queryPairs(query) {
		name, ok := strings.CutPrefix(k, "metadata.")
		if !ok {
			continue
		}
		if metadata == nil {
			metadata = map[string]string{}
		}
		if _, repeated := metadata[name]; !repeated {
			metadata[name] = v
		}
	}
	return metadata
}

// queryPairs decodes a query string pair by pair, leaving out what cannot be decoded, as Go's url.Values does.
func queryPairs(query string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for pair := range strings.SplitSeq(query, "&") {
			if pair == "" || strings.Contains(pair, ";") {
				continue
			}
			k, v, _ := strings.Cut(pair, "=")
			k, err := url.QueryUnescape(k)
			if err != nil {
				continue
			}
			if v, err = url.QueryUnescape(v); err != nil {
				continue
			}
			if !yield(k, v) {
				return
			}
		}
	}
}

// MergeMetadata returns base with the entries of over put on top, without changing either; nil when both are empty.
func MergeMetadata(base, over map[string]string) map[string]string {
	switch {
	case len(over) == 0:
		return base
	case len(base) == 0:
		return over
	}
	merged := make(map[string]string, len(base)+len(over))
	for k, v := range base {
		merged[k] = v
	}
	for k, v := range over {
		merged[k] = v
	}
	return merged
}

// ReplyJSON sends JSON text with status 200.
func (c *Call) ReplyJSON(text []byte) {
	c.SetHeader("Content-Type", "application/json")
	c.Reply(text)
}

// NoContent sends status 204.
func (c *Call) NoContent() { c.SetStatus(204) }
