package routeralias

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"outrigger.dev/components/middleware"
	"outrigger.dev/components/middleware/middlewaretest"
)

var opener = middlewaretest.Opener{Register: Register, Name: "http.routeralias"}

const routes = `{
  "/v1.0/mall/activity/info": "/v1.0/invoke/srv.default/method/mall/activity/info",
  "/v1.0/hello/{activity}/info": "/v1.0/invoke/srv.default/method/hello/activity/info",
  "/v1.0/hello/fixed/info": "/fixed",
  "/n/{id:[0-9]{2,3}}/{rest:.*}": "/number?kind=n",
  "/g/{a:(x|y)+}/{b}": "/g",
  "/escaped": "/a%2Fb/c d",
  "/end/": "/end"
}`

func TestRoutes(t *testing.T) {
	for name, properties := range map[string]map[string]string{
		"JSON": {"routes": routes},
		"YAML": {"routes": `
/v1.0/mall/activity/info: /v1.0/invoke/srv.default/method/mall/activity/info
"/v1.0/hello/{activity}/info": /v1.0/invoke/srv.default/method/hello/activity/info
/v1.0/hello/fixed/info: /fixed
"/n/{id:[0-9]{2,3}}/{rest:.*}": /number?kind=n
"/g/{a:(x|y)+}/{b}": /g
/escaped: /a%2Fb/c d
/end/: /end
`},
	} {
		mw := opener.Open(t, properties)
		for target, want := range map[string]string{
			"/v1.0/mall/activity/info":     "/v1.0/invoke/srv.default/method/mall/activity/info",
			"/v1.0/mall/activity/info?a=1": "/v1.0/invoke/srv.default/method/mall/activity/info?a=1",
			"/v1.0//mall/activity/inf%6f/": "/v1.0/invoke/srv.default/method/mall/activity/info",
			"/v1.0/hello/tour/info?a=1":    "/v1.0/invoke/srv.default/method/hello/activity/info?a=1&activity=tour",
			"/v1.0/hello/a%26b%20c/info":   "/v1.0/invoke/srv.default/method/hello/activity/info?activity=a%26b+c",
			"/v1.0/hello/fixed/info":       "/fixed",
			"/v1.0/hello/a/b/info":         "/v1.0/hello/a/b/info",
			"/n/12/x/y":                    "/number?kind=n&id=12&rest=x%2Fy",
			"/n/1234/x":                    "/n/1234/x",
			"/g/xyx/z":                     "/g?a=xyx&b=z",
			"/escaped":                     "/a%2Fb/c%20d",
			"/end":                         "/end",
			"/none?x=%zz":                  "/none?x=%zz",
		} {
			if r := middlewaretest.Do(t, mw, middlewaretest.Request("GET", target)); r.Seen.URI() != want {
				t.Errorf("%s: %s became %s, want %s", name, target, r.Seen.URI(), want)
			}
		}
	}
}

func TestLegacy(t *testing.T) {
	var log bytes.Buffer
	o := opener
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	mw := o.Open(t, map[string]string{"/a/{x}": "/b", "routes": `{"/c": "/d"}`})
	for target, want := range map[string]string{"/a/1": "/b?x=1", "/c": "/d"} {
		if r := middlewaretest.Do(t, mw, middlewaretest.Request("GET", target)); r.Seen.URI() != want {
			t.Errorf("%s: %s", target, r.Seen.URI())
		}
	}
	if !strings.Contains(log.String(), "deprecated") {
		t.Error(log.String())
	}
	log.Reset()
	if o.Open(t, map[string]string{"routes": `{"/c": "/d"}`}); log.Len() > 0 {
		t.Error(log.String())
	}
}

func TestOptions(t *testing.T) {
	for text, want := range map[string]string{
		"[": "neither JSON nor YAML", "[a]": "must be an object", `{"/a": {}}`: "in line 1", `{"a": "/b"}`: `"a" must begin with "/"`, `{"/a": "b"}`: `the target "b"`,
		`{"/{": "/b"}`: "a { without a }", `{"/}": "/b"}`: "a } without a {", `{"/{}": "/b"}`: "without a name", `{"/{a}/{a}": "/b"}`: `"a" twice`, `{"/{a:(}": "/b"}`: "not a regular expression",
	} {
		if _, err := opener.Try(t, map[string]string{"routes": text}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestSuite(t *testing.T) {
	middlewaretest.Suite(t, func(t testing.TB) middleware.Middleware { return opener.Open(t, map[string]string{"routes": routes}) },
		func() *middleware.Request { return middlewaretest.Request("POST", "/v1.0/hello/x/info") })
}

func FuzzRoutes(f *testing.F) {
	f.Add(routes, "/n/12/x")
	f.Add("a: &a [*a]", "/")
	f.Add(`{"/{a:[^}]}": "/%zz?"}`, "/%2f")
	f.Fuzz(func(t *testing.T, text, path string) {
		o := Options{Routes: text}
		if o.Check() != nil {
			return
		}
		for i := range o.routes {
			if values, ok := o.routes[i].match(path); ok {
				req := middlewaretest.Request("GET", path)
				if o.routes[i].apply(req, values); !strings.HasPrefix(req.Path, "/") {
					t.Errorf("%q", req.Path)
				}
			}
		}
	})
}
