package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"outrigger.dev/components/pubsub"
)

// Bounds of publishing.
const (
	// publishTimeout is how long the server may take to acknowledge, time without connection included.
	publishTimeout = 10 * time.Second
	// retryInterval is the wait before a message that nobody took is sent again: a stream may just be changing its leader.
	retryInterval = 250 * time.Millisecond
)

// Publish returns when the stream has stored the message, as durably as its server is configured.
func (b *Broker) Publish(ctx context.Context, req pubsub.PublishRequest) error {
	if b.isClosed() {
		return pubsub.ErrClosed
	}
	if err := checkTopic(req.Topic, false); err != nil {
		return err
	}
	id := envelopeID(req.Data)
	ack, err := b.send(ctx, req.Topic, id, req.Data)
	if err != nil {
		return err
	}
	if !ack.Duplicate {
		return nil
	}
	return b.duplicate(ctx, req, id, ack)
}

// publishAck is what the server answers to a message.
type publishAck struct {
	Stream    string              `json:"stream"`
	Sequence  uint64              `json:"seq"`
	Duplicate bool                `json:"duplicate"`
	Error     *jetstream.APIError `json:"error"`
}

// duplicate looks at a message that the server has dropped as one it already has. Ids are remembered for the whole stream, so
// an event that is published to a second topic of it (a dead letter topic, for one) would be lost: it gets another id.
func (b *Broker) duplicate(ctx context.Context, req pubsub.PublishRequest, id string, ack publishAck) error {
	looking, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := b.js.Stream(looking, ack.Stream)
	if err != nil {
		return pubsub.Transient(fmt.Errorf("stream %q, which has an event with the id %q already, cannot be read: %w", ack.Stream, id, err))
	}
	first, err := stream.GetMsg(looking, ack.Sequence)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil // consumed and gone: nothing tells that it was another
	case err != nil:
		return pubsub.Transient(fmt.Errorf("stream %q does not show the event with the id %q that it has already: %w", ack.Stream, id, err))
	case first.Subject == req.Topic:
		return nil
	}
	_, err = b.send(ctx, req.Topic, id+" "+req.Topic, req.Data)
	return err
}

// send publishes one message and waits for the acknowledgement. A message with an id is sent again after a reconnection, since
// the server tells a repetition by it.
func (b *Broker) send(ctx context.Context, topic, id string, data []byte) (publishAck, error) {
	msg := &nats.Msg{Subject: topic, Data: data}
	if id != "" {
		msg.Header = nats.Header{jetstream.MsgIDHeader: []string{id}}
	}
	deadline := time.NewTimer(publishTimeout)
	defer deadline.Stop()
	for {
		reply, err := b.publisher.exchange(ctx, msg, id != "", deadline.C, b.closing)
		if err != nil {
			return publishAck{}, b.publishError(topic, data, err)
		}
		if len(reply.Data) == 0 && reply.Header.Get("Status") == "503" {
			if err := b.nobody(ctx, topic); err != nil {
				return publishAck{}, err
			}
			continue
		}
		return b.readAck(topic, reply.Data)
	}
}

// nobody returns nil when a message that no stream took is to be sent again.
func (b *Broker) nobody(ctx context.Context, topic string) error {
	names, err := b.streamsOf(ctx, topic)
	if err == nil && len(names) == 0 {
		if !b.options.CreateStreams {
			return b.noStream(topic)
		}
		_, err := b.createStream(ctx, topic)
		return err
	}
	// There is one, or the server does not tell, as after its start.
	retry := time.NewTimer(retryInterval)
	defer retry.Stop()
	select {
	case <-retry.C:
		return nil
	case <-ctx.Done():
		return pubsub.Transient(errors.Join(ctx.Err(), err))
	case <-b.closing:
		return pubsub.ErrClosed
	}
}

func (b *Broker) publishError(topic string, data []byte, err error) error {
	switch {
	case errors.Is(err, pubsub.ErrClosed), errors.Is(err, nats.ErrConnectionClosed):
		return pubsub.ErrClosed
	case errors.Is(err, nats.ErrMaxPayload):
		return pubsub.Terminal(fmt.Errorf("the message for topic %q has %d bytes, but NATS at %s takes at most %d; raise max_payload there", topic, len(data), b.address, b.conn.MaxPayload()))
	case errors.Is(err, nats.ErrBadSubject):
		return pubsub.Terminal(fmt.Errorf("topic %q cannot be a NATS subject; use letters, digits, dots, - and _", topic))
	case errors.Is(err, errNoAnswer) && b.conn.IsConnected():
		return pubsub.Transient(fmt.Errorf("no stream of NATS at %s acknowledged the message for topic %q within %s; it may be stored all the same", b.address, topic, publishTimeout))
	case errors.Is(err, errNoAnswer):
		return pubsub.Transient(fmt.Errorf("NATS at %s cannot be reached since more than %s, so the message for topic %q is not known to be stored; check that the server runs", b.address, publishTimeout, topic))
	default:
		return pubsub.Transient(fmt.Errorf("publishing to topic %q on NATS at %s: %w", topic, b.address, err))
	}
}

