package pubsub

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"outrigger.dev/api"
	"outrigger.dev/blocks/internal/cloudevents"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/telemetry/metrics"
)

// bulkReceiver takes many messages at once. It returns one result per entry, or an error for all.
type bulkReceiver interface {
	deliverBulk(ctx context.Context, d *bulkDelivery) ([]verdictOrError, error)
}

// verdictOrError is the result for one entry: a verdict, or why it was not processed.
type verdictOrError struct {
	verdict verdict
	err     error
}

// all is the same verdict for n entries.
func all(n int, v verdict) []verdictOrError {
	results := make([]verdictOrError, n)
	for i := range results {
		results[i].verdict = v
	}
	return results
}

// bulkEntry is an entry on its way to the receiver.
type bulkEntry struct {
	*pubsub.BulkEntry
	// event is nil for raw entries.
	event *cloudevents.Event
	// index is the place in the broker's bulk.
	index int
}

// bulkDelivery is what the receiver gets: the entries that go to one path.
type bulkDelivery struct {
	component, topic, path string
	entries                []*bulkEntry
	metadata               map[string]string
	trace                  Trace
}

// handleBulk takes a bulk from the broker to the receiver, and returns what the broker is told of each entry (Dapr API, bulk
// subscribe: processing).
func (r *running) handleBulk(ctx context.Context, msg *pubsub.BulkMessage) []error {
	start := r.block.begin()
	topic := r.broker.appTopic(msg.Topic)
	metadata := make(map[string]string, len(msg.Metadata)+1)
	maps.Copy(metadata, msg.Metadata)
	metadata[keyPubsubName] = r.broker.name

	errs := make([]error, len(msg.Entries))
	outcomes := map[metrics.Outcome]int{}
	groups := map[string][]*bulkEntry{}
	for i := range msg.Entries {
		entry := &bulkEntry{BulkEntry: &msg.Entries[i], index: i}
		path, deliver, err := r.admit(ctx, entry)
		switch {
		case err != nil:
			errs[i] = err
			r.log.Warn(fmt.Sprintf("entry %s of a bulk on %s cannot be delivered: %s", entry.ID, &r.subscription, err))
		case deliver:
			groups[path] = append(groups[path], entry)
		default:
			outcomes[metrics.Dropped]++
		}
	}
	for _, path := range slices.Sorted(maps.Keys(groups)) {
		d := &bulkDelivery{component: r.broker.name, topic: topic, path: path, entries: groups[path], metadata: metadata}
		spans := r.bulkSpans(d)
		r.attemptBulk(ctx, d, errs, outcomes)
		for i, s := range spans {
			endSpan(s, errs[d.entries[i].index])
		}
	}
	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
		}
	}
	outcomes[metrics.Retried] += failed
	if m := r.block.options.Metrics; m != nil {
		m.BulkDelivered(r.broker.name, topic, r.block.options.Clock.Since(start))
		for outcome, n := range outcomes {
			m.BulkEntries(r.broker.name, topic, outcome, n)
		}
	}
	switch {
	case failed == 0:
		return nil
	case r.closing():
		return later(errs)
	case r.subscription.DeadLetterTopic == "":
		return errs
	case r.deadLetterBulk(ctx, msg, metadata, errs):
		return nil
	case r.retrying.Err() != nil:
		return later(errs) // the stop may have cut the publication short
	}
	return errs
}

// isLater reports whether an entry has no verdict.
func isLater(err error) bool { return errors.Is(err, errLater) }

// later replaces the errors of entries, which have no verdict then.
func later(errs []error) []error {
	for i := range errs {
		if errs[i] != nil {
			errs[i] = errLater
		}
	}
	return errs
}

