package app

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/textproto"
	"strings"
	"sync"
	"time"

	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/metrics"
)

// client calls over the standard library's HTTP client: apps that speak HTTP/2, and endpoints that are not the app.
type client struct {
	do      func(*http.Request) (*http.Response, error)
	gate    *gate
	metrics *metrics.HTTPClient
	token   []byte
	// headers replace the headers of the same names.
	headers http.Header
	limit   int64 // of error responses in memory, in bytes
}

// invoke calls base with the request's method and query. When it fails the error is the client's.
func (c *client) invoke(ctx context.Context, base string, req *invocation.Request) (*invocation.Response, error) {
	verb, err := verbOf(req.Verb)
	if err != nil {
		return nil, err
	}
	length, err := bodyLength(req)
	if err != nil {
		return nil, err
	}
	if err := c.gate.enter(ctx); err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, verb, base, req, length)
	if err != nil {
		c.gate.leave()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return resp, nil
}

func (c *client) send(ctx context.Context, verb, base string, req *invocation.Request, length int64) (*invocation.Response, error) {
	target := string(appendTarget(nil, req.Method, req.Query))
	if strings.HasPrefix(target, "/?") || target == "/" {
		target = target[1:] // an endpoint's base URL may hold a path: nothing is added to it
	}
	out, guard, err := c.request(ctx, verb, base+target, req, length)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	in, err := c.do(out)
	latency := time.Since(start)
	if err != nil {
		guard.stop()
		c.metrics.Observe(verb, "/"+req.Method, 500, latency, length, -1)
		return nil, err
	}
	status := in.StatusCode
	resp := &invocation.Response{Status: status, Length: in.ContentLength}
	standardHeader(in, resp)
	body := &callBody{body: in.Body, release: func() { guard.stop(); c.gate.leave() }}
	if in.ContentLength == 0 || in.Body == http.NoBody || verb == "HEAD" {
		resp.Length = 0
		_ = body.Close()
	} else if c.inMemory(req, in) {
		read := io.Reader(in.Body)
		if c.limit > 0 {
			read = io.LimitReader(in.Body, max(c.limit, small)+1)
		}
		text, err := io.ReadAll(read)
		if err != nil {
			c.metrics.Observe(verb, "/"+req.Method, status, latency, length, int64(len(text)))
			_ = in.Body.Close()
			guard.stop()
			return nil, err
		}
		if c.limit > 0 && int64(len(text)) > max(c.limit, small) {
			body.start, resp.Stream = text, body
		} else {
			resp.Body, resp.Length = text, int64(len(text))
			_ = body.Close()
		}
	} else {
		resp.Stream = body
	}
	if req.Stream == nil && resp.ContentType == "" && (status < 200 || status >= 400) {
		resp.ContentType = "application/json"
	}
	c.metrics.Observe(verb, "/"+req.Method, status, latency, length, resp.Length)
	return resp, nil
}

// inMemory reports whether the body of a response is read at once: small ones, and those that policies may want replaced by
// another try.
func (c *client) inMemory(req *invocation.Request, in *http.Response) bool {
	success := in.StatusCode >= 200 && in.StatusCode < 400
	if in.ContentLength > 0 && in.ContentLength <= small && !(req.EventStream && success) {
		return true
	}
	return !success && req.Stream == nil && (c.limit <= 0 || in.ContentLength <= c.limit)
}

func (c *client) request(ctx context.Context, verb, target string, req *invocation.Request, length int64) (*http.Request, *guard, error) {
	var body io.Reader
	var g *guard
	switch {
	case req.Stream == nil && len(req.Body) > 0:
		body = bytes.NewReader(req.Body)
	case req.Stream != nil && length != 0:
		g = &guard{stream: req.Stream}
		body = g
	}
	out, err := http.NewRequestWithContext(ctx, verb, target, body)
	if err != nil {
		return nil, nil, err
	}
	if g != nil {
		out.ContentLength = length
	}
	if req.ContentType != "" {
		out.Header.Set("Content-Type", req.ContentType)
	}
	forApp(req, c.token, func(prefix string, name, value []byte) {
		key := textproto.CanonicalMIMEHeaderKey(prefix + string(name))
		out.Header[key] = append(out.Header[key], cleanValue(value))
	})
	for name, values := range c.headers {
		if name == "Host" {
			out.Host = values[0]
			continue
		}
		out.Header[name] = values
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // none, rather than the library's
	}
	return out, g, nil
}

// cleanValue replaces the bytes that no header value may hold, for which the library would refuse the whole request.
func cleanValue(value []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return ' '
		}
		return r
	}, string(value))
}

func standardHeader(in *http.Response, resp *invocation.Response) {
	var listed connectionNames
	for _, value := range in.Header["Connection"] {
		listed.add([]byte(value))
	}
	fields, size := 0, 0
	for name, values := range in.Header {
		fields += len(values)
		for _, v := range values {
			size += len(name) + len(v)
		}
	}
	var c collector
	c.grow(fields, size)
	for name, values := range in.Header {
		for _, v := range values {
			c.fromApp([]byte(name), []byte(v), listed)
		}
	}
	resp.Header = c.header
	resp.ContentType = in.Header.Get("Content-Type")
}

// guard stands between a request's stream and the library, which may read it longer than a call lasts.
type guard struct {
	stream io.Reader

	stopping sync.Once
	reading  sync.Mutex
	mu       sync.Mutex
	stopped  bool
	finished bool // the stream ended by itself
}

func (g *guard) Read(p []byte) (int, error) {
	g.reading.Lock()
	defer g.reading.Unlock()
	g.mu.Lock()
	stopped := g.stopped
	g.mu.Unlock()
	if stopped {
		return 0, errBodyClosed
	}
	n, err := g.stream.Read(p)
	if err != nil {
		g.mu.Lock()
		g.finished = true
		g.mu.Unlock()
	}
	return n, err
}

// Close is called by the library when it needs no more of the body. It makes a blocked Read return, and whoever writes the
// stream notice that nobody wants it.
func (g *guard) Close() error {
	g.mu.Lock()
	g.stopped = true
	finished := g.finished
	g.mu.Unlock()
	g.stopping.Do(func() {
		if finished {
			return
		}
		switch s := g.stream.(type) {
		case interface{ Abort() }:
			s.Abort()
		case io.Closer:
			_ = s.Close()
		}
	})
	return nil
}

// stop returns when nobody reads the stream any more.
func (g *guard) stop() {
	if g == nil {
		return
	}
	_ = g.Close()
	g.reading.Lock()
	defer g.reading.Unlock()
}
