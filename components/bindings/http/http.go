// Package http is the output binding that calls an HTTP endpoint (Dapr API, bindings.http).
package http

import (
	"bytes"
	"context"
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

	"golang.org/x/net/http/httpguts"
	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
)

// Register adds the component type to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name: "http", Version: "v1", Status: components.Stable,
		Description: "Calls an HTTP endpoint.",
	}, func(ctx context.Context, inst components.Instance, options Options) (*Binding, error) {
		return Open(ctx, inst, options)
	})
}

var _ bindings.Output = (*Binding)(nil)

// Binding calls one endpoint and what lies beneath its path.
type Binding struct {
	url     *url.URL
	options Options
	errors  bool // of statuses other than 2xx
	client  *http.Client
	closed  atomic.Bool
}

// Open makes the binding. Nothing is called yet.
func Open(_ context.Context, _ components.Instance, options Options) (*Binding, error) {
	u, err := options.endpoint()
	if err != nil {
		return nil, err
	}
	config, err := options.tlsConfig()
	if err != nil {
		return nil, err
	}
	b := &Binding{url: u, options: options, errors: true}
	if options.ErrorIfNot2XX != "" {
		b.errors = components.Truthy(options.ErrorIfNot2XX)
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		TLSClientConfig:       config,
		ForceAttemptHTTP2:     options.Renegotiation == "" || strings.EqualFold(options.Renegotiation, "RenegotiateNever"),
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	b.client = &http.Client{Transport: transport, Timeout: options.ResponseTimeout, CheckRedirect: b.redirect}
	return b, nil
}

// Close gives idle connections up. Calls that run end by their contexts.
func (b *Binding) Close() error {
	b.closed.Store(true)
	b.client.CloseIdleConnections()
	return nil
}

// operations in the order of Dapr's reference; "create" is another name of "post".
var operations = [...]string{bindings.Create, bindings.Get, "head", "post", "put", "patch", bindings.Delete, "options", "trace"}

// Operations are create and the HTTP methods.
func (b *Binding) Operations() []string { return operations[:] }

// Invoke makes one request. Metadata "path" is appended to the URL, keys with a capital first letter are headers, and
// errorIfNot2XX overrides the component's. The response's metadata are "statusCode", "status" and its headers, also when the
// status makes it an error.
func (b *Binding) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	if b.closed.Load() {
		return nil, errors.New("the HTTP binding is closed; the sidecar is shutting down or the component was replaced")
	}
	failing, err := req.Flag("errorIfNot2XX", b.errors)
	if err != nil {
		return nil, err
	}
	r, err := b.request(ctx, req)
	if err != nil {
		return nil, err
	}
	resp, err := b.client.Do(r)
	if err != nil {
		return nil, b.explain(err)
	}
	defer resp.Body.Close()
	out := &bindings.Response{Metadata: responseMetadata(resp)}
	if out.Data, err = b.read(resp.Body); err != nil {
		out.Data = nil
		return out, err
	}
	if failing && resp.StatusCode/100 != 2 {
		return out, fmt.Errorf("received status code %d", resp.StatusCode)
	}
	return out, nil
}