// admit decodes an entry, and finds its path. It is not delivered when it is expired or no rule routes it; it is done then.
func (r *running) admit(ctx context.Context, e *bulkEntry) (path string, deliver bool, err error) {
	if e.ID == "" {
		return "", false, errors.New("the entry has no ID")
	}
	if r.rawErr != nil {
		return "", false, r.rawErr
	}
	var ok bool
	if r.raw {
		if path, ok, err = r.router.evaluate(string(e.Data)); err != nil {
			return "", false, err
		}
	} else {
		if e.event, err = cloudevents.Parse(e.Data); err != nil {
			return "", false, fmt.Errorf("the message is no CloudEvent: %w; publish it as one, or subscribe with metadata rawPayload: \"true\"", err)
		}
		if e.event.Expired(r.block.options.Clock.Now()) {
			r.tryDeadLetter(ctx, r.single(e.BulkEntry))
			return "", false, nil
		}
		if path, ok, err = r.router.route(e.event); err != nil {
			return "", false, err
		}
	}
	if !ok {
		r.tryDeadLetter(ctx, r.single(e.BulkEntry))
	}
	return path, ok, nil
}

// single is an entry as a message of its own, with the metadata that [running.handle] gives a message.
func (r *running) single(e *pubsub.BulkEntry) *pubsub.Message {
	msg := &pubsub.Message{Topic: r.subscription.Topic, Data: e.Data, Metadata: make(map[string]string, len(e.Metadata)+2), ContentType: e.ContentType}
	maps.Copy(msg.Metadata, e.Metadata)
	r.complete(msg)
	return msg
}

// attemptBulk is the one place where a bulk goes to the receiver, under the inbound policy of the component.
func (r *running) attemptBulk(ctx context.Context, d *bulkDelivery, errs []error, outcomes map[metrics.Outcome]int) {
	var results []verdictOrError
	var err error
	if r.broker.inbound == nil {
		results, err = r.askBulk(ctx, d)
	} else {
		results, err = r.retryBulk(ctx, d)
	}
	if err != nil {
		r.log.Warn(fmt.Sprintf("a bulk of %d messages on %s was not processed: %s", len(d.entries), &r.subscription, err))
	}
	discards := 0
	for i, e := range d.entries {
		switch {
		case err != nil:
			errs[e.index] = err
		case results[i].err != nil:
			errs[e.index] = results[i].err
		case results[i].verdict == processed:
			outcomes[metrics.Processed]++
		default:
			if results[i].verdict == discarded {
				discards++
			}
			if results[i].verdict == dropped {
				r.tryDeadLetter(ctx, r.single(e.BulkEntry))
			}
			outcomes[metrics.Dropped]++
		}
	}
	if discards > 0 {
		r.log.Error(fmt.Sprintf("the app has nothing that takes bulks on %s (path %q); %d messages are dropped", &r.subscription, d.path, discards))
	}
}

// deadLetterBulk puts the entries that failed into the dead-letter topic, but for those without a verdict. Those that it takes are
// done; it reports whether all are.
func (r *running) deadLetterBulk(ctx context.Context, msg *pubsub.BulkMessage, metadata map[string]string, errs []error) bool {
	if ctx.Err() != nil {
		return false
	}
	topic := r.subscription.DeadLetterTopic
	request := pubsub.BulkPublishRequest{Topic: topic, Metadata: metadata}
	var index []int
	for i, err := range errs {
		if err != nil && !isLater(err) {
			entry := msg.Entries[i]
			entry.Metadata = r.single(&entry).Metadata
			if entry.ID == "" {
				entry.ID = string(cloudevents.AppendNewID(nil))
			}
			request.Entries = append(request.Entries, entry)
			index = append(index, i)
		}
	}
	if len(index) == 0 {
		return false
	}
	err := error(nil)
	var results []error
	if !r.broker.scopes.mayPublish(topic) {
		err = api.ErrPubsubForbidden(r.broker.name, topic, r.block.options.AppID)
	} else {
		timed, cancel := context.WithTimeout(context.WithoutCancel(ctx), deadLetterTimeout)
		defer cancel()
		results, err = r.broker.bulkPublish(timed, request, terms{stop: r.retrying.Done()})
	}
	if err != nil {
		r.log.Error(fmt.Sprintf("messages on %s could not be put into the dead-letter topic %s: %s", &r.subscription, topic, err))
		for n, i := range index {
			if n < len(results) && results[n] == nil {
				errs[i] = nil
			}
		}
		return false
	}
	for _, i := range index {
		errs[i] = nil
	}
	return !slices.ContainsFunc(errs, isLater)
}
