// Package rabbitmqclient is what the RabbitMQ components share: the way from their connection metadata to a connection that
// comes back by itself, and consumers that do.
package rabbitmqclient

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"outrigger.dev/components/clienttls"
)

// TLSOptions are the TLS properties of a RabbitMQ component (Dapr API, RabbitMQ components). Embed it in the component's options.
type TLSOptions struct {
	CACert     string `name:"caCert" help:"certificate of the authority that signed the server's certificate, in PEM or as the path of a file with it; default are the system's authorities; needs amqps"`
	ClientCert string `name:"clientCert" secret:"true" help:"client certificate in PEM, or the path of a file with it; needs clientKey and amqps"`
	ClientKey  string `name:"clientKey" secret:"true" help:"key of clientCert in PEM, or the path of a file with it"`
}

// pair are the properties of the client's certificate and its key.
func (o *TLSOptions) pair() (cert, key clienttls.Property) {
	return clienttls.Property{Name: "clientCert", Value: o.ClientCert}, clienttls.Property{Name: "clientKey", Value: o.ClientKey}
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
	case clienttls.Together(s.pair()) != nil:
		return uri, clienttls.Together(s.pair())
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

// Check refuses settings that contradict each other or cannot be followed. Nothing in its errors tells a secret.
func (s *Settings) Check() error {
	uri, err := s.check()
	if err != nil {
		return err
	}
	_, err = s.tlsConfig(uri)
	return err
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
	var err error
	if config.RootCAs, err = clienttls.Authorities(clienttls.Property{Name: "caCert", Value: s.CACert}); err != nil {
		return nil, err
	}
	if config.Certificates, err = clienttls.Pair(s.pair()); err != nil {
		return nil, err
	}
	return config, nil
}
