package invocation_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

func basicAuth(text string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(text))
}

// The three ways to name the target, and what names none.
func TestAddressing(t *testing.T) {
	w := newWorld(t, []string{"http"}, func(p string) sidecartest.Option { return startApp(t, p) })
	for _, tc := range []struct {
		path   string
		header []string
		want   string // the path that the app saw, or the message of the error
		status int
	}{
		{path: "/v1.0/invoke/app-http/method/a/b", want: "/a/b", status: 200},
		{path: "//v1.0///invoke//app-http/method/a", want: "/a", status: 200},
		{path: "/v1.0/invoke/app-http/method/", want: "/", status: 200},
		{path: "/v1.0/invoke/app-http/method//a//method/x/", want: "/a/method/x", status: 200},
		{path: "/v1.0/invoke/app-http.default/method/a", want: "/a", status: 200},
		{path: "/v1.0/invoke/app-http./method/a", want: "/a", status: 200},
		{path: "/v1.0/invoke/app%2Dhttp/method/a", want: "/a", status: 200},
		{path: "/v1.0/invoke/app%252Dhttp/method/a", want: "/a", status: 200},
		{path: "/a/b?q=1", header: []string{"Dapr-App-Id", "app-http"}, want: "/a/b", status: 200},
		{path: "/v1.0/unknown", header: []string{"Dapr-App-Id", "app-http.default"}, want: "/v1.0/unknown", status: 200},
		{path: "/v1.0/invoke/nobody/method/x", header: []string{"Dapr-App-Id", "app-http"}, want: "/v1.0/invoke/nobody/method/x", status: 200},
		{path: "/a", header: []string{"Authorization", basicAuth("dapr-app-id:app-http")}, want: "/a", status: 200},
		{path: "/a", header: []string{"Authorization", basicAuth("Dapr-App-ID:app-http")}, want: "/a", status: 200},
		{path: "/", header: []string{"Dapr-App-Id", "app-http"}, want: "/", status: 200},
		{path: "/v1.0/invoke/app-http", status: 404},
		{path: "/v1.0/invoke/app-http/method", status: 404},
		{path: "/v1.0/invoke//method/a", status: 404},
		{path: "/v1.0/invoke", status: 404},
		{path: "/v2.0/x", status: 404},
		{path: "/", status: 404},
		{path: "/a", header: []string{"Dapr-App-Id", ""}, status: 404},
		{path: "/a", header: []string{"Authorization", basicAuth("dapr-app-id:a:b")}, status: 404},
		{path: "/a", header: []string{"Authorization", basicAuth("someone:app-http")}, status: 404},
		{path: "/a", header: []string{"Authorization", "Basic !!"}, status: 404},
		{path: "/v1.0/invoke/a.b.c/method/a", want: "failed to invoke, id: a.b.c, err: invalid app id a.b.c", status: 500},
		{path: "/a", header: []string{"Dapr-App-Id", "a.b.c"}, want: "failed to invoke, id: a.b.c, err: invalid app id a.b.c", status: 500},
		{path: "/v1.0/invoke/caller/method/a", want: "failed to invoke, id: caller, err: cannot invoke local endpoint: app channel not initialized", status: 500},
		{path: "/v1.0/invoke/nobody/method/a", want: "failed to invoke, id: nobody, err: couldn't find service: nobody", status: 500},
	} {
		for name, s := range map[string]*sidecartest.Sidecar{"exchange": w.byExchange, "grpc": w.byGRPC} {
			for _, client := range []*http.Client{w.http1, w.http2} {
				resp, body := w.do(t, client, "POST", s.URL+tc.path, "x", tc.header...)
				if resp.StatusCode != tc.status {
					t.Errorf("%s %s %v: %d %s", name, tc.path, tc.header, resp.StatusCode, body)
					continue
				}
				switch tc.status {
				case 404:
					if got := message(t, body); got != "failed getting app id either from the URL path or the header dapr-app-id" {
						t.Errorf("%s: %s", tc.path, got)
					}
				case 500:
					if got := message(t, body); got != tc.want {
						t.Errorf("%s: %s", tc.path, got)
					}
				default:
					saw := decode(t, body)
					if saw.Path != tc.want || saw.get("dapr-app-id") != "" || len(tc.header) > 0 && tc.header[0] == "Authorization" && saw.get("authorization") != tc.header[1] {
						t.Errorf("%s %s %v: the app saw %+v", name, tc.path, tc.header, saw)
					}
				}
			}
		}
	}
	// A route of the API wins over the header.
	if resp, body := w.do(t, w.http1, "GET", w.byExchange.URL+"/v1.0/metadata", "", "Dapr-App-Id", "app-http"); resp.StatusCode != 200 || !strings.Contains(body, `"id":"caller"`) {
		t.Errorf("metadata: %d %s", resp.StatusCode, body)
	}
	// A wrong verb of a route is a call.
	if resp, body := w.do(t, w.http1, "POST", w.byExchange.URL+"/v1.0/metadata", "", "Dapr-App-Id", "app-http"); resp.StatusCode != 200 || decode(t, body).Path != "/v1.0/metadata" {
		t.Errorf("POST of metadata: %d %s", resp.StatusCode, body)
	}
}

