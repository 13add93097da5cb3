package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"outrigger.dev/blocks/internal/cloudevents"
	stores "outrigger.dev/components/state"
)

// The pace of the consumer (Dapr API, transactional outbox: internal consumer).
const (
	// settleTime is how long a transaction is given before its marker is looked for, see settling.
	settleTime = time.Second
	// firstRetry is the wait after a failed attempt; every further one is retryFactor times as long, up to longestRetry.
	firstRetry   = 500 * time.Millisecond
	retryFactor  = 3
	longestRetry = 3 * time.Second
	// spread is the part by which a wait is longer or shorter at random.
	spread = 0.1
	// patience is how long attempts go on: from the arrival of an event, or from the first attempt to delete its marker.
	patience = 10 * time.Second
	// callLimit bounds a single call of a store, publishLimit that of a broker.
	callLimit    = 5 * time.Second
	publishLimit = 30 * time.Second
	// headStart is how long a broker may take to stop before the waits of handlers are ended: long enough that it takes no more
	// messages, or else it would deliver what they give back to them again.
	headStart = 100 * time.Millisecond
)

// consumer takes events from one internal topic. Stores that share the topic share the consumer, for nothing tells whose an
// event is but the marker.
type consumer struct {
	outbox *Outbox
	queue  queue
	// stores are the names of the stores of the topic. The slice is replaced, not changed.
	stores atomic.Pointer[[]string]
	// stop is nil while the consumer does not run; Outbox.mu guards it.
	stop     func(ctx context.Context)
	finished finished
}

func (c *consumer) names() []string {
	if p := c.stores.Load(); p != nil {
		return *p
	}
	return nil
}

func (c *consumer) attach(name string) {
	names := append(slices.Clone(c.names()), name)
	c.stores.Store(&names)
}

// detach reports whether that was the last store.
func (c *consumer) detach(name string) (last bool) {
	names := slices.DeleteFunc(slices.Clone(c.names()), func(n string) bool { return n == name })
	c.stores.Store(&names)
	return len(names) == 0
}

// start begins to consume, if the consumer does not run.
func (c *consumer) start() {
	if c.stop != nil {
		return
	}
	waiting, endWaits := context.WithCancelCause(context.Background())
	stop := c.outbox.options.Broker.Consume(c.queue.component, c.queue.topic, func(ctx context.Context, data []byte) error {
		return c.handle(ctx, waiting, data)
	})
	c.stop = func(ctx context.Context) {
		defer endWaits(errStopped)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			stop(ctx)
		}()
		timer := c.outbox.options.Clock.NewTimer(headStart)
		defer timer.Stop()
		select {
		case <-stopped:
			return
		case <-timer.Chan():
		}
		endWaits(errStopped)
		<-stopped
	}
}

// halt ends the consumer, if it runs.
func (c *consumer) halt(ctx context.Context) {
	if c.stop != nil {
		c.stop(ctx)
		c.stop = nil
	}
}

// errStopped ends a wait. It is no verdict on the event, for by then the broker hands over no more and takes none.
var errStopped = fmt.Errorf("the outbox is stopped: %w", context.Canceled)

// handle takes one event from the internal topic. waiting ends when it must not wait any longer.
func (c *consumer) handle(ctx, waiting context.Context, data []byte) error {
	o := c.outbox
	event, err := cloudevents.Parse(data)
	if err != nil {
		return fmt.Errorf("message of outbox topic %s of pubsub %s is no event: %w", c.queue.topic, c.queue.component, err)
	}
	marker := event.String(cloudevents.ID)
	if !strings.HasPrefix(marker, markerPrefix) { // or any item of the store could be deleted by a message
		return fmt.Errorf("message of outbox topic %s of pubsub %s is not from an outbox: its id is %q, but must begin with %q; let nobody else publish to this topic",
			c.queue.topic, c.queue.component, marker, markerPrefix)
	}
	waits := o.waits(o.options.Clock.Now().Add(patience))
	if d := o.settling(event); d > 0 {
		if err := o.sleep(ctx, waiting, d); err != nil {
			return err
		}
	}
	for {
		if c.finished.has(marker) {
			return nil // the broker delivered it again, for it missed the acknowledgement
		}
		name, err := c.find(ctx, marker)
		if name != "" {
			return c.deliver(ctx, waiting, name, marker, event)
		}
		wait, more := waits.next()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case more:
			if err := o.sleep(ctx, waiting, wait); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("looking for the marker of outbox event %s of topic %s, pubsub %s: %w", marker, c.queue.topic, c.queue.component, err)
		default:
			return c.giveUp(marker)
		}
	}
}

