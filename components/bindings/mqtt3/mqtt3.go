// Package mqtt3 is the binding bindings.mqtt3: messages of an MQTT 3.1.1 broker as events, and publishing to one (Dapr API,
// bindings: MQTT).
//
// An event that the app does not process is tried again in place, with the back-off of the metadata. When the retries are
// used up the message is left unacknowledged: the broker sends it again after the next reconnect, if cleanSession is false.
package mqtt3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/mqttclient"
)

// Register adds bindings.mqtt3 to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name:        "mqtt3",
		Aliases:     []string{"mqtt"},
		Version:     "v1",
		Status:      components.Beta,
		Description: "Reads messages from a broker that speaks MQTT 3.1.1, and publishes to it.",
	}, func(_ context.Context, inst components.Instance, o Options) (*Binding, error) {
		return Open(o, inst)
	})
}

// Options are the metadata of bindings.mqtt3.
type Options struct {
	mqttclient.Options
	Topic        string `name:"topic" required:"true" help:"the topic to publish to, and to read from; for reading it may have the wildcards + and #, and begin with $share/<group>/"`
	ConsumerID   string `name:"consumerID" help:"the client id at the broker, which must differ between replicas: {uuid} or {podName} make it so; default is the app id. Reading adds -consumer to it, and publishing -producer"`
	QoS          uint8  `name:"qos" default:"1" allowed:"0,1,2" help:"quality of service of publishing and reading: 0 at most once, 1 at least once, 2 exactly once on the way to and from the broker. MQTT 3.1.1 cannot tell that a broker dropped a message over its size limit (message_size_limit in Mosquitto), even one that it acknowledged"`
	Retain       bool   `name:"retain" help:"the broker keeps the last message of each topic for those who subscribe later; the metadata retain of a request wins"`
	CleanSession bool   `name:"cleanSession" default:"true" help:"the broker forgets the subscription and unprocessed messages when the connection ends"`
	BackOff
}

// Check says which property cannot be followed, and why. It implements [components.Checker].
func (o *Options) Check() error {
	if err := o.Options.Check(); err != nil {
		return err
	}
	if err := mqttclient.CheckFilter(o.Topic); err != nil {
		return fmt.Errorf("metadata property \"topic\": %w", err)
	}
	return o.BackOff.check()
}

// requestLimit bounds a publish and the start of reading.
const requestLimit = 20 * time.Second

// The suffixes keep the two directions of one component from disconnecting each other (Dapr API, bindings: MQTT).
const (
	consumerSuffix = "-consumer"
	producerSuffix = "-producer"
)

// Binding reads from and publishes to a broker. Each direction connects when it is first used.
type Binding struct {
	options Options
	log     *slog.Logger
	clock   clockwork.Clock

	ctx        context.Context // ends with Close
	cancel     context.CancelFunc
	connecting chan struct{} // holds a value while a connection is made

	mu       sync.Mutex // guards what follows
	closed   bool
	producer *mqttclient.Client
	reading  *reading
}

var (
	_ bindings.Input  = (*Binding)(nil)
	_ bindings.Output = (*Binding)(nil)
)

var errClosed = errors.New("component is closed")

// Open makes the binding, which connects when it is first used.
func Open(o Options, inst components.Instance) (*Binding, error) {
	if o.ConsumerID = strings.TrimSpace(o.ConsumerID); o.ConsumerID == "" {
		o.ConsumerID = inst.Sidecar.AppID
	}
	if o.ConsumerID == "" {
		return nil, errors.New("metadata property \"consumerID\" is empty, and there is no app id to stand in: set it to a client id that no other connection to the broker has")
	}
	b := &Binding{options: o, log: inst.Log, clock: inst.Clock, connecting: make(chan struct{}, 1)}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.clock == nil {
		b.clock = clockwork.NewRealClock()
	}
	return b, nil
}

// begin waits for other connections to be made, and returns what ends the time in which this one may be.
func (b *Binding) begin(ctx context.Context) (context.Context, func(), error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(b.ctx, func() { cancel(errClosed) })
	end := func() {
		stop()
		cancel(nil)
	}
	select {
	case b.connecting <- struct{}{}:
		return ctx, func() {
			<-b.connecting
			end()
		}, nil
	case <-ctx.Done():
		defer end()
		if b.ctx.Err() != nil {
			return nil, nil, errClosed
		}
		return nil, nil, b.options.Late(ctx, "the connection that another call makes")
	}
}

func (b *Binding) connect(ctx context.Context, suffix string) (*mqttclient.Client, error) {
	client, err := b.options.Connect(ctx, mqttclient.Session{ClientID: b.options.ConsumerID + suffix, CleanSession: b.options.CleanSession, Log: b.log, Clock: b.clock})
	if err != nil && b.ctx.Err() != nil {
		err = errClosed
	}
	return client, err
}

