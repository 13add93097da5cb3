// Package rabbitmqclient is what the RabbitMQ components share: the way from their connection metadata to a connection that
// comes back by itself, and consumers that do.
package rabbitmqclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TLSOptions are the TLS properties of a RabbitMQ component (Dapr API, RabbitMQ components). Embed it in the component's options.
type TLSOptions struct {
	CACert     string `name:"caCert" help:"certificate of the authority that signed the server's certificate, in PEM or as the path of a file with it; default are the system's authorities; needs amqps"`
	ClientCert string `name:"clientCert" secret:"true" help:"client certificate in PEM, or the path of a file with it; needs clientKey and amqps"`
	ClientKey  string `name:"clientKey" secret:"true" help:"key of clientCert in PEM, or the path of a file with it"`
}

// Settings say how to connect.
type Settings struct {
	// URI is the AMQP URI, with the credentials; URIProperty the metadata property that it came from, for messages.
	URI, URIProperty string
	TLSOptions
	// External logs in by the client certificate instead of a password (SASL EXTERNAL); ExternalProperty is its property.
	External         bool
	ExternalProperty string
	// Heartbeat is the interval after which the peers must have heard of each other; 0 for 10 seconds. Whole seconds.
	Heartbeat time.Duration
	// Name is what the broker shows for the connection; may be empty.
	Name string
	// ReconnectWait is the shortest time between two attempts to connect; at least 10 ms pass in any case.
	ReconnectWait time.Duration
}

// HostURI makes an AMQP URI of its parts. host may have a port and, behind a slash, a virtual host; empty parts have the
// defaults of AMQP URIs, and protocol is amqp.
func HostURI(protocol, host, username, password string) string {
	u := url.URL{Scheme: strings.ToLower(protocol), Path: "/"}
	if protocol == "" {
		u.Scheme = "amqp"
	}
	host, vhost, _ := strings.Cut(host, "/")
	if u.Host = host; host == "" {
		u.Host = "localhost"
	}
	u.Path += vhost
	if username != "" || password != "" {
		u.User = url.UserPassword(username, password)
	}
	return u.String()
}

// check parses the URI and refuses settings that contradict each other. Nothing in its errors tells a secret.
func (s *Settings) check() (amqp.URI, error) {
	uri, err := amqp.ParseURI(strings.TrimSpace(s.URI))
	switch {
	case err != nil:
		return uri, fmt.Errorf("metadata property %q is not an AMQP URI: write amqp://user:password@host:5672/vhost, or amqps:// for TLS, and percent-encode special characters in user and password", s.URIProperty)
	case (s.ClientCert == "") != (s.ClientKey == ""):
		return uri, errors.New(`metadata properties "clientCert" and "clientKey" must be given together`)
	case uri.Scheme != "amqps" && (s.CACert != "" || s.ClientCert != ""):
		return uri, fmt.Errorf(`metadata properties "caCert" and "clientCert" need TLS, but %q says amqp: write amqps`, s.URIProperty)
	case (s.CACert != "" || s.ClientCert != "") && (uri.CACertFile != "" || uri.CertFile != "" || uri.KeyFile != ""):
		return uri, fmt.Errorf(`certificates are given both by "caCert" or "clientCert" and as parameters of the URI in %q: give all of them in one of the two places`, s.URIProperty)
	case s.External && (uri.Scheme != "amqps" || s.ClientCert == "" && uri.CertFile == ""):
		return uri, fmt.Errorf(`metadata property %q is true, but there is no client certificate to log in with: set "clientCert" and "clientKey", and write amqps in %q`, s.ExternalProperty, s.URIProperty)
	case s.Heartbeat < 0 || s.Heartbeat > 65535*time.Second || s.Heartbeat%time.Second != 0:
		return uri, fmt.Errorf(`metadata property "heartBeat" is %s, but must be whole seconds from 0 to 65535`, s.Heartbeat)
	case s.ReconnectWait < 0:
		return uri, fmt.Errorf("the wait before reconnecting is %s, but must not be negative", s.ReconnectWait)
	}
	return uri, nil
}

// address is the server's host:port, for messages.
func address(uri amqp.URI) string { return net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)) }

// tlsConfig is nil without TLS, and when the URI alone says all about it.
func (s *Settings) tlsConfig(uri amqp.URI) (*tls.Config, error) {
	if uri.Scheme != "amqps" || s.CACert == "" && s.ClientCert == "" && (uri.CertFile != "" || uri.CACertFile != "" || uri.ServerName != "") {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: uri.Host}
	if uri.ServerName != "" {
		config.ServerName = uri.ServerName
	}
	if s.CACert != "" {
		text, err := pemText("caCert", s.CACert)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, errors.New(`metadata property "caCert" holds no certificate in PEM`)
		}
	}
	if s.ClientCert != "" {
		cert, err := pemText("clientCert", s.ClientCert)
		if err != nil {
			return nil, err
		}
		key, err := pemText("clientKey", s.ClientKey)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf(`metadata properties "clientCert" and "clientKey" are no pair in PEM: %w`, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// pemText returns PEM that was given as such or as the path of a file.
func pemText(property, value string) ([]byte, error) {
	if strings.Contains(value, "-----BEGIN") {
		return []byte(value), nil
	}
	text, err := os.ReadFile(value)
	if err != nil {
		return nil, fmt.Errorf("metadata property %q is neither PEM nor a file that can be read: %w", property, errors.Unwrap(err))
	}
	return text, nil
}
