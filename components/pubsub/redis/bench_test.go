package redis

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/test/servers"
)

// payload is a message of 1 KiB.
var payload = strings.Repeat("x", 1024)

func BenchmarkPublish(b *testing.B) {
	broker := open(b, properties{"redisHost": servers.Redis(b).Addr, "consumerID": "app", "maxLenApprox": "1000"})
	topic := freshTopic(b)
	req := pubsub.PublishRequest{Topic: topic, Data: []byte(payload), Metadata: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := broker.Publish(context.Background(), req); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkDeliver counts from the stream to the acknowledgement.
func BenchmarkDeliver(b *testing.B) {
	broker := open(b, properties{"redisHost": servers.Redis(b).Addr, "consumerID": "app"})
	topic := freshTopic(b)
	req := pubsub.PublishRequest{Topic: topic, Data: []byte(payload), Metadata: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	for range b.N {
		if err := broker.Publish(context.Background(), req); err != nil {
			b.Fatal(err)
		}
	}
	var count atomic.Int64
	done := make(chan struct{})
	b.ReportAllocs()
	b.ResetTimer()
	subscribe(b, broker, topic, func(context.Context, *pubsub.Message) error {
		if count.Add(1) == int64(b.N) {
			close(done)
		}
		return nil
	})
	<-done
	b.StopTimer()
	if err := broker.Close(); err != nil {
		b.Error(err)
	}
}
