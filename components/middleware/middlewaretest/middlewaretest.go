// Package middlewaretest helps to test HTTP middleware components, and holds the suite that all of them pass.
package middlewaretest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/middleware"
)

// Opener makes instances of one component type.
type Opener struct {
	// Register is the function of the component's package.
	Register func(*components.Registry)
	// Name is the type's name, such as "http.bearer".
	Name string
	// Clock and Log go into each instance; nil is the real clock and no log.
	Clock clockwork.Clock
	Log   *slog.Logger
}

// Open opens an instance with the given properties and closes it at the end of the test.
func (o Opener) Open(t testing.TB, properties map[string]string) middleware.Middleware {
	t.Helper()
	mw, err := o.Try(t, properties)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mw.Close(); err != nil {
			t.Error("Close:", err)
		}
	})
	return mw
}

// Try opens an instance, which may fail.
func (o Opener) Try(t testing.TB, properties map[string]string) (middleware.Middleware, error) {
	t.Helper()
	var r components.Registry
	o.Register(&r)
	d, err := r.Lookup(components.Middleware, o.Name, "v1")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := d.Open(t.Context(), components.Instance{Name: "mw", Type: d.Type(), Version: "v1", Properties: properties, Clock: o.Clock, Log: o.Log})
	if err != nil {
		return nil, err
	}
	return opened.(middleware.Middleware), nil
}

// Request makes a request from its target ("/path?query") and header lines ("Name: value").
func Request(method, target string, header ...string) *middleware.Request {
	req := &middleware.Request{Method: method, Scheme: "http", Host: "sidecar:3500", RemoteAddress: "192.0.2.1:1234"}
	req.SetURI(target)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ":")
		req.Header.Add(name, strings.TrimSpace(value))
	}
	return req
}

// Result is the outcome of one request.
type Result struct {
	*middleware.Response
	// Text is the body of the response.
	Text string
	// Seen is the request that came through, nil when none did, and Body its body.
	Seen *middleware.Request
	Body string
}

// Do sends a request through mw to a handler that answers 200 "ok".
func Do(t testing.TB, mw middleware.Middleware, req *middleware.Request) Result {
	t.Helper()
	return DoWith(t, mw, req, &middleware.Response{Status: 200, Body: []byte("ok")})
}

// DoWith is Do with another answer of the handler.
func DoWith(t testing.TB, mw middleware.Middleware, req *middleware.Request, answer *middleware.Response) (r Result) {
	t.Helper()
	resp, err := mw.Handle(t.Context(), req, func(_ context.Context, req *middleware.Request) (*middleware.Response, error) {
		if r.Seen != nil {
			t.Error("next was called twice")
		}
		body, err := req.ReadBody()
		if err != nil {
			t.Error("reading the body:", err)
		}
		r.Seen, r.Body = req, string(body)
		return answer, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := resp.ReadBody(0)
	if err != nil {
		t.Error("reading the response:", err)
	}
	r.Response, r.Text = resp, string(text)
	return r
}

// Values are all values of a response header.
func (r Result) Values(name string) (values []string) {
	for _, f := range r.Header {
		if strings.EqualFold(string(f.Name), name) {
			values = append(values, string(f.Value))
		}
	}
	return values
}

// Refused checks that a request was not passed on, but answered with a status and a text.
func (r Result) Refused(t testing.TB, status int, text string) {
	t.Helper()
	if r.Seen != nil {
		t.Error("the request came through")
	}
	if r.Status != status || strings.TrimSuffix(r.Text, "\n") != text {
		t.Errorf("answered %d %q, want %d %q", r.Status, r.Text, status, text)
	}
	if got := string(r.Header.Get("Content-Type")); got != "text/plain; charset=utf-8" {
		t.Errorf("the content type is %q", got)
	}
}

// Suite checks what holds for every middleware. open makes an instance that passes the requests that request makes on.
func Suite(t *testing.T, open func(t testing.TB) middleware.Middleware, request func() *middleware.Request) {
	t.Run("body", func(t *testing.T) {
		mw := open(t)
		req := request()
		req.Body, req.Length, req.MaxBodyBytes = &oneByte{strings.NewReader("0123456789")}, -1, 100
		if r := Do(t, mw, req); r.Body != "0123456789" || r.Text != "ok" && r.Text != "OK" {
			t.Errorf("passed on %q, answered %q", r.Body, r.Text)
		}
	})
	t.Run("stream", func(t *testing.T) {
		mw := open(t)
		stream := &closing{Reader: strings.NewReader("0123")}
		r := DoWith(t, mw, request(), &middleware.Response{Status: 201, Stream: stream, Length: -1})
		if r.Status != 201 || r.Text != "0123" || !stream.closed {
			t.Errorf("%d %q, closed %v", r.Status, r.Text, stream.closed)
		}
	})
	t.Run("error", func(t *testing.T) {
		mw := open(t)
		failure := errors.New("the app is not there")
		resp, err := mw.Handle(t.Context(), request(), func(context.Context, *middleware.Request) (*middleware.Response, error) { return nil, failure })
		if !errors.Is(err, failure) || resp != nil {
			t.Errorf("%v, %v", resp, err)
		}
	})
	t.Run("concurrent", func(t *testing.T) {
		mw := open(t)
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				for range 20 {
					req := request()
					want := bytes.Repeat([]byte{'0' + byte(i)}, 100)
					req.SetBody(want)
					_, err := mw.Handle(t.Context(), req, func(_ context.Context, req *middleware.Request) (*middleware.Response, error) {
						if got, err := req.ReadBody(); err != nil || !bytes.Equal(got, want) {
							t.Errorf("passed on %q, %v", got, err)
						}
						return &middleware.Response{Status: 200}, nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
	})
}

// oneByte reads a byte at a time.
type oneByte struct{ r io.Reader }

func (o *oneByte) Read(p []byte) (int, error) {
	if len(p) > 1 {
		p = p[:1]
	}
	return o.r.Read(p)
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }
