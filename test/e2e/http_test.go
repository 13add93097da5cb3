package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"outrigger.dev/test/servers"
)

// raw sends bytes as they are and reads one reply.
func (d *daprd) raw(text string) reply {
	d.t.Helper()
	c, err := net.Dial("tcp", d.httpAddr())
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	if _, err := io.WriteString(c, text); err != nil {
		d.t.Fatal(err)
	}
	method, _, _ := strings.Cut(text, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		d.t.Fatalf("%q: %v", text, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatalf("%q: %v", text, err)
	}
	return reply{resp.StatusCode, resp.Header, string(body), resp.Close, resp.Proto}
}

// target sends a request whose target is taken as it is.
func (d *daprd) target(method, target string, header ...string) reply {
	d.t.Helper()
	text := method + " " + target + " HTTP/1.1\r\nHost: sidecar\r\n"
	for i := 0; i+1 < len(header); i += 2 {
		text += header[i] + ": " + header[i+1] + "\r\n"
	}
	return d.raw(text + "\r\n")
}

const noTarget = "failed getting app id either from the URL path or the header dapr-app-id"

func TestPaths(t *testing.T) {
	t.Parallel()
	d := start(t, memory(), env("SECRET_OF_TEST=x"), resources(component("env", "secretstores.local.env")), appPort(app(t, echo)))
	d.awaitHealthy()
	if r := d.post("/v1.0/state/st", `[{"key":"a/b","value":1},{"key":"a b","value":2},{"key":"a+b","value":3},{"key":"%41","value":4}]`); r.status != 204 {
		t.Fatalf("%+v", r)
	}
	for _, c := range []struct {
		target string
		status int
		body   string // the start of it
	}{
		{"/v1.0/metadata", 200, `{"id":"app"`},
		{"//v1.0///metadata/", 200, `{"id":"app"`},
		{"/v1.0/metadata?x=/../", 200, `{"id":"app"`},
		{"/v1.0/./state/../metadata", 200, `{"id":"app"`},
		{"/../v1.0/metadata", 200, `{"id":"app"`},
		{"http://sidecar/v1.0/metadata", 200, `{"id":"app"`},
		{"/v1.0/state/%2e%2e/metadata", 400, `{"errorCode":"ERR_STATE_STORE_NOT_FOUND"`},
		{"/v1.0/metadatas", 404, `{"errorCode":"ERR_DIRECT_INVOKE"`},
		{"/V1.0/metadata", 404, `{"errorCode":"ERR_DIRECT_INVOKE"`},
		{"/v2.0/metadata", 404, `{"errorCode":"ERR_DIRECT_INVOKE"`},
		{"/v1.0/state/st/a%2Fb", 200, "1"},
		{"/v1.0/state/st/a%2fb", 200, "1"},
		{"/v1.0/state/st/a/b", 404, `{"errorCode":"ERR_DIRECT_INVOKE"`},
		{"/v1.0/state/st/a+b", 200, "2"},
		{"/v1.0/state/st/a%20b", 200, "2"},
		{"/v1.0/state/st/a%2Bb", 200, "3"},
		{"/v1.0/state/st/%2541", 200, "4"},
		{"/v1.0/state/st/bulk", 204, ""},
		{"/v1.0/secrets/env/bulk", 200, "{"},
		{"/v1.0/invoke/app/method/a%2Fb/../c?q=%2F&r", 200, "GET /a/c?q=%2F&r 0"},
		{"//v1.0//invoke/app/method/a", 200, "GET /a 0"},
		{"/v1.0/invoke/app/method/", 200, "GET / 0"},
		{"/v1.0/invoke/app", 404, `{"errorCode":"ERR_DIRECT_INVOKE"`},
	} {
		if r := d.target("GET", c.target); r.status != c.status || !strings.HasPrefix(r.body, c.body) {
			t.Errorf("GET %s: %d %s, want %d %s...", c.target, r.status, r.body, c.status, c.body)
		}
	}
	for _, target := range []string{"/v1.0/state/st/%zz", "/%", "/v1.0/invoke/app/method/%1"} {
		if r := d.target("GET", target); r.status != 400 || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") || !r.close {
			t.Errorf("GET %s: %+v", target, r)
		}
	}
	for _, text := range []string{"nonsense\r\n\r\n", "GET /v1.0/healthz HTTP/1.1\r\nno colon\r\n\r\n"} {
		if r := d.raw(text); r.status != 400 || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") || !r.close {
			t.Errorf("%q: %+v", text, r)
		}
	}
}

