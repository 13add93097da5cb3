package kafkaclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestPublish(t *testing.T) {
	c, addr := cluster(t, kfake.SeedTopics(4, "t"))
	p := producer(t, mustClient(t, map[string]string{"brokers": addr, "excludeHeaderMetaRegex": "^secret|Key$"}))
	data := []byte("value")
	metadata := map[string]string{"partitionKey": "k", "partitionNumber": "3", "tenant": "blue", "secretToken": "x"}
	if err := p.Publish(within(t), "t", Message{Data: data, Metadata: metadata}); err != nil {
		t.Fatal(err)
	}
	copy(data, "other") // the record has its own
	r := records(t, addr, "t", 1)[0]
	headers := map[string]string{}
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	if string(r.Value) != "value" || string(r.Key) != "k" || r.Partition != 3 || !maps.Equal(headers, map[string]string{"partitionNumber": "3", "tenant": "blue"}) {
		t.Errorf("record %q, key %q, partition %d, headers %v", r.Value, r.Key, r.Partition, headers)
	}
	publish(t, p, "t", map[string]string{"__key": "other"}, "v")
	if info := c.PartitionInfos("t"); len(info) != 4 {
		t.Errorf("%d partitions", len(info))
	}
	if err := p.Ping(within(t)); err != nil {
		t.Error(err)
	}
}

func TestPublishRefused(t *testing.T) {
	c, addr := cluster(t, kfake.SeedTopics(2, "t"))
	p := producer(t, mustClient(t, map[string]string{"brokers": addr, "maxMessageBytes": "2000", "consumeRetryInterval": "10ms"}))
	for _, tc := range []struct {
		name      string
		topic     string
		m         Message
		permanent bool
		words     []string
	}{
		{"partition", "t", Message{Metadata: map[string]string{"partitionNumber": "-1"}}, true, []string{"partitionNumber", "-1"}},
		{"partition, no number", "t", Message{Metadata: map[string]string{"partitionNumber": "one"}}, true, []string{"partitionNumber", "one"}},
		{"partition, too large", "t", Message{Metadata: map[string]string{"partitionNumber": "2147483648"}}, true, []string{"partitionNumber", "2147483648"}},
		{"no such partition", "t", Message{Metadata: map[string]string{"partitionNumber": "2"}}, true, []string{"partitionNumber", "does not have"}},
		{"schema type", "t", Message{Metadata: map[string]string{"valueSchemaType": "xml"}}, true, []string{"valueSchemaType", "xml"}},
		{"no registry", "t", Message{Metadata: map[string]string{"valueSchemaType": "avro"}}, true, []string{"schemaRegistryURL"}},
		{"too large", "t", Message{Data: make([]byte, 3000)}, true, []string{"maxMessageBytes", "2000", "raise"}},
		{"large headers", "t", Message{Metadata: map[string]string{"h": strings.Repeat("x", 3000)}}, true, []string{"maxMessageBytes"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := p.Publish(within(t), tc.topic, tc.m)
			expectError(t, err, tc.words...)
			if Permanent(err) != tc.permanent {
				t.Errorf("Permanent = %v: %v", !tc.permanent, err)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Publish(ctx, "t", Message{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want %v", err, context.Canceled)
		}
	})
	t.Run("forbidden", func(t *testing.T) {
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "t", Err: kerr.TopicAuthorizationFailed})
		err := p.Publish(within(t), "t", Message{})
		if expectError(t, err, `"t"`, "TOPIC_AUTHORIZATION_FAILED"); !Permanent(err) {
			t.Error("counts as transient")
		}
	})
	t.Run("closed", func(t *testing.T) {
		p.Close()
		p.Close()
		if err := p.Publish(within(t), "t", Message{}); err != ErrClosed {
			t.Errorf("%v, want %v", err, ErrClosed)
		}
		if _, err := p.PublishAll(within(t), "t", []Message{{}}, nil); err != ErrClosed {
			t.Errorf("%v, want %v", err, ErrClosed)
		}
		if err := p.Ping(within(t)); err != ErrClosed {
			t.Errorf("%v, want %v", err, ErrClosed)
		}
	})
}

func TestPublishTriesAgain(t *testing.T) {
	for _, tc := range []struct {
		retries string
		ok      bool
	}{{"5", true}, {"0", false}} {
		t.Run(tc.retries, func(t *testing.T) {
			c, addr := cluster(t, kfake.SeedTopics(1, "t"))
			p := producer(t, mustClient(t, map[string]string{"brokers": addr, "producerRetryMax": tc.retries}))
			publish(t, p, "t", nil, "first")
			h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "t", Err: kerr.NotEnoughReplicas, Count: 3})
			err := p.Publish(within(t), "t", Message{Data: []byte("v")})
			if (err == nil) != tc.ok || err != nil && Permanent(err) {
				t.Errorf("after %d faults: %v", h.Hits(), err)
			}
		})
	}
}

