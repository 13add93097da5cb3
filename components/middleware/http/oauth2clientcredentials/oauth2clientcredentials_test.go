package oauth2clientcredentials

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components/middleware"
	"outrigger.dev/components/middleware/middlewaretest"
)

// provider is a token endpoint. Each token has another name.
type provider struct {
	*httptest.Server
	issued atomic.Int32
	fail   atomic.Bool
	seen   chan url.Values
	hold   chan struct{}
}

func newProvider(t *testing.T) *provider {
	p := &provider{seen: make(chan url.Values, 100)}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		form := r.Form
		if id, secret, ok := r.BasicAuth(); ok {
			form.Set("basic", id+":"+secret)
		}
		p.seen <- form
		if p.hold != nil {
			select {
			case <-p.hold:
			case <-r.Context().Done():
			}
		}
		if p.fail.Load() {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": fmt.Sprint("t", p.issued.Add(1)), "token_type": "bearer", "expires_in": 3600})
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) properties(more map[string]string) map[string]string {
	properties := map[string]string{"clientID": "me", "clientSecret": "secret", "scopes": "a, b", "tokenURL": p.URL, "headerName": "Authorization", "authStyle": "1"}
	for name, value := range more {
		properties[name] = value
	}
	return properties
}

func opener(clock clockwork.Clock) middlewaretest.Opener {
	return middlewaretest.Opener{Register: Register, Name: "http.oauth2clientcredentials", Clock: clock}
}

func TestToken(t *testing.T) {
	p := newProvider(t)
	clock := clockwork.NewFakeClock()
	mw := opener(clock).Open(t, p.properties(map[string]string{"endpointParamsQuery": "audience=x&resource=y", "pathFilter": "^/v1.0/invoke"}))
	send := func(path string) string {
		t.Helper()
		r := middlewaretest.Do(t, mw, middlewaretest.Request("GET", path, "Authorization: mine"))
		if r.Status != 200 {
			t.Fatal(r.Status, r.Text)
		}
		return string(r.Seen.Header.Get("authorization"))
	}
	if got := send("/v1.0/state/s"); got != "mine" {
		t.Error("outside of the filter:", got)
	}
	for range 3 {
		if got := send("/v1.0/%69nvoke/a/method/b"); got != "Bearer t1" {
			t.Fatal(got)
		}
	}
	form := <-p.seen
	for name, want := range map[string]string{"client_id": "me", "client_secret": "secret", "scope": "a b", "grant_type": "client_credentials", "audience": "x", "resource": "y"} {
		if form.Get(name) != want {
			t.Errorf("%s is %q", name, form.Get(name))
		}
	}
	clock.Advance(time.Hour - time.Minute)
	if got := send("/v1.0/invoke/x"); got != "Bearer t1" {
		t.Error(got)
	}
	clock.Advance(time.Minute)
	if got := send("/v1.0/invoke/x"); got != "Bearer t2" {
		t.Error("after the expiry:", got)
	}
}

func TestBasicAuthentication(t *testing.T) {
	p := newProvider(t)
	mw := opener(nil).Open(t, p.properties(map[string]string{"authStyle": "2", "headerName": "X-Token"}))
	r := middlewaretest.Do(t, mw, middlewaretest.Request("GET", "/"))
	if got := string(r.Seen.Header.Get("X-Token")); got != "Bearer t1" {
		t.Error(got)
	}
	if form := <-p.seen; form.Get("basic") != "me:secret" || form.Get("client_secret") != "" {
		t.Error(form)
	}
}

func TestFailure(t *testing.T) {
	p := newProvider(t)
	p.fail.Store(true)
	mw := opener(nil).Open(t, p.properties(nil))
	middlewaretest.Do(t, mw, middlewaretest.Request("GET", "/")).Refused(t, 502, "Bad Gateway")
	p.fail.Store(false)
	if r := middlewaretest.Do(t, mw, middlewaretest.Request("GET", "/")); r.Status != 200 {
		t.Error("a failure lasts:", r.Status)
	}
}

func TestOneFetchForAll(t *testing.T) {
	p := newProvider(t)
	p.hold = make(chan struct{})
	mw := opener(nil).Open(t, p.properties(nil))
	// One who leaves does not take the fetch along.
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		_, err := mw.Handle(ctx, middlewaretest.Request("GET", "/"), nil)
		if err != context.Canceled {
			t.Error(err)
		}
	})
	<-p.seen
	cancel()
	group.Wait()
	for range 10 {
		group.Go(func() {
			if r := middlewaretest.Do(t, mw, middlewaretest.Request("GET", "/")); string(r.Seen.Header.Get("Authorization")) != "Bearer t1" {
				t.Error(r.Seen.Header)
			}
		})
	}
	close(p.hold)
	group.Wait()
	if n := p.issued.Load(); n != 1 {
		t.Errorf("%d tokens", n)
	}
}

func TestCloseEndsAFetch(t *testing.T) {
	p := newProvider(t)
	p.hold = make(chan struct{})
	mw, err := opener(nil).Try(t, p.properties(nil))
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() { middlewaretest.Do(t, mw, middlewaretest.Request("GET", "/")).Refused(t, 502, "Bad Gateway") })
	<-p.seen
	if err := mw.Close(); err != nil {
		t.Error(err)
	}
	group.Wait()
}

func TestOptions(t *testing.T) {
	p := &provider{Server: &httptest.Server{URL: "http://x"}}
	for want, more := range map[string]map[string]string{
		`"clientID" is required`:                                 {"clientID": ""},
		`"clientSecret" is required`:                             {"clientSecret": ""},
		`"scopes" is required`:                                   {"scopes": ""},
		`"headerName" is required`:                               {"headerName": ""},
		`"tokenURL" is "here", but must be an http or https URL`: {"tokenURL": "here"},
		`"headerName" is "a b", which no header can be named`:    {"headerName": "a b"},
		`"endpointParamsQuery" is no query string`:               {"endpointParamsQuery": "%zz"},
		`"pathFilter" is "(", which is not a regular expression`: {"pathFilter": "("},
		`"authStyle" is "3", but must be one of 0, 1, 2`:         {"authStyle": "3"},
	} {
		if _, err := opener(nil).Try(t, p.properties(more)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", more, err)
		}
	}
}

func TestSuite(t *testing.T) {
	p := newProvider(t)
	middlewaretest.Suite(t, func(t testing.TB) middleware.Middleware { return opener(nil).Open(t, p.properties(nil)) },
		func() *middleware.Request { return middlewaretest.Request("POST", "/") })
}
