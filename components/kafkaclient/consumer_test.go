package kafkaclient

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestConsumeInOrder(t *testing.T) {
	c, addr := cluster(t, kfake.SeedTopics(1, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr, "channelBufferSize": "4"})
	p, k, in := producer(t, cl), consumer(t, cl, "g", true), newInbox()
	var running atomic.Int32
	subscribe(t, k, Subscribe{Topic: "t", Handler: func(ctx context.Context, d *Delivery) error {
		if running.Add(1) > 1 {
			t.Error("two messages of a partition are handled at once")
		}
		defer running.Add(-1)
		return in.accept(ctx, d)
	}})
	values := numbered(300)
	publish(t, p, "t", nil, values...)
	in.expect(t, values...)
	awaitCommit(t, c, "g", "t", 300)
}

func TestInitialOffset(t *testing.T) {
	_, addr := cluster(t, kfake.SeedTopics(1, "t"))
	p := producer(t, mustClient(t, map[string]string{"brokers": addr}))
	publish(t, p, "t", nil, "before")
	oldest, newest := newInbox(), newInbox()
	for name, in := range map[string]inbox{"oldest": oldest, "newest": newest} {
		k := consumer(t, mustClient(t, map[string]string{"brokers": addr, "initialOffset": name}), name, true)
		subscribe(t, k, Subscribe{Topic: "t", Handler: in.accept})
	}
	publish(t, p, "t", nil, "after")
	oldest.expect(t, "before", "after")
	newest.expect(t, "after")
}

// A group that begins at the newest message has that place even if it never committed anything else, also in an empty topic.
func TestNewestIsPinned(t *testing.T) {
	for _, before := range []int{0, 3} {
		t.Run(fmt.Sprint(before), func(t *testing.T) {
			c, addr := cluster(t, kfake.SeedTopics(1, "t"))
			cl := mustClient(t, map[string]string{"brokers": addr})
			p := producer(t, cl)
			publish(t, p, "t", nil, numbered(before)...)
			first := cl.NewConsumer("g", true)
			subscribe(t, first, Subscribe{Topic: "t", Handler: func(ctx context.Context, _ *Delivery) error {
				<-ctx.Done()
				return ctx.Err()
			}})
			if got := committed(c, "g", "t"); got != int64(before) {
				t.Errorf("offset %d is committed after subscribing, want %d", got, before)
			}
			publish(t, p, "t", nil, "held")
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			publish(t, p, "t", nil, "later")
			in := newInbox()
			subscribe(t, consumer(t, cl, "g", true), Subscribe{Topic: "t", Handler: in.accept})
			in.expect(t, "held", "later")
		})
	}
}

func TestRejectedIsTriedAgainInPlace(t *testing.T) {
	c, addr := cluster(t, kfake.SeedTopics(1, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr})
	p, k, in := producer(t, cl), consumer(t, cl, "g", true), newInbox()
	attempts := 0
	subscribe(t, k, Subscribe{Topic: "t", Handler: func(ctx context.Context, d *Delivery) error {
		if string(d.Data) == "m001" {
			if attempts++; attempts <= 3 {
				if d.Metadata["mine"] != "" {
					t.Error("an attempt sees the metadata of the one before")
				}
				d.Metadata["mine"] = "x"
				if got := committed(c, "g", "t"); got > 1 {
					t.Errorf("offset %d is committed while the message at 1 has no verdict", got)
				}
				return errRejected
			}
		}
		return in.accept(ctx, d)
	}})
	publish(t, p, "t", nil, numbered(5)...)
	in.expect(t, numbered(5)...)
	if attempts != 4 {
		t.Errorf("%d attempts, want 4", attempts)
	}
	awaitCommit(t, c, "g", "t", 5)
}

