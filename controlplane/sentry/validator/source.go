package validator

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
	"github.com/go-jose/go-jose/v4"
)

// maxKeySet bounds the size of a key set, in bytes.
const maxKeySet = 1 << 20

// source is where a key set is from.
type source interface {
	read(ctx context.Context) ([]byte, error)
	// watch has the validator read again until the context ends.
	watch(ctx context.Context, v *JWKS) error
}

func newSource(o *JWKSOptions) (source, error) {
	text := strings.TrimSpace(o.Source)
	switch {
	case text == "":
		return nil, errors.New("the option source is required: a URL, the path of a file, or the key set itself")
	case strings.HasPrefix(text, "https://"), strings.HasPrefix(text, "http://"):
		return newURLSource(text, o)
	case strings.HasPrefix(text, "{"):
		return fixed(text), nil
	}
	if info, err := os.Stat(text); err == nil && !info.IsDir() {
		return file(text), nil
	}
	if decoded, err := base64.StdEncoding.DecodeString(text); err == nil && json.Valid(decoded) {
		return fixed(decoded), nil
	}
	return nil, fmt.Errorf("the source %.100q is neither a URL, nor a file that exists, nor a key set in JSON or base64", text)
}

// parseKeySet reads a key set. One without a public key to verify by is an error.
func parseKeySet(data []byte) (*jose.JSONWebKeySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("the key set cannot be read: %w", err)
	}
	set := &jose.JSONWebKeySet{}
	var last error
	for _, text := range raw.Keys {
		// Keys of kinds that are not known are passed over (RFC 7517, section 5).
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(text); err != nil {
			last = err
			continue
		}
		if !k.Valid() {
			continue
		}
		if !k.IsPublic() {
			k = k.Public() // a private key; a shared secret leaves nothing valid
		}
		if k.Valid() {
			set.Keys = append(set.Keys, k)
		}
	}
	if len(set.Keys) == 0 {
		return nil, errors.Join(errors.New("the key set has no key that a token could be verified by"), last)
	}
	return set, nil
}

// fixed is the set itself.
type fixed string

func (f fixed) read(context.Context) ([]byte, error) { return []byte(f), nil }

func (f fixed) watch(ctx context.Context, _ *JWKS) error {
	<-ctx.Done()
	return nil
}

// file is the path of a file.
type file string

func (f file) read(context.Context) ([]byte, error) {
	in, err := os.Open(string(f))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return readAll(in, string(f))
}

func readAll(in io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(in, maxKeySet+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", name, err)
	case len(data) > maxKeySet:
		return nil, fmt.Errorf("%s is larger than %d bytes: this is no key set", name, maxKeySet)
	}
	return data, nil
}

func (f file) watch(ctx context.Context, v *JWKS) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the key set: %w", err)
	}
	defer watcher.Close()
	// The directory: the file itself may be replaced, or be a link that is.
	if err := watcher.Add(filepath.Dir(string(f))); err != nil {
		return fmt.Errorf("watch the key set: %w", err)
	}
	reload := func() {
		if err := v.refresh(ctx); err != nil {
			v.o.Log.Error("The changed key set of the token validator 'jwks' is not usable; the previous one stays", "source", string(f), "error", err)
		}
	}
	reload() // what changed before the watch began
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-watcher.Errors:
			v.o.Log.Warn("Watching the key set of the token validator 'jwks'", "error", err)
		case <-watcher.Events:
			timer := v.o.Clock.NewTimer(v.o.Batch)
			for waiting := true; waiting; {
				select {
				case <-ctx.Done():
					timer.Stop()
					return nil
				case <-watcher.Events:
				case <-timer.Chan():
					waiting = false
				}
			}
			reload()
		}
	}
}

// remote is a URL.
type remote struct {
	url    string
	client *http.Client
}

func newURLSource(text string, o *JWKSOptions) (source, error) {
	if u, err := url.Parse(text); err != nil || u.Host == "" {
		return nil, fmt.Errorf("the source %q is no URL with a host", text)
	}
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        o.RequestTimeout,
	}
	if o.CACertificate != "" {
		text := []byte(o.CACertificate)
		if !bytes.Contains(text, []byte("-----BEGIN")) {
			var err error
			if text, err = os.ReadFile(o.CACertificate); err != nil {
				return nil, fmt.Errorf("the option caCertificate is neither PEM nor a file that can be read: %w", err)
			}
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(text) {
			return nil, errors.New("the option caCertificate has no certificate that can be read")
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return &remote{url: text, client: &http.Client{Transport: transport, Timeout: o.RequestTimeout}}, nil
}

func (r *remote) read(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s answered %s instead of 200", r.url, resp.Status)
	}
	return readAll(resp.Body, r.url)
}

func (r *remote) watch(ctx context.Context, v *JWKS) error {
	defer r.client.CloseIdleConnections()
	ticker := v.o.Clock.NewTicker(v.o.MinRefreshInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.Chan():
		}
		if err := v.refresh(ctx); err != nil && ctx.Err() == nil {
			v.o.Log.Error("The key set of the token validator 'jwks' cannot be fetched; the previous one stays", "source", r.url, "error", err)
		}
	}
}
