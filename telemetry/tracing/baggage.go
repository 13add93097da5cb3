package tracing

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// maxBaggage bounds a baggage header, in bytes (W3C Baggage, limits).
const maxBaggage = 8192

// CheckBaggage holds a baggage header against the grammar of W3C Baggage: key=value members with properties behind semicolons.
func CheckBaggage(header string) error {
	if len(header) > maxBaggage {
		return fmt.Errorf("it is longer than %d bytes", maxBaggage)
	}
	for member := range strings.SplitSeq(header, ",") {
		pair, properties, _ := strings.Cut(member, ";")
		key, value, found := strings.Cut(pair, "=")
		if !found {
			return fmt.Errorf("invalid member %q: it has no value", strings.Trim(member, " \t"))
		}
		if key = strings.Trim(key, " \t"); !isToken(key) {
			return fmt.Errorf("invalid key %q", key)
		}
		if err := checkBaggageValue(strings.Trim(value, " \t")); err != nil {
			return fmt.Errorf("invalid value of %q: %w", key, err)
		}
		if properties == "" {
			continue
		}
		for p := range strings.SplitSeq(properties, ";") {
			name, value, _ := strings.Cut(p, "=")
			if name = strings.Trim(name, " \t"); !isToken(name) {
				return fmt.Errorf("invalid property %q of %q", name, key)
			}
			if err := checkBaggageValue(strings.Trim(value, " \t")); err != nil {
				return fmt.Errorf("invalid property %q of %q: %w", name, key, err)
			}
		}
	}
	return nil
}

// isToken reports whether s is a token of HTTP (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return true
}

func checkBaggageValue(v string) error {
	for i := range len(v) {
		if c := v[i]; c <= ' ' || c >= 0x7f || c == '"' || c == ',' || c == ';' || c == '\\' {
			return fmt.Errorf("character %q is not allowed", c)
		}
	}
	if _, err := url.PathUnescape(v); err != nil {
		return errors.New("a percent escape is malformed")
	}
	return nil
}
