package jetstream_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nkeys"

	"outrigger.dev/test/servers"
)

func TestRefusedOptions(t *testing.T) {
	nats := servers.NATS(t)
	wrongSeed := "SUANOSEED"
	for _, tt := range []struct {
		name       string
		properties map[string]string
		wants      []string
	}{
		{"no address", map[string]string{"natsURL": "-"}, []string{"natsURL", "required"}},
		{"no policy", map[string]string{"deliverPolicy": "-"}, []string{"deliverPolicy", "required"}},
		{"policy", map[string]string{"deliverPolicy": "some"}, []string{"deliverPolicy", "some", "all, last, new, sequence, time"}},
		{"sequence", map[string]string{"deliverPolicy": "sequence"}, []string{"deliverPolicy", "startSequence"}},
		{"time", map[string]string{"startTime": "-1"}, []string{"startTime", "-1"}},
		{"ack policy", map[string]string{"ackPolicy": "maybe"}, []string{"ackPolicy", "maybe"}},
		{"ack wait", map[string]string{"ackWait": "soon"}, []string{"ackWait", "soon"}},
		{"negative ack wait", map[string]string{"ackWait": "-1s"}, []string{"ackWait", "-1s"}},
		{"heartbeat", map[string]string{"heartbeat": "50ms"}, []string{"heartbeat", "50ms", "100ms"}},
		{"back-off", map[string]string{"backOff": "1s,2s,3s", "maxDeliver": "2"}, []string{"backOff", "maxDeliver"}},
		{"negative back-off", map[string]string{"backOff": "1s,-2s"}, []string{"backOff", "-2s"}},
		{"pending without acks", map[string]string{"ackPolicy": "none", "maxAckPending": "5"}, []string{"maxAckPending", "ackPolicy"}},
		{"jwt alone", map[string]string{"jwt": "x"}, []string{"jwt", "seedKey"}},
		{"seed", map[string]string{"jwt": "x", "seedKey": wrongSeed}, []string{"seedKey"}},
		{"certificate alone", map[string]string{"tls_client_cert": "x"}, []string{"tls_client_cert", "tls_client_key"}},
		{"certificate file", map[string]string{"tls_client_cert": "/nonexistent", "tls_client_key": "/nonexistent"}, []string{"tls_client_cert", "neither PEM nor a file", "no such file"}},
		{"key in part", map[string]string{"tls_client_cert": "-----BEGIN nothing", "tls_client_key": "MIIgeheimkey"}, []string{"tls_client_key", "neither PEM nor a file", "no such file"}},
		{"authorities", map[string]string{"tls_ca_cert": "-----BEGIN nothing"}, []string{"tls_ca_cert", "PEM"}},
		{"domain and prefix", map[string]string{"domain": "a", "apiPrefix": "b"}, []string{"domain", "apiPrefix"}},
		{"deliveries", map[string]string{"maxDeliver": "-2"}, []string{"maxDeliver", "-2"}},
		{"pending", map[string]string{"maxAckPending": "-2"}, []string{"maxAckPending", "-2"}},
		{"seed alone", map[string]string{"seedKey": wrongSeed}, []string{"seedKey"}},
		{"replicas", map[string]string{"replicas": "6"}, []string{"replicas", "6"}},
		{"stream name", map[string]string{"streamName": "a.b"}, []string{"streamName", "a.b"}},
		{"stream name and streams", map[string]string{"streamName": "a", "createStreams": "true"}, []string{"streamName", "createStreams"}},
		{"age without streams", map[string]string{"streamMaxAge": "1h"}, []string{"streamMaxAge", "createStreams"}},
		{"negative age", map[string]string{"streamMaxAge": "-1h", "createStreams": "true"}, []string{"streamMaxAge", "-1h"}},
		{"concurrency", map[string]string{"concurrencyMode": "both"}, []string{"concurrencyMode", "both"}},
		{"address", map[string]string{"natsURL": "nats://user:ge%zzheim@127.0.0.1:1"}, []string{"natsURL", "is not a URL", "%25"}},
		{"address with a blank", map[string]string{"natsURL": "nats://127.0.0.1:1,user:ge heim@127.0.0.1:1"}, []string{"natsURL", "is not a URL"}},
		{"address with a part of a password", map[string]string{"natsURL": "nats://user:geheim/x@127.0.0.1:1"}, []string{"natsURL", "is not a URL", "%2F"}},
		{"port", map[string]string{"natsURL": "nats://127.0.0.1:first"}, []string{"natsURL", "is not a URL", "first"}},
		{"nobody there", map[string]string{"natsURL": "nats://user:secret@127.0.0.1:1"}, []string{"127.0.0.1:1", "natsURL", "refused"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tryOpen(t, nats.URL(), tt.properties)
			expectError(t, err, tt.wants...)
			if tt.properties["seedKey"] != "" || tt.properties["natsURL"] != "" || tt.properties["tls_client_key"] != "" {
				for _, secret := range []string{wrongSeed, "user:secret", "heim", "ge%zz"} {
					if err != nil && containsText(err, secret) {
						t.Errorf("the error shows a secret: %v", err)
					}
				}
			}
		})
	}
}

