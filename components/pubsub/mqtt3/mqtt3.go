// Package mqtt3 is the broker pubsub.mqtt3: MQTT 3.1.1 (Dapr API, publish and subscribe: MQTT).
//
// A component is one session at the broker, with consumerID as its client id, so each replica of an app needs its own; to
// share the messages of a topic, replicas subscribe to $share/<group>/<topic>. Topics of subscriptions may have the
// wildcards + and #, and the app is told the concrete topic.
//
// A message is acknowledged when the app has processed it. One that the app rejects is not, and MQTT has no other verdict:
// the broker sends it again after the next reconnect, if the session is kept (cleanSession false). The component does not
// reconnect for that, since all other messages on their way would be delivered twice. Until then the message takes a place
// in the broker's window of unacknowledged messages, 20 with Mosquitto unless max_inflight_messages says otherwise: when
// the window is full of rejected messages no more come. Retries by a resiliency policy, or a dead letter topic, avoid both.
// When a message matches several subscriptions it is acknowledged once all have processed it; brokers may send such a
// message once for each.
package mqtt3

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/mqttclient"
	"outrigger.dev/components/pubsub"
)

// Register adds pubsub.mqtt3 to r.
func Register(r *components.Registry) {
	pubsub.Register(r, components.Info{
		Name:         "mqtt3",
		Aliases:      []string{"mqtt"},
		Version:      "v1",
		Status:       components.Stable,
		Description:  "Publishes and subscribes through a broker that speaks MQTT 3.1.1, such as Mosquitto, EMQX or HiveMQ.",
		Capabilities: []string{"SUBSCRIBE_WILDCARDS"},
	}, func(ctx context.Context, inst components.Instance, o Options) (pubsub.Broker, error) {
		return Open(ctx, o, inst)
	})
}

// Options are the metadata of pubsub.mqtt3.
type Options struct {
	mqttclient.Options
	ConsumerID   string `name:"consumerID" help:"the client id at the broker, which must differ between replicas: {uuid} or {podName} make it so; default is the app id"`
	QoS          uint8  `name:"qos" default:"1" allowed:"0,1,2" help:"quality of service of publishing and subscribing: 0 at most once, 1 at least once, 2 exactly once on the way to and from the broker. MQTT 3.1.1 cannot tell that a broker dropped a message over its size limit (message_size_limit in Mosquitto), even one that it acknowledged"`
	Retain       bool   `name:"retain" help:"the broker keeps the last message of each topic for those who subscribe later; the metadata retain of a message wins"`
	CleanSession bool   `name:"cleanSession" help:"the broker forgets subscriptions and messages when the connection ends"`
}

// Check says which property cannot be followed, and why. It implements [components.Checker].
func (o *Options) Check() error {
	if o.ConsumerID = strings.TrimSpace(o.ConsumerID); o.ConsumerID == "" {
		return errors.New("metadata property \"consumerID\" is empty: set it to a client id that no other connection to the broker has")
	}
	return o.Options.Check()
}

// requestLimit bounds a publish and the start of a subscription (Dapr API, MQTT).
const requestLimit = 20 * time.Second

// rejectedWarning is every how many rejected messages the log says what that means.
const rejectedWarning = 10

// Broker is a session with an MQTT broker.
type Broker struct {
	client   *mqttclient.Client
	options  Options
	log      *slog.Logger
	rejected atomic.Int64
}

var (
	_ pubsub.Broker             = (*Broker)(nil)
	_ pubsub.WildcardSubscriber = (*Broker)(nil)
	_ pubsub.Pinger             = (*Broker)(nil)
	_ pubsub.Pauser             = (*subscription)(nil)
)

// Open connects to the broker.
func Open(ctx context.Context, o Options, inst components.Instance) (*Broker, error) {
	log := inst.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	client, err := o.Connect(ctx, mqttclient.Session{ClientID: o.ConsumerID, CleanSession: o.CleanSession, Log: log, Clock: inst.Clock})
	if err != nil {
		return nil, err
	}
	return &Broker{client: client, options: o, log: log}, nil
}

// Wildcards implements [pubsub.WildcardSubscriber].
func (*Broker) Wildcards() bool { return true }

// Publish implements [pubsub.Broker]. It returns when the broker has acknowledged the message, with qos 0 when it is written.
// Only the data is sent.
func (b *Broker) Publish(ctx context.Context, req pubsub.PublishRequest) error {
	retain := b.options.Retain
	if value, ok := lookup(req.Metadata, "retain"); ok && value != "" {
		retain = components.Truthy(value)
	}
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	return classed(b.client.Publish(ctx, mqttclient.Publication{Topic: req.Topic, Payload: req.Data, QoS: b.options.QoS, Retain: retain}))
}

// Subscribe implements [pubsub.Broker].
func (b *Broker) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) (pubsub.Subscription, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	s, err := b.client.Subscribe(ctx, req.Topic, b.options.QoS, func(ctx context.Context, m *mqttclient.Message) error {
		retained := "false"
		if m.Retained {
			retained = "true"
		}
		err := handler(ctx, &pubsub.Message{Topic: m.Topic, Data: m.Payload, Metadata: map[string]string{"retained": retained}})
		if err != nil && ctx.Err() == nil {
			b.reject(m.Topic, err)
		}
		return err
	})
	if err != nil {
		return nil, classed(err)
	}
	value, _ := lookup(req.Metadata, "unsubscribeOnClose")
	return &subscription{s, b.options.CleanSession || components.Truthy(value)}, nil
}

// reject tells, now and then, what becomes of messages that the app does not process.
func (b *Broker) reject(topic string, err error) {
	if n := b.rejected.Add(1); n == 1 || n%rejectedWarning == 0 && b.options.QoS > 0 {
		fate := "it is lost, since the session is not kept: set cleanSession to false and qos to 1, or use a dead letter topic"
		if !b.options.CleanSession && b.options.QoS > 0 {
			fate = "the broker sends it again after the next reconnect only, and sends nothing at all while its window of unacknowledged messages is full of such: use a retry policy or a dead letter topic"
		}
		b.log.Warn("a message was not processed: "+fate, "topic", topic, "soFar", n, "error", err)
	}
}

// Ping implements [pubsub.Pinger].
func (b *Broker) Ping(ctx context.Context) error { return classed(b.client.Ping(ctx)) }

// Close implements [pubsub.Broker].
func (b *Broker) Close() error { return b.client.Close() }

// subscription is one of the app's subscriptions.
type subscription struct {
	*mqttclient.Subscription
	unsubscribe bool
}

// Pause implements [pubsub.Pauser].
func (s *subscription) Pause(context.Context) error {
	s.Subscription.Pause()
	return nil
}

// Close implements [pubsub.Subscription]. The broker keeps the subscription, and its messages for the next one, unless
// cleanSession or the subscription's metadata unsubscribeOnClose is set.
func (s *subscription) Close() error {
	return s.Subscription.Close(context.Background(), s.unsubscribe)
}

// classed tells errors that will pass from those that will not.
func classed(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, mqttclient.ErrClosed) {
		return pubsub.ErrClosed
	}
	if _, refused := errors.AsType[*mqttclient.RefusedError](err); refused {
		return pubsub.Terminal(fmt.Errorf("mqtt: %w", err))
	}
	return pubsub.Transient(fmt.Errorf("mqtt: %w", err))
}

// lookup finds a metadata value whatever the case of its name.
func lookup(metadata map[string]string, name string) (string, bool) {
	if value, ok := metadata[name]; ok {
		return value, true
	}
	for k, v := range metadata {
		if strings.EqualFold(k, name) {
			return v, true
		}
	}
	return "", false
}