// readAck decodes an acknowledgement. The usual one, {"stream":"name","seq":1}, only has to be recognised.
func (b *Broker) readAck(topic string, data []byte) (publishAck, error) {
	if bytes.HasPrefix(data, ackStart) && !bytes.Contains(data, ackError) && !bytes.Contains(data, ackDuplicate) {
		return publishAck{}, nil
	}
	var ack publishAck
	err := json.Unmarshal(data, &ack)
	switch {
	case err != nil || ack.Error == nil && ack.Stream == "":
		return ack, pubsub.Terminal(fmt.Errorf("what answers on the subject %q at NATS %s is no stream: it said %.100q; use another topic", topic, b.address, data))
	case ack.Error == nil:
		return ack, nil
	}
	err = fmt.Errorf("the stream of topic %q on NATS at %s did not store the message: %w", topic, b.address, ack.Error)
	if ack.Error.Code < 500 {
		return ack, pubsub.Terminal(err)
	}
	return ack, pubsub.Transient(err)
}

var (
	ackStart     = []byte(`{"stream":"`)
	ackError     = []byte(`"error":`)
	ackDuplicate = []byte(`"duplicate":`)
)

// errNoAnswer says that the bound of publishing has passed.
var errNoAnswer = errors.New("no answer")

// publisher sends messages and finds the answers to each.
type publisher struct {
	conn *nats.Conn
	// prefix is what the subjects of answers start with; the rest is the number of the message.
	prefix string

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan *nats.Msg
	// again is closed and replaced at every reconnection.
	again chan struct{}
	// spare are channels that have had their one message.
	spare sync.Pool
}

func newPublisher(conn *nats.Conn) (*publisher, error) {
	p := &publisher{conn: conn, prefix: conn.NewInbox() + ".", waiting: map[uint64]chan *nats.Msg{}, again: make(chan struct{})}
	sub, err := conn.Subscribe(p.prefix+"*", p.answer)
	if err != nil {
		return nil, err
	}
	return p, sub.SetPendingLimits(-1, -1)
}

// answer hands an answer to whoever waits for it.
func (p *publisher) answer(msg *nats.Msg) {
	number, err := strconv.ParseUint(msg.Subject[min(len(p.prefix), len(msg.Subject)):], 36, 64)
	if err != nil {
		return
	}
	p.mu.Lock()
	ch := p.waiting[number]
	delete(p.waiting, number)
	p.mu.Unlock()
	if ch != nil {
		ch <- msg // has room for it
	}
}

func (p *publisher) reconnected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.again)
	p.again = make(chan struct{})
}

// exchange sends a message, also again after a reconnection when it is repeatable, and returns the answer. It gives up with
// errNoAnswer, pubsub.ErrClosed, the context's error or that of sending.
func (p *publisher) exchange(ctx context.Context, msg *nats.Msg, repeatable bool, deadline <-chan time.Time, closing <-chan struct{}) (*nats.Msg, error) {
	ch, _ := p.spare.Get().(chan *nats.Msg)
	if ch == nil {
		ch = make(chan *nats.Msg, 1)
	}
	p.mu.Lock()
	p.last++
	number := p.last
	p.waiting[number] = ch
	again := p.again
	p.mu.Unlock()
	msg.Reply = p.prefix + strconv.FormatUint(number, 36)
	if err := p.conn.PublishMsg(msg); err != nil {
		p.abandon(number)
		return nil, err
	}
	if !repeatable {
		again = nil
	}
	for {
		select {
		case reply := <-ch:
			p.spare.Put(ch)
			return reply, nil
		case <-again:
			p.mu.Lock()
			again = p.again
			p.mu.Unlock()
			if err := p.conn.PublishMsg(msg); err != nil {
				p.abandon(number)
				return nil, err
			}
			continue
		case <-ctx.Done():
			p.abandon(number)
			return nil, ctx.Err()
		case <-closing:
			p.abandon(number)
			return nil, pubsub.ErrClosed
		case <-deadline:
			p.abandon(number)
			return nil, errNoAnswer
		}
	}
}

// abandon forgets a message that nobody waits for any more. Its channel is not used again, as the answer may be under way.
func (p *publisher) abandon(number uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, number)
}
