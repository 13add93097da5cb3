package validator

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/jonboulle/clockwork"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/resource"
	"outrigger.dev/telemetry/logging/logtest"
)

const audience = "spiffe://localhost/ns/default/dapr-sentry"

// signer is somebody who makes tokens.
type signer struct {
	t   testing.TB
	id  string
	key crypto.Signer
	alg jose.SignatureAlgorithm
}

func newSigner(t testing.TB, id string) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{t, id, key, jose.ES256}
}

// set is the JSON of the public keys of several.
func set(t testing.TB, signers ...signer) string {
	t.Helper()
	var s jose.JSONWebKeySet
	for _, signer := range signers {
		s.Keys = append(s.Keys, jose.JSONWebKey{Key: signer.key.Public(), KeyID: signer.id, Algorithm: string(signer.alg), Use: "sig"})
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (s signer) token(claims any) string {
	s.t.Helper()
	return signed(s.t, s.alg, s.key, s.id, claims)
}

func signed(t testing.TB, alg jose.SignatureAlgorithm, key any, id string, claims any) string {
	t.Helper()
	made, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(made).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func good(now time.Time) jwt.Claims {
	return jwt.Claims{
		Subject: "spiffe://public/ns/prod/shop", Audience: jwt.Audience{"other", audience},
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(time.Hour)),
	}
}

func asking(token string) *sentryv1.SignCertificateRequest {
	return &sentryv1.SignCertificateRequest{Id: "shop", Namespace: "prod", Token: token, CertificateSigningRequest: []byte("x")}
}

func TestJWKSTokens(t *testing.T) {
	now := time.Now()
	own, stranger := newSigner(t, "one"), newSigner(t, "one")
	_, edKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	ed := signer{t, "two", edKey, jose.EdDSA}
	v, err := NewJWKS(t.Context(), JWKSOptions{Source: set(t, own, ed), Audience: audience, Clock: clockwork.NewFakeClockAt(now)})
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*jwt.Claims)) jwt.Claims {
		c := good(now)
		change(&c)
		return c
	}
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"one"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"spiffe://public/ns/prod/shop"}`)) + "."
	der, err := json.Marshal(jose.JSONWebKey{Key: own.key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(own.token(good(now)), ".")
	forgedPayload := parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"spiffe://public/ns/prod/shop","aud":["`+audience+`"]}`)) + "." + parts[2]
	for _, tt := range []struct {
		name, token string
		change      func(*sentryv1.SignCertificateRequest)
		err         string
	}{
		{"good", own.token(good(now)), nil, ""},
		{"another key of the set", ed.token(good(now)), nil, ""},
		{"a little late", own.token(with(func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(now.Add(-4 * time.Minute)) })), nil, ""},
		{"a little early", own.token(with(func(c *jwt.Claims) { c.NotBefore = jwt.NewNumericDate(now.Add(4 * time.Minute)) })), nil, ""},
		{"trust domain", own.token(with(func(c *jwt.Claims) { c.Subject = "spiffe://example.org/ns/prod/shop" })), func(r *sentryv1.SignCertificateRequest) { r.TrustDomain = "example.org" }, ""},
		{"none", "", nil, "the request does not contain a token"},
		{"rubbish", "rubbish", nil, "token validation failed: "},
		{"expired", own.token(with(func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(now.Add(-6 * time.Minute)) })), nil, "token validation failed: "},
		{"not yet", own.token(with(func(c *jwt.Claims) { c.NotBefore = jwt.NewNumericDate(now.Add(6 * time.Minute)) })), nil, "token validation failed: "},
		{"from the future", own.token(with(func(c *jwt.Claims) { c.IssuedAt = jwt.NewNumericDate(now.Add(6 * time.Minute)) })), nil, "token validation failed: "},
		{"for somebody else", own.token(with(func(c *jwt.Claims) { c.Audience = jwt.Audience{"other"} })), nil, "token validation failed: "},
		{"no audience", own.token(with(func(c *jwt.Claims) { c.Audience = nil })), nil, "token validation failed: "},
		{"no subject", own.token(with(func(c *jwt.Claims) { c.Subject = "" })), nil, "token validation failed: "},
		{"of another app", own.token(good(now)), func(r *sentryv1.SignCertificateRequest) { r.Id = "bank" }, "token validation failed: "},
		{"of another namespace", own.token(good(now)), func(r *sentryv1.SignCertificateRequest) { r.Namespace = "test" }, "token validation failed: "},
		{"of another trust domain", own.token(good(now)), func(r *sentryv1.SignCertificateRequest) { r.TrustDomain = "localhost" }, "token validation failed: "},
		{"by a stranger", stranger.token(good(now)), nil, "token validation failed: "},
		{"by a key that is not there", signer{t, "three", own.key, own.alg}.token(good(now)), nil, `the key set has no key "three"`},
		{"without the name of a key", signer{t, "", own.key, own.alg}.token(good(now)), nil, "has no header kid"},
		{"unsigned", unsigned, nil, "token validation failed: "},
		{"by the public key as a secret", signed(t, jose.HS256, der, "one", good(now)), nil, "token validation failed: "},
		{"changed", forgedPayload, nil, "token validation failed: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := asking(tt.token)
			if tt.change != nil {
				tt.change(r)
			}
			td, err := v.Validate(t.Context(), r)
			switch {
			case tt.err == "" && (err != nil || td.Name() == ""):
				t.Errorf("%q %v", td, err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestJWKSSources(t *testing.T) {
	s := newSigner(t, "one")
	text := set(t, s)
	path := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/keys":
			fmt.Fprint(w, text)
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		case "/hangs":
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	}))
	defer plain.Close()
	secure := httptest.NewTLSServer(plain.Config.Handler)
	defer secure.Close()
	root := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}))
	rootPath := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(rootPath, []byte(root), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    JWKSOptions
		err  string
	}{
		{"JSON", JWKSOptions{Source: text}, ""},
		{"base64", JWKSOptions{Source: base64.StdEncoding.EncodeToString([]byte(text))}, ""},
		{"file", JWKSOptions{Source: path}, ""},
		{"http", JWKSOptions{Source: plain.URL + "/keys"}, ""},
		{"https", JWKSOptions{Source: secure.URL + "/keys", CACertificate: root}, ""},
		{"https, file of the root", JWKSOptions{Source: secure.URL + "/keys", CACertificate: rootPath}, ""},
		{"https, unknown root", JWKSOptions{Source: secure.URL + "/keys"}, "certificate"},
		{"bad root", JWKSOptions{Source: secure.URL, CACertificate: "-----BEGIN nothing"}, "caCertificate"},
		{"missing root", JWKSOptions{Source: secure.URL, CACertificate: "/nonexistent"}, "caCertificate"},
		{"none", JWKSOptions{}, "source is required"},
		{"missing file", JWKSOptions{Source: "/nonexistent/keys.json"}, "neither a URL, nor a file"},
		{"no host", JWKSOptions{Source: "https://"}, "no URL with a host"},
		{"404", JWKSOptions{Source: plain.URL + "/other"}, "404"},
		{"endless", JWKSOptions{Source: plain.URL + "/endless"}, "larger than"},
		{"hangs", JWKSOptions{Source: plain.URL + "/hangs", RequestTimeout: 50 * time.Millisecond}, "Timeout"},
		{"empty set", JWKSOptions{Source: `{"keys":[]}`}, "no key"},
		{"secret", JWKSOptions{Source: `{"keys":[{"kty":"oct","kid":"one","k":"c2VjcmV0"}]}`}, "no key"},
		{"unknown kind beside a known one", JWKSOptions{Source: strings.Replace(text, `[`, `[{"kty":"new","kid":"x"},`, 1)}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Audience = audience
			v, err := NewJWKS(t.Context(), tt.o)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.Validate(t.Context(), asking(s.token(good(time.Now())))); err != nil {
				t.Error(err)
			}
		})
	}
}

