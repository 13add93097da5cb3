package redis

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/test/servers"
)

// options decodes metadata as a sidecar does.
func options(t *testing.T, p properties) (got Options, err error) {
	t.Helper()
	var r components.Registry
	pubsub.Register(&r, components.Info{Name: "redis", Version: "v1"}, func(_ context.Context, _ components.Instance, o Options) (pubsub.Broker, error) {
		got = o
		return nil, nil
	})
	d, err := r.Lookup(components.PubSub, "redis", "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Open(context.Background(), components.Instance{Properties: p})
	return got, err
}

func TestOptions(t *testing.T) {
	got, err := options(t, properties{"redisHost": "h:1", "consumerID": "app"})
	if err != nil {
		t.Fatal(err)
	}
	if time.Duration(got.RedeliverInterval) != 15*time.Second || time.Duration(got.ProcessingTimeout) != time.Minute || got.QueueDepth != 100 ||
		got.Concurrency != 10 || got.MaxLenApprox != 0 || got.StreamTTL != 0 {
		t.Errorf("defaults %+v", got)
	}
	got, err = options(t, properties{
		"redisHost": "h:1", "consumerID": "app", "redeliverInterval": "1500", "processingTimeout": "2m", "queueDepth": "7", "concurrency": "3",
		"maxLenApprox": "9", "streamTTL": "90",
	})
	if err != nil {
		t.Fatal(err)
	}
	if time.Duration(got.RedeliverInterval) != 1500*time.Millisecond || time.Duration(got.ProcessingTimeout) != 2*time.Minute || got.QueueDepth != 7 ||
		got.Concurrency != 3 || got.MaxLenApprox != 9 || got.StreamTTL != 90*time.Second {
		t.Errorf("options %+v", got)
	}
	for name, bad := range map[string]string{"consumerID": "", "queueDepth": "0", "concurrency": "-1", "maxLenApprox": "-5", "streamTTL": "-1m", "redisHost": "", "redeliverInterval": "soon"} {
		p := properties{"redisHost": "h:1", "consumerID": "app", name: bad}
		_, err := options(t, p)
		expectError(t, err, name)
	}
}

func TestOpenErrors(t *testing.T) {
	server := servers.Redis(t, servers.Password("secret"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	for name, tc := range map[string]struct {
		p     properties
		words []string
	}{
		"nobody":   {properties{"redisHost": nobody}, []string{nobody, "refused", "redisHost"}},
		"password": {properties{"redisHost": server.Addr, "redisPassword": "wrong"}, []string{server.Addr, "redisPassword"}},
		"sentinel": {properties{"redisHost": server.Addr, "failover": "true"}, []string{"sentinelMasterName"}},
		"queue":    {properties{"redisHost": server.Addr, "redisPassword": "secret", "queueDepth": "0"}, []string{`"queueDepth" is 0`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryOpen(t, tc.p.with(properties{"consumerID": "app"}))
			expectError(t, err, tc.words...)
		})
	}
}

// TestErrorClasses checks what an app's retry policy can tell apart.
func TestErrorClasses(t *testing.T) {
	server := servers.Redis(t, servers.Own())
	b := open(t, properties{"redisHost": server.Addr, "consumerID": "app", "redisMaxRetries": "1"})
	ignore := func(context.Context, *pubsub.Message) error { return nil }
	word := freshTopic(t)
	if err := command(t, b, "SET", word, "x").Error(); err != nil {
		t.Fatal(err)
	}
	try := func(topic string) map[string]error {
		_, err := b.Subscribe(limited(t), pubsub.SubscribeRequest{Topic: topic}, ignore)
		return map[string]error{"Subscribe": err, "Publish": b.Publish(limited(t), pubsub.PublishRequest{Topic: topic, Data: []byte("x")})}
	}
	for what, err := range try(word) {
		expectError(t, err, server.Addr, word, "WRONGTYPE", "another topic")
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: code %v, want FailedPrecondition", what, status.Code(err))
		}
	}
	for _, rule := range []string{"-xadd", "-xgroup|create"} {
		if err := b.client.Do(limited(t), b.client.B().AclSetuser().Username("default").Rule(rule).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	for what, err := range try(freshTopic(t)) {
		expectError(t, err, server.Addr, "NOPERM", "redisUsername")
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: code %v, want FailedPrecondition", what, status.Code(err))
		}
	}
	if err := b.Ping(limited(t)); err != nil {
		t.Errorf("Ping: %v", err)
	}
	server.Stop()
	waitFor(t, "Ping to fail", func() bool { return b.Ping(limited(t)) != nil })
	expectError(t, b.Ping(limited(t)), server.Addr)
	topic := freshTopic(t)
	for what, err := range try(topic) {
		expectError(t, err, server.Addr, topic)
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s: code %v, want Unavailable", what, status.Code(err))
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.Publish(ended, pubsub.PublishRequest{Topic: topic}); !errors.Is(err, context.Canceled) {
		t.Errorf("Publish with an ended context: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := b.Ping(limited(t)); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("Ping on the closed component: %v", err)
	}
}

func TestTLS(t *testing.T) {
	server := servers.Redis(t, servers.MutualTLS())
	p := properties{"redisHost": server.Addr, "consumerID": "app", "enableTLS": "true", "insecureSkipTLSVerify": "true"}
	_, err := tryOpen(t, p)
	expectError(t, err, server.Addr)
	b := open(t, p.with(properties{"clientCert": string(server.TLS.Cert), "clientKey": string(server.TLS.Key)}))
	topic := freshTopic(t)
	var c tally
	subscribe(t, b, topic, c.handler(nil))
	publish(t, b, topic, "secret")
	c.await(t, "secret")
}

// TestFewRights checks that a user does who may use streams and nothing else.
func TestFewRights(t *testing.T) {
	server := servers.Redis(t, servers.Own())
	admin := open(t, properties{"redisHost": server.Addr, "consumerID": "admin"})
	rules := []string{"on", ">word", "~*", "-@all", "+@connection", "-client", "+@stream", "+ping"}
	if err := admin.client.Do(limited(t), admin.client.B().AclSetuser().Username("app").Rule(rules...).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	// Reads would wait for a minute, and the server cannot be asked to end the wait.
	p := properties{"redisHost": server.Addr, "redisUsername": "app", "redisPassword": "word", "consumerID": "app", "readTimeout": "1m", "processingTimeout": "200ms", "redeliverInterval": "50ms"}
	b := open(t, p)
	topic := freshTopic(t)
	var c tally
	s := subscribe(t, b, topic, c.handler(func(_ context.Context, text string, attempt int) error {
		if text == "bad" && attempt == 1 {
			return errRejected
		}
		return nil
	}))
	publish(t, b, topic, "good", "bad")
	c.await(t, "good")
	waitFor(t, "the redelivery", func() bool { return c.times("bad") >= 2 })
	waitFor(t, "the acknowledgements", func() bool { return pending(t, b, topic, "app") == 0 })
	start := time.Now()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("Close took %v", took)
	}
}

// TestCloseIsQuick checks that Close does not wait until reads end by themselves.
func TestCloseIsQuick(t *testing.T) {
	b := open(t, properties{"redisHost": servers.Redis(t).Addr, "consumerID": "app", "readTimeout": "-1"})
	for range 20 { // at different moments of reading
		s := subscribe(t, b, freshTopic(t), func(context.Context, *pubsub.Message) error { return nil })
		start := time.Now()
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if took := time.Since(start); took > defaultBlock/2 {
			t.Errorf("Close took %v", took)
		}
	}
}

func expectError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q lacks %q", err, w)
		}
	}
}
