package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"outrigger.dev/invocation"
	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics"
)

// ExternalOptions configure the calls to targets that are no apps.
type ExternalOptions struct {
	// Endpoints are the HTTPEndpoint resources, with their secrets resolved. Of equal names the last counts.
	Endpoints []*resource.HTTPEndpoint
	// MaxConcurrency bounds the calls at a time, to each endpoint and to all absolute URLs together; 0 and less mean no bound.
	MaxConcurrency int
	// MaxBodySize bounds how much of an error response is read into memory before it is passed on as a stream, in bytes; 0
	// and less mean no limit.
	MaxBodySize int64
	// Pipeline stands around all calls; nil is none.
	Pipeline Pipeline
	// Log is the logger; nil discards.
	Log *slog.Logger
	// Metrics may be nil.
	Metrics *metrics.Metrics
}

// External calls what is named like an app but is none: HTTPEndpoint resources and absolute URLs (Dapr API, service
// invocation: HTTPEndpoint resources and absolute URLs). The API token of the app is never sent to them, and the app's health
// does not matter. It is safe for concurrent use.
type External struct {
	endpoints map[string]*endpoint
	names     []string
	urls      *endpoint
	pipeline  Pipeline
	limit     int64
}

// endpoint is one named endpoint, or all absolute URLs.
type endpoint struct {
	base      string
	client    client
	transport *http.Transport
	conns     *conns
}

// externalTimeout bounds the opening of a connection to an endpoint, and its TLS handshake.
const externalTimeout = 15 * time.Second

// NewExternal makes the clients of all endpoints; it opens no connection yet. The error names the endpoint and what of its TLS
// settings cannot be used.
func NewExternal(o ExternalOptions) (*External, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	x := &External{endpoints: make(map[string]*endpoint, len(o.Endpoints)), pipeline: o.Pipeline, limit: o.MaxBodySize}
	for _, r := range o.Endpoints {
		config, err := endpointTLS(r)
		if err != nil {
			x.Abort()
			return nil, err
		}
		e := newEndpoint(o, config, true)
		e.base = r.Spec.BaseURL
		e.client.headers = make(http.Header, len(r.Spec.Headers))
		for _, h := range r.Spec.Headers {
			name := textproto.CanonicalMIMEHeaderKey(h.Name)
			if !isToken([]byte(name)) || name == "" {
				o.Log.Warn("the header of an HTTP endpoint has a name that no header can have, and is left out: correct spec.headers",
					"endpoint", r.Metadata.Name, "header", h.Name)
				continue
			}
			e.client.headers[name] = []string{cleanValue([]byte(h.Value.String()))}
		}
		x.endpoints[r.Metadata.Name] = e
		x.names = append(x.names, r.Metadata.Name)
	}
	x.urls = newEndpoint(o, nil, false)
	return x, nil
}

func newEndpoint(o ExternalOptions, config *tls.Config, follow bool) *endpoint {
	dialer := &net.Dialer{Timeout: externalTimeout}
	e := &endpoint{conns: newConns(dialer.DialContext)}
	e.transport = &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         e.conns.dial,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: externalTimeout,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     90 * time.Second,
	}
	h := &http.Client{Transport: e.transport}
	if !follow {
		h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	e.client = client{do: h.Do, gate: newGate(o.MaxConcurrency), metrics: o.Metrics.HTTPClient(), limit: o.MaxBodySize}
	return e
}

// endpointTLS makes the TLS settings of an endpoint; nil means those of the system.
func endpointTLS(r *resource.HTTPEndpoint) (*tls.Config, error) {
	t := r.Spec.ClientTLS
	if t == nil {
		return nil, nil
	}
	name := r.Metadata.Name
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca := t.RootCA.Text(); ca != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(ca)) {
			return nil, fmt.Errorf("failed to add root cert to cert pool for http endpoint %s", name)
		}
	}
	if key := t.PrivateKey.Text(); key != "" {
		pair, err := tls.X509KeyPair([]byte(t.Certificate.Text()), []byte(key))
		if err != nil {
			return nil, fmt.Errorf("failed to load client certificate for http endpoint %s: %w", name, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	switch v := t.RenegotiationOrDefault(); v {
	case resource.RenegotiationNever:
		config.Renegotiation = tls.RenegotiateNever
	case resource.RenegotiationOnce:
		config.Renegotiation = tls.RenegotiateOnceAsClient
	case resource.RenegotiationFreely:
		config.Renegotiation = tls.RenegotiateFreelyAsClient
	default:
		return nil, fmt.Errorf("invalid renegotiation value %s for http endpoint %s", v, name)
	}
	return config, nil
}

// IsURL reports whether a target is an absolute URL rather than a name.
func IsURL(target string) bool {
	return strings.HasPrefix(target, "http://") || strings.HasPrefix(target, "https://")
}

// Names are the names of the endpoints, in the order given.
func (x *External) Names() []string { return x.names }

// BaseURL is the base URL of a named endpoint, and whether there is that endpoint.
func (x *External) BaseURL(name string) (string, bool) {
	e, ok := x.endpoints[name]
	if !ok {
		return "", false
	}
	return e.base, true
}

// Invoke calls a named endpoint or an absolute URL, such as "https://host:8443"; the request's method and query are added to
// it. Redirects of an endpoint are followed, those of a URL returned. Responses and errors are as with [Channel.Invoke].
func (x *External) Invoke(ctx context.Context, target string, req *invocation.Request) (*invocation.Response, error) {
	e, base := x.urls, target
	if named, ok := x.endpoints[target]; ok {
		e, base = named, named.base
	} else if !IsURL(target) {
		return nil, fmt.Errorf("there is no HTTPEndpoint named %q", target)
	}
	if x.pipeline == nil || !x.pipeline.Active() {
		return e.client.invoke(ctx, base, req)
	}
	scheme, host, _ := strings.Cut(base, "://")
	host, _, _ = strings.Cut(host, "/")
	p := piped{pipeline: x.pipeline, scheme: scheme, host: host, limit: x.limit, call: func(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
		return e.client.invoke(ctx, base, req)
	}}
	return p.invoke(ctx, req)
}

// Close refuses new calls, waits for those that run, and breaks them off when ctx ends. It returns the error of ctx then.
func (x *External) Close(ctx context.Context) error {
	var failed error
	for _, e := range append(x.all(), x.urls) {
		if err := e.client.gate.close(ctx); err != nil {
			failed = err
		}
	}
	x.Abort()
	return failed
}

// Abort breaks off all calls and closes the connections.
func (x *External) Abort() {
	for _, e := range append(x.all(), x.urls) {
		if e != nil {
			e.conns.close()
			e.transport.CloseIdleConnections()
		}
	}
}

func (x *External) all() []*endpoint {
	all := make([]*endpoint, 0, len(x.endpoints)+1)
	for _, e := range x.endpoints {
		all = append(all, e)
	}
	return all
}
