package jetstream

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"outrigger.dev/components/pubsub"
)

// Times of looking after a subscription.
const (
	// verifyInterval is how often the consumer is looked for without a reason.
	verifyInterval = 30 * time.Second
	// firstRetry and lastRetry are the waits after looking has failed.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
	// missedHeartbeats is how many heartbeats may fail to come.
	missedHeartbeats = 3
	// shortestKeep is the least interval at which messages are kept.
	shortestKeep = 10 * time.Millisecond
	// unackedQueue is how many messages wait here at most when the server does not bound them.
	unackedQueue = 4096
)

// subscription is a consumer and the messages that it has delivered.
type subscription struct {
	broker  *Broker
	topic   string
	stream  string
	handler pubsub.Handler
	log     *slog.Logger
	// config is what the consumer is made with. Only the goroutine that looks after the subscription changes it.
	config jetstream.ConsumerConfig
	// limit is how many handlers run at a time, keep how often the server is told that messages are still worked on.
	limit int
	keep  time.Duration

	// ctx is that of the handlers.
	ctx    context.Context
	cancel context.CancelFunc
	// looking ends the goroutine that looks after the subscription.
	looking     context.Context
	stopLooking context.CancelFunc
	poked       chan struct{}
	running     sync.WaitGroup
	tending     sync.WaitGroup
	keeping     sync.WaitGroup
	// ending is held by Pause and Close.
	ending  sync.Mutex
	paused  bool
	isEnded bool

	mu       sync.Mutex
	room     sync.Cond // of unackedQueue
	inbox    *nats.Subscription
	consumer string
	// made is when the server made the consumer, by its clock.
	made time.Time
	// next is the sequence number after the last message that came.
	next  uint64
	heard time.Time
	// queue are the messages that no handler has got, first the oldest.
	queue []*delivery
	// held are the messages that are not settled, by sequence number.
	held    map[uint64]*delivery
	workers int
	closed  bool
}

// delivery is a message of the consumer, or a request of it for a sign that everything before it has been taken.
type delivery struct {
	msg *nats.Msg
	// seq is the message's number in the stream, times how often it has been delivered.
	seq, times uint64
	// kept is when the server last heard of it.
	kept time.Time
	// request marks a request of the consumer.
	request bool
	// rejected tells that the server has it back.
	rejected bool
}

