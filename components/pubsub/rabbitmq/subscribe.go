package rabbitmq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/rabbitmqclient"
)

// subscription is a consumer of a queue that is bound to a topic's exchange.
type subscription struct {
	broker   *Broker
	consumer *rabbitmqclient.Consumer
}

// Pause implements [pubsub.Pauser].
func (s *subscription) Pause(ctx context.Context) error { return s.consumer.Pause(ctx) }

// Close implements [pubsub.Subscription].
func (s *subscription) Close() error {
	s.broker.mu.Lock()
	delete(s.broker.subscriptions, s)
	s.broker.mu.Unlock()
	s.consumer.Close()
	return nil
}

// Subscribe implements [pubsub.Broker].
func (b *Broker) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) (pubsub.Subscription, error) {
	q, err := b.queue(req)
	if err != nil {
		return nil, pubsub.Terminal(err)
	}
	if b.ctx.Err() != nil {
		return nil, pubsub.ErrClosed
	}
	properties := b.options.PublishMessagePropertiesToMetadata
	consumer, err := b.consuming.Consume(ctx, rabbitmqclient.ConsumerConfig{
		Name:     fmt.Sprintf("topic %q with queue %q", req.Topic, q.name),
		Declare:  q.declare,
		Prefetch: int(b.options.PrefetchCount),
		AutoAck:  b.options.AutoAck,
		Serial:   strings.EqualFold(b.options.ConcurrencyMode, "single"),
		Requeue:  b.options.RequeueInFailure,
		Handle: func(ctx context.Context, d *amqp.Delivery) error {
			msg := &pubsub.Message{Topic: req.Topic, Data: d.Body}
			if properties {
				msg.Metadata = propertiesOf(d)
			}
			return handler(ctx, msg)
		},
		Log: b.log,
	})
	switch {
	case errors.Is(err, rabbitmqclient.ErrClosed):
		return nil, pubsub.ErrClosed
	case rabbitmqclient.Permanent(err):
		return nil, pubsub.Terminal(b.notSubscribed(req.Topic, err))
	case err != nil:
		return nil, pubsub.Transient(b.notSubscribed(req.Topic, err))
	}
	s := &subscription{broker: b, consumer: consumer}
	b.mu.Lock()
	closing := b.closing
	if !closing {
		b.subscriptions[s] = struct{}{}
	}
	b.mu.Unlock()
	if closing {
		consumer.Close()
		return nil, pubsub.ErrClosed
	}
	return s, nil
}

func (b *Broker) notSubscribed(topic string, err error) error {
	return fmt.Errorf("rabbitmq at %s: topic %q was not subscribed to: %w", b.consuming.Address, topic, err)
}

// queue is what a subscription consumes from, and how it is bound.
type queue struct {
	broker      *Broker
	topic, name string
	autoDelete  bool
	arguments   amqp.Table
	keys        []string
}

// queue reads the metadata of a subscription (Dapr API, pubsub.rabbitmq: subscription metadata).
func (b *Broker) queue(req pubsub.SubscribeRequest) (*queue, error) {
	q := &queue{
		broker: b, topic: req.Topic, name: property(req.Metadata, "queueName"), autoDelete: b.options.deletedWhenUnused(),
		arguments: amqp.Table{}, keys: strings.Split(property(req.Metadata, "routingKey"), ","),
	}
	if q.name == "" {
		if b.options.ConsumerID == "" {
			return nil, errors.New(`metadata property "consumerID" is missing, which names the queue: set it, or queueName in the subscription's metadata`)
		}
		q.name = b.options.ConsumerID + "-" + req.Topic
	}
	kind := strings.ToLower(property(req.Metadata, "queueType"))
	switch kind {
	case "":
		kind = amqp.QueueTypeClassic
	case amqp.QueueTypeClassic:
	case amqp.QueueTypeQuorum:
		if b.options.DeletedWhenUnused != nil && *b.options.DeletedWhenUnused || !b.options.Durable {
			return nil, errors.New(`queueType is quorum, but such queues are durable and stay: set the component's metadata properties "durable" to true and "deletedWhenUnused" to false`)
		}
		q.autoDelete = false
	default:
		return nil, fmt.Errorf("queueType is %q, but must be classic or quorum", kind)
	}
	q.arguments[amqp.QueueTypeArg] = kind
	if b.options.EnableDeadLetter {
		q.arguments["x-dead-letter-exchange"] = q.deadLetterExchange()
	}
	if text := property(req.Metadata, "maxPriority"); text != "" {
		p, err := rabbitmqclient.Priority("maxPriority", text)
		if err != nil {
			return nil, err
		}
		if p > 0 && kind == amqp.QueueTypeQuorum {
			return nil, fmt.Errorf("maxPriority is %s, but quorum queues have no priorities: leave out maxPriority, or queueType", text)
		}
		if p > 0 {
			q.arguments["x-max-priority"] = p
		}
	}
	for _, limit := range []struct {
		name, argument string
		value          int64
	}{
		{"maxLen", amqp.QueueMaxLenArg, b.options.MaxLen},
		{"maxLenBytes", amqp.QueueMaxLenBytesArg, b.options.MaxLenBytes},
	} {
		if text := property(req.Metadata, limit.name); text != "" {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("%s is %q, but must be a whole number of at least 0", limit.name, text)
			}
			limit.value = n
		}
		if limit.value > 0 {
			q.arguments[limit.argument] = limit.value
		}
	}
	if text := property(req.Metadata, "singleActiveConsumer"); components.Truthy(text) {
		q.arguments["x-single-active-consumer"] = true
	}
	names := append([]string{q.topic, q.deadLetterExchange(), q.deadLetterQueue()}, q.keys...)
	for _, name := range names {
		if err := checkName(fmt.Sprintf("name %.40q...", name), name); err != nil {
			return nil, err
		}
	}
	if q.topic == "" {
		return nil, errors.New("the topic is empty: name one")
	}
	return q, nil
}

