package postgresclient

import (
	"context"
	"crypto"
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
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// selfSigned is a certificate and its key, PEM.
func selfSigned(t *testing.T, key crypto.Signer) (cert, keyPEM []byte) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

func TestAzureCertificate(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, secret := selfSigned(t, key)
	ecCert, ecSecret := selfSigned(t, ec)
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	dir := t.TempDir()
	file := filepath.Join(dir, "client.pem")
	if err := os.WriteFile(file, append(secret, cert...), 0o600); err != nil {
		t.Fatal(err)
	}
	both := string(cert) + string(secret)
	given := map[string]Azure{
		"text": {Certificate: both}, "file": {CertFile: file}, "with an authority": {Certificate: string(ecCert) + string(pkcs1) + string(cert)},
	}
	pfx := filepath.Join(dir, "client.pfx")
	if out, err := exec.Command("openssl", "pkcs12", "-export", "-legacy", "-in", file, "-out", pfx, "-passout", "pass:hush").CombinedOutput(); err != nil {
		t.Logf("PKCS #12 is not tried, as openssl cannot make it: %v: %s", err, out)
	} else {
		data, err := os.ReadFile(pfx)
		if err != nil {
			t.Fatal(err)
		}
		given["PKCS #12 file"] = Azure{CertFile: pfx, CertPassword: "hush"}
		given["PKCS #12 text"] = Azure{Certificate: base64.StdEncoding.EncodeToString(data) + "\n", CertPassword: "hush"}
		a := Azure{CertFile: pfx, CertPassword: "wrong", TenantID: "t", ClientID: "c"}
		if _, err := a.tokens(os.Getenv); err == nil || !strings.Contains(err.Error(), `"azureCertificateFile" is no certificate`) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("wrong password: %v", err)
		}
	}
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(r.FormValue("client_assertion"), ".")
		if len(parts) != 3 || r.FormValue("client_assertion_type") != jwtBearer || r.FormValue("client_id") != "c" || r.FormValue("scope") != "https://db/.default" {
			t.Errorf("form %v", r.Form)
			return
		}
		var decoded [3][]byte
		for i := range parts {
			var err error
			if decoded[i], err = base64.RawURLEncoding.DecodeString(parts[i]); err != nil {
				t.Error(err)
			}
		}
		block, _ := pem.Decode(cert)
		thumbprint := sha256.Sum256(block.Bytes)
		var header map[string]string
		var claims struct {
			Aud, Iss, Sub, Jti string
			Nbf, Exp           int64
		}
		if json.Unmarshal(decoded[0], &header) != nil || header["alg"] != "PS256" || header["x5t#S256"] != base64.RawURLEncoding.EncodeToString(thumbprint[:]) {
			t.Errorf("header %s", decoded[0])
		}
		now := time.Now().Unix()
		if json.Unmarshal(decoded[1], &claims) != nil || claims.Aud != server.URL+"/t/oauth2/v2.0/token" || claims.Iss != "c" || claims.Sub != "c" || claims.Jti == "" || claims.Nbf > now || claims.Exp < now {
			t.Errorf("claims %s", decoded[1])
		}
		digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		if err := rsa.VerifyPSS(&key.PublicKey, crypto.SHA256, digest[:], decoded[2], nil); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, `{"access_token":"granted"}`)
	}))
	defer server.Close()
	for name, a := range given {
		t.Run(name, func(t *testing.T) {
			a.TenantID, a.ClientID = "t", "c"
			c, err := a.certificate()
			if err != nil {
				t.Fatal(err)
			}
			req, err := a.request(context.Background(), azureCloud{login: server.URL, resource: "https://db"}, c, func(string) string { return "" })
			if err != nil {
				t.Fatal(err)
			}
			if token, err := fetchToken(req); err != nil || token != "granted" {
				t.Errorf("token %q, %v", token, err)
			}
		})
	}
	for _, tc := range []struct {
		a   Azure
		err string
	}{
		{Azure{CertPassword: "p"}, `"azureCertificatePassword" needs`},
		{Azure{Certificate: both, CertFile: file}, "keep one"},
		{Azure{Certificate: both, ClientSecret: "s", TenantID: "t", ClientID: "c"}, "keep one"},
		{Azure{Certificate: both, TenantID: "t"}, `"azureClientId"`},
		{Azure{CertFile: file + "x", TenantID: "t", ClientID: "c"}, `"azureCertificateFile"`},
		{Azure{Certificate: string(cert), TenantID: "t", ClientID: "c"}, "it has no key"},
		{Azure{Certificate: string(secret), TenantID: "t", ClientID: "c"}, "no certificate for its key"},
		{Azure{Certificate: string(ecCert) + string(secret), TenantID: "t", ClientID: "c"}, "no certificate for its key"},
		{Azure{Certificate: string(ecCert) + string(ecSecret), TenantID: "t", ClientID: "c"}, "its key is a *ecdsa.PrivateKey"},
		{Azure{Certificate: "nonsense", TenantID: "t", ClientID: "c"}, `"azureCertificate" is no certificate`},
	} {
		if _, err := tc.a.tokens(os.Getenv); err == nil || !strings.Contains(err.Error(), tc.err) {
			t.Errorf("error %v, want one with %q", err, tc.err)
		}
	}
}

func FuzzAzureCertificate(f *testing.F) {
	for _, seed := range []string{"", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", "MAA=", url.QueryEscape("\x30\x00")} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := parseAzureCertificate(data, ""); err == nil && (c.key == nil || len(c.der) == 0) {
			t.Fatalf("%q became %+v", data, c)
		}
	})
}
