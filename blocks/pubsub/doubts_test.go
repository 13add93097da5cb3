package pubsub

import (
	"slices"
	"strings"
	"testing"

	"outrigger.dev/telemetry/logging/logtest"
)

func TestDoubts(t *testing.T) {
	t.Parallel()
	on := func(name, topic string, rules ...Rule) Subscription {
		return Subscription{Name: name, Component: "ps", Topic: topic, Rules: rules}
	}
	a, b := Rule{Path: "/a"}, Rule{Path: "/b"}
	with := func(s Subscription, change func(*Subscription)) Subscription { change(&s); return s }
	for _, test := range []struct {
		name                      string
		declarative, programmatic []Subscription
		want                      [][]string // texts in each of the doubts
	}{
		{name: "nothing", declarative: []Subscription{on("x", "t", a), on("y", "u", a)}, programmatic: []Subscription{on("", "v", a)}},
		{name: "two declarative ones", declarative: []Subscription{on("x", "t", a), on("y", "t", b)}, want: [][]string{{"subscription y", `"/b"`, "subscription x", `"/a"`, "earlier one", "remove one"}}},
		{name: "twice the same", declarative: []Subscription{on("x", "t", a), on("y", "t", a)}},
		{name: "two programmatic ones", programmatic: []Subscription{on("", "t", a), on("", "t", b)}, want: [][]string{{"topic t of pubsub ps", `"/a"`, `"/b"`, "last one counts"}}},
		{name: "of both kinds", declarative: []Subscription{on("x", "t", a)}, programmatic: []Subscription{on("", "t", b)}, want: [][]string{{"subscription x", "no effect", "the app itself", `"/b"`}}},
		{name: "dead letters that come back", declarative: []Subscription{with(on("x", "t", a), func(s *Subscription) { s.DeadLetterTopic = "t" })}, want: [][]string{{"subscription x", "own topic", "another topic"}}},
		{name: "a rule that is never reached", programmatic: []Subscription{on("", "t", a, Rule{"true", "/c"}, b)}, want: [][]string{{"never reached", `(path "/a")`, `"/c", "/b"`}}},
		{name: "the default last", programmatic: []Subscription{on("", "t", Rule{"true", "/c"}, b)}},
		{name: "negative limit", declarative: []Subscription{with(on("x", "t", a), func(s *Subscription) { s.Bulk.MaxMessages = -1 })}, want: [][]string{{"subscription x", "negative", "bulkSubscribe"}}},
		{name: "no such component", declarative: []Subscription{with(on("x", "t", a), func(s *Subscription) { s.Component = "pubsup" })}, want: [][]string{{`no pubsub component "pubsup"`, "subscription x"}}},
	} {
		got := doubts(test.declarative, test.programmatic, func(component string) bool { return component == "ps" })
		if len(got) != len(test.want) {
			t.Errorf("%s: %q, want %d", test.name, got, len(test.want))
			continue
		}
		for i, texts := range test.want {
			if slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(got[i], text) }) {
				t.Errorf("%s: %q, want all of %q", test.name, got[i], texts)
			}
		}
	}
}

// Each doubt is said once, however often the app turns healthy.
func TestDoubtsAreSaidOnce(t *testing.T) {
	t.Parallel()
	var log logtest.Log
	p := New(Options{Log: log.Logger()})
	declared := []Subscription{{Name: "x", Component: "nowhere", Topic: "t", Rules: []Rule{{Path: "/a"}}}}
	if err := p.Declare(declared); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p.manager.mu.Lock()
		p.manager.reconcile()
		p.manager.mu.Unlock()
	}
	if n := log.Count("nowhere"); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
}
