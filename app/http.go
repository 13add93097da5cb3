package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"outrigger.dev/http1"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/metrics"
)

// httpChannel is the channel to an app that speaks HTTP/1.1, in clear text or over TLS.
type httpChannel struct {
	options Options
	base    string // scheme://host:port
	host    string
	token   []byte
	client  *http1.Client
	probes  *http1.Client // its own connection, so that a probe never waits behind calls
	gate    *gate
	health  *Health
	metrics *metrics.HTTPClient
}

var _ Channel = (*httpChannel)(nil)

// maxIdle is how many unused connections to the app are kept: as many jobs and reminders can be due at one moment, and dialling costs as much as a
// call.
const maxIdle = 256

// maxIdleTime is how long an unused connection is kept. Servers of Node.js and Python close theirs after 5 s: a call that goes out on one at that
// moment is lost, and nobody can tell whether the app has seen it.
const maxIdleTime = 4 * time.Second

func newHTTPChannel(o Options) (*httpChannel, error) {
	address := o.hostPort()
	c := &httpChannel{
		options: o,
		base:    string(o.Protocol) + "://" + address,
		host:    address,
		token:   []byte(o.APIToken),
		gate:    newGate(o.MaxConcurrency),
		metrics: o.Metrics.HTTPClient(),
	}
	dial := dialer(o.Protocol, address, dialTimeout)
	c.client = http1.New(http1.Options{Dial: dial, MaxConns: 1024, MaxIdle: maxIdle, IdleTimeout: maxIdleTime, MaxHeaderBytes: o.ReadBufferSize})
	c.probes = http1.New(http1.Options{Dial: dial, MaxConns: 1, MaxIdle: 1, IdleTimeout: 90 * time.Second, MaxHeaderBytes: o.ReadBufferSize})
	c.health = newHealth(o, c.probe)
	return c, nil
}

// dialer opens connections to the app. Its certificate is not verified: it is the sidecar's own app (Dapr API, app channel).
func dialer(protocol Protocol, address string, timeout time.Duration) func(context.Context) (net.Conn, error) {
	d := &net.Dialer{Timeout: timeout}
	if !protocol.IsTLS() {
		return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	t := &tls.Dialer{NetDialer: d, Config: appTLS()}
	return func(ctx context.Context) (net.Conn, error) { return t.DialContext(ctx, "tcp", address) }
}

func appTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
}

func (c *httpChannel) Protocol() Protocol { return c.options.Protocol }
func (c *httpChannel) Health() *Health    { return c.health }

func (c *httpChannel) Close(ctx context.Context) error {
	err := c.gate.close(ctx)
	if err != nil {
		c.client.Abort()
	}
	c.client.Close()
	c.probes.Abort()
	return err
}

func (c *httpChannel) Invoke(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	if !c.health.Healthy() {
		return nil, ErrUnhealthy
	}
	verb, err := verbOf(req.Verb)
	if err != nil {
		return nil, err
	}
	if err := c.gate.enter(ctx); err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, verb, req)
	if err != nil {
		c.gate.leave()
		if ctx.Err() == nil {
			err = &CallError{Verb: verb, URL: c.base + string(appendTarget(nil, req.Method, req.Query)), Err: err}
		}
		return nil, err
	}
	return resp, nil
}

// small is the length up to which a response is read at once, so that its connection is free for the next call.
const small = 16 << 10

// send makes the call. When it fails the gate is the caller's to leave; otherwise it is left when the response is read or
// closed.
func (c *httpChannel) send(ctx context.Context, verb string, req *invocation.Request) (*invocation.Response, error) {
	length, err := bodyLength(req)
	if err != nil {
		return nil, err
	}
	out := c.request(verb, req, length)
	start := time.Now()
	in, err := c.client.Do(ctx, out)
	latency := time.Since(start)
	if err != nil {
		c.metrics.Observe(verb, "/"+req.Method, 500, latency, length, -1)
		out.Release()
		return nil, err
	}
	status := in.Status()
	resp := &invocation.Response{Status: status, Length: in.Length()}
	responseHeader(in, resp)
	isEvents := req.EventStream && status < 300 && status >= 200
	switch {
	case in.Length() == 0, in.Length() > 0 && in.Length() <= small && !isEvents:
		resp.Body, err = in.ReadAll(nil, 0)
	case (status < 200 || status >= 400) && req.Stream == nil:
		// Policies look at such a response and may call again, so it is kept in memory, unless it is larger than any message
		// may be: then the rest of it follows as a stream.
		err = c.buffer(in, out, resp)
	default:
		resp.Stream = c.body(in, out, nil)
	}
	received := resp.Length
	if resp.Stream == nil {
		received = int64(len(resp.Body))
	}
	c.metrics.Observe(verb, "/"+req.Method, status, latency, length, received)
	if err != nil {
		_ = in.Close()
		out.Release()
		return nil, err
	}
	if resp.Stream == nil {
		resp.Length = received
		_ = in.Close()
		out.Release()
		c.gate.leave()
	}
	if req.Stream == nil && resp.ContentType == "" && (status < 200 || status >= 400) {
		resp.ContentType = "application/json"
	}
	return resp, nil
}

