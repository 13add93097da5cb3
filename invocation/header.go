package invocation

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
)

// ErrTooLarge is a body over the size limit of the sidecar.
var ErrTooLarge = errors.New("stream too large")

// Headers that the sidecars add to remote calls (Dapr API, service invocation: request headers).
const (
	CallerAppID      = "dapr-caller-app-id"
	CallerNamespace  = "dapr-caller-namespace"
	CalleeAppID      = "dapr-callee-app-id"
	DestinationAppID = "destination-app-id"
	AppID            = "dapr-app-id"
	APIToken         = "dapr-api-token"
)

// NamedBy reports whether a Connection header names another one, which is then not passed on either.
func NamedBy(connection, name []byte) bool {
	if len(connection) == 0 {
		return false
	}
	for token := range bytes.SplitSeq(connection, []byte(",")) {
		if bytes.EqualFold(bytes.TrimSpace(token), name) {
			return true
		}
	}
	return false
}

// HopByHop reports whether an HTTP header concerns only one connection and is never passed on. The name is compared without
// regard to case. Headers named by the value of Connection are the caller's to remove.
func HopByHop(name []byte) bool {
	switch len(name) {
	case 2:
		return fold(name, "te")
	case 7:
		return fold(name, "upgrade") || fold(name, "trailer")
	case 10:
		return fold(name, "connection") || fold(name, "keep-alive")
	case 14:
		return fold(name, "http2-settings")
	case 16:
		return fold(name, "proxy-connection")
	case 17:
		return fold(name, "transfer-encoding")
	case 18:
		return fold(name, "proxy-authenticate")
	case 19:
		return fold(name, "proxy-authorization")
	}
	return false
}

// fold compares ASCII text without regard to case; lower must be in lower case and of the same length as name.
func fold(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// Is compares a header name without regard to case with one given in lower case.
func Is(name []byte, lower string) bool { return fold(name, lower) }

// CleanMethod normalises a method or path as every sidecar does, once, at the edge: repeated slashes collapse, "." and ".."
// are resolved and cannot climb out, leading and trailing slashes go (Dapr API, service invocation: path processing).
func CleanMethod(method string) string {
	if plain(method) {
		return method
	}
	return strings.TrimPrefix(path.Clean("/"+method), "/")
}

// plain reports whether a method has nothing to clean.
func plain(m string) bool {
	segment := 0
	dots := true
	for i := 0; i <= len(m); i++ {
		if i == len(m) || m[i] == '/' {
			n := i - segment
			if n == 0 && len(m) > 0 || dots && (n == 1 || n == 2) {
				return false
			}
			segment, dots = i+1, true
			continue
		}
		if m[i] != '.' {
			dots = false
		}
	}
	return true
}

// CheckMethod refuses methods with characters that no app can be addressed by.
func CheckMethod(method string) error {
	for i := range len(method) {
		switch c := method[i]; {
		case c == '#' || c == '?' || c == 0:
			return fmt.Errorf("invalid method: method contains forbidden character: %q", method)
		case c < 0x20 || c == 0x7f:
			return fmt.Errorf("invalid method: method contains control character at position %d: %q", i, method)
		}
	}
	return nil
}

// prefixed are the HTTP header names, in canonical spelling, that get the prefix "dapr-" when they become gRPC metadata
// (Dapr API, service invocation: conversions).
var prefixed = map[string]bool{
	"Accept": true, "Accept-Charset": true, "Accept-Language": true, "Accept-Ranges": true, "Cache-Control": true, "Connection": true,
	"Content-Length": true, "Content-Type": true, "Cookie": true, "Date": true, "Expect": true, "From": true, "Host": true,
	"If-Match": true, "If-Modified-Since": true, "If-None-Match": true, "If-Schedule-Tag-Match": true, "If-Unmodified-Since": true,
	"Keep-Alive": true, "Max-Forwards": true, "Origin": true, "Pragma": true, "Proxy-Connection": true, "Referer": true,
	"Transfer-Encoding": true, "Upgrade": true, "Via": true, "Warning": true,
}

// MetadataKey is the gRPC metadata key that an HTTP header becomes.
func MetadataKey(header []byte) string {
	if prefixed[string(header)] {
		return "dapr-" + strings.ToLower(string(header))
	}
	return strings.ToLower(string(header))
}