// background runs a validator until the test ends.
func background(t *testing.T, v *JWKS) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- v.Run(ctx, func() { close(ready) }) }()
	<-ready
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func await(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !met(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not happen", what)
		}
	}
}

func TestJWKSFileIsWatched(t *testing.T) {
	one, two := newSigner(t, "one"), newSigner(t, "two")
	path := filepath.Join(t.TempDir(), "keys.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(set(t, one))
	log := &logtest.Log{}
	v, err := NewJWKS(t.Context(), JWKSOptions{Source: path, Audience: audience, Log: log.Logger(), Batch: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	background(t, v)
	accepted := func(s signer) bool {
		_, err := v.Validate(t.Context(), asking(s.token(good(time.Now()))))
		return err == nil
	}
	if !accepted(one) || accepted(two) {
		t.Fatal("the first set is not in use")
	}
	write(set(t, two))
	await(t, "the change of the keys", func() bool { return accepted(two) && !accepted(one) })
	write("rubbish")
	await(t, "the error", func() bool { return log.Count("is not usable; the previous one stays") > 0 })
	if !accepted(two) {
		t.Error("a broken file took the keys away")
	}
}

func TestJWKSURLIsFetchedAgain(t *testing.T) {
	one, two := newSigner(t, "one"), newSigner(t, "two")
	var fetched atomic.Int32
	var text atomic.Value
	text.Store(set(t, one))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		if s := text.Load().(string); s != "" {
			fmt.Fprint(w, s)
			return
		}
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer server.Close()
	clock := clockwork.NewFakeClockAt(time.Now())
	log := &logtest.Log{}
	v, err := NewJWKS(t.Context(), JWKSOptions{Source: server.URL, Audience: audience, Clock: clock, Log: log.Logger(), MinRefreshInterval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	background(t, v)
	if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	accepted := func(s signer) bool {
		_, err := v.Validate(t.Context(), asking(s.token(good(clock.Now()))))
		return err == nil
	}
	text.Store(set(t, two))
	if accepted(two) || fetched.Load() != 1 {
		t.Error("an unknown key has the set fetched")
	}
	clock.Advance(time.Minute)
	await(t, "the change of the keys", func() bool { return accepted(two) })
	text.Store("")
	clock.Advance(time.Minute)
	await(t, "the error", func() bool { return log.Count("cannot be fetched; the previous one stays") > 0 })
	if !accepted(two) {
		t.Error("a server that is down took the keys away")
	}
}

func TestConfigured(t *testing.T) {
	options := func(text string) (v resource.Value) {
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, tt := range []struct {
		name string
		list []resource.TokenValidator
		want JWKSOptions
		err  string
	}{
		{
			"texts",
			[]resource.TokenValidator{{Name: "jwks", Options: options(`{"source":"s","caCertificate":"c","minRefreshInterval":"2m","requestTimeout":"3s"}`)}},
			JWKSOptions{Source: "s", CACertificate: "c", MinRefreshInterval: 2 * time.Minute, RequestTimeout: 3 * time.Second},
			"",
		},
		{
			"numbers",
			[]resource.TokenValidator{{Name: "JWKS", Options: options(`{"source":"s","minRefreshInterval":90,"requestTimeout":"1.5"}`)}},
			JWKSOptions{Source: "s", MinRefreshInterval: 90 * time.Second, RequestTimeout: 1500 * time.Millisecond},
			"",
		},
		{"unknown", []resource.TokenValidator{{Name: "oidc"}}, JWKSOptions{}, "invalid token validator name: 'oidc'; supported values: 'jwks'"},
		{"built-in", []resource.TokenValidator{{Name: "insecure"}}, JWKSOptions{}, "invalid token validator: the built-in 'kubernetes' and 'insecure' validators cannot be configured manually"},
		{"duration", []resource.TokenValidator{{Name: "jwks", Options: options(`{"requestTimeout":"soon"}`)}}, JWKSOptions{}, `invalid duration "soon"`},
		{"twice", []resource.TokenValidator{{Name: "jwks"}, {Name: "jwks"}}, JWKSOptions{}, "is configured 2 times"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Configured(tt.list)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || len(got) != 1 || got[0] != tt.want {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(set(f, newSigner(f, "one"))))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"","e":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"AA"},null,1]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA","x5c":["AA"]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := parseKeySet(data)
		if err != nil {
			return
		}
		for _, k := range set.Keys {
			if !k.Valid() || !k.IsPublic() {
				t.Errorf("accepted %T", k.Key)
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	s := newSigner(f, "one")
	v, err := NewJWKS(f.Context(), JWKSOptions{Source: set(f, s), Audience: audience})
	if err != nil {
		f.Fatal(err)
	}
	expired := s.token(good(time.Now().Add(-24 * time.Hour)))
	f.Add(expired)
	f.Add(expired[:len(expired)/2])
	f.Add("eyJhbGciOiJub25lIn0..")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := v.Validate(t.Context(), asking(token)); err == nil {
			t.Error("accepted")
		}
	})
}
