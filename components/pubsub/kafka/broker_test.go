package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/components/pubsub"
)

const limit = 30 * time.Second

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// cluster is a Kafka cluster in the test's process, with the topic t of one partition.
func cluster(t testing.TB) (*kfake.Cluster, string) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, strings.Join(c.ListenAddrs(), ",")
}

func TestErrorClasses(t *testing.T) {
	c, addr := cluster(t)
	b := mustOpen(t, addr, "app", map[string]string{"maxMessageBytes": "1000", "producerRetryMax": "0"})
	code := func(err error) codes.Code { return status.Code(err) }
	for _, tc := range []struct {
		name string
		req  pubsub.PublishRequest
		err  *kerr.Error
		want codes.Code
	}{
		{"too large", pubsub.PublishRequest{Topic: "t", Data: make([]byte, 2000)}, nil, codes.FailedPrecondition},
		{"no such partition", pubsub.PublishRequest{Topic: "t", Metadata: map[string]string{"partitionNumber": "9"}}, nil, codes.FailedPrecondition},
		{"forbidden", pubsub.PublishRequest{Topic: "t"}, kerr.TopicAuthorizationFailed, codes.FailedPrecondition},
		{"replicas", pubsub.PublishRequest{Topic: "t"}, kerr.NotEnoughReplicas, codes.Unavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.err != nil {
				h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "t", Err: tc.err, Count: -1})
				defer h.Remove()
			}
			if err := b.Publish(within(t), tc.req); code(err) != tc.want {
				t.Errorf("%v is %v, want %v", err, code(err), tc.want)
			}
			results, err := b.(pubsub.BulkPublisher).BulkPublish(within(t), pubsub.BulkPublishRequest{Topic: "t", Entries: []pubsub.BulkEntry{{ID: "1", Data: tc.req.Data, Metadata: tc.req.Metadata}}})
			if len(results) != 1 || code(results[0]) != tc.want || code(err) != tc.want {
				t.Errorf("bulk: %v, %v, want %v", results, err, tc.want)
			}
		})
	}
	if _, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "t", Metadata: map[string]string{"valueSchemaType": "xml"}}, nil); code(err) != codes.FailedPrecondition {
		t.Errorf("subscribing: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(within(t), pubsub.PublishRequest{Topic: "t"}); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("publishing when closed: %v", err)
	}
	if err := b.(pubsub.Pinger).Ping(within(t)); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("pinging when closed: %v", err)
	}
}

func TestCapabilities(t *testing.T) {
	_, addr := cluster(t)
	b := mustOpen(t, addr, "app", nil)
	if got := pubsub.Capabilities(b); !slices.Equal(got, []string{"BULK_PUBSUB"}) {
		t.Errorf("capabilities %v", got)
	}
	if err := b.(pubsub.Pinger).Ping(within(t)); err != nil {
		t.Error(err)
	}
}

// The consumer group is consumerGroup, else consumerID; brokers of one group share, those of several all get a message.
func TestGroups(t *testing.T) {
	c, addr := cluster(t)
	for group, properties := range map[string]map[string]string{"app": nil, "given": {"consumerGroup": "given"}} {
		b := mustOpen(t, addr, "app", properties)
		if _, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "t"}, func(context.Context, *pubsub.Message) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if info, err := c.WaitGroupStable(within(t), group, 1); err != nil || info.Members[0].ClientID != "sarama" {
			t.Errorf("group %s: %+v, %v", group, info, err)
		}
	}
}

// Entries of a bulk are numbered from "0", and a bulk without limits has those of Kafka (Dapr API, bulk subscribe).
func TestBulkEntries(t *testing.T) {
	_, addr := cluster(t)
	b := mustOpen(t, addr, "app", nil)
	bulks := make(chan *pubsub.BulkMessage, 10)
	if _, err := b.(pubsub.BulkSubscriber).BulkSubscribe(within(t), pubsub.BulkSubscribeRequest{SubscribeRequest: pubsub.SubscribeRequest{Topic: "t"}}, func(_ context.Context, m *pubsub.BulkMessage) []error {
		bulks <- m
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var entries []pubsub.BulkEntry
	for i := range bulkMessages {
		entries = append(entries, pubsub.BulkEntry{ID: fmt.Sprint("id", i), Data: fmt.Appendf(nil, "%d", i), Metadata: map[string]string{"n": fmt.Sprint(i)}})
	}
	if results, err := b.(pubsub.BulkPublisher).BulkPublish(within(t), pubsub.BulkPublishRequest{Topic: "t", Entries: entries}); results != nil || err != nil {
		t.Fatal(results, err)
	}
	select {
	case m := <-bulks:
		if m.Topic != "t" || len(m.Entries) != bulkMessages {
			t.Fatalf("a bulk of %d for topic %s, want %d", len(m.Entries), m.Topic, bulkMessages)
		}
		for i, e := range m.Entries {
			n := fmt.Sprint(i)
			if e.ID != n || string(e.Data) != n || e.Metadata["n"] != n || e.Metadata["__offset"] != n {
				t.Errorf("entry %d is %s, %s with %v", i, e.ID, e.Data, e.Metadata)
			}
		}
	case <-within(t).Done():
		t.Fatal("no bulk came though there are as many messages as one holds")
	}
}
