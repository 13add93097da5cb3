package pubsub

import (
	"context"
	"testing"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/metrics/metricstest"
)

// nowhere is a broker that keeps nothing.
type nowhere struct{ *fakeBroker }

func (nowhere) Publish(context.Context, pubsub.PublishRequest) error { return nil }

// obedient is an app that takes everything at once.
type obedient struct{ *fakeApp }

func (obedient) Invoke(context.Context, *invocation.Request) (*invocation.Response, error) {
	return &invocation.Response{Status: 200}, nil
}

func BenchmarkPublish(b *testing.B) {
	m := metricstest.New(b, "shop")
	p := New(Options{AppID: "shop", Metrics: m.PubSub()})
	if err := p.Add(Component{Name: "ps", Broker: nowhere{}}); err != nil {
		b.Fatal(err)
	}
	data := []byte(`{"orderId":"12345","amount":12.5,"items":["a","b"]}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Publish(b.Context(), Publication{Component: "ps", Topic: "orders", Data: data, ContentType: "application/json"}); err != nil {
			b.Fatal(err)
		}
	}
}

// What the block itself takes to bring an event to an HTTP app, without the call.
func BenchmarkDeliver(b *testing.B) {
	m := metricstest.New(b, "shop")
	p := New(Options{AppID: "shop", Metrics: m.PubSub()})
	data, err := p.envelope(&broker{name: "ps"}, &Publication{Topic: "orders", Data: []byte(`{"orderId":"12345","amount":12.5,"items":["a","b"]}`), ContentType: "application/json"})
	if err != nil {
		b.Fatal(err)
	}
	r, err := p.newRunning(&broker{name: "ps"}, Subscription{Component: "ps", Topic: "orders", Rules: []Rule{{Path: "/orders"}}}, &httpApp{obedient{}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := r.take(b.Context(), &pubsub.Message{Topic: "orders", Data: data}); err != nil {
			b.Fatal(err)
		}
	}
}
