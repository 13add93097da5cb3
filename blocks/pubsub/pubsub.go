// Package pubsub is the building block for publish and subscribe (Dapr API, publish and subscribe): it puts messages into
// envelopes and hands them to the broker components, and it brings messages from there to the app, or to the streams that
// subscribed, and their verdicts back.
//
// publish.go and bulkpublish.go are the way out, with scopes.go for who may use which topic and retry.go for what is tried again. subscription.go says what a
// subscription is and which one counts, sources.go asks the app for its own, running.go is one in operation and manager.go
// starts and stops them. delivery.go and bulkdelivery.go bring messages to a target: the app by HTTP or gRPC (apphttp.go,
// appgrpc.go) or a stream (stream.go), by the rules of routing.go. http.go and grpc.go are the faces of the API.
package pubsub

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/app"
	"outrigger.dev/blocks/internal/table"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/resiliency"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/tracing"
)

// Options are what the block needs to know of its sidecar.
type Options struct {
	AppID string
	// Namespace is put before the topics of components whose metadata names {namespace}.
	Namespace string
	// SkipAppSubscriptions leaves out asking the app for its subscriptions (--disable-init-endpoints).
	SkipAppSubscriptions bool
	// Tracer makes the spans of deliveries and of the entries of bulks; nil is off.
	Tracer *tracing.Tracer
	// Resiliency has the policies for publications and deliveries; nil has none.
	Resiliency *resiliency.Engine
	// Metrics may be nil.
	Metrics *metrics.PubSub
	// Clock is the time of events, latencies and waits; nil is the system's clock.
	Clock clockwork.Clock
	// Log gets what apps and operators should know; nil discards it.
	Log *slog.Logger
}

// PubSub is the block. Its methods are safe for concurrent use.
type PubSub struct {
	options Options
	brokers table.Table[*broker]
	manager manager
}

// New makes a PubSub without components and without an app.
func New(o Options) *PubSub {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &PubSub{options: o}
	p.manager.init(p)
	return p
}

// SetApp tells the channel to the app, before the first [PubSub.StartApp].
func (p *PubSub) SetApp(channel app.Channel) { p.manager.setApp(channel) }

// Component is a broker to be added.
type Component struct {
	// Name is the metadata.name of the resource.
	Name   string
	Broker pubsub.Broker
	// Properties are the metadata items of the resource.
	Properties map[string]string
	// Namespaced is true when one of them named {namespace}: then the topics get the namespace as prefix.
	Namespaced bool
}

// broker is a component in use.
type broker struct {
	name      string
	component pubsub.Broker
	scopes    scopes
	// prefix stands in front of every topic at the broker; it may be empty.
	prefix string
	// expires is true when the broker itself expires messages.
	expires bool
	// outbound is the policy for publications, inbound that for deliveries; they may be nil.
	outbound, inbound *resiliency.Policy
}

// Add makes a component available under its name, and starts the subscriptions that wait for it. It fails when the name is
// taken.
func (p *PubSub) Add(c Component) error {
	b := &broker{name: c.Name, component: c.Broker, scopes: newScopes(c.Properties, p.options.AppID), expires: pubsub.ExpiresMessages(c.Broker)}
	b.outbound = p.options.Resiliency.Component(resiliency.Pubsub, c.Name, resiliency.Outbound)
	b.inbound = p.options.Resiliency.Component(resiliency.Pubsub, c.Name, resiliency.Inbound)
	if c.Namespaced {
		b.prefix = p.options.Namespace
	}
	if err := p.brokers.Add(c.Name, b); err != nil {
		return err
	}
	p.manager.brokerAdded(c.Name)
	return nil
}

// Remove ends the subscriptions of a component and takes it out, if it is there, and waits until running calls of it have
// ended: then it may be closed. It is out even when the context ends the wait, which is the only error.
func (p *PubSub) Remove(ctx context.Context, name string) error {
	p.manager.brokerRemoved(ctx, name)
	err := p.brokers.Remove(ctx, name)
	if err == nil {
		err = p.options.Resiliency.Component(resiliency.Pubsub, name, resiliency.Outbound).Wait(ctx)
	}
	if err != nil {
		return fmt.Errorf("removing a pub/sub component: %w", err)
	}
	return nil
}

// topic is the name of a topic at the broker.
func (b *broker) topic(topic string) string { return b.prefix + topic }

// appTopic is the name the app knows a topic of the broker by: the first occurrence of the namespace is taken out.
func (b *broker) appTopic(topic string) string {
	if b.prefix == "" {
		return topic
	}
	return strings.Replace(topic, b.prefix, "", 1)
}