func TestRetriesEnd(t *testing.T) {
	for _, tc := range []struct {
		name  string
		retry bool
		max   string
		calls int32
	}{{"off", false, "-1", 1}, {"exhausted", true, "2", 3}} {
		t.Run(tc.name, func(t *testing.T) {
			c, addr := cluster(t, kfake.SeedTopics(1, "t"))
			cl := mustClient(t, map[string]string{"brokers": addr, "backOffMaxRetries": tc.max})
			p, k, in := producer(t, cl), consumer(t, cl, "g", tc.retry), newInbox()
			var calls atomic.Int32
			subscribe(t, k, Subscribe{Topic: "t", Handler: func(ctx context.Context, d *Delivery) error {
				if string(d.Data) == "bad" {
					calls.Add(1)
					return errRejected
				}
				return in.accept(ctx, d)
			}})
			publish(t, p, "t", nil, "a", "bad", "b", "bad")
			in.expect(t, "a", "b")
			await(t, "the attempts", func() bool { return calls.Load() == 2*tc.calls })
			// The last one was not processed, so its offset is not committed.
			awaitCommit(t, c, "g", "t", 3)
			if err := k.Close(); err != nil {
				t.Fatal(err)
			}
			if got := committed(c, "g", "t"); got != 3 {
				t.Errorf("offset %d is committed, want 3", got)
			}
		})
	}
}

// Closing commits what was processed and leaves what was not, also when the handler was running.
func TestCloseIsExact(t *testing.T) {
	for _, obeys := range []bool{true, false} {
		t.Run(fmt.Sprintf("context obeyed %v", obeys), func(t *testing.T) {
			c, addr := cluster(t, kfake.SeedTopics(1, "t"))
			cl := mustClient(t, map[string]string{"brokers": addr})
			p, k, in := producer(t, cl), consumer(t, cl, "g", true), newInbox()
			held := make(chan struct{})
			s := subscribe(t, k, Subscribe{Topic: "t", Handler: func(ctx context.Context, d *Delivery) error {
				if string(d.Data) == "m003" {
					close(held)
					<-ctx.Done()
					if obeys {
						return ctx.Err()
					}
				}
				return in.accept(ctx, d)
			}})
			publish(t, p, "t", nil, numbered(6)...)
			<-held
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			want := int64(3)
			if !obeys { // it was processed all the same
				want = 4
			}
			if got := committed(c, "g", "t"); got != want {
				t.Errorf("offset %d is committed, want %d", got, want)
			}
			again := newInbox()
			subscribe(t, k, Subscribe{Topic: "t", Handler: again.accept})
			again.expect(t, numbered(6)[want:]...)
		})
	}
}

// Members come and go while messages are handled: none is lost, and those of a partition keep their order.
func TestRebalance(t *testing.T) {
	for _, strategy := range []string{"range", "sticky", "roundrobin"} {
		t.Run(strategy, func(t *testing.T) {
			c, addr := cluster(t, kfake.SeedTopics(6, "t"))
			cl := mustClient(t, map[string]string{"brokers": addr, "consumerGroupRebalanceStrategy": strategy})
			p := producer(t, cl)
			const n = 600
			var mu sync.Mutex
			seen, last := map[string]int{}, map[string]string{}
			handler := func(_ context.Context, d *Delivery) error {
				mu.Lock()
				defer mu.Unlock()
				seen[string(d.Data)]++
				part := d.Metadata["__partition"]
				// Only a message that was seen before may come after a later one.
				if string(d.Data) < last[part] && seen[string(d.Data)] == 1 {
					t.Errorf("%s came after %s", d.Data, last[part])
				}
				last[part] = max(last[part], string(d.Data))
				return nil
			}
			stays := consumer(t, cl, "g", true)
			subscribe(t, stays, Subscribe{Topic: "t", Handler: handler})
			published := make(chan struct{})
			go func() {
				defer close(published)
				for i := range n {
					if err := p.Publish(within(t), "t", Message{Data: fmt.Appendf(nil, "m%04d", i), Metadata: map[string]string{"partitionNumber": fmt.Sprint(i % 6)}}); err != nil {
						t.Error(err)
					}
				}
			}()
			for range 3 {
				comes := cl.NewConsumer("g", true)
				subscribe(t, comes, Subscribe{Topic: "t", Handler: handler})
				if _, err := c.WaitGroupStable(within(t), "g", 2); err != nil {
					t.Error(err)
				}
				if err := comes.Close(); err != nil {
					t.Error(err)
				}
			}
			<-published
			await(t, "all messages", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(seen) == n
			})
			twice := 0
			for _, times := range seen {
				if times > 1 {
					twice++
				}
			}
			t.Logf("%d of %d messages came more than once", twice, n)
			if twice > n/10 {
				t.Errorf("%d of %d messages came more than once", twice, n)
			}
			total := int64(0)
			await(t, "the commits", func() bool {
				total = 0
				for _, commit := range c.GroupInfo("g").Commits["t"] {
					total += commit.Offset
				}
				return total == n
			})
		})
	}
}