// property is the value of a name in any case.
func property(metadata map[string]string, name string) string {
	if v, ok := metadata[name]; ok {
		return strings.TrimSpace(v)
	}
	for k, v := range metadata {
		if strings.EqualFold(k, name) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (q *queue) deadLetterExchange() string { return "dlx-" + q.name }
func (q *queue) deadLetterQueue() string    { return "dlq-" + q.name }

// declare makes the exchanges and the queue, as far as they are not there.
func (q *queue) declare(conn *rabbitmqclient.Connection, ch *amqp.Channel) (string, error) {
	if q.broker.options.EnableDeadLetter {
		if err := q.declareDeadLetter(conn); err != nil {
			return "", err
		}
	}
	if err := q.broker.declareExchange(ch, q.topic); err != nil {
		return "", err
	}
	if _, err := ch.QueueDeclare(q.name, q.broker.options.Durable, q.autoDelete, false, false, q.arguments); err != nil {
		return "", mismatch(err, fmt.Sprintf("queue %q", q.name),
			"durable, deletedWhenUnused, enableDeadLetter, and queueType, maxLen, maxLenBytes, maxPriority and singleActiveConsumer of the subscription")
	}
	for _, key := range q.keys {
		if err := ch.QueueBind(q.name, key, q.topic, false, nil); err != nil {
			return "", err
		}
	}
	return q.name, nil
}

// declareDeadLetter makes the exchange and the queue of dead letters. They stay when they are unused, and are taken as they
// are when they are there.
func (q *queue) declareDeadLetter(conn *rabbitmqclient.Connection) error {
	exchange, name := q.deadLetterExchange(), q.deadLetterQueue()
	there := func(err error) bool {
		reply, ok := errors.AsType[*amqp.Error](err)
		return ok && reply.Code == amqp.PreconditionFailed
	}
	err := conn.Try(func(ch *amqp.Channel) error {
		return ch.ExchangeDeclare(exchange, amqp.ExchangeFanout, true, false, false, false, nil)
	})
	if err != nil && !there(err) {
		return err
	}
	err = conn.Try(func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(name, true, false, false, false, amqp.Table{"x-queue-mode": "lazy"})
		return err
	})
	if err != nil && !there(err) {
		return err
	}
	return conn.Try(func(ch *amqp.Channel) error { return ch.QueueBind(name, "", exchange, false, nil) })
}

// propertiesOf are a message's properties and headers as metadata. Headers whose names no HTTP header can have are left out.
func propertiesOf(d *amqp.Delivery) map[string]string {
	m := make(map[string]string, len(d.Headers)+4)
	for name, value := range d.Headers {
		if headerName(name) {
			m["metadata."+name] = headerText(value)
		}
	}
	for name, value := range map[string]string{
		"messageid": d.MessageId, "correlationid": d.CorrelationId, "type": d.Type, "contenttype": d.ContentType,
	} {
		if value != "" {
			m["metadata."+name] = value
		}
	}
	return m
}

// headerName reports whether a name is legal in HTTP and gRPC.
func headerName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return name != ""
}

// headerText writes the value of an AMQP header.
func headerText(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	case nil:
		return ""
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case amqp.Table, []any:
		if text, err := json.Marshal(v); err == nil {
			return string(text)
		}
	}
	return fmt.Sprint(value)
}
