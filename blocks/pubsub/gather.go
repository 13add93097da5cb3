package pubsub

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/blocks/internal/cloudevents"
	"outrigger.dev/components/pubsub"
)

// Defaults of bulks that are gathered here (Dapr API, bulk subscribe: where batches come from).
const (
	defaultMaxMessages = 100
	defaultMaxAwait    = time.Second
)

// gatherer puts single messages into bulks. The broker's handler of each message is kept until the bulk's result is known.
type gatherer struct {
	running   *running
	max       int
	await     time.Duration
	immediate bool

	mu sync.Mutex
	// closing: nothing more comes that would be worth waiting for.
	closing  bool
	pending  []*pending
	deadline clockwork.Timer
	flushing sync.WaitGroup
}

// pending is a message that waits for its bulk.
type pending struct {
	entry  pubsub.BulkEntry
	topic  string
	result chan error
}

func newGatherer(r *running, b Bulk, immediate bool) *gatherer {
	g := &gatherer{running: r, max: b.MaxMessages, await: b.MaxAwait, immediate: immediate}
	if g.max <= 0 {
		g.max = defaultMaxMessages
	}
	if g.await <= 0 {
		g.await = defaultMaxAwait
	}
	return g
}

// add puts a message into the next bulk and waits for its verdict, or until the broker breaks the wait off.
func (g *gatherer) add(ctx context.Context, msg *pubsub.Message) error {
	p := &pending{
		entry: pubsub.BulkEntry{ID: string(cloudevents.AppendNewID(nil)), Data: msg.Data, ContentType: msg.ContentType, Metadata: maps.Clone(msg.Metadata)},
		topic: msg.Topic, result: make(chan error, 1),
	}
	g.mu.Lock()
	g.pending = append(g.pending, p)
	switch {
	case len(g.pending) >= g.max || g.immediate || g.closing:
		g.flush()
	case len(g.pending) == 1:
		g.deadline = g.running.block.options.Clock.AfterFunc(g.await, g.expired)
	}
	g.mu.Unlock()
	select {
	case err := <-p.result:
		return err
	case <-ctx.Done():
		return errLater
	}
}

// expired flushes what has waited long enough. A timer that fires while its bulk is flushed for another reason may find the
// next one, which then goes out early.
func (g *gatherer) expired() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flush()
}

// flush sends what is pending on its way. The caller holds the lock.
func (g *gatherer) flush() {
	batch := g.pending
	g.pending = nil
	if g.deadline != nil {
		g.deadline.Stop()
		g.deadline = nil
	}
	if len(batch) == 0 {
		return
	}
	g.flushing.Go(func() {
		// Patterns may match several topics; a bulk is of one.
		for len(batch) > 0 {
			topic := batch[0].topic
			var same, others []*pending
			msg := &pubsub.BulkMessage{Topic: topic}
			for _, p := range batch {
				if p.topic == topic {
					same = append(same, p)
					msg.Entries = append(msg.Entries, p.entry)
				} else {
					others = append(others, p)
				}
			}
			errs := g.running.guardedBulk(msg)
			for i, p := range same {
				if errs == nil {
					p.result <- nil
				} else {
					p.result <- errs[i]
				}
			}
			batch = others
		}
	})
}

// close sends what is pending on its way, and what is still added, too.
func (g *gatherer) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closing = true
	g.flush()
}

// wait returns when no bulk is on its way; nothing is added any more.
func (g *gatherer) wait() {
	g.mu.Lock()
	g.flush()
	g.mu.Unlock()
	g.flushing.Wait()
}
