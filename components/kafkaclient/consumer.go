package kafkaclient

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Limits of starting a subscription.
const (
	// joinPatience is how long Subscribe waits for the group; a group that is being divided anew may need longer than is
	// good for whoever waits.
	joinPatience  = 10 * time.Second
	askingTimeout = 5 * time.Second
)

// Consumer is a member of a consumer group. All its subscriptions share one session of the group; adding or removing a topic
// makes the group divide the partitions anew. It is a member while it has subscriptions.
//
// The messages of a partition are handed over one at a time and in order, those of several partitions at the same time. An
// offset is committed only after a handler has returned nil for its message, so that no message is lost when the process dies.
type Consumer struct {
	c     *Client
	group string
	retry bool
	life  context.Context // ends with Close
	end   context.CancelFunc

	// change is held while topics come and go; it is taken before mu, and never by what the client library calls.
	change sync.Mutex
	mu     sync.RWMutex
	closed bool
	topics map[string][]*Subscription
	// session is nil while there are no topics.
	session *session
}

// Delivery is one consumed message.
type Delivery struct {
	Topic    string
	Data     []byte
	Metadata map[string]string
}

// Subscribe says what to consume, and who takes it: Handler one message at a time, or Bulk many.
type Subscribe struct {
	Topic string
	// SchemaType is avro for values to be decoded by the schema registry, else none or "".
	SchemaType string
	// Handler's nil means processed. An error while ctx lives means that the message is to be tried again.
	Handler func(ctx context.Context, d *Delivery) error
	// Bulk returns one verdict per message or nil.
	Bulk func(ctx context.Context, ds []Delivery) []error
	// Most and Await are the limits of a bulk.
	Most  int
	Await time.Duration
}

// NewConsumer prepares a consumer of a group; it connects with the first subscription. retry says whether a message whose
// handler fails is tried again.
func (c *Client) NewConsumer(group string, retry bool) *Consumer {
	k := &Consumer{c: c, group: group, retry: retry, topics: map[string][]*Subscription{}}
	k.life, k.end = context.WithCancel(context.Background())
	return k
}

// Group is the consumer group that the options name: consumerGroup, else consumerID, else the fallback.
func (o *Options) Group(fallback string) string {
	for _, name := range []string{o.ConsumerGroup, o.ConsumerID} {
		if name = strings.TrimSpace(name); name != "" {
			return name
		}
	}
	return fallback
}

// Subscription is a running subscription.
type Subscription struct {
	Subscribe
	avro     bool
	consumer *Consumer
	ctx      context.Context // of handlers
	cancel   context.CancelFunc
	ready    chan struct{} // closed once the group has taken the topic up
	once     sync.Once
	paused   bool           // guarded by Consumer.mu
	running  sync.WaitGroup // handlers
	closing  sync.Once
	closeErr error
}

func (s *Subscription) established() { s.once.Do(func() { close(s.ready) }) }

// Subscribe starts a subscription. It returns once the group has taken the topic up, so that whatever is published from then on
// arrives; if that takes long, for the group is being divided anew, it returns all the same and goes on in the background. When
// the brokers or the topic cannot be used it fails.
func (k *Consumer) Subscribe(ctx context.Context, req Subscribe) (*Subscription, error) {
	avro, err := wantsAvro(req.SchemaType)
	if err != nil {
		return nil, &RequestError{err}
	}
	if avro && k.c.registry == nil {
		return nil, &RequestError{errNoRegistry}
	}
	if req.Topic == "" {
		return nil, refuse("the subscription names no topic")
	}
	if k.group == "" {
		return nil, refuse("metadata property \"consumerGroup\" is missing, and so is \"consumerID\": set one to the name of the consumer group")
	}
	s := &Subscription{Subscribe: req, avro: avro, consumer: k, ready: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(k.life)
	if err := k.add(ctx, s); err != nil {
		s.cancel()
		return nil, err
	}
	patience := k.c.clock.NewTimer(joinPatience)
	defer patience.Stop()
	select {
	case <-s.ready:
		return s, nil
	case <-s.ctx.Done(): // the consumer was closed
		err = ErrClosed
	case <-ctx.Done():
		err = fmt.Errorf("subscribing to Kafka topic %q: %w", req.Topic, ctx.Err())
	case <-patience.Chan():
		if err = k.trouble(ctx, req.Topic); err == nil {
			k.c.log.Warn("kafka: the group still divides its partitions; messages will come once it has", "topic", req.Topic, "group", k.group)
			return s, nil
		}
	}
	_ = s.Close()
	return nil, err
}

// add registers a subscription with the session, which begins with the first one.
func (k *Consumer) add(ctx context.Context, s *Subscription) error {
	k.change.Lock()
	defer k.change.Unlock()
	k.mu.Lock()
	closed, current := k.closed, k.session
	k.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if current == nil {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(k.life, cancel)()
		opened, err := k.openSession(ctx)
		if err != nil {
			return err
		}
		current = opened
	}
	k.mu.Lock()
	k.session = current
	known := len(k.topics[s.Topic]) > 0
	k.topics[s.Topic] = append(k.topics[s.Topic], s)
	k.mu.Unlock()
	if known {
		current.cl.ResumeFetchTopics(s.Topic)
		if current.isTaken(s.Topic) {
			s.established()
		}
		return nil
	}
	current.cl.AddConsumeTopics(s.Topic)
	return nil
}

// trouble finds out why a subscription does not begin; nil when nothing is wrong.
func (k *Consumer) trouble(ctx context.Context, topic string) error {
	k.mu.RLock()
	current := k.session
	k.mu.RUnlock()
	if current == nil {
		return ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, askingTimeout)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, t)
	req.AllowAutoTopicCreation = true
	resp, err := req.RequestWith(ctx, current.cl)
	if err != nil {
		return k.c.explain(err)
	}
	for _, t := range resp.Topics {
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case err == nil, errors.Is(err, kerr.LeaderNotAvailable):
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			return fmt.Errorf("subscribing to Kafka topic %q: %w; create the topic, or let the brokers create topics (auto.create.topics.enable)", topic, err)
		default:
			return fmt.Errorf("subscribing to Kafka topic %q: %w", topic, err)
		}
	}
	if err := current.groupError(); err != nil {
		return fmt.Errorf("subscribing to Kafka topic %q in group %q: %w", topic, k.group, err)
	}
	return nil
}

