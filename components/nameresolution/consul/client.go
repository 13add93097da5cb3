package consul

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// client speaks the few calls of Consul's HTTP API that name resolution needs.
type client struct {
	http     *http.Client
	base     *url.URL
	settings clientSettings
}

const (
	defaultAddress = "127.0.0.1:8500"
	// answerLimit is the longest answer in bytes that is read, errorLimit the longest text of an error.
	answerLimit = 32 << 20
	errorLimit  = 2 << 10
)

// withEnvironment is s with what is missing taken from the variables that all clients of Consul obey (Consul, environment
// variables).
func (s clientSettings) withEnvironment(get func(string) string) (clientSettings, error) {
	fill := func(to *string, name string) {
		if *to == "" {
			*to = get(name)
		}
	}
	ownTransport := s.Address != "" || s.Scheme != ""
	fill(&s.Address, "CONSUL_HTTP_ADDR")
	if s.Token == "" {
		fill(&s.TokenFile, "CONSUL_HTTP_TOKEN_FILE")
	}
	fill(&s.Token, "CONSUL_HTTP_TOKEN")
	if s.HTTPAuth == (httpAuth{}) {
		s.HTTPAuth.Username, s.HTTPAuth.Password, _ = strings.Cut(get("CONSUL_HTTP_AUTH"), ":")
	}
	if secure, err := strconv.ParseBool(get("CONSUL_HTTP_SSL")); err == nil && secure && !ownTransport {
		s.Scheme = "https"
	}
	fill(&s.TLS.Address, "CONSUL_TLS_SERVER_NAME")
	fill(&s.TLS.CAFile, "CONSUL_CACERT")
	fill(&s.TLS.CAPath, "CONSUL_CAPATH")
	fill(&s.TLS.CertFile, "CONSUL_CLIENT_CERT")
	fill(&s.TLS.KeyFile, "CONSUL_CLIENT_KEY")
	if verify, err := strconv.ParseBool(get("CONSUL_HTTP_SSL_VERIFY")); err == nil && !verify {
		s.TLS.InsecureSkipVerify = true
	}
	fill(&s.Namespace, "CONSUL_NAMESPACE")
	fill(&s.Partition, "CONSUL_PARTITION")
	if s.TokenFile != "" {
		data, err := os.ReadFile(s.TokenFile)
		if err != nil {
			return s, fmt.Errorf("cannot read Consul's token: %w; correct client.tokenFile", err)
		}
		if token := strings.TrimSpace(string(data)); token != "" {
			s.Token = token
		}
	}
	return s, nil
}

// baseURL is where the API is. The host is of no meaning for Unix sockets.
func (s *clientSettings) baseURL() (*url.URL, error) {
	address, scheme := s.Address, strings.ToLower(s.Scheme)
	if address == "" {
		address = defaultAddress
	}
	prefix := s.PathPrefix
	switch before, rest, found := strings.Cut(address, "://"); {
	case found && before == "unix":
		address, scheme = "localhost", "http"
	case found:
		scheme = strings.ToLower(before)
		var path string
		if address, path, found = strings.Cut(rest, "/"); found && prefix == "" {
			prefix = path
		}
	}
	if scheme == "" {
		scheme = "http"
	}
	if scheme != "http" && scheme != "https" {
		return nil, fmt.Errorf(`metadata property "client": the scheme of Consul's address is %q; it must be http or https`, scheme)
	}
	u, err := url.Parse(scheme + "://" + address)
	if err != nil || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil || strings.ContainsAny(prefix, "?#") {
		return nil, fmt.Errorf(`metadata property "client": Consul's address is %.200q; it must be host:port, such as %s, a URL, or unix:///path`, s.Address, defaultAddress)
	}
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		u.Path = "/" + prefix
	}
	return u, nil
}

// newClient makes a client; it calls nobody.
func newClient(s clientSettings, get func(string) string) (*client, error) {
	s, err := s.withEnvironment(get)
	if err != nil {
		return nil, err
	}
	base, err := s.baseURL()
	if err != nil {
		return nil, err
	}
	config, err := s.TLS.config()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSClientConfig: config, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 5 * time.Second, MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second,
	}
	if path, ok := strings.CutPrefix(s.Address, "unix://"); ok {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) }
	}
	return &client{
		// A redirect is not followed: it would carry the token elsewhere.
		http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		base: base, settings: s,
	}, nil
}

