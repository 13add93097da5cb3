package wasm

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Options are the metadata properties of the component.
type Options struct {
	URL           string `name:"url" required:"true" help:"where the guest is: file://PATH, http://... or https://..."`
	GuestConfig   string `name:"guestConfig" help:"text that the guest may read as its configuration"`
	StrictSandbox bool   `name:"strictSandbox" help:"give the guest fake clocks and random numbers instead of real ones"`
}

// Check refuses a URL that leads nowhere. It implements [components.Checker].
func (o *Options) Check() error {
	if path, ok := strings.CutPrefix(o.URL, "file://"); ok && path != "" {
		return nil
	}
	if u, err := url.Parse(o.URL); err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") {
		return nil
	}
	return fmt.Errorf("metadata property \"url\" is %q, but must begin with file://, http:// or https:// and name a file in WebAssembly", o.URL)
}

const (
	// fetchTimeout bounds fetching a guest.
	fetchTimeout = time.Minute
	// maxGuest bounds the size of a guest, in bytes.
	maxGuest = 128 << 20
)

// read reads the guest.
func (o *Options) read(ctx context.Context) ([]byte, error) {
	path, ok := strings.CutPrefix(o.URL, "file://")
	if !ok {
		return fetch(ctx, o.URL)
	}
	if decoded, err := url.PathUnescape(path); err == nil {
		path = decoded
	}
	if len(path) > 2 && path[0] == '/' && path[2] == ':' { // a drive, as in file:///C:/guest.wasm
		path = path[1:]
	}
	guest, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the guest of the metadata property \"url\" cannot be read: %w", err)
	}
	return guest, nil
}

func fetch(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("the guest of the metadata property \"url\" cannot be fetched: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the guest of the metadata property \"url\" cannot be fetched: GET %s answered %s", address, resp.Status)
	}
	guest, err := io.ReadAll(io.LimitReader(resp.Body, maxGuest+1))
	if err != nil {
		return nil, fmt.Errorf("the guest of the metadata property \"url\" cannot be fetched: %w", err)
	}
	if len(guest) > maxGuest {
		return nil, fmt.Errorf("the guest at %s is larger than %d bytes", address, maxGuest)
	}
	return guest, nil
}