// body is the rest of a response as a stream, behind what was read of it already.
func (c *httpChannel) body(in *http1.Response, out *http1.Request, start []byte) *callBody {
	return &callBody{body: in, start: start, release: func() { out.Release(); c.gate.leave() }}
}

// buffer reads a response into memory. One over the limit on bodies becomes a stream that starts with what was read.
func (c *httpChannel) buffer(in *http1.Response, out *http1.Request, resp *invocation.Response) error {
	limit := c.options.MaxBodySize
	if limit <= 0 {
		var err error
		resp.Body, err = in.ReadAll(nil, 0)
		return err
	}
	if in.Length() > limit {
		resp.Stream = c.body(in, out, nil)
		return nil
	}
	start, err := io.ReadAll(io.LimitReader(in, limit+1))
	switch {
	case err != nil:
		return err
	case int64(len(start)) <= limit:
		resp.Body = start
	default:
		resp.Stream = c.body(in, out, start)
	}
	return nil
}

// request builds the HTTP request.
func (c *httpChannel) request(verb string, req *invocation.Request, length int64) *http1.Request {
	var room [512]byte
	out := http1.NewRequest(verb, appendTarget(room[:0], req.Method, req.Query), c.host)
	if req.ContentType != "" {
		out.AddHeaderString("Content-Type", req.ContentType)
	}
	forApp(req, c.token, func(prefix string, name, value []byte) {
		if prefix != "" {
			out.AddHeader(append([]byte(prefix), name...), value)
			return
		}
		out.AddHeader(name, value)
	})
	if req.Stream == nil {
		out.Body = req.Body
	} else if length != 0 {
		out.Stream, out.StreamLength = req.Stream, length
	}
	return out
}

// bodyLength is the length of a request's body in bytes, -1 when nobody knows.
func bodyLength(req *invocation.Request) (int64, error) {
	if req.Stream == nil {
		return int64(len(req.Body)), nil
	}
	if req.Length >= 0 {
		return req.Length, nil
	}
	announced := req.Header.Get("Content-Length")
	if announced == nil {
		return -1, nil
	}
	n, err := strconv.ParseInt(string(announced), 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("the header Content-Length is %q, which is not a length; send the number of bytes of the body", announced)
	}
	return n, nil
}

// responseHeader copies what of the response's header is passed on.
func responseHeader(in *http1.Response, resp *invocation.Response) {
	var listed connectionNames
	for _, value := range in.Header.PeekAll("Connection") {
		listed.add(value)
	}
	var c collector
	c.grow(8, 256) // enough for most; more memory is taken when needed
	for name, value := range in.Header.All() {
		c.fromApp(name, value, listed)
	}
	resp.Header = c.header
	resp.ContentType = string(in.Header.ContentType())
}

// Config asks the app for its configuration.
func (c *httpChannel) Config(ctx context.Context) ([]byte, error) {
	return config(ctx, c, c.options.AppID)
}

func config(ctx context.Context, c Channel, appID string) ([]byte, error) {
	req := &invocation.Request{Method: "dapr/config", Verb: "GET", ContentType: "application/json"}
	req.Header.Add(invocation.AppID, appID)
	resp, err := c.Invoke(ctx, req)
	if err != nil {
		return nil, err
	}
	if resp.Status != 200 {
		return nil, resp.Close()
	}
	if err := resp.Buffer(maxConfig); err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// maxConfig bounds the answer to GET /dapr/config, in bytes.
const maxConfig = 1 << 20

// probe makes one health probe of an HTTP app.
func (c *httpChannel) probe(ctx context.Context) (reason string) {
	start := time.Now()
	probes := c.options.Metrics.HTTPProbe()
	req := http1.NewRequest("GET", []byte(c.health.path), c.host)
	defer req.Release()
	resp, err := c.probes.Do(ctx, req)
	if err != nil {
		probes.Observe(0, time.Since(start))
		return "Network error: " + (&CallError{Verb: "GET", URL: c.base + c.health.path, Err: err}).Error()
	}
	defer func() { _ = resp.Close() }()
	status := resp.Status()
	probes.Observe(status, time.Since(start))
	_, _ = resp.ReadAll(nil, small) // only to keep the connection
	return probeReason(status)
}

func probeReason(status int) string {
	if status >= 200 && status < 300 {
		return ""
	}
	return "Health check failed with status code: " + strconv.Itoa(status)
}

// causeText is the text of a failed exchange, as Go's HTTP client would say it.
func causeText(err error) string {
	var large *http1.HeaderTooLargeError
	if errors.As(err, &large) {
		return err.Error() + "; raise --read-buffer-size"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Error()
	}
	var incomplete *http1.ResponseError
	if errors.As(err, &incomplete) {
		return incomplete.Err.Error()
	}
	return err.Error()
}
