// Package graphql is the output binding that sends queries and mutations to a GraphQL endpoint (Dapr API, bindings.graphql).
package graphql

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"golang.org/x/net/http/httpguts"
	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
)

// The operations besides create, which is whichever of the two the metadata has. Each is also the name of the metadata entry
// with the text.
const (
	query    = "query"
	mutation = "mutation"
)

// Prefixes of the properties and metadata entries that are headers and variables.
const (
	headerPrefix   = "header:"
	variablePrefix = "variable:"
)

// longestResponse bounds what is read of an endpoint that does not end.
const longestResponse = 100 << 20

// callTimeout bounds a call whose caller has no bound of its own.
const callTimeout = 2 * time.Minute

// Options are the metadata properties of the component.
type Options struct {
	Endpoint string `name:"endpoint" required:"true" help:"URL of the GraphQL endpoint, such as https://example.com/v1/graphql"`
	// Properties holds the headers and variables.
	Properties map[string]string `name:"*" help:"header:NAME is a header of every request, variable:NAME a variable of every query and mutation; a request's own win"`
}

// url is the property endpoint.
func (o *Options) url() (*url.URL, error) {
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("metadata property \"endpoint\" is %q, but must be an http or https URL such as \"https://example.com/v1/graphql\"", o.Endpoint)
	}
	return u, nil
}

// Check refuses an endpoint that is no URL, and headers that are none. It implements [components.Checker].
func (o *Options) Check() error {
	if _, err := o.url(); err != nil {
		return err
	}
	for name, value := range o.Properties {
		if header, ok := cutPrefix(name, headerPrefix); ok {
			if err := checkHeader(header, value); err != nil {
				return fmt.Errorf("metadata property %w", err)
			}
		}
	}
	return nil
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name: "graphql", Version: "v1", Status: components.Alpha,
		Description: "Sends queries and mutations to a GraphQL endpoint.",
	}, func(ctx context.Context, inst components.Instance, options Options) (*Binding, error) {
		return Open(ctx, inst, options)
	})
}

var _ bindings.Output = (*Binding)(nil)

// Binding is one endpoint.
type Binding struct {
	endpoint  string
	host      string
	headers   map[string]string
	variables map[string]string
	client    *http.Client
	clock     clockwork.Clock
	closed    atomic.Bool
}

// Open makes the binding. Nothing is called yet.
func Open(_ context.Context, inst components.Instance, options Options) (*Binding, error) {
	u, err := options.url()
	if err != nil {
		return nil, err
	}
	if inst.Clock == nil {
		inst.Clock = clockwork.NewRealClock()
	}
	b := &Binding{endpoint: options.Endpoint, host: u.Host, clock: inst.Clock, headers: map[string]string{}, variables: map[string]string{}}
	for name, value := range options.Properties {
		if header, ok := cutPrefix(name, headerPrefix); ok {
			b.headers[header] = value
		} else if variable, ok := cutPrefix(name, variablePrefix); ok {
			b.variables[variable] = value
		}
	}
	b.client = &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout: 15 * time.Second,
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     90 * time.Second,
		},
		CheckRedirect: b.redirect,
	}
	return b, nil
}

// redirect follows up to ten, without the component's headers when they lead to another host, for these may be secrets.
func (b *Binding) redirect(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	if r.URL.Host != via[0].URL.Host {
		for name := range b.headers {
			r.Header.Del(name)
		}
	}
	return nil
}

// checkHeader refuses what no header can be.
func checkHeader(name, value string) error {
	if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
		return fmt.Errorf("%q is no header: its name has letters, digits and dashes, and its value is one line", headerPrefix+name)
	}
	return nil
}

// cutPrefix is [strings.CutPrefix] without regard to the prefix's case, as property names have none.
func cutPrefix(name, prefix string) (string, bool) {
	if len(name) <= len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
		return "", false
	}
	return name[len(prefix):], true
}

// Close gives idle connections up. Calls that run end by their contexts.
func (b *Binding) Close() error {
	b.closed.Store(true)
	b.client.CloseIdleConnections()
	return nil
}

