package pubsub

import (
	"fmt"
	"slices"
	"time"

	"outrigger.dev/resource"
)

// Origin is where a subscription comes from, as the metadata API names it.
type Origin string

// The origins (Dapr API, metadata: subscriptions).
const (
	Declarative  Origin = "DECLARATIVE"
	Programmatic Origin = "PROGRAMMATIC"
	Streaming    Origin = "STREAMING"
)

// Rule sends the events for which Match holds to Path; an empty Match holds for all.
type Rule struct{ Match, Path string }

// Bulk are the settings of bulk delivery.
type Bulk struct {
	Enabled bool
	// MaxMessages and MaxAwait are the limits of a bulk; 0 is the default.
	MaxMessages int
	MaxAwait    time.Duration
}

// Subscription says which messages go where.
type Subscription struct {
	// Name is that of the resource; only declarative subscriptions have one.
	Name             string
	Component, Topic string
	Metadata         map[string]string
	DeadLetterTopic  string
	// Rules are tried in order.
	Rules  []Rule
	Bulk   Bulk
	Origin Origin
}

// FromResource is the subscription that a resource declares.
func FromResource(r *resource.Subscription) Subscription {
	s := Subscription{
		Name: r.Metadata.Name, Component: r.Spec.PubsubName, Topic: r.Spec.Topic, Metadata: r.Spec.Metadata, DeadLetterTopic: r.Spec.DeadLetterTopic,
		Bulk: Bulk{
			Enabled: r.Spec.BulkSubscribe.Enabled, MaxMessages: int(r.Spec.BulkSubscribe.MaxMessagesCount),
			MaxAwait: time.Duration(r.Spec.BulkSubscribe.MaxAwaitDurationMs) * time.Millisecond,
		},
		Origin: Declarative,
	}
	for _, rule := range r.Rules() {
		s.Rules = append(s.Rules, Rule{rule.Match, rule.Path})
	}
	return s
}

// target is what two subscriptions cannot share.
type target struct{ component, topic string }

func (s *Subscription) target() target { return target{s.Component, s.Topic} }

// effective are the app subscriptions that count (Dapr API, subscriptions: precedence): of declarative ones for a topic the
// first, of programmatic ones the last in the place of the first, and of both kinds the programmatic one.
func effective(declarative, programmatic []Subscription) []Subscription {
	var own []Subscription
	for _, s := range programmatic {
		if at := slices.IndexFunc(own, func(o Subscription) bool { return o.target() == s.target() }); at >= 0 {
			own[at] = s
		} else {
			own = append(own, s)
		}
	}
	var all []Subscription
	for _, s := range declarative {
		taken := func(o Subscription) bool { return o.target() == s.target() }
		if !slices.ContainsFunc(all, taken) && !slices.ContainsFunc(own, taken) {
			all = append(all, s)
		}
	}
	return append(all, own...)
}

// String names a subscription in messages.
func (s *Subscription) String() string {
	var name string
	if s.Name != "" {
		name = " (subscription " + s.Name + ")"
	}
	return fmt.Sprintf("topic %s of pubsub %s%s", s.Topic, s.Component, name)
}
