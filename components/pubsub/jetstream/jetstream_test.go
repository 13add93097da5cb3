package jetstream_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/pubsub/jetstream"
	"outrigger.dev/components/pubsub/pubsubtest"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// tryOpen opens the component with properties over those that every test has.
func tryOpen(t testing.TB, url string, properties map[string]string) (pubsub.Broker, error) {
	t.Helper()
	r := &components.Registry{}
	jetstream.Register(r)
	d, err := r.Lookup(components.PubSub, "jetstream", "v1")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"natsURL": url, "deliverPolicy": "all"}
	for name, value := range properties {
		all[name] = value
	}
	for name, value := range all {
		if value == "-" {
			delete(all, name)
		}
	}
	opened, err := d.Open(t.Context(), components.Instance{Name: "pubsub", Type: "pubsub.jetstream", Properties: all})
	if err != nil {
		return nil, err
	}
	b := opened.(pubsub.Broker)
	t.Cleanup(func() { _ = b.Close() })
	return b, nil
}

func open(t testing.TB, url string, properties map[string]string) pubsub.Broker {
	t.Helper()
	b, err := tryOpen(t, url, properties)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// own are the properties with which each topic has a stream, and each app id a place in it.
func own(appID string) map[string]string {
	return map[string]string{"createStreams": "true", "durableName": appID, "queueGroupName": appID, "ackWait": "1s"}
}

func TestConformance(t *testing.T) {
	nats := servers.NATS(t, servers.Own())
	for _, tt := range []struct {
		name    string
		mode    string
		restart func()
	}{
		{"single", "single", nats.Stop},
		{"parallel", "parallel", nats.Kill},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pubsubtest.Run(t, pubsubtest.Config{
				Open: func(t testing.TB, appID string, properties map[string]string) pubsub.Broker {
					all := own(appID)
					all["concurrencyMode"] = tt.mode
					for name, value := range properties {
						all[name] = value
					}
					return open(t, nats.URL(), all)
				},
				Durable: true, Competing: true, Redelivers: 5 * time.Second, Ordered: tt.mode == "single", LargestMessage: 4 << 20,
				Restart: func(testing.TB) {
					tt.restart()
					nats.Start()
				},
			})
		})
	}
}

// inbox collects what a subscription gets.
type inbox struct {
	t    testing.TB
	msgs chan *pubsub.Message
}

func subscribe(t testing.TB, b pubsub.Broker, topic string) (*inbox, pubsub.Subscription) {
	t.Helper()
	in := &inbox{t: t, msgs: make(chan *pubsub.Message, 10000)}
	s, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: topic}, func(_ context.Context, m *pubsub.Message) error {
		in.msgs <- m
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return in, s
}

func (in *inbox) next() *pubsub.Message {
	in.t.Helper()
	select {
	case m := <-in.msgs:
		return m
	case <-time.After(30 * time.Second):
		in.t.Fatal("no message within 30 s")
		return nil
	}
}

func (in *inbox) expect(wants ...string) {
	in.t.Helper()
	for _, want := range wants {
		if got := string(in.next().Data); got != want {
			in.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func publish(t testing.TB, b pubsub.Broker, topic string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := b.Publish(within(t), pubsub.PublishRequest{Topic: topic, Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
}

// expectError checks that err is there and has the texts.
func expectError(t testing.TB, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not have %q", err, text)
		}
	}
}