// Operations are query and mutation, and create for either.
func (b *Binding) Operations() []string { return []string{query, mutation, bindings.Create} }

// request is what goes to the endpoint, and reply what comes back (GraphQL over HTTP).
type request struct {
	Query     string            `json:"query"`
	Variables map[string]string `json:"variables"`
}

type reply struct {
	Data   json.RawMessage `json:"data"`
	Errors []struct {
		Message string `json:"message"`
	} `json:"errors"`
}

// Invoke sends the text of the metadata entry "query" or "mutation". Entries "header:NAME" are headers, "variable:NAME"
// variables. The response's data is the "data" of the reply. The request's data means nothing.
func (b *Binding) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	if b.closed.Load() {
		return nil, errors.New("the GraphQL binding is closed; the sidecar is shutting down or the component was replaced")
	}
	text, err := textOf(req)
	if err != nil {
		return nil, err
	}
	message := request{Query: text, Variables: map[string]string{}}
	for name, value := range b.variables {
		message.Variables[name] = value
	}
	for name, value := range req.Metadata {
		if variable, ok := cutPrefix(name, variablePrefix); ok {
			message.Variables[variable] = value
		}
	}
	body, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	start := b.clock.Now()
	data, err := b.call(ctx, req, body)
	resp := &bindings.Response{Data: data, Metadata: bindings.Timing(req.Operation, start, b.clock.Now())}
	return resp, err
}

// textOf is the query or mutation of a request.
func textOf(req bindings.Request) (string, error) {
	names := []string{req.Operation}
	switch req.Operation {
	case bindings.Create:
		names = []string{mutation, query}
	case query, mutation:
	default:
		return "", fmt.Errorf("operation %q is not one of query and mutation", req.Operation)
	}
	for _, name := range names {
		if text := req.Metadata[name]; text != "" {
			return text, nil
		}
	}
	return "", &bindings.ParameterError{Name: names[len(names)-1], Remedy: "give the text of the GraphQL " + names[len(names)-1]}
}

func (b *Binding) call(ctx context.Context, req bindings.Request, body []byte) (json.RawMessage, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("Accept", "application/json; charset=utf-8")
	for name, value := range b.headers {
		r.Header.Set(name, value)
	}
	for name, value := range req.Metadata {
		if header, ok := cutPrefix(name, headerPrefix); ok {
			if err := checkHeader(header, value); err != nil {
				return nil, fmt.Errorf("metadata of the request: %w", err)
			}
			r.Header.Set(header, value)
		}
	}
	for _, name := range [...]string{"traceparent", "tracestate", "baggage"} {
		if value := req.Metadata[name]; value != "" && httpguts.ValidHeaderFieldValue(value) {
			r.Header.Set(name, value)
		}
	}
	resp, err := b.client.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // it would show the whole URL, which may hold secrets
			err = u.Err
		}
		return nil, fmt.Errorf("cannot call the GraphQL endpoint %s: %w; check that it runs and that the metadata property \"endpoint\" is right", b.host, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, longestResponse+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the reply of the GraphQL endpoint %s: %w", b.host, err)
	}
	if len(text) > longestResponse {
		return nil, fmt.Errorf("the reply of the GraphQL endpoint %s is longer than %d bytes; ask for less", b.host, longestResponse)
	}
	return b.read(resp.StatusCode, text)
}

func (b *Binding) read(status int, text []byte) (json.RawMessage, error) {
	var r reply
	err := json.Unmarshal(text, &r)
	switch {
	case err == nil && len(r.Errors) > 0:
		return nil, fmt.Errorf("graphql: %s", r.Errors[0].Message)
	case status != http.StatusOK:
		return nil, fmt.Errorf("graphql: server returned a non-200 status code: %s", strconv.Itoa(status))
	case err != nil:
		return nil, fmt.Errorf("the GraphQL endpoint %s did not reply with GraphQL's JSON: %w; check the metadata property \"endpoint\"", b.host, err)
	case len(r.Data) == 0:
		return json.RawMessage("null"), nil
	}
	return r.Data, nil
}
