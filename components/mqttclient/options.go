// Package mqttclient is what all MQTT components share: the connection metadata, as an options struct to embed, and a
// client of MQTT 3.1.1 with one session that outlives its connections.
//
// The client is our own and not Eclipse Paho's, because that one reports a publish as complete when it merely sends it again
// after a reconnect, hands a message to handlers that it cannot tell apart when filters overlap, keeps no message for a
// subscription that is yet to come, and leaves goroutines behind. Here
//   - a publish returns when the broker has acknowledged it, on whichever connection;
//   - a message is acknowledged when its handlers have processed it, and only on the connection that it came on: after a
//     reconnect the broker sends it again;
//   - what arrives for a subscription that is not there yet, or any more, waits unacknowledged for the next one;
//   - every new connection asks for all subscriptions again, because a broker that crashed may have kept an older state of
//     the session, and so brings the retained messages of their topics again.
package mqttclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"outrigger.dev/components/clienttls"
)

// Options are the connection properties of an MQTT component (Dapr API, MQTT components). Embed it in the component's
// options.
type Options struct {
	URL        string `name:"url" required:"true" secret:"true" help:"the broker as scheme://user:password@host:port; the scheme is mqtt or tcp, mqtts, ssl or tls, ws, or wss, e.g. mqtt://localhost:1883"`
	CACert     string `name:"caCert" help:"certificates in PEM of the authorities that the broker's is checked against, or the path of a file with them; default is the system's"`
	ClientCert string `name:"clientCert" help:"client certificate in PEM, or the path of a file with it; needs clientKey"`
	ClientKey  string `name:"clientKey" secret:"true" help:"key of clientCert in PEM, or the path of a file with it"`
}

// target is where and how to connect.
type target struct {
	// address is host:port.
	address string
	// shown is the URL without the user, for messages.
	shown string
	// webSocket is the URL to ask for a WebSocket, "" for plain TCP.
	webSocket                string
	tls                      *tls.Config
	username, password       string
	withUsername, withSecret bool
}

var errAccount = errors.New("metadata property \"url\" is not a URL: write scheme://user:password@host:port, and in the user and the password %40 for @, %2F for /, %3A for :, and so on")

// Check says which option cannot be used, and why.
func (o *Options) Check() error {
	_, err := o.target()
	return err
}

// Late is the error of a call whose time ran out while it waited for what, such as "the connection". It names the broker and a
// remedy, and wraps why ctx ended.
func (o *Options) Late(ctx context.Context, what string) error {
	t, err := o.target()
	if err != nil {
		return err
	}
	return t.late(ctx, what)
}

func (t *target) late(ctx context.Context, what string) error {
	return fmt.Errorf("the MQTT broker at %s: waited in vain for %s: %w; %s", t.shown, what, context.Cause(ctx), remedy)
}

// target reads the options.
func (o *Options) target() (*target, error) {
	u, err := url.Parse(strings.TrimSpace(o.URL))
	if err != nil {
		if strings.Contains(o.URL, "@") { // the text may have parts of the password
			return nil, errAccount
		}
		if parse, ok := errors.AsType[*url.Error](err); ok {
			err = parse.Err // without the whole URL
		}
		return nil, fmt.Errorf("metadata property \"url\" is not a URL: %w: write e.g. mqtt://localhost:1883", err)
	}
	if strings.Contains(u.Path, "@") {
		return nil, errAccount
	}
	t := &target{}
	var secure bool
	var port string
	switch strings.ToLower(u.Scheme) {
	case "mqtt", "tcp":
		port = "1883"
	case "mqtts", "ssl", "tls", "mqtt+ssl", "tcps":
		port, secure = "8883", true
	case "ws":
		port = "80"
	case "wss":
		port, secure = "443", true
	default:
		return nil, fmt.Errorf("metadata property \"url\" has the scheme %q, which is none of mqtt, tcp, mqtts, ssl, tls, ws and wss: write e.g. mqtt://localhost:1883", u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, errors.New("metadata property \"url\" names no host: write e.g. mqtt://localhost:1883")
	}
	if u.Port() != "" {
		port = u.Port()
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("metadata property \"url\" has the port %q, which is not a number from 1 to 65535", port)
		}
	}
	t.address = net.JoinHostPort(u.Hostname(), port)
	if u.User != nil {
		t.username, t.withUsername = u.User.Username(), u.User.Username() != ""
		t.password, t.withSecret = u.User.Password()
		if t.withSecret && !t.withUsername {
			return nil, errors.New("metadata property \"url\" has a password without a user, which MQTT cannot send: write scheme://user:password@host")
		}
	}
	for _, text := range []string{t.username, t.password} {
		if len(text) > longestTopic {
			return nil, fmt.Errorf("metadata property \"url\" has a user or a password of %d bytes, but MQTT carries at most %d", len(text), longestTopic)
		}
	}
	u.User = nil
	u.Host = t.address
	t.shown = u.Scheme + "://" + t.address
	if scheme := strings.ToLower(u.Scheme); scheme == "ws" || scheme == "wss" {
		t.webSocket = u.String()
	} else if strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("metadata property \"url\" has the path %q, which only ws and wss take: remove it", u.Path)
	}
	if secure {
		t.tls, err = o.tlsConfig(u.Hostname())
		return t, err
	}
	for _, p := range []struct{ name, value string }{{"caCert", o.CACert}, {"clientCert", o.ClientCert}, {"clientKey", o.ClientKey}} {
		if p.value != "" {
			return nil, fmt.Errorf("metadata property %q is given, but \"url\" begins with %s://, which is without TLS: use mqtts:// or wss://, or remove %s", p.name, u.Scheme, p.name)
		}
	}
	return t, nil
}

func (o *Options) tlsConfig(host string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	var err error
	if config.RootCAs, err = clienttls.Authorities(clienttls.Property{Name: "caCert", Value: o.CACert}); err != nil {
		return nil, err
	}
	config.Certificates, err = clienttls.Pair(clienttls.Property{Name: "clientCert", Value: o.ClientCert}, clienttls.Property{Name: "clientKey", Value: o.ClientKey})
	if err != nil {
		return nil, err
	}
	return config, nil
}
