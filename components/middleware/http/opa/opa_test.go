package opa

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"outrigger.dev/components/middleware"
	"outrigger.dev/components/middleware/middlewaretest"
)

var opener = middlewaretest.Opener{Register: Register, Name: "http.opa"}

func open(t testing.TB, rego string, more map[string]string) middleware.Middleware {
	properties := map[string]string{"rego": rego}
	for name, value := range more {
		properties[name] = value
	}
	return opener.Open(t, properties)
}

// input is a policy that checks each part of its input.
const input = `package http
default allow = false
allow = true {
	r := input.request
	r.method == "POST"
	r.path == "/v1.0/invoke/a b/method/x"
	r.path_parts == ["v1.0", "invoke", "a b", "method", "x"]
	r.raw_query == "q=1&q=2&e="
	r.query == {"q": ["1", "2"], "e": [""]}
	r.headers == {"X-One": "a, b", "Host": "sidecar:3500"}
	r.scheme == "http"
	r.body == "hello"
}`

func TestInput(t *testing.T) {
	mw := open(t, input, map[string]string{"includedHeaders": "x-one, HOST,X-Absent", "readBody": "true"})
	req := func() *middleware.Request {
		r := middlewaretest.Request("POST", "/v1.0//invoke/a%20b/method/y/../x?q=1&q=2&e=", "x-one: a", "X-One: b", "Secret: s")
		r.Body, r.Length = strings.NewReader("hello"), 5
		return r
	}
	if r := middlewaretest.Do(t, mw, req()); r.Status != 200 || r.Body != "hello" {
		t.Error(r.Status, r.Text)
	}
	// Without readBody the policy does not see the body.
	mw = open(t, input, map[string]string{"includedHeaders": "x-one, HOST,X-Absent"})
	middlewaretest.Do(t, mw, req()).Refused(t, 403, "Forbidden")
}

func TestDecisions(t *testing.T) {
	object := func(members string) string { return "package http\nallow = {" + members + "}" }
	for name, c := range map[string]struct {
		rego    string
		more    map[string]string
		status  int // 200: it comes through
		header  string
		failure bool
	}{
		"true":               {rego: "package http\nallow = true", status: 200},
		"false":              {rego: "package http\nallow = false", status: 403},
		"default status":     {rego: "package http\nallow = false", more: map[string]string{"defaultStatus": "401"}, status: 401},
		"unknown status":     {rego: "package http\nallow = false", more: map[string]string{"defaultStatus": "799"}, status: 500},
		"object true":        {rego: object(`"allow": true, "additional_headers": {"X-New": "1"}`), status: 200, header: "1"},
		"object false":       {rego: object(`"allow": false`), status: 403},
		"object status":      {rego: object(`"allow": false, "status_code": 302, "additional_headers": {"X-New": "2"}`), status: 302, header: "2"},
		"object bad status":  {rego: object(`"allow": false, "status_code": 799`), status: 500},
		"undefined":          {rego: "package http\nallow { input.request.method == \"NONE\" }", status: 403, failure: true},
		"another package":    {rego: "package other\nallow = true", status: 403, failure: true},
		"number":             {rego: "package http\nallow = 1", status: 403, failure: true},
		"string":             {rego: "package http\nallow = \"true\"", more: map[string]string{"defaultStatus": "418"}, status: 418, failure: true},
		"no allow":           {rego: object(`"status_code": 200`), status: 403, failure: true},
		"allow is text":      {rego: object(`"allow": "true"`), status: 403, failure: true},
		"status is text":     {rego: object(`"allow": false, "status_code": "x"`), status: 403, failure: true},
		"header is a number": {rego: object(`"allow": true, "additional_headers": {"X-New": 1}`), status: 403, failure: true},
		"evaluation fails":   {rego: "package http\nallow = x { x := a[_] }\na = [true, false]", status: 403, failure: true},
	} {
		r := middlewaretest.Do(t, open(t, c.rego, c.more), middlewaretest.Request("GET", "/", "X-New: old"))
		if c.status == 200 {
			if r.Seen == nil || r.Status != 200 {
				t.Errorf("%s: %d", name, r.Status)
			} else if got := string(r.Seen.Header.Get("X-New")); c.header != "" && got != c.header {
				t.Errorf("%s: the header is %q", name, got)
			}
			continue
		}
		if r.Refused(t, c.status, http.StatusText(c.status)); t.Failed() {
			t.Fatal(name)
		}
		if got := string(r.Header.Get("X-New")); got != c.header {
			t.Errorf("%s: the header is %q", name, got)
		}
		if got := string(r.Header.Get("x-dapr-opa-error")); (got == "true") != c.failure {
			t.Errorf("%s: x-dapr-opa-error is %q", name, got)
		}
	}
}

func TestTheClientLeaves(t *testing.T) {
	asked := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	defer s.Close()
	mw := open(t, "package http\nallow { http.send({\"method\": \"GET\", \"url\": \""+s.URL+"\", \"timeout\": \"1h\"}).status_code == 200 }", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() { <-asked; cancel() }()
	start := time.Now()
	if _, err := mw.Handle(ctx, middlewaretest.Request("GET", "/"), nil); err != context.Canceled || time.Since(start) > 20*time.Second {
		t.Error(err, time.Since(start))
	}
	// A policy that computes for ever ends as well.
	mw = open(t, "package http\nallow { count([1 | numbers.range(1, 100000)[_]; numbers.range(1, 100000)[_]]) > 0 }", nil)
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := mw.Handle(ctx, middlewaretest.Request("GET", "/"), nil); err != context.DeadlineExceeded {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	for rego, want := range map[string]string{"": `"rego" is required`, "allow = true": "package expected", "package http\nallow { x }": "unsafe"} {
		if _, err := opener.Try(t, map[string]string{"rego": rego}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", rego, err)
		}
	}
}

func TestSuite(t *testing.T) {
	middlewaretest.Suite(t, func(t testing.TB) middleware.Middleware {
		return open(t, "package http\nallow { input.request.method == \"POST\" }", map[string]string{"readBody": "true"})
	}, func() *middleware.Request { return middlewaretest.Request("POST", "/") })
}

func BenchmarkDecide(b *testing.B) {
	mw := open(b, input, map[string]string{"includedHeaders": "x-one"})
	next := func(context.Context, *middleware.Request) (*middleware.Response, error) { return nil, nil }
	for b.Loop() {
		_, _ = mw.Handle(b.Context(), middlewaretest.Request("GET", "/v1.0/invoke/a/method/x?q=1", "x-one: a"), next)
	}
}
