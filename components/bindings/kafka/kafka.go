// Package kafka is the binding for Apache Kafka (bindings.kafka): events from topics, and messages to one.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/kafkaclient"
)

// Options are the metadata properties of the component.
type Options struct {
	kafkaclient.Options
	Topics              []string `name:"topics" help:"input: the topics to consume, separated by commas"`
	PublishTopic        string   `name:"publishTopic" help:"output: the topic to publish to"`
	ValueSchemaType     string   `name:"valueSchemaType" default:"none" allowed:"none,avro" help:"input: avro when the values of the topics are encoded by the schema registry. An output gets it with each request"`
	Direction           string   `name:"direction" help:"input, output, or both separated by a comma"`
	ConsumeRetryEnabled bool     `name:"consumeRetryEnabled" default:"false" help:"a message that could not be processed is tried again by the backOff properties, while its partition waits; else it is passed over"`
}

// Binding consumes and publishes.
type Binding struct {
	topics       []string
	publishTopic string
	schemaType   string
	client       *kafkaclient.Client
	group        string
	retry        bool
	producer     *kafkaclient.Producer

	mu      sync.Mutex
	closed  bool
	reading *reading // nil: none
}

var (
	_ bindings.Input  = (*Binding)(nil)
	_ bindings.Output = (*Binding)(nil)
)

// Register adds bindings.kafka to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name: "kafka", Version: "v1", Status: components.Stable,
		Description: "Apache Kafka, and services that speak its protocol: events from topics, and messages to one.",
	}, New)
}

// topics are those of the property topics, without blanks.
func (o *Options) topics() []string {
	var topics []string
	for _, t := range o.Topics {
		if t = strings.TrimSpace(t); t != "" {
			topics = append(topics, t)
		}
	}
	return topics
}

// Check refuses directions without their topics, and what [kafkaclient.Options.Check] does. It implements [components.Checker].
func (o *Options) Check() error {
	topics := o.topics()
	for direction := range strings.SplitSeq(o.Direction, ",") {
		switch strings.ToLower(strings.TrimSpace(direction)) {
		case "input":
			if len(topics) == 0 {
				return errors.New("metadata property \"topics\" is missing, but \"direction\" has input: name the topics to consume")
			}
		case "output":
			if o.PublishTopic == "" {
				return errors.New("metadata property \"publishTopic\" is missing, but \"direction\" has output: name the topic to publish to")
			}
		}
	}
	if len(topics) == 0 && o.PublishTopic == "" {
		return errors.New("metadata properties \"topics\" and \"publishTopic\" are both missing: name topics to consume, or one to publish to")
	}
	return o.Options.Check()
}

// New connects to the brokers.
func New(ctx context.Context, inst components.Instance, o Options) (*Binding, error) {
	client, err := kafkaclient.New(ctx, o.Options, inst.Log, inst.Clock)
	if err != nil {
		return nil, err
	}
	producer, err := client.OpenProducer(ctx)
	if err != nil {
		return nil, err
	}
	return &Binding{
		topics: o.topics(), publishTopic: o.PublishTopic, schemaType: o.ValueSchemaType, client: client,
		group: o.Group(inst.Sidecar.AppID), retry: o.ConsumeRetryEnabled, producer: producer,
	}, nil
}

// Operations is create alone.
func (b *Binding) Operations() []string { return []string{bindings.Create} }

// Invoke publishes the data to publishTopic. The metadata become headers; partitionKey or __key is the key of the message, and
// partitionNumber its partition (Dapr API, Kafka binding: create). There is no response.
func (b *Binding) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	if req.Operation != bindings.Create {
		return nil, fmt.Errorf("bindings.kafka cannot %q; it can create", req.Operation)
	}
	if b.publishTopic == "" {
		return nil, errors.New("metadata property \"publishTopic\" is missing: name the topic to publish to")
	}
	return nil, b.producer.Publish(ctx, b.publishTopic, kafkaclient.Message{Data: req.Data, Metadata: req.Metadata})
}

// Read consumes the topics as a member of the consumer group. A message whose handler fails is tried again if
// consumeRetryEnabled says so, and else passed over.
func (b *Binding) Read(ctx context.Context, handler bindings.Handler) (io.Closer, error) {
	if len(b.topics) == 0 {
		return nil, errors.New("metadata property \"topics\" is missing: name the topics to consume")
	}
	b.mu.Lock()
	switch {
	case b.closed:
		b.mu.Unlock()
		return nil, kafkaclient.ErrClosed
	case b.reading != nil:
		b.mu.Unlock()
		return nil, errors.New("bindings.kafka reads already: close that reading first")
	}
	r := &reading{b: b, consumer: b.client.NewConsumer(b.group, b.retry)}
	b.reading = r
	b.mu.Unlock()

	// Side by side, so that the group divides the partitions of all topics at once.
	results := make(chan error, len(b.topics))
	for _, topic := range b.topics {
		go func() { // ends with its result, which is waited for
			_, err := r.consumer.Subscribe(ctx, kafkaclient.Subscribe{
				Topic: topic, SchemaType: b.schemaType,
				Handler: func(ctx context.Context, d *kafkaclient.Delivery) error {
					_, err := handler(ctx, &bindings.Event{Data: d.Data, Metadata: d.Metadata})
					return err
				},
			})
			results <- err
		}()
	}
	var failed error
	for range b.topics {
		if err := <-results; err != nil && failed == nil {
			failed = err
		}
	}
	if failed != nil {
		_ = r.Close()
		return nil, failed
	}
	return r, nil
}

// reading is what Read returns.
type reading struct {
	b        *Binding
	consumer *kafkaclient.Consumer
}

// Close leaves the group.
func (r *reading) Close() error {
	err := r.consumer.Close()
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.b.reading == r {
		r.b.reading = nil
	}
	return err
}

// Close ends reading and disconnects.
func (b *Binding) Close() error {
	b.mu.Lock()
	b.closed = true
	r := b.reading
	b.mu.Unlock()
	var err error
	if r != nil {
		err = r.Close()
	}
	b.producer.Close()
	return err
}