// A handler that runs while the group divides its partitions anew may finish, and its message does not come again.
func TestRebalanceWaitsForHandlers(t *testing.T) {
	c, addr := cluster(t, kfake.SeedTopics(1, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr})
	p, in := producer(t, cl), newInbox()
	first := consumer(t, cl, "g", true)
	held, release := make(chan struct{}), make(chan struct{})
	subscribe(t, first, Subscribe{Topic: "t", Handler: func(ctx context.Context, d *Delivery) error {
		if string(d.Data) == "held" {
			close(held) // twice would panic
			<-release
		}
		return in.accept(ctx, d)
	}})
	publish(t, p, "t", nil, "held", "next")
	<-held
	joined := make(chan *Subscription, 1)
	second := consumer(t, cl, "g", true)
	go func() {
		s, err := second.Subscribe(within(t), Subscribe{Topic: "t", Handler: in.accept})
		if err != nil {
			t.Error(err)
		}
		joined <- s
	}()
	if _, err := c.WaitGroupInfo(within(t), "g", func(g *kfake.GroupInfo) bool { return g.State == "PreparingRebalance" }); err != nil {
		t.Fatal("the group is not being divided anew")
	}
	close(release)
	in.expect(t, "held", "next")
	<-joined
}

// The broker that holds the group refuses a commit and a heartbeat: the consumer joins again and loses nothing.
func TestGroupTrouble(t *testing.T) {
	c, addr := cluster(t, kfake.SeedTopics(1, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr})
	p, k := producer(t, cl), consumer(t, cl, "g", true)
	var mu sync.Mutex
	seen := map[string]bool{}
	subscribe(t, k, Subscribe{Topic: "t", Handler: func(_ context.Context, d *Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		seen[string(d.Data)] = true
		return nil
	}})
	for _, fault := range []kfake.Fault{
		{Keys: []kmsg.Key{kmsg.Heartbeat}, Group: "g", TopLevel: true, Err: kerr.UnknownMemberID},
		{Keys: []kmsg.Key{kmsg.Heartbeat}, Group: "g", TopLevel: true, Err: kerr.NotCoordinator},
		{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: "g", Err: kerr.IllegalGeneration},
		{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "t", Err: kerr.NotLeaderForPartition},
	} {
		h := c.Fault(fault)
		name := fmt.Sprint(fault.Err)
		publish(t, p, "t", nil, name)
		await(t, "the fault "+name, func() bool { return h.Hits() > 0 })
		publish(t, p, "t", nil, name+" over")
		await(t, "the messages at "+name, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return seen[name] && seen[name+" over"]
		})
	}
	awaitCommit(t, c, "g", "t", 8)
}