func (b *Broker) subscribe(ctx context.Context, topic string, handler pubsub.Handler) (*subscription, error) {
	stream, err := b.streamFor(ctx, topic)
	if err != nil {
		return nil, err
	}
	s := &subscription{
		broker: b, topic: topic, stream: stream, handler: handler,
		log:    b.log.With("topic", topic, "stream", stream, "nats", b.address),
		config: b.options.consumer(topic), limit: b.options.parallelism(), keep: max(shortestKeep, b.options.patience()/3),
		poked: make(chan struct{}, 1), held: map[uint64]*delivery{},
	}
	s.room.L = &s.mu
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.looking, s.stopLooking = context.WithCancel(context.Background())
	if err := s.bind(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	s.tending.Go(s.tend)
	if s.acks() {
		s.keeping.Go(s.keepAll)
	}
	return s, nil
}

// acks tells whether messages get verdicts.
func (s *subscription) acks() bool { return s.config.AckPolicy != jetstream.AckNonePolicy }

// ackSubject starts the reply subjects of messages of streams; what the server has to say itself has others.
const ackSubject = "$JS.ACK."

// receive takes what the server sends, in its order.
func (s *subscription) receive(msg *nats.Msg) {
	if len(msg.Data) == 0 && msg.Header != nil && msg.Header.Get("Status") != "" && !strings.HasPrefix(msg.Reply, ackSubject) {
		s.status(msg)
		return
	}
	d := &delivery{msg: msg}
	if meta, err := msg.Metadata(); err == nil {
		d.seq, d.times = meta.Sequence.Stream, meta.NumDelivered
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = time.Now()
	s.next = max(s.next, d.seq+1)
	if s.acks() {
		d.kept = s.heard
		s.held[d.seq] = d
	} else {
		for len(s.queue) >= unackedQueue && !s.closed {
			s.room.Wait()
		}
	}
	s.enqueue(d)
}

// enqueue puts a delivery at the end of the queue, and starts a worker when one may run.
func (s *subscription) enqueue(d *delivery) {
	s.queue = append(s.queue, d)
	if !s.closed && s.workers < s.limit {
		s.workers++
		s.running.Go(s.work)
	}
}

// status is a message of the server itself: a heartbeat, or a request for a sign.
func (s *subscription) status(msg *nats.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = time.Now()
	switch stalled := msg.Header.Get("Nats-Consumer-Stalled"); {
	case msg.Header.Get("Status") != "100":
		s.poke() // the consumer was removed, or its leader has changed
	case msg.Reply != "": // flow control: answered when everything before it has been taken
		s.enqueue(&delivery{msg: msg, request: true})
	case stalled != "" && len(s.queue) == 0: // the sign was lost
		_ = s.broker.conn.Publish(stalled, nil)
	}
}

// work handles messages until there are none.
func (s *subscription) work() {
	for {
		s.mu.Lock()
		if s.closed || len(s.queue) == 0 {
			s.workers--
			s.mu.Unlock()
			return
		}
		d := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		if !s.acks() {
			s.room.Signal()
		}
		s.mu.Unlock()
		if d.request {
			_ = s.broker.conn.Publish(d.msg.Reply, nil)
			continue
		}
		s.handle(d)
	}
}

// handle gives a message to the handler and its verdict to the server.
func (s *subscription) handle(d *delivery) {
	err := s.handler(s.ctx, &pubsub.Message{Topic: s.topic, Data: d.msg.Data, Metadata: map[string]string{"Topic": d.msg.Subject}})
	if !s.acks() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.settle(d)
	case s.ctx.Err() != nil: // no verdict
	default:
		s.reject(d, s.broker.options.delay(d.times))
	}
}

// The verdicts, as the server reads them. One that does not arrive lets the server deliver the message again.
var (
	ackVerdict = []byte("+ACK")
	nakVerdict = []byte("-NAK")
	stillBusy  = []byte("+WPI")
)

func (s *subscription) settle(d *delivery) {
	if s.held[d.seq] == d {
		delete(s.held, d.seq)
	}
	_ = s.broker.conn.Publish(d.msg.Reply, ackVerdict)
}

func (s *subscription) reject(d *delivery, delay time.Duration) {
	d.rejected = true
	// Where it comes back to is not known in a group, and it does not come back when it was the last time.
	if s.held[d.seq] == d && (s.config.DeliverGroup != "" || s.config.MaxDeliver > 0 && d.times >= uint64(s.config.MaxDeliver)) {
		delete(s.held, d.seq)
	}
	verdict := nakVerdict
	if delay > 0 {
		verdict = fmt.Appendf(nil, `-NAK {"delay": %s}`, strconv.FormatInt(int64(delay), 10))
	}
	_ = s.broker.conn.Publish(d.msg.Reply, verdict)
}

// keepAll keeps messages until the handlers are to end. It does nothing else, lest a server that answers slowly delays it.
func (s *subscription) keepAll() {
	ticker := time.NewTicker(s.keep)
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C:
			s.keepHeld()
		}
	}
}

// keepHeld tells the server of the messages that wait or are worked on, so that it does not deliver them again.
func (s *subscription) keepHeld() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, d := range s.held {
		// A little early, lest a tick that comes a little early skip one.
		if !d.rejected && now.Sub(d.kept) >= s.keep-s.keep/8 {
			d.kept = now
			_ = s.broker.conn.Publish(d.msg.Reply, stillBusy)
		}
	}
}

// forgetQueue drops what no handler has got, and returns the number of the first message that is not settled.
func (s *subscription) forgetQueue() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	position := s.next
	for seq := range s.held {
		position = min(position, seq)
	}
	s.queue = nil
	s.room.Broadcast()
	clear(s.held)
	return position
}

