package kafkaclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// tlsConfig is nil without TLS. With authType none connections are in clear text; else they use TLS unless disableTls says
// otherwise, with the system's authorities when caCert names none (Dapr API, Kafka components: TLS).
func (o *Options) tlsConfig() (*tls.Config, error) {
	if o.DisableTLS || o.auth() == authNone {
		return nil, nil
	}
	// #nosec G402 -- skipping the check is the user's explicit choice.
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.SkipVerify}
	roots, err := o.authorities()
	if err != nil {
		return nil, err
	}
	config.RootCAs = roots
	if o.ClientCert != "" {
		pair, err := tls.X509KeyPair([]byte(o.ClientCert), []byte(o.ClientKey))
		if err != nil {
			return nil, fmt.Errorf("metadata properties \"clientCert\" and \"clientKey\" are no pair in PEM: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// authorities are those of caCert, nil for the system's.
func (o *Options) authorities() (*x509.CertPool, error) {
	if o.CACert == "" {
		return nil, nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(o.CACert)) {
		return nil, errors.New("metadata property \"caCert\" holds no certificate in PEM: it begins with -----BEGIN CERTIFICATE-----")
	}
	return roots, nil
}

// idle names settings of TLS that have no effect, "" when there are none.
func (o *Options) idle() string {
	switch {
	case !o.DisableTLS && o.auth() != authNone:
		return ""
	case o.CACert != "":
		return "caCert"
	case o.ClientCert != "":
		return "clientCert"
	case o.SkipVerify:
		return "skipVerify"
	}
	return ""
}
