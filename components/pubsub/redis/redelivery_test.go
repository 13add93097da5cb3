package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/test/servers"
)

var errRejected = errors.New("rejected by the test")

// TestVerdicts checks when a message is acknowledged: after the handler has succeeded and not before, and never when it failed.
func TestVerdicts(t *testing.T) {
	b := open(t, properties{"redisHost": servers.Redis(t).Addr, "consumerID": "app", "processingTimeout": "1h", "redeliverInterval": "20ms"})
	topic := freshTopic(t)
	release := make(chan struct{})
	var c tally
	subscribe(t, b, topic, c.handler(func(ctx context.Context, text string, attempt int) error {
		if text == "bad" {
			return errRejected
		}
		return hold(release)(ctx, text, attempt)
	}))
	publish(t, b, topic, "held", "bad")
	c.await(t, "held", "bad")
	if n := pending(t, b, topic, "app"); n != 2 {
		t.Errorf("%d messages are pending before a verdict, want 2", n)
	}
	close(release)
	waitFor(t, "one acknowledgement", func() bool { return pending(t, b, topic, "app") < 2 })
	publish(t, b, topic, "later")
	c.await(t, "later")
	waitFor(t, "another acknowledgement", func() bool { return pending(t, b, topic, "app") < 2 })
	if n := pending(t, b, topic, "app"); n != 1 {
		t.Errorf("%d messages are pending, want the one that failed", n)
	}
	// It stays so until processingTimeout is over, which is far away.
	if n := c.times("bad"); n != 1 {
		t.Errorf("the message that failed came %d times before processingTimeout was over", n)
	}
}

// TestRejectedComesAgain checks that a message comes until it succeeds, not before processingTimeout, and not forever.
func TestRejectedComesAgain(t *testing.T) {
	const timeout = 300 * time.Millisecond
	b := open(t, properties{"redisHost": servers.Redis(t).Addr, "consumerID": "app", "processingTimeout": timeout.String(), "redeliverInterval": "20ms"})
	topic := freshTopic(t)
	var attempts atomic.Int64
	fourth := make(chan time.Time, 1)
	subscribe(t, b, topic, func(_ context.Context, msg *pubsub.Message) error {
		if string(msg.Data) != "payload" || msg.Metadata["k"] != "v" {
			t.Errorf("the message came as %q with %v", msg.Data, msg.Metadata)
		}
		switch attempts.Add(1) {
		case 4:
			fourth <- time.Now()
			return nil
		case 5:
			t.Error("the message came again after it had been processed")
			return nil
		}
		return errRejected
	})
	start := time.Now()
	if err := b.Publish(limited(t), pubsub.PublishRequest{Topic: topic, Data: []byte("payload"), Metadata: map[string]string{"k": "v"}}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the fourth attempt", func() bool { return attempts.Load() == 4 })
	waitFor(t, "the acknowledgement", func() bool { return pending(t, b, topic, "app") == 0 })
	// The server counts from delivery to delivery, in milliseconds.
	if took := (<-fourth).Sub(start); took < 3*(timeout-2*time.Millisecond) {
		t.Errorf("the fourth attempt came after %v, although processingTimeout is %v", took, timeout)
	}
}

// TestNeverAgain checks that 0 switches redelivery off.
func TestNeverAgain(t *testing.T) {
	server := servers.Redis(t)
	for name, more := range map[string]properties{
		"processingTimeout": {"processingTimeout": "0", "redeliverInterval": "10ms"},
		"redeliverInterval": {"processingTimeout": "10ms", "redeliverInterval": "0"},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, properties{"redisHost": server.Addr, "consumerID": "app"}.with(more))
			topic := freshTopic(t)
			var c tally
			subscribe(t, b, topic, c.handler(func(_ context.Context, text string, _ int) error {
				if text == "bad" {
					return errRejected
				}
				return nil
			}))
			publish(t, b, topic, "bad")
			c.await(t, "bad")
			for n := range 20 { // as time passes, which others measure by what happens
				text := strconv.Itoa(n)
				publish(t, b, topic, text)
				c.await(t, text)
				waitFor(t, "the acknowledgement", func() bool { return pending(t, b, topic, "app") == 1 })
			}
			idle := func() int64 {
				rows, err := command(t, b, "XPENDING", topic, "app", "-", "+", "10").ToArray()
				if err != nil || len(rows) != 1 {
					t.Fatalf("%v pending, %v", rows, err)
				}
				row, err := rows[0].ToArray()
				if err != nil {
					t.Fatal(err)
				}
				ms, err := row[2].AsInt64()
				if err != nil {
					t.Fatal(err)
				}
				return ms
			}
			waitFor(t, "the message to be idle for many intervals", func() bool { return idle() > 200 })
			if n := c.times("bad"); n != 1 {
				t.Errorf("the message came %d times", n)
			}
		})
	}
}

// TestLongHandler checks that a message in hand is nobody else's, however long the handler takes.
func TestLongHandler(t *testing.T) {
	p := properties{"redisHost": servers.Redis(t).Addr, "consumerID": "app", "processingTimeout": "1500ms", "redeliverInterval": "20ms"}
	b, other := open(t, p), open(t, p)
	topic := freshTopic(t)
	release := make(chan struct{})
	var c tally // of both
	began := make(chan struct{}, 10)
	subscribe(t, b, topic, c.handler(func(ctx context.Context, text string, attempt int) error {
		began <- struct{}{}
		return hold(release)(ctx, text, attempt)
	}))
	publish(t, b, topic, "long")
	<-began
	subscribe(t, other, topic, c.handler(nil))
	start := time.Now()
	waitFor(t, "several times processingTimeout to pass", func() bool { return time.Since(start) > 4*time.Second })
	close(release)
	waitFor(t, "the acknowledgement", func() bool { return pending(t, b, topic, "app") == 0 })
	if n := c.times("long"); n != 1 {
		t.Errorf("the message came %d times while its handler ran", n)
	}
}

