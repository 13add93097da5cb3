package kubernetes

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// Bounds of talking to the API server. Sizes are in bytes.
const (
	requestTimeout = 30 * time.Second
	connectTimeout = 10 * time.Second
	// A Secret has at most 1 MiB, which base64 and JSON make larger.
	maxSecret = 8 << 20
	// maxList bounds all pages of a list together.
	maxList  = 128 << 20
	pageSize = 100
	// maxRefusal bounds what is read of an error.
	maxRefusal = 64 << 10
	// attempts bounds asking a server that says that it has too much to do; maxPause how long it is waited for at a time.
	attempts = 4
	maxPause = 5 * time.Second
	// refresh is how long files are believed not to have changed; tokens of pods are replaced long before they expire.
	refresh = time.Minute
)

// cluster is an API server, and who we are there.
type cluster struct {
	// server is its URL, without a slash at the end.
	server     string
	serverName string
	proxy      string
	insecure   bool
	// Each of the following is either a file, which is read again when it may have changed, or its content.
	caFile, certificateFile, keyFile, tokenFile string
	ca, certificate, key                        []byte
	token, username, password                   string

	namespace string
	// account names the service account for messages, "" if it is not known.
	account string
}

// credentials are what the files held when they were read last.
type credentials struct {
	token string
	http  *http.Client
	// made of these, to notice changes
	ca, certificate, key string
	read                 time.Time
}

// client sends requests to an API server.
type client struct {
	cluster cluster
	clock   clockwork.Clock

	mu   sync.Mutex
	held *credentials
}

func newClient(from cluster, clock clockwork.Clock) (*client, error) {
	parsed, err := url.Parse(from.server)
	if err != nil || parsed.Host == "" || parsed.Scheme != "https" && parsed.Scheme != "http" {
		return nil, fmt.Errorf("the address of the Kubernetes API server is %q, but must be a URL such as https://10.0.0.1:443", from.server)
	}
	if parsed.Scheme == "http" && (from.token != "" || from.tokenFile != "" || from.password != "") {
		if host := parsed.Hostname(); host != "localhost" && !net.ParseIP(host).IsLoopback() {
			return nil, fmt.Errorf("the Kubernetes API server %s would be sent credentials in clear text: use https", from.server)
		}
	}
	from.server = strings.TrimRight(from.server, "/")
	return &client{cluster: from, clock: clock}, nil
}

// content is a file's, or what is given in its place.
func content(file string, given []byte, what string) ([]byte, error) {
	if file == "" {
		return given, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", what, err)
	}
	return text, nil
}

// credentials reads the files, unless they were read a moment ago. again reads them in any case.
func (c *client) credentials(again bool) (*credentials, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	if c.held != nil && !again && now.Sub(c.held.read) < refresh {
		return c.held, nil
	}
	next, err := c.read(now)
	if err != nil {
		if c.held != nil { // better than nothing, until the file is back
			return c.held, nil
		}
		return nil, err
	}
	if c.held != nil && c.held.http != next.http {
		c.held.http.CloseIdleConnections()
	}
	c.held = next
	return next, nil
}

func (c *client) read(now time.Time) (*credentials, error) {
	k := &c.cluster
	next := &credentials{token: k.token, read: now}
	if k.tokenFile != "" {
		text, err := content(k.tokenFile, nil, "the token of the service account")
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w; mount one: do not set automountServiceAccountToken: false on the pod or its service account, or do without this store (annotation dapr.io/disable-builtin-k8s-secret-store)", err)
		}
		if err != nil {
			return nil, err
		}
		if next.token = strings.TrimSpace(string(text)); next.token == "" {
			return nil, fmt.Errorf("the token of the service account in %s is empty", k.tokenFile)
		}
	}
	ca, err := content(k.caFile, k.ca, "the certificate of the cluster's authority")
	if err != nil {
		return nil, err
	}
	certificate, err := content(k.certificateFile, k.certificate, "the client certificate")
	if err != nil {
		return nil, err
	}
	key, err := content(k.keyFile, k.key, "the key of the client certificate")
	if err != nil {
		return nil, err
	}
	next.ca, next.certificate, next.key = string(ca), string(certificate), string(key)
	if h := c.held; h != nil && h.ca == next.ca && h.certificate == next.certificate && h.key == next.key {
		next.http = h.http
		return next, nil
	}
	next.http, err = c.connect(ca, certificate, key)
	return next, err
}

