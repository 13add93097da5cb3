package oauth2

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components/middleware"
	"outrigger.dev/components/middleware/middlewaretest"
)

// provider is a token endpoint that takes the code "good".
func provider(t testing.TB) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("code") != "good" || r.FormValue("redirect_uri") != "https://me.test/callback" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "secret", "token_type": "bearer", "expires_in": 3600})
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func properties(token string, more map[string]string) map[string]string {
	p := map[string]string{"clientID": "me", "clientSecret": "s", "scopes": "a,b", "authURL": "https://login.test/auth", "tokenURL": token, "redirectURL": "https://me.test/callback"}
	for name, value := range more {
		p[name] = value
	}
	return p
}

func opener(clock clockwork.Clock) middlewaretest.Opener {
	return middlewaretest.Opener{Register: Register, Name: "http.oauth2", Clock: clock}
}

// browser keeps one cookie.
type browser struct {
	t      *testing.T
	mw     middleware.Middleware
	cookie string
	flags  string
}

func (b *browser) get(target string, header ...string) middlewaretest.Result {
	b.t.Helper()
	if b.cookie != "" {
		header = append(header, "Cookie: other=1; "+b.cookie+"; more=2")
	}
	r := middlewaretest.Do(b.t, b.mw, middlewaretest.Request("GET", target, header...))
	if set := r.Values("Set-Cookie"); len(set) > 0 {
		b.cookie, b.flags, _ = strings.Cut(set[0], ";")
	}
	return r
}

// login follows the flow up to the provider and returns the state.
func (b *browser) login(target string) (state string) {
	b.t.Helper()
	r := b.get(target)
	to, err := url.Parse(strings.Join(r.Values("Location"), "|"))
	if err != nil || r.Status != 302 || r.Seen != nil || to.Host != "login.test" {
		b.t.Fatalf("%d, %v, %v", r.Status, to, err)
	}
	q := to.Query()
	if q.Get("client_id") != "me" || q.Get("scope") != "a b" || q.Get("response_type") != "code" || q.Get("redirect_uri") != "https://me.test/callback" || len(q.Get("state")) < 20 {
		b.t.Error(q)
	}
	return q.Get("state")
}

func TestFlow(t *testing.T) {
	clock := clockwork.NewFakeClock()
	b := &browser{t: t, mw: opener(clock).Open(t, properties(provider(t), nil))}
	state := b.login("/v1.0/state/s?x=1")
	if b.flags != " Path=/; HttpOnly; SameSite=Lax" {
		t.Error(b.flags)
	}
	before := b.cookie
	other := b.login("/other") // a second tab
	if b.cookie != before {
		t.Error("a second tab gets another cookie")
	}
	r := b.get("/callback?code=good&state=" + state)
	if r.Status != 302 || r.Values("Location")[0] != "/v1.0/state/s?x=1" || b.cookie == before {
		t.Fatal(r.Status, r.Header, r.Text)
	}
	r = b.get("/v1.0/state/s?x=1", "Authorization: mine")
	if r.Status != 200 || string(r.Seen.Header.Get("Authorization")) != "Bearer secret" {
		t.Error(r.Status)
	}
	// The name from before the login is not the session's.
	stranger := &browser{t: t, mw: b.mw, cookie: before}
	if stranger.login("/"); stranger.cookie != before {
		t.Error(stranger.cookie)
	}
	if r := stranger.get("/callback?code=good&state=" + other); r.Values("Location")[0] != "/other" {
		t.Error(r.Header)
	}
	// The token ends.
	clock.Advance(time.Hour + time.Second)
	b.login("/again")
}

func TestRefusals(t *testing.T) {
	clock := clockwork.NewFakeClock()
	b := &browser{t: t, mw: opener(clock).Open(t, properties(provider(t), nil))}
	state := b.login("/")
	b.get("/callback?code=good&state=guessed").Refused(t, 400, "invalid state")
	(&browser{t: t, mw: b.mw}).get("/callback?code=good&state="+state).Refused(t, 400, "invalid state")
	(&browser{t: t, mw: b.mw, cookie: "outrigger_oauth2_x=" + state}).get("/callback?code=good&state="+state).Refused(t, 400, "invalid state")
	b.get("/callback?state="+state).Refused(t, 400, "code not found")
	b.get("/callback?code=good&state="+state).Refused(t, 400, "invalid state") // a state is good for one try
	b.get("/callback?code=bad&state="+b.login("/")).Refused(t, 500, "failed to exchange token")
	state = b.login("/")
	clock.Advance(loginTime)
	b.get("/callback?code=good&state="+state).Refused(t, 400, "invalid state")
}

