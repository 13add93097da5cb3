// Package bearer is the middleware that lets requests through that carry a JSON Web Token of an OpenID Connect provider (Dapr API,
// middleware.http.bearer).
package bearer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/middleware"
)

// Options are the metadata properties of the component.
type Options struct {
	Issuer   string `name:"issuer" aliases:"issuerURL" required:"true" help:"issuer of the tokens, exactly as they name it, such as https://accounts.google.com"`
	Audience string `name:"audience" aliases:"clientID" required:"true" help:"audience that the tokens must be for, usually the client ID"`
	JWKSURL  string `name:"jwksURL" help:"URL of the provider's keys; without it the issuer's OpenID Connect discovery document names it"`
}

// Check refuses what cannot be a URL. It implements [components.Checker].
func (o *Options) Check() error {
	name, value := "jwksURL", o.JWKSURL
	if value == "" {
		name, value = "issuer", o.Issuer // which is a URL only where it is asked
	}
	if u, err := url.Parse(value); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("metadata property %q is %q, but must be an http or https URL such as \"https://accounts.google.com\"", name, value)
	}
	return nil
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	middleware.Register(r, components.Info{
		Name: "http.bearer", Version: "v1", Status: components.Stable,
		Description: "Lets requests through that carry a valid JSON Web Token of an OpenID Connect provider.",
	}, func(ctx context.Context, inst components.Instance, o Options) (middleware.Middleware, error) {
		return Open(ctx, inst, o)
	})
}

const (
	// skew is how far the provider's clock may be from this one's (Dapr API, middleware.http.bearer).
	skew = 5 * time.Minute
	// shortest is the length of the shortest text that counts as a token.
	shortest = 10
	// longest is the length of the longest token that is looked at.
	longest = 64 << 10
)

// algorithms are those that tokens may be signed with: none that needs no key, or one that both sides know.
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}
}

// Bearer is one instance.
type Bearer struct {
	issuer, audience string
	algorithms       []jose.SignatureAlgorithm
	keys             *keys
	clock            clockwork.Clock
	log              *slog.Logger
	transport        *http.Transport
}

// Open fetches the provider's keys.
func Open(ctx context.Context, inst components.Instance, o Options) (*Bearer, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 10 * time.Second,
		ResponseHeaderTimeout: fetchTimeout, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
	}
	client := &http.Client{Transport: transport}
	source := o.JWKSURL
	if source == "" {
		var err error
		if source, err = discover(ctx, client, o.Issuer); err != nil {
			transport.CloseIdleConnections()
			return nil, err
		}
	}
	b := &Bearer{
		issuer: o.Issuer, audience: o.Audience, algorithms: algorithms(), clock: inst.Clock, log: inst.Log, transport: transport,
		keys: newKeys(source, client, inst.Clock, inst.Log),
	}
	if err := b.keys.first(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Handle passes a request on or refuses it. It implements [middleware.Middleware].
func (b *Bearer) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	token, ok := tokenOf(req.Header.Get("Authorization"))
	if !ok {
		return middleware.Text(http.StatusUnauthorized, ""), nil
	}
	switch err := b.verify(ctx, token); {
	case errors.Is(err, errNoKeys):
		b.log.Error("the provider's keys cannot be had, so tokens cannot be checked", "url", b.keys.url, "error", err)
		return middleware.Text(http.StatusInternalServerError, ""), nil
	case err != nil:
		b.log.Debug("a bearer token is refused", "error", err)
		return middleware.Text(http.StatusUnauthorized, ""), nil
	}
	return next(ctx, req)
}

// Close stops fetching keys.
func (b *Bearer) Close() error {
	b.keys.close()
	b.transport.CloseIdleConnections()
	return nil
}

// tokenOf is the token in the value of an Authorization header.
func tokenOf(header []byte) (string, bool) {
	const scheme = "bearer "
	if len(header) <= len(scheme) || len(header) > longest || !strings.EqualFold(string(header[:len(scheme)]), scheme) {
		return "", false
	}
	token := strings.TrimSpace(string(header[len(scheme):]))
	return token, len(token) >= shortest
}

// verify checks the signature and the claims of a token.
func (b *Bearer) verify(ctx context.Context, token string) error {
	parsed, err := jwt.ParseSigned(token, b.algorithms)
	if err != nil {
		return err
	}
	if len(parsed.Headers) != 1 {
		return errors.New("the token has several signatures")
	}
	candidates, err := b.keys.find(ctx, parsed.Headers[0].KeyID)
	if err != nil {
		return err
	}
	var claims jwt.Claims
	err = errors.New("no key of the provider is for this token")
	for i := range candidates {
		k := &candidates[i]
		if k.Use != "" && k.Use != "sig" || k.Algorithm != "" && k.Algorithm != parsed.Headers[0].Algorithm {
			continue
		}
		if err = parsed.Claims(k.Key, &claims); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	return claims.ValidateWithLeeway(jwt.Expected{Issuer: b.issuer, AnyAudience: jwt.Audience{b.audience}, Time: b.clock.Now()}, skew)
}
