package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"

	"outrigger.dev/components/middleware"
	"outrigger.dev/invocation"
)

// Pipeline is a chain of middlewares around requests to the app and to endpoints outside (Dapr API, HTTP pipelines).
type Pipeline interface {
	// Active reports whether there is any middleware at the moment; without one a request goes straight out.
	Active() bool
	// Serve runs a request through the chain, with final at its end.
	Serve(ctx context.Context, req *middleware.Request, final middleware.Handler) (*middleware.Response, error)
}

// pipedChannel is the channel to an HTTP app with a pipeline around everything but health probes.
type pipedChannel struct {
	Channel
	pipeline Pipeline
	appID    string
	scheme   string
	host     string
	limit    int64
}

// withPipeline puts the pipeline of the options, if any, around a channel.
func withPipeline(c Channel, o *Options) Channel {
	if o.Pipeline == nil {
		return c
	}
	scheme := "http"
	if o.Protocol.IsTLS() {
		scheme = "https"
	}
	return &pipedChannel{Channel: c, pipeline: o.Pipeline, appID: o.AppID, scheme: scheme, host: o.hostPort(), limit: o.MaxBodySize}
}

func (c *pipedChannel) Invoke(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	if !c.pipeline.Active() {
		return c.Channel.Invoke(ctx, req)
	}
	if !c.Health().Healthy() {
		return nil, ErrUnhealthy
	}
	p := piped{pipeline: c.pipeline, scheme: c.scheme, host: c.host, limit: c.limit, call: c.Channel.Invoke}
	return p.invoke(ctx, req)
}

func (c *pipedChannel) Config(ctx context.Context) ([]byte, error) { return config(ctx, c, c.appID) }

// piped is a call that goes through a pipeline.
type piped struct {
	pipeline     Pipeline
	scheme, host string
	limit        int64
	call         func(context.Context, *invocation.Request) (*invocation.Response, error)
}

var errNotCalledAgain = errors.New("a middleware passed a request on twice; a request can be sent once")

// invoke runs a request through the pipeline. The request itself stays as it is, for it may be sent again.
func (p *piped) invoke(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	verb, err := verbOf(req.Verb)
	if err != nil {
		return nil, err
	}
	path := string(appendTarget(nil, req.Method, ""))
	m := &middleware.Request{Method: verb, Path: path, RawQuery: req.Query, Scheme: p.scheme, Host: p.host, MaxBodyBytes: p.limit}
	m.Header = make(invocation.Header, 0, len(req.Header)+2)
	if req.ContentType != "" {
		m.Header.Add("Content-Type", req.ContentType)
	}
	for _, f := range req.Header {
		if !invocation.Is(f.Name, "host") && !invocation.Is(f.Name, "content-length") {
			m.Header = append(m.Header, f)
		}
	}
	switch {
	case req.Stream != nil:
		if m.Length, err = bodyLength(req); err != nil {
			return nil, err
		}
		m.Body = req.Stream
	case len(req.Body) > 0:
		m.SetBody(req.Body)
	}
	var answer *invocation.Response
	var called, returning bool
	defer func() {
		// A middleware that fails or panics must not keep the app's response, and with it a slot for calls.
		if !returning && answer != nil {
			_ = answer.Close()
		}
	}()
	resp, err := p.pipeline.Serve(ctx, m, func(ctx context.Context, m *middleware.Request) (*middleware.Response, error) {
		if called {
			return nil, errNotCalledAgain
		}
		called = true
		out, err := passedOn(req, m, path)
		if err != nil {
			return nil, err
		}
		if answer, err = p.call(ctx, out); err != nil {
			return nil, err
		}
		back := &middleware.Response{Status: answer.Status, Body: answer.Body, Stream: answer.Stream, Length: answer.Length}
		back.Header = make(invocation.Header, 0, len(answer.Header)+2)
		if answer.ContentType != "" {
			back.Header.Add("Content-Type", answer.ContentType)
		}
		back.Header = append(back.Header, answer.Header...)
		return back, nil
	})
	if err != nil {
		return nil, err
	}
	returning = true
	return returned(answer, resp), nil
}

// passedOn is the request that leaves the pipeline.
func passedOn(req *invocation.Request, m *middleware.Request, path string) (*invocation.Request, error) {
	out := *req
	out.Verb, out.Query = m.Method, m.RawQuery
	if m.Path != path {
		method, err := url.PathUnescape(m.Path)
		if err != nil {
			return nil, fmt.Errorf("a middleware changed the path to %q, which cannot be decoded: %w", m.Path, err)
		}
		out.Method = invocation.CleanMethod(method)
	}
	out.ContentType = string(m.Header.Get("Content-Type"))
	out.Header = slices.Clone(m.Header)
	out.Header.Del("Content-Type")
	out.Body, out.Stream, out.Length = nil, nil, 0
	if body, ok := m.Buffered(); ok {
		out.Body = body
		return &out, nil
	}
	if m.Body != nil {
		out.Stream, out.Length = m.Body, m.Length
		if s, ok := req.Stream.(interface{ Abort() }); ok {
			if _, can := m.Body.(interface{ Abort() }); !can {
				out.Stream = &abortable{Reader: m.Body, abort: s.Abort}
			}
		}
	}
	return &out, nil
}

// abortable is a stream that a middleware made of one that can be aborted.
type abortable struct {
	io.Reader
	abort func()
}

// Abort makes a blocked Read return.
func (a *abortable) Abort() { a.abort() }

// returned is the response that has come back through the pipeline. answer is that of the app, nil when it was not asked.
func returned(answer *invocation.Response, m *middleware.Response) *invocation.Response {
	resp := &invocation.Response{Status: m.Status, Header: m.Header, ContentType: string(m.Header.Get("Content-Type")), Body: m.Body, Stream: m.Stream, Length: m.Length}
	if answer != nil {
		resp.Trailer = answer.Trailer
	}
	resp.Header.Del("Content-Type")
	if resp.Stream == nil {
		resp.Length = int64(len(resp.Body))
	}
	return resp
}
