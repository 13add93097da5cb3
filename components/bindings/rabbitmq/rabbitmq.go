// Package rabbitmq is the binding bindings.rabbitmq: it puts messages into a queue of a RabbitMQ broker, and brings those of a
// queue to the app.
package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	amqp "github.com/rabbitmq/amqp091-go"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/rabbitmqclient"
)

// Register adds bindings.rabbitmq to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name:        "rabbitmq",
		Version:     "v1",
		Status:      components.Stable,
		Description: "Puts messages into a queue of a RabbitMQ broker, and brings those of the queue to the app.",
	}, func(ctx context.Context, inst components.Instance, o Options) (*Binding, error) {
		return Open(ctx, o, inst.Log, inst.Clock)
	})
}

// Options are the metadata of bindings.rabbitmq.
type Options struct {
	Host      string `name:"host" required:"true" secret:"true" help:"the broker as AMQP URI: amqp://user:password@host:5672/vhost, or amqps:// for TLS"`
	QueueName string `name:"queueName" required:"true" help:"the queue, which is made when it is not there"`

	Durable          bool           `name:"durable" help:"the queue survives a restart of the broker"`
	DeleteWhenUnused bool           `name:"deleteWhenUnused" help:"the broker deletes the queue, with all messages, when it has lost its last consumer"`
	Exclusive        bool           `name:"exclusive" help:"the queue is for this connection only, and is deleted with it"`
	MaxPriority      uint8          `name:"maxPriority" help:"the highest priority of messages, from 1 to 255; default is a queue without priorities"`
	TTL              *time.Duration `name:"ttl" aliases:"ttlInSeconds" help:"the life of messages in the queue; default is no expiry"`

	ContentType   string `name:"contentType" default:"text/plain" help:"the content type of messages that are created without a contentType of their own"`
	PrefetchCount uint16 `name:"prefetchCount" help:"how many messages the broker sends ahead of their acknowledgement; 0 for any number"`

	ReconnectWait time.Duration `name:"reconnectWaitInSeconds" default:"5s" help:"the wait between attempts to connect again"`
	rabbitmqclient.TLSOptions
	ExternalSASL bool `name:"externalSasl" help:"log in by the client certificate instead of a password; the broker needs the plugin rabbitmq_auth_mechanism_ssl"`

	Direction string `name:"direction" help:"the directions to use: input, output, or both; default is both"`
	Route     string `name:"route" help:"the path of the app that gets the messages; default is the component's name"`
}

// nameLimit is the longest short string of AMQP, in bytes. A longer one would end the connection.
const nameLimit = 255

// settings are the connection part of the options.
func (o *Options) settings() rabbitmqclient.Settings {
	return rabbitmqclient.Settings{
		URI: o.Host, URIProperty: "host", TLSOptions: o.TLSOptions,
		External: o.ExternalSASL, ExternalProperty: "externalSasl", ReconnectWait: o.ReconnectWait,
	}
}

// Check refuses values that AMQP cannot carry, and settings by which no connection can be made. It implements
// [components.Checker].
func (o *Options) Check() error {
	switch {
	case len(o.QueueName) > nameLimit:
		return fmt.Errorf(`metadata property "queueName" has %d bytes, but AMQP carries at most %d: shorten it`, len(o.QueueName), nameLimit)
	case len(o.ContentType) > nameLimit:
		return fmt.Errorf(`metadata property "contentType" has %d bytes, but AMQP carries at most %d: shorten it`, len(o.ContentType), nameLimit)
	case o.TTL != nil && (*o.TTL < 0 || *o.TTL > rabbitmqclient.MaxTTL):
		return fmt.Errorf(`metadata property "ttl" is %s, but must be between 0 and %s: leave it out for no expiry`, *o.TTL, rabbitmqclient.MaxTTL)
	}
	s := o.settings()
	return s.Check()
}

// Binding puts messages into a queue and brings those of the queue to the app.
type Binding struct {
	options Options
	client  *rabbitmqclient.Client
	log     *slog.Logger
	free    chan *lane // that no one publishes on
	// vanished counts how often the queue was found not to be there.
	vanished atomic.Int64

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu      sync.Mutex // guards what follows
	closing bool
	reading *rabbitmqclient.Consumer
}

