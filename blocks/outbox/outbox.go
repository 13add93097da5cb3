// Package outbox is the transactional outbox (Dapr API, transactional outbox): what a transaction writes to a state store is
// also published, and that if and only if the transaction is committed.
//
// Broker and store cannot commit together, so every event makes a detour. Before the transaction runs, the event of each write
// goes to an internal topic; its id is the key of a marker, which the transaction writes along. Whoever then takes the event
// from the internal topic looks for the marker: if it is there the transaction was committed, so the event goes to the topic
// that the store names, and the marker is deleted. If no marker turns up there was no such transaction. Events therefore come
// at least once, and in no particular order.
//
// outbox.go is what stores are configured with, event.go the way to the internal topic, consumer.go the way from there.
package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/blocks/internal/table"
	"outrigger.dev/components"
	stores "outrigger.dev/components/state"
)

// Broker is what the outbox needs of publish/subscribe.
type Broker interface {
	// PublishEvent hands an event to a topic of a component as it is. The component's scopes, namespace prefix and policy apply.
	PublishEvent(ctx context.Context, component, topic string, event []byte, contentType string) error
	// Consume hands the messages of a topic to handler until stop is called. It returns at once, waits for the component to be
	// loaded, and tries again in the background what fails. The topic gets the same namespace prefix as in PublishEvent;
	// subscription scopes do not apply. Several calls of handler may run at a time. nil means that the message was processed; an
	// error that it was not and is to come again, unless ctx has ended: then the message has no verdict, and comes again, too.
	//
	// stop first takes no more messages. Then it waits for running handlers, no longer than its own context lasts; it may end
	// their contexts. A handler that fails while its consumer is stopped gives no verdict.
	Consume(component, topic string, handler func(ctx context.Context, data []byte) error) (stop func(ctx context.Context))
}

// Options are what the block needs to know of its sidecar.
type Options struct {
	AppID string
	// Namespace is that of the app; it is a part of the names of internal topics. Empty is "default".
	Namespace string
	Broker    Broker
	// Clock paces the waits; nil is the system's clock.
	Clock clockwork.Clock
	// Random returns numbers in [0, 1), to spread the waits; nil is a source of its own.
	Random func() float64
	// Log gets warnings; nil discards them.
	Log *slog.Logger
}

// Outbox is the block. Its methods are safe for concurrent use. It implements the Outbox interface of the state block.
type Outbox struct {
	options Options
	stores  table.Table[*store]

	// mu guards what follows, and is held while consumers stop, so that there are never two of one topic. Neither handlers nor
	// Prepare take it.
	mu      sync.Mutex
	running bool
	queues  map[queue]*consumer
	// queueOf has the queue of every store.
	queueOf map[string]queue
}

// queue is an internal topic.
type queue struct{ component, topic string }

// store is a state store with an outbox.
type store struct {
	stores.Store
	// internal is where events wait for the outcome of their transaction.
	internal queue
	// final is where they go when it was committed.
	final queue
	// discard makes the consumer forget events without a marker, instead of having them delivered again.
	discard bool
}

// The metadata items of a state store; these names are case-sensitive (Dapr API, transactional outbox: configuration).
const (
	itemFinalComponent    = "outboxPublishPubsub"
	itemFinalTopic        = "outboxPublishTopic"
	itemInternalComponent = "outboxPubsub"
	itemDiscard           = "outboxDiscardWhenMissingState"
)

// New makes an Outbox without stores.
func New(o Options) *Outbox {
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Outbox{options: o, queues: map[queue]*consumer{}, queueOf: map[string]queue{}}
}

