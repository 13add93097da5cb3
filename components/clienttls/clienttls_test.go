package clienttls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// certificate makes a certificate that is its own authority, and its key, in PEM.
func certificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, bytes []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}))
	}
	return block("CERTIFICATE", der), block("EC PRIVATE KEY", secret)
}

// file writes a file of the test's own.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// wantUnreadable checks an error over a file that is not there.
func wantUnreadable(t *testing.T, err error, property string) {
	t.Helper()
	reason, ok := errors.AsType[syscall.Errno](err)
	if !ok || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v is not that of a file that is not there", err)
	}
	wantError(t, err, "metadata property "+strconv.Quote(property)+" is neither PEM nor a file that can be read: "+reason.Error())
}

func TestAuthorities(t *testing.T) {
	first, key := certificate(t, "first")
	second, _ := certificate(t, "second")
	for name, tc := range map[string]struct {
		value string
		want  int // certificates; 0 for the system's
	}{
		"nothing": {"", 0},
		"text":    {first, 1},
		"two":     {"a comment\n" + first + second, 2},
		"file":    {file(t, first+second), 2},
	} {
		pool, err := Authorities(Property{"caCert", tc.value})
		if err != nil || (pool == nil) != (tc.want == 0) {
			t.Errorf("%s: %v, %v", name, pool, err)
			continue
		}
		if tc.want > 0 {
			want := x509.NewCertPool()
			want.AppendCertsFromPEM([]byte(first))
			if tc.want > 1 {
				want.AppendCertsFromPEM([]byte(second))
			}
			if !pool.Equal(want) {
				t.Errorf("%s: not the authorities that were given", name)
			}
		}
	}
	for _, value := range []string{key, "-----BEGIN", file(t, "no PEM"), file(t, "")} {
		_, err := Authorities(Property{"rootCA", value})
		wantError(t, err, `metadata property "rootCA" holds no certificate in PEM`)
	}
	_, err := Authorities(Property{"rootCA", filepath.Join(t.TempDir(), "none")})
	wantUnreadable(t, err, "rootCA")
}

func TestPair(t *testing.T) {
	cert, key := certificate(t, "client")
	_, foreign := certificate(t, "other")
	for name, tc := range map[string]struct{ cert, key string }{
		"texts":         {cert, key},
		"files":         {file(t, cert), file(t, key)},
		"text and file": {cert, file(t, key)},
		"one file":      {file(t, cert+key), file(t, key+cert)},
	} {
		pairs, err := Pair(Property{"clientCert", tc.cert}, Property{"clientKey", tc.key})
		if err != nil || len(pairs) != 1 || pairs[0].Leaf.Subject.CommonName != "client" || pairs[0].PrivateKey == nil {
			t.Errorf("%s: %v, %v", name, pairs, err)
		}
	}
	if pairs, err := Pair(Property{"clientCert", ""}, Property{"clientKey", ""}); err != nil || pairs != nil {
		t.Errorf("nothing: %v, %v", pairs, err)
	}
	for _, tc := range []struct{ cert, key, want string }{
		{cert, "", `metadata properties "mine" and "its key" must be given together`},
		{"", key, `metadata properties "mine" and "its key" must be given together`},
		{cert, foreign, `metadata properties "mine" and "its key" are no pair in PEM: tls: private key does not match public key`},
	} {
		_, err := Pair(Property{"mine", tc.cert}, Property{"its key", tc.key})
		wantError(t, err, tc.want)
	}
	nowhere := filepath.Join(t.TempDir(), "none")
	_, err := Pair(Property{"mine", nowhere}, Property{"its key", key})
	wantUnreadable(t, err, "mine")
	_, err = Pair(Property{"mine", cert}, Property{"its key", nowhere})
	wantUnreadable(t, err, "its key")
	// A key that has lost its first line is taken for a path; it must not come back in the message.
	_, body, _ := strings.Cut(key, "\n")
	if _, err := Pair(Property{"mine", cert}, Property{"its key", body}); err == nil || strings.Contains(err.Error(), body[:20]) {
		t.Errorf("error %v, want one without the key", err)
	}
}

func TestTogether(t *testing.T) {
	for _, tc := range []struct {
		cert, key string
		ok        bool
	}{{"", "", true}, {"c", "k", true}, {"c", "", false}, {"", "k", false}} {
		if err := Together(Property{"c", tc.cert}, Property{"k", tc.key}); (err == nil) != tc.ok {
			t.Errorf("%q and %q: %v", tc.cert, tc.key, err)
		}
	}
}