// settling is how long the marker of an event is not looked for. An event that has waited in the broker needs no more of it: a
// broker that hands over one at a time would bring down a backlog by one a second. Times of events are cut to whole seconds.
func (o *Outbox) settling(event *cloudevents.Event) time.Duration {
	made, err := time.Parse(time.RFC3339, event.String(cloudevents.Time))
	if err != nil {
		return settleTime
	}
	age := max(o.options.Clock.Since(made), 0) - time.Second
	return min(max(settleTime-age, 0), settleTime)
}

// find returns the name of the store that has a marker, or "". The error says which stores it may be in all the same.
func (c *consumer) find(ctx context.Context, marker string) (name string, err error) {
	names := c.names()
	if len(names) == 0 {
		return "", errors.New("its state store is not loaded")
	}
	for _, name := range names {
		e := c.outbox.stores.Use(name)
		if e == nil {
			err = errors.Join(err, fmt.Errorf("state store %s is not loaded", name))
			continue
		}
		found, failure := func() (bool, error) {
			defer e.Release()
			ctx, cancel := context.WithTimeout(ctx, callLimit)
			defer cancel()
			item, err := e.Component.Get(ctx, stores.GetRequest{Key: marker})
			return item.Found, err
		}()
		switch {
		case failure != nil:
			err = errors.Join(err, fmt.Errorf("state store %s: %w", name, failure))
		case found:
			return name, nil
		}
	}
	return "", err
}

// deliver publishes an event whose transaction was committed and deletes its marker.
func (c *consumer) deliver(ctx, waiting context.Context, name, marker string, event *cloudevents.Event) error {
	o := c.outbox
	e := o.stores.Use(name)
	if e == nil {
		return fmt.Errorf("outbox event %s: state store %s is not loaded any more", marker, name)
	}
	defer e.Release()
	final := e.Component.final
	publishing, cancel := context.WithTimeout(ctx, publishLimit)
	defer cancel()
	if err := o.options.Broker.PublishEvent(publishing, final.component, final.topic, finalEvent(event, final), event.String(cloudevents.DataContentType)); err != nil {
		return fmt.Errorf("publishing outbox event %s of state store %s to topic %s of pubsub %s: %w", marker, name, final.topic, final.component, err)
	}
	// The event comes again if ctx has ended. Then it is better published twice than found without its marker.
	waits := o.waits(o.options.Clock.Now().Add(patience))
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := e.Component.delete(ctx, marker)
		if err == nil {
			c.finished.add(marker)
			return nil
		}
		wait, more := waits.next()
		if !more {
			return fmt.Errorf("outbox event %s was published and will be again, for its marker could not be deleted from state store %s: %w", marker, name, err)
		}
		if err := o.sleep(ctx, waiting, wait); err != nil {
			return err
		}
	}
}

func (s *store) delete(ctx context.Context, marker string) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return s.Delete(ctx, stores.DeleteRequest{Key: marker})
}

// giveUp is the verdict on an event without a marker: it is forgotten if all stores that it may be from say so.
func (c *consumer) giveUp(marker string) error {
	names := c.names()
	discard := len(names) > 0
	for _, name := range names {
		e := c.outbox.stores.Use(name)
		if e == nil {
			discard = false
			continue
		}
		discard = discard && e.Component.discard
		e.Release()
	}
	where := strings.Join(names, ", ")
	if discard {
		c.outbox.options.Log.Warn("an outbox event is discarded: its transaction was not committed in time", "event", marker, "component", where, "waited", patience)
		return nil
	}
	return fmt.Errorf("outbox event %s is not published: state store %s has no marker of it after %s, so its transaction failed or still runs; it is looked at again when the broker delivers it again (%s: true forgets such events)",
		marker, where, patience, itemDiscard)
}

// sleep waits. The error is that of the context which ended.
func (o *Outbox) sleep(ctx, waiting context.Context, d time.Duration) error {
	timer := o.options.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-waiting.Done():
		return context.Cause(waiting)
	}
}

// waits are the pauses between attempts. The last attempt is at the deadline.
type waits struct {
	outbox   *Outbox
	deadline time.Time
	pause    time.Duration
}

func (o *Outbox) waits(deadline time.Time) waits {
	return waits{outbox: o, deadline: deadline, pause: firstRetry}
}

// next is the next pause; there is none at the deadline.
func (w *waits) next() (_ time.Duration, more bool) {
	left := w.deadline.Sub(w.outbox.options.Clock.Now())
	if left <= 0 {
		return 0, false
	}
	spreading := 1 - spread + 2*spread*w.outbox.options.Random()
	pause := time.Duration(float64(w.pause) * spreading)
	w.pause = min(retryFactor*w.pause, longestRetry)
	return min(pause, left), true
}