func (f *tlsFiles) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.Address, InsecureSkipVerify: f.InsecureSkipVerify}
	if host, _, err := net.SplitHostPort(f.Address); err == nil {
		config.ServerName = host
	}
	var files []string
	if f.CAFile != "" {
		files = append(files, f.CAFile)
	}
	if f.CAPath != "" && f.CAFile == "" {
		entries, err := os.ReadDir(f.CAPath)
		if err != nil {
			return nil, fmt.Errorf("cannot read Consul's certificate authorities: %w; correct client.tlsConfig.caPath", err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				files = append(files, filepath.Join(f.CAPath, e.Name()))
			}
		}
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read Consul's certificate authority: %w; correct client.tlsConfig.caFile", err)
		}
		if config.RootCAs == nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(data) && f.CAFile != "" {
			return nil, fmt.Errorf("client.tlsConfig.caFile %q of Consul has no certificate in PEM form", file)
		}
	}
	if f.CertFile != "" || f.KeyFile != "" {
		certificate, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cannot use client.tlsConfig.certFile %q with keyFile %q for Consul: %w", f.CertFile, f.KeyFile, err)
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	return config, nil
}

// call is one call of the API.
type call struct {
	method, path string
	query        url.Values
	body         []byte
	// token, when not empty, stands in for that of the client.
	token string
	// cacheControl is the header of that name.
	cacheControl string
}

// statusError is an answer that is no success.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("status %d", e.status)
	}
	return fmt.Sprintf("status %d: %s", e.status, e.text)
}

// do makes a call and returns the body and header of the answer. Errors name Consul's address and the path called.
func (c *client) do(ctx context.Context, call *call) ([]byte, http.Header, error) {
	u := *c.base
	u.Path += call.path
	query := call.query
	if query == nil {
		query = url.Values{}
	}
	for name, value := range map[string]string{"dc": c.settings.Datacenter, "ns": c.settings.Namespace, "partition": c.settings.Partition} {
		if value != "" && !query.Has(name) {
			query.Set(name, value)
		}
	}
	u.RawQuery = query.Encode()
	data, header, err := c.once(ctx, &u, call)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot %s %s at the Consul agent %s: %w%s", call.method, call.path, c.where(), err, remedy(err))
	}
	return data, header, nil
}

func (c *client) once(ctx context.Context, u *url.URL, call *call) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, call.method, u.String(), bytes.NewReader(call.body))
	if err != nil {
		return nil, nil, err
	}
	token := call.token
	if token == "" {
		token = c.settings.Token
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	if a := c.settings.HTTPAuth; a != (httpAuth{}) {
		req.SetBasicAuth(a.Username, a.Password)
	}
	if call.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if call.cacheControl != "" {
		req.Header.Set("Cache-Control", call.cacheControl)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok { // it would show the whole URL
			err = e.Err
		}
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, errorLimit))
		return nil, nil, &statusError{resp.StatusCode, strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))}
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit+1))
	if err == nil && len(data) > answerLimit {
		err = fmt.Errorf("its answer is larger than %d bytes", answerLimit)
	}
	return data, resp.Header, err
}

// where is Consul's address for people.
func (c *client) where() string {
	if strings.HasPrefix(c.settings.Address, "unix://") {
		return c.settings.Address
	}
	return c.base.String()
}

func remedy(err error) string {
	if e, ok := errors.AsType[*statusError](err); ok {
		switch e.status {
		case http.StatusForbidden, http.StatusUnauthorized:
			return "; give a token with the needed rights in client.token, or in the environment variable CONSUL_HTTP_TOKEN"
		case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect, http.StatusNotFound, http.StatusMethodNotAllowed:
			return "; check that client.address is that of Consul's HTTP API"
		}
		return ""
	}
	if errors.Is(err, context.Canceled) {
		return ""
	}
	if text := err.Error(); strings.Contains(text, "x509:") || strings.Contains(text, "tls:") {
		return "; check client.scheme and client.tlsConfig"
	}
	return "; check that it runs there, or correct client.address, which else is that of the environment variable CONSUL_HTTP_ADDR, or " + defaultAddress
}

// close gives the idle connections up.
func (c *client) close() { c.http.CloseIdleConnections() }
