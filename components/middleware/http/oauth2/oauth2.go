// Package oauth2 is the middleware that has users log in by the OAuth 2.0 authorization code flow and gives their token to the app
// (Dapr API, middleware.http.oauth2).
package oauth2

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"outrigger.dev/components"
	"outrigger.dev/components/middleware"
)

// Register adds the component type to r.
func Register(r *components.Registry) {
	middleware.Register(r, components.Info{
		Name: "http.oauth2", Version: "v1", Status: components.Alpha,
		Description: "Has users log in by the OAuth 2.0 authorization code flow and passes their token on in a header.",
	}, func(_ context.Context, inst components.Instance, o Options) (middleware.Middleware, error) {
		return New(inst, o), nil
	})
}

// exchangeTimeout bounds asking the provider for a token.
const exchangeTimeout = 30 * time.Second

// Login is one instance.
type Login struct {
	config     oauth2.Config
	header     string
	filter     *regexp.Regexp
	forceHTTPS bool
	cookie     string
	sessions   *sessions
	log        *slog.Logger
	transport  *http.Transport
	client     *http.Client
}

// New makes an instance.
func New(inst components.Instance, o Options) *Login {
	// Several logins may stand around one app: each has a cookie of its own.
	h := fnv.New32a()
	_, _ = h.Write([]byte(inst.Name))
	l := &Login{
		config: oauth2.Config{ClientID: o.ClientID, ClientSecret: o.ClientSecret, RedirectURL: o.RedirectURL, Endpoint: oauth2.Endpoint{AuthURL: o.AuthURL, TokenURL: o.TokenURL}},
		header: o.AuthHeaderName, filter: o.filter, forceHTTPS: o.ForceHTTPS, cookie: fmt.Sprintf("outrigger_oauth2_%08x", h.Sum32()),
		sessions: newSessions(inst.Clock), log: inst.Log,
		transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		},
	}
	l.client = &http.Client{Transport: l.transport}
	for scope := range strings.SplitSeq(o.Scopes, ",") {
		if scope = strings.TrimSpace(scope); scope != "" {
			l.config.Scopes = append(l.config.Scopes, scope)
		}
	}
	return l
}

// Handle implements [middleware.Middleware].
func (l *Login) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	if l.filter != nil && !l.filter.MatchString(req.DecodedPath()) {
		return next(ctx, req)
	}
	id := cookieOf(req, l.cookie)
	if token, ok := l.sessions.token(id); ok {
		req.Header.Set(l.header, token)
		return next(ctx, req)
	}
	query, _ := url.ParseQuery(req.RawQuery)
	if state := query.Get("state"); state != "" {
		return l.callback(ctx, req, id, state, query.Get("code")), nil
	}
	if id == "" {
		id = rand.Text()
	}
	state := l.sessions.begin(id, req.URI())
	resp := redirect(l.config.AuthCodeURL(state, oauth2.AccessTypeOffline))
	l.setCookie(resp, req, id)
	return resp, nil
}

// callback serves the request that the provider sends the user back with.
func (l *Login) callback(ctx context.Context, req *middleware.Request, id, state, code string) *middleware.Response {
	back, ok := l.sessions.finish(id, state)
	if !ok {
		return middleware.Text(http.StatusBadRequest, "invalid state")
	}
	if code == "" {
		return middleware.Text(http.StatusBadRequest, "code not found")
	}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, l.client), exchangeTimeout)
	defer cancel()
	asked := time.Now()
	token, err := l.config.Exchange(ctx, code)
	if err != nil {
		l.log.Error("a login failed: the provider gave no token for the code; check clientID, clientSecret, tokenURL and redirectURL", "tokenURL", l.config.Endpoint.TokenURL, "error", err)
		return middleware.Text(http.StatusInternalServerError, "failed to exchange token")
	}
	lasts := time.Duration(0)
	if !token.Expiry.IsZero() {
		lasts = token.Expiry.Sub(asked)
	}
	// The session gets a name of its own, for the one so far may have been given to the browser by somebody else.
	id = l.sessions.add(token.Type()+" "+token.AccessToken, lasts)
	if l.forceHTTPS && plainHost(req.Host) {
		back = "https://" + req.Host + back
	}
	resp := redirect(back)
	l.setCookie(resp, req, id)
	return resp
}

// Close has nothing but idle connections to release.
func (l *Login) Close() error {
	l.transport.CloseIdleConnections()
	return nil
}

func (l *Login) setCookie(resp *middleware.Response, req *middleware.Request, id string) {
	c := http.Cookie{Name: l.cookie, Value: id, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: l.forceHTTPS || req.Scheme == "https"}
	resp.Header.Add("Set-Cookie", c.String())
	resp.Header.Add("Cache-Control", "no-store")
}

func redirect(to string) *middleware.Response {
	resp := &middleware.Response{Status: http.StatusFound}
	resp.Header.Add("Location", to)
	return resp
}

// cookieOf is the value of a request's cookie, "" when it has none.
func cookieOf(req *middleware.Request, name string) string {
	for _, f := range req.Header {
		if !strings.EqualFold(string(f.Name), "Cookie") {
			continue
		}
		for pair := range strings.SplitSeq(string(f.Value), ";") {
			if n, value, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && n == name && len(value) <= 64 {
				return value
			}
		}
	}
	return ""
}

// localPath is a request target that leads a browser nowhere but to the same host: not to //host or /\host, nor with control
// characters, which browsers leave out, to what becomes one of these.
func localPath(uri string) string {
	if strings.ContainsFunc(uri, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "/"
	}
	return "/" + strings.TrimLeft(uri, `/\`)
}

// plainHost reports whether a Host header is a name or address with or without a port, so that a URL can be made of it.
func plainHost(host string) bool {
	u, err := url.Parse("https://" + host + "/")
	return err == nil && host != "" && u.Host == host && u.User == nil && u.Path == "/"
}
