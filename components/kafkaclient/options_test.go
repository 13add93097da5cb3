package kafkaclient

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestOptionsRefused(t *testing.T) {
	for _, tc := range []struct {
		name       string
		properties map[string]string
		words      []string
	}{
		{"no brokers", map[string]string{"brokers": ""}, []string{"brokers", "required"}},
		{"blank brokers", map[string]string{"brokers": " , "}, []string{"brokers", "names no broker"}},
		{"scheme", map[string]string{"brokers": "kafka://a:9092"}, []string{"kafka://a:9092", "without a scheme"}},
		{"port", map[string]string{"brokers": "a:b"}, []string{"a:b", "host:port"}},
		{"version", map[string]string{"version": "new"}, []string{"version", "new", "3.9.0"}},
		{"no authType", map[string]string{"authType": ""}, []string{"authType", "missing"}},
		{"other authType", map[string]string{"authType": "kerberos"}, []string{"authType", "kerberos", "mtls"}},
		{"password without user", map[string]string{"authType": "password", "saslPassword": "p"}, []string{"saslUsername", "password"}},
		{"password without password", map[string]string{"authType": "password", "saslUsername": "u"}, []string{"saslPassword"}},
		{"mechanism", map[string]string{"authType": "password", "saslUsername": "u", "saslPassword": "p", "saslMechanism": "MD5"}, []string{"saslMechanism", "MD5", "SHA-512"}},
		{"mtls without certificate", map[string]string{"authType": "mtls", "clientKey": "k"}, []string{"clientCert"}},
		{"mtls in clear text", map[string]string{"authType": "mtls", "clientKey": "k", "clientCert": "c", "disableTls": "true"}, []string{"disableTls", "mtls"}},
		{"certificate without key", map[string]string{"authType": "password", "saslUsername": "u", "saslPassword": "p", "clientCert": "c"}, []string{"clientCert", "clientKey", "together"}},
		{"no pair", map[string]string{"authType": "mtls", "clientKey": "k", "clientCert": "c"}, []string{"clientCert", "PEM"}},
		{"caCert", map[string]string{"authType": "password", "saslUsername": "u", "saslPassword": "p", "caCert": "x"}, []string{"caCert", "BEGIN CERTIFICATE"}},
		{"oidc without secret", map[string]string{"authType": "oidc", "oidcTokenEndpoint": "http://a/", "oidcClientID": "c"}, []string{"oidcClientSecret"}},
		{"oidc endpoint", map[string]string{"authType": "oidc", "oidcTokenEndpoint": "a", "oidcClientID": "c", "oidcClientSecret": "s"}, []string{"oidcTokenEndpoint", `"a"`, "URL"}},
		{"oidc extensions", map[string]string{"authType": "oidc", "oidcTokenEndpoint": "http://a/", "oidcClientID": "c", "oidcClientSecret": "s", "oidcExtensions": "a=b"}, []string{"oidcExtensions", "a=b", "JSON"}},
		{"assertion without key", map[string]string{"authType": "oidc_private_key_jwt", "oidcTokenEndpoint": "http://a/", "oidcClientID": "c", "oidcClientAssertionCert": "x"}, []string{"oidcClientAssertionKey"}},
		{"aws key without secret", map[string]string{"authType": "awsiam", "awsRegion": "eu-west-1", "awsAccessKey": "k"}, []string{"accessKey", "secretKey"}},
		{"initialOffset", map[string]string{"initialOffset": "middle"}, []string{"initialOffset", "middle", "oldest"}},
		{"strategy", map[string]string{"consumerGroupRebalanceStrategy": "fair"}, []string{"consumerGroupRebalanceStrategy", "fair", "sticky"}},
		{"compression", map[string]string{"compression": "zip"}, []string{"compression", "zip", "zstd"}},
		{"acks", map[string]string{"producerRequiredAcks": "most"}, []string{"producerRequiredAcks", "most", "local"}},
		{"regex", map[string]string{"excludeHeaderMetaRegex": "("}, []string{"excludeHeaderMetaRegex", `"("`}},
		{"registry", map[string]string{"schemaRegistryURL": "registry"}, []string{"schemaRegistryURL", "registry", "http://"}},
		{"registry login alone", map[string]string{"schemaRegistryAPIKey": "k", "schemaRegistryAPISecret": "s"}, []string{"schemaRegistryAPIKey", "schemaRegistryURL"}},
		{"registry half login", map[string]string{"schemaRegistryURL": "http://a", "schemaRegistryAPIKey": "k"}, []string{"schemaRegistryAPISecret", "together"}},
		{"heartbeat", map[string]string{"heartbeatInterval": "10s"}, []string{"heartbeatInterval", "sessionTimeout"}},
		{"dialTimeout", map[string]string{"dialTimeout": "0"}, []string{"dialTimeout", "30s"}},
		{"readTimeout", map[string]string{"readTimeout": "-1s"}, []string{"readTimeout", "-1s"}},
		{"buffer", map[string]string{"channelBufferSize": "-1"}, []string{"channelBufferSize", "-1"}},
		{"maxMessageBytes", map[string]string{"maxMessageBytes": "0"}, []string{"maxMessageBytes", "0"}},
		{"fetch", map[string]string{"consumerFetchMin": "0"}, []string{"consumerFetchMin"}},
		{"retries", map[string]string{"producerRetryMax": "-1"}, []string{"producerRetryMax", "-1"}},
		{"backOff", map[string]string{"backOffDuration": "-1s"}, []string{"backOffDuration", "-1s"}},
		{"backOffPolicy", map[string]string{"backOffPolicy": "linear"}, []string{"backOffPolicy", "linear", "exponential"}},
		{"factor", map[string]string{"backOffRandomizationFactor": "2"}, []string{"backOffRandomizationFactor", "2"}},
		{"multiplier", map[string]string{"backOffPolicy": "exponential", "backOffMultiplier": "0.5"}, []string{"backOffMultiplier", "0.5"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			all := map[string]string{"brokers": "localhost:9092"}
			maps.Copy(all, tc.properties)
			_, err := client(t, all)
			expectError(t, err, tc.words...)
		})
	}
}

