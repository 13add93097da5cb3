package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/test/servers"
)

// TestGroupVanishes checks that a subscription goes on when its group or the whole stream is deleted.
func TestGroupVanishes(t *testing.T) {
	server := servers.Redis(t, servers.Own())
	for name, vanish := range map[string]func(b *Broker, topic string) error{
		"group":  func(b *Broker, topic string) error { return command(t, b, "XGROUP", "DESTROY", topic, "app").Error() },
		"stream": func(b *Broker, topic string) error { return command(t, b, "DEL", topic).Error() },
		"all": func(b *Broker, _ string) error {
			return b.client.Do(limited(t), b.client.B().Flushall().Build()).Error()
		},
		"renamed": func(b *Broker, topic string) error { return command(t, b, "RENAME", topic, topic+"-old").Error() },
		"replaced": func(b *Broker, topic string) error {
			return errors.Join(command(t, b, "DEL", topic).Error(), command(t, b, "SET", topic, "x").Error(), command(t, b, "DEL", topic).Error())
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, properties{"redisHost": server.Addr, "consumerID": "app", "processingTimeout": "400ms", "redeliverInterval": "50ms"})
			topic := freshTopic(t)
			var c tally
			release := make(chan struct{})
			subscribe(t, b, topic, c.handler(func(ctx context.Context, text string, attempt int) error {
				if text == "held" {
					return hold(release)(ctx, text, attempt)
				}
				if text == "bad" && attempt == 1 {
					return errRejected
				}
				return nil
			}))
			publish(t, b, topic, "before", "held")
			c.await(t, "before", "held")
			for round := range 3 {
				if err := vanish(b, topic); err != nil {
					t.Fatal(err)
				}
				text := fmt.Sprintf("after-%d", round)
				publish(t, b, topic, text)
				c.await(t, text)
			}
			close(release)
			publish(t, b, topic, "bad", "last")
			c.await(t, "last")
			waitFor(t, "the redelivery", func() bool { return c.times("bad") >= 2 })
			waitFor(t, "the acknowledgements", func() bool { return pending(t, b, topic, "app") == 0 })
		})
	}
}

// TestServerForgets checks that a subscription goes on when the server comes back without its data.
func TestServerForgets(t *testing.T) {
	server := servers.Redis(t, servers.Own())
	b := open(t, properties{"redisHost": server.Addr, "consumerID": "app"})
	topic := freshTopic(t)
	var c tally
	subscribe(t, b, topic, c.handler(nil))
	publish(t, b, topic, "before")
	c.await(t, "before")
	server.Kill()
	server.Start()
	publishStubborn(t, b, topic, "after")
	c.await(t, "after")
	waitFor(t, "the acknowledgement", func() bool { return pending(t, b, topic, "app") == 0 })
}

// TestVerdictWaits checks that what was processed while the server was away is acknowledged when it is back, and does not come again.
func TestVerdictWaits(t *testing.T) {
	server := servers.Redis(t, servers.Own(), servers.Durable())
	b := open(t, properties{"redisHost": server.Addr, "consumerID": "app", "processingTimeout": "1s", "redeliverInterval": "50ms"})
	topic := freshTopic(t)
	release := make(chan struct{})
	var c tally
	subscribe(t, b, topic, c.handler(hold(release)))
	texts := []string{"1", "2", "3", "4", "5"}
	publish(t, b, topic, texts...)
	c.await(t, texts...)
	server.Kill()
	close(release)
	waitFor(t, "the handlers to return", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.running == 0
	})
	server.Start()
	waitFor(t, "the acknowledgements", func() bool { return pending(t, b, topic, "app") == 0 })
	if n := c.total(); n != len(texts) {
		t.Errorf("%d messages came %d times", len(texts), n)
	}
}

// TestCloseWithoutServer checks that Close is bounded and says nothing wrong when there is nobody to tell.
func TestCloseWithoutServer(t *testing.T) {
	server := servers.Redis(t, servers.Own(), servers.Durable())
	p := properties{"redisHost": server.Addr, "consumerID": "app", "processingTimeout": "300ms", "redeliverInterval": "50ms"}
	b, err := tryOpen(t, p)
	if err != nil {
		t.Fatal(err)
	}
	topic := freshTopic(t)
	release := make(chan struct{})
	var c tally
	subscribe(t, b, topic, c.handler(func(ctx context.Context, text string, attempt int) error {
		if text == "done" {
			<-release
			return nil
		}
		return hold(nil)(ctx, text, attempt)
	}))
	publish(t, b, topic, "done", "held")
	c.await(t, "done", "held")
	server.Stop()
	close(release)
	start := time.Now()
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if took := time.Since(start); took > 3*closeLimit {
		t.Errorf("Close took %v", took)
	}
	server.Start()
	// The server was told neither that the one is processed nor that the other is not, so both come again.
	next := open(t, p)
	var again tally
	subscribe(t, next, topic, again.handler(nil))
	again.await(t, "done", "held")
}

