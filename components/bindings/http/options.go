package http

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"outrigger.dev/components"
)

// Options are the metadata properties of the component.
type Options struct {
	URL                 string              `name:"url" required:"true" help:"base URL of the endpoint, such as https://example.com/api"`
	ResponseTimeout     time.Duration       `name:"responseTimeout" help:"bound of one call with its response, such as 10s; without it only the caller's own bound holds"`
	MaxResponseBodySize components.ByteSize `name:"maxResponseBodySize" default:"100Mi" help:"longest response body; a longer one is an error; 0 sets no limit"`
	RootCA              string              `name:"MTLSRootCA" help:"certificate authorities to trust: a file, or the PEM text"`
	ClientCert          string              `name:"MTLSClientCert" help:"client certificate: a file, or the PEM text"`
	ClientKey           string              `name:"MTLSClientKey" secret:"true" help:"key of the client certificate: a file, or the PEM text"`
	Renegotiation       string              `name:"MTLSRenegotiation" allowed:"RenegotiateNever,RenegotiateOnceAsClient,RenegotiateFreelyAsClient" help:"whether the server may renegotiate TLS, for which HTTP/1.1 is used"`
	SecurityToken       string              `name:"securityToken" secret:"true" help:"value of the header securityTokenHeader of every call"`
	SecurityTokenHeader string              `name:"securityTokenHeader" help:"name of the header that carries securityToken"`
	ErrorIfNot2XX       string              `name:"errorIfNot2XX" default:"true" help:"whether a status other than 2xx is an error; a request can override it with the metadata entry of the same name"`
}

// tlsConfig is nil when the options say nothing of TLS.
func (o *Options) tlsConfig() (*tls.Config, error) {
	if o.RootCA == "" && o.ClientCert == "" && o.ClientKey == "" && o.Renegotiation == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.RootCA != "" {
		pem, err := pemOf("MTLSRootCA", o.RootCA)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New(`metadata property "MTLSRootCA" has no certificate in PEM; give a certificate file or its text`)
		}
	}
	if (o.ClientCert == "") != (o.ClientKey == "") {
		return nil, errors.New(`metadata properties "MTLSClientCert" and "MTLSClientKey" must be given together`)
	}
	if o.ClientCert != "" {
		cert, err := pemOf("MTLSClientCert", o.ClientCert)
		if err != nil {
			return nil, err
		}
		key, err := pemOf("MTLSClientKey", o.ClientKey)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("metadata properties \"MTLSClientCert\" and \"MTLSClientKey\" are not a certificate and its key in PEM: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	switch strings.ToLower(o.Renegotiation) {
	case "renegotiateonceasclient":
		config.Renegotiation = tls.RenegotiateOnceAsClient
	case "renegotiatefreelyasclient":
		config.Renegotiation = tls.RenegotiateFreelyAsClient
	}
	return config, nil
}

// pemOf reads a property that is a file's path or the text itself.
func pemOf(property, value string) ([]byte, error) {
	if strings.Contains(value, "-----BEGIN ") {
		return []byte(value), nil
	}
	data, err := os.ReadFile(value)
	if err != nil {
		return nil, fmt.Errorf("metadata property %q is neither PEM text nor a file that can be read: %w", property, err)
	}
	return data, nil
}