func TestRedirectStaysHere(t *testing.T) {
	token := provider(t)
	for _, c := range []struct{ target, host, https, want string }{
		{"//evil.test/x", "me.test", "", "/evil.test/x"},
		{`/\evil.test`, "me.test", "", "/evil.test"},
		{`/\/evil.test?a`, "me.test", "", "/evil.test?a"},
		{"/\t/evil.test", "me.test", "", "/"},
		{"/" + strings.Repeat("a", 3000), "me.test", "", "/"},
		{"/x?a=1", "me.test:3500", "true", "https://me.test:3500/x?a=1"},
		{"/x", "me.test@evil.test", "true", "/x"},
		{"/x", "evil.test/y", "true", "/x"},
		{"/x", "", "true", "/x"},
	} {
		mw := opener(nil).Open(t, properties(token, map[string]string{"forceHTTPS": c.https}))
		b := &browser{t: t, mw: mw}
		state := b.login(c.target)
		if secure := strings.Contains(b.flags, "Secure"); secure != (c.https != "") {
			t.Error(b.flags)
		}
		req := middlewaretest.Request("GET", "/callback?code=good&state="+state, "Cookie: "+b.cookie)
		req.Host = c.host
		if got := middlewaretest.Do(t, mw, req).Values("Location"); len(got) != 1 || got[0] != c.want {
			t.Errorf("%.40s, %s: %q", c.target, c.host, got)
		}
	}
}

func TestPathFilter(t *testing.T) {
	b := &browser{t: t, mw: opener(nil).Open(t, properties(provider(t), map[string]string{"pathFilter": "^/(private|callback)", "authHeaderName": "X-User"}))}
	if r := b.get("/public/x"); r.Status != 200 || r.Seen == nil {
		t.Error(r.Status)
	}
	for _, path := range []string{"/private", "/%70rivate", "//private", "/x/../private", "/x%2f..%2fprivate"} {
		b.login(path)
	}
	b.get("/callback?code=good&state=" + b.login("/private"))
	if r := b.get("/private"); string(r.Seen.Header.Get("X-User")) != "Bearer secret" {
		t.Error(r.Seen.Header)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	clock := clockwork.NewFakeClock()
	m := newExpiring(3)
	for i := range 5 {
		m.put(fmt.Sprint(i), i, clock.Now(), clock.Now().Add(time.Minute))
	}
	if _, ok := m.get("1", clock.Now()); ok || len(m.byKey) != 3 || m.order.Len() != 3 {
		t.Error(len(m.byKey))
	}
	if v, ok := m.get("4", clock.Now()); !ok || v != 4 {
		t.Error(v)
	}
	clock.Advance(time.Minute)
	m.put("5", 5, clock.Now(), clock.Now().Add(time.Minute))
	if len(m.byKey) != 1 || m.order.Len() != 1 {
		t.Error("what has expired stays", len(m.byKey))
	}
	s := newSessions(clock)
	id := s.add("t", 0)
	for range 2 * maxLogins {
		s.begin("b", "/")
	}
	if _, ok := s.token(id); !ok || len(s.logins.byKey) != maxLogins {
		t.Error("logins push out sessions", len(s.logins.byKey))
	}
}

func TestOptions(t *testing.T) {
	for want, more := range map[string]map[string]string{
		`"clientID" is required`:                                 {"clientID": ""},
		`"authURL" is "x", but must be an http or https URL`:     {"authURL": "x"},
		`"tokenURL" is required`:                                 {"tokenURL": ""},
		`"redirectURL" is "/x", but must be`:                     {"redirectURL": "/x"},
		`"authHeaderName" is "a:", which no header can be named`: {"authHeaderName": "a:"},
		`"pathFilter" is "(", which is not a regular`:            {"pathFilter": "("},
	} {
		if _, err := opener(nil).Try(t, properties("http://x", more)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", more, err)
		}
	}
}

func TestSuite(t *testing.T) {
	token := provider(t)
	var cookie string
	middlewaretest.Suite(t, func(tb testing.TB) middleware.Middleware {
		mw := opener(nil).Open(tb, properties(token, nil))
		b := &browser{t: t, mw: mw}
		b.get("/callback?code=good&state=" + b.login("/"))
		cookie = b.cookie
		return mw
	}, func() *middleware.Request { return middlewaretest.Request("POST", "/", "Cookie: "+cookie) })
}

func FuzzLocalPath(f *testing.F) {
	f.Add("//evil.test")
	f.Add(`/\/x`)
	f.Fuzz(func(t *testing.T, uri string) {
		got := localPath(uri)
		if !strings.HasPrefix(got, "/") || len(got) > 1 && (got[1] == '/' || got[1] == '\\') {
			t.Errorf("%q", got)
		}
	})
}
