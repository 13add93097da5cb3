package mysql

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outrigger.dev/test/servers"
)

// certificate makes a certificate for 127.0.0.1 that is its own authority, in files that the server's account can read.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestTLS(t *testing.T) {
	certFile, keyFile := certificate(t)
	server := servers.MariaDB(t, servers.Own(), servers.Setting("ssl-cert", certFile), servers.Setting("ssl-key", keyFile))
	p, _ := place(t, server)
	plain := strings.TrimSuffix(p["connectionString"], "/")
	p["connectionString"] = plain + "/?tls=custom&collation=utf8mb4_general_ci"
	p["pemPath"] = certFile
	s := mustOpen(t, p)
	defer s.Close()
	var name, cipher string
	if err := s.db.QueryRow("SHOW STATUS LIKE 'Ssl_cipher'").Scan(&name, &cipher); err != nil || cipher == "" {
		t.Errorf("connected without TLS: cipher %q, %v", cipher, err)
	}
	// Another authority is not trusted.
	p["pemPath"], _ = certificate(t)
	if s, err := openStore(t, p); err == nil {
		_ = s.Close()
		t.Error("connected to a server with the certificate of a foreign authority")
	} else if !strings.Contains(err.Error(), "certificate") {
		t.Errorf("error %v does not speak of the certificate", err)
	}
}
