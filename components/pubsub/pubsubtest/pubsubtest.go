// Package pubsubtest is the conformance suite that every publish/subscribe component must pass: a component's own test calls
// [Run] with a function that opens it, and says in [Config] what its broker promises.
//
// Every message carries an id, and every id is accounted for: one that is published and does not arrive fails a test, one that
// arrives twice is reported, and fails it where the broker promises that it does not happen.
package pubsubtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"outrigger.dev/components/pubsub"
)

// Config says how to open a component and what its broker promises. The zero value of a flag is the weaker promise, and leaves
// out the tests of the stronger one. What a component can do beyond the contract is not configured but seen from the interfaces
// that it implements.
type Config struct {
	// Open opens the component for an app id, as a sidecar of that app would: the app id is its consumerID. Properties are put
	// over the ones that the product needs; nil for none. The suite closes what it opens, also when a test fails.
	Open func(t testing.TB, appID string, properties map[string]string) pubsub.Broker
	// Topic is the name of a topic that nothing was published to, created if the broker needs that. Nil: the suite makes up names.
	Topic func(t testing.TB) string

	// Durable: what is published while an app id with a subscription is away waits for it. Messages that have no verdict wait
	// for the next of its consumers. The app id must have received a message before it went away.
	Durable bool
	// Competing: the subscriptions of one app id to a topic share its messages, also over several instances of the component.
	Competing bool
	// Redelivers is the longest time until a message comes again that the handler gave an error for, or that a consumer with the
	// app id left behind without a verdict; 0: rejected messages do not come again by themselves.
	Redelivers time.Duration
	// Ordered: a subscription hands over one message at a time, in the order in which they were published one after the other
	// with the same metadata partitionKey.
	Ordered bool
	// Metadata: the metadata of a publish request reaches the subscribers.
	Metadata bool
	// NativeTTL: the broker drops messages when the time of the publish metadata ttlInSeconds is over.
	NativeTTL bool
	// StartsLate: messages published right after Subscribe returned may miss the subscription. The suite then publishes until
	// one arrives before it counts.
	StartsLate bool
	// Private: every opened component is a broker of its own. Publishers and subscribers of a test then share one.
	Private bool

	// LargestMessage is the number of bytes that a message may have; 0 for 256 KiB.
	LargestMessage int
	// Messages is the number of messages of the tests that send many; 0 for 2000.
	Messages int
	// Duplicates is how many of 100 messages may come twice though nothing failed.
	Duplicates int

	// Restart takes the broker down and brings it back at the same address with what it has stored. Nil: it cannot, or there is
	// none.
	Restart func(t testing.TB)
	// NotOurs are texts that tell, by their appearance in a stack, goroutines that are not the component's, such as those of a
	// server inside the test process.
	NotOurs []string
}

// defaults of Config.
const (
	defaultMessages       = 2000
	defaultLargestMessage = 256 << 10
)

// within is how long the suite waits for something that should happen soon. It is generous, for joining a group takes some
// brokers seconds, and machines may be slow; only a failing test waits as long.
const within = 60 * time.Second

