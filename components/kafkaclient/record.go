package kafkaclient

import (
	"context"
	"math"
	"net/url"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Metadata with a meaning for Kafka (Dapr API, Kafka: per-call metadata).
const (
	metaKey        = "__key"
	metaOffset     = "__offset"
	metaPartition  = "__partition"
	metaTopic      = "__topic"
	metaTimestamp  = "__timestamp"
	metaKeyAlias   = "partitionKey"
	metaNumber     = "partitionNumber"
	metaSchemaType = "valueSchemaType"
)

// record makes a record of a message. Its value is the client's own, for it may be kept after a publisher has given up.
func (c *Client) record(ctx context.Context, topic string, data []byte, metadata, override map[string]string) (*kgo.Record, error) {
	r := &kgo.Record{Topic: topic, Context: context.Background()}
	get := func(name string) (string, bool) {
		if v, ok := override[name]; ok {
			return v, true
		}
		v, ok := metadata[name]
		return v, ok
	}
	key, ok := get(metaKeyAlias)
	if !ok {
		key, ok = get(metaKey)
	}
	if ok {
		r.Key = []byte(key)
	}
	if number, ok := get(metaNumber); ok {
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt32 {
			return nil, refuse("metadata %q is %q, but must be the number of a partition, from 0 to %d", metaNumber, number, math.MaxInt32)
		}
		r.Context = context.WithValue(context.Background(), partitionKey{}, int(n))
	}
	schema, _ := get(metaSchemaType)
	avro, err := wantsAvro(schema)
	if err != nil {
		return nil, &RequestError{err}
	}
	if n := len(metadata) + len(override); n > 0 {
		r.Headers = make([]kgo.RecordHeader, 0, n)
	}
	for name, value := range metadata {
		if _, over := override[name]; !over {
			c.header(r, name, value)
		}
	}
	for name, value := range override {
		c.header(r, name, value)
	}
	if avro {
		if r.Value, err = c.encode(ctx, topic, data); err != nil {
			return nil, err
		}
	} else {
		r.Value = make([]byte, len(data))
		copy(r.Value, data)
	}
	if size := recordSize(r); size > c.options.MaxMessageBytes {
		return nil, refuse("a message for topic %q takes %d bytes, but the metadata property \"maxMessageBytes\" allows %d: raise it, and max.message.bytes of the topic if need be, or send less", topic, size, c.options.MaxMessageBytes)
	}
	return r, nil
}

func (c *Client) header(r *kgo.Record, name, value string) {
	if c.exclude == nil || !c.exclude.MatchString(name) {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
}

// recordSize is the most that a record takes in a batch of its own.
func recordSize(r *kgo.Record) int {
	const batch, record, header = 61, 5 + 1 + 10 + 5 + 5 + 5 + 5, 5 + 5
	size := batch + record + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += header + len(h.Key) + len(h.Value)
	}
	return size
}

// wantsAvro reads the metadata valueSchemaType.
func wantsAvro(schema string) (bool, error) {
	switch strings.ToLower(schema) {
	case "", "none":
		return false, nil
	case "avro":
		return true, nil
	}
	return false, &schemaTypeError{schema}
}

type schemaTypeError struct{ value string }

func (e *schemaTypeError) Error() string {
	return "metadata \"" + metaSchemaType + "\" is \"" + e.value + "\", but must be avro or none"
}

// metadata is what goes with a consumed record: its headers, and where it comes from.
func (c *Client) metadata(r *kgo.Record) map[string]string {
	escape := c.options.EscapeHeaders
	m := make(map[string]string, len(r.Headers)+5)
	for _, h := range r.Headers {
		if escape {
			m[h.Key] = url.QueryEscape(string(h.Value))
		} else {
			m[h.Key] = string(h.Value)
		}
	}
	if r.Key != nil {
		if escape {
			m[metaKey] = url.QueryEscape(string(r.Key))
		} else {
			m[metaKey] = string(r.Key)
		}
	}
	m[metaTopic] = r.Topic
	m[metaPartition] = strconv.Itoa(int(r.Partition))
	m[metaOffset] = strconv.FormatInt(r.Offset, 10)
	m[metaTimestamp] = strconv.FormatInt(r.Timestamp.UnixMilli(), 10)
	return m
}

// partitionKey is the context key of an explicit partition.
type partitionKey struct{}

// partitioner chooses the explicit partition of a record, else that of its key by the hash that Dapr's client uses, so that
// publishers of both kinds keep the messages of a key together, else any.
type partitioner struct{ others kgo.Partitioner }

func newPartitioner() kgo.Partitioner {
	return partitioner{kgo.StickyKeyPartitioner(kgo.SaramaCompatHasher(fnv32a))}
}

// ForTopic makes the partitioner of one topic.
func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	t := &topicPartitioner{others: p.others.ForTopic(topic)}
	t.onNewBatch, _ = t.others.(kgo.TopicPartitionerOnNewBatch)
	return t
}

type topicPartitioner struct {
	others     kgo.TopicPartitioner
	onNewBatch kgo.TopicPartitionerOnNewBatch // nil: does not care
}

// RequiresConsistency is true for records that may only go to one partition.
func (t *topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	if _, ok := explicit(r); ok {
		return true
	}
	return t.others.RequiresConsistency(r)
}

// Partition chooses one of n partitions.
func (t *topicPartitioner) Partition(r *kgo.Record, n int) int {
	if p, ok := explicit(r); ok {
		return p
	}
	return t.others.Partition(r, n)
}

// OnNewBatch tells that a batch is full.
func (t *topicPartitioner) OnNewBatch() {
	if t.onNewBatch != nil {
		t.onNewBatch.OnNewBatch()
	}
}

func explicit(r *kgo.Record) (int, bool) {
	p, ok := r.Context.Value(partitionKey{}).(int)
	return p, ok
}

// fnv32a is the FNV-1a hash, without an allocation.
func fnv32a(b []byte) uint32 {
	h := uint32(2166136261)
	for _, c := range b {
		h ^= uint32(c)
		h *= 16777619
	}
	return h
}
