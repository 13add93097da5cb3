package pubsub

import (
	"fmt"
	"reflect"
	"strings"
)

// doubts are what is probably not meant in the subscriptions of an app, each with the remedy: those that have no effect because
// another one has the same topic, rules that are never reached, and dead letters that come back. known tells whether a component
// is there.
func doubts(declarative, programmatic []Subscription, known func(component string) bool) (texts []string) {
	say := func(format string, args ...any) { texts = append(texts, fmt.Sprintf(format, args...)) }
	for i := range declarative {
		s := &declarative[i]
		if own := find(programmatic, s); own != nil {
			say("the subscription %s has no effect, because the app itself subscribes to the topic, %s; remove one of the two", s, own.route())
			continue
		}
		if first := find(declarative[:i], s); first != nil && !same(first, s) {
			say("the subscription %s, %s, has no effect, because an earlier one to the topic counts: %s, %s; remove one of the two", s, s.route(), first, first.route())
		}
	}
	for i := range programmatic {
		s := &programmatic[i]
		if later := find(programmatic[i+1:], s); later != nil && !same(s, later) {
			say("the app subscribes to %s twice, %s and %s; the last one counts; remove one of the two", s, s.route(), later.route())
		}
	}
	for _, s := range effective(declarative, programmatic) {
		if s.DeadLetterTopic == s.Topic {
			say("the subscription to %s has its own topic as the dead-letter topic, so what fails comes again without end; name another topic", &s)
		}
		for i, rule := range s.Rules[:max(len(s.Rules)-1, 0)] {
			if strings.TrimSpace(rule.Match) == "" {
				say("the subscription to %s has rules behind one without a match (path %q), which are never reached; put that one last: %s", &s, rule.Path, paths(s.Rules[i+1:]))
				break
			}
		}
		if s.Bulk.MaxMessages < 0 || s.Bulk.MaxAwait < 0 {
			say("the subscription to %s has a negative limit of bulks, in place of which the default is taken; correct bulkSubscribe", &s)
		}
		if !known(s.Component) {
			say("the subscription to %s waits, because there is no pubsub component %q; add it, or correct the name", &s, s.Component)
		}
	}
	return texts
}

// find is the first of a list that has the topic of s; nil if none has.
func find(list []Subscription, s *Subscription) *Subscription {
	for i := range list {
		if list[i].target() == s.target() {
			return &list[i]
		}
	}
	return nil
}

// same reports whether two subscriptions to one topic do the same.
func same(a, b *Subscription) bool {
	x, y := *a, *b
	x.Name, y.Name = "", ""
	return reflect.DeepEqual(x, y)
}

// route says where the events of a subscription go.
func (s *Subscription) route() string { return "to " + paths(s.Rules) }

func paths(rules []Rule) string {
	list := make([]string, len(rules))
	for i, r := range rules {
		list[i] = fmt.Sprintf("%q", r.Path)
	}
	return strings.Join(list, ", ")
}
