package kafkaclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/semaphore"
)

// Producer publishes messages. Its methods are safe for concurrent use; concurrent calls share requests to the brokers.
type Producer struct {
	c  *Client
	cl *kgo.Client

	opts []kgo.Opt
	room *semaphore.Weighted // bytes that may still wait to be sent

	closed atomic.Bool
	mu     sync.Mutex
	lone   *kgo.Client // see retryAlone; nil until needed, and once closed
}

// Message is one message of a bulk.
type Message struct {
	Data     []byte
	Metadata map[string]string
}

// OpenProducer connects to the brokers. When they cannot be used the error names them, the cause and a remedy.
func (c *Client) OpenProducer(ctx context.Context) (*Producer, error) {
	opts := c.producerOptions()
	cl, err := c.connect(ctx, opts...)
	if err != nil {
		return nil, err
	}
	if c.options.acksAll() {
		// Done now: with the first message it would end with that message's context, and fail those that came along.
		if err = c.number(ctx, cl); errors.Is(err, kerr.ClusterAuthorizationFailed) {
			c.log.Info("kafka: the user may not write idempotently (Kafka before 3.0 wants the permission IDEMPOTENT_WRITE), so a message that is sent again after a failure may be there twice")
			cl.Close()
			opts = append(opts, kgo.DisableIdempotentWrite())
			cl, err = c.connect(ctx, opts...)
		}
		if err != nil {
			if cl != nil {
				cl.Close()
			}
			return nil, err
		}
	}
	return &Producer{c: c, cl: cl, opts: opts, room: semaphore.NewWeighted(producerBytes)}, nil
}

// number gets the number by which the brokers know a message that comes again.
func (c *Client) number(ctx context.Context, cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	_, _, err := cl.ProducerID(ctx)
	if err == nil || errors.Is(err, kerr.ClusterAuthorizationFailed) {
		return err
	}
	return c.explain(err)
}

// acksAll reports whether all replicas must have a message, which writing idempotently needs.
func (o *Options) acksAll() bool {
	return strings.EqualFold(o.RequiredAcks, "all") || o.RequiredAcks == "-1"
}

func (c *Client) producerOptions() []kgo.Opt {
	o := &c.options
	opts := []kgo.Opt{
		kgo.ProducerLinger(0), // what comes while a request is under way goes with the next
		kgo.RecordPartitioner(newPartitioner()),
		kgo.RecordRetries(o.ProducerRetryMax),
		kgo.RecordDeliveryTimeout(deliveryLimit),
		kgo.ProduceRequestTimeout(o.WriteTimeout),
		kgo.ProducerBatchMaxBytes(int32(max(o.MaxMessageBytes, 1<<10))),
		kgo.BrokerMaxWriteBytes(int32(max(100<<20, 2*o.MaxMessageBytes))),
		kgo.MaxBufferedRecords(math.MaxInt32), // produce sees to it
		kgo.ProducerBatchCompression(o.codec()),
	}
	switch strings.ToLower(o.RequiredAcks) {
	case "local", "leader", "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case "none", "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	}
	return opts
}

func (o *Options) codec() kgo.CompressionCodec {
	switch strings.ToLower(o.Compression) {
	case "gzip":
		return kgo.GzipCompression()
	case "snappy":
		return kgo.SnappyCompression()
	case "lz4":
		return kgo.Lz4Compression()
	case "zstd":
		return kgo.ZstdCompression()
	}
	return kgo.NoCompression()
}

// errLate is why publishing ends when the brokers take nothing.
var errLate = fmt.Errorf("the brokers did not take it within %s", deliveryLimit)

// Publish returns once the message is with as many brokers as producerRequiredAcks says, or cannot be, or ctx has ended, or 15
// seconds have passed. In the last two cases the message may still be published.
func (p *Producer) Publish(ctx context.Context, topic string, m Message) error {
	if p.closed.Load() {
		return ErrClosed
	}
	r, err := p.c.record(ctx, topic, m.Data, m.Metadata, nil)
	if err != nil {
		return err
	}
	// The client library has the same limit, but does not keep to it while it connects or does not know what became of a request.
	ctx, cancel := context.WithTimeoutCause(ctx, deliveryLimit, errLate)
	defer cancel()
	done := make(chan error, 1)
	p.produce(ctx, r, func(err error) { done <- err })
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		default:
			err = ctx.Err()
		}
	}
	if tooLarge(err) {
		err = p.retryAlone(ctx, r)
	}
	return p.explain(topic, late(ctx, err))
}

// late is err, or errLate when that is why ctx ended.
func late(ctx context.Context, err error) error {
	if errors.Is(err, ctx.Err()) && context.Cause(ctx) == errLate {
		return errLate
	}
	return err
}

// produce hands a record to the client library, once there is room for it. The library does not learn of ctx: the end of one
// record's context would fail all that wait for the same partition.
func (p *Producer) produce(ctx context.Context, r *kgo.Record, done func(error)) {
	size := int64(min(recordSize(r), producerBytes))
	if err := p.room.Acquire(ctx, size); err != nil {
		done(err)
		return
	}
	p.cl.Produce(r.Context, r, func(_ *kgo.Record, err error) {
		p.room.Release(size)
		done(err)
	})
}

// tooLarge reports whether err is the brokers' word that a batch is larger than they take.
func tooLarge(err error) bool {
	return errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge)
}

