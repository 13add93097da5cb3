// Package redisclient is what all Redis components share: the connection metadata, as an options struct to embed, and
// the way from it to a connected client.
package redisclient

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/clienttls"
)

// Options are the connection properties of a Redis component (Dapr API, Redis components). Embed it in the component's
// options. Durations are Go durations, or integers counting milliseconds; a negative timeout means none.
type Options struct {
	Host     string `name:"redisHost" required:"true" help:"the server as host:port, or a comma-separated list of them for a cluster or for sentinels, e.g. localhost:6379"`
	Port     string `name:"redisPort" help:"the port of hosts that redisHost gives without one; default 6379, or 26379 for sentinels"`
	Username string `name:"redisUsername" help:"the ACL user; default is the server's default user"`
	Password string `name:"redisPassword" secret:"true" help:"the password of the user"`
	DB       int    `name:"redisDB" help:"the number of the database; default 0, and always 0 with a cluster"`
	Type     string `name:"redisType" default:"node" allowed:"node,cluster" help:"node for one server or one with sentinels, cluster for a Redis Cluster"`

	EnableTLS             bool   `name:"enableTLS" help:"connect with TLS; the server's certificate is checked against the system's authorities"`
	InsecureSkipTLSVerify bool   `name:"insecureSkipTLSVerify" help:"do not check the server's certificate"`
	ClientCert            string `name:"clientCert" secret:"true" help:"client certificate in PEM, or the path of a file with it; needs clientKey and enableTLS"`
	ClientKey             string `name:"clientKey" secret:"true" help:"key of clientCert in PEM, or the path of a file with it"`

	Failover           bool   `name:"failover" help:"redisHost names sentinels; needs sentinelMasterName"`
	SentinelMasterName string `name:"sentinelMasterName" help:"the name under which the sentinels watch the master"`
	SentinelUsername   string `name:"sentinelUsername" help:"the ACL user at the sentinels"`
	SentinelPassword   string `name:"sentinelPassword" secret:"true" help:"the password at the sentinels"`

	MaxRetries       int                `name:"redisMaxRetries" default:"3" aliases:"maxRetries" help:"how often a command that is safe to repeat is tried again after a connection error; 0 or less for never"`
	MinRetryInterval *components.Millis `name:"redisMinRetryInterval" help:"the wait before the first retry, doubled for each further one; -1 for none"`
	MaxRetryInterval *components.Millis `name:"redisMaxRetryInterval" aliases:"maxRetryBackoff" help:"the longest wait before a retry; default 512ms; -1 for no wait"`

	DialTimeout  components.Millis `name:"dialTimeout" default:"5s" help:"limit for connecting, with all handshakes"`
	ReadTimeout  components.Millis `name:"readTimeout" default:"3s" help:"limit for the reply to a command"`
	WriteTimeout components.Millis `name:"writeTimeout" help:"limit for writing a command; the longer of this and readTimeout holds for both"`

	PoolSize     int               `name:"poolSize" help:"the most connections for blocking commands and transactions that wait; default 128. Other commands share pipelined connections"`
	MinIdleConns int               `name:"minIdleConns" help:"how many idle connections of the pool are kept"`
	IdleTimeout  components.Millis `name:"idleTimeout" default:"5m" help:"idle connections of the pool are closed after this; -1 for never"`
	MaxConnAge   components.Millis `name:"maxConnAge" help:"connections are replaced after this; default is never"`
	PoolTimeout  components.Millis `name:"poolTimeout" help:"accepted without effect: waits for the pool end with the request"`
	// IdleCheckFrequency is the pool's own affair in this client.
	IdleCheckFrequency components.Millis `name:"idleCheckFrequency" help:"accepted without effect: idleTimeout alone decides"`

	UseEntraID bool `name:"useEntraID" aliases:"useAzureAD" help:"log in with Microsoft Entra ID; not supported by this build"`
}

// The ports of hosts that give none.
const (
	defaultPort         = "6379"
	defaultSentinelPort = "26379"
)

// Defaults for what the metadata leaves out.
const (
	defaultMaxRetryInterval = 512 * time.Millisecond
	defaultPoolSize         = 128
)