// A user who may not write idempotently publishes all the same.
func TestNotIdempotent(t *testing.T) {
	c, addr := cluster(t, kfake.SeedTopics(1, "t"))
	h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, TopLevel: true, Err: kerr.ClusterAuthorizationFailed, Count: -1})
	p := producer(t, mustClient(t, map[string]string{"brokers": addr}))
	publish(t, p, "t", nil, numbered(3)...)
	if h.Hits() == 0 {
		t.Error("the brokers were not asked")
	}
	for i, r := range records(t, addr, "t", 3) {
		if want := fmt.Sprintf("m%03d", i); string(r.Value) != want || r.ProducerID != -1 {
			t.Errorf("record %d is %q of producer %d, want %s of none", i, r.Value, r.ProducerID, want)
		}
	}
	cl := mustClient(t, map[string]string{"brokers": addr})
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, TopLevel: true, Err: kerr.InvalidRequest})
	h.Remove()
	_, err := cl.OpenProducer(within(t))
	expectError(t, err, addr, "INVALID_REQUEST")
}

// A topic's limit below maxMessageBytes refuses what is too large, and not what came along with it.
func TestBrokersLimit(t *testing.T) {
	c, addr := cluster(t)
	limit := "2000"
	if err := c.CreateTopic("small", 1, map[string]string{"max.message.bytes": limit}); err != nil {
		t.Fatal(err)
	}
	p := producer(t, mustClient(t, map[string]string{"brokers": addr}))
	err := p.Publish(within(t), "small", Message{Data: []byte(strings.Repeat("x", 3000))})
	if expectError(t, err, `"small"`, "MESSAGE_TOO_LARGE", "max.message.bytes", "maxMessageBytes"); !Permanent(err) {
		t.Error("counts as transient")
	}
	fit := Message{Data: bytes.Repeat([]byte("y"), 1000)}
	results, err := p.PublishAll(within(t), "small", []Message{fit, fit, {Data: make([]byte, 2500)}, fit}, nil)
	expectError(t, err, "MESSAGE_TOO_LARGE")
	if len(results) != 4 || results[0] != nil || results[1] != nil || results[2] == nil || results[3] != nil {
		t.Errorf("results %v, want one failure, the third", results)
	}
	if got := len(records(t, addr, "small", 3)); got != 3 {
		t.Errorf("%d records, want 3", got)
	}
}

func TestPublishAll(t *testing.T) {
	_, addr := cluster(t, kfake.SeedTopics(1, "t"))
	p := producer(t, mustClient(t, map[string]string{"brokers": addr}))
	var ms []Message
	for _, v := range numbered(50) {
		ms = append(ms, Message{Data: []byte(v), Metadata: map[string]string{"own": v, "both": "entry"}})
	}
	results, err := p.PublishAll(within(t), "t", ms, map[string]string{"both": "request", "__key": "k"})
	if err != nil || results != nil {
		t.Fatalf("results %v, %v", results, err)
	}
	for i, r := range records(t, addr, "t", 50) {
		headers := map[string]string{}
		for _, h := range r.Headers {
			if _, twice := headers[h.Key]; twice {
				t.Errorf("header %s comes twice", h.Key)
			}
			headers[h.Key] = string(h.Value)
		}
		want := fmt.Sprintf("m%03d", i)
		if string(r.Value) != want || headers["own"] != want || headers["both"] != "request" || string(r.Key) != "k" {
			t.Fatalf("record %d is %q, key %q, headers %v", i, r.Value, r.Key, headers)
		}
	}
	ms[1].Metadata = map[string]string{"partitionNumber": "x"}
	results, err = p.PublishAll(within(t), "t", ms[:3], nil)
	if expectError(t, err, "partitionNumber"); len(results) != 3 || results[0] != nil || results[1] == nil || results[2] != nil {
		t.Errorf("results %v, want one failure, the second", results)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	results, err = p.PublishAll(ctx, "t", ms[2:4], nil)
	if !errors.Is(err, context.Canceled) || len(results) != 2 || results[0] == nil || results[1] == nil {
		t.Errorf("cancelled: %v, %v", results, err)
	}
	if results, err := p.PublishAll(within(t), "t", nil, nil); results != nil || err != nil {
		t.Errorf("nothing: %v, %v", results, err)
	}
}

func TestCompressionAndAcks(t *testing.T) {
	c, addr := cluster(t, kfake.SeedTopics(1, "t"))
	var mu sync.Mutex
	acks, codecs := map[int16]bool{}, map[int8]bool{}
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		r := req.(*kmsg.ProduceRequest)
		acks[r.Acks] = true
		// The attributes of a batch are its bytes 21 and 22; the lowest bits are the codec.
		codecs[int8(r.Topics[0].Partitions[0].Records[22]&7)] = true
		return nil, nil, false
	})
	for _, tc := range []struct {
		compression, acks string
		codec             int8
		wants             int16
	}{
		{"none", "all", 0, -1},
		{"gzip", "-1", 1, -1},
		{"snappy", "local", 2, 1},
		{"LZ4", "1", 3, 1},
		{"zstd", "none", 4, 0},
	} {
		clear(acks)
		clear(codecs)
		p := producer(t, mustClient(t, map[string]string{"brokers": addr, "compression": tc.compression, "producerRequiredAcks": tc.acks}))
		publish(t, p, "t", nil, strings.Repeat(tc.compression, 300))
		await(t, "the request", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acks) > 0
		})
		mu.Lock()
		if !acks[tc.wants] || !codecs[tc.codec] || len(acks) != 1 || len(codecs) != 1 {
			t.Errorf("%s, %s: acks %v and codecs %v were sent", tc.compression, tc.acks, acks, codecs)
		}
		mu.Unlock()
	}
	for i, r := range records(t, addr, "t", 5) {
		if len(r.Value) < 900 {
			t.Errorf("record %d is %q", i, r.Value)
		}
	}
}

