// Package oauth2clientcredentials is the middleware that adds a token to requests which it gets by the OAuth 2.0 client credentials
// grant (Dapr API, middleware.http.oauth2clientcredentials).
package oauth2clientcredentials

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"outrigger.dev/components"
	"outrigger.dev/components/middleware"
)

// Options are the metadata properties of the component.
type Options struct {
	ClientID            string `name:"clientID" required:"true" help:"ID of the client"`
	ClientSecret        string `name:"clientSecret" required:"true" secret:"true" help:"secret of the client"`
	Scopes              string `name:"scopes" required:"true" help:"scopes to ask for, separated by commas"`
	TokenURL            string `name:"tokenURL" required:"true" help:"URL of the provider's token endpoint"`
	HeaderName          string `name:"headerName" required:"true" help:"header that carries the token, such as Authorization"`
	EndpointParamsQuery string `name:"endpointParamsQuery" help:"further parameters for the token endpoint, as a query string such as audience=x&resource=y"`
	AuthStyle           int    `name:"authStyle" default:"0" allowed:"0,1,2" help:"how the client's ID and secret are sent: 0 tries, 1 in the body, 2 by basic authentication"`
	PathFilter          string `name:"pathFilter" help:"regular expression of the paths that get a token; without it all do"`

	params url.Values
	filter *regexp.Regexp
}

// Check refuses what cannot be used. It implements [components.Checker].
func (o *Options) Check() (err error) {
	if u, err := url.Parse(o.TokenURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("metadata property \"tokenURL\" is %q, but must be an http or https URL", o.TokenURL)
	}
	if !httpguts.ValidHeaderFieldName(o.HeaderName) {
		return fmt.Errorf("metadata property \"headerName\" is %q, which no header can be named", o.HeaderName)
	}
	if o.params, err = url.ParseQuery(o.EndpointParamsQuery); err != nil {
		return fmt.Errorf("metadata property \"endpointParamsQuery\" is no query string such as audience=x&resource=y: %w", err)
	}
	if o.PathFilter != "" {
		if o.filter, err = regexp.Compile(o.PathFilter); err != nil {
			return fmt.Errorf("metadata property \"pathFilter\" is %q, which is not a regular expression: %w", o.PathFilter, err)
		}
	}
	return nil
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	middleware.Register(r, components.Info{
		Name: "http.oauth2clientcredentials", Version: "v1", Status: components.Alpha,
		Description: "Adds a token to requests, got by the OAuth 2.0 client credentials grant.",
	}, func(_ context.Context, inst components.Instance, o Options) (middleware.Middleware, error) {
		return New(inst, o), nil
	})
}

const (
	// fetchTimeout bounds asking for a token.
	fetchTimeout = 30 * time.Second
	// early is how long before its expiry a token is not used any more.
	early = 10 * time.Second
)

// Credentials is one instance.
type Credentials struct {
	config    clientcredentials.Config
	header    string
	filter    *regexp.Regexp
	clock     clockwork.Clock
	log       *slog.Logger
	transport *http.Transport
	ctx       context.Context // of the fetches; carries the client
	stop      context.CancelFunc
	tasks     sync.WaitGroup

	mu       sync.Mutex
	token    *oauth2.Token
	fetching *fetch
	closed   bool
}

// fetch is a request for a token that any number of callers wait for.
type fetch struct {
	done  chan struct{}
	token *oauth2.Token
	err   error
}

// New makes an instance; the first request that needs a token fetches it.
func New(inst components.Instance, o Options) *Credentials {
	c := &Credentials{
		config: clientcredentials.Config{ClientID: o.ClientID, ClientSecret: o.ClientSecret, TokenURL: o.TokenURL, EndpointParams: o.params, AuthStyle: oauth2.AuthStyle(o.AuthStyle)},
		header: o.HeaderName, filter: o.filter, clock: inst.Clock, log: inst.Log,
		transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		},
	}
	for scope := range strings.SplitSeq(o.Scopes, ",") {
		if scope = strings.TrimSpace(scope); scope != "" {
			c.config.Scopes = append(c.config.Scopes, scope)
		}
	}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: c.transport})
	c.ctx, c.stop = context.WithCancel(ctx)
	return c
}

// Handle adds the token. It implements [middleware.Middleware].
func (c *Credentials) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	if c.filter != nil && !c.filter.MatchString(req.DecodedPath()) {
		return next(ctx, req)
	}
	token, err := c.get(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		c.log.Error("no token could be had for a request; check clientID, clientSecret, scopes and tokenURL", "tokenURL", c.config.TokenURL, "error", err)
		return middleware.Text(http.StatusBadGateway, ""), nil
	}
	req.Header.Set(c.header, token.Type()+" "+token.AccessToken)
	return next(ctx, req)
}

// Close ends a fetch that runs.
func (c *Credentials) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.tasks.Wait()
	c.transport.CloseIdleConnections()
	return nil
}

// get returns the token that is kept, or waits for a new one. One fetch serves all who wait; it goes on when they leave.
func (c *Credentials) get(ctx context.Context) (*oauth2.Token, error) {
	c.mu.Lock()
	if t := c.token; t != nil && (t.Expiry.IsZero() || c.clock.Now().Before(t.Expiry.Add(-early))) {
		c.mu.Unlock()
		return t, nil
	}
	f := c.fetching
	if f == nil {
		f = &fetch{done: make(chan struct{})}
		if c.closed {
			c.mu.Unlock()
			return nil, context.Canceled
		}
		c.fetching = f
		c.tasks.Go(func() { c.fetch(f) })
	}
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *Credentials) fetch(f *fetch) {
	ctx, cancel := context.WithTimeout(c.ctx, fetchTimeout)
	defer cancel()
	asked := time.Now()
	f.token, f.err = c.config.Token(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.err == nil {
		kept := *f.token
		if !kept.Expiry.IsZero() { // which the library counts from the real time
			kept.Expiry = c.clock.Now().Add(kept.Expiry.Sub(asked))
		}
		c.token = &kept
	}
	c.fetching = nil
	close(f.done)
}