// Operations implements [bindings.Output].
func (*Binding) Operations() []string { return []string{bindings.Create} }

// Invoke publishes the data. The metadata topic and retain of the request win over the component's.
func (b *Binding) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	if req.Operation != bindings.Create {
		return nil, fmt.Errorf("mqtt: the operation %q is not known: use %s", req.Operation, bindings.Create)
	}
	m := mqttclient.Publication{Topic: b.options.Topic, Payload: req.Data, QoS: b.options.QoS, Retain: b.options.Retain}
	for name, value := range req.Metadata {
		switch {
		case value == "":
		case strings.EqualFold(name, "topic"):
			m.Topic = value
		case strings.EqualFold(name, "retain"):
			m.Retain = components.Truthy(value)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	client, err := b.connectProducer(ctx)
	if err == nil {
		err = client.Publish(ctx, m)
	}
	if errors.Is(err, mqttclient.ErrClosed) {
		err = errClosed
	}
	if err != nil {
		return nil, fmt.Errorf("mqtt: cannot publish to %q: %w", m.Topic, err)
	}
	return nil, nil
}

// connectProducer is the connection that publishes, made if there is none.
func (b *Binding) connectProducer(ctx context.Context) (*mqttclient.Client, error) {
	if client, err := b.currentProducer(); client != nil || err != nil {
		return client, err
	}
	ctx, end, err := b.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if client, err := b.currentProducer(); client != nil || err != nil {
		return client, err // made while this call waited
	}
	client, err := b.connect(ctx, producerSuffix)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errors.Join(errClosed, client.Close())
	}
	b.producer = client
	return client, nil
}

func (b *Binding) currentProducer() (*mqttclient.Client, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	return b.producer, nil
}

// Read implements [bindings.Input].
func (b *Binding) Read(ctx context.Context, handler bindings.Handler) (io.Closer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	ctx, end, err := b.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("mqtt: %w", err)
	}
	defer end()
	b.mu.Lock()
	closed, open := b.closed, b.reading != nil && !b.reading.isClosed()
	b.mu.Unlock()
	switch {
	case closed:
		return nil, errClosed
	case open:
		return nil, errors.New("mqtt: the binding is being read already: close that reading first")
	}
	client, err := b.connect(ctx, consumerSuffix)
	if err != nil {
		return nil, err
	}
	_, err = client.Subscribe(ctx, b.options.Topic, b.options.QoS, func(ctx context.Context, m *mqttclient.Message) error {
		return b.handle(ctx, m, handler)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mqtt: %w", err), client.Close())
	}
	r := &reading{client: client, closed: make(chan struct{})}
	b.mu.Lock()
	closed = b.closed
	if !closed {
		b.reading = r
	}
	b.mu.Unlock()
	if closed {
		return nil, errors.Join(errClosed, client.Close())
	}
	return r, nil
}

// handle hands an event to the app until it is processed or the retries are used up.
func (b *Binding) handle(ctx context.Context, m *mqttclient.Message, handler bindings.Handler) error {
	retries := b.options.BackOff.start(b.clock.Now())
	for {
		_, err := handler(ctx, &bindings.Event{Data: m.Payload, Metadata: map[string]string{"topic": m.Topic}})
		if err == nil || ctx.Err() != nil {
			return err
		}
		wait, again := retries.next(b.clock.Now())
		if !again {
			fate := "the broker sends it again after the next reconnect"
			if b.options.CleanSession || b.options.QoS == 0 {
				fate = "it is lost when the connection ends, unless cleanSession is false and qos is not 0"
			}
			b.log.Error("a message was not processed, and its retries are used up; "+fate, "topic", m.Topic, "retries", retries.made, "error", err)
			return err
		}
		b.log.Warn("a message was not processed, trying again", "topic", m.Topic, "in", wait, "error", err)
		select {
		case <-b.clock.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close implements [bindings.Binding].
func (b *Binding) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.connecting <- struct{}{} // until those that connect have given up
	b.mu.Lock()
	reading, producer := b.reading, b.producer
	b.mu.Unlock() // a handler that is waited for may invoke the binding
	<-b.connecting
	var errs []error
	if reading != nil {
		errs = append(errs, reading.Close())
	}
	if producer != nil {
		errs = append(errs, producer.Close())
	}
	return errors.Join(errs...)
}

// reading is an open reading, with a connection of its own.
type reading struct {
	client  *mqttclient.Client
	closing sync.Once
	closed  chan struct{}
}

func (r *reading) isClosed() bool {
	select {
	case <-r.closed:
		return true
	default:
		return false
	}
}

// Close ends the reading, and its connection, whose session the broker keeps unless cleanSession is set.
func (r *reading) Close() error {
	err := r.client.Close()
	r.closing.Do(func() { close(r.closed) })
	return err
}
