package kafkaclient

import (
	"encoding/base64"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"outrigger.dev/test/servers"
)

// unsecured is a token that the test's broker takes (RFC 7515, alg none).
func unsecured() string {
	part := base64.RawURLEncoding.EncodeToString
	claims := fmt.Appendf(nil, `{"sub":"app","iat":%d,"exp":%d}`, time.Now().Unix(), time.Now().Add(time.Hour).Unix())
	return part([]byte(`{"alg":"none"}`)) + "." + part(claims) + "."
}

// Each way to log in works with a real broker, publishing and consuming.
func TestLogin(t *testing.T) {
	s := servers.Kafka(t)
	endpoint := newTokens(t)
	endpoint.reply = fmt.Sprintf(`{"access_token":%q}`, unsecured())
	certificate, key, _ := keyPair(t, "P-256")
	ca := string(s.TLS.CA)
	password := func(more map[string]string) map[string]string {
		all := map[string]string{"authType": "password", "saslUsername": s.User, "saslPassword": s.Password, "disableTls": "true"}
		maps.Copy(all, more)
		return all
	}
	mtls := map[string]string{"authType": "mtls", "caCert": ca, "clientCert": string(s.TLS.Cert), "clientKey": string(s.TLS.Key)}
	oidc := map[string]string{"authType": "oidc", "oidcTokenEndpoint": endpoint.URL, "oidcClientID": "me", "oidcClientSecret": "x", "disableTls": "true"}
	for i, tc := range []struct {
		name       string
		addr       string
		properties map[string]string
		words      []string // of the error; none: it works
	}{
		{"none", s.Addr, map[string]string{"authType": "none"}, nil},
		{"PLAINTEXT", s.SASLAddr, password(nil), nil},
		{"SHA-256", s.SASLAddr, password(map[string]string{"saslMechanism": "SHA-256"}), nil},
		{"SHA-512 over TLS", s.SASLTLSAddr, password(map[string]string{"saslMechanism": "SHA-512", "disableTls": "false", "caCert": ca}), nil},
		{"not verified", s.SASLTLSAddr, password(map[string]string{"disableTls": "false", "skipVerify": "true"}), nil},
		{"mtls", s.MutualTLSAddr, mtls, nil},
		{"oidc", s.SASLAddr, oidc, nil},
		{"oidc with an assertion", s.SASLAddr, map[string]string{"authType": "oidc_private_key_jwt", "oidcTokenEndpoint": endpoint.URL, "oidcClientID": "me", "oidcClientAssertionCert": certificate, "oidcClientAssertionKey": key, "disableTls": "true"}, nil},

		{"wrong password", s.SASLAddr, password(map[string]string{"saslPassword": "wrong"}), []string{s.SASLAddr, "saslPassword", "PLAINTEXT"}},
		{"wrong SHA-512 password", s.SASLAddr, password(map[string]string{"saslPassword": "wrong", "saslMechanism": "SHA-512"}), []string{"saslPassword", "SHA-512"}},
		{"unknown authority", s.SASLTLSAddr, password(map[string]string{"disableTls": "false"}), []string{s.SASLTLSAddr, "x509", "caCert"}},
		{"no token", s.SASLAddr, map[string]string{"authType": "oidc", "oidcTokenEndpoint": "http://127.0.0.1:1/", "oidcClientID": "c", "oidcClientSecret": "x", "disableTls": "true"}, []string{"127.0.0.1:1", "oidcTokenEndpoint"}},
		{"TLS to clear text", s.SASLAddr, password(map[string]string{"disableTls": "false"}), []string{s.SASLAddr, "disableTls"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			all := map[string]string{"brokers": tc.addr, "initialOffset": "oldest", "dialTimeout": "5s", "readTimeout": "5s", "writeTimeout": "5s"}
			maps.Copy(all, tc.properties)
			cl, err := client(t, all)
			if err != nil {
				t.Fatal(err)
			}
			p, err := cl.OpenProducer(within(t))
			if tc.words != nil {
				expectError(t, err, tc.words...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			topic := fmt.Sprintf("login-%d", i)
			publish(t, p, topic, nil, "v")
			in := newInbox()
			subscribe(t, consumer(t, cl, topic, true), Subscribe{Topic: topic, Handler: in.accept})
			in.expect(t, "v")
		})
	}
}

func TestAWSLogin(t *testing.T) {
	cl := mustClient(t, map[string]string{"brokers": "b-1.example.kafka.eu-west-1.amazonaws.com:9098", "authType": "awsiam", "awsRegion": "eu-west-1", "awsAccessKey": "AKID", "awsSecretKey": "secret", "awsSessionToken": "session"})
	mechanism, err := cl.options.mechanism(within(t), cl.clock)
	if err != nil {
		t.Fatal(err)
	}
	if got := mechanism.Name(); got != "AWS_MSK_IAM" {
		t.Errorf("mechanism %s", got)
	}
	_, first, err := mechanism.Authenticate(within(t), "b-1.example.kafka.eu-west-1.amazonaws.com:9098")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"AKID/", "/eu-west-1/kafka-cluster/aws4_request", `"x-amz-security-token":"session"`, "x-amz-signature"} {
		expectError(t, fmt.Errorf("%s", first), word)
	}
}

func TestOpenRefused(t *testing.T) {
	_, addr := cluster(t, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "u", "p"))
	for _, tc := range []struct {
		name       string
		properties map[string]string
		words      []string
	}{
		{"no broker", map[string]string{"brokers": "127.0.0.1:1"}, []string{"127.0.0.1:1", "running"}},
		{"user", map[string]string{"authType": "password", "saslUsername": "x", "saslPassword": "hidden", "saslMechanism": "SHA-256", "disableTls": "true"}, []string{addr, "saslUsername", "SHA-256"}},
		{"mechanism", map[string]string{"authType": "password", "saslUsername": "u", "saslPassword": "hidden", "disableTls": "true"}, []string{addr, "saslMechanism", "PLAINTEXT"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			all := map[string]string{"brokers": addr}
			maps.Copy(all, tc.properties)
			_, err := mustClient(t, all).OpenProducer(within(t))
			expectError(t, err, tc.words...)
			if err != nil && Permanent(err) && tc.name == "no broker" {
				t.Error("a broker that is away counts as permanent")
			}
		})
	}
}
