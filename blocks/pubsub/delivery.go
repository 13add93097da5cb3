package pubsub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"outrigger.dev/api"
	"outrigger.dev/blocks/internal/cloudevents"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/telemetry/metrics"
)

// verdict is what the receiver says of a message.
type verdict int

const (
	// processed: the message is done.
	processed verdict = iota
	// dropped: the message is not wanted; it goes to the dead-letter topic if there is one.
	dropped
	// missing: the receiver has nothing at the path; the message is treated as dropped.
	missing
	// discarded: the receiver has no method for it; it is done, dead-letter topic or not.
	discarded
)

// delivery is one message on its way to the receiver.
type delivery struct {
	// message is what the broker handed over.
	message *pubsub.Message
	// event is the message taken apart; for binary content it is made of the metadata.
	event *cloudevents.Event
	// body is what an HTTP app gets.
	body []byte
	// binary is true for binary content, whose payload is the message's data.
	binary bool
	// topic is the app's name of the topic, path where the event is routed to, and method that path as HTTP apps know it.
	topic, path, method string
	// component is the name of the broker.
	component string
	trace     Trace
}

// receiver takes messages: the app, or a stream. A nil error comes with a verdict; an error means that the message was not
// processed.
type receiver interface {
	deliver(ctx context.Context, d *delivery) (verdict, error)
}

// metadata keys that the runtime reads or adds (Dapr API, delivery: input).
const (
	keyPubsubName  = "pubsubName"
	keyContentType = "content-type"
	// keyAttribute begins the metadata keys that hold the attributes of binary content.
	keyAttribute = "ce_"
)

const octetStream = "application/octet-stream"

// errLater says that a message has no verdict and must not get one: whoever held it is gone, and the broker is to deliver it
// again.
var errLater = errors.New("the message is left to the broker to deliver again")

// handle takes one message from the broker to the receiver, and returns what the broker is told: nil to acknowledge (Dapr API,
// delivery: order of steps, outcomes). ctx ends when the delivery is to be broken off.
func (r *running) handle(ctx context.Context, msg *pubsub.Message) error {
	start := r.block.begin()
	if msg.Metadata == nil {
		msg.Metadata = make(map[string]string, 2)
	}
	r.complete(msg)
	topic := r.broker.appTopic(msg.Topic)
	d := delivery{message: msg, topic: topic, component: r.broker.name}
	if err := r.decode(&d); err != nil {
		r.log.Warn(fmt.Sprintf("a message on %s cannot be decoded: %s", &r.subscription, err))
		return r.failed(ctx, msg, topic, start, err)
	}
	if d.event.Expired(r.block.options.Clock.Now()) {
		r.log.Warn(fmt.Sprintf("dropping expired pub/sub event %s on %s", d.event.String(cloudevents.ID), &r.subscription))
		r.tryDeadLetter(ctx, msg)
		r.count(topic, metrics.Dropped, metrics.Dropped, start)
		return nil
	}
	path, ok, err := r.router.route(d.event)
	if err != nil {
		r.log.Warn(fmt.Sprintf("a message on %s cannot be routed: %s", &r.subscription, err))
		return r.failed(ctx, msg, topic, start, err)
	}
	if !ok {
		r.log.Warn(fmt.Sprintf("no matching route for event %s on %s; skipping", d.event.String(cloudevents.ID), &r.subscription))
		r.tryDeadLetter(ctx, msg)
		r.count(topic, metrics.Dropped, metrics.Processed, start)
		return nil
	}
	d.path, d.method = path, r.router.methods[path]
	span := r.deliverySpan(&d.trace, topic)
	what, err := r.attempt(ctx, &d)
	endSpan(span, err)
	switch {
	case errors.Is(err, errLater):
		return err
	case err != nil:
		r.log.Warn(fmt.Sprintf("event %s on %s was not processed: %s", d.event.String(cloudevents.ID), &r.subscription, err))
		return r.failed(ctx, msg, topic, start, err)
	case what == dropped:
		r.count(topic, metrics.Dropped, metrics.Processed, start)
	case what == missing, what == discarded:
		r.log.Error(fmt.Sprintf("the app has nothing that takes events on %s (path %q); event %s is dropped", &r.subscription, d.path, d.event.String(cloudevents.ID)))
		r.count(topic, metrics.Dropped, metrics.Dropped, start)
	default:
		r.count(topic, metrics.Processed, metrics.Processed, start)
	}
	return nil
}

// attempt is the one place where a single message goes to the receiver, under the inbound policy of the component.
func (r *running) attempt(ctx context.Context, d *delivery) (verdict, error) {
	if r.broker.inbound == nil {
		return r.tryOnce(ctx, d)
	}
	return r.retry(ctx, d)
}

// tryOnce is a single attempt. What the receiver drops is put into the dead-letter topic here, for a failure of that is a
// failure of the attempt.
func (r *running) tryOnce(ctx context.Context, d *delivery) (verdict, error) {
	what, err := r.ask(ctx, d)
	if r.broker.inbound != nil {
		err = appCode(err)
	}
	if err == nil && (what == dropped || what == missing) && r.subscription.DeadLetterTopic != "" {
		if err := r.deadLetter(ctx, d.message); err != nil {
			return what, fmt.Errorf("the app dropped the event, but the dead-letter topic %s did not take it: %w", r.subscription.DeadLetterTopic, err)
		}
	}
	return what, err
}