func TestAuthentication(t *testing.T) {
	// works tells whether messages go through with the properties.
	works := func(t *testing.T, url string, properties map[string]string) {
		t.Helper()
		all := own("app")
		for name, value := range properties {
			all[name] = value
		}
		b := open(t, url, all)
		in, _ := subscribe(t, b, "secured")
		publish(t, b, "secured", "hello")
		in.expect("hello")
		if err := b.Close(); err != nil { // or the next would share its messages
			t.Fatal(err)
		}
	}
	t.Run("password", func(t *testing.T) {
		nats := servers.NATS(t, servers.Password("s3cret"))
		works(t, nats.URL(), nil)
		_, err := tryOpen(t, "nats://"+nats.Addr, nil)
		expectError(t, err, nats.Addr, "Authorization", "check the user and password")
	})
	t.Run("token", func(t *testing.T) {
		nats := servers.NATS(t, servers.Token("t0ken"))
		works(t, nats.URL(), map[string]string{"token": nats.Token})
		_, err := tryOpen(t, nats.URL(), map[string]string{"token": "wrong"})
		expectError(t, err, nats.Addr, "Authorization")
	})
	t.Run("jwt", func(t *testing.T) {
		nats := servers.NATS(t, servers.UserJWT())
		works(t, nats.URL(), map[string]string{"jwt": nats.JWT, "seedKey": nats.Seed})
		other, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		seed, err := other.Seed()
		if err != nil {
			t.Fatal(err)
		}
		_, err = tryOpen(t, nats.URL(), map[string]string{"jwt": nats.JWT, "seedKey": string(seed)})
		expectError(t, err, nats.Addr, "seedKey")
	})
	t.Run("key", func(t *testing.T) {
		user, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		public, err1 := user.PublicKey()
		seed, err2 := user.Seed()
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		nats := servers.NATS(t, servers.Own(), servers.Setting("authorization", "{users: [{nkey: "+public+"}]}"))
		works(t, nats.URL(), map[string]string{"seedKey": string(seed)})
		_, err = tryOpen(t, nats.URL(), nil)
		expectError(t, err, nats.Addr, "Authorization", "seedKey")
	})
	t.Run("client certificate", func(t *testing.T) {
		nats := servers.NATS(t, servers.MutualTLS())
		works(t, nats.URL(), map[string]string{"tls_client_cert": nats.TLS.CertFile, "tls_client_key": nats.TLS.KeyFile, "tls_ca_cert": nats.TLS.CAFile})
		works(t, nats.URL(), map[string]string{"tls_client_cert": string(nats.TLS.Cert), "tls_client_key": string(nats.TLS.Key), "tls_ca_cert": string(nats.TLS.CA)})
		_, err := tryOpen(t, nats.URL(), map[string]string{"tls_ca_cert": nats.TLS.CAFile})
		expectError(t, err, nats.Addr, "tls_client_cert")
		_, err = tryOpen(t, nats.URL(), map[string]string{"tls_client_cert": nats.TLS.CertFile, "tls_client_key": nats.TLS.KeyFile})
		expectError(t, err, nats.Addr, "tls_ca_cert")
		notKey := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(notKey, []byte("no key"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = tryOpen(t, nats.URL(), map[string]string{"tls_client_cert": nats.TLS.CertFile, "tls_client_key": notKey})
		expectError(t, err, "tls_client_cert", "tls_client_key")
	})
}
