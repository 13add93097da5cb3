package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/rabbitmqclient/rabbitmqtest"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

type props = map[string]string

// tryOpen opens a component with the properties, as a sidecar does.
func tryOpen(tb testing.TB, p props) (*Broker, error) {
	tb.Helper()
	var r components.Registry
	Register(&r)
	d, err := r.Lookup(components.PubSub, "rabbitmq", "v1")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), rabbitmqtest.Patience)
	defer cancel()
	c, err := d.Open(ctx, components.Instance{Name: "pubsub", Properties: p, Log: rabbitmqtest.Log(tb)})
	if err != nil {
		return nil, err
	}
	b := c.(*Broker)
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	return b, nil
}

// open is tryOpen at a server with defaults that suit tests; p overrides them.
func open(tb testing.TB, s *servers.RabbitMQServer, p props) *Broker {
	tb.Helper()
	all := props{"connectionString": s.ConnectionString(), "consumerID": "app", "reconnectWaitSeconds": "100ms"}
	for k, v := range p {
		all[k] = v
	}
	b, err := tryOpen(tb, all)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// bound makes a queue that receives what is published to a topic.
func bound(t *testing.T, ch *amqp.Channel, topic, key string, args amqp.Table) string {
	t.Helper()
	q, err := ch.QueueDeclare("", false, false, true, false, args)
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(q.Name, key, topic, false, nil); err != nil {
		t.Fatal(err)
	}
	return q.Name
}

// next is the next message of a queue.
func next(t *testing.T, ch *amqp.Channel, queue string) amqp.Delivery {
	t.Helper()
	var d amqp.Delivery
	rabbitmqtest.Eventually(t, "a message in "+queue, func() error {
		var ok bool
		var err error
		if d, ok, err = ch.Get(queue, true); err == nil && !ok {
			err = errors.New("there is none")
		}
		return err
	})
	return d
}

func topicName(t *testing.T) string {
	return strings.ReplaceAll(t.Name(), "/", ".") + "." + fmt.Sprint(time.Now().UnixNano())
}

func publish(t *testing.T, b *Broker, topic, data string, metadata props) {
	t.Helper()
	if err := tryPublish(t, b, topic, data, metadata); err != nil {
		t.Fatal(err)
	}
}

func tryPublish(t *testing.T, b *Broker, topic, data string, metadata props) error {
	ctx, cancel := context.WithTimeout(t.Context(), rabbitmqtest.Patience)
	defer cancel()
	return b.Publish(ctx, pubsub.PublishRequest{Topic: topic, Data: []byte(data), Metadata: metadata})
}

// inbox collects the messages of a subscription.
type inbox struct {
	pubsub.Subscription
	mu       sync.Mutex
	got      []string
	metadata []props
	arrived  chan string
}

// subscribe starts a subscription whose messages get the verdict of judge.
func subscribe(t *testing.T, b *Broker, topic string, metadata props, judge func(ctx context.Context, data string) error) *inbox {
	t.Helper()
	in := &inbox{arrived: make(chan string, 100_000)}
	ctx, cancel := context.WithTimeout(t.Context(), rabbitmqtest.Patience)
	defer cancel()
	var err error
	in.Subscription, err = b.Subscribe(ctx, pubsub.SubscribeRequest{Topic: topic, Metadata: metadata}, func(ctx context.Context, m *pubsub.Message) error {
		if m.Topic != topic {
			t.Errorf("message of the topic %q, want %q", m.Topic, topic)
		}
		in.mu.Lock()
		in.got = append(in.got, string(m.Data))
		in.metadata = append(in.metadata, m.Metadata)
		in.mu.Unlock()
		in.arrived <- string(m.Data)
		if judge == nil {
			return nil
		}
		return judge(ctx, string(m.Data))
	})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// take waits for a message.
func (in *inbox) take(t *testing.T) string {
	t.Helper()
	select {
	case s := <-in.arrived:
		return s
	case <-time.After(rabbitmqtest.Patience):
		t.Fatal("no message")
		return ""
	}
}

func (in *inbox) want(t *testing.T, all ...string) {
	t.Helper()
	for _, w := range all {
		if got := in.take(t); got != w {
			t.Fatalf("got %q, want %q", got, w)
		}
	}
}

func (in *inbox) close(t *testing.T) {
	t.Helper()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
}

// wantCode checks the class of an error and what it says.
func wantCode(t *testing.T, err error, code codes.Code, texts ...string) {
	t.Helper()
	if err == nil || status.Code(err) != code {
		t.Fatalf("error %v of code %s, want %s", err, status.Code(err), code)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, test := range []struct {
		name string
		p    props
		want []string
	}{
		{"nothing", props{}, []string{`"connectionString" is required`}},
		{"both ways", props{"connectionString": "amqp://h", "username": "u"}, []string{"excludes"}},
		{"no URI", props{"connectionString": "localhost:5672"}, []string{`"connectionString" is not an AMQP URI`}},
		{"secret stays secret", props{"connectionString": "amqp://u:pa#ss@h:x"}, []string{"percent-encode"}},
		{"protocol", props{"protocol": "http", "hostname": "h"}, []string{`"protocol" is "http"`, "amqp, amqps"}},
		{"exchange kind", props{"connectionString": "amqp://h", "exchangeKind": "ring"}, []string{`"exchangeKind" is "ring"`, "fanout, topic, direct, headers"}},
		{"concurrency", props{"connectionString": "amqp://h", "concurrency": "some"}, []string{`"concurrency" is "some"`, "parallel, single"}},
		{"delivery mode", props{"connectionString": "amqp://h", "deliveryMode": "3"}, []string{`"deliveryMode" is 3`}},
		{"TTL", props{"connectionString": "amqp://h", "ttlInSeconds": "-1"}, []string{`"ttlInSeconds" is -1s`}},
		{"prefetch", props{"connectionString": "amqp://h", "prefetchCount": "-1"}, []string{`"prefetchCount" is "-1"`}},
		{"maxLen", props{"connectionString": "amqp://h", "maxLen": "-1"}, []string{`"maxLen" is -1`}},
		{"maxLenBytes", props{"connectionString": "amqp://h", "maxLenBytes": "-1"}, []string{`"maxLenBytes" is -1`}},
		{"TLS without amqps", props{"connectionString": "amqp://h", "caCert": "x"}, []string{"write amqps"}},
		{"half a pair", props{"connectionString": "amqps://h", "clientCert": "x"}, []string{"together"}},
		{"certificates twice", props{"connectionString": "amqps://h?cacertfile=/x", "clientCert": "x", "clientKey": "y"}, []string{"give all of them in one"}},
		{"external", props{"connectionString": "amqps://h", "saslExternal": "true"}, []string{`"saslExternal" is true`, "clientCert"}},
		{"no certificate", props{"connectionString": "amqps://h", "caCert": "-----BEGIN"}, []string{"no certificate in PEM"}},
		{"no file", props{"connectionString": "amqps://h", "caCert": "/nowhere"}, []string{`"caCert" is neither PEM nor a file`}},
		{"heartbeat", props{"connectionString": "amqp://h", "heartBeat": "1500ms"}, []string{"whole seconds"}},
		{"nobody there", props{"connectionString": "amqp://u:secret@127.0.0.1:1"}, []string{"rabbitmq at 127.0.0.1:1 cannot be used", "check that the server is running"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := tryOpen(t, test.p)
			if err == nil {
				t.Fatal("opened")
			}
			for _, w := range test.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
			for _, secret := range []string{"secret", "pa#ss"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("error %q tells a secret", err)
				}
			}
		})
	}
}

func TestConnecting(t *testing.T) {
	s := servers.RabbitMQ(t)
	t.Run("by parts", func(t *testing.T) {
		b, err := tryOpen(t, props{"hostname": s.Addr, "protocol": "amqp", "username": s.User, "password": s.Password, "consumerID": "app", "clientName": "me", "heartBeat": "5s"})
		if err != nil {
			t.Fatal(err)
		}
		topic := topicName(t)
		in := subscribe(t, b, topic, nil, nil)
		publish(t, b, topic, "m", nil)
		in.want(t, "m")
		if err := b.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
	for _, test := range []struct {
		name, uri string
		want      []string
	}{
		{"password", "amqp://guest:wrong-one@" + s.Addr, []string{"check user and password"}},
		{"virtual host", "amqp://guest:guest@" + s.Addr + "/nowhere", []string{"check the virtual host"}},
		{"TLS where there is none", "amqps://guest:guest@" + s.Addr, []string{"speaks TLS"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := tryOpen(t, props{"connectionString": test.uri})
			if err == nil {
				t.Fatal("opened")
			}
			for _, w := range append(test.want, s.Addr) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "wrong-one") {
				t.Errorf("error %q tells the password", err)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	s := servers.RabbitMQ(t, servers.MutualTLS())
	for _, test := range []struct {
		name string
		p    props
		ok   bool
	}{
		{"PEM", props{"connectionString": s.ConnectionString(), "caCert": string(s.TLS.CA), "clientCert": string(s.TLS.Cert), "clientKey": string(s.TLS.Key)}, true},
		{"files", props{"connectionString": s.ConnectionString(), "caCert": s.TLS.CAFile, "clientCert": s.TLS.CertFile, "clientKey": s.TLS.KeyFile}, true},
		{"parameters of the URI", props{"connectionString": s.ConnectionString() + "?cacertfile=" + s.TLS.CAFile + "&certfile=" + s.TLS.CertFile + "&keyfile=" + s.TLS.KeyFile}, true},
		{"by certificate", props{"connectionString": "amqps://" + s.Addr, "saslExternal": "true", "caCert": string(s.TLS.CA), "clientCert": string(s.TLS.Cert), "clientKey": string(s.TLS.Key)}, true},
		{"no client certificate", props{"connectionString": s.ConnectionString(), "caCert": string(s.TLS.CA)}, false},
		{"unknown authority", props{"connectionString": s.ConnectionString(), "clientCert": string(s.TLS.Cert), "clientKey": string(s.TLS.Key)}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.p["consumerID"] = "app"
			b, err := tryOpen(t, test.p)
			if !test.ok {
				if err == nil || !strings.Contains(err.Error(), "TLS") {
					t.Errorf("error %v, want one that speaks of TLS", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			topic := topicName(t)
			in := subscribe(t, b, topic, nil, nil)
			publish(t, b, topic, "m", nil)
			in.want(t, "m")
		})
	}
}

func TestClosed(t *testing.T) {
	b := open(t, servers.RabbitMQ(t), nil)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := tryPublish(t, b, "t", "", nil); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("publish: %v", err)
	}
	if _, err := b.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: "t"}, nil); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("subscribe: %v", err)
	}
	if err := b.Ping(t.Context()); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("ping: %v", err)
	}
}