// Run runs the suite. Nothing else may run in parallel in the test process, for the suite counts goroutines.
func Run(t *testing.T, cfg Config) {
	t.Helper()
	if cfg.Open == nil {
		t.Fatal("pubsubtest: Config.Open is missing")
	}
	if cfg.Messages == 0 {
		cfg.Messages = defaultMessages
	}
	if cfg.LargestMessage == 0 {
		cfg.LargestMessage = defaultLargestMessage
	}
	s := &suite{cfg: cfg, word: fmt.Sprintf("ps%08x", rand.Uint32())}
	for _, part := range []struct {
		name string
		able bool
		run  func(t *testing.T, w *world)
	}{
		{"RoundTrip", true, roundTrip},
		{"Established", !cfg.StartsLate, established},
		{"Payloads", true, payloads},
		{"LargeMessage", true, largeMessage},
		{"Metadata", cfg.Metadata, metadata},
		{"Order", cfg.Ordered, order},
		{"OrderPerKey", cfg.Ordered, orderPerKey},
		{"Many", true, many},
		{"SlowHandler", true, slowHandler},
		{"Redelivery", cfg.Redelivers > 0, redelivery},
		{"TTL", cfg.NativeTTL && cfg.Durable, ttl},
		{"Topics", true, topics},
		{"FanOut", true, fanOut},
		{"Competing", cfg.Competing, competing},
		{"ConsumerLeaves", cfg.Competing && cfg.Durable, consumerLeaves},
		{"Away", cfg.Durable, away},
		{"BulkPublish", true, bulkPublish},
		{"BulkSubscribe", true, bulkSubscribe},
		{"BulkRejected", cfg.Redelivers > 0, bulkRejected},
		{"BulkNoVerdict", cfg.Durable, bulkNoVerdict},
		{"Unsubscribe", true, unsubscribe},
		{"CloseCancels", true, closeCancels},
		{"CloseWaits", true, closeWaits},
		{"NoVerdict", cfg.Durable, noVerdict},
		{"Pause", true, pause},
		{"Closed", true, closed},
		{"RestartIdle", cfg.Restart != nil, restartIdle},
		{"RestartBusy", cfg.Restart != nil, restartBusy},
		{"RestartHeld", cfg.Restart != nil, restartHeld},
	} {
		if !part.able {
			continue
		}
		t.Run(part.name, func(t *testing.T) {
			w := &world{suite: s, T: t, app: fmt.Sprintf("%s-%s", s.word, strings.ToLower(part.name))}
			defer w.end(goroutines(cfg.NotOurs))
			part.run(t, w)
		})
	}
}

// suite is one run.
type suite struct {
	cfg Config
	// word begins all names, so that they differ from those of other runs on the same server.
	word  string
	count atomic.Int64
}

// name makes up a name.
func (s *suite) name(kind string) string { return fmt.Sprintf("%s-%s%d", s.word, kind, s.count.Add(1)) }

// world is what one test of the suite works with.
type world struct {
	*suite
	*testing.T
	// app is the app id of the test's consumers.
	app string
	// private is the one broker of a test when brokers are private.
	private pubsub.Broker
	opened  []pubsub.Broker
}

// open opens the component; end closes it at the latest.
func (w *world) open(app string) pubsub.Broker {
	w.Helper()
	if w.private != nil {
		return w.private
	}
	b := w.cfg.Open(w.T, app, nil)
	w.opened = append(w.opened, b)
	if w.cfg.Private {
		w.private = b
	}
	if got := pubsub.ExpiresMessages(b); got != w.cfg.NativeTTL {
		w.Errorf("pubsub.ExpiresMessages = %v, but Config.NativeTTL = %v", got, w.cfg.NativeTTL)
	}
	return b
}

// publisher opens the component for an app that only publishes.
func (w *world) publisher() pubsub.Broker {
	w.Helper()
	return w.open(w.app + "-publisher")
}

// topic is a fresh topic.
func (w *world) topic() string {
	w.Helper()
	if w.cfg.Topic != nil {
		return w.cfg.Topic(w.T)
	}
	return w.name("topic")
}

// end closes all that was opened and waits until the goroutines are gone that were not there before.
func (w *world) end(before int) {
	for _, b := range w.opened {
		if err := closeWithin(w.T, "Broker.Close", b.Close); err != nil {
			w.Errorf("Close: %v", err)
		}
	}
	if !w.Failed() { // a failed test may have left handlers hanging
		w.expectGoroutines(before)
	}
}

// bounded is a context for one call.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	t.Cleanup(cancel)
	return ctx
}

// closeWithin runs a Close that must not hang.
func closeWithin(t testing.TB, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	limit := time.NewTimer(within)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-limit.C:
		t.Errorf("%s did not return within %v", what, within)
		return nil
	}
}

// waitFor polls until ok, and fails the test after the limit.
func waitFor(t testing.TB, limit time.Duration, what func() string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("waited %v in vain for %s", limit, what())
		case <-tick.C:
		}
	}
}

// pass lets time go by that a broker measures itself.
func pass(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}