var (
	_ bindings.Input  = (*Binding)(nil)
	_ bindings.Output = (*Binding)(nil)
)

// errClosed is what a closed binding answers.
var errClosed = errors.New("component is closed")

// Open connects to the broker and makes the queue.
func Open(ctx context.Context, o Options, log *slog.Logger, clock clockwork.Clock) (*Binding, error) {
	client, err := rabbitmqclient.New(o.settings(), log, clock)
	if err != nil {
		return nil, err
	}
	b := &Binding{options: o, client: client, log: log, free: make(chan *lane, laneCount)}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	for range laneCount {
		b.free <- &lane{}
	}
	conn, err := client.Connection(ctx)
	if err == nil {
		err = conn.Try(b.declare)
	}
	if err != nil {
		_ = b.Close()
		return nil, err
	}
	return b, nil
}

// declare makes the queue, or checks that it is as the options say.
func (b *Binding) declare(ch *amqp.Channel) error {
	args := amqp.Table{}
	if b.options.TTL != nil && *b.options.TTL > 0 {
		args[amqp.QueueMessageTTLArg] = b.options.TTL.Milliseconds()
	}
	if b.options.MaxPriority > 0 {
		args["x-max-priority"] = b.options.MaxPriority
	}
	_, err := ch.QueueDeclare(b.options.QueueName, b.options.Durable, b.options.DeleteWhenUnused, b.options.Exclusive, false, args)
	if err == nil {
		return nil
	}
	remedy := ""
	if reply, ok := errors.AsType[*amqp.Error](err); ok {
		switch reply.Code {
		case amqp.PreconditionFailed:
			remedy = "; when it is there with other properties, delete it or make durable, deleteWhenUnused, ttl and maxPriority match"
		case amqp.ResourceLocked:
			remedy = "; it is exclusive to another connection: take another queueName, or set exclusive to false for all that use it"
		}
	}
	return fmt.Errorf("rabbitmq at %s: the queue %q is refused: %w%s", b.client.Address, b.options.QueueName, err, remedy)
}

// Read implements [bindings.Input]. Messages that the app does not process are delivered again at once (Dapr API, bindings:
// acknowledgement of input bindings).
func (b *Binding) Read(ctx context.Context, handler bindings.Handler) (io.Closer, error) {
	if b.ctx.Err() != nil {
		return nil, errClosed
	}
	consumer, err := b.client.Consume(ctx, rabbitmqclient.ConsumerConfig{
		Name: fmt.Sprintf("queue %q", b.options.QueueName),
		Declare: func(_ *rabbitmqclient.Connection, ch *amqp.Channel) (string, error) {
			return b.options.QueueName, b.declare(ch)
		},
		Prefetch: int(b.options.PrefetchCount),
		Requeue:  true,
		Handle: func(ctx context.Context, d *amqp.Delivery) error {
			_, err := handler(ctx, &bindings.Event{Data: d.Body, Metadata: eventMetadata(d.Headers)})
			return err
		},
		Log: b.log,
	})
	if errors.Is(err, rabbitmqclient.ErrClosed) {
		return nil, errClosed
	}
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	closing := b.closing
	b.reading = consumer
	b.mu.Unlock()
	if closing {
		consumer.Close()
		return nil, errClosed
	}
	return reading{consumer}, nil
}

// reading closes a consumer.
type reading struct{ consumer *rabbitmqclient.Consumer }

func (r reading) Close() error {
	r.consumer.Close()
	return nil
}

// eventMetadata are the text headers of a message, their names query-escaped (Dapr API, bindings: metadata to the app).
func eventMetadata(headers amqp.Table) map[string]string {
	if len(headers) == 0 {
		return nil
	}
	m := make(map[string]string, len(headers))
	for name, value := range headers {
		if text, ok := value.(string); ok {
			m[url.QueryEscape(name)] = text
		}
	}
	return m
}

// Close implements [bindings.Binding].
func (b *Binding) Close() error {
	b.mu.Lock()
	b.closing = true
	consumer := b.reading
	b.mu.Unlock()
	b.cancel()
	if consumer != nil {
		consumer.Close()
	}
	b.client.Close()
	return nil
}
