package kafkaclient

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
)

// tokens is a token endpoint.
type tokens struct {
	*httptest.Server
	forms  []url.Values
	status int
	reply  string
}

func newTokens(t testing.TB) *tokens {
	t.Helper()
	s := &tokens{status: http.StatusOK}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		s.forms = append(s.forms, r.PostForm)
		w.WriteHeader(s.status)
		reply := s.reply
		if reply == "" {
			reply = fmt.Sprintf(`{"access_token":"token%d","expires_in":300}`, len(s.forms))
		}
		_, _ = io.WriteString(w, reply)
	}))
	t.Cleanup(s.Close)
	return s
}

// keyPair is a certificate of its own authority and its key, in PEM.
func keyPair(t testing.TB, kind string) (certificate, key string, public any) {
	t.Helper()
	var private any
	switch kind {
	case "RSA":
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		private, public = k, &k.PublicKey
	default:
		curve := elliptic.P256()
		if kind == "P-384" {
			curve = elliptic.P384()
		}
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		private, public = k, &k.PublicKey
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return text("CERTIFICATE", der), text("PRIVATE KEY", pkcs8), public
}

func TestTokens(t *testing.T) {
	s, clock := newTokens(t), clockwork.NewFakeClock()
	o, err := decoded(t, map[string]string{
		"brokers": "a:1", "authType": "oidc", "oidcTokenEndpoint": s.URL, "oidcClientID": "me", "oidcClientSecret": "word",
		"oidcScopes": "openid,kafka write", "oidcResource": "res", "oidcExtensions": `{"cluster":"c1","pool":"p1"}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	source, err := o.tokenSource(clock)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(token string) {
		t.Helper()
		auth, err := source.auth(within(t))
		if err != nil || auth.Token != token || auth.Extensions["cluster"] != "c1" || auth.Extensions["pool"] != "p1" {
			t.Fatalf("%+v, %v, want %s", auth, err, token)
		}
	}
	expect("token1")
	want := url.Values{"grant_type": {"client_credentials"}, "client_id": {"me"}, "client_secret": {"word"}, "scope": {"openid kafka write"}, "resource": {"res"}}
	if got := s.forms[0].Encode(); got != want.Encode() {
		t.Errorf("form %s, want %s", got, want.Encode())
	}
	clock.Advance(4 * time.Minute)
	expect("token1")
	clock.Advance(31 * time.Second) // 29 s before its end
	expect("token2")
}

func TestTokensRefused(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		reply  string
		words  []string
	}{
		{"error", 400, `{"error":"invalid_client","error_description":"who?"}`, []string{"400", "invalid_client", "who?"}},
		{"status", 503, `down`, []string{"503"}},
		{"no JSON", 200, `<html>`, []string{"not JSON"}},
		{"no token", 200, `{}`, []string{"access_token"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newTokens(t)
			s.status, s.reply = tc.status, tc.reply
			o := Options{AuthType: "oidc", OIDCTokenEndpoint: s.URL, OIDCClientID: "me", OIDCClientSecret: "word"}
			source, err := o.tokenSource(clockwork.NewFakeClock())
			if err != nil {
				t.Fatal(err)
			}
			_, err = source.auth(within(t))
			expectError(t, err, append(tc.words, s.URL, "oidcClientID")...)
			if strings.Contains(err.Error(), "word") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

func TestAssertion(t *testing.T) {
	for _, kind := range []string{"RSA", "P-256"} {
		t.Run(kind, func(t *testing.T) {
			certificate, key, public := keyPair(t, kind)
			s, clock := newTokens(t), clockwork.NewFakeClock()
			o := Options{
				AuthType: "oidc_private_key_jwt", OIDCTokenEndpoint: s.URL, OIDCClientID: "me",
				OIDCClientAssertionCert: certificate, OIDCClientAssertionKey: key, OIDCKid: "k1", OIDCAudience: "aud",
			}
			source, err := o.tokenSource(clock)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := source.auth(within(t)); err != nil {
				t.Fatal(err)
			}
			form := s.forms[0]
			if form.Has("client_secret") || form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
				t.Errorf("form %v", form)
			}
			parts := strings.Split(form.Get("client_assertion"), ".")
			if len(parts) != 3 {
				t.Fatalf("assertion of %d parts", len(parts))
			}
			var header map[string]string
			var claims struct {
				Iss, Sub, Aud, Jti string
				Iat, Exp           int64
			}
			for i, to := range []any{&header, &claims} {
				text, err := base64.RawURLEncoding.DecodeString(parts[i])
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(text, to); err != nil {
					t.Fatal(err)
				}
			}
			now := clock.Now().Unix()
			if header["kid"] != "k1" || header["typ"] != "JWT" || claims.Iss != "me" || claims.Sub != "me" || claims.Aud != "aud" || claims.Jti == "" || claims.Iat != now || claims.Exp <= now {
				t.Errorf("header %v, claims %+v", header, claims)
			}
			signature, err := base64.RawURLEncoding.DecodeString(parts[2])
			if err != nil {
				t.Fatal(err)
			}
			digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
			switch public := public.(type) {
			case *rsa.PublicKey:
				if err := rsa.VerifyPKCS1v15(public, 5, digest[:], signature); err != nil || header["alg"] != "RS256" {
					t.Errorf("%s: %v", header["alg"], err)
				}
			case *ecdsa.PublicKey:
				r, v := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
				if !ecdsa.Verify(public, digest[:], r, v) || header["alg"] != "ES256" {
					t.Errorf("%s: the signature is wrong", header["alg"])
				}
			}
			o.OIDCAudience, o.OIDCKid = "", ""
			signer, err := o.assertionSigner()
			if err != nil || signer.audience != s.URL {
				t.Errorf("audience %q, %v, want the token endpoint", signer.audience, err)
			}
		})
	}
	certificate, key, _ := keyPair(t, "P-384")
	o := Options{AuthType: "oidc_private_key_jwt", OIDCClientAssertionCert: certificate, OIDCClientAssertionKey: key}
	_, err := o.assertionSigner()
	expectError(t, err, "oidcClientAssertionKey", "P-256")
	_, other, _ := keyPair(t, "RSA")
	o.OIDCClientAssertionKey = other
	_, err = o.assertionSigner()
	expectError(t, err, "oidcClientAssertionCert", "oidcClientAssertionKey")
}
