package bearer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/jonboulle/clockwork"

	"outrigger.dev/components/middleware"
	"outrigger.dev/components/middleware/middlewaretest"
)

// provider is an OpenID Connect provider.
type provider struct {
	*httptest.Server
	fetches atomic.Int32
	fail    atomic.Bool

	mu     sync.Mutex
	keys   []jose.JSONWebKey
	issuer string
}

func newProvider(t *testing.T, keys ...jose.JSONWebKey) *provider {
	p := &provider{keys: keys}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case p.fail.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": p.issuer, "jwks_uri": p.URL + "/keys"})
		case r.URL.Path == "/keys":
			p.fetches.Add(1)
			_ = json.NewEncoder(w).Encode(map[string]any{"keys": append([]any{map[string]string{"kty": "new"}}, anys(p.keys)...)})
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(p.Close)
	p.issuer = p.URL
	return p
}

func anys[T any](list []T) (all []any) {
	for _, e := range list {
		all = append(all, e)
	}
	return all
}

func (p *provider) set(keys ...jose.JSONWebKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
}

// pair is a private key and its public half in a key set.
type pair struct {
	key crypto.PrivateKey
	alg jose.SignatureAlgorithm
	jwk jose.JSONWebKey
}

func newPair(t *testing.T, id string, alg jose.SignatureAlgorithm) pair {
	t.Helper()
	var key crypto.Signer
	var err error
	switch alg[0] {
	case 'R', 'P':
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case 'E':
		if alg == jose.EdDSA {
			_, key, err = ed25519.GenerateKey(rand.Reader)
		} else {
			key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return pair{key, alg, jose.JSONWebKey{Key: key.Public(), KeyID: id, Use: "sig"}}
}

// sign makes a token; a nil claim is left out.
func (p pair) sign(t *testing.T, claims map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if p.jwk.KeyID != "" {
		options = options.WithHeader("kid", p.jwk.KeyID)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: p.alg, Key: p.key}, options)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func send(t *testing.T, mw middleware.Middleware, authorization string) middlewaretest.Result {
	t.Helper()
	return middlewaretest.Do(t, mw, middlewaretest.Request("GET", "/", "Authorization: "+authorization))
}

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func open(clock clockwork.Clock) middlewaretest.Opener {
	return middlewaretest.Opener{Register: Register, Name: "http.bearer", Clock: clock}
}

func TestTokens(t *testing.T) {
	rs, es, ed := newPair(t, "rs", jose.RS256), newPair(t, "es", jose.ES256), newPair(t, "", jose.EdDSA)
	p := newProvider(t, rs.jwk, es.jwk, ed.jwk)
	mw := open(clockwork.NewFakeClockAt(now)).Open(t, map[string]string{"issuerURL": p.URL, "clientID": "me"})
	claims := func(changes map[string]any) map[string]any {
		c := map[string]any{"iss": p.URL, "aud": "me", "exp": now.Add(time.Hour).Unix()}
		for name, value := range changes {
			c[name] = value
			if value == nil {
				delete(c, name)
			}
		}
		return c
	}
	good := rs.sign(t, claims(nil))
	for name, header := range map[string]string{
		"RSA": "Bearer " + good, "scheme in lower case": "bearer " + good, "blanks": "BEARER   " + good,
		"EC": "Bearer " + es.sign(t, claims(nil)), "no key ID": "Bearer " + ed.sign(t, claims(nil)),
		"several audiences": "Bearer " + rs.sign(t, claims(map[string]any{"aud": []string{"you", "me"}})),
		"no expiry":         "Bearer " + rs.sign(t, claims(map[string]any{"exp": nil})),
		"just expired":      "Bearer " + rs.sign(t, claims(map[string]any{"exp": now.Add(-4 * time.Minute).Unix()})),
		"almost valid":      "Bearer " + rs.sign(t, claims(map[string]any{"nbf": now.Add(4 * time.Minute).Unix()})),
	} {
		if r := send(t, mw, header); r.Status != 200 || r.Seen == nil {
			t.Errorf("%s: %d", name, r.Status)
		}
	}
	stranger := newPair(t, "rs", jose.RS256)
	hmac := pair{key: []byte(strings.Repeat("k", 64)), alg: jose.HS256, jwk: jose.JSONWebKey{KeyID: "rs"}}
	other := newPair(t, "rs", jose.ES256)
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"rs"}`)) + strings.TrimRight(good[strings.IndexByte(good, '.'):strings.LastIndexByte(good, '.')+1], "")
	for name, header := range map[string]string{
		"none": "", "basic": "Basic dXNlcjpwYXNz", "only the scheme": "Bearer", "empty": "Bearer ", "short": "Bearer abc.d.ef", "no token": "Bearer abcdefghijklmnop",
		"issuer":      "Bearer " + rs.sign(t, claims(map[string]any{"iss": p.URL + "/"})),
		"no issuer":   "Bearer " + rs.sign(t, claims(map[string]any{"iss": nil})),
		"audience":    "Bearer " + rs.sign(t, claims(map[string]any{"aud": "you"})),
		"no audience": "Bearer " + rs.sign(t, claims(map[string]any{"aud": nil})),
		"expired":     "Bearer " + rs.sign(t, claims(map[string]any{"exp": now.Add(-6 * time.Minute).Unix()})),
		"not yet":     "Bearer " + rs.sign(t, claims(map[string]any{"nbf": now.Add(6 * time.Minute).Unix()})),
		"another key": "Bearer " + stranger.sign(t, claims(nil)), "HMAC": "Bearer " + hmac.sign(t, claims(nil)), "another algorithm": "Bearer " + other.sign(t, claims(nil)),
		"unsigned": "Bearer " + none, "cut": "Bearer " + good[:len(good)-3], "token twice": "Bearer " + good + " " + good,
	} {
		r := send(t, mw, header)
		if r.Refused(t, 401, "Unauthorized"); t.Failed() {
			t.Fatal(name)
		}
	}
}

func TestKeysAreFetchedAgain(t *testing.T) {
	first, second := newPair(t, "1", jose.ES256), newPair(t, "2", jose.ES256)
	p := newProvider(t, first.jwk)
	clock := clockwork.NewFakeClockAt(now)
	mw := open(clock).Open(t, map[string]string{"issuer": p.URL, "audience": "me", "jwksURL": p.URL + "/keys"})
	claims := map[string]any{"iss": p.URL, "aud": "me"}
	one, two := "Bearer "+first.sign(t, claims), "Bearer "+second.sign(t, claims)
	fetches := func(want int32) {
		t.Helper()
		if got := p.fetches.Load(); got != want {
			t.Fatalf("%d fetches, want %d", got, want)
		}
	}
	for range 3 {
		send(t, mw, two).Refused(t, 401, "Unauthorized")
	}
	fetches(1) // it has just been asked
	clock.Advance(unknownPause)
	for range 3 {
		send(t, mw, two).Refused(t, 401, "Unauthorized")
	}
	fetches(2)
	p.set(first.jwk, second.jwk)
	clock.Advance(unknownPause)
	if r := send(t, mw, two); r.Status != 200 {
		t.Fatal("a new key is not found")
	}
	fetches(3)
	for range 3 {
		if r := send(t, mw, one); r.Status != 200 {
			t.Fatal(r.Status)
		}
	}
	fetches(3)
	// A key that is taken back is not accepted for longer than the refresh takes.
	p.set(second.jwk)
	clock.Advance(maxAge)
	send(t, mw, one)
	deadline := time.Now().Add(10 * time.Second)
	for send(t, mw, one).Status != 401 {
		if time.Now().After(deadline) {
			t.Fatal("a key that is gone is still accepted")
		}
		time.Sleep(time.Millisecond)
	}
	fetches(4)
	// While the provider is down the keys last for a while, but not for ever.
	p.fail.Store(true)
	for range 10 {
		clock.Advance(maxAge)
		if r := send(t, mw, two); r.Status != 200 {
			t.Fatal("refused while the provider is down")
		}
	}
	clock.Advance(staleAge)
	send(t, mw, two).Refused(t, 500, "Internal Server Error")
	p.fail.Store(false)
	clock.Advance(unknownPause)
	if r := send(t, mw, two); r.Status != 200 {
		t.Error("refused once the provider is back")
	}
}

func TestOpen(t *testing.T) {
	p := newProvider(t, newPair(t, "1", jose.ES256).jwk)
	p.issuer = p.URL + "/other"
	empty := newProvider(t)
	for want, properties := range map[string]map[string]string{
		`"issuer" is required`:   {"audience": "me"},
		`"audience" is required`: {"issuer": p.URL},
		`must be an http or https URL such as "https://accounts.google.com"`: {"issuer": "accounts", "audience": "me"},
		`"jwksURL" is "ftp://x"`: {"issuer": "x", "audience": "me", "jwksURL": "ftp://x"},
		`they must be equal`:     {"issuer": p.URL, "audience": "me"},
		`404 Not Found`:          {"issuer": "x", "audience": "me", "jwksURL": p.URL + "/nothing"},
		`has no public keys`:     {"issuer": "x", "audience": "me", "jwksURL": empty.URL + "/keys"},
		`not the expected JSON`:  {"issuer": "x", "audience": "me", "jwksURL": htmlServer(t)},
	} {
		if _, err := open(nil).Try(t, properties); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", properties, err, want)
		}
	}
}

func htmlServer(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	t.Cleanup(s.Close)
	return s.URL
}

func TestSuite(t *testing.T) {
	k := newPair(t, "1", jose.ES256)
	p := newProvider(t, k.jwk)
	token := "Authorization: Bearer " + k.sign(t, map[string]any{"iss": p.URL, "aud": "me"})
	middlewaretest.Suite(t, func(t testing.TB) middleware.Middleware {
		return open(nil).Open(t, map[string]string{"issuer": p.URL, "audience": "me"})
	}, func() *middleware.Request { return middlewaretest.Request("POST", "/", token) })
}

func FuzzToken(f *testing.F) {
	f.Add([]byte("Bearer eyJhbGciOiJub25lIn0.e30."))
	f.Add([]byte("bearer  x"))
	b := &Bearer{issuer: "i", audience: "a", algorithms: algorithms(), clock: clockwork.NewRealClock(), keys: newKeys("", nil, clockwork.NewRealClock(), nil)}
	b.keys.closed = true
	b.keys.fetched = time.Now()
	f.Fuzz(func(t *testing.T, header []byte) {
		token, ok := tokenOf(header)
		if !ok {
			return
		}
		if len(token) < shortest || strings.TrimSpace(token) != token {
			t.Errorf("%q", token)
		}
		if b.verify(t.Context(), token) == nil {
			t.Errorf("accepted %q", token)
		}
	})
}
