package cli

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
	"os"
	"strconv"
	"time"
)

// sidecarClient calls the HTTP API of a sidecar on this machine.
type sidecarClient struct {
	http *http.Client
	base string
	dial func(ctx context.Context) (net.Conn, error)
}

// newSidecarClient makes a client for a port, or for a socket if one is given.
func newSidecarClient(port int, socket string) *sidecarClient {
	network, address := "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if socket != "" {
		network, address = "unix", socket
	}
	dialer := &net.Dialer{Timeout: time.Second}
	c := &sidecarClient{base: "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	c.dial = func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, network, address) }
	// No proxy of the environment: the sidecar is on this machine.
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
	}}
	return c
}

func (c *sidecarClient) close() { c.http.CloseIdleConnections() }

// reachable tells whether something listens.
func (c *sidecarClient) reachable(ctx context.Context) bool {
	conn, err := c.dial(ctx)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// do sends a request with the API token of the environment and returns the status and at most limit bytes of the body.
func (c *sidecarClient) do(ctx context.Context, method, path, contentType string, body []byte, limit int64) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if token := os.Getenv("DAPR_API_TOKEN"); token != "" {
		req.Header.Set("dapr-api-token", token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	return resp, data, err
}

// extended reads the values that tools attached to the sidecar's metadata.
func (c *sidecarClient) extended(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	resp, body, err := c.do(ctx, http.MethodGet, "/v1.0/metadata", "", nil, 4<<20)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the sidecar answered %s", resp.Status)
	}
	var metadata struct {
		Extended map[string]string `json:"extended"`
	}
	return metadata.Extended, json.Unmarshal(body, &metadata)
}

// The waits between attempts to put metadata (Dapr CLI, run: metadata put into the sidecar).
func metadataWaits() []time.Duration {
	return []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}
}

// put attaches a value to the sidecar's metadata. Attempts that fail for a passing reason are repeated.
func (c *sidecarClient) put(ctx context.Context, key, value string) error {
	var err error
	for attempt := 0; ; attempt++ {
		var again bool
		again, err = c.putOnce(ctx, key, value)
		if err == nil || !again || attempt == len(metadataWaits()) {
			return err
		}
		timer := time.NewTimer(metadataWaits()[attempt])
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(err, ctx.Err())
		}
	}
}

func (c *sidecarClient) putOnce(ctx context.Context, key, value string) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, _, err := c.do(ctx, http.MethodPut, "/v1.0/metadata/"+url.PathEscape(key), "text/plain", []byte(value), 64<<10)
	if err != nil {
		return true, err
	}
	if resp.StatusCode/100 == 2 {
		return false, nil
	}
	err = fmt.Errorf("the sidecar answered %s", resp.Status)
	if resp.StatusCode == http.StatusUnauthorized {
		err = fmt.Errorf("%w; set DAPR_API_TOKEN to the sidecar's token", err)
	}
	return resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500, err
}
