package pubsub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components/pubsub"
)

// running is a subscription in operation: it takes messages from the broker until it is stopped, and hands them on.
type running struct {
	block        *PubSub
	subscription Subscription
	broker       *broker
	log          *slog.Logger

	router       *router
	raw          bool
	rawErr       error // the subscription's rawPayload is neither true nor false
	receiver     receiver
	bulkReceiver bulkReceiver
	// process takes one message; it is [running.handle] but for internal consumers.
	process func(ctx context.Context, msg *pubsub.Message) error

	// ctx is what deliveries run under. It is not that of the broker's handler: a broker that loses patience does not break
	// off what the app is doing. It ends when a stop takes too long.
	ctx    context.Context
	cancel context.CancelFunc
	// retrying ends when the subscription is being stopped or paused: there are no more retries then, and what waits for one is left
	// to the broker.
	retrying context.Context
	settle   context.CancelFunc
	// users counts the messages in hand; closedMark is added once no more are taken.
	users  atomic.Int64
	idle   chan struct{}
	once   sync.Once
	source pubsub.Subscription
	gather *gatherer
}

const closedMark = 1 << 40

// errNotAllowed refuses topics that the scopes of a component keep from the app. It is final.
var errNotAllowed = errors.New("not allowed")

// newRunning makes a subscription that takes nothing yet. Its error is final: nothing will be different next time.
func (p *PubSub) newRunning(b *broker, s Subscription, to receiver) (*running, error) {
	if !b.scopes.maySubscribe(s.Topic) {
		return nil, fmt.Errorf("subscription to topic '%s' on pubsub '%s' is %w", s.Topic, b.name, errNotAllowed)
	}
	router, err := newRouter(s.Rules)
	if err != nil {
		return nil, err
	}
	r := p.bareRunning(b, s)
	r.router, r.receiver = router, to
	r.raw, r.rawErr = isRaw(s.Metadata)
	r.bulkReceiver, _ = to.(bulkReceiver)
	r.process = r.handle
	return r, nil
}