func (s *subscription) poke() {
	select {
	case s.poked <- struct{}{}:
	default:
	}
}

// tend looks after the consumer until the subscription is paused or closed.
func (s *subscription) tend() {
	var beat <-chan time.Time
	if s.config.IdleHeartbeat > 0 && s.config.DeliverGroup == "" { // a heartbeat goes to one of a group only
		ticker := time.NewTicker(s.config.IdleHeartbeat)
		defer ticker.Stop()
		beat = ticker.C
	}
	verify := time.NewTimer(verifyInterval)
	defer verify.Stop()
	wait := firstRetry
	for {
		select {
		case <-s.looking.Done():
			return
		case <-beat:
			s.mu.Lock()
			silent := time.Since(s.heard) > missedHeartbeats*s.config.IdleHeartbeat
			s.mu.Unlock()
			if !silent {
				continue
			}
		case <-s.poked:
		case <-verify.C:
		}
		if !s.broker.conn.IsConnected() {
			verify.Reset(verifyInterval) // poked when it is back
			continue
		}
		err := s.verify(s.looking)
		if err == nil {
			wait = firstRetry
			verify.Reset(verifyInterval)
			continue
		}
		if s.looking.Err() != nil {
			return
		}
		s.log.Warn("the consumer cannot be looked after; trying again", "error", err, "after", wait)
		verify.Reset(wait)
		wait = min(2*wait, lastRetry)
	}
}

// Pause ends the interest in messages; those that are under way are taken, and handled like those that wait.
func (s *subscription) Pause(ctx context.Context) error {
	s.ending.Lock()
	defer s.ending.Unlock()
	if s.paused || s.isEnded {
		return nil
	}
	s.paused = true
	s.stopLooking()
	s.tending.Wait()
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	return s.drain(ctx)
}

// drain stops the server from sending and takes what it has sent.
func (s *subscription) drain(ctx context.Context) error {
	s.mu.Lock()
	inbox := s.inbox
	s.mu.Unlock()
	if inbox == nil || !inbox.IsValid() {
		return nil
	}
	if !s.broker.conn.IsConnected() {
		return inbox.Unsubscribe()
	}
	drained := inbox.StatusChanged(nats.SubscriptionClosed)
	if err := inbox.Drain(); err != nil {
		return inbox.Unsubscribe()
	}
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		_ = inbox.Unsubscribe()
		return pubsub.Transient(fmt.Errorf("NATS at %s did not confirm the end of the subscription to %q: %w", s.broker.address, s.topic, ctx.Err()))
	}
}

// Close gives back the messages that no handler has got. Those whose handlers have ended without verdict come again after ackWait.
func (s *subscription) Close() error {
	s.ending.Lock()
	defer s.ending.Unlock()
	if s.isEnded {
		return nil
	}
	s.isEnded = true
	s.mu.Lock()
	s.closed = true
	s.room.Broadcast()
	s.mu.Unlock()
	s.cancel()
	s.stopLooking()
	s.tending.Wait()
	s.keeping.Wait()
	ctx, cancel := bounded(closeTimeout)
	defer cancel()
	_ = s.drain(ctx) // what did not arrive any more is delivered again
	s.running.Wait()
	s.giveBack()
	s.broker.forget(s)
	return nil
}

// giveBack returns what waits to the server, and removes a consumer that would end by itself a little later.
func (s *subscription) giveBack() {
	s.mu.Lock()
	for _, d := range s.queue {
		if !d.request && s.acks() {
			s.reject(d, 0)
		}
	}
	s.queue = nil
	name := s.consumer
	s.mu.Unlock()
	if !s.broker.conn.IsConnected() {
		return
	}
	ctx, cancel := bounded(closeTimeout)
	defer cancel()
	if s.name() == "" && name != "" {
		if err := s.broker.js.DeleteConsumer(ctx, s.stream, name); err != nil {
			s.log.Debug("the consumer was not removed; the server does so soon", "consumer", name, "error", err)
		}
	}
	_ = s.broker.conn.FlushWithContext(ctx) // it only makes sure that the verdicts are there
}
