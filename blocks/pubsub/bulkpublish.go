package pubsub

import (
	"context"
	"sync"

	"outrigger.dev/api"
	"outrigger.dev/blocks/internal/cloudevents"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/telemetry/tracing"
)

// BulkPublication is a number of messages of an app for one topic.
type BulkPublication struct {
	Component, Topic string
	// Entries have the app's data. Those without a metadata map of their own get nothing of Metadata either.
	Entries  []pubsub.BulkEntry
	Metadata map[string]string
	// HTTPCodes is that of [Publication].
	HTTPCodes bool
	// SpanName is the name of the spans that entries get, one each (Dapr API, tracing: spans).
	SpanName string
	// Read, if not nil, gives the entries once the names are found right.
	Read func() ([]pubsub.BulkEntry, error)
}

// FailedEntry is an entry of a bulk that was not published.
type FailedEntry struct {
	ID  string
	Err error
}

// defaultBulkParallel is how many entries of a bulk are on their way at a time to a broker that takes them one by one.
const defaultBulkParallel = 100

// BulkPublish hands messages to the broker. All or none of them are found right; of those, failed are the ones the broker did
// not take. The error is an [*api.Error]; with failed entries it is the publication's as a whole (Dapr API, bulk publish).
func (p *PubSub) BulkPublish(ctx context.Context, m BulkPublication) (failed []FailedEntry, err error) {
	e, err := p.open(m.Component, m.Topic, m.Metadata)
	if err != nil {
		return nil, err
	}
	defer e.Release()
	b := e.Component
	if m.Read != nil {
		if m.Entries, err = m.Read(); err != nil {
			return nil, err
		}
	}
	raw, err := isRaw(m.Metadata)
	if err != nil {
		return nil, api.ErrPubsubMetadata(b.name, m.Metadata, err)
	}
	if err := p.checkEntryIDs(b.name, m.Topic, m.Entries); err != nil {
		return nil, err
	}
	call := tracing.FromContext(ctx)
	trace, spans := spanTrace(call), p.entrySpans(call, &m, raw)
	defer func() { endSpans(spans, err) }()
	for i := range m.Entries {
		entry := &m.Entries[i]
		if entry.Metadata != nil {
			entry.Metadata = api.MergeMetadata(m.Metadata, entry.Metadata)
		}
		if raw {
			continue
		}
		if spans != nil {
			trace = spanTrace(spans[i])
		}
		entry.Data, err = p.envelope(b, &Publication{Topic: m.Topic, Data: entry.Data, ContentType: entry.ContentType, Metadata: entry.Metadata, Trace: trace})
		if err != nil {
			return nil, api.ErrPubsubCloudEvent(b.name, p.options.AppID, err)
		}
		entry.ContentType = cloudevents.ContentType
	}
	if !b.scopes.mayPublish(m.Topic) {
		return nil, api.ErrPubsubForbidden(b.name, m.Topic, p.options.AppID)
	}
	if len(m.Entries) == 0 {
		return nil, nil
	}
	start := p.begin()
	errs, err := b.bulkPublish(ctx, pubsub.BulkPublishRequest{Topic: m.Topic, Entries: m.Entries, Metadata: m.Metadata}, terms{httpCodes: m.HTTPCodes})
	failed = failures(m.Entries, errs)
	if p.options.Metrics != nil {
		p.options.Metrics.BulkPublished(b.name, m.Topic, err == nil, len(m.Entries)-len(failed), p.options.Clock.Since(start))
	}
	if err != nil {
		return failed, api.ErrPubsubPublish(b.name, m.Topic, err)
	}
	return nil, nil
}

// checkEntryIDs refuses entries that cannot be told apart.
func (p *PubSub) checkEntryIDs(component, topic string, entries []pubsub.BulkEntry) error {
	seen := make(map[string]struct{}, len(entries))
	for i := range entries {
		id := entries[i].ID
		if _, twice := seen[id]; id == "" || twice {
			return api.ErrPubsubEntryID(component, topic, p.options.AppID)
		}
		seen[id] = struct{}{}
	}
	return nil
}

// outcome is what became of each entry, nil when all were published. An error that names no entry is that of all, for nothing
// says which one was published; failed entries without an error are an error, too.
func outcome(n int, results []error, err error) ([]error, error) {
	errs := make([]error, n)
	failed := 0
	for i := range errs {
		if i < len(results) {
			errs[i] = results[i]
		} else {
			errs[i] = err
		}
		if errs[i] != nil {
			if failed++; err == nil {
				err = errs[i]
			}
		}
	}
	if err == nil {
		return nil, nil
	}
	if failed == 0 {
		for i := range errs {
			errs[i] = err
		}
	}
	return errs, err
}

// failures lists the entries that failed.
func failures(entries []pubsub.BulkEntry, errs []error) (failed []FailedEntry) {
	for i, err := range errs {
		if err != nil {
			failed = append(failed, FailedEntry{entries[i].ID, err})
		}
	}
	return failed
}

// bulkPublish is the one place where messages leave for a broker together, under its outbound policy; the request has the app's topic.
// There is one result per entry, or none when all were published; err is the first of them, or why the last attempt was given up.
func (b *broker) bulkPublish(ctx context.Context, request pubsub.BulkPublishRequest, how terms) ([]error, error) {
	request.Topic = b.topic(request.Topic)
	if b.outbound == nil {
		return b.bulkAttempt(ctx, request)
	}
	return b.bulkRetry(ctx, request, how)
}

// bulkAttempt is bulkPublish, once, to a topic of the broker. A broker that has no bulks gets the entries one by one, in no particular
// order.
func (b *broker) bulkAttempt(ctx context.Context, request pubsub.BulkPublishRequest) ([]error, error) {
	if native, ok := b.component.(pubsub.BulkPublisher); ok {
		results, err := native.BulkPublish(ctx, request)
		return outcome(len(request.Entries), results, err)
	}
	results := make([]error, len(request.Entries))
	one := func(i int) {
		entry := &request.Entries[i]
		results[i] = b.component.Publish(ctx, pubsub.PublishRequest{Topic: request.Topic, Data: entry.Data, Metadata: entry.Metadata, ContentType: entry.ContentType})
	}
	if len(results) == 1 {
		one(0)
		return outcome(1, results, nil)
	}
	next := make(chan int, len(results))
	for i := range results {
		next <- i
	}
	close(next)
	var workers sync.WaitGroup
	for range min(len(results), defaultBulkParallel) {
		workers.Go(func() {
			for i := range next {
				one(i)
			}
		})
	}
	workers.Wait()
	return outcome(len(results), results, nil)
}
