package workload

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// clockSkew is how much the clocks of Sentry and this process may differ when times of JWTs are checked.
const clockSkew = 5 * time.Minute

// token is a JWT-SVID.
type token struct {
	text      string
	audiences []string
	// expiry is zero when the token has none.
	expiry time.Time
}

// audienceList is the claim aud: one text, or a list.
type audienceList []string

// UnmarshalJSON implements [json.Unmarshaler].
func (a *audienceList) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = audienceList{one}
		return nil
	}
	var list []string
	if err := json.Unmarshal(text, &list); err != nil {
		return errors.New("the claim aud is neither a text nor a list of texts")
	}
	*a = list
	return nil
}

// parseToken reads a JWT-SVID as its owner: the signature is for those to verify that it is shown to.
func parseToken(text string, now time.Time) (*token, error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 || parts[2] == "" {
		return nil, errors.New("it is not a signed JWT of three parts")
	}
	var header struct {
		Algorithm string `json:"alg"`
	}
	if err := decodePart(parts[0], &header); err != nil {
		return nil, fmt.Errorf("its header: %w", err)
	}
	if header.Algorithm == "" || strings.EqualFold(header.Algorithm, "none") {
		return nil, errors.New("its header names no algorithm")
	}
	var claims struct {
		Subject   string       `json:"sub"`
		Audience  audienceList `json:"aud"`
		Expiry    *float64     `json:"exp"`
		NotBefore *float64     `json:"nbf"`
		IssuedAt  *float64     `json:"iat"`
	}
	if err := decodePart(parts[1], &claims); err != nil {
		return nil, fmt.Errorf("its claims: %w", err)
	}
	t := &token{text: text, audiences: claims.Audience}
	switch {
	case claims.Expiry != nil && now.After(second(*claims.Expiry).Add(clockSkew)):
		return nil, fmt.Errorf("it has expired at %s", second(*claims.Expiry).Format(time.RFC3339))
	case claims.NotBefore != nil && now.Before(second(*claims.NotBefore).Add(-clockSkew)):
		return nil, fmt.Errorf("it is not valid before %s", second(*claims.NotBefore).Format(time.RFC3339))
	case claims.IssuedAt != nil && now.Before(second(*claims.IssuedAt).Add(-clockSkew)):
		return nil, fmt.Errorf("it is issued in the future, at %s", second(*claims.IssuedAt).Format(time.RFC3339))
	}
	if claims.Expiry != nil {
		t.expiry = second(*claims.Expiry)
	}
	return t, nil
}

// second is a time in Unix seconds; those too far away for a clock are the last that it has.
func second(s float64) time.Time {
	const last = 1 << 40
	return time.Unix(int64(min(max(s, -last), last)), 0)
}

func decodePart(text string, into any) error {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}
