package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"google.golang.org/grpc/codes"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/rabbitmqclient/rabbitmqtest"
	"outrigger.dev/test/servers"
)

func TestPublishedProperties(t *testing.T) {
	s := servers.RabbitMQ(t)
	ch := rabbitmqtest.Admin(t, s)
	for _, test := range []struct {
		name     string
		p        props
		metadata props
		key      string
		want     amqp.Delivery
	}{
		{"defaults", nil, nil, "", amqp.Delivery{ContentType: "text/plain"}},
		{"all", nil, props{
			"routingKey": "a.b", "priority": "7", "ttlInSeconds": "90", "contentType": "application/json",
			"messageID": "m1", "correlationID": "c1", "type": "t1", "other": "is not sent",
		}, "a.*", amqp.Delivery{RoutingKey: "a.b", Priority: 7, Expiration: "90000", ContentType: "application/json", MessageId: "m1", CorrelationId: "c1", Type: "t1"}},
		{"in any case", nil, props{"ROUTINGKEY": "a.b", "Priority": "1", "messageid": "m"}, "a.b", amqp.Delivery{RoutingKey: "a.b", ContentType: "text/plain", Priority: 1, MessageId: "m"}},
		{"priority above", nil, props{"priority": "99999999999999999999"}, "", amqp.Delivery{ContentType: "text/plain", Priority: 255}},
		{"priority below", nil, props{"priority": "-4"}, "", amqp.Delivery{ContentType: "text/plain"}},
		{"TTL of the component", props{"ttlInSeconds": "60"}, nil, "", amqp.Delivery{ContentType: "text/plain", Expiration: "60000"}},
		{"TTL of the message wins", props{"ttlInSeconds": "60"}, props{"ttl": "1500ms"}, "", amqp.Delivery{ContentType: "text/plain", Expiration: "1500"}},
		{"TTL longer than the broker counts", nil, props{"ttlInSeconds": "99999999999"}, "", amqp.Delivery{ContentType: "text/plain", Expiration: "4294967295"}},
		{"persistent", props{"deliveryMode": "2"}, nil, "", amqp.Delivery{ContentType: "text/plain", DeliveryMode: 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := props{"exchangeKind": "topic", "publisherConfirm": "true"}
			for k, v := range test.p {
				p[k] = v
			}
			b, topic := open(t, s, p), topicName(t)
			publish(t, b, topic, "nobody hears this", test.metadata) // makes the exchange
			key := test.key
			queue := bound(t, ch, topic, key, nil)
			publish(t, b, topic, "body", test.metadata)
			got := next(t, ch, queue)
			want := test.want
			if string(got.Body) != "body" || got.Exchange != topic || got.RoutingKey != want.RoutingKey || got.Priority != want.Priority ||
				got.Expiration != want.Expiration || got.ContentType != want.ContentType || got.MessageId != want.MessageId ||
				got.CorrelationId != want.CorrelationId || got.Type != want.Type || got.DeliveryMode != want.DeliveryMode || len(got.Headers) != 0 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestPublishRefusals(t *testing.T) {
	s := servers.RabbitMQ(t)
	long := strings.Repeat("x", 256)
	other := topicName(t)
	if err := rabbitmqtest.Admin(t, s).ExchangeDeclare(other, "direct", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	b := open(t, s, nil)
	for _, test := range []struct {
		name, topic string
		metadata    props
		want        string
	}{
		{"no topic", "", nil, "topic is empty"},
		{"long topic", long, nil, "256 bytes"},
		{"long key", "t", props{"routingKey": long}, "routingKey has 256 bytes"},
		{"priority", "t", props{"priority": "high"}, `priority is "high"`},
		{"exchange of another kind", other, nil, "make exchangeKind, durable and deletedWhenUnused match"},
		{"reserved name", "amq.mine", nil, "ACCESS_REFUSED"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantCode(t, tryPublish(t, b, test.topic, "m", test.metadata), codes.FailedPrecondition, test.want)
		})
	}
	// The broker closed a channel over some of these.
	topic := topicName(t)
	in := subscribe(t, b, topic, nil, nil)
	publish(t, b, topic, "m", nil)
	in.want(t, "m")
}

func TestNegativeConfirm(t *testing.T) {
	s := servers.RabbitMQ(t)
	b, topic := open(t, s, props{"publisherConfirm": "true"}), topicName(t)
	ch := rabbitmqtest.Admin(t, s)
	publish(t, b, topic, "makes the exchange", nil)
	queue := bound(t, ch, topic, "", amqp.Table{amqp.QueueMaxLenArg: 1, amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish})
	publish(t, b, topic, "fits", nil)
	wantCode(t, tryPublish(t, b, topic, "does not", nil), codes.Unavailable, "refuses the message", topic, s.Addr)
	next(t, ch, queue)
	rabbitmqtest.Eventually(t, "room again", func() error { return tryPublish(t, b, topic, "fits again", nil) })
}

// TestExchangeVanishes is what happens when the last queue of an exchange that is deleted when unused goes.
func TestExchangeVanishes(t *testing.T) {
	s := servers.RabbitMQ(t)
	b := open(t, s, props{"publisherConfirm": "true"})
	topic := topicName(t)
	in := subscribe(t, b, topic, nil, nil)
	for i := range 3 * laneCount {
		publish(t, b, topic, fmt.Sprint(i), nil)
	}
	in.close(t)
	ch := rabbitmqtest.Admin(t, s)
	rabbitmqtest.Eventually(t, "the exchange is gone", func() error {
		err := ch.ExchangeDeclarePassive(topic, "fanout", true, true, false, false, nil)
		if err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	publish(t, b, topic, "on its own again", nil)
	in = subscribe(t, b, topic, nil, nil)
	publish(t, b, topic, "back", nil)
	in.want(t, "back")
}

func TestConcurrentPublishers(t *testing.T) {
	s := servers.RabbitMQ(t)
	for _, confirm := range []string{"true", "false"} {
		t.Run("publisherConfirm="+confirm, func(t *testing.T) {
			b, topic := open(t, s, props{"publisherConfirm": confirm}), topicName(t)
			in := subscribe(t, b, topic, nil, nil)
			const publishers, each = 16, 250
			began := time.Now()
			var work sync.WaitGroup
			for p := range publishers {
				work.Go(func() {
					for i := range each {
						if err := tryPublish(t, b, topic, fmt.Sprintf("%d-%d", p, i), nil); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			work.Wait()
			t.Logf("%.0f messages per second", publishers*each/time.Since(began).Seconds())
			seen := map[string]bool{}
			for range publishers * each {
				seen[in.take(t)] = true
			}
			if len(seen) != publishers*each {
				t.Errorf("%d different messages, want %d", len(seen), publishers*each)
			}
		})
	}
}

// gate is a connection to a server whose answers can be held up.
type gate struct {
	net.Listener
	shut  atomic.Bool
	mu    sync.Mutex
	conns []net.Conn
	work  sync.WaitGroup
}

func newGate(t *testing.T, addr string) *gate {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Listener: l}
	t.Cleanup(func() {
		l.Close()
		g.cut()
		g.work.Wait()
	})
	g.work.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", addr)
			if err != nil {
				near.Close()
				continue
			}
			g.mu.Lock()
			g.conns = append(g.conns, near, far)
			g.mu.Unlock()
			g.work.Go(func() { io.Copy(far, near); far.Close() })
			g.work.Go(func() {
				defer near.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := far.Read(buf)
					if err != nil {
						return
					}
					if g.shut.Load() {
						continue // answers get lost
					}
					if _, err := near.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return g
}

// cut ends all connections.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.Close()
	}
	g.conns = nil
}

func TestUnansweredConfirm(t *testing.T) {
	s := servers.RabbitMQ(t)
	g := newGate(t, s.Addr)
	b := open(t, s, props{"publisherConfirm": "true", "connectionString": "amqp://guest:guest@" + g.Addr().String()})
	topic := topicName(t)
	for range laneCount {
		publish(t, b, topic, "makes the exchange", nil)
	}
	g.shut.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- b.Publish(ctx, pubsub.PublishRequest{Topic: topic}) }()
	select {
	case err := <-result:
		t.Fatalf("published: %v", err)
	case <-time.After(200 * time.Millisecond): // it must not end by itself
	}
	cancel()
	select {
	case err := <-result:
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
	case <-time.After(rabbitmqtest.Patience):
		t.Fatal("publishing does not end with its context")
	}
	// Once the broker can be heard again, publishing goes on.
	g.shut.Store(false)
	g.cut()
	publish(t, b, topic, "m", nil)
}

func TestLostConnection(t *testing.T) {
	s := servers.RabbitMQ(t)
	for _, confirm := range []string{"true", "false"} {
		t.Run("publisherConfirm="+confirm, func(t *testing.T) {
			g := newGate(t, s.Addr)
			b := open(t, s, props{"publisherConfirm": confirm, "connectionString": "amqp://guest:guest@" + g.Addr().String(), "deletedWhenUnused": "false", "durable": "false"})
			topic := topicName(t)
			in := subscribe(t, b, topic, nil, nil)
			publish(t, b, topic, "before", nil)
			in.want(t, "before")
			for i := range 3 {
				old, err := b.publishing.Connection(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				g.cut()
				// Without confirmations what is published before is lost, as nobody can know.
				rabbitmqtest.Eventually(t, "the loss is noticed", func() error {
					if !old.IsClosed() {
						return errors.New("not yet")
					}
					return nil
				})
				text := fmt.Sprint("after ", i)
				publish(t, b, topic, text, nil)
				for in.take(t) != text { // one that was not acknowledged may come again
				}
			}
		})
	}
}

// TestBlocked is a broker that is out of memory, or thinks so.
func TestBlocked(t *testing.T) {
	s := servers.RabbitMQ(t, servers.Own(), servers.Setting("vm_memory_high_watermark.absolute", "1KB"))
	b := open(t, s, props{"publisherConfirm": "true"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := b.Publish(ctx, pubsub.PublishRequest{Topic: "t", Data: []byte("m")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v, want that of the deadline", err)
	}
	rabbitmqtest.Eventually(t, "the alarm is known", func() error {
		c, err := b.publishing.Connection(t.Context())
		if err != nil {
			return err
		}
		if _, blocked := c.Blocked(); !blocked {
			return errors.New("not blocked")
		}
		return nil
	})
	// Now there is no need to wait for what will not come.
	wantCode(t, tryPublish(t, b, "t", "m", nil), codes.Unavailable, "takes no messages at the moment", "memory")
	began := time.Now()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	t.Log("closed in", time.Since(began))
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("closing took %s", took)
	}
}

// TestTooLarge is a message that is larger than the broker takes, among others that are not.
func TestTooLarge(t *testing.T) {
	const most = 1 << 20
	s := servers.RabbitMQ(t, servers.Setting("max_message_size", fmt.Sprint(most)))
	for _, confirm := range []string{"true", "false"} {
		t.Run("publisherConfirm="+confirm, func(t *testing.T) {
			b, topic := open(t, s, props{"publisherConfirm": confirm}), topicName(t)
			in := subscribe(t, b, topic, nil, nil)
			var published sync.Map
			for round := range 3 {
				var work sync.WaitGroup
				for i := range 2 * laneCount {
					work.Go(func() {
						text := fmt.Sprintf("%d-%d", round, i)
						if err := tryPublish(t, b, topic, text, nil); err != nil {
							t.Error(err)
						}
						published.Store(text, true)
					})
				}
				err := tryPublish(t, b, topic, strings.Repeat("x", most+1), nil)
				wantCode(t, err, codes.FailedPrecondition, "1048577 bytes", "at most 1048576", "max_message_size", topic, s.Addr)
				work.Wait()
			}
			publish(t, b, topic, strings.Repeat("y", most), nil)
			if confirm == "false" {
				// What was on its way when the channel was closed is lost then, which is what confirmations are for.
				publish(t, b, topic, "last", nil)
				for in.take(t) != "last" {
				}
				return
			}
			waiting := map[string]bool{strings.Repeat("y", most): true}
			published.Range(func(text, _ any) bool { waiting[text.(string)] = true; return true })
			for len(waiting) > 0 {
				delete(waiting, in.take(t))
			}
		})
	}
}

// TestRefusedExchange is an exchange that clients must not publish to.
func TestRefusedExchange(t *testing.T) {
	s := servers.RabbitMQ(t)
	b, topic, other := open(t, s, props{"publisherConfirm": "true"}), topicName(t), topicName(t)
	in := subscribe(t, b, other, nil, nil)
	publish(t, b, topic, "makes the exchange", nil)
	ch := rabbitmqtest.Admin(t, s)
	if err := ch.ExchangeDelete(topic, false, false); err != nil {
		t.Fatal(err)
	}
	if err := ch.ExchangeDeclare(topic, "fanout", true, true, true, false, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 * laneCount {
		var work sync.WaitGroup
		work.Go(func() {
			if err := tryPublish(t, b, other, "m", nil); err != nil {
				t.Error(err)
			}
		})
		wantCode(t, tryPublish(t, b, topic, "m", nil), codes.FailedPrecondition, topic)
		work.Wait()
		in.take(t)
	}
}

// FuzzMessage sends nothing over a connection that would end it.
func FuzzMessage(f *testing.F) {
	f.Add("topic", "routingKey", "a.b", "ttlInSeconds", "5")
	f.Add("t", "PRIORITY", "-7", "ttl", "-1s")
	f.Add("", "contentType", "", "type", strings.Repeat("x", 300))
	f.Fuzz(func(t *testing.T, topic, name1, value1, name2, value2 string) {
		b := &Broker{}
		key, msg, err := b.message(pubsub.PublishRequest{Topic: topic, Metadata: props{name1: value1, name2: value2}})
		if err != nil {
			return
		}
		for _, text := range []string{topic, key, msg.ContentType, msg.CorrelationId, msg.MessageId, msg.Type, msg.Expiration} {
			if len(text) > nameLimit {
				t.Errorf("%q is too long", text)
			}
		}
		if msg.Expiration != "" && (strings.Trim(msg.Expiration, "0123456789") != "" || len(msg.Expiration) > 10) {
			t.Errorf("expiration %q", msg.Expiration)
		}
		if topic == "" || msg.ContentType == "" {
			t.Errorf("topic %q, content type %q", topic, msg.ContentType)
		}
	})
}