// What a client can put into a method, and what of it arrives: the app is called with the very string that was checked.
func TestMethods(t *testing.T) {
	all := []string{"http", "h2c", "grpc"}
	w := newWorld(t, all, func(p string) sidecartest.Option { return startApp(t, p) })
	w.each(t, func(t *testing.T, protocol string, r route) {
		for sent, want := range map[string]string{
			"admin%2F..%2Fpublic":  "/public",
			"..%2F..%2Fetc":        "/etc",
			"../../etc":            "/v1.0/etc", // the whole path is cleaned by nobody before the target is cut out
			"public///extra":       "/public/extra",
			"foo/":                 "/foo",
			"a/./b/../c":           "/a/c",
			"a%2Fb":                "/a/b",
			"a%20b":                "/a b",
			"a+b":                  "/a+b",
			"test%22x":             `/test"x`,
			"test%2Ax":             "/test*x",
			"test%5Cx":             `/test\x`,
			"te%2541st":            "/te%41st",
			"100%25":               "/100%",
			"%25zz":                "/%zz",
			"semi;colon":           "/semi;colon",
			"%E4%BD%A0":            "/你",
			"caf%C3%A9/x":          "/café/x",
			"a%253Fb%2523":         "/a%3Fb%23",
			"test%23x":             "",
			"test%3Fx":             "",
			"test%00x":             "",
			"test%0Dx":             "",
			"test%0Ax":             "",
			"test%7Fx":             "",
			"test%1Fx":             "",
			"test?a=1&b=%23#":      "/test",
			"test?a=b?c&d=%GG&e=é": "/test",
		} {
			if sent == "../../etc" {
				want = "/etc"
			}
			resp, body := mustRaw(t, r.via, "GET /v1.0/invoke/app-"+protocol+"/method/"+sent+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if want == "" {
				text := message(t, body)
				if resp.StatusCode != 500 || !strings.Contains(text, "rpc error: code = InvalidArgument desc = invalid method: method contains ") {
					t.Errorf("%s: %d %s", sent, resp.StatusCode, body)
				}
				continue
			}
			if resp.StatusCode != 200 {
				t.Errorf("%s: %d %s", sent, resp.StatusCode, body)
				continue
			}
			saw := decode(t, body)
			if isGRPC(protocol) {
				want = want[1:]
			}
			_, query, _ := strings.Cut(sent, "?")
			query, _, _ = strings.Cut(query, "#")
			if saw.Path != want || !strings.HasPrefix(saw.Query, query) {
				t.Errorf("%s: the app saw path %q, query %q", sent, saw.Path, saw.Query)
			}
		}
		// A broken escape of the path is refused before anything looks at it.
		if resp, body := mustRaw(t, r.via, "GET /v1.0/invoke/app-"+protocol+"/method/a%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); resp.StatusCode != 400 {
			t.Errorf("broken escape: %d %s", resp.StatusCode, body)
		}
		// Bytes that are no UTF-8 reach an HTTP app as they are, or are refused; never another path.
		resp, body := mustRaw(t, r.via, "GET /v1.0/invoke/app-"+protocol+"/method/a%FFb HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if isGRPC(protocol) || r.name == "grpc" {
			if resp.StatusCode != 500 || !strings.Contains(body, "UTF-8") {
				t.Errorf("invalid UTF-8: %d %s", resp.StatusCode, body)
			}
		} else if resp.StatusCode != 200 || decode(t, body).Path != "/a\ufffdb" { // JSON shows U+FFFD for the byte
			t.Errorf("invalid UTF-8: %d %s", resp.StatusCode, body)
		}
	})
}

// Verbs pass; the ones that nobody knows are POST; CONNECT is refused.
func TestVerbs(t *testing.T) {
	all := []string{"http", "h2c", "grpc"}
	w := newWorld(t, all, func(p string) sidecartest.Option { return startApp(t, p) })
	w.each(t, func(t *testing.T, protocol string, r route) {
		for _, tc := range [][2]string{
			{"GET", "GET"}, {"POST", "POST"}, {"PUT", "PUT"}, {"DELETE", "DELETE"}, {"OPTIONS", "OPTIONS"}, {"PATCH", "PATCH"}, {"TRACE", "TRACE"}, {"PROPFIND", "POST"}, {"get", "POST"},
		} {
			resp, body := mustRaw(t, r.via, tc[0]+" /v1.0/invoke/app-"+protocol+"/method/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if resp.StatusCode != 200 {
				t.Errorf("%s: %d %s", tc[0], resp.StatusCode, body)
			} else if saw := decode(t, body); saw.Verb != tc[1] || saw.Body != "" {
				t.Errorf("%s: the app saw %+v", tc[0], saw)
			}
		}
		resp, body := w.do(t, w.http1, "HEAD", r.via.URL+"/v1.0/invoke/app-"+protocol+"/method/echo", "")
		if resp.StatusCode != 200 || body != "" {
			t.Errorf("HEAD: %d %q", resp.StatusCode, body)
		}
		if isGRPC(protocol) {
			return
		}
		if resp, body := mustRaw(t, r.via, "CONNECT /v1.0/invoke/app-"+protocol+"/method/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); resp.StatusCode != 500 || !strings.Contains(body, "invalid HTTP verb") {
			t.Errorf("CONNECT: %d %s", resp.StatusCode, body)
		}
	})
}

// Headers that only concern a connection end at each hop; injected lines never become headers; many and long ones pass up to
// the limits.
func TestHeaders(t *testing.T) {
	w := newWorld(t, []string{"http", "h2c", "grpc"}, func(p string) sidecartest.Option { return startApp(t, p) })
	w.each(t, func(t *testing.T, protocol string, r route) {
		start := "POST /v1.0/invoke/app-" + protocol + "/method/echo HTTP/1.1\r\nHost: x\r\n"
		_, body := mustRaw(t, r.via, start+"Connection: close, X-Secret\r\nConnection: X-Other\r\nX-Secret: 1\r\nX-Other: 2\r\nTe: trailers\r\nUpgrade: websocket\r\nX-Kept: 3\r\nContent-Length: 1\r\n\r\nb")
		saw := decode(t, body)
		for _, name := range []string{"x-secret", "x-other", "te", "upgrade", "connection"} {
			if v := saw.get(name); v != "" {
				t.Errorf("%s: %q reached the app", name, v)
			}
		}
		if saw.get("x-kept") != "3" || saw.Body != "b" {
			t.Errorf("the app saw %+v", saw)
		}

		var many strings.Builder
		for i := range 100 {
			fmt.Fprintf(&many, "X-Many-%d: value %d\r\n", i, i)
		}
		_, body = mustRaw(t, r.via, start+many.String()+"Connection: close\r\nContent-Length: 0\r\n\r\n")
		saw = decode(t, body)
		for i := range 100 {
			if got := saw.get(fmt.Sprintf("x-many-%d", i)); got != fmt.Sprintf("value %d", i) {
				t.Fatalf("header %d is %q", i, got)
			}
		}

		// 7,500 bytes are within the limit of the API; 9,000 are not.
		if _, body := mustRaw(t, r.via, start+"X-Long: "+strings.Repeat("l", 7500)+"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"); len(decode(t, body).get("x-long")) != 7500 {
			t.Error("a long header did not arrive whole")
		}
		if resp, _ := mustRaw(t, r.via, start+"X-Long: "+strings.Repeat("l", 9000)+"\r\n\r\n"); resp.StatusCode != 431 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
			t.Errorf("a header over the limit: %d %v", resp.StatusCode, resp.Header)
		}
	})
}