func TestOptionsTaken(t *testing.T) {
	for name, properties := range map[string]map[string]string{
		"several brokers":   {"brokers": "a:9092, b:9093,[::1]:9094,c"},
		"authRequired":      {"authType": "", "authRequired": "false"},
		"older password":    {"authType": "", "authRequired": "true", "saslUsername": "u", "saslPassword": "p"},
		"aws":               {"authType": "awsiam", "awsRegion": "eu-west-1", "awsAccessKey": "k", "awsSecretKey": "s", "awsSessionToken": "t"},
		"aws, common names": {"authType": "awsiam", "region": "eu-west-1", "accessKey": "k", "secretKey": "s"},
		"big fetches":       {"consumerFetchDefault": "209715200", "consumerFetchMin": "1048576"},
		"tiny":              {"maxMessageBytes": "1", "channelBufferSize": "0", "producerRetryMax": "0"},
		"large":             {"maxMessageBytes": "268435456"},
		"connections":       {"clientConnectionKeepAliveInterval": "4m", "clientConnectionTopicMetadataRefreshInterval": "100ms", "metadataTimeout": "3s"},
	} {
		t.Run(name, func(t *testing.T) {
			all := map[string]string{"brokers": "localhost:9092"}
			maps.Copy(all, properties)
			c := mustClient(t, all)
			// The client library refuses what it cannot follow when a client is made.
			for what, opts := range map[string][]kgo.Opt{
				"producer": c.producerOptions(),
				"consumer": c.NewConsumer("g", true).sessionOptions(&session{}),
			} {
				if err := kgo.ValidateOpts(slices.Concat(c.base, opts)...); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

func TestOptionsDefaults(t *testing.T) {
	o, err := decoded(t, map[string]string{"brokers": "a:1", "authType": "none", "consumerID": "app"})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{
		"clientID":             o.ClientID == "sarama",
		"initialOffset":        o.InitialOffset == "newest",
		"heartbeatInterval":    o.HeartbeatEvery == 3*time.Second,
		"sessionTimeout":       o.SessionTimeout == 10*time.Second,
		"consumeRetryInterval": time.Duration(o.ConsumeRetryInterval) == 100*time.Millisecond,
		"channelBufferSize":    o.ChannelBuffer == 256,
		"consumerFetchDefault": o.FetchDefault == 1<<20,
		"producerRequiredAcks": o.RequiredAcks == "all",
		"compression":          o.Compression == "none",
		"strategy":             o.RebalancePlan == "range",
		"backOffDuration":      o.Duration == 5*time.Second,
		"backOffMaxRetries":    o.MaxRetries == -1,
		"schemaCaching":        o.SchemaCaching && o.SchemaLatestTTL == 5*time.Minute,
		"group":                o.Group("x") == "app",
	} {
		if !ok {
			t.Errorf("default of %s is another: %+v", name, o)
		}
	}
	o.ConsumerGroup = " given "
	if got := o.Group("x"); got != "given" {
		t.Errorf("Group = %q with consumerGroup", got)
	}
	o.ConsumerGroup, o.ConsumerID = "", ""
	if got := o.Group("x"); got != "x" {
		t.Errorf("Group = %q with neither", got)
	}
}

func TestTLSConfig(t *testing.T) {
	for _, tc := range []struct {
		name  string
		o     Options
		tls   bool
		skips bool
		idle  string
	}{
		{"none", Options{AuthType: "none"}, false, false, ""},
		{"none with settings", Options{AuthType: "none", SkipVerify: true}, false, false, "skipVerify"},
		{"password", Options{AuthType: "password"}, true, false, ""},
		{"password, any case", Options{AuthType: "Password", SkipVerify: true}, true, true, ""},
		{"password in clear text", Options{AuthType: "password", DisableTLS: true, CACert: "x"}, false, false, "caCert"},
		{"awsiam", Options{AuthType: "awsiam"}, true, false, ""},
	} {
		config, err := tc.o.tlsConfig()
		if err != nil || (config != nil) != tc.tls || config != nil && config.InsecureSkipVerify != tc.skips {
			t.Errorf("%s: %+v, %v", tc.name, config, err)
		}
		if got := tc.o.idle(); got != tc.idle {
			t.Errorf("%s: without effect: %q, want %q", tc.name, got, tc.idle)
		}
	}
}

func TestBackOff(t *testing.T) {
	clock := clockwork.NewFakeClock()
	constant := BackOff{Policy: "constant", Duration: time.Second, MaxRetries: 2}
	w := constant.begin(clock.Now())
	for range 2 {
		if d, ok := w.next(clock.Now()); !ok || d != time.Second {
			t.Fatalf("constant: %v, %v", d, ok)
		}
	}
	if _, ok := w.next(clock.Now()); ok {
		t.Error("a third retry though backOffMaxRetries is 2")
	}
	growing := BackOff{
		Policy: "Exponential", InitialInterval: time.Second, Multiplier: 2, MaxInterval: 4 * time.Second, MaxElapsedTime: 20 * time.Second, MaxRetries: -1,
	}
	w = growing.begin(clock.Now())
	for i, want := range []time.Duration{1, 2, 4, 4, 4} {
		d, ok := w.next(clock.Now())
		if !ok || d != want*time.Second {
			t.Fatalf("wait %d is %v, %v, want %vs", i, d, ok, want)
		}
		clock.Advance(d)
	}
	clock.Advance(2 * time.Second)
	if d, ok := w.next(clock.Now()); ok {
		t.Errorf("another wait of %v though backOffMaxElapsedTime is over", d)
	}
	growing.RandomizationFactor = 0.5
	for range 100 {
		w = growing.begin(clock.Now())
		if d, ok := w.next(clock.Now()); !ok || d < 500*time.Millisecond || d > 1500*time.Millisecond {
			t.Fatalf("wait %v is further than half from 1s", d)
		}
	}
	growing.MaxElapsedTime, growing.Multiplier = 0, 1e300
	w = growing.begin(clock.Now())
	for range 2000 {
		if d, ok := w.next(clock.Now()); !ok || d < 0 || d > 6*time.Second {
			t.Fatalf("wait %v, %v", d, ok)
		}
	}
}