func TestSubscriptionsOfOneTopic(t *testing.T) {
	_, addr := cluster(t, kfake.SeedTopics(2, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr})
	p, k, a, b := producer(t, cl), consumer(t, cl, "g", true), newInbox(), newInbox()
	first := subscribe(t, k, Subscribe{Topic: "t", Handler: a.accept})
	subscribe(t, k, Subscribe{Topic: "t", Handler: b.accept})
	publish(t, p, "t", map[string]string{"partitionNumber": "0"}, "zero")
	publish(t, p, "t", map[string]string{"partitionNumber": "1"}, "one")
	a.expect(t, "zero")
	b.expect(t, "one")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	publish(t, p, "t", map[string]string{"partitionNumber": "0"}, "again")
	b.expect(t, "again")
	if len(a) > 0 {
		t.Error("the closed subscription got a message")
	}
}

func TestPause(t *testing.T) {
	_, addr := cluster(t, kfake.SeedTopics(1, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr})
	p, k, in := producer(t, cl), consumer(t, cl, "g", true), newInbox()
	s := subscribe(t, k, Subscribe{Topic: "t", Handler: in.accept})
	publish(t, p, "t", nil, "before")
	in.expect(t, "before")
	s.Pause()
	publish(t, p, "t", nil, "paused")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if len(in) > 0 {
		t.Error("a message came after Pause")
	}
	subscribe(t, k, Subscribe{Topic: "t", Handler: in.accept})
	in.expect(t, "paused")
}

func TestSubscribeRefused(t *testing.T) {
	_, addr := cluster(t, kfake.SeedTopics(1, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr})
	k := cl.NewConsumer("g", true)
	for _, tc := range []struct {
		name     string
		consumer *Consumer
		req      Subscribe
		words    []string
	}{
		{"no topic", k, Subscribe{}, []string{"no topic"}},
		{"schema type", k, Subscribe{Topic: "t", SchemaType: "json"}, []string{"valueSchemaType", "json", "avro"}},
		{"no registry", k, Subscribe{Topic: "t", SchemaType: "Avro"}, []string{"schemaRegistryURL"}},
		{"no group", cl.NewConsumer("", true), Subscribe{Topic: "t"}, []string{"consumerGroup", "consumerID"}},
		{"brokers away", mustClient(t, map[string]string{"brokers": "127.0.0.1:1"}).NewConsumer("g", true), Subscribe{Topic: "t"}, []string{"127.0.0.1:1", "running"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			tc.req.Handler = newInbox().accept
			_, err := tc.consumer.Subscribe(ctx, tc.req)
			expectError(t, err, tc.words...)
		})
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Subscribe(t.Context(), Subscribe{Topic: "t", Handler: newInbox().accept}); err != ErrClosed {
		t.Errorf("subscribing to a closed consumer: %v, want %v", err, ErrClosed)
	}
}

// Without a handler's verdict the partition is not fetched without end.
func TestBacklogIsBounded(t *testing.T) {
	_, addr := cluster(t, kfake.SeedTopics(1, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr, "channelBufferSize": "10", "consumerFetchDefault": "2000", "initialOffset": "oldest"})
	p, k := producer(t, cl), consumer(t, cl, "g", true)
	// One by one, so that each is a batch of its own, which is the least that is fetched.
	values := numbered(300)
	for _, v := range values {
		publish(t, p, "t", nil, v+strings.Repeat(".", 500))
	}
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	in := newInbox()
	subscribe(t, k, Subscribe{Topic: "t", Handler: func(ctx context.Context, d *Delivery) error {
		once.Do(func() { close(held) })
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		return in.accept(ctx, d)
	}})
	<-held
	worker := func() *worker {
		k.session.mu.Lock()
		defer k.session.mu.Unlock()
		return k.session.workers[topicPartition{"t", 0}]
	}()
	await(t, "the pause", func() bool {
		worker.mu.Lock()
		defer worker.mu.Unlock()
		return worker.paused
	})
	worker.mu.Lock()
	if n := len(worker.queue); n > 30 {
		t.Errorf("%d messages wait, though channelBufferSize is 10", n)
	}
	worker.mu.Unlock()
	close(release)
	for _, v := range values {
		if got := string(in.next(t).Data[:4]); got != v {
			t.Fatalf("%s came, want %s", got, v)
		}
	}
}