func (b *Binding) request(ctx context.Context, req bindings.Request) (*http.Request, error) {
	target, err := b.target(req.Metadata["path"])
	if err != nil {
		return nil, err
	}
	method := strings.ToUpper(req.Operation)
	body := false
	switch req.Operation {
	case bindings.Create:
		method, body = http.MethodPost, true
	case "post", "put", "patch":
		body = true
	case bindings.Delete, "options":
		body = !bindings.NoData(req.Data)
	case bindings.Get, "head", "trace":
	default:
		return nil, fmt.Errorf("operation %q is not one of %s", req.Operation, strings.Join(operations[:], ", "))
	}
	r, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, &bindings.ParameterError{Name: "path", Value: req.Metadata["path"], Remedy: "it does not make a URL: " + err.Error()}
	}
	r.Header.Set("Accept", "application/json; charset=utf-8")
	if body {
		r.ContentLength = int64(len(req.Data))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(req.Data)), nil } // for redirects
		r.Body, _ = r.GetBody()
		if len(req.Data) == 0 {
			r.Body = http.NoBody
		}
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if b.options.SecurityToken != "" {
		r.Header.Set(b.options.SecurityTokenHeader, b.options.SecurityToken)
	}
	for name, value := range req.Metadata {
		if name != "" && 'A' <= name[0] && name[0] <= 'Z' {
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
				return nil, &bindings.ParameterError{Name: name, Value: value, Remedy: "it begins with a capital letter, so it is a header, but no header can be so; correct it, or begin its name with a small letter"}
			}
			if http.CanonicalHeaderKey(name) == "Host" {
				r.Host = value
				continue
			}
			r.Header.Set(name, value)
		}
	}
	for _, name := range [...]string{"traceparent", "tracestate", "baggage"} {
		if value := req.Metadata[name]; value != "" && httpguts.ValidHeaderFieldValue(value) {
			r.Header.Set(name, value)
		}
	}
	return r, nil
}

// target is the component's URL with a path beneath it, which may have a query of its own.
func (b *Binding) target(path string) (string, error) {
	u := *b.url
	path, query, _ := strings.Cut(path, "?")
	if path != "" {
		bad := func(why string) (string, error) {
			return "", &bindings.ParameterError{Name: "path", Value: path, Remedy: why}
		}
		plain, err := url.PathUnescape(path)
		if err != nil {
			return bad("it is not escaped as paths of URLs are: " + err.Error())
		}
		// Backslashes count as slashes to some servers.
		for part := range strings.SplitSeq(strings.ReplaceAll(plain, `\`, "/"), "/") {
			if part == ".." {
				return bad(`the path must stay beneath the component's URL and have no ".."`)
			}
		}
		u.RawPath = strings.TrimRight(u.EscapedPath(), "/") + "/" + strings.TrimLeft(path, "/")
		if u.Path, err = url.PathUnescape(u.RawPath); err != nil {
			return bad("it does not make a URL: " + err.Error())
		}
	}
	if u.RawQuery != "" && query != "" {
		query = "&" + query
	}
	u.RawQuery += strings.ReplaceAll(query, " ", "%20")
	return u.String(), nil
}

// redirect follows up to ten, without the token when they lead to another host.
func (b *Binding) redirect(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	if b.options.SecurityTokenHeader != "" && r.URL.Host != via[0].URL.Host {
		r.Header.Del(b.options.SecurityTokenHeader)
	}
	return nil
}

// read takes the whole body, which must not be longer than allowed: half a response would pass for a whole one.
func (b *Binding) read(body io.Reader) ([]byte, error) {
	limit := int64(b.options.MaxResponseBodySize)
	if limit > 0 {
		body = io.LimitReader(body, limit+1)
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, b.explain(err)
	}
	if limit > 0 && int64(len(data)) > limit {
		return nil, fmt.Errorf("the response of %s is longer than %d bytes; set the metadata property \"maxResponseBodySize\" higher", b.url.Host, limit)
	}
	return data, nil
}

func responseMetadata(resp *http.Response) map[string]string {
	m := make(map[string]string, len(resp.Header)+2)
	for name, values := range resp.Header {
		m[name] = strings.Join(values, ", ")
	}
	m["statusCode"] = strconv.Itoa(resp.StatusCode)
	m["status"] = resp.Status
	return m
}

// explain says which endpoint failed, and what to do.
func (b *Binding) explain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		if u.Timeout() && b.options.ResponseTimeout > 0 {
			return fmt.Errorf("%s did not answer in time: %w; the metadata property \"responseTimeout\" is %s", b.url.Host, u.Err, b.options.ResponseTimeout)
		}
		err = u.Err
	}
	remedy := `check that it runs and that the metadata property "url" is right`
	if text := err.Error(); strings.Contains(text, "x509:") || strings.Contains(text, "tls:") {
		remedy = "check MTLSRootCA, MTLSClientCert and MTLSClientKey"
	}
	return fmt.Errorf("cannot call %s: %w; %s", b.url.Host, err, remedy)
}