// retryAlone publishes a message in a batch of its own. The brokers limit batches, not messages, so when the limit of a topic is
// below maxMessageBytes they may refuse messages for the company that they came in.
func (p *Producer) retryAlone(ctx context.Context, r *kgo.Record) error {
	p.mu.Lock()
	if p.closed.Load() {
		p.mu.Unlock()
		return ErrClosed
	}
	if p.lone == nil {
		cl, err := kgo.NewClient(slices.Concat(p.c.base, p.opts, []kgo.Opt{kgo.MaxBufferedRecords(1)})...)
		if err != nil {
			p.mu.Unlock()
			return fmt.Errorf("kafka client: %w", err)
		}
		p.lone = cl
	}
	lone := p.lone
	p.mu.Unlock()
	return lone.ProduceSync(ctx, &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: r.Headers, Context: r.Context}).FirstErr()
}

// PublishAll publishes messages in their order, but for those that the brokers do not take together with others. It ends as
// Publish does, except that the 15 seconds begin anew with each message that the brokers have taken. It returns one result per
// message, nil for those that were published, or a nil slice when all were; err is the first of them. shared is metadata that
// goes over that of each message.
func (p *Producer) PublishAll(ctx context.Context, topic string, ms []Message, shared map[string]string) (results []error, err error) {
	if p.closed.Load() {
		return nil, ErrClosed
	}
	type outcome struct {
		index int
		err   error
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(deliveryLimit, func() { cancel(errLate) })
	defer timer.Stop()
	outcomes := make(chan outcome, len(ms))
	records := make([]*kgo.Record, len(ms))
	for i, m := range ms {
		r, err := p.c.record(ctx, topic, m.Data, m.Metadata, shared)
		if err != nil {
			outcomes <- outcome{i, err}
			continue
		}
		records[i] = r
		p.produce(ctx, r, func(err error) {
			if err == nil {
				timer.Reset(deliveryLimit)
			}
			outcomes <- outcome{i, err}
		})
	}
	all := make([]error, len(ms))
	for i := range all {
		all[i] = errPending
	}
	for left := len(ms); left > 0; left-- {
		select {
		case o := <-outcomes:
			all[o.index] = o.err
			continue
		case <-ctx.Done():
		}
		break
	}
	for i, e := range all {
		switch {
		case e == errPending:
			e = ctx.Err()
		case tooLarge(e) && records[i] != nil && len(ms) > 1:
			if e = p.retryAlone(ctx, records[i]); e == nil {
				timer.Reset(deliveryLimit)
			}
		}
		all[i] = p.explain(topic, late(ctx, e))
		if err == nil {
			err = all[i]
		}
	}
	if err != nil {
		return all, err
	}
	return nil, nil
}

// errPending stands for a result that has not come.
var errPending = errors.New("no result yet")

// explain names the topic and a remedy in an error of publishing.
func (p *Producer) explain(topic string, err error) error {
	if err == nil {
		return nil
	}
	var request *RequestError
	if errors.As(err, &request) {
		return err
	}
	switch {
	case errors.Is(err, kgo.ErrClientClosed):
		return ErrClosed
	case tooLarge(err):
		return refuse("publishing to Kafka topic %q failed: %w; raise max.message.bytes of the topic, and the metadata property \"maxMessageBytes\", or send less", topic, err)
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("publishing to Kafka topic %q failed: %w; create the topic, or let the brokers create topics (auto.create.topics.enable)", topic, err)
	case errors.Is(err, kerr.InvalidTopicException):
		return fmt.Errorf("publishing to Kafka topic %q failed: %w; a name has 1 to 249 letters, digits, dots, underscores and hyphens", topic, err)
	case strings.Contains(err.Error(), "invalid record partitioning choice"):
		return refuse("publishing to Kafka topic %q failed: metadata %q names a partition that the topic does not have: %w", topic, metaNumber, err)
	case errors.Is(err, errLate):
		return p.unreached(topic, err, "the message may be published all the same once they are back")
	case unreached(err):
		return p.unreached(topic, err, "")
	}
	return fmt.Errorf("publishing to Kafka topic %q failed: %w", topic, err)
}

// unreached reports whether the brokers were not reached or took a message at no attempt.
func unreached(err error) bool {
	var network net.Error // also the end of ctx
	return errors.Is(err, kgo.ErrRecordTimeout) || errors.Is(err, kgo.ErrRecordRetries) || errors.Is(err, io.EOF) || errors.As(err, &network)
}

// unreached adds the brokers and a remedy to such an error.
func (p *Producer) unreached(topic string, err error, more string) error {
	if more != "" {
		more = "; " + more
	}
	return fmt.Errorf("publishing to Kafka topic %q failed: %w; check that the brokers at %s are running, that the metadata property \"brokers\" is right, and that as many replicas are in sync as min.insync.replicas says%s",
		topic, err, strings.Join(p.c.options.brokers(), ","), more)
}

// Ping reports whether a broker answers.
func (p *Producer) Ping(ctx context.Context) error {
	if p.closed.Load() {
		return ErrClosed
	}
	if err := p.cl.Ping(ctx); err != nil {
		return p.c.explain(err)
	}
	return nil
}

// Close fails what is not published yet and disconnects. It may be called more than once.
func (p *Producer) Close() {
	if p.closed.Swap(true) {
		return
	}
	p.mu.Lock()
	lone := p.lone
	p.lone = nil
	p.mu.Unlock()
	if lone != nil {
		lone.Close()
	}
	p.cl.Close()
	p.c.close()
}