// connect makes the HTTP client for the material.
func (c *client) connect(ca, certificate, key []byte) (*http.Client, error) {
	k := &c.cluster
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: k.serverName, InsecureSkipVerify: k.insecure}
	if len(ca) > 0 && !k.insecure {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("the certificate of the cluster's authority (%s) has no certificate in PEM", first(k.caFile, "certificate-authority-data"))
		}
	}
	if len(certificate) > 0 {
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("the client certificate and its key cannot be used: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	proxy := http.ProxyFromEnvironment
	if k.proxy != "" {
		fixed, err := url.Parse(k.proxy)
		if err != nil {
			return nil, fmt.Errorf("the proxy-url of the kubeconfig cannot be used: %w", err)
		}
		proxy = http.ProxyURL(fixed)
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: proxy, TLSClientConfig: t, ForceAttemptHTTP2: true, TLSHandshakeTimeout: connectTimeout, IdleConnTimeout: 90 * time.Second,
			MaxIdleConns: 8, MaxIdleConnsPerHost: 4, DialContext: (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext,
		},
		// The credentials are for this server alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != nil {
		c.held.http.CloseIdleConnections()
	}
}

// statusError is a refusal of the API server.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return e.text }

// get asks for a resource, again where the server is overloaded or the token was replaced. limit is in bytes. verb is what
// the service account must be allowed to do.
func (c *client) get(ctx context.Context, verb, path string, query url.Values, limit int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for attempt, renewed := 1, false; ; attempt++ {
		held, err := c.credentials(renewed)
		if err != nil {
			return nil, err
		}
		body, refused, pause, err := c.once(ctx, held, verb, path, query, limit)
		if err != nil || refused == nil {
			return body, err
		}
		switch {
		case refused.code == http.StatusUnauthorized && !renewed && c.cluster.tokenFile != "":
			renewed = true
			continue
		case pause > 0 && attempt < attempts:
			select {
			case <-c.clock.After(min(pause, maxPause)):
				continue
			case <-ctx.Done():
			}
		}
		return nil, refused
	}
}

// once asks once. pause is how long the server wants to be left in peace before it is asked again, 0 if that is of no use.
func (c *client) once(ctx context.Context, held *credentials, verb, path string, query url.Values, limit int) (body []byte, refused *statusError, pause time.Duration, err error) {
	target := c.cluster.server + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, nil, 0, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "daprd (outrigger)")
	switch {
	case held.token != "":
		req.Header.Set("Authorization", "Bearer "+held.token)
	case c.cluster.username != "":
		req.SetBasicAuth(c.cluster.username, c.cluster.password)
	}
	resp, err := held.http.Do(req)
	if err != nil {
		return nil, nil, 0, c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		limit = maxRefusal
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, nil, 0, c.unreachable(err)
	}
	if resp.StatusCode == http.StatusOK {
		if len(body) > limit {
			return nil, nil, 0, fmt.Errorf("the answer of the Kubernetes API server %s is larger than %d MiB; read the Secrets one by one", c.cluster.server, limit>>20)
		}
		return body, nil, 0, nil
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		pause = time.Second
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
			pause = time.Duration(min(seconds, 3600)) * time.Second
		}
	}
	return nil, c.refusal(resp.StatusCode, body, verb, path), pause, nil
}

func (c *client) unreachable(err error) error {
	remedy := "check that the address is right and that no network policy or proxy is in the way"
	if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
		remedy = "check the certificate of the cluster's authority (" + first(c.cluster.caFile, "certificate-authority-data") + ")"
	}
	return fmt.Errorf("the Kubernetes API server %s cannot be asked: %w; %s", c.cluster.server, err, remedy)
}

// refusal is the error for a status, with the server's reason and what to do about it.
func (c *client) refusal(code int, body []byte, verb, path string) *statusError {
	var status struct {
		Message string `json:"message"`
	}
	_ = json.Unmarshal(body, &status) // whatever else came is not worth telling
	reason := first(status.Message, http.StatusText(code), "status "+strconv.Itoa(code))
	segments := strings.Split(strings.TrimPrefix(path, "/api/v1/namespaces/"), "/")
	namespace := segments[0]
	if unescaped, err := url.PathUnescape(namespace); err == nil {
		namespace = unescaped
	}
	who := "the user of the kubeconfig"
	if c.cluster.tokenFile != "" {
		who = "the pod's service account"
	}
	if c.cluster.account != "" {
		who += " " + c.cluster.account
	}
	e := &statusError{code: code}
	switch code {
	case http.StatusUnauthorized:
		e.text = fmt.Sprintf("the Kubernetes API server %s does not accept the credentials of %s: %s; check that the token is one of this cluster and has not expired", c.cluster.server, who, reason)
	case http.StatusForbidden:
		e.text = fmt.Sprintf("%s may not %s secrets in namespace %s: %s; give it a Role in that namespace with apiGroups [\"\"], resources [secrets], verbs [get, list], by a RoleBinding",
			who, verb, namespace, reason)
	case http.StatusNotFound:
		e.text = fmt.Sprintf("%s in namespace %s", reason, namespace)
	default:
		e.text = fmt.Sprintf("the Kubernetes API server %s answers status %d: %s", c.cluster.server, code, reason)
	}
	return e
}
