package kafkaclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"outrigger.dev/components"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// limit bounds every wait of the tests.
const limit = 30 * time.Second

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// decoded are the options that properties come to, as in a component.
func decoded(t testing.TB, properties map[string]string) (Options, error) {
	t.Helper()
	type holder struct{ Options }
	type wrapped struct {
		Options
		Direction string `name:"direction"`
	}
	var r components.Registry
	components.Register(&r, components.PubSub, components.Info{Name: "test", Version: "v1"}, func(_ context.Context, _ components.Instance, o wrapped) (*holder, error) {
		return &holder{o.Options}, nil
	})
	d, err := r.Lookup(components.PubSub, "test", "v1")
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Open(context.Background(), components.Instance{Name: "test", Properties: properties})
	if err != nil {
		return Options{}, err
	}
	return c.(*holder).Options, nil
}

// client is a client for properties over quick defaults.
func client(t testing.TB, properties map[string]string) (*Client, error) {
	t.Helper()
	all := map[string]string{
		"authType": "none", "consumerID": "app", "heartbeatInterval": "100ms", "sessionTimeout": "6s", "backOffDuration": "20ms",
		"consumeRetryInterval": "20ms", "initialOffset": "newest",
	}
	maps.Copy(all, properties)
	o, err := decoded(t, all)
	if err != nil {
		return nil, err
	}
	return New(within(t), o, slog.New(slog.DiscardHandler), clockwork.NewRealClock())
}

func mustClient(t testing.TB, properties map[string]string) *Client {
	t.Helper()
	c, err := client(t, properties)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// cluster is a Kafka cluster in the test's process.
func cluster(t testing.TB, opts ...kfake.Opt) (*kfake.Cluster, string) {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{
		kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1),
		kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, strings.Join(c.ListenAddrs(), ",")
}

func producer(t testing.TB, c *Client) *Producer {
	t.Helper()
	p, err := c.OpenProducer(within(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func publish(t testing.TB, p *Producer, topic string, metadata map[string]string, values ...string) {
	t.Helper()
	for _, v := range values {
		if err := p.Publish(within(t), topic, Message{Data: []byte(v), Metadata: metadata}); err != nil {
			t.Fatalf("publishing %s: %v", v, err)
		}
	}
}

func consumer(t testing.TB, c *Client, group string, retry bool) *Consumer {
	t.Helper()
	k := c.NewConsumer(group, retry)
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Errorf("closing the consumer: %v", err)
		}
	})
	return k
}

func subscribe(t testing.TB, k *Consumer, req Subscribe) *Subscription {
	t.Helper()
	s, err := k.Subscribe(within(t), req)
	if err != nil {
		t.Fatalf("subscribing to %s: %v", req.Topic, err)
	}
	return s
}

// inbox takes messages.
type inbox chan Delivery

func newInbox() inbox { return make(inbox, 10000) }

func (in inbox) accept(_ context.Context, d *Delivery) error {
	in <- *d
	return nil
}

// next is the next message.
func (in inbox) next(t testing.TB) Delivery {
	t.Helper()
	select {
	case d := <-in:
		return d
	case <-within(t).Done():
		t.Fatal("no message came")
		return Delivery{}
	}
}

// expect takes messages and compares their data.
func (in inbox) expect(t testing.TB, values ...string) {
	t.Helper()
	for _, want := range values {
		if got := string(in.next(t).Data); got != want {
			t.Fatalf("message %q came, want %q", got, want)
		}
	}
}

// awaitCommit waits until a group has committed an offset of partition 0.
func awaitCommit(t testing.TB, c *kfake.Cluster, group, topic string, offset int64) {
	t.Helper()
	info, err := c.WaitGroupInfo(within(t), group, func(g *kfake.GroupInfo) bool {
		if g == nil {
			return false
		}
		commit, ok := g.Commits[topic][0]
		return ok && commit.Offset == offset
	})
	if err != nil {
		t.Fatalf("group %s has not committed offset %d of %s: %+v", group, offset, topic, info)
	}
}

// committed is the offset that a group has committed of partition 0, -1 for none.
func committed(c *kfake.Cluster, group, topic string) int64 {
	g := c.GroupInfo(group)
	if g == nil {
		return -1
	}
	if commit, ok := g.Commits[topic][0]; ok {
		return commit.Offset
	}
	return -1
}

// records are what a topic holds.
func records(t testing.TB, addr, topic string, n int) []*kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var all []*kgo.Record
	for ctx := within(t); len(all) < n; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("%d of %d records: %v", len(all), n, err)
		}
		all = append(all, fetches.Records()...)
	}
	return all
}

// await waits for a condition.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx := within(t); !ok(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %s in vain for %s", limit, what)
		}
	}
}

// expectError checks that an error names what it should.
func expectError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not name %q: %v", w, err)
		}
	}
}

var errRejected = errors.New("rejected")

func numbered(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("m%03d", i)
	}
	return all
}
