package kafkaclient

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jonboulle/clockwork"
)

// The ways to log in (Dapr API, Kafka components: authType).
const (
	authNone     = "none"
	authPassword = "password"
	authMTLS     = "mtls"
	authOIDC     = "oidc"
	authOIDCKey  = "oidc_private_key_jwt"
	authAWS      = "awsiam"
)

// auth is the way to log in; authRequired is its older form.
func (o *Options) auth() string {
	switch {
	case o.AuthType != "":
		return strings.ToLower(o.AuthType)
	case o.AuthRequired == nil:
		return ""
	case *o.AuthRequired:
		return authPassword
	}
	return authNone
}

// Check refuses settings that are missing, contradict each other or cannot be followed. The error names the property, its
// value and the remedy. It implements [components.Checker].
func (o *Options) Check() error {
	for _, check := range []func() error{o.checkBrokers, o.checkAuth, o.checkLimits, o.BackOff.check, o.checkKeys} {
		if err := check(); err != nil {
			return err
		}
	}
	if _, err := regexp.Compile(o.ExcludeHeaderMeta); err != nil {
		return fmt.Errorf("metadata property \"excludeHeaderMetaRegex\" is %q, which is not a regular expression: %w", o.ExcludeHeaderMeta, err)
	}
	if o.SchemaRegistryURL != "" {
		if u, err := url.Parse(o.SchemaRegistryURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("metadata property \"schemaRegistryURL\" is %q, which is not a URL: write e.g. http://localhost:8081", shown(o.SchemaRegistryURL))
		}
	} else if o.SchemaRegistryAPIKey != "" || o.SchemaRegistryAPISecret != "" {
		return errors.New("metadata properties \"schemaRegistryAPIKey\" and \"schemaRegistryAPISecret\" need \"schemaRegistryURL\"")
	}
	if (o.SchemaRegistryAPIKey == "") != (o.SchemaRegistryAPISecret == "") {
		return errors.New("metadata properties \"schemaRegistryAPIKey\" and \"schemaRegistryAPISecret\" must be given together")
	}
	return nil
}

// shown is a URL, or what was meant to be one, as messages show it: without user and password.
func shown(text string) string {
	at := strings.LastIndexByte(text, '@')
	if at < 0 {
		return text
	}
	if scheme, _, ok := strings.Cut(text[:at], "://"); ok {
		return scheme + "://" + text[at+1:]
	}
	return text[at+1:]
}

// brokers are the addresses of the property brokers, each with a port.
func (o *Options) brokers() []string {
	var all []string
	for _, b := range o.Brokers {
		if b = strings.TrimSpace(b); b != "" {
			all = append(all, b)
		}
	}
	return all
}

func (o *Options) checkBrokers() error {
	all := o.brokers()
	if len(all) == 0 {
		return fmt.Errorf("metadata property \"brokers\" is %q, which names no broker: write e.g. localhost:9092", strings.Join(o.Brokers, ","))
	}
	for _, b := range all {
		if strings.Contains(b, "://") {
			return fmt.Errorf("metadata property \"brokers\" has %q, but a broker is host:port without a scheme: write e.g. localhost:9092", b)
		}
		if i := strings.LastIndexByte(b, ':'); i >= 0 && !strings.HasSuffix(b, "]") && strings.Count(b, ":") == 1 {
			if n, err := strconv.ParseUint(b[i+1:], 10, 16); err != nil || n == 0 || i == 0 {
				return fmt.Errorf("metadata property \"brokers\" has %q, which is not host:port: write e.g. localhost:9092", b)
			}
		}
	}
	for part := range strings.SplitSeq(o.Version, ".") {
		if _, err := strconv.ParseUint(part, 10, 16); err != nil && o.Version != "" {
			return fmt.Errorf("metadata property \"version\" is %q, which is not a version of Kafka: write e.g. 3.9.0, or remove it", o.Version)
		}
	}
	return nil
}

