package mqtt3_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/pubsub/mqtt3"
	"outrigger.dev/components/pubsub/pubsubtest"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// open opens the component as the loader would.
func open(ctx context.Context, broker *servers.MosquittoServer, consumer string, properties map[string]string) (pubsub.Broker, error) {
	var r components.Registry
	mqtt3.Register(&r)
	d, err := r.Lookup(components.PubSub, "mqtt", "v1")
	if err != nil {
		return nil, err
	}
	all := map[string]string{"url": "mqtt://" + broker.Addr, "consumerID": consumer}
	for k, v := range properties {
		all[k] = v
	}
	b, err := d.Open(ctx, components.Instance{Name: "mqtt", Properties: all})
	if err != nil {
		return nil, err
	}
	return b.(pubsub.Broker), nil
}

func mustOpen(t testing.TB, broker *servers.MosquittoServer, consumer string, properties map[string]string) pubsub.Broker {
	t.Helper()
	b, err := open(within(t), broker, consumer, properties)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// The broker's queue is unlimited, for Mosquitto drops what does not fit in.
func start(t testing.TB, opts ...servers.Option) *servers.MosquittoServer {
	return servers.Mosquitto(t, append(opts, servers.Setting("max_queued_messages", "0"))...)
}

func TestConformance(t *testing.T) {
	for _, qos := range []string{"1", "2"} {
		t.Run("qos "+qos, func(t *testing.T) {
			broker := start(t, servers.Own())
			pubsubtest.Run(t, pubsubtest.Config{
				Open: func(t testing.TB, appID string, properties map[string]string) pubsub.Broker {
					all := map[string]string{"qos": qos}
					for k, v := range properties {
						all[k] = v
					}
					return mustOpen(t, broker, appID, all)
				},
				Durable: true,
				Restart: func(testing.TB) {
					broker.Stop()
					broker.Start()
				},
				LargestMessage: 4 << 20,
			})
		})
	}
}

// collector hands over what a subscription gets.
func collector(t testing.TB, b pubsub.Broker, topic string, metadata map[string]string) (<-chan *pubsub.Message, pubsub.Subscription) {
	t.Helper()
	got := make(chan *pubsub.Message, 1000)
	sub, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: topic, Metadata: metadata}, func(_ context.Context, m *pubsub.Message) error {
		got <- m
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, sub
}

func receive(t testing.TB, from <-chan *pubsub.Message) *pubsub.Message {
	t.Helper()
	select {
	case m := <-from:
		return m
	case <-time.After(30 * time.Second):
		t.Fatal("no message within 30 seconds")
		return nil
	}
}

func publish(t testing.TB, b pubsub.Broker, topic, data string, metadata map[string]string) {
	t.Helper()
	if err := b.Publish(within(t), pubsub.PublishRequest{Topic: topic, Data: []byte(data), Metadata: metadata}); err != nil {
		t.Fatal(err)
	}
}

func TestWildcardsGiveConcreteTopics(t *testing.T) {
	b := mustOpen(t, start(t), "wildcards", map[string]string{"cleanSession": "true"})
	got, _ := collector(t, b, "wild/+/x/#", nil)
	for _, topic := range []string{"wild/a/x", "wild/b/x/y/z"} {
		publish(t, b, topic, topic, nil)
		if m := receive(t, got); m.Topic != topic || string(m.Data) != topic || m.Metadata["retained"] != "false" {
			t.Errorf("got %+v", m)
		}
	}
	if names := pubsub.Capabilities(b); !slices.Equal(names, []string{"SUBSCRIBE_WILDCARDS"}) {
		t.Errorf("capabilities %v", names)
	}
}

// The members of a $share group share the messages, beside subscribers that are in none.
func TestSharedSubscriptions(t *testing.T) {
	broker := start(t)
	clean := map[string]string{"cleanSession": "true"}
	var members [2]atomic.Int32
	var all atomic.Int32
	count := func(b pubsub.Broker, topic string, n *atomic.Int32) {
		_, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: topic}, func(_ context.Context, m *pubsub.Message) error {
			if m.Topic != "shared/x" {
				t.Errorf("topic %s", m.Topic)
			}
			n.Add(1)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range members {
		count(mustOpen(t, broker, fmt.Sprint("member", i), clean), "$share/group/shared/+", &members[i])
	}
	b := mustOpen(t, broker, "publisher", clean)
	count(b, "shared/x", &all)
	const n = 200
	for range n {
		publish(t, b, "shared/x", "m", nil)
	}
	eventually(t, func() bool { return all.Load() == n && members[0].Load()+members[1].Load() == n })
	if members[0].Load() == 0 || members[1].Load() == 0 {
		t.Errorf("the members got %d and %d messages", members[0].Load(), members[1].Load())
	}
}

func eventually(t testing.TB, condition func() bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-limit:
			t.Fatal("not within 30 seconds")
		case <-tick.C:
		}
	}
}

