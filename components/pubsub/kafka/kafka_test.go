package kafka

import (
	"context"
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/pubsub/pubsubtest"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// open opens the component through the registry, as a sidecar does.
func open(t testing.TB, brokers, appID string, properties map[string]string) (pubsub.Broker, error) {
	t.Helper()
	var r components.Registry
	Register(&r)
	d, err := r.Lookup(components.PubSub, "kafka", "v1")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{
		"brokers": brokers, "authType": "none", "consumerID": appID,
		"heartbeatInterval": "200ms", "sessionTimeout": "6s", "backOffDuration": "300ms",
	}
	maps.Copy(all, properties)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := d.Open(ctx, components.Instance{Name: "kafka", Properties: all, Sidecar: components.Sidecar{AppID: appID}})
	if err != nil {
		return nil, err
	}
	b := c.(pubsub.Broker)
	t.Cleanup(func() { _ = b.Close() })
	return b, nil
}

func mustOpen(t testing.TB, brokers, appID string, properties map[string]string) pubsub.Broker {
	t.Helper()
	b, err := open(t, brokers, appID, properties)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// createTopic makes a topic with partitions.
func createTopic(t testing.TB, brokers, topic string, partitions int32) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	server := servers.Kafka(t, servers.Own())
	var topics atomic.Int32
	pubsubtest.Run(t, pubsubtest.Config{
		Open: func(t testing.TB, appID string, properties map[string]string) pubsub.Broker {
			all := map[string]string{"maxMessageBytes": "4194304"}
			maps.Copy(all, properties)
			return mustOpen(t, server.Addr, appID, all)
		},
		Topic: func(t testing.TB) string {
			topic := fmt.Sprintf("conformance-%d", topics.Add(1))
			createTopic(t, server.Addr, topic, 2)
			return topic
		},
		Durable: true, Competing: true, Ordered: true, Metadata: true,
		Redelivers:     10 * time.Second,
		LargestMessage: 3 << 20,
		Restart: func(t testing.TB) {
			server.Kill()
			server.Start()
		},
	})
}
