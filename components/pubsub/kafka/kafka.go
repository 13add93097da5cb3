// Package kafka is the publish/subscribe component for Apache Kafka (pubsub.kafka).
package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/kafkaclient"
	"outrigger.dev/components/pubsub"
)

// Options are the metadata properties of the component.
type Options struct {
	kafkaclient.Options
	// ConsumeRetryEnabled is false by default for bindings only.
	ConsumeRetryEnabled bool `name:"consumeRetryEnabled" default:"true" help:"a message that could not be processed is tried again by the backOff properties, while its partition waits; else it is passed over"`
}

// Defaults of a bulk subscription (Dapr API, bulk subscribe).
const (
	bulkMessages = 80
	bulkAwait    = 10 * time.Second
)

// schemaType is the subscription metadata that says how values are encoded.
const schemaType = "valueSchemaType"

// Broker publishes to Kafka topics and subscribes to them as one member of a consumer group.
type Broker struct {
	producer *kafkaclient.Producer
	consumer *kafkaclient.Consumer
}

var (
	_ pubsub.Broker         = (*Broker)(nil)
	_ pubsub.BulkPublisher  = (*Broker)(nil)
	_ pubsub.BulkSubscriber = (*Broker)(nil)
	_ pubsub.Pinger         = (*Broker)(nil)
	_ pubsub.Pauser         = (*subscription)(nil)
)

// Register adds pubsub.kafka to r.
func Register(r *components.Registry) {
	pubsub.Register(r, components.Info{
		Name: "kafka", Version: "v1", Status: components.Stable,
		Description:  "Apache Kafka, and services that speak its protocol. Messages of a partition are handed over in their order.",
		Capabilities: []string{"BULK_PUBSUB"},
	}, New)
}

// New connects to the brokers.
func New(ctx context.Context, inst components.Instance, o Options) (pubsub.Broker, error) {
	client, err := kafkaclient.New(ctx, o.Options, inst.Log, inst.Clock)
	if err != nil {
		return nil, err
	}
	producer, err := client.OpenProducer(ctx)
	if err != nil {
		return nil, err
	}
	return &Broker{producer: producer, consumer: client.NewConsumer(o.Group(inst.Sidecar.AppID), o.ConsumeRetryEnabled)}, nil
}

// Publish returns once the brokers have the message, as many as producerRequiredAcks says. All metadata become headers of the
// message; partitionKey or __key is its key, and partitionNumber its partition (Dapr API, Kafka: per-call metadata).
func (b *Broker) Publish(ctx context.Context, req pubsub.PublishRequest) error {
	return classed(b.producer.Publish(ctx, req.Topic, kafkaclient.Message{Data: req.Data, Metadata: req.Metadata}))
}

// BulkPublish publishes the entries in their order, in as few exchanges as they fit in. The metadata of the request go over
// those of the entries.
func (b *Broker) BulkPublish(ctx context.Context, req pubsub.BulkPublishRequest) ([]error, error) {
	ms := make([]kafkaclient.Message, len(req.Entries))
	for i, e := range req.Entries {
		ms[i] = kafkaclient.Message{Data: e.Data, Metadata: e.Metadata}
	}
	results, err := b.producer.PublishAll(ctx, req.Topic, ms, req.Metadata)
	for i := range results {
		results[i] = classed(results[i])
	}
	return results, classed(err)
}

// Subscribe consumes a topic. Messages of a partition come one at a time and in order, those of several partitions at once.
func (b *Broker) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) (pubsub.Subscription, error) {
	return b.subscribe(ctx, kafkaclient.Subscribe{
		Topic: req.Topic, SchemaType: req.Metadata[schemaType],
		Handler: func(ctx context.Context, d *kafkaclient.Delivery) error {
			return handler(ctx, &pubsub.Message{Topic: d.Topic, Data: d.Data, Metadata: d.Metadata})
		},
	})
}

// BulkSubscribe consumes a topic in bulks of one partition each. A bulk in which an entry failed is handed over again from that
// entry on.
func (b *Broker) BulkSubscribe(ctx context.Context, req pubsub.BulkSubscribeRequest, handler pubsub.BulkHandler) (pubsub.Subscription, error) {
	most, await := req.MaxMessages, req.MaxAwait
	if most <= 0 {
		most = bulkMessages
	}
	if await <= 0 {
		await = bulkAwait
	}
	return b.subscribe(ctx, kafkaclient.Subscribe{
		Topic: req.Topic, SchemaType: req.Metadata[schemaType], Most: most, Await: await,
		Bulk: func(ctx context.Context, ds []kafkaclient.Delivery) []error {
			msg := pubsub.BulkMessage{Topic: req.Topic, Entries: make([]pubsub.BulkEntry, len(ds))}
			for i := range ds {
				msg.Entries[i] = pubsub.BulkEntry{ID: strconv.Itoa(i), Data: ds[i].Data, Metadata: ds[i].Metadata}
			}
			return handler(ctx, &msg)
		},
	})
}

func (b *Broker) subscribe(ctx context.Context, req kafkaclient.Subscribe) (pubsub.Subscription, error) {
	s, err := b.consumer.Subscribe(ctx, req)
	if err != nil {
		return nil, classed(err)
	}
	return &subscription{s}, nil
}

// subscription is a running one.
type subscription struct{ s *kafkaclient.Subscription }

// Close ends it; what is processed is committed first.
func (s *subscription) Close() error { return s.s.Close() }

// Pause stops the fetching of its messages.
func (s *subscription) Pause(context.Context) error {
	s.s.Pause()
	return nil
}

// Ping reports whether a broker answers.
func (b *Broker) Ping(ctx context.Context) error { return classed(b.producer.Ping(ctx)) }

// Close ends all subscriptions, leaves the consumer group and disconnects.
func (b *Broker) Close() error {
	err := b.consumer.Close()
	b.producer.Close()
	if err != nil {
		return fmt.Errorf("closing Kafka: %w", err)
	}
	return nil
}

// classed tells errors that go away from those that stay.
func classed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kafkaclient.ErrClosed):
		return pubsub.ErrClosed
	case kafkaclient.Permanent(err):
		return pubsub.Terminal(err)
	}
	return pubsub.Transient(err)
}