// Add gives a store an outbox if its metadata items, with secrets resolved, ask for one, and starts to consume if the outbox is
// started. Items that ask for half of one, or on a store without transactions, are warned of and ignored, as in Dapr. The error
// is that of a name which is taken.
func (o *Outbox) Add(name string, component stores.Store, properties map[string]string) error {
	o.warnOfSpelling(name, properties)
	if !o.wanted(name, component, properties) {
		return nil
	}
	s := &store{
		Store: component,
		internal: queue{
			component: properties[itemInternalComponent],
			topic:     o.options.Namespace + o.options.AppID + properties[itemFinalTopic] + "outbox",
		},
		final:   queue{component: properties[itemFinalComponent], topic: properties[itemFinalTopic]},
		discard: components.Truthy(properties[itemDiscard]),
	}
	if s.internal.component == "" {
		s.internal.component = s.final.component
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.stores.Add(name, s); err != nil {
		return fmt.Errorf("outbox of state store %s: %w", name, err)
	}
	o.queueOf[name] = s.internal
	c := o.queues[s.internal]
	if c == nil {
		c = &consumer{outbox: o, queue: s.internal}
		o.queues[s.internal] = c
	}
	c.attach(name)
	if o.running {
		c.start()
	}
	return nil
}

func (o *Outbox) warnOfSpelling(name string, properties map[string]string) {
	for _, item := range slices.Sorted(maps.Keys(properties)) {
		for _, right := range []string{itemFinalComponent, itemFinalTopic, itemInternalComponent, itemDiscard} {
			if item != right && strings.EqualFold(item, right) {
				o.options.Log.Warn("a metadata item looks like one of the outbox but is ignored, for its name is case-sensitive", "component", name, "item", item, "want", right)
			}
		}
	}
}

// wanted reports whether the metadata items ask for an outbox, and warns of those that ask for one in vain.
func (o *Outbox) wanted(name string, component stores.Store, properties map[string]string) bool {
	var missing, given []string
	for _, item := range []string{itemFinalComponent, itemFinalTopic} {
		if properties[item] == "" {
			missing = append(missing, item)
		}
	}
	for _, item := range []string{itemFinalComponent, itemFinalTopic, itemInternalComponent, itemDiscard} {
		if properties[item] != "" {
			given = append(given, item)
		}
	}
	switch {
	case len(given) == 0:
		return false
	case len(missing) > 0:
		o.options.Log.Warn(fmt.Sprintf("state store %s has no outbox, so its transactions are not published: it has the metadata item %s without %s; set both %s and %s, or none",
			name, strings.Join(given, ", "), strings.Join(missing, ", "), itemFinalComponent, itemFinalTopic), "component", name)
		return false
	}
	if _, ok := component.(stores.Transactor); !ok {
		o.options.Log.Warn(fmt.Sprintf("state store %s has no outbox, although it has the metadata item %s: this type of store has no transactions; use one with the capability TRANSACTIONAL, or remove the item",
			name, strings.Join(given, ", ")), "component", name)
		return false
	}
	return true
}

// Remove takes the outbox of a store away, if it has one, and waits until the store is no longer used: then it may be closed.
// It is away even when the context ends the wait, which is the only error. Events that still wait in the internal topic are
// published when the store is added again.
func (o *Outbox) Remove(ctx context.Context, name string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	q, ok := o.queueOf[name]
	if !ok {
		return nil
	}
	delete(o.queueOf, name)
	if c := o.queues[q]; c.detach(name) {
		delete(o.queues, q)
		c.halt(ctx)
	}
	if err := o.stores.Remove(ctx, name); err != nil {
		return fmt.Errorf("outbox of state store %s: %w", name, err)
	}
	return nil
}

// Start consumes the internal topics of all stores, of each once, and of stores added later. When it is started already nothing
// happens, so it may be called whenever the app turns healthy. The app has no part in this: without one it is called at once.
func (o *Outbox) Start() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running = true
	for _, c := range o.queues {
		c.start()
	}
}

// Stop ends all consumers and waits for them, no longer than ctx lasts. Prepare goes on working; Start starts them again.
func (o *Outbox) Stop(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running = false
	var all sync.WaitGroup
	for _, c := range o.queues {
		all.Go(func() { c.halt(ctx) })
	}
	all.Wait()
}

// Enabled reports whether a store has an outbox.
func (o *Outbox) Enabled(name string) bool {
	e := o.stores.Use(name)
	if e == nil {
		return false
	}
	e.Release()
	return true
}
