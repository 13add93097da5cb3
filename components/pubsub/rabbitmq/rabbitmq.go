// Package rabbitmq is the publish/subscribe component pubsub.rabbitmq.
//
// A topic is an exchange, a subscription a queue bound to it. Their names and properties are shared with every other
// implementation of the API, so they must not change (Dapr API, pubsub.rabbitmq).
package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	amqp "github.com/rabbitmq/amqp091-go"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/rabbitmqclient"
)

// Register adds pubsub.rabbitmq to r.
func Register(r *components.Registry) {
	pubsub.Register(r, components.Info{
		Name:         "rabbitmq",
		Version:      "v1",
		Status:       components.Stable,
		Description:  "Publishes to exchanges of a RabbitMQ broker and subscribes with queues bound to them.",
		Capabilities: []string{"MESSAGE_TTL"},
	}, func(ctx context.Context, inst components.Instance, o Options) (pubsub.Broker, error) {
		return Open(ctx, o, inst.Log, inst.Clock)
	})
}

// Options are the metadata of pubsub.rabbitmq.
type Options struct {
	ConnectionString string `name:"connectionString" secret:"true" help:"the broker as AMQP URI: amqp://user:password@host:5672/vhost, or amqps:// for TLS; excludes hostname, protocol, username and password"`
	Hostname         string `name:"hostname" help:"the broker as host or host:port, optionally with /vhost, when there is no connectionString; default localhost"`
	Protocol         string `name:"protocol" allowed:"amqp,amqps" help:"amqps for TLS; default amqp"`
	Username         string `name:"username" help:"the user; default guest"`
	Password         string `name:"password" secret:"true" help:"the user's password; default guest"`
	rabbitmqclient.TLSOptions
	SASLExternal bool `name:"saslExternal" help:"log in by the client certificate instead of a password; the broker needs the plugin rabbitmq_auth_mechanism_ssl"`

	ConsumerID string `name:"consumerID" help:"the first part of the names of queues, <consumerID>-<topic>; instances with the same one share the messages; default is the app ID"`

	Durable           bool   `name:"durable" default:"true" help:"exchanges and queues survive a restart of the broker; messages do with deliveryMode 2"`
	DeletedWhenUnused *bool  `name:"deletedWhenUnused" help:"the broker deletes queues that lost their last consumer, with all messages, and exchanges that lost their last queue; default true, except for quorum queues, which cannot"`
	ExchangeKind      string `name:"exchangeKind" default:"fanout" allowed:"fanout,topic,direct,headers" help:"the kind of exchange that topics are"`
	DeliveryMode      uint8  `name:"deliveryMode" help:"2 makes the broker store messages on disk; 0 and 1 do not"`
	PublisherConfirm  bool   `name:"publisherConfirm" help:"publishing waits until the broker has taken responsibility for the message, and fails when it refuses"`

	AutoAck          bool   `name:"autoAck" help:"the broker forgets messages when it has sent them; what fails is lost"`
	RequeueInFailure bool   `name:"requeueInFailure" help:"messages that the app does not process are delivered again; else they go to the dead letter exchange, or are dropped"`
	EnableDeadLetter bool   `name:"enableDeadLetter" help:"rejected and expired messages go to the exchange dlx-<queue> and the queue dlq-<queue>"`
	PrefetchCount    uint16 `name:"prefetchCount" help:"how many messages the broker sends ahead of their acknowledgement, per subscription; 0 for any number"`
	ConcurrencyMode  string `name:"concurrencyMode" aliases:"concurrency" default:"parallel" allowed:"parallel,single" help:"single hands the messages of a subscription to the app one after the other, in order"`
	MaxLen           int64  `name:"maxLen" help:"the most messages that queues hold, beyond which the oldest are dropped; 0 for any number. Subscription metadata maxLen overrides it"`
	MaxLenBytes      int64  `name:"maxLenBytes" help:"the most bytes that queues hold, beyond which the oldest messages are dropped; 0 for any number. Subscription metadata maxLenBytes overrides it"`

	TTL *time.Duration `name:"ttlInSeconds" help:"the life of messages published without a ttlInSeconds of their own; default is no expiry"`

	ReconnectWait time.Duration `name:"reconnectWaitSeconds" default:"3s" help:"the wait between attempts to connect again"`
	Heartbeat     time.Duration `name:"heartBeat" default:"10s" help:"the interval in which broker and client show each other that they are alive"`
	ClientName    string        `name:"clientName" help:"what the broker shows for the connections, e.g. {podName}"`

	PublishMessagePropertiesToMetadata bool `name:"publishMessagePropertiesToMetadata" help:"deliver message properties and headers to the app as metadata.messageid, metadata.correlationid, metadata.type, metadata.contenttype and metadata.<header>"`
}

// settings are the connection part of the options.
func (o *Options) settings() (rabbitmqclient.Settings, error) {
	s := rabbitmqclient.Settings{
		URI: o.ConnectionString, URIProperty: "connectionString",
		TLSOptions: o.TLSOptions, External: o.SASLExternal, ExternalProperty: "saslExternal",
		Heartbeat: o.Heartbeat, Name: o.ClientName, ReconnectWait: o.ReconnectWait,
	}
	parts := o.Hostname != "" || o.Protocol != "" || o.Username != "" || o.Password != ""
	switch {
	case o.ConnectionString != "" && parts:
		return s, errors.New(`metadata property "connectionString" excludes "hostname", "protocol", "username" and "password": give one or the other`)
	case o.ConnectionString == "" && !parts:
		return s, errors.New(`metadata property "connectionString" is required, or "hostname": the broker, e.g. amqp://user:password@localhost:5672`)
	case o.ConnectionString == "":
		s.URI, s.URIProperty = rabbitmqclient.HostURI(o.Protocol, o.Hostname, o.Username, o.Password), "hostname"
	}
	return s, nil
}

