package app

import (
	"bytes"
	"strings"

	"outrigger.dev/invocation"
)

// fate is what becomes of a header on its way to or from an HTTP app.
type fate int

const (
	pass   fate = iota
	drop        // it is not passed on
	prefix      // it gets the prefix "dapr-"
	pseudo      // its leading colon becomes "dapr-"
)

// headerFate is what becomes of a header by its name (Dapr API, service invocation: request headers, response).
// Content-Type and Content-Length travel apart from the others.
func headerFate(name []byte) fate {
	if len(name) == 0 {
		return drop
	}
	if name[0] == ':' {
		switch string(name) {
		case ":method", ":scheme", ":path", ":authority":
			return pseudo
		}
		return drop
	}
	if invocation.HopByHop(name) {
		return drop
	}
	switch n := len(name); {
	case n >= 4 && invocation.Is(name[n-4:], "-bin"):
		return drop
	case n >= 5 && invocation.Is(name[:5], "grpc-"):
		return prefix
	case n == 4 && invocation.Is(name, "host"):
		return drop
	case n == 12 && invocation.Is(name, "content-type"), n == 14 && invocation.Is(name, "content-length"):
		return drop
	case n == 18 && invocation.Is(name, invocation.DestinationAppID):
		return drop
	}
	if !isToken(name) {
		return drop
	}
	return pass
}

// tokens are the bytes that a header name may be made of.
var tokens = func() (t [256]bool) {
	for c := range t {
		t[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c))
	}
	return t
}()

func isToken(name []byte) bool {
	for _, c := range name {
		if !tokens[c] {
			return false
		}
	}
	return true
}

// connectionNames are the header names that the values of Connection list: those headers end here too. It is nil almost
// always.
type connectionNames [][]byte

func (names *connectionNames) add(value []byte) {
	for name := range bytes.SplitSeq(value, []byte(",")) {
		if name = bytes.TrimSpace(name); len(name) > 0 {
			*names = append(*names, name)
		}
	}
}

func (names connectionNames) has(name []byte) bool {
	for _, n := range names {
		if bytes.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// forApp calls add for each header that an HTTP app gets, with the name it gets it under. The token of the app, if any,
// replaces a token of the client.
func forApp(req *invocation.Request, token []byte, add func(prefix string, name, value []byte)) {
	var listed connectionNames
	for i := range req.Header {
		if f := &req.Header[i]; len(f.Name) == 10 && invocation.Is(f.Name, "connection") {
			listed.add(f.Value)
		}
	}
	baggage, traceparent, tracestate := false, false, false
	for i := range req.Header {
		name, value := req.Header[i].Name, req.Header[i].Value
		what := headerFate(name)
		if what == drop || listed != nil && listed.has(name) {
			continue
		}
		switch len(name) {
		case 6:
			if invocation.Is(name, "expect") { // every hop answers 100-continue itself
				continue
			}
		case 7:
			if invocation.Is(name, "baggage") {
				if baggage {
					continue
				}
				baggage = true
			}
		case 10:
			tracestate = tracestate || invocation.Is(name, "tracestate")
		case 11:
			traceparent = traceparent || invocation.Is(name, "traceparent")
		case 14:
			if len(token) > 0 && invocation.Is(name, invocation.APIToken) {
				continue
			}
		}
		switch what {
		case prefix:
			add("dapr-", name, value)
		case pseudo:
			add("dapr-", name[1:], value)
		default:
			add("", name, value)
		}
	}
	if req.Origin == invocation.FromGRPC && !traceparent {
		if text, ok := textTraceContext(req.Header.Get("grpc-trace-bin")); ok {
			add("", []byte("traceparent"), []byte(text))
			if state := req.Header.Get("tracestate-bin"); len(state) > 0 && !tracestate {
				if decoded, ok := decodeBin(state); ok {
					add("", []byte("tracestate"), decoded)
				}
			}
		}
	}
	if len(token) > 0 {
		add("", nameAPIToken, token)
	}
}

var nameAPIToken = []byte(invocation.APIToken)

// verbOf is the verb a request is sent to an HTTP app with. A verb that the sidecars' protocol does not know is POST.
func verbOf(verb string) (string, error) {
	switch verb {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH":
		return verb, nil
	case "", "NONE", "CONNECT":
		return "", ErrInvalidVerb
	}
	return "POST", nil
}

// pathSafe are the bytes that a path holds as they are, as net/url has it.
var pathSafe = func() (t [256]bool) {
	for c := range t {
		t[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-_.~$&+,/:;=@", rune(c))
	}
	return t
}()

const upperHex = "0123456789ABCDEF"

// appendTarget appends the request target for a method and query: "/method?query". The method is decoded text and is escaped,
// percent signs included, so that the app decodes it to what the access check saw. The query is passed on as it is, but for
// bytes that would end it.
func appendTarget(dst []byte, method, query string) []byte {
	dst = append(dst, '/')
	for i := range len(method) {
		if c := method[i]; pathSafe[c] {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	if query == "" {
		return dst
	}
	dst = append(dst, '?')
	for i := range len(query) {
		if c := query[i]; c > ' ' && c != 0x7f {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return dst
}

// collector gathers the headers of a response and copies them all into one piece of memory.
type collector struct {
	header invocation.Header
	text   []byte
}

func (c *collector) grow(fields, bytes int) {
	c.header = make(invocation.Header, 0, fields)
	c.text = make([]byte, 0, bytes)
}

// add appends a header with the name made of prefix and name.
func (c *collector) add(prefix string, name, value []byte) {
	start := len(c.text)
	c.text = append(c.text, prefix...)
	c.text = append(c.text, name...)
	middle := len(c.text)
	c.text = append(c.text, value...)
	end := len(c.text)
	c.header = append(c.header, invocation.Field{Name: c.text[start:middle:middle], Value: c.text[middle:end:end]})
}

// fromApp adds a header of an HTTP app's response if it is passed on.
func (c *collector) fromApp(name, value []byte, listed connectionNames) {
	what := headerFate(name)
	if what == drop || listed != nil && listed.has(name) {
		return
	}
	switch what {
	case prefix:
		c.add("dapr-", name, value)
	case pseudo:
		c.add("dapr-", name[1:], value)
	default:
		c.add("", name, value)
	}
}
