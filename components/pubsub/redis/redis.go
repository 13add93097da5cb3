// Package redis is the broker pubsub.redis, on Redis Streams.
//
// A topic is the stream of the same name. An entry has the field data with the payload and, if the publisher gave metadata, the
// field metadata with a JSON object. The consumer group and the consumer in it have the name consumerID, so that all replicas of
// an app are one consumer. This layout is shared with every other implementation of the API, so it must not change (Dapr API,
// Redis Streams).
//
// A message is acknowledged when its handler has succeeded. Any other stays pending and is delivered again once it has been so
// for processingTimeout. Dapr's sidecar acknowledges failed ones too, and loses them; leaving them is what Dapr documents. A
// handler may run longer than processingTimeout: while it runs, the message is kept from being delivered elsewhere.
package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/redis/rueidis"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/redisclient"
)

// Register adds pubsub.redis to r.
func Register(r *components.Registry) {
	pubsub.Register(r, components.Info{
		Name:        "redis",
		Version:     "v1",
		Status:      components.Stable,
		Description: "Publishes to and subscribes at streams of Redis, or a server that speaks its protocol: a single one, a cluster, or one watched by sentinels.",
	}, func(ctx context.Context, inst components.Instance, o Options) (pubsub.Broker, error) {
		return Open(ctx, o, inst.Log, inst.Clock)
	})
}

// Options are the metadata of pubsub.redis.
type Options struct {
	redisclient.Options
	ConsumerID string `name:"consumerID" help:"the consumer group, and the name of the consumer in it; default is the app id"`

	RedeliverInterval components.Millis `name:"redeliverInterval" default:"15s" help:"how often to look for messages that have been pending too long; 0 for never"`
	ProcessingTimeout components.Millis `name:"processingTimeout" default:"60s" help:"how long a message must be pending before it is delivered again; 0 for never. A handler may run longer: while it does, its message is not delivered again"`
	QueueDepth        int               `name:"queueDepth" default:"100" help:"how many messages wait in the sidecar for a handler, and how many are read at a time"`
	Concurrency       int               `name:"concurrency" default:"10" help:"how many messages are handled at the same time, over all topics"`

	MaxLenApprox int64         `name:"maxLenApprox" help:"streams are cut to about this many messages by publishing; default is no limit. Messages may be cut off that nobody has read"`
	StreamTTL    time.Duration `name:"streamTTL" help:"messages about this old are cut off streams by publishing, read or not; default is never"`
}

// minRetryInterval is the default wait before a retry in publish/subscribe.
const minRetryInterval = 8 * time.Millisecond

// Check refuses values with which no message would be handled, and what [redisclient.Options.Check] does. It implements
// [components.Checker].
func (o *Options) Check() error {
	switch {
	case o.ConsumerID == "":
		return errors.New("metadata property \"consumerID\" is empty, but it names the consumer group: give the app an id, or set it")
	case o.QueueDepth < 1:
		return fmt.Errorf("metadata property \"queueDepth\" is %d, but at least one message must have room: set it to 1 or more, or remove it for 100", o.QueueDepth)
	case o.Concurrency < 1:
		return fmt.Errorf("metadata property \"concurrency\" is %d, so that no message would be handled: set it to 1 or more, or remove it for 10", o.Concurrency)
	case o.MaxLenApprox < 0:
		return fmt.Errorf("metadata property \"maxLenApprox\" is %d, but a stream cannot be shorter than empty: set it to 1 or more, or remove it for no limit", o.MaxLenApprox)
	case o.StreamTTL < 0:
		return fmt.Errorf("metadata property \"streamTTL\" is %v, but an age cannot be negative: set it to e.g. 24h, or remove it to keep messages", o.StreamTTL)
	}
	return o.Options.Check()
}

// Broker publishes to and reads from streams.
type Broker struct {
	client  *redisclient.Client
	log     *slog.Logger
	clock   clockwork.Clock
	options Options
	// block is how long a read waits at the server for a message.
	block time.Duration
	// trims counts publishes if both limits of streams are set, as one command can keep only one.
	trims atomic.Uint32

	// queue is what waits for the workers.
	queue  chan *delivery
	stop   chan struct{}
	worker sync.WaitGroup

	closed atomic.Bool
	mu     sync.Mutex
	subs   map[*subscription]struct{}
	// flights are the messages in hand by topic. They are kept until the broker is closed, since topics are few.
	flights map[string]*flight
	working bool
}

