// Package pubsub is the contract of publish/subscribe components (Dapr API, publish and subscribe).
//
// A component implements [Broker]; what else it can do it shows by the small interfaces below, which the publish/subscribe
// block discovers by type assertion. Envelopes, routing, scopes and dead letters are the block's: a component carries bytes.
package pubsub

import (
	"context"
	"time"

	"outrigger.dev/components"
)

// Broker is what every publish/subscribe component does. Its methods are safe for concurrent use.
type Broker interface {
	// Publish hands one message to the broker and returns once the broker has it, with the durability it is configured for.
	// Errors should tell transient from terminal ones, see [Transient] and [Terminal]. On a closed component it fails with
	// [ErrClosed].
	Publish(ctx context.Context, req PublishRequest) error
	// Subscribe starts a subscription, as often as wanted, also several for one topic. ctx bounds only the start: the
	// subscription lives until it or the component is closed, and re-establishes itself when the broker goes away.
	Subscribe(ctx context.Context, req SubscribeRequest, handler Handler) (Subscription, error)
	// Close ends all subscriptions as [Subscription.Close] does and releases the broker. It may be called more than once.
	Close() error
}

// Subscription is a running subscription.
type Subscription interface {
	// Close takes no more messages from the broker, cancels the contexts of running handlers, and returns once all of them
	// have returned and their verdicts are with the broker, as far as it can be reached. Messages without a verdict are left
	// to the broker to deliver again. It may be called more than once, and is bounded by the component's own time-outs.
	Close() error
}

// Pauser is a Subscription that can stop taking messages from the broker while those it already has are still handed over.
type Pauser interface {
	// Pause returns once nothing more is fetched. Close is the only call that follows.
	Pause(ctx context.Context) error
}

// Handler takes one message. nil is the verdict "processed": the component acknowledges. An error means that it was not: the
// component lets the broker deliver the message again by its own means. When ctx has ended the message has no verdict at all:
// the component neither acknowledges nor rejects. A call may last as long as the app takes; several may run at once.
type Handler func(ctx context.Context, msg *Message) error

// Message is a message from a broker.
type Message struct {
	// Topic is where the message came from, as the app subscribed to it or, for patterns, the concrete one.
	Topic string
	Data  []byte
	// Metadata becomes headers of the delivery to the app: names legal in HTTP and gRPC. The handler may add to it. May be nil.
	Metadata map[string]string
	// ContentType is the type that the broker carries beside the data, "" when it carries none.
	ContentType string
}

// PublishRequest is a message for a broker.
type PublishRequest struct {
	Topic string
	// Data is changed by nobody from here on: a component may keep it.
	Data []byte
	// Metadata is what the publisher gave, unchanged: the broker's own settings for this message and all others. May be nil.
	Metadata map[string]string
	// ContentType is "" unless known.
	ContentType string
}

// SubscribeRequest says what to subscribe to.
type SubscribeRequest struct {
	Topic string
	// Metadata is that of the subscription. May be nil.
	Metadata map[string]string
}

// BulkPublisher is a Broker that takes many messages in one exchange.
type BulkPublisher interface {
	// BulkPublish returns one result per entry in the order of the entries, nil for those that were published, or a nil slice
	// when all were. err is the cause when any failed; without results it holds for all.
	BulkPublish(ctx context.Context, req BulkPublishRequest) (results []error, err error)
}

// BulkPublishRequest is a number of messages for one topic.
type BulkPublishRequest struct {
	Topic   string
	Entries []BulkEntry
	// Metadata is that of the request, which the entries hold already as far as it applies to them.
	Metadata map[string]string
}

// BulkEntry is one message of a bulk.
type BulkEntry struct {
	// ID tells the entries of one bulk apart.
	ID          string
	Data        []byte
	ContentType string
	Metadata    map[string]string
}

// BulkSubscriber is a Broker that hands over many messages at once, gathered by its own means.
type BulkSubscriber interface {
	BulkSubscribe(ctx context.Context, req BulkSubscribeRequest, handler BulkHandler) (Subscription, error)
}

// BulkSubscribeRequest says what to subscribe to and how large the bulks are.
type BulkSubscribeRequest struct {
	SubscribeRequest
	// MaxMessages and MaxAwait are the limits of a bulk; 0 is the component's default.
	MaxMessages int
	MaxAwait    time.Duration
}

// BulkHandler takes many messages. It returns one verdict per entry in order, as a [Handler] does for one message, or nil when
// all were processed. When ctx has ended none of the entries whose verdict is an error has one.
type BulkHandler func(ctx context.Context, msg *BulkMessage) []error

// BulkMessage is a bulk of messages from a broker.
type BulkMessage struct {
	Topic   string
	Entries []BulkEntry
	// Metadata is that of the bulk as a whole. May be nil.
	Metadata map[string]string
}

// TTLPublisher marks brokers that expire messages themselves, by the metadata ttlInSeconds (see [TTL]).
type TTLPublisher interface {
	// MessageTTL reports whether this instance does.
	MessageTTL() bool
}

// WildcardSubscriber marks brokers whose topics may be patterns.
type WildcardSubscriber interface {
	// Wildcards reports whether this instance's may.
	Wildcards() bool
}

// ImmediateBulk marks brokers whose messages are to be put into bulks without waiting for more (Dapr API, bulk subscribe).
type ImmediateBulk interface {
	// ImmediateBulk reports whether this instance's are.
	ImmediateBulk() bool
}

// Pinger is a Broker that can tell whether it reaches its server.
type Pinger interface {
	Ping(ctx context.Context) error
}

// ExpiresMessages reports whether b itself expires messages.
func ExpiresMessages(b Broker) bool {
	t, ok := b.(TTLPublisher)
	return ok && t.MessageTTL()
}

// GathersImmediately reports whether bulks of b's messages are made without waiting for more.
func GathersImmediately(b Broker) bool {
	i, ok := b.(ImmediateBulk)
	return ok && i.ImmediateBulk()
}

// Capabilities are the feature names that the metadata API lists for a broker (Dapr API, metadata).
func Capabilities(b Broker) []string {
	var names []string
	if _, ok := b.(BulkPublisher); ok {
		names = append(names, "BULK_PUBSUB")
	}
	if GathersImmediately(b) {
		names = append(names, "BULK_SUBSCRIBE_IMMEDIATE")
	}
	if ExpiresMessages(b) {
		names = append(names, "MESSAGE_TTL")
	}
	if w, ok := b.(WildcardSubscriber); ok && w.Wildcards() {
		names = append(names, "SUBSCRIBE_WILDCARDS")
	}
	return names
}

// Register adds a publish/subscribe component type to r.
func Register[O any](r *components.Registry, info components.Info, open func(ctx context.Context, inst components.Instance, options O) (Broker, error)) {
	components.Register(r, components.PubSub, info, open)
}
