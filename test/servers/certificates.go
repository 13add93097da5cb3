package servers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Certificates is what a client of a server with TLS needs: the authority that
// signed the server's certificate (valid for 127.0.0.1, ::1 and localhost), and
// a certificate of the same authority for the client itself.
type Certificates struct {
	CA, Cert, Key             []byte // PEM
	CAFile, CertFile, KeyFile string // the same as files
	client                    *tls.Config
}

// Client is a new client configuration that trusts the authority and presents
// the client certificate.
func (c *Certificates) Client() *tls.Config { return c.client.Clone() }

// clientName is the common name of the client certificate.
const clientName = "test client"

// serverFiles are the paths that a server is configured with.
type serverFiles struct{ ca, cert, key string }

// makeCertificates makes an authority and the two certificates, and writes them to dir.
func makeCertificates(dir string) (*Certificates, serverFiles, error) {
	var files serverFiles
	c, err := func() (*Certificates, error) {
		caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		ca := certificateTemplate(1, "Outrigger test authority")
		ca.IsCA, ca.BasicConstraintsValid = true, true
		ca.KeyUsage = x509.KeyUsageCertSign
		caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
		if err != nil {
			return nil, err
		}
		server := certificateTemplate(2, "localhost")
		server.DNSNames = []string{"localhost"}
		server.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
		// Nodes of a cluster are also each other's clients.
		server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		serverCert, serverKey, err := issue(server, ca, caKey)
		if err != nil {
			return nil, err
		}
		client := certificateTemplate(3, clientName)
		client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		clientCert, clientKey, err := issue(client, ca, caKey)
		if err != nil {
			return nil, err
		}
		in := func(name string) string { return filepath.Join(dir, name) }
		files = serverFiles{in("ca.pem"), in("server.pem"), in("server.key")}
		c := &Certificates{
			CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), Cert: clientCert, Key: clientKey,
			CAFile: files.ca, CertFile: in("client.pem"), KeyFile: in("client.key"),
		}
		for _, f := range []struct {
			path string
			text []byte
		}{{c.CAFile, c.CA}, {c.CertFile, c.Cert}, {c.KeyFile, c.Key}, {files.cert, serverCert}, {files.key, serverKey}} {
			if err := os.WriteFile(f.path, f.text, 0o600); err != nil {
				return nil, err
			}
		}
		pair, err := tls.X509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(c.CA)
		c.client = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: "localhost", MinVersion: tls.VersionTLS12}
		return c, nil
	}()
	if err != nil {
		return nil, serverFiles{}, fmt.Errorf("servers: certificates: %w", err)
	}
	return c, files, nil
}

func certificateTemplate(serial int64, name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

// issue makes a key and a certificate of the authority for it, both PEM.
func issue(template, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, private.Public(), caKey)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}