var _ pubsub.Pinger = (*Broker)(nil)

// defaultBlock is how long reads wait when readTimeout sets no limit.
const defaultBlock = 30 * time.Second

// Open connects to the server. Messages that are not delivered are reported to log.
func Open(ctx context.Context, o Options, log *slog.Logger, clock clockwork.Clock) (*Broker, error) {
	// Every subscription has a connection to wait on, so a limit would keep some from reading.
	o.PoolSize = math.MaxInt32
	client, err := o.Options.Open(ctx, minRetryInterval)
	if err != nil {
		return nil, err
	}
	b := &Broker{
		client: client, log: log, clock: clock, options: o,
		block:   time.Duration(o.ReadTimeout),
		queue:   make(chan *delivery, o.QueueDepth),
		stop:    make(chan struct{}),
		subs:    map[*subscription]struct{}{},
		flights: map[string]*flight{},
	}
	if b.block < time.Millisecond {
		b.block = defaultBlock
	}
	return b, nil
}

// Ping asks the server whether it is there.
func (b *Broker) Ping(ctx context.Context) error {
	if b.closed.Load() {
		return pubsub.ErrClosed
	}
	if err := b.client.Do(ctx, b.client.B().Ping().Build()).Error(); err != nil {
		return fmt.Errorf("redis at %s does not answer: %w", b.client.Address, err)
	}
	return nil
}

// Close ends all subscriptions, and then the connections.
func (b *Broker) Close() error {
	b.mu.Lock()
	first := !b.closed.Swap(true)
	subs := make([]*subscription, 0, len(b.subs))
	for s := range b.subs {
		subs = append(subs, s)
	}
	b.mu.Unlock()
	var closing sync.WaitGroup
	for _, s := range subs {
		closing.Go(func() { _ = s.Close() })
	}
	closing.Wait()
	if first {
		close(b.stop)
	}
	b.worker.Wait()
	if first {
		b.client.Close()
	}
	return nil
}

// work hands messages to handlers until the broker is closed.
func (b *Broker) work() {
	for {
		select {
		case d := <-b.queue:
			d.sub.deliver(d)
		case <-b.stop:
			return
		}
	}
}

// failed says in an error what could not be done with a topic, and whether it may work later.
func (b *Broker) failed(doing, topic string, err error) error {
	text := err.Error()
	answer, answered := rueidis.IsRedisErr(err)
	if answered {
		text = answer.Error()
	}
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case b.closed.Load() && errors.Is(err, rueidis.ErrClosing):
		return pubsub.ErrClosed
	case strings.HasPrefix(text, "WRONGTYPE"):
		return pubsub.Terminal(fmt.Errorf("redis at %s cannot %s topic %s: %w; the key %q holds something else than a stream: use another topic or another redisDB", b.client.Address, doing, topic, err, topic))
	case strings.HasPrefix(text, "NOPERM"), strings.HasPrefix(text, "NOAUTH"):
		return pubsub.Terminal(fmt.Errorf("redis at %s cannot %s topic %s: %w; check the ACL of redisUsername", b.client.Address, doing, topic, err))
	case b.options.StreamTTL > 0 && strings.Contains(text, "syntax error"):
		return pubsub.Terminal(fmt.Errorf("redis at %s cannot %s topic %s: %w; metadata property \"streamTTL\" takes Redis 6.2 or later: update the server, or use maxLenApprox in its place", b.client.Address, doing, topic, err))
	}
	return pubsub.Transient(fmt.Errorf("redis at %s cannot %s topic %s: %w", b.client.Address, doing, topic, err))
}

// temporary reports whether an error may go away by itself: those of the connection, and answers of a server that is starting,
// losing its role, or full.
func temporary(err error) bool {
	answer, answered := rueidis.IsRedisErr(err)
	if !answered {
		return true
	}
	word, _, _ := strings.Cut(answer.Error(), " ")
	switch word {
	case "LOADING", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "MISCONF", "OOM", "BUSY", "NOREPLICAS", "UNBLOCKED", "MOVED", "ASK":
		return true
	}
	return false
}