// Retained messages come to those who subscribe later, and say so; the metadata of a message wins over the component's.
func TestRetain(t *testing.T) {
	broker := start(t)
	for _, test := range []struct {
		component, message string
		want               bool
	}{{"false", "", false}, {"true", "", true}, {"false", "true", true}, {"true", "false", false}} {
		t.Run(test.component+" "+test.message, func(t *testing.T) {
			topic := fmt.Sprintf("retain/%s/%s-", test.component, test.message)
			b := mustOpen(t, broker, strings.ReplaceAll(topic, "/", "-"), map[string]string{"retain": test.component, "cleanSession": "true"})
			metadata := map[string]string{}
			if test.message != "" {
				metadata["Retain"] = test.message
			}
			publish(t, b, topic, "early", metadata)
			got, _ := collector(t, b, topic, nil)
			publish(t, b, topic, "late", map[string]string{"retain": "false"})
			// A retained message is sent before those that are published later.
			came := map[string]string{}
			for m := range got {
				came[string(m.Data)] = m.Metadata["retained"]
				if string(m.Data) == "late" && (!test.want || came["early"] != "") || string(m.Data) == "early" && came["late"] != "" {
					break
				}
			}
			early, kept := came["early"]
			if kept != test.want || kept && early != "true" || came["late"] != "false" {
				t.Errorf("came, with retained: %v; want the early one: %v", came, test.want)
			}
		})
	}
}

// Closing a subscription takes it off the session with cleanSession or unsubscribeOnClose only.
func TestUnsubscribeOnClose(t *testing.T) {
	broker := start(t)
	publisher := mustOpen(t, broker, "unsubscribe-publisher", nil)
	for _, test := range []struct {
		name                string
		component, metadata map[string]string
		want                bool // that messages wait
	}{
		{"default", nil, nil, true},
		{"unsubscribeOnClose", nil, map[string]string{"unsubscribeOnClose": "true"}, false},
		{"unsubscribeOnClose off", nil, map[string]string{"unsubscribeOnClose": "no"}, true},
		{"cleanSession", map[string]string{"cleanSession": "true"}, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			topic := "unsubscribe/" + test.name
			b := mustOpen(t, broker, topic, test.component)
			_, sub := collector(t, b, topic, test.metadata)
			if err := sub.Close(); err != nil {
				t.Fatal(err)
			}
			publish(t, publisher, topic, "between", nil)
			got, _ := collector(t, b, topic, nil)
			publish(t, publisher, topic, "after", nil)
			seen := map[string]bool{string(receive(t, got).Data): true}
			if test.want {
				seen[string(receive(t, got).Data)] = true
			}
			if seen["between"] != test.want || !seen["after"] {
				t.Errorf("came %v, want the message between: %v", seen, test.want)
			}
		})
	}
}

// Rejected messages come again when the session is taken up again, not before, and are not acknowledged.
func TestRejected(t *testing.T) {
	broker := start(t)
	b := mustOpen(t, broker, "rejected", nil)
	var calls atomic.Int32
	_, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "rejected"}, func(context.Context, *pubsub.Message) error {
		calls.Add(1)
		return errors.New("not now")
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, "rejected", "m", nil)
	eventually(t, func() bool { return calls.Load() == 1 })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = mustOpen(t, broker, "rejected", nil)
	got, _ := collector(t, b, "rejected", nil)
	if m := receive(t, got); string(m.Data) != "m" {
		t.Errorf("got %q", m.Data)
	}
	if calls.Load() != 1 {
		t.Errorf("the message was handed over %d times before", calls.Load())
	}
}