// Check refuses values that mean nothing, and settings by which no connection can be made. It implements [components.Checker].
func (o *Options) Check() error {
	switch {
	case o.DeliveryMode > 2:
		return fmt.Errorf(`metadata property "deliveryMode" is %d, but must be 0 or 1 for messages in memory, or 2 for messages on disk`, o.DeliveryMode)
	case o.TTL != nil && *o.TTL < 0:
		return fmt.Errorf(`metadata property "ttlInSeconds" is %s, but must not be negative: leave it out for no expiry`, *o.TTL)
	case o.MaxLen < 0:
		return fmt.Errorf(`metadata property "maxLen" is %d, but must not be negative`, o.MaxLen)
	case o.MaxLenBytes < 0:
		return fmt.Errorf(`metadata property "maxLenBytes" is %d, but must not be negative`, o.MaxLenBytes)
	}
	s, err := o.settings()
	if err != nil {
		return err
	}
	return s.Check()
}

// deletedWhenUnused applies to exchanges, and to queues that can.
func (o *Options) deletedWhenUnused() bool { return o.DeletedWhenUnused == nil || *o.DeletedWhenUnused }

// Broker publishes to and subscribes at a RabbitMQ broker. It publishes and consumes over connections of their own, because
// an overloaded broker stops reading from those that publish, which would hold up acknowledgements.
type Broker struct {
	options Options
	log     *slog.Logger
	clock   clockwork.Clock

	publishing, consuming *rabbitmqclient.Client
	lanes                 [laneCount]lane
	nextLane              atomic.Uint64
	limit                 atomic.Pointer[limit] // once it is known
	seed                  maphash.Seed
	declared              sync.Map // of topics, to the connection on which their exchange was declared

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	closed sync.WaitGroup // of the first Close

	mu            sync.Mutex // guards what follows
	closing       bool
	subscriptions map[*subscription]struct{}
}

var (
	_ pubsub.Broker       = (*Broker)(nil)
	_ pubsub.TTLPublisher = (*Broker)(nil)
	_ pubsub.Pinger       = (*Broker)(nil)
	_ pubsub.Pauser       = (*subscription)(nil)
)

// Open connects to the broker.
func Open(ctx context.Context, o Options, log *slog.Logger, clock clockwork.Clock) (*Broker, error) {
	settings, err := o.settings()
	if err != nil {
		return nil, err
	}
	if o.AutoAck && o.RequeueInFailure {
		log.Warn(`metadata property "requeueInFailure" has no effect, because with "autoAck" the broker does not hear of failures; remove one of them`)
	}
	b := &Broker{options: o, log: log, clock: clock, seed: maphash.MakeSeed(), subscriptions: map[*subscription]struct{}{}}
	if b.publishing, err = rabbitmqclient.New(settings, log, clock); err != nil {
		return nil, err
	}
	if b.consuming, err = rabbitmqclient.New(settings, log, clock); err != nil {
		return nil, err
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	for i := range b.lanes {
		b.lanes[i].turn = make(chan struct{}, 1)
	}
	if _, err := b.publishing.Connection(ctx); err != nil {
		_ = b.Close()
		return nil, err
	}
	return b, nil
}

// MessageTTL implements [pubsub.TTLPublisher].
func (b *Broker) MessageTTL() bool { return true }

// Ping implements [pubsub.Pinger].
func (b *Broker) Ping(ctx context.Context) error {
	if b.ctx.Err() != nil {
		return pubsub.ErrClosed
	}
	_, err := b.publishing.Connection(ctx)
	return pubsub.Transient(err)
}

// Close implements [pubsub.Broker].
func (b *Broker) Close() error {
	b.mu.Lock()
	if b.closing {
		b.mu.Unlock()
		b.closed.Wait()
		return nil
	}
	b.closing = true
	b.closed.Add(1)
	defer b.closed.Done()
	open := b.subscriptions
	b.subscriptions = nil
	b.mu.Unlock()
	b.cancel()
	var work sync.WaitGroup
	for s := range open {
		work.Go(s.consumer.Close)
	}
	for i := range b.lanes {
		work.Go(b.lanes[i].close)
	}
	work.Wait()
	b.publishing.Close()
	b.consuming.Close()
	return nil
}

// declareExchange makes the exchange that a topic is.
func (b *Broker) declareExchange(ch *amqp.Channel, topic string) error {
	err := ch.ExchangeDeclare(topic, strings.ToLower(b.options.ExchangeKind), b.options.Durable, b.options.deletedWhenUnused(), false, false, nil)
	return mismatch(err, fmt.Sprintf("exchange %q", topic), "exchangeKind, durable and deletedWhenUnused")
}

// mismatch adds a remedy to the refusal to declare what is there with other properties.
func mismatch(err error, what, properties string) error {
	if reply, ok := errors.AsType[*amqp.Error](err); ok && reply.Code == amqp.PreconditionFailed {
		return fmt.Errorf("the %s is refused: %w; when it is there with other properties, delete it or make %s match", what, err, properties)
	}
	return err
}