// Keys go to partitions as Dapr's client has it: FNV-1a, its sign dropped by negation.
func TestPartitionOfKey(t *testing.T) {
	part := newPartitioner().ForTopic("t")
	for _, tc := range []struct {
		key  string
		n    int
		want int
	}{
		{"a", 10, 6},     // e40c292c is -468965076
		{"foobar", 7, 4}, // bf9cf968 is -1080231576
		{"foobar", 1, 0},
	} {
		if got := part.Partition(&kgo.Record{Context: t.Context(), Key: []byte(tc.key)}, tc.n); got != tc.want {
			t.Errorf("key %q goes to partition %d of %d, want %d", tc.key, got, tc.n, tc.want)
		}
	}
	for text, want := range map[string]uint32{"": 0x811c9dc5, "a": 0xe40c292c, "foobar": 0xbf9cf968} {
		if got := fnv32a([]byte(text)); got != want {
			t.Errorf("FNV-1a of %q is %x, want %x", text, got, want)
		}
	}
	// Without a key any partition will do, and a batch stays with its own.
	free := &kgo.Record{Context: t.Context()}
	if part.RequiresConsistency(free) {
		t.Error("a record without a key is bound to a partition")
	}
	first := part.Partition(free, 5)
	if again := part.Partition(free, 5); again != first {
		t.Errorf("a batch is spread over partitions %d and %d", first, again)
	}
}

func TestMetadata(t *testing.T) {
	at := time.UnixMilli(1700000000123)
	r := &kgo.Record{
		Topic: "t", Partition: 3, Offset: 42, Key: []byte("a key&"), Timestamp: at,
		Headers: []kgo.RecordHeader{{Key: "name", Value: []byte("Jürgen\n")}, {Key: "empty"}, {Key: "twice", Value: []byte("1")}, {Key: "twice", Value: []byte("2")}},
	}
	for _, tc := range []struct {
		escape bool
		key    string
		name   string
	}{{false, "a key&", "Jürgen\n"}, {true, "a+key%26", "J%C3%BCrgen%0A"}} {
		c := &Client{options: Options{EscapeHeaders: tc.escape}}
		want := map[string]string{
			"name": tc.name, "empty": "", "twice": "2", "__key": tc.key, "__topic": "t", "__partition": "3", "__offset": "42", "__timestamp": "1700000000123",
		}
		if got := c.metadata(r); !maps.Equal(got, want) {
			t.Errorf("metadata %v, want %v", got, want)
		}
	}
	bare := (&Client{}).metadata(&kgo.Record{Topic: "t", Timestamp: at})
	if _, has := bare["__key"]; has {
		t.Error("a record without a key has one")
	}
	if (&Client{}).metadata(&kgo.Record{Key: []byte{}})["__key"] != "" {
		t.Error("an empty key is not empty")
	}
	if keys := slices.Sorted(maps.Keys(bare)); len(keys) != 4 {
		t.Errorf("metadata %v of a bare record", keys)
	}
}

func TestPublishedMetadataComesBack(t *testing.T) {
	_, addr := cluster(t, kfake.SeedTopics(1, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr, "escapeHeaders": "true"})
	p, k, in := producer(t, cl), consumer(t, cl, "g", true), newInbox()
	subscribe(t, k, Subscribe{Topic: "t", Handler: in.accept})
	publish(t, p, "t", map[string]string{"__key": "ä", "note": "a b"}, "v")
	m := in.next(t).Metadata
	if m["note"] != "a+b" || m["__key"] != "%C3%A4" || m["__offset"] != "0" || m["__topic"] != "t" {
		t.Errorf("metadata %v", m)
	}
}
