package jetstream_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/test/servers"
)

// BenchmarkPublish is publishing by many at a time, with the server's default and with every message synced.
func BenchmarkPublish(b *testing.B) {
	for name, options := range map[string][]servers.Option{"default": nil, "durable": {servers.Durable()}} {
		b.Run(name, func(b *testing.B) {
			broker := open(b, servers.NATS(b, options...).URL(), map[string]string{"createStreams": "true"})
			data := strings.Repeat("x", 1000)
			var n atomic.Int64
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if err := broker.Publish(context.Background(), pubsub.PublishRequest{Topic: "bench", Data: []byte(event(fmt.Sprint(n.Add(1), b.N), data))}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkConsume is from the publisher to the handler and back with the verdict.
func BenchmarkConsume(b *testing.B) {
	for _, mode := range []string{"single", "parallel"} {
		b.Run(mode, func(b *testing.B) {
			properties := own("bench")
			properties["concurrencyMode"] = mode
			broker := open(b, servers.NATS(b).URL(), properties)
			topic := fmt.Sprintf("bench-%s-%d", mode, b.N)
			data := []byte(strings.Repeat("x", 1000))
			for range b.N {
				if err := broker.Publish(context.Background(), pubsub.PublishRequest{Topic: topic, Data: data}); err != nil {
					b.Fatal(err)
				}
			}
			var n atomic.Int64
			done := make(chan struct{})
			b.ResetTimer()
			if _, err := broker.Subscribe(context.Background(), pubsub.SubscribeRequest{Topic: topic}, func(context.Context, *pubsub.Message) error {
				if n.Add(1) == int64(b.N) {
					close(done)
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
			<-done
		})
	}
}
