// Package uppercase is the middleware that turns bodies into upper case, an aid for trying pipelines out (Dapr API,
// middleware.http.uppercase).
package uppercase

import (
	"bytes"
	"context"
	"io"
	"strings"
	"unicode/utf8"

	"outrigger.dev/components"
	"outrigger.dev/components/middleware"
)

// Options are the metadata properties of the component.
type Options struct {
	Direction string `name:"direction" default:"request" allowed:"request,response,both" help:"which bodies: request, response or both"`
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	middleware.Register(r, components.Info{
		Name: "http.uppercase", Version: "v1", Status: components.Alpha,
		Description: "Turns the bodies of requests, responses or both into upper case; for trying pipelines out.",
	}, func(_ context.Context, _ components.Instance, o Options) (middleware.Middleware, error) {
		d := strings.ToLower(o.Direction)
		return &Upper{request: d != "response", response: d == "response" || d == "both"}, nil
	})
}

// Upper is one instance.
type Upper struct{ request, response bool }

// Handle implements [middleware.Middleware]. Streams stay streams.
func (u *Upper) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	if u.request {
		if body, ok := req.Buffered(); ok {
			req.SetBody(bytes.ToUpper(body))
		} else if req.Body != nil {
			// Some letters take more or fewer bytes in upper case.
			req.Body, req.Length = &reader{r: req.Body}, -1
		}
	}
	resp, err := next(ctx, req)
	if err != nil || !u.response {
		return resp, err
	}
	if resp.Stream != nil {
		resp.Stream, resp.Length = &reader{r: resp.Stream, close: resp.Stream.Close}, -1
	} else {
		resp.Body = bytes.ToUpper(resp.Body)
	}
	return resp, nil
}

// Close has nothing to release.
func (u *Upper) Close() error { return nil }

// reader turns a stream into upper case as it comes.
type reader struct {
	r     io.Reader
	close func() error
	tail  []byte // the beginning of a letter whose other bytes have not come yet
	ready []byte
	err   error
	block [4096]byte
}

// Read implements [io.Reader].
func (u *reader) Read(p []byte) (int, error) {
	for len(u.ready) == 0 {
		if u.err != nil {
			return 0, u.err
		}
		kept := copy(u.block[:], u.tail)
		n, err := u.r.Read(u.block[kept:])
		text := u.block[:kept+n]
		u.err, u.tail = err, nil
		if err == nil {
			whole := wholeRunes(text)
			u.tail = bytes.Clone(text[whole:])
			text = text[:whole]
		}
		u.ready = bytes.ToUpper(text)
	}
	n := copy(p, u.ready)
	u.ready = u.ready[n:]
	return n, nil
}

// wholeRunes is the length of text without the letter that is cut at its end, if any.
func wholeRunes(text []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if c := text[len(text)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(text[len(text)-i:]) {
				return len(text) - i
			}
			break
		}
	}
	return len(text)
}

// Close closes the stream underneath.
func (u *reader) Close() error {
	if u.close == nil {
		return nil
	}
	return u.close()
}
