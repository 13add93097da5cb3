package pluggable

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
)

// The features of brokers.
const (
	featureBulkPublish = "BULK_PUBSUB"
	featureMessageTTL  = "MESSAGE_TTL"
	featureWildcards   = "SUBSCRIBE_WILDCARDS"
	featureImmediate   = "BULK_SUBSCRIBE_IMMEDIATE"
)

type brokerLink = link[componentsv1.PubSubClient]

// broker is a publish/subscribe component in another process.
type broker struct {
	link                      *brokerLink
	log                       *slog.Logger
	clock                     clockwork.Clock
	ttl, wildcards, immediate bool

	mu            sync.Mutex
	closed        bool
	paused        bool
	subscriptions map[*subscription]struct{}
}

// bulkBroker is a broker that claims the feature BULK_PUBSUB.
type bulkBroker struct{ *broker }

var (
	_ pubsub.TTLPublisher       = (*broker)(nil)
	_ pubsub.WildcardSubscriber = (*broker)(nil)
	_ pubsub.ImmediateBulk      = (*broker)(nil)
	_ pubsub.BulkPublisher      = bulkBroker{}
	_ pubsub.Pauser             = (*subscription)(nil)
)

func (f *Folder) openBroker(ctx context.Context, path string, inst components.Instance, p Properties) (pubsub.Broker, error) {
	properties := maps.Clone(p.All)
	var features []string
	asked := false
	l, err := openLink(ctx, f, path, inst, func(cc grpc.ClientConnInterface) componentsv1.PubSubClient { return componentsv1.NewPubSubClient(cc) },
		func(ctx context.Context, c componentsv1.PubSubClient) error {
			if _, err := c.Init(ctx, &componentsv1.PubSubInitRequest{Metadata: &componentsv1.MetadataRequest{Properties: properties}}); err != nil || asked {
				return err
			}
			r, err := c.Features(ctx, &componentsv1.FeaturesRequest{})
			if err != nil && !unimplemented(err) {
				return err
			}
			features, asked = r.GetFeatures(), true
			return nil
		})
	if err != nil {
		return nil, err
	}
	b := &broker{
		link: l, log: inst.Log, clock: inst.Clock, subscriptions: map[*subscription]struct{}{},
		ttl: slices.Contains(features, featureMessageTTL), wildcards: slices.Contains(features, featureWildcards), immediate: slices.Contains(features, featureImmediate),
	}
	if slices.Contains(features, featureBulkPublish) {
		return bulkBroker{b}, nil
	}
	return b, nil
}

// MessageTTL reports whether the process claims the feature MESSAGE_TTL.
func (b *broker) MessageTTL() bool { return b.ttl }

// Wildcards reports whether the process claims the feature SUBSCRIBE_WILDCARDS.
func (b *broker) Wildcards() bool { return b.wildcards }

// ImmediateBulk reports whether the process claims the feature BULK_SUBSCRIBE_IMMEDIATE.
func (b *broker) ImmediateBulk() bool { return b.immediate }

// brokerError gives an error the class that retry policies look at.
func brokerError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errClosed):
		return pubsub.ErrClosed
	}
	if s, ok := status.FromError(err); ok {
		return &pubsub.Error{Code: s.Code(), Err: err}
	}
	return err
}

func (b *broker) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// Publish hands a message to the process. Its content type is not told (Dapr API, pluggable components: publish).
func (b *broker) Publish(ctx context.Context, req pubsub.PublishRequest) error {
	if b.isClosed() {
		return pubsub.ErrClosed
	}
	in := &componentsv1.PublishRequest{Data: req.Data, PubsubName: b.link.name, Topic: req.Topic, Metadata: req.Metadata}
	_, err := call(ctx, b.link, false, func(ctx context.Context, c componentsv1.PubSubClient) (*componentsv1.PublishResponse, error) {
		return c.Publish(ctx, in)
	})
	return brokerError(err)
}

// BulkPublish hands many messages to the process at once.
func (b bulkBroker) BulkPublish(ctx context.Context, req pubsub.BulkPublishRequest) ([]error, error) {
	if b.isClosed() {
		return nil, pubsub.ErrClosed
	}
	if len(req.Entries) == 0 {
		return nil, nil
	}
	in := &componentsv1.BulkPublishRequest{PubsubName: b.link.name, Topic: req.Topic, Metadata: req.Metadata, Entries: make([]*componentsv1.BulkMessageEntry, len(req.Entries))}
	for i, e := range req.Entries {
		in.Entries[i] = &componentsv1.BulkMessageEntry{EntryId: e.ID, Event: e.Data, ContentType: e.ContentType, Metadata: e.Metadata}
	}
	r, err := call(ctx, b.link, false, func(ctx context.Context, c componentsv1.PubSubClient) (*componentsv1.BulkPublishResponse, error) {
		return c.BulkPublish(ctx, in)
	})
	if err != nil {
		return nil, brokerError(err)
	}
	if len(r.GetFailedEntries()) == 0 {
		return nil, nil
	}
	failed := make(map[string]string, len(r.GetFailedEntries()))
	for _, e := range r.GetFailedEntries() {
		failed[e.GetEntryId()] = e.GetError()
	}
	results := make([]error, len(req.Entries))
	var first error
	for i, e := range req.Entries {
		text, bad := failed[e.ID]
		if !bad {
			continue
		}
		if text == "" {
			text = "the component did not publish the entry and gives no reason"
		}
		results[i] = errors.New(text)
		if first == nil {
			first = results[i]
		}
		delete(failed, e.ID)
	}
	for id := range failed { // an answer that fits to no entry may be about any
		err := errors.New("the component reports entry " + id + " as failed, which the bulk does not have: " + failed[id])
		return nil, brokerError(err)
	}
	return results, first
}

// Subscribe opens a stream of messages, and again whenever it breaks.
func (b *broker) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) (pubsub.Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	resume := b.paused
	b.paused = false
	b.mu.Unlock()
	if resume {
		_, err := call(ctx, b.link, true, func(ctx context.Context, c componentsv1.PubSubClient) (*componentsv1.ResumeResponse, error) {
			return c.Resume(ctx, &componentsv1.ResumeRequest{})
		})
		if err != nil && !unimplemented(err) {
			return nil, brokerError(err)
		}
	}
	s := &subscription{broker: b, topic: req.Topic, metadata: maps.Clone(req.Metadata), handler: handler}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	opened := make(chan struct{})
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		s.cancel()
		return nil, pubsub.ErrClosed
	}
	b.subscriptions[s] = struct{}{}
	s.running.Go(func() { s.run(sync.OnceFunc(func() { close(opened) })) })
	b.mu.Unlock()
	select {
	case <-opened:
		return s, nil
	case <-ctx.Done():
		_ = s.Close()
		return nil, ctx.Err()
	}
}

// Close ends all subscriptions and the connection to the process.
func (b *broker) Close() error {
	b.mu.Lock()
	already := b.closed
	b.closed = true
	all := slices.Collect(maps.Keys(b.subscriptions))
	b.mu.Unlock()
	var closing sync.WaitGroup
	for _, s := range all {
		closing.Go(func() { _ = s.Close() })
	}
	closing.Wait()
	if !already {
		b.link.close()
	}
	return nil
}