// What is published while nobody is connected waits for a session that is kept, and for no other.
func TestCleanSession(t *testing.T) {
	broker := start(t)
	publisher := mustOpen(t, broker, "clean-publisher", nil)
	for _, clean := range []string{"false", "true"} {
		t.Run(clean, func(t *testing.T) {
			topic := "clean/" + clean
			b := mustOpen(t, broker, topic, map[string]string{"cleanSession": clean})
			collector(t, b, topic, nil)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			publish(t, publisher, topic, "away", nil)
			b = mustOpen(t, broker, topic, map[string]string{"cleanSession": clean})
			got, _ := collector(t, b, topic, nil)
			publish(t, publisher, topic, "back", nil)
			came := string(receive(t, got).Data)
			if clean == "false" { // in any order
				came += " " + string(receive(t, got).Data)
			}
			if want := map[string][]string{"false": {"away back", "back away"}, "true": {"back"}}[clean]; !slices.Contains(want, came) {
				t.Errorf("came %q, want one of %q", came, want)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	broker := servers.Mosquitto(t, servers.MutualTLS())
	own := map[string]string{
		"url": "mqtts://" + broker.Addr, "cacert": string(broker.TLS.CA), "clientCert": broker.TLS.CertFile, "clientKey": string(broker.TLS.Key), "cleanSession": "true",
	}
	b := mustOpen(t, broker, "tls", own)
	got, _ := collector(t, b, "tls", nil)
	publish(t, b, "tls", "m", nil)
	if m := receive(t, got); string(m.Data) != "m" {
		t.Errorf("got %q", m.Data)
	}
	for _, name := range []string{"cacert", "clientCert"} {
		without := map[string]string{}
		for k, v := range own {
			if k != name && (name != "clientCert" || k != "clientKey") {
				without[k] = v
			}
		}
		if _, err := open(within(t), broker, "tls-without", without); err == nil || !strings.Contains(err.Error(), broker.Addr) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestQoS0(t *testing.T) {
	b := mustOpen(t, start(t), "qos0", map[string]string{"qos": "0", "cleanSession": "true"})
	got, _ := collector(t, b, "qos0", nil)
	for i := range 500 {
		publish(t, b, "qos0", fmt.Sprint(i), nil)
	}
	for range 500 {
		receive(t, got)
	}
}

func TestErrors(t *testing.T) {
	broker := start(t)
	for _, test := range []struct {
		properties map[string]string
		want       string
	}{
		{map[string]string{"consumerID": " "}, `"consumerID"`},
		{map[string]string{"qos": "3"}, `"qos" is "3"`},
		{map[string]string{"url": ""}, `"url" is required`},
		{map[string]string{"url": "amqp://h"}, `scheme "amqp"`},
		{map[string]string{"clientCert": "x"}, `"clientCert"`},
		{map[string]string{"url": "mqtt://127.0.0.1:" + fmt.Sprint(servers.FreePort(t))}, "cannot connect to the MQTT broker at mqtt://127.0.0.1:"},
	} {
		if _, err := open(within(t), broker, "errors", test.properties); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want an error with %s", test.properties, err, test.want)
		}
	}
	b := mustOpen(t, broker, "errors", nil)
	for _, topic := range []string{"", "a/+", "a/#", "a\x00"} {
		if err := b.Publish(within(t), pubsub.PublishRequest{Topic: topic}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("publish to %q: %v", topic, err)
		}
	}
	for _, topic := range []string{"", "a#", "$share/g"} {
		if _, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: topic}, func(context.Context, *pubsub.Message) error { return nil }); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("subscribe to %q: %v", topic, err)
		}
	}
	broker.Stop()
	defer broker.Start()
	ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
	defer cancel()
	err := b.Publish(ctx, pubsub.PublishRequest{Topic: "a"})
	if status.Code(err) != codes.Unavailable {
		t.Fatalf("publish without a broker: %v", err)
	}
	for _, want := range []string{"waited in vain for the acknowledgement", "mqtt://" + broker.Addr, `check that the broker runs and that the metadata property "url" is right`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error of a publish without a broker does not name %q: %v", want, err)
		}
	}
}

func BenchmarkPublishAndReceive(b *testing.B) {
	broker := mustOpen(b, start(b), "bench", map[string]string{"cleanSession": "true"})
	var n atomic.Int32
	if _, err := broker.Subscribe(within(b), pubsub.SubscribeRequest{Topic: "bench"}, func(context.Context, *pubsub.Message) error {
		n.Add(1)
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 1024)
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := broker.Publish(context.Background(), pubsub.PublishRequest{Topic: "bench", Data: data}); err != nil {
				b.Error(err)
			}
		}
	})
	eventually(b, func() bool { return int(n.Load()) >= b.N })
}
