package mysqlclient

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "no.pem")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, dsn string
		tls       TLS
		want      string // user:password@address/database
		err       string
	}{
		{name: "whole", dsn: "u:p@tcp(h:1)/d?parseTime=true", want: "u:p@h:1/d"},
		{name: "no slash", dsn: "u:p@tcp(h:1)", want: "u:p@h:1/"},
		{name: "slash in the password", dsn: "u:p/q?r@tcp(h:1)/d?tls=skip-verify", want: "u:p/q?r@h:1/d"},
		{name: "empty", err: `"url" is required`},
		{name: "nonsense", dsn: "u:p@tcp(h:1/d", err: `"url" is not a data source name`},
		{name: "custom without authority", dsn: "u:p@tcp(h:1)/d?tls=custom", err: `"pemPath" or "pemContents"`},
		{name: "two", dsn: "u:p@tcp(h:1)/d", tls: TLS{PEMPath: file, PEMContents: "x"}, err: "keep one"},
		{name: "no file", dsn: "u:p@tcp(h:1)/d", tls: TLS{PEMPath: file + "x"}, err: `"pemPath"`},
		{name: "no certificate in the file", dsn: "u:p@tcp(h:1)/d", tls: TLS{PEMPath: file}, err: "no.pem has no certificate"},
		{name: "no certificate", dsn: "u:p@tcp(h:1)/d", tls: TLS{PEMContents: "x"}, err: `"pemContents": it has no certificate`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := Config("url", tc.dsn, tc.tls, time.Minute, slog.New(slog.DiscardHandler))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.User + ":" + c.Passwd + "@" + c.Addr + "/" + c.DBName; got != tc.want || c.Timeout != time.Minute {
				t.Errorf("got %s, timeout %s; want %s", got, c.Timeout, tc.want)
			}
		})
	}
}

func TestUnusedAuthorities(t *testing.T) {
	cert, err := os.ReadFile(writeCertificate(t))
	if err != nil {
		t.Fatal(err)
	}
	for dsn, warned := range map[string]bool{"u:p@tcp(h:1)/d?tls=true": true, "u:p@tcp(h:1)/d?tls=custom": false} {
		var log strings.Builder
		c, err := Config("url", dsn, TLS{PEMContents: string(cert)}, time.Minute, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil || strings.Contains(log.String(), "add tls=custom") != warned || (c.TLS != nil && c.TLS.RootCAs != nil) == warned {
			t.Errorf("%s: %v, log %q", dsn, err, log.String())
		}
	}
}

// writeCertificate makes a certificate in a file.
func writeCertificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func FuzzCutCustomTLS(f *testing.F) {
	for _, seed := range []string{"u:p@tcp(h:1)/d?tls=custom&a=b", "/", "a?tls=custom", "?/?tls=custom&tls=custom"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, dsn string) {
		rest, custom := cutCustomTLS(dsn)
		if !strings.Contains(rest, "/") {
			t.Fatalf("%q lost its slash: %q", dsn, rest)
		}
		if again, twice := cutCustomTLS(rest); twice || again != rest && custom {
			t.Fatalf("%q still has tls=custom: %q", dsn, rest)
		}
	})
}
