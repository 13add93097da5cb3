package validator

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"outrigger.dev/resource"
)

// Configured reads the validators of a Configuration (Dapr API, Configuration: spec.mtls.tokenValidators). The options lack what is not in it.
func Configured(list []resource.TokenValidator) ([]JWKSOptions, error) {
	var found []JWKSOptions
	for _, tv := range list {
		switch strings.ToLower(tv.Name) {
		case "jwks":
		case "kubernetes", "insecure":
			return nil, fmt.Errorf("invalid token validator: the built-in 'kubernetes' and 'insecure' validators cannot be configured manually")
		default:
			return nil, fmt.Errorf("invalid token validator name: '%s'; supported values: 'jwks'", tv.Name)
		}
		o, err := jwksOptions(tv.Options)
		if err != nil {
			return nil, fmt.Errorf("the options of the token validator 'jwks' are not usable: %w", err)
		}
		found = append(found, o)
	}
	if len(found) > 1 {
		return nil, fmt.Errorf("the token validator 'jwks' is configured %d times: keep one, whose key set may have many keys", len(found))
	}
	return found, nil
}

func jwksOptions(v resource.Value) (JWKSOptions, error) {
	var raw struct {
		Source             string   `json:"source"`
		CACertificate      string   `json:"caCertificate"`
		MinRefreshInterval duration `json:"minRefreshInterval"`
		RequestTimeout     duration `json:"requestTimeout"`
	}
	if v.IsSet() {
		if err := json.Unmarshal(v.JSON(), &raw); err != nil {
			return JWKSOptions{}, err
		}
	}
	return JWKSOptions{
		Source: raw.Source, CACertificate: raw.CACertificate,
		MinRefreshInterval: time.Duration(raw.MinRefreshInterval), RequestTimeout: time.Duration(raw.RequestTimeout),
	}, nil
}

// duration is written in Go syntax or as a number of seconds.
type duration time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (d *duration) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	if text == "" || text == "null" {
		return nil
	}
	if parsed, err := time.ParseDuration(text); err == nil {
		*d = duration(parsed)
		return nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || seconds < 0 || seconds > 1e9 {
		return fmt.Errorf("invalid duration %q: write it like 30s, or as a number of seconds", text)
	}
	*d = duration(seconds * float64(time.Second))
	return nil
}