// TestCloseGivesBack checks that messages without a verdict are the next consumer's at once, whether their handlers ran or not.
func TestCloseGivesBack(t *testing.T) {
	p := properties{"redisHost": servers.Redis(t).Addr, "consumerID": "app", "processingTimeout": "1h", "redeliverInterval": "1h", "concurrency": "2", "queueDepth": "3"}
	topic := freshTopic(t)
	b := open(t, p)
	var first, second tally
	s := subscribe(t, b, topic, first.handler(hold(nil)))
	var texts []string
	for n := range 20 {
		texts = append(texts, fmt.Sprint(n))
	}
	publish(t, b, topic, texts...)
	waitFor(t, "handlers", func() bool { return first.total() == 2 })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if first.running != 0 || first.total() > 2 {
		t.Errorf("%d handlers run and %d were called when Close has returned", first.running, first.total())
	}
	next := open(t, p)
	subscribe(t, next, topic, second.handler(nil))
	second.await(t, texts...)
	waitFor(t, "the acknowledgements", func() bool { return pending(t, next, topic, "app") == 0 })
	if n := second.total(); n != len(texts) {
		t.Errorf("%d messages came %d times", len(texts), n)
	}
}

// TestLeftByOthers checks that messages are taken over which a sidecar left that ended without a word, however many.
func TestLeftByOthers(t *testing.T) {
	b := open(t, properties{"redisHost": servers.Redis(t).Addr, "consumerID": "app", "processingTimeout": "200ms", "redeliverInterval": "50ms", "queueDepth": "30"})
	topic := freshTopic(t)
	const messages = 2*pendingPage + 500
	var texts []string
	for n := range messages {
		texts = append(texts, fmt.Sprint(n))
	}
	publish(t, b, topic, texts...)
	if err := command(t, b, "XGROUP", "CREATE", topic, "app", "0").Error(); err != nil {
		t.Fatal(err)
	}
	ctx := limited(t)
	read := b.client.B().Arbitrary("XREADGROUP", "GROUP", "app", "dead", "COUNT", fmt.Sprint(messages), "STREAMS").Keys(topic).Args(">").Build()
	if err := b.client.Do(ctx, read).Error(); err != nil {
		t.Fatal(err)
	}
	// Some of them are no longer in the stream.
	entries, err := command(t, b, "XRANGE", topic, "-", "+").AsXRangeSlices()
	if err != nil || len(entries) != messages {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for _, n := range []int{0, 7, messages - 1} {
		if err := command(t, b, "XDEL", topic, entries[n].ID).Error(); err != nil {
			t.Fatal(err)
		}
	}
	var c tally
	subscribe(t, b, topic, c.handler(nil))
	waitFor(t, "all to be acknowledged", func() bool { return pending(t, b, topic, "app") == 0 })
	for n, text := range texts {
		want := 1
		if n == 0 || n == 7 || n == messages-1 {
			want = 0
		}
		if got := c.times(text); got != want {
			t.Errorf("message %s came %d times, want %d", text, got, want)
		}
	}
}

// TestConcurrency checks that so many handlers run at a time as the metadata says, over all topics, and no more.
func TestConcurrency(t *testing.T) {
	b := open(t, properties{"redisHost": servers.Redis(t).Addr, "consumerID": "app", "concurrency": "3", "queueDepth": "5"})
	one, two := freshTopic(t), freshTopic(t)
	release := make(chan struct{})
	var c tally
	for _, topic := range []string{one, two} {
		subscribe(t, b, topic, c.handler(hold(release)))
	}
	for n := range 40 {
		publish(t, b, one, fmt.Sprintf("one-%d", n))
		publish(t, b, two, fmt.Sprintf("two-%d", n))
	}
	waitFor(t, "three handlers", func() bool { return c.total() == 3 })
	// Beside those in hand the queue is full, and each topic has read once more.
	waitFor(t, "full queues", func() bool { return pending(t, b, one, "app")+pending(t, b, two, "app") >= 3+5 })
	if n := pending(t, b, one, "app") + pending(t, b, two, "app"); n > 3+5+2*5 {
		t.Errorf("%d messages were read, more than there is room for", n)
	}
	close(release)
	waitFor(t, "all messages", func() bool { return c.total() == 80 })
	if c.most != 3 {
		t.Errorf("%d handlers ran at a time, want 3", c.most)
	}
}

// TestSeveralForOneTopic checks that subscriptions to the same topic of one component share its messages.
func TestSeveralForOneTopic(t *testing.T) {
	b := open(t, properties{"redisHost": servers.Redis(t).Addr, "consumerID": "app", "processingTimeout": "500ms", "redeliverInterval": "20ms"})
	topic := freshTopic(t)
	var c tally
	verdict := func(_ context.Context, text string, attempt int) error {
		if text == "7" && attempt == 1 {
			return errRejected
		}
		return nil
	}
	s := subscribe(t, b, topic, c.handler(verdict))
	subscribe(t, b, topic, c.handler(verdict))
	for n := range 100 {
		publish(t, b, topic, fmt.Sprint(n))
	}
	waitFor(t, "all to be acknowledged", func() bool { return c.times("7") > 1 && pending(t, b, topic, "app") == 0 })
	if n := c.total(); n != 101 {
		t.Errorf("100 messages came %d times, want one twice", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	publish(t, b, topic, "after")
	c.await(t, "after")
}