// complete adds to a message's metadata what the runtime knows of it (Dapr API, delivery: input).
func (r *running) complete(msg *pubsub.Message) {
	msg.Metadata[keyPubsubName] = r.broker.name
	if msg.ContentType != "" {
		msg.Metadata[keyContentType] = msg.ContentType
	}
}

// failed ends a delivery that did not succeed: the message is done if the dead-letter topic takes it.
func (r *running) failed(ctx context.Context, msg *pubsub.Message, topic string, start time.Time, cause error) error {
	if r.closing() {
		return errLater // it would only count against a limit on deliveries
	}
	r.count(topic, metrics.Retried, metrics.Retried, start)
	switch {
	case r.tryDeadLetter(ctx, msg):
		return nil
	case r.subscription.DeadLetterTopic != "" && r.retrying.Err() != nil:
		return errLater // the stop may have cut the publication short
	}
	return cause
}

// deadLetterTimeout bounds a publication to a dead-letter topic, whatever became of the delivery before.
const deadLetterTimeout = 30 * time.Second

// tryDeadLetter puts a message into the dead-letter topic if there is one, and reports whether it did.
func (r *running) tryDeadLetter(ctx context.Context, msg *pubsub.Message) bool {
	if r.subscription.DeadLetterTopic == "" {
		return false
	}
	if err := r.deadLetter(ctx, msg); err != nil {
		r.log.Error(fmt.Sprintf("a message on %s could not be put into the dead-letter topic %s: %s", &r.subscription, r.subscription.DeadLetterTopic, err))
		return false
	}
	return true
}

// deadLetter publishes a message as the broker handed it over (Dapr API, delivery: outcomes).
func (r *running) deadLetter(ctx context.Context, msg *pubsub.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	topic := r.subscription.DeadLetterTopic
	if !r.broker.scopes.mayPublish(topic) {
		return api.ErrPubsubForbidden(r.broker.name, topic, r.block.options.AppID)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deadLetterTimeout)
	defer cancel()
	return r.broker.publish(ctx, pubsub.PublishRequest{Topic: topic, Data: msg.Data, Metadata: msg.Metadata, ContentType: msg.ContentType}, terms{stop: r.retrying.Done()})
}

func (r *running) count(topic string, outcome, status metrics.Outcome, start time.Time) {
	if m := r.block.options.Metrics; m != nil {
		m.Delivered(r.broker.name, topic, outcome, status, r.block.options.Clock.Since(start))
	}
}

// decode finds the event in a message (Dapr API, delivery: decoding).
func (r *running) decode(d *delivery) error {
	if r.rawErr != nil {
		return r.rawErr
	}
	msg := d.message
	switch {
	case r.raw:
		d.body = r.rawEvent(d)
	case isOctets(msg.Metadata[keyContentType]):
		d.body, d.binary = msg.Data, true
		d.event = binaryEvent(msg)
		d.trace = traceOf(d.event, msg.Metadata)
		return nil
	default:
		d.body = msg.Data
	}
	event, err := cloudevents.Parse(d.body)
	if err != nil {
		return fmt.Errorf("the message is no CloudEvent: %w; publish it as one, or subscribe with metadata rawPayload: \"true\"", err)
	}
	d.event = event
	if !r.raw {
		inheritTrace(event, msg.Metadata)
	}
	d.trace = traceOf(event, msg.Metadata)
	return nil
}

func isOctets(contentType string) bool {
	return contentType != "" && cloudevents.ClassOf(contentType) == cloudevents.Binary
}

// rawEvent wraps the bytes of a raw message.
func (r *running) rawEvent(d *delivery) []byte {
	attributes := []cloudevents.Attribute{
		{Name: cloudevents.DataBase64, Value: base64String(d.message.Data)},
		{Name: cloudevents.DataContentType, Value: quoted(octetStream)},
		{Name: cloudevents.ID, Value: append(cloudevents.AppendNewID([]byte{'"'}), '"')},
		{Name: cloudevents.PubsubName, Value: quoted(r.broker.name)},
		{Name: cloudevents.Source, Value: quoted(cloudevents.DefaultSource)},
		{Name: cloudevents.SpecVersion, Value: quoted(cloudevents.Version)},
		{Name: cloudevents.Topic, Value: quoted(d.topic)},
		{Name: cloudevents.Type, Value: quoted(cloudevents.DefaultType)},
	}
	metadata := d.message.Metadata
	if id, ok := metadata[cloudevents.TraceID]; ok {
		attributes = append(attributes, cloudevents.Attribute{Name: cloudevents.TraceID, Value: quoted(id)})
	}
	if parent, ok := metadata[cloudevents.TraceParent]; ok {
		attributes = append(attributes, cloudevents.Attribute{Name: cloudevents.TraceID, Value: quoted(parent)}, cloudevents.Attribute{Name: cloudevents.TraceParent, Value: quoted(parent)})
	}
	if state, ok := metadata[cloudevents.TraceState]; ok {
		attributes = append(attributes, cloudevents.Attribute{Name: cloudevents.TraceState, Value: quoted(state)})
	}
	return (&cloudevents.Event{Attributes: attributes}).AppendWith(nil)
}
