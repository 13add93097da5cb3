package servers

import (
	"context"
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// kafkaClient connects to a listener and must get an answer, or none when refused is set.
func kafkaClient(t *testing.T, refused bool, address string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(address), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("t"),
		kgo.ConsumeTopics("t"), kgo.RetryTimeout(20*time.Second))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := cl.Ping(ctx); (err != nil) != refused {
		t.Fatalf("%s answers %v, want an error: %v", address, err, refused)
	}
	return cl
}

func TestKafkaKeepsData(t *testing.T) {
	for _, test := range []struct {
		name string
		opts []Option
		kill bool
	}{{"stop", nil, false}, {"kill", nil, true}, {"kill with Durable", []Option{Durable()}, true}} {
		t.Run(test.name, func(t *testing.T) {
			s := measured(t, "start", func() *KafkaServer { return Kafka(t, append(test.opts, Own())...) })
			cl := kafkaClient(t, false, s.Addr)
			if err := cl.ProduceSync(within(t), kgo.StringRecord("v")).FirstErr(); err != nil {
				t.Fatalf("%v\n%s", err, s.Log())
			}
			measured(t, "stop", func() bool {
				if test.kill {
					s.Kill()
				} else {
					s.Stop()
				}
				return true
			})
			measured(t, "start again", func() bool { s.Start(); return true })
			fetches := kafkaClient(t, false, s.Addr, kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())).PollFetches(within(t))
			if got := string(fetches.Records()[0].Value); got != "v" || fetches.Err() != nil {
				t.Errorf("record %s, %v, want v", got, fetches.Err())
			}
		})
	}
}

func TestKafkaListeners(t *testing.T) {
	s := Kafka(t)
	unsecured := func(context.Context) (oauth.Auth, error) {
		part := base64.RawURLEncoding.EncodeToString
		claims := fmt.Appendf(nil, `{"sub":"app","iat":%d,"exp":%d}`, time.Now().Unix(), time.Now().Add(time.Hour).Unix())
		return oauth.Auth{Token: part([]byte(`{"alg":"none"}`)) + "." + part(claims) + "."}, nil
	}
	right, wrong := scram.Auth{User: s.User, Pass: s.Password}, scram.Auth{User: s.User, Pass: "other"}
	encrypted := kgo.DialTLSConfig(s.TLS.Client())
	anonymous := s.TLS.Client()
	anonymous.Certificates = nil
	login := func(m sasl.Mechanism) kgo.Opt { return kgo.SASL(m) }
	for _, test := range []struct {
		name    string
		address string
		opts    []kgo.Opt
		refused bool
	}{
		{"plain", s.SASLAddr, []kgo.Opt{login(plain.Auth{User: s.User, Pass: s.Password}.AsMechanism())}, false},
		{"plain, wrong", s.SASLAddr, []kgo.Opt{login(plain.Auth{User: s.User, Pass: "other"}.AsMechanism())}, true},
		{"scram 256", s.SASLAddr, []kgo.Opt{login(right.AsSha256Mechanism())}, false},
		{"scram 256, wrong", s.SASLAddr, []kgo.Opt{login(wrong.AsSha256Mechanism())}, true},
		{"scram 512", s.SASLAddr, []kgo.Opt{login(right.AsSha512Mechanism())}, false},
		{"scram 512 over TLS", s.SASLTLSAddr, []kgo.Opt{encrypted, login(right.AsSha512Mechanism())}, false},
		{"token", s.SASLAddr, []kgo.Opt{login(oauth.Oauth(unsecured))}, false},
		{"TLS", s.TLSAddr, []kgo.Opt{kgo.DialTLSConfig(anonymous)}, false},
		{"mutual TLS", s.MutualTLSAddr, []kgo.Opt{encrypted}, false},
		{"mutual TLS, no certificate", s.MutualTLSAddr, []kgo.Opt{kgo.DialTLSConfig(anonymous)}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			kafkaClient(t, test.refused, test.address, append(test.opts, kgo.RetryTimeout(3*time.Second))...)
		})
	}
}