// Pause takes no more messages of the subscription from the brokers; those that it has are still handed over.
func (s *Subscription) Pause() {
	k := s.consumer
	k.change.Lock()
	defer k.change.Unlock()
	k.mu.Lock()
	s.paused = true
	current, all := k.session, true
	for _, other := range k.topics[s.Topic] {
		all = all && other.paused
	}
	k.mu.Unlock()
	if current != nil && all {
		current.cl.PauseFetchTopics(s.Topic)
	}
}

// Close cancels the contexts of running handlers, waits for them, and commits what they have processed. When it was the last
// one of its topic, the group divides the topic among the others. It may be called more than once.
func (s *Subscription) Close() error {
	s.closing.Do(func() { s.closeErr = s.consumer.remove(s) })
	return s.closeErr
}

func (k *Consumer) remove(s *Subscription) error {
	s.cancel()
	k.change.Lock()
	defer k.change.Unlock()
	k.mu.Lock()
	current := k.session
	var left []*Subscription
	found := false
	for _, other := range k.topics[s.Topic] {
		if other != s {
			left = append(left, other)
		} else {
			found = true
		}
	}
	if len(left) > 0 {
		k.topics[s.Topic] = left
	} else {
		delete(k.topics, s.Topic)
	}
	last := len(k.topics) == 0
	if last {
		k.session = nil
	}
	k.mu.Unlock()
	if !found || current == nil {
		s.running.Wait()
		return nil
	}
	switch {
	case last:
		current.close()
	case len(left) == 0:
		current.drop(s.Topic)
	default:
		s.running.Wait()
		current.commit()
	}
	s.running.Wait()
	return nil
}

// Close ends all subscriptions and leaves the group. It may be called more than once.
func (k *Consumer) Close() error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.end() // and with it the contexts of all handlers
	k.change.Lock()
	defer k.change.Unlock()
	k.mu.Lock()
	var all []*Subscription
	for _, subs := range k.topics {
		all = append(all, subs...)
	}
	current := k.session
	k.session, k.topics = nil, map[string][]*Subscription{}
	k.mu.Unlock()
	if current != nil {
		current.close()
	}
	for _, s := range all {
		s.running.Wait()
	}
	return nil
}

// pick is the subscription that the messages of a partition go to, with its handler counted as running; nil when there is none.
// Then ending says that there are some which have ended and are about to be taken out.
func (k *Consumer) pick(topic string, partition int32) (s *Subscription, ending bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	subs := k.topics[topic]
	for i := range subs {
		s := subs[(int(partition)+i)%len(subs)]
		if s.ctx.Err() == nil {
			s.running.Add(1) // under the lock: Close waits after it has taken s out
			return s, false
		}
	}
	return nil, len(subs) > 0
}

// initial is where a group begins that has not consumed a partition before.
func (k *Consumer) initial() kgo.Offset {
	if strings.EqualFold(k.c.options.InitialOffset, "oldest") {
		return kgo.NewOffset().AtStart()
	}
	return kgo.NewOffset().AtEnd()
}