func (p *PubSub) bareRunning(b *broker, s Subscription) *running {
	r := &running{block: p, subscription: s, broker: b, log: p.options.Log, idle: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.retrying, r.settle = context.WithCancel(r.ctx)
	return r
}

// start subscribes at the broker. After an error it may be called again.
func (r *running) start(ctx context.Context) error {
	request := pubsub.SubscribeRequest{Topic: r.broker.topic(r.subscription.Topic), Metadata: r.subscription.Metadata}
	bulk := r.subscription.Bulk
	var err error
	switch native, ok := r.broker.component.(pubsub.BulkSubscriber); {
	case bulk.Enabled && r.bulkReceiver != nil && ok:
		r.source, err = native.BulkSubscribe(ctx, pubsub.BulkSubscribeRequest{SubscribeRequest: request, MaxMessages: max(bulk.MaxMessages, 0), MaxAwait: max(bulk.MaxAwait, 0)}, r.takeBulk)
	case bulk.Enabled && r.bulkReceiver != nil:
		if r.gather == nil {
			r.gather = newGatherer(r, bulk, pubsub.GathersImmediately(r.broker.component))
		}
		r.source, err = r.broker.component.Subscribe(ctx, request, r.takeGathered)
	default:
		r.source, err = r.broker.component.Subscribe(ctx, request, r.take)
	}
	if err != nil {
		return fmt.Errorf("failed to subscribe to topic %s: %w", r.subscription.Topic, err)
	}
	return nil
}

// enter counts a message in, unless the subscription is closed.
func (r *running) enter() bool {
	if r.users.Add(1) < closedMark {
		return true
	}
	r.leave()
	return false
}

func (r *running) leave() {
	if r.users.Add(-1) == closedMark {
		r.once.Do(func() { close(r.idle) })
	}
}

// closing reports whether the subscription takes no more messages.
func (r *running) closing() bool { return r.users.Load() >= closedMark }

// close takes no more messages, and reports whether there are some in hand. idle is closed once they are done.
func (r *running) close() (inHand bool) {
	if inHand = r.users.Add(closedMark) > closedMark; !inHand {
		r.once.Do(func() { close(r.idle) })
	}
	if r.gather != nil {
		r.gather.close()
	}
	return inHand
}

// hold keeps a message without a verdict until the broker's handler is broken off, so that it is delivered again elsewhere and
// not counted as a failure (Dapr API, subscriptions: stopping).
func hold(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// take is the handler of single messages.
func (r *running) take(ctx context.Context, msg *pubsub.Message) error {
	if !r.enter() {
		return hold(ctx)
	}
	err := r.guarded(msg)
	later := err != nil && (errors.Is(err, errLater) || r.closing())
	r.leave()
	if later {
		return hold(ctx)
	}
	return err
}

// takeBulk is the handler of bulks that the broker gathers.
func (r *running) takeBulk(ctx context.Context, msg *pubsub.BulkMessage) []error {
	held := func() []error {
		err := hold(ctx)
		errs := make([]error, len(msg.Entries))
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	if !r.enter() {
		return held()
	}
	errs := r.guardedBulk(msg)
	closing := r.closing()
	r.leave()
	if errs == nil || !closing && !slices.ContainsFunc(errs, isLater) {
		return errs
	}
	_ = hold(ctx)
	return errs
}

// takeGathered is the handler of single messages that are put into bulks here.
func (r *running) takeGathered(ctx context.Context, msg *pubsub.Message) error {
	if !r.enter() {
		return hold(ctx)
	}
	err := r.gather.add(ctx, msg)
	later := err != nil && (errors.Is(err, errLater) || r.closing())
	r.leave()
	if later {
		return hold(ctx)
	}
	return err
}

// Bounds of stopping a subscription (Dapr API, subscriptions: stopping).
const (
	stopLimit  = 30 * time.Second
	pauseLimit = 5 * time.Second
	// ackGrace is what the broker's side gets to pass the last verdicts on before its handlers are told that they have none.
	ackGrace   = 400 * time.Millisecond
	pauseQuiet = 100 * time.Millisecond
	pausePoll  = 20 * time.Millisecond
)

// stop ends the subscription: messages in hand are finished, later ones held, and then the broker's side is closed. With pause
// the broker stops fetching first where it can, and what it has fetched is still delivered. When ctx ends, or after the limit,
// deliveries are broken off.
func (r *running) stop(ctx context.Context, pause bool) {
	if r.source == nil {
		r.cancel()
		return
	}
	r.settle()
	ctx, cancel := clockwork.WithTimeout(ctx, r.block.options.Clock, stopLimit)
	defer cancel()
	if p, ok := r.source.(pubsub.Pauser); ok && pause {
		if err := r.pause(ctx, p); err != nil {
			r.log.Debug("a subscription could not be paused; it is closed at once", "subscription", r.subscription.String(), "error", err)
		}
	}
	inHand := r.close()
	select {
	case <-r.idle:
		if inHand {
			r.block.manager.sleep(ctx, ackGrace)
		}
	case <-ctx.Done():
		r.log.Warn(fmt.Sprintf("messages on %s are still with the app; their delivery is broken off, and the broker delivers them again", &r.subscription))
		r.cancel()
	}
	if err := r.source.Close(); err != nil {
		r.log.Warn(fmt.Sprintf("closing the subscription to %s: %s", &r.subscription, err))
	}
	r.cancel()
	if r.gather != nil {
		r.gather.wait()
	}
}

// pause stops fetching and waits until what was fetched is delivered: until nothing was in hand for a moment.
func (r *running) pause(ctx context.Context, p pubsub.Pauser) error {
	pausing, cancel := clockwork.WithTimeout(ctx, r.block.options.Clock, pauseLimit)
	defer cancel()
	if err := p.Pause(pausing); err != nil {
		return err
	}
	if r.gather != nil {
		r.gather.close()
	}
	ticks := r.block.options.Clock.NewTicker(pausePoll)
	defer ticks.Stop()
	for quiet := time.Duration(0); quiet < pauseQuiet; quiet += pausePoll {
		if r.users.Load() > 0 {
			quiet = 0
		}
		select {
		case <-ticks.Chan():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
