package middleware

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"outrigger.dev/invocation"
)

func TestPaths(t *testing.T) {
	for uri, want := range map[string][3]string{ // path, query, decoded path
		"/a/b?x=1?y":      {"/a/b", "x=1?y", "/a/b"},
		"a":               {"/a", "", "/a"},
		"":                {"/", "", "/"},
		"/a%2Fb/../c%20d": {"/a%2Fb/../c%20d", "", "/a/c d"},
		"//a/./b/":        {"//a/./b/", "", "/a/b"},
		"/%2e%2e/x":       {"/%2e%2e/x", "", "/x"},
		"/%zz/x":          {"/%zz/x", "", "/%zz/x"},
	} {
		var r Request
		r.SetURI(uri)
		if r.Path != want[0] || r.RawQuery != want[1] || r.DecodedPath() != want[2] {
			t.Errorf("%q: %q %q %q", uri, r.Path, r.RawQuery, r.DecodedPath())
		}
		if got := r.URI(); got != want[0] && got != want[0]+"?"+want[1] {
			t.Errorf("%q: %q", uri, got)
		}
	}
}

func TestBodies(t *testing.T) {
	r := &Request{Body: strings.NewReader("0123"), Length: -1, MaxBodyBytes: 4}
	for range 2 {
		if body, err := r.ReadBody(); err != nil || string(body) != "0123" || r.Length != 4 {
			t.Error(body, err, r.Length)
		}
	}
	if _, err := (&Request{Body: strings.NewReader("01234"), Length: -1, MaxBodyBytes: 4}).ReadBody(); !errors.Is(err, invocation.ErrTooLarge) {
		t.Error(err)
	}
	if r.SetBody(nil); r.Length != 0 {
		t.Error(r.Length)
	}
	if body, ok := r.Buffered(); !ok || len(body) != 0 {
		t.Error(body, ok)
	}
	resp := &Response{Stream: io.NopCloser(bytes.NewReader([]byte("xyz"))), Length: -1}
	if body, err := resp.ReadBody(0); err != nil || string(body) != "xyz" || resp.Stream != nil || resp.Length != 3 {
		t.Error(body, err, resp)
	}
	if text := Text(404, ""); string(text.Body) != "Not Found\n" || string(text.Header.Get("content-type")) != "text/plain; charset=utf-8" {
		t.Error(text)
	}
}

func FuzzDecodedPath(f *testing.F) {
	f.Add("/a%2f..%2fb//c/")
	f.Fuzz(func(t *testing.T, p string) {
		got := (&Request{Path: p}).DecodedPath()
		if !strings.HasPrefix(got, "/") || CleanPath(got) != got {
			t.Errorf("%q: %q", p, got)
		}
	})
}
