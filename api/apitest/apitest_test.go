package apitest

import (
	"errors"
	"io"
	"strings"
	"testing"

	"outrigger.dev/api"
)

func TestRouter(t *testing.T) {
	tell := func(name string) api.Handler {
		return func(c *api.Call) error {
			text := name
			for _, p := range c.Route.Parameters() {
				text += " " + p + "=" + c.Parameter(p)
			}
			c.ReplyJSON([]byte(text))
			return nil
		}
	}
	r := Router{
		{Methods: []string{"GET"}, Path: "/a/{x}/{y}", Handler: tell("two")},
		{Methods: []string{"GET", "PUT"}, Path: "/a/{x}/bulk", Handler: tell("bulk")},
		{Methods: []string{"POST"}, Path: "/t/{topic...}", Handler: tell("rest")},
		{Methods: []string{"GET"}, Path: "/fail", Handler: func(*api.Call) error { return api.ErrMalformed("no") }},
		{Methods: []string{"GET"}, Path: "/stream", Handler: func(c *api.Call) error {
			c.ReplyStream(io.NopCloser(io.MultiReader(strings.NewReader("part"), failing{errors.New("cut")})), -1)
			return nil
		}},
	}
	for _, tc := range []struct {
		method, target string
		status         int
		body           string
	}{
		{"GET", "/a/1/2", 200, "two x=1 y=2"},
		{"GET", "/a/1/bulk", 200, "bulk x=1"},
		{"PUT", "/a/1/bulk", 200, "bulk x=1"},
		{"PUT", "/a/1/2", 404, ""},
		{"GET", "/a/s%2Fl+s/2?q=/x", 200, "two x=s/l s y=2"},
		{"GET", "/a/1/", 404, ""},
		{"GET", "/a//2", 404, ""},
		{"GET", "/a/1", 404, ""},
		{"GET", "/a/1/2/3", 404, ""},
		{"POST", "/t/a/b%20c", 200, "rest topic=a/b c"},
		{"GET", "/fail", 400, `{"errorCode":"ERR_MALFORMED_REQUEST","message":"no"}`},
		{"GET", "/stream", 200, "part"},
	} {
		got := r.Do(tc.method, tc.target, "")
		if got.Status != tc.status || string(got.Body) != tc.body || got.Unrouted != (tc.status == 404) {
			t.Errorf("%s %s: %d %q", tc.method, tc.target, got.Status, got.Body)
		}
		if (tc.target == "/stream") != (got.StreamError != nil) {
			t.Errorf("%s: stream error %v", tc.target, got.StreamError)
		}
	}
}

func TestExchange(t *testing.T) {
	x := New("POST", "/a%20b?c=d", "body", "if-match", "1", "x-a", "2", "x-a", "3")
	if x.Path() != "/a b" || x.RawPath() != "/a%20b" || x.RawQuery() != "c=d" || x.ContentLength() != 4 {
		t.Errorf("%s %s %s %d", x.Path(), x.RawPath(), x.RawQuery(), x.ContentLength())
	}
	if string(x.Header("If-Match")) != "1" || x.Header("Missing") != nil {
		t.Error("headers are wrong")
	}
	x.RemoveHeader("X-A")
	n := 0
	for range x.Headers() {
		n++
	}
	if n != 1 {
		t.Errorf("%d headers are left, want 1", n)
	}
	x.BodyError = api.ErrBodyTooLarge
	if _, err := x.ReadBody(); !errors.Is(err, api.ErrBodyTooLarge) {
		t.Error(err)
	}
	if b, err := io.ReadAll(x.BodyReader()); string(b) != "body" || !errors.Is(err, api.ErrBodyTooLarge) {
		t.Errorf("%q, %v", b, err)
	}
}