// addresses are the host:port pairs of redisHost, and the port put to those without one.
func (o *Options) addresses() ([]string, error) {
	fallback := o.Port
	if fallback == "" {
		fallback = defaultPort
		if o.Failover {
			fallback = defaultSentinelPort
		}
	}
	if err := checkPort(fallback); err != nil {
		return nil, fmt.Errorf("metadata property \"redisPort\": %w", err)
	}
	var all []string
	for item := range strings.SplitSeq(o.Host, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		host, port, err := splitHostPort(item)
		if err != nil {
			return nil, fmt.Errorf("metadata property \"redisHost\" has %q, which is not host:port: %w", item, err)
		}
		if port != "" && o.Port != "" && port != o.Port {
			return nil, fmt.Errorf("metadata property \"redisPort\" is %q, but \"redisHost\" has the port %s in %q: give the port in one place only", o.Port, port, item)
		}
		if port == "" {
			port = fallback
		}
		all = append(all, net.JoinHostPort(host, port))
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("metadata property \"redisHost\" is %q, which names no host: write e.g. localhost:6379", o.Host)
	}
	if len(all) > 1 && !o.Failover && !o.cluster() {
		return nil, fmt.Errorf("metadata property \"redisHost\" names %d hosts, but \"redisType\" is node: set redisType to cluster for a Redis Cluster, or failover to true for sentinels", len(all))
	}
	return all, nil
}

// splitHostPort cuts host:port, host, an IPv6 address, or one in brackets; port is "" when there is none.
func splitHostPort(item string) (host, port string, err error) {
	if strings.Contains(item, "://") {
		return "", "", errors.New("a URL is not taken, leave out the scheme")
	}
	if ip := net.ParseIP(strings.Trim(item, "[]")); ip != nil {
		return strings.Trim(item, "[]"), "", nil
	}
	host = item
	if strings.Contains(item, ":") {
		if host, port, err = net.SplitHostPort(item); err == nil && port != "" {
			err = checkPort(port)
		}
	}
	if err == nil && (host == "" || strings.ContainsAny(host, "[]/ ")) {
		err = fmt.Errorf("%q is no host name or IP address", host)
	}
	return host, port, err
}

func checkPort(port string) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is no port, which is a number from 1 to 65535", port)
	}
	return nil
}

func (o *Options) cluster() bool { return strings.EqualFold(o.Type, "cluster") && !o.Failover }

// Check refuses settings that contradict each other or cannot be followed. It implements [components.Checker].
func (o *Options) Check() error {
	switch {
	case o.UseEntraID:
		return errors.New("metadata property \"useEntraID\" is true, but this build cannot log in to Redis with Microsoft Entra ID: set redisPassword to an access key")
	case o.Failover && o.SentinelMasterName == "":
		return errors.New("metadata property \"failover\" is true, but \"sentinelMasterName\" is missing: set it to the name that the sentinels give the master, often mymaster")
	case o.cluster() && o.DB != 0:
		return fmt.Errorf("metadata property \"redisDB\" is %d, but a Redis Cluster only has the database 0: remove redisDB", o.DB)
	case o.DB < 0:
		return fmt.Errorf("metadata property \"redisDB\" is %d, but databases count from 0", o.DB)
	case clienttls.Together(o.pair()) != nil:
		return clienttls.Together(o.pair())
	case o.ClientCert != "" && !o.EnableTLS:
		return errors.New("metadata property \"clientCert\" needs \"enableTLS\" to be true")
	}
	if _, err := o.addresses(); err != nil {
		return err
	}
	_, err := o.tlsConfig()
	return err
}

// tlsConfig is nil without TLS.
func (o *Options) tlsConfig() (*tls.Config, error) {
	if !o.EnableTLS {
		return nil, nil
	}
	// #nosec G402 -- skipping the check is the user's explicit choice.
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.InsecureSkipTLSVerify}
	var err error
	if config.Certificates, err = clienttls.Pair(o.pair()); err != nil {
		return nil, err
	}
	return config, nil
}

// pair are the properties of the client's certificate and its key.
func (o *Options) pair() (cert, key clienttls.Property) {
	return clienttls.Property{Name: "clientCert", Value: o.ClientCert}, clienttls.Property{Name: "clientKey", Value: o.ClientKey}
}
