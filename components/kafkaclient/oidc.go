package kafkaclient

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the thumbprint x5t is defined with it
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
)

// Limits of a token request.
const (
	tokenTimeout  = 30 * time.Second
	tokenBytes    = 1 << 20
	tokenMargin   = 30 * time.Second // a token is renewed so long before it ends
	assertionLife = 5 * time.Minute
)

// tokenSource gets access tokens by the client credentials grant of OAuth 2.0 (RFC 6749, 4.4), the client authenticating
// with a secret or with a signed assertion (RFC 7523), and keeps them while they last.
type tokenSource struct {
	endpoint   string
	form       url.Values
	signer     *assertionSigner // nil: the form has the secret
	extensions map[string]string
	client     *http.Client
	clock      clockwork.Clock

	mu    sync.Mutex
	token string
	until time.Time
}

func (o *Options) tokenSource(clock clockwork.Clock) (*tokenSource, error) {
	s := &tokenSource{endpoint: o.OIDCTokenEndpoint, clock: clock, form: url.Values{
		"grant_type": {"client_credentials"}, "client_id": {o.OIDCClientID},
	}}
	var scopes []string
	for _, scope := range o.OIDCScopes {
		scopes = append(scopes, strings.Fields(scope)...)
	}
	if len(scopes) > 0 {
		s.form.Set("scope", strings.Join(scopes, " "))
	}
	if o.OIDCResource != "" {
		s.form.Set("resource", o.OIDCResource)
	}
	if o.OIDCExtensions != "" {
		if err := json.Unmarshal([]byte(o.OIDCExtensions), &s.extensions); err != nil {
			return nil, fmt.Errorf("metadata property \"oidcExtensions\" is %q, which is not a JSON object of strings: %w", o.OIDCExtensions, err)
		}
	}
	if o.auth() == authOIDCKey {
		var err error
		if s.signer, err = o.assertionSigner(); err != nil {
			return nil, err
		}
	} else {
		s.form.Set("client_secret", o.OIDCClientSecret)
	}
	roots, err := o.authorities()
	if err != nil {
		return nil, err
	}
	// #nosec G402 -- skipping the check is the user's explicit choice.
	s.client = &http.Client{Timeout: tokenTimeout, Transport: &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, InsecureSkipVerify: o.SkipVerify},
		DisableKeepAlives: true, // tokens are fetched rarely
	}}
	return s, nil
}

// auth is called for each connection that is made.
func (s *tokenSource) auth(ctx context.Context) (oauth.Auth, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == "" || !s.clock.Now().Before(s.until) {
		token, life, err := s.fetch(ctx)
		if err != nil {
			return oauth.Auth{}, fmt.Errorf("no access token from %s: %w; check oidcTokenEndpoint, oidcClientID and its secret or assertion", shown(s.endpoint), err)
		}
		s.token, s.until = token, s.clock.Now().Add(max(life-tokenMargin, life/2))
	}
	return oauth.Auth{Token: s.token, Extensions: s.extensions}, nil
}

func (s *tokenSource) fetch(ctx context.Context) (token string, life time.Duration, err error) {
	form := url.Values{}
	for name, values := range s.form {
		form[name] = values
	}
	if s.signer != nil {
		assertion, err := s.signer.sign(s.clock.Now())
		if err != nil {
			return "", 0, err
		}
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", assertion)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, tokenBytes))
	if err != nil {
		return "", 0, err
	}
	var reply struct {
		Token       string      `json:"access_token"`
		Life        json.Number `json:"expires_in"`
		Error       string      `json:"error"`
		Description string      `json:"error_description"`
	}
	decodeErr := json.Unmarshal(body, &reply)
	switch {
	case reply.Error != "":
		return "", 0, fmt.Errorf("status %d, %s: %s", resp.StatusCode, reply.Error, reply.Description)
	case resp.StatusCode != http.StatusOK:
		return "", 0, fmt.Errorf("status %d", resp.StatusCode)
	case decodeErr != nil:
		return "", 0, fmt.Errorf("the answer is not JSON: %w", decodeErr)
	case reply.Token == "":
		return "", 0, errors.New("the answer has no access_token")
	}
	life = time.Hour // where the answer does not say, it is usual
	if seconds, err := reply.Life.Float64(); err == nil && seconds > 0 {
		life = time.Duration(min(seconds, 1e8) * float64(time.Second))
	}
	return reply.Token, life, nil
}

// assertionSigner makes the JSON Web Tokens that stand for the client at the token endpoint.
type assertionSigner struct {
	key      crypto.Signer
	header   string // encoded
	client   string
	audience string
}

func (o *Options) assertionSigner() (*assertionSigner, error) {
	pair, err := tls.X509KeyPair([]byte(o.OIDCClientAssertionCert), []byte(o.OIDCClientAssertionKey))
	if err != nil {
		return nil, fmt.Errorf("metadata properties \"oidcClientAssertionCert\" and \"oidcClientAssertionKey\" are no pair in PEM: %w", err)
	}
	s := &assertionSigner{client: o.OIDCClientID, audience: o.OIDCAudience}
	if s.audience == "" {
		s.audience = o.OIDCTokenEndpoint
	}
	var algorithm string
	switch key := pair.PrivateKey.(type) {
	case *rsa.PrivateKey:
		s.key, algorithm = key, "RS256"
	case *ecdsa.PrivateKey:
		if key.Curve.Params().BitSize == 256 {
			s.key, algorithm = key, "ES256"
		}
	}
	if s.key == nil {
		return nil, errors.New("metadata property \"oidcClientAssertionKey\" is neither an RSA key nor an EC key on the curve P-256: make one of these kinds")
	}
	short, long := sha1.Sum(pair.Certificate[0]), sha256.Sum256(pair.Certificate[0]) // #nosec G401
	kid := o.OIDCKid
	if kid == "" {
		kid = hex.EncodeToString(long[:])
	}
	header, err := json.Marshal(map[string]string{
		"alg": algorithm, "typ": "JWT", "kid": kid,
		"x5t": base64.RawURLEncoding.EncodeToString(short[:]), "x5t#S256": base64.RawURLEncoding.EncodeToString(long[:]),
	})
	s.header = base64.RawURLEncoding.EncodeToString(header)
	return s, err
}

func (s *assertionSigner) sign(now time.Time) (string, error) {
	claims, err := json.Marshal(map[string]any{
		"iss": s.client, "sub": s.client, "aud": s.audience, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	if err != nil {
		return "", err
	}
	text := s.header + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(text))
	var signature []byte
	if key, ok := s.key.(*ecdsa.PrivateKey); ok {
		// JWTs have the two numbers side by side instead of ASN.1.
		r, v, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			return "", err
		}
		signature = make([]byte, 64)
		r.FillBytes(signature[:32])
		v.FillBytes(signature[32:])
	} else if signature, err = s.key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
		return "", err
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}