// A reply's header over the limit fails the call, with what to do about it.
func TestLongReplyHeader(t *testing.T) {
	w := newWorld(t, []string{"http", "h2c"}, func(p string) sidecartest.Option {
		return startHTTP(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Long", strings.Repeat("l", 70_000)) }))
	})
	w.each(t, func(t *testing.T, protocol string, r route) {
		resp, body := w.do(t, w.http1, "GET", r.via.URL+"/v1.0/invoke/app-"+protocol+"/method/x", "")
		if text := message(t, body); resp.StatusCode != 500 || !strings.HasPrefix(text, "failed to invoke, id: app-"+protocol+", err: ") {
			t.Errorf("got %d %s", resp.StatusCode, body)
		}
	})
}

// The API's token stays at the API; the app gets its own in place of a forged one.
func TestTokens(t *testing.T) {
	for _, appToken := range []string{"", "for-the-app"} {
		with := sidecartest.With(func(o *sidecar.Options) { o.APIToken, o.AppToken = "for-the-api", appToken })
		w := newWorld(t, []string{"http", "h2c", "grpc"}, func(p string) sidecartest.Option { return startApp(t, p) }, with)
		w.each(t, func(t *testing.T, protocol string, r route) {
			resp, body := w.do(t, w.http1, "GET", r.via.URL+"/v1.0/invoke/app-"+protocol+"/method/echo", "", "Dapr-Api-Token", "for-the-api")
			if resp.StatusCode != 200 {
				t.Fatalf("got %d %s", resp.StatusCode, body)
			}
			saw := decode(t, body)
			if got := saw.Header["dapr-api-token"]; strings.Join(got, ",") != appToken || strings.Contains(body, "for-the-api") {
				t.Errorf("the app got the token %q", got)
			}
			resp, body = w.do(t, w.http1, "GET", r.via.URL+"/v1.0/invoke/app-"+protocol+"/method/echo", "")
			if resp.StatusCode != 401 || body != "invalid api token\n" {
				t.Errorf("without token: %d %q", resp.StatusCode, body)
			}
		})
	}
}
