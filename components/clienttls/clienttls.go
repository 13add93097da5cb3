// Package clienttls reads the certificates that the metadata of a component names for its connections by TLS: the authorities
// to trust, and the client's own certificate with its key. Each is a property that holds PEM, or the path of a file with it.
//
// Nothing in the errors shows what a property holds, which may be a key.
package clienttls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Property is a metadata property of a component: its name, for messages, and what was given, "" for nothing.
type Property struct{ Name, Value string }

// pem returns PEM that was given as such or as the path of a file.
func (p Property) pem() ([]byte, error) {
	if strings.Contains(p.Value, "-----BEGIN") {
		return []byte(p.Value), nil
	}
	text, err := os.ReadFile(p.Value)
	if err != nil {
		// Only the reason, without the path: that may be a key that was pasted in part.
		return nil, fmt.Errorf("metadata property %q is neither PEM nor a file that can be read: %w", p.Name, errors.Unwrap(err))
	}
	return text, nil
}

// Authorities are the certificate authorities to trust, nil for the system's when the property is not given. An error says
// that it cannot be read, or holds no certificate.
func Authorities(property Property) (*x509.CertPool, error) {
	if property.Value == "" {
		return nil, nil
	}
	text, err := property.pem()
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("metadata property %q holds no certificate in PEM", property.Name)
	}
	return pool, nil
}

// Pair is the client's certificate with its key, in the form of [tls.Config], and nil when neither is given. An error says that
// one of the two is missing or cannot be read, or that they do not belong together.
func Pair(cert, key Property) ([]tls.Certificate, error) {
	if err := Together(cert, key); err != nil || cert.Value == "" {
		return nil, err
	}
	certText, err := cert.pem()
	if err != nil {
		return nil, err
	}
	keyText, err := key.pem()
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certText, keyText)
	if err != nil {
		return nil, fmt.Errorf("metadata properties %q and %q are no pair in PEM: %w", cert.Name, key.Name, err)
	}
	return []tls.Certificate{pair}, nil
}

// Together refuses a certificate without its key and a key without its certificate. [Pair] does too; this is for components
// that check it when they would not connect by TLS.
func Together(cert, key Property) error {
	if (cert.Value == "") != (key.Value == "") {
		return fmt.Errorf("metadata properties %q and %q must be given together", cert.Name, key.Name)
	}
	return nil
}