// TestSilentServer checks that a connection that passes nothing on any more, without an end, is noticed and replaced.
func TestSilentServer(t *testing.T) {
	server := servers.Redis(t)
	proxy := newProxy(t, server.Addr)
	direct := open(t, properties{"redisHost": server.Addr, "consumerID": "publisher"})
	b, err := tryOpen(t, properties{"redisHost": proxy.addr, "consumerID": "app", "readTimeout": "200ms", "processingTimeout": "1s", "redeliverInterval": "100ms"})
	if err != nil {
		t.Fatal(err)
	}
	topic := freshTopic(t)
	var c tally
	subscribe(t, b, topic, c.handler(nil))
	publish(t, direct, topic, "before")
	c.await(t, "before")
	proxy.silence(false)
	// What the server sends on the dead connection counts there as delivered, so it has to be taken over.
	publish(t, direct, topic, "lost", "lost too")
	c.await(t, "lost", "lost too")
	publish(t, direct, topic, "after")
	c.await(t, "after")
	waitFor(t, "the acknowledgements", func() bool { return pending(t, direct, topic, "app") == 0 })

	proxy.silence(true)
	start := time.Now()
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if took := time.Since(start); took > 4*closeLimit {
		t.Errorf("Close took %v while the server was silent", took)
	}
}

// TestFailover checks that publishing and subscriptions follow the master.
func TestFailover(t *testing.T) {
	watched := servers.RedisSentinel(t, servers.Own(), servers.Password("secret"))
	p := properties{
		"redisHost": watched.Sentinel.Addr, "failover": "true", "sentinelMasterName": watched.MasterName, "redisPassword": "secret",
		"consumerID": "app", "processingTimeout": "2s", "redeliverInterval": "200ms",
	}
	b := open(t, p)
	topic := freshTopic(t)
	var c tally
	subscribe(t, b, topic, c.handler(func(_ context.Context, text string, attempt int) error {
		if text == "bad" && attempt == 1 {
			return errRejected
		}
		return nil
	}))
	publish(t, b, topic, "before")
	c.await(t, "before")
	watched.Master().Kill()
	for n := range 20 {
		publishStubborn(t, b, topic, fmt.Sprintf("after-%d", n))
	}
	publishStubborn(t, b, topic, "bad")
	for n := range 20 {
		c.await(t, fmt.Sprintf("after-%d", n))
	}
	waitFor(t, "the redelivery", func() bool { return c.times("bad") >= 2 })
	waitFor(t, "the acknowledgements", func() bool { return pending(t, b, topic, "app") == 0 })
}

// TestManyRestarts kills the server again and again under load: no message that was taken may get lost.
func TestManyRestarts(t *testing.T) {
	server := servers.Redis(t, servers.Own(), servers.Durable())
	p := properties{"redisHost": server.Addr, "consumerID": "app", "processingTimeout": "1s", "redeliverInterval": "100ms"}
	b, other, publisher := open(t, p), open(t, p), open(t, p.with(properties{"consumerID": "publisher"}))
	topic := freshTopic(t)
	var c tally // of both
	flaky := func(_ context.Context, text string, attempt int) error {
		if attempt == 1 && strings.HasSuffix(text, "7") {
			return errRejected
		}
		return nil
	}
	subscribe(t, b, topic, c.handler(flaky))
	subscribe(t, other, topic, c.handler(flaky))
	stop, stopped := make(chan struct{}), make(chan struct{})
	var taken atomic.Int64
	go func() {
		defer close(stopped)
		for n := 0; ; {
			select {
			case <-stop:
				return
			default:
			}
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			if publisher.Publish(ctx, pubsub.PublishRequest{Topic: topic, Data: fmt.Append(nil, n)}) == nil {
				n++
				taken.Store(int64(n))
			}
			cancel()
		}
	}()
	for range 4 {
		goal := taken.Load() + 300
		waitFor(t, "messages", func() bool { return taken.Load() > goal })
		server.Kill()
		server.Start()
	}
	goal := taken.Load() + 100
	waitFor(t, "messages", func() bool { return taken.Load() > goal })
	close(stop)
	<-stopped
	missing := 0
	waitFor(t, "all messages that were taken", func() bool {
		for ; missing < int(taken.Load()); missing++ {
			text := fmt.Sprint(missing)
			if n := c.times(text); n == 0 || n == 1 && strings.HasSuffix(text, "7") {
				return false
			}
		}
		return true
	})
	waitFor(t, "the acknowledgements", func() bool { return pending(t, b, topic, "app") == 0 })
	t.Logf("%d messages came %d times", taken.Load(), c.total())
}
