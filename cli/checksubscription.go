package cli

import (
	"cmp"
	"fmt"
	"slices"

	"outrigger.dev/blocks/pubsub"
	"outrigger.dev/components"
	"outrigger.dev/resource"
)

// defaultPubSub is the broker that is there for every app, unless somebody has changed the components directory of the runtime
// (see defaultComponents).
const defaultPubSub = "pubsub"

// checkSubscriptions checks the Subscriptions: their rules, their names, and that there is the component that each names.
func (c *checker) checkSubscriptions() {
	for i, s := range c.subscriptions {
		c.rules(s)
		for _, earlier := range c.subscriptions[:i] {
			if earlier.Metadata.Name == s.Metadata.Name && resource.InNamespace(earlier.Metadata.Namespace, s.Metadata.Namespace) && shareApp(earlier.Scopes, s.Scopes) {
				c.addSubscription(s, resource.Warning, 0, fmt.Sprintf("it replaces the subscription of the same name at %s:%d", earlier.Origin.File, earlier.Origin.Line), "rename one of the two")
				break
			}
		}
		name := s.Spec.PubsubName
		if name == "" || name == defaultPubSub || slices.ContainsFunc(c.components, func(component *resource.Component) bool {
			return component.Metadata.Name == name && component.Category() == string(components.PubSub) && shareApp(component.Scopes, s.Scopes)
		}) {
			continue
		}
		c.addSubscription(s, resource.Warning, c.lineOfSubscription(s, "pubsubname", 0, 1), fmt.Sprintf("its pub/sub component %q is in none of the checked files", name),
			"correct spec.pubsubname, or check the file with the component too")
	}
}

// rules checks that the rules of a subscription can be followed.
func (c *checker) rules(s *resource.Subscription) {
	for i, rule := range s.Spec.Routes.Rules {
		if err := pubsub.CheckRule(pubsub.Rule{Match: rule.Match, Path: rule.Path}); err != nil {
			c.addSubscription(s, resource.Error, c.lineOfSubscription(s, "match", i, len(s.Spec.Routes.Rules)), err.Error(), "")
		}
	}
}

// lineOfSubscription is the line of the nth of so many places, counted from 0, at which a subscription's document has a key; 0 if it
// cannot be told.
func (c *checker) lineOfSubscription(s *resource.Subscription, key string, n, of int) int {
	f := c.file(s.Origin)
	if f == nil {
		return 0
	}
	lines := f.linesOf(s.Origin.Document, key)
	switch len(lines) {
	case 0:
		return 0
	case of:
		return lines[n]
	}
	return lines[0]
}

// addSubscription keeps a finding about a subscription, at a line if one is given.
func (c *checker) addSubscription(s *resource.Subscription, severity resource.Severity, line int, message, remedy string) {
	c.findings = append(c.findings, finding{
		File: s.Origin.File, Line: cmp.Or(line, s.Origin.Line), Severity: severity.String(),
		Kind: resource.KindSubscription, Name: s.Metadata.Name, Message: message, Remedy: remedy,
	})
}