func TestUnknownRoutes(t *testing.T) {
	t.Parallel()
	d := start(t, memory(), appPort(app(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s id=%q authorization=%q", r.Method, r.URL.RequestURI(), r.Header.Get("dapr-app-id"), r.Header.Get("Authorization"))
	})))
	d.awaitHealthy()
	for _, c := range [][2]string{{"POST", "/v1.0/healthz"}, {"PATCH", "/v1.0/state/st/k"}, {"OPTIONS", "/v1.0/metadata"}, {"GET", "/"}, {"GET", "/v1.0"}, {"BREW", "/x"}} {
		r := d.do(c[0], c[1], "")
		r.isError(t, 404, "ERR_DIRECT_INVOKE", noTarget)
		if r.header.Get("Allow") != "" {
			t.Errorf("%v: %+v", c, r)
		}
	}
	if r := d.target("HEAD", "/v1.0/metadata"); r.status != 404 || r.body != "" {
		t.Errorf("HEAD is not implied by GET: %+v", r)
	}
	if r := d.post("/v1.0/healthz?a=b", "", "dapr-app-id", "app"); r.body != `POST /v1.0/healthz?a=b id="" authorization=""` {
		t.Errorf("forwarded by header: %+v", r)
	}
	basic := "Basic ZGFwci1hcHAtaWQ6YXBw" // dapr-app-id:app
	if r := d.get("/any/where", "Authorization", basic); r.body != fmt.Sprintf(`GET /any/where id="" authorization=%q`, basic) {
		t.Errorf("forwarded by authorization: %+v", r)
	}
	if r := d.get("/v1.0/metadata", "dapr-app-id", "app"); !strings.HasPrefix(r.body, `{"id":"app"`) {
		t.Errorf("a route that matches wins: %+v", r)
	}
	for path, want := range map[string]string{
		"/v1.0/invoke/a.b.c/method/x":   "invalid app id a.b.c",
		"/v1.0/invoke/app/method/a%00b": "rpc error: code = InvalidArgument desc = invalid method",
		"/v1.0/invoke/app/method/a%23b": "invalid method",
		"/v1.0/invoke/nobody/method/x":  "failed to invoke, id: nobody, err: ",
	} {
		d.get(path).isError(t, 500, "ERR_DIRECT_INVOKE", want)
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	token := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "token %q", r.Header.Get("dapr-api-token"))
	}
	port := app(t, token)
	d := start(t, appPort(port), env("DAPR_API_TOKEN=secret"), args("--allowed-origins", "*"))
	d.awaitHealthy()
	for _, header := range [][]string{nil, {"dapr-api-token", "wrong"}, {"dapr-api-token", "Secret"}, {"dapr-api-token", "wrong", "dapr-api-token", "secret"}} {
		r := d.get("/v1.0/metadata", header...)
		if r.status != 401 || r.body != "invalid api token\n" || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") || r.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%v: %+v", header, r)
		}
	}
	if r := d.get("/v1.0/metadata", "dapr-api-token", "secret"); r.status != 200 {
		t.Errorf("right token: %+v", r)
	}
	for _, c := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/v1.0/healthz", 204},
		{"GET", "/v1.0/healthz/", 204},
		{"GET", "/v1.0/healthz/outbound", 204},
		{"GET", "/v1.0/healthz?appid=app", 204},
		{"GET", "/v1.0//healthz", 401},
		{"POST", "/v1.0/healthz", 401},
		{"PUT", "/v1.0/metadata/k", 401},
		{"POST", "/v1.0/shutdown", 401},
		{"GET", "/nothing", 401},
		{"OPTIONS", "/v1.0/metadata", 401},
	} {
		if r := d.target(c.method, c.target); r.status != c.status {
			t.Errorf("%s %s: %+v", c.method, c.target, r)
		}
	}
	if r := d.target("OPTIONS", "/v1.0/metadata", "Origin", "https://a.example", "Access-Control-Request-Method", "GET"); r.status != 200 {
		t.Errorf("a preflight needs no token: %+v", r)
	}
	if r := d.get("/v1.0/invoke/app/method/x", "dapr-api-token", "secret"); r.body != `token ""` {
		t.Errorf("the token was passed on: %+v", r)
	}
	open := start(t, appPort(port))
	open.awaitHealthy()
	if r := open.get("/v1.0/invoke/app/method/x", "dapr-api-token", "mine"); r.body != `token "mine"` {
		t.Errorf("without a token of its own the sidecar leaves the header alone: %+v", r)
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	const allowOrigin, allowMethods, allowHeaders = "Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers"
	vary := func(r reply) string { return strings.Join(r.header.Values("Vary"), ", ") }
	all := start(t, args("--allowed-origins", "*"))
	list := start(t, args("--allowed-origins", "https://a.example,https://*.b.example"))
	none := start(t)
	for _, c := range []struct {
		d              *daprd
		origin, answer string
	}{
		{all, "https://any.example", "*"},
		{all, "", ""},
		{list, "https://a.example", "https://a.example"},
		{list, "https://x.b.example", "https://x.b.example"},
		{list, "https://b.example", ""},
		{list, "https://a.example.evil", ""},
		{list, "http://a.example", ""},
		{none, "https://a.example", ""},
	} {
		header := []string{"Origin", c.origin}
		if c.origin == "" {
			header = nil
		}
		r := c.d.get("/v1.0/metadata", header...)
		wantVary := "Origin"
		if c.d == none {
			wantVary = ""
		}
		if r.status != 200 || r.header.Get(allowOrigin) != c.answer || vary(r) != wantVary || r.header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("origin %q: %+v", c.origin, r)
		}
		r = c.d.do("OPTIONS", "/v1.0/state/st", "", append(header, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-one, content-type")...)
		if c.d == none {
			r.isError(t, 404, "ERR_DIRECT_INVOKE", "")
			continue
		}
		methods, headers := "", ""
		if c.answer != "" {
			methods, headers = "POST", "X-One, Content-Type"
		}
		if r.status != 200 || r.body != "" || r.header.Get(allowOrigin) != c.answer || r.header.Get(allowMethods) != methods || r.header.Get(allowHeaders) != headers ||
			vary(r) != "Origin, Access-Control-Request-Method, Access-Control-Request-Headers" || r.header.Get("Access-Control-Max-Age") != "" {
			t.Errorf("preflight of %q: %+v", c.origin, r)
		}
	}
	if r := all.do("OPTIONS", "/v1.0/state/st", "", "Origin", "https://a.example", "Access-Control-Request-Method", "TRACE"); r.status != 200 || r.header.Get(allowOrigin) != "" {
		t.Errorf("preflight of a verb that is not allowed: %+v", r)
	}
	all.do("OPTIONS", "/v1.0/state/st", "", "Origin", "https://a.example").isError(t, 404, "ERR_DIRECT_INVOKE", noTarget)
}

func TestAPILists(t *testing.T) {
	t.Parallel()
	rules := func(kind string, rules ...string) string {
		return "spec:\n  api:\n    " + kind + ":\n    - " + strings.Join(rules, "\n    - ") + "\n"
	}
	for _, c := range []struct {
		name, config   string
		served, hidden []string
		plain          bool // unknown paths are plain 404, for there is no invocation
	}{
		{
			"allowed by group", rules("allowed", "{name: state, version: v1, protocol: HTTP}", "{name: invoke, version: v1, protocol: http}"),
			[]string{"/v1.0/state/st/k", "/v1.0/healthz", "/v1.0/healthz/outbound"},
			[]string{"/v1.0/metadata", "/v1.0/secrets/x/y"},
			false,
		},
		{
			"allowed by prefix", rules("allowed", "{name: s, version: v1.0, protocol: http}"),
			[]string{"/v1.0/state/st/k", "/v1.0/healthz"},
			[]string{"/v1.0/metadata"},
			true,
		},
		{
			"a store's name never matches", rules("allowed", "{name: state/st, version: v1.0, protocol: http}"),
			[]string{"/v1.0/healthz"},
			[]string{"/v1.0/state/st/k", "/v1.0/metadata"},
			true,
		},
		{
			"other protocols do not count", rules("allowed", "{name: state, version: v1, protocol: grpc}", "{name: state, version: v1}"),
			[]string{"/v1.0/state/st/k", "/v1.0/metadata"},
			nil, false,
		},
		{
			"denied", rules("denied", "{name: metadata, version: v1.0, protocol: http}", "{name: healthz, version: v1, protocol: http}"),
			[]string{"/v1.0/state/st/k", "/v1.0/healthz"},
			[]string{"/v1.0/metadata"},
			false,
		},
		{
			"denied wins", rules("denied", "{name: state, version: v1, protocol: http}") + "    allowed:\n    - {name: state, version: v1, protocol: http}\n",
			[]string{"/v1.0/healthz"},
			[]string{"/v1.0/state/st/k"},
			true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			public := servers.FreePort(t)
			d := start(t, memory(), config(c.config), args("--dapr-public-port", strconv.Itoa(public), "--dapr-public-listen-address", "127.0.0.1"))
			d.awaitHealthy()
			for _, path := range c.served {
				if r := d.get(path); r.status != 200 && r.status != 204 {
					t.Errorf("%s: %+v", path, r)
				}
			}
			for _, path := range c.hidden {
				r := d.get(path)
				if !c.plain {
					r.isError(t, 404, "ERR_DIRECT_INVOKE", noTarget)
				} else if r.status != 404 || r.body != "404 page not found\n" {
					t.Errorf("%s: %+v", path, r)
				}
			}
			r, err := request(d.client, "GET", fmt.Sprintf("http://127.0.0.1:%d/v1.0/metadata", public), nil)
			if hidden := slices.Contains(c.hidden, "/v1.0/metadata"); err == nil && hidden != (r.status == 404) && c.name != "denied wins" {
				t.Errorf("metadata on the public port: %+v, %v", r, err)
			}
			if c.plain && slices.Contains(c.served, "/v1.0/state/st/k") {
				if r := d.do("PATCH", "/v1.0/state/st/k", ""); r.status != 405 || r.body != "" || strings.Join(slices.Sorted(slices.Values(r.header.Values("Allow"))), ",") != "DELETE,GET" {
					t.Errorf("wrong verb: %+v", r)
				}
			}
		})
	}
}

func TestBaggage(t *testing.T) {
	t.Parallel()
	d := start(t, appPort(app(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Baggage")) })), config("spec:\n  tracing: {samplingRate: \"1\"}\n"))
	d.awaitHealthy()
	const good = "a=1,b=%20x;p=q"
	if r := d.get("/v1.0/invoke/app/method/x", "Baggage", good); r.status != 200 || r.header.Get("Baggage") != good || r.body != good {
		t.Errorf("good: %+v", r)
	}
	r := d.get("/v1.0/metadata", "Baggage", "no value")
	if r.status != 400 || !strings.HasPrefix(r.body, "invalid baggage header: ") || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") {
		t.Errorf("bad: %+v", r)
	}
	if r := d.get("/v1.0/healthz", "Baggage", "no value"); r.status != 204 {
		t.Errorf("health: %+v", r)
	}
	off := start(t, config("spec:\n  tracing: {samplingRate: \"0\"}\n"))
	if r := off.get("/v1.0/metadata", "Baggage", "no value"); r.status != 200 || r.header.Get("Baggage") != "" {
		t.Errorf("without tracing: %+v", r)
	}
}
