package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxBaggage bounds the header (W3C Baggage, limits).
const maxBaggage = 8192

// baggage checks the baggage header of a request and echoes it in the reply; a malformed one is answered with 400 (Dapr
// API, HTTP server: middleware order). It reports whether the request was answered.
func baggage(x exchange) (answered bool) {
	header := x.Header("Baggage")
	if len(header) == 0 || strings.Contains(x.Path(), "/healthz") {
		return false
	}
	if err := CheckBaggage(string(header)); err != nil {
		text(x, http.StatusBadRequest, fmt.Sprintf("invalid baggage header: %s\n", err))
		return true
	}
	x.SetHeader("Baggage", string(header))
	return false
}

// grpcBaggage is the same check for the metadata of a gRPC call.
func grpcBaggage(ctx context.Context) error {
	for _, header := range metadata.ValueFromIncomingContext(ctx, "baggage") {
		if err := CheckBaggage(header); err != nil {
			return status.Errorf(codes.InvalidArgument, "invalid baggage header: %s", err)
		}
	}
	return nil
}

// CheckBaggage holds a header against the grammar of W3C Baggage: key=value members with properties behind semicolons.
func CheckBaggage(header string) error {
	if len(header) > maxBaggage {
		return fmt.Errorf("it is longer than %d bytes", maxBaggage)
	}
	for member := range strings.SplitSeq(header, ",") {
		pair, properties, _ := strings.Cut(member, ";")
		key, value, found := strings.Cut(pair, "=")
		if !found {
			return fmt.Errorf("invalid member %q: it has no value", strings.TrimSpace(member))
		}
		if key = strings.TrimSpace(key); !isToken(key) {
			return fmt.Errorf("invalid key %q", key)
		}
		if err := checkBaggageValue(strings.TrimSpace(value)); err != nil {
			return fmt.Errorf("invalid value of %q: %w", key, err)
		}
		if properties == "" {
			continue
		}
		for p := range strings.SplitSeq(properties, ";") {
			name, value, _ := strings.Cut(p, "=")
			if name = strings.TrimSpace(name); !isToken(name) {
				return fmt.Errorf("invalid property %q of %q", name, key)
			}
			if err := checkBaggageValue(strings.TrimSpace(value)); err != nil {
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