func (o *Options) checkAuth() error {
	auth := o.auth()
	need := func(fields ...[2]string) error {
		for _, f := range fields {
			if f[1] == "" {
				return fmt.Errorf("metadata property %q is missing, but \"authType\" is %s: set it", f[0], auth)
			}
		}
		return nil
	}
	var err error
	switch auth {
	case "":
		return errors.New("metadata property \"authType\" is missing: set it to none, password, mtls, oidc, oidc_private_key_jwt or awsiam")
	case authPassword:
		err = need([2]string{"saslUsername", o.SASLUsername}, [2]string{"saslPassword", o.SASLPassword})
	case authMTLS:
		err = need([2]string{"clientCert", o.ClientCert}, [2]string{"clientKey", o.ClientKey})
		if err == nil && o.DisableTLS {
			err = errors.New("metadata property \"disableTls\" is true, but \"authType\" is mtls, which is a certificate in TLS: remove disableTls or choose another authType")
		}
	case authOIDC:
		err = need([2]string{"oidcTokenEndpoint", o.OIDCTokenEndpoint}, [2]string{"oidcClientID", o.OIDCClientID}, [2]string{"oidcClientSecret", o.OIDCClientSecret})
	case authOIDCKey:
		err = need([2]string{"oidcTokenEndpoint", o.OIDCTokenEndpoint}, [2]string{"oidcClientID", o.OIDCClientID},
			[2]string{"oidcClientAssertionCert", o.OIDCClientAssertionCert}, [2]string{"oidcClientAssertionKey", o.OIDCClientAssertionKey})
	}
	if err != nil {
		return err
	}
	if u, e := url.Parse(o.OIDCTokenEndpoint); o.OIDCTokenEndpoint != "" && (e != nil || u.Host == "") {
		return fmt.Errorf("metadata property \"oidcTokenEndpoint\" is %q, which is not a URL: write e.g. https://login.example.com/token", shown(o.OIDCTokenEndpoint))
	}
	if (o.ClientCert == "") != (o.ClientKey == "") {
		return errors.New("metadata properties \"clientCert\" and \"clientKey\" must be given together")
	}
	return nil
}

// checkKeys refuses certificates, keys and extensions of tokens that cannot be read.
func (o *Options) checkKeys() error {
	if _, err := o.tlsConfig(); err != nil {
		return err
	}
	switch o.auth() {
	case authOIDC, authOIDCKey:
		_, err := o.tokenSource(clockwork.NewRealClock())
		return err
	case authAWS:
		return o.Options.Check()
	}
	return nil
}

func (o *Options) checkLimits() error {
	for _, d := range []struct {
		name      string
		value     time.Duration
		low, high time.Duration
		example   string
	}{
		{"dialTimeout", o.DialTimeout, time.Millisecond, time.Hour, "30s"},
		{"readTimeout", o.ReadTimeout, 100 * time.Millisecond, 15 * time.Minute, "30s"},
		{"writeTimeout", o.WriteTimeout, 100 * time.Millisecond, 15 * time.Minute, "30s"},
		{"metadataTimeout", o.MetadataTimeout, 0, time.Hour, "10s"},
		{"clientConnectionTopicMetadataRefreshInterval", o.MetadataRefresh, 100 * time.Millisecond, 24 * time.Hour, "9m"},
		{"clientConnectionKeepAliveInterval", o.ConnKeepAlive, 0, 24 * time.Hour, "5m"},
		{"sessionTimeout", o.SessionTimeout, 100 * time.Millisecond, time.Hour, "10s"},
		{"heartbeatInterval", o.HeartbeatEvery, 10 * time.Millisecond, time.Hour, "3s"},
		{"consumeRetryInterval", time.Duration(o.ConsumeRetryInterval), 0, time.Hour, "100ms"},
		{"schemaLatestVersionCacheTTL", o.SchemaLatestTTL, 0, 1 << 62, "5m"},
	} {
		if d.value < d.low || d.value > d.high {
			return fmt.Errorf("metadata property %q is %q, but must be from %s to %s: write e.g. %s", d.name, d.value, d.low, d.high, d.example)
		}
	}
	if o.HeartbeatEvery >= o.SessionTimeout {
		return fmt.Errorf("metadata property \"heartbeatInterval\" is %q, but must be shorter than \"sessionTimeout\", which is %q: a third of it is usual", o.HeartbeatEvery, o.SessionTimeout)
	}
	for _, n := range []struct {
		name      string
		value     int64
		low, high int64
	}{
		{"consumerFetchMin", int64(o.FetchMin), 1, 1 << 30},
		{"consumerFetchDefault", int64(o.FetchDefault), 1, 1 << 30},
		{"channelBufferSize", int64(o.ChannelBuffer), 0, 1 << 20},
		{"maxMessageBytes", int64(o.MaxMessageBytes), 1, 1 << 30},
		{"producerRetryMax", int64(o.ProducerRetryMax), 0, 1 << 30},
	} {
		if n.value < n.low || n.value > n.high {
			return fmt.Errorf("metadata property %q is %d, but must be from %d to %d", n.name, n.value, n.low, n.high)
		}
	}
	return nil
}
