package app

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"outrigger.dev/invocation"
)

// h2cChannel is the channel to an app that speaks HTTP/2 in clear text, known beforehand.
type h2cChannel struct {
	options   Options
	base      string
	client    client
	transport *http.Transport
	conns     *conns
	health    *Health
}

var _ Channel = (*h2cChannel)(nil)

func newH2CChannel(o Options) (*h2cChannel, error) {
	address := o.hostPort()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	dialer := &net.Dialer{Timeout: dialTimeout}
	c := &h2cChannel{options: o, base: "http://" + address, conns: newConns(dialer.DialContext)}
	c.transport = &http.Transport{
		Protocols:              protocols,
		DialContext:            c.conns.dial,
		DisableCompression:     true,
		MaxResponseHeaderBytes: int64(o.ReadBufferSize),
		IdleConnTimeout:        90 * time.Second,
	}
	c.client = client{
		do: func(r *http.Request) (*http.Response, error) {
			resp, err := c.transport.RoundTrip(r)
			if err != nil {
				return nil, &CallError{Verb: r.Method, URL: r.URL.String(), Err: err}
			}
			return resp, nil
		},
		gate: newGate(o.MaxConcurrency), metrics: o.Metrics.HTTPClient(), token: []byte(o.APIToken), limit: o.MaxBodySize,
	}
	c.health = newHealth(o, c.probe)
	return c, nil
}

func (c *h2cChannel) Protocol() Protocol { return H2C }
func (c *h2cChannel) Health() *Health    { return c.health }

func (c *h2cChannel) Invoke(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	if !c.health.Healthy() {
		return nil, ErrUnhealthy
	}
	return c.client.invoke(ctx, c.base, req)
}

func (c *h2cChannel) Config(ctx context.Context) ([]byte, error) {
	return config(ctx, c, c.options.AppID)
}

func (c *h2cChannel) Close(ctx context.Context) error {
	err := c.client.gate.close(ctx)
	c.conns.close()
	c.transport.CloseIdleConnections()
	return err
}

// probe makes one health probe.
func (c *h2cChannel) probe(ctx context.Context) (reason string) {
	start := time.Now()
	probes := c.options.Metrics.HTTPProbe()
	req, err := http.NewRequestWithContext(ctx, "GET", c.base+c.health.path, nil)
	if err != nil {
		return "Probe error: " + err.Error()
	}
	req.Header["User-Agent"] = nil
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		probes.Observe(0, time.Since(start))
		return "Network error: " + (&CallError{Verb: "GET", URL: req.URL.String(), Err: err}).Error()
	}
	probes.Observe(resp.StatusCode, time.Since(start))
	_ = resp.Body.Close()
	return probeReason(resp.StatusCode)
}

// conns are the connections of a transport, which cannot break off those in use by itself.
type conns struct {
	open func(ctx context.Context, network, address string) (net.Conn, error)

	mu     sync.Mutex
	all    map[*trackedConn]struct{}
	closed bool
}

func newConns(open func(ctx context.Context, network, address string) (net.Conn, error)) *conns {
	return &conns{open: open, all: map[*trackedConn]struct{}{}}
}

func (c *conns) dial(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := c.open(ctx, network, address)
	if err != nil {
		return nil, err
	}
	t := &trackedConn{Conn: raw, owner: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = raw.Close()
		return nil, ErrClosed
	}
	c.all[t] = struct{}{}
	return t, nil
}

// close closes all connections, also those in use, and lets no new one come up.
func (c *conns) close() {
	c.mu.Lock()
	c.closed = true
	all := c.all
	c.all = map[*trackedConn]struct{}{}
	c.mu.Unlock()
	for t := range all {
		_ = t.Conn.Close()
	}
}

type trackedConn struct {
	net.Conn
	owner *conns
}

func (t *trackedConn) Close() error {
	t.owner.mu.Lock()
	delete(t.owner.all, t)
	t.owner.mu.Unlock()
	return t.Conn.Close()
}
