package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"google.golang.org/grpc/codes"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/rabbitmqclient/rabbitmqtest"
	"outrigger.dev/test/servers"
)

// kept are options under which queues and messages outlive their subscribers.
func kept(more props) props {
	p := props{"deletedWhenUnused": "false", "deliveryMode": "2", "publisherConfirm": "true"}
	for k, v := range more {
		p[k] = v
	}
	return p
}

func TestTopology(t *testing.T) {
	s := servers.RabbitMQ(t)
	for _, test := range []struct {
		name                string
		p, metadata         props
		kind                string
		durable, autoDelete bool
		queue               string // with %s for the topic
		args                amqp.Table
	}{
		{"defaults", nil, nil, "fanout", true, true, "app-%s", amqp.Table{"x-queue-type": "classic"}},
		{"kept", props{"deletedWhenUnused": "false"}, nil, "fanout", true, false, "app-%s", nil},
		{"not durable", props{"durable": "false", "exchangeKind": "Headers"}, nil, "headers", false, true, "app-%s", nil},
		{"quorum", props{"deletedWhenUnused": "false"}, props{"queueType": "quorum"}, "fanout", true, false, "app-%s", amqp.Table{"x-queue-type": "quorum"}},
		{
			"limits",
			props{"exchangeKind": "direct", "maxLen": "5", "maxLenBytes": "500"},
			props{"queueName": "mine-%s", "maxLenBytes": "900", "maxPriority": "300", "singleActiveConsumer": "true"},
			"direct", true, true, "mine-%s",
			amqp.Table{"x-max-length": int64(5), "x-max-length-bytes": int64(900), "x-max-priority": uint8(255), "x-single-active-consumer": true},
		},
		{"dead letters", props{"enableDeadLetter": "true"}, props{"queueName": "q-%s"}, "fanout", true, true, "q-%s", amqp.Table{"x-dead-letter-exchange": "dlx-q-%s"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			topic := topicName(t)
			fill := func(text string) string { return strings.ReplaceAll(text, "%s", topic) }
			metadata := props{}
			for k, v := range test.metadata {
				metadata[k] = fill(v)
			}
			args := amqp.Table{}
			for k, v := range test.args {
				if text, ok := v.(string); ok {
					v = fill(text)
				}
				args[k] = v
			}
			subscribe(t, open(t, s, test.p), topic, metadata, nil)
			// Declaring again succeeds for the same properties only.
			ch := rabbitmqtest.Admin(t, s)
			if err := ch.ExchangeDeclare(topic, test.kind, test.durable, test.autoDelete, false, false, nil); err != nil {
				t.Error(err)
			}
			if _, err := ch.QueueDeclare(fill(test.queue), test.durable, test.autoDelete, false, false, args); err != nil {
				t.Error(err)
			}
			if test.p["enableDeadLetter"] != "" {
				if err := ch.ExchangeDeclare("dlx-"+fill(test.queue), "fanout", true, false, false, false, nil); err != nil {
					t.Error(err)
				}
				if _, err := ch.QueueDeclare("dlq-"+fill(test.queue), true, false, false, false, amqp.Table{"x-queue-mode": "lazy"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestSubscribeRefusals(t *testing.T) {
	s := servers.RabbitMQ(t)
	topic := topicName(t)
	if _, err := rabbitmqtest.Admin(t, s).QueueDeclare("app-"+topic, false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, topic string
		p, metadata props
		want        string
	}{
		{"no topic", "", nil, nil, "topic is empty"},
		{"no name", "t", props{"consumerID": ""}, nil, `"consumerID" is missing`},
		{"queue type", "t", nil, props{"queueType": "stream"}, `queueType is "stream", but must be classic or quorum`},
		{"quorum not durable", "t", props{"durable": "false"}, props{"queueType": "quorum"}, `"durable" to true`},
		{"quorum deleted", "t", props{"deletedWhenUnused": "true"}, props{"queueType": "quorum"}, `"deletedWhenUnused" to false`},
		{"quorum priorities", "t", nil, props{"queueType": "quorum", "maxPriority": "3"}, "no priorities"},
		{"maxLen", "t", nil, props{"maxLen": "many"}, `maxLen is "many"`},
		{"maxLenBytes", "t", nil, props{"maxLenBytes": "-1"}, `maxLenBytes is "-1"`},
		{"maxPriority", "t", nil, props{"maxPriority": "x"}, `maxPriority is "x"`},
		{"long name", "t", nil, props{"queueName": strings.Repeat("x", 252)}, "256 bytes"},
		{"queue of other properties", topic, nil, nil, "delete it or make durable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := open(t, s, test.p).Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: test.topic, Metadata: test.metadata}, nil)
			wantCode(t, err, codes.FailedPrecondition, test.want)
		})
	}
}

func TestRoutingKeys(t *testing.T) {
	s := servers.RabbitMQ(t)
	b, topic := open(t, s, props{"exchangeKind": "topic", "concurrencyMode": "single"}), topicName(t)
	in := subscribe(t, b, topic, props{"routingKey": "a.*,b"}, nil)
	for _, key := range []string{"a.1", "c", "b", "a.1.2", "a.3", ""} {
		publish(t, b, topic, "to "+key, props{"routingKey": key})
	}
	in.want(t, "to a.1", "to b", "to a.3")
}

func TestConsumedMetadata(t *testing.T) {
	s := servers.RabbitMQ(t)
	for _, test := range []struct {
		on   string
		want props
	}{
		{"false", nil},
		{"true", props{
			"metadata.messageid": "m1", "metadata.correlationid": "c1", "metadata.type": "t1", "metadata.contenttype": "text/plain",
			"metadata.text": "v", "metadata.number": "7", "metadata.yes": "true", "metadata.table": `{"k":"v"}`, "metadata.at": "2024-05-06T07:08:09Z",
		}},
	} {
		t.Run(test.on, func(t *testing.T) {
			b, topic := open(t, s, props{"publishMessagePropertiesToMetadata": test.on}), topicName(t)
			in := subscribe(t, b, topic, nil, nil)
			err := rabbitmqtest.Admin(t, s).PublishWithContext(t.Context(), topic, "", false, false, amqp.Publishing{
				MessageId: "m1", CorrelationId: "c1", Type: "t1", ContentType: "text/plain", Body: []byte("m"),
				Headers: amqp.Table{"text": "v", "number": int32(7), "yes": true, "table": amqp.Table{"k": "v"}, "at": time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC), "not a name": "x"},
			})
			if err != nil {
				t.Fatal(err)
			}
			in.want(t, "m")
			if got := in.metadata[0]; fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("metadata %v, want %v", got, test.want)
			}
		})
	}
}

func TestRejected(t *testing.T) {
	s := servers.RabbitMQ(t)
	ch := rabbitmqtest.Admin(t, s)
	once := func() func(context.Context, string) error {
		var calls atomic.Int32
		return func(context.Context, string) error {
			if calls.Add(1) == 1 {
				return errors.New("not now")
			}
			return nil
		}
	}
	empty := func(t *testing.T, queue string) {
		t.Helper()
		rabbitmqtest.Eventually(t, queue+" is empty", func() error {
			q, err := ch.QueueDeclarePassive(queue, true, true, false, false, nil)
			if err == nil && q.Messages > 0 {
				err = fmt.Errorf("it has %d messages", q.Messages)
			}
			return err
		})
	}
	t.Run("requeueInFailure", func(t *testing.T) {
		b, topic := open(t, s, props{"requeueInFailure": "true"}), topicName(t)
		in := subscribe(t, b, topic, nil, once())
		publish(t, b, topic, "m", nil)
		in.want(t, "m", "m")
	})
	t.Run("dropped", func(t *testing.T) {
		b, topic := open(t, s, props{"concurrency": "single"}), topicName(t)
		in := subscribe(t, b, topic, nil, once())
		publish(t, b, topic, "m", nil)
		publish(t, b, topic, "next", nil)
		in.want(t, "m", "next")
		empty(t, "app-"+topic)
	})
	t.Run("enableDeadLetter", func(t *testing.T) {
		b, topic := open(t, s, props{"enableDeadLetter": "true"}), topicName(t)
		in := subscribe(t, b, topic, nil, once())
		publish(t, b, topic, "m", nil)
		in.want(t, "m")
		if d := next(t, ch, "dlq-app-"+topic); string(d.Body) != "m" {
			t.Errorf("dead letter %q", d.Body)
		}
	})
	t.Run("autoAck", func(t *testing.T) {
		b, topic := open(t, s, props{"autoAck": "true", "requeueInFailure": "true", "concurrency": "single"}), topicName(t)
		in := subscribe(t, b, topic, nil, once())
		publish(t, b, topic, "m", nil)
		publish(t, b, topic, "next", nil)
		in.want(t, "m", "next")
		empty(t, "app-"+topic)
	})
}

func TestQueueLimitsAndPriorities(t *testing.T) {
	s := servers.RabbitMQ(t)
	for _, test := range []struct {
		name        string
		p, metadata props
		want        []string
	}{
		{"maxLen", props{"maxLen": "2"}, nil, []string{"p3", "p4"}},
		{"maxLen of the subscription", props{"maxLen": "2"}, props{"maxLen": "1"}, []string{"p4"}},
		{"maxLenBytes", nil, props{"maxLenBytes": "6"}, []string{"p2", "p3", "p4"}},
		{"priorities", nil, props{"maxPriority": "10"}, []string{"p4", "p3", "p2", "p1"}},
		{"quorum", props{"maxLen": "3"}, props{"queueType": "quorum"}, []string{"p2", "p3", "p4"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := kept(test.p)
			p["concurrencyMode"], p["prefetchCount"] = "single", "1"
			b, topic := open(t, s, p), topicName(t)
			subscribe(t, b, topic, test.metadata, nil).close(t)
			for i := range 4 {
				publish(t, b, topic, fmt.Sprint("p", i+1), props{"priority": fmt.Sprint(i + 1)})
			}
			subscribe(t, b, topic, test.metadata, nil).want(t, test.want...)
		})
	}
}

func TestExpiry(t *testing.T) {
	s := servers.RabbitMQ(t)
	b, topic := open(t, s, kept(props{"enableDeadLetter": "true", "concurrencyMode": "single"})), topicName(t)
	subscribe(t, b, topic, nil, nil).close(t)
	publish(t, b, topic, "short", props{"ttl": "1ms"})
	if d := next(t, rabbitmqtest.Admin(t, s), "dlq-app-"+topic); string(d.Body) != "short" {
		t.Errorf("dead letter %q", d.Body)
	}
	publish(t, b, topic, "long", props{"ttlInSeconds": "100"})
	subscribe(t, b, topic, nil, nil).want(t, "long")
}

func TestConcurrency(t *testing.T) {
	s := servers.RabbitMQ(t)
	for _, test := range []struct {
		name string
		p    props
		most int32
	}{
		{"single", props{"concurrencyMode": "single"}, 1},
		{"parallel with prefetch", props{"prefetchCount": "3"}, 3},
		{"parallel", nil, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, topic := open(t, s, test.p), topicName(t)
			var running, most atomic.Int32
			release := make(chan struct{})
			in := subscribe(t, b, topic, nil, func(ctx context.Context, _ string) error {
				n := running.Add(1)
				defer running.Add(-1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				select {
				case <-release:
				case <-ctx.Done():
				}
				return ctx.Err()
			})
			for i := range 10 {
				publish(t, b, topic, fmt.Sprint(i), nil)
			}
			var order []string
			for range test.most {
				order = append(order, in.take(t))
			}
			if test.name == "parallel with prefetch" {
				// The broker keeps the rest.
				ch := rabbitmqtest.Admin(t, s)
				rabbitmqtest.Eventually(t, "the rest is in the queue", func() error {
					q, err := ch.QueueDeclarePassive("app-"+topic, true, true, false, false, nil)
					if err == nil && q.Messages != 7 {
						err = fmt.Errorf("%d", q.Messages)
					}
					return err
				})
			}
			close(release)
			for range 10 - test.most {
				order = append(order, in.take(t))
			}
			if most.Load() != test.most {
				t.Errorf("at most %d at a time, want %d", most.Load(), test.most)
			}
			if got := strings.Join(order, ""); test.most == 1 && got != "0123456789" {
				t.Errorf("order %s", got)
			}
		})
	}
}

func TestSingleActiveConsumer(t *testing.T) {
	s := servers.RabbitMQ(t)
	b, topic := open(t, s, kept(props{"concurrencyMode": "single"})), topicName(t)
	metadata := props{"singleActiveConsumer": "true"}
	first := subscribe(t, b, topic, metadata, nil)
	second := subscribe(t, open(t, s, kept(nil)), topic, metadata, nil)
	for i := range 20 {
		publish(t, b, topic, fmt.Sprint(i), nil)
		first.want(t, fmt.Sprint(i))
	}
	first.close(t)
	publish(t, b, topic, "to the second", nil)
	second.want(t, "to the second")
	if len(second.got) != 1 {
		t.Errorf("the inactive one got %q", second.got)
	}
}

// TestClose is a subscription that is closed while messages are with the app, and others wait in the client.
func TestClose(t *testing.T) {
	s := servers.RabbitMQ(t)
	for _, mode := range []string{"single", "parallel"} {
		t.Run(mode, func(t *testing.T) {
			b, topic := open(t, s, kept(props{"concurrencyMode": mode})), topicName(t)
			in := subscribe(t, b, topic, nil, func(ctx context.Context, data string) error {
				if data == "done" {
					return nil
				}
				<-ctx.Done()
				if data == "done late" {
					return nil
				}
				return ctx.Err()
			})
			publish(t, b, topic, "done", nil)
			in.want(t, "done")
			want := map[string]bool{}
			for i := range 10 {
				want[fmt.Sprint(i)] = true
				publish(t, b, topic, fmt.Sprint(i), nil)
			}
			in.take(t)
			if mode == "parallel" {
				publish(t, b, topic, "done late", nil)
				for range 10 {
					in.take(t)
				}
			}
			in.close(t)
			in.close(t)
			again := subscribe(t, b, topic, nil, nil)
			for len(want) > 0 {
				got := again.take(t)
				if !want[got] {
					t.Errorf("got %q", got)
				}
				delete(want, got)
			}
		})
	}
}

func TestPause(t *testing.T) {
	s := servers.RabbitMQ(t)
	b, topic := open(t, s, kept(nil)), topicName(t)
	release := make(chan struct{})
	in := subscribe(t, b, topic, nil, func(context.Context, string) error { <-release; return nil })
	publish(t, b, topic, "before", nil)
	in.want(t, "before")
	if err := in.Subscription.(pubsub.Pauser).Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, b, topic, "after", nil)
	close(release)
	ch := rabbitmqtest.Admin(t, s)
	rabbitmqtest.Eventually(t, "the one is acknowledged, the other waits", func() error {
		q, err := ch.QueueDeclarePassive("app-"+topic, true, false, false, false, nil)
		if err == nil && (q.Messages != 1 || q.Consumers != 0) {
			err = fmt.Errorf("%+v", q)
		}
		return err
	})
	in.close(t)
	subscribe(t, b, topic, nil, nil).want(t, "after")
	if len(in.got) != 1 {
		t.Errorf("the paused one got %q", in.got)
	}
}

// TestQueueDeleted is somebody who deletes the queue and the exchange while they are in use.
func TestQueueDeleted(t *testing.T) {
	s := servers.RabbitMQ(t)
	b, topic := open(t, s, kept(nil)), topicName(t)
	in := subscribe(t, b, topic, nil, nil)
	ch := rabbitmqtest.Admin(t, s)
	if err := ch.ExchangeDelete(topic, false, false); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDelete("app-"+topic, false, false, false); err != nil {
		t.Fatal(err)
	}
	rabbitmqtest.Eventually(t, "it is made again", func() error {
		_, err := rabbitmqtest.Admin(t, s).QueueDeclarePassive("app-"+topic, true, false, false, false, nil)
		return err
	})
	rabbitmqtest.Eventually(t, "it consumes again", func() error {
		publish(t, b, topic, "m", nil)
		select {
		case <-in.arrived:
			return nil
		case <-time.After(50 * time.Millisecond):
			return errors.New("nothing came")
		}
	})
}

// TestBrokerRestarts loses nothing that was confirmed, and no subscription.
func TestBrokerRestarts(t *testing.T) {
	s := servers.RabbitMQ(t, servers.Own())
	b := open(t, s, kept(nil))
	plain := open(t, s, props{"consumerID": "other"}) // whose queue goes with the broker
	topic := topicName(t)
	in := subscribe(t, b, topic, nil, nil)
	quorum := subscribe(t, b, topic, props{"queueType": "quorum", "queueName": "q-" + topic}, nil)
	other := topicName(t)
	gone := subscribe(t, plain, other, nil, nil)
	publish(t, plain, other, "0", nil)
	gone.want(t, "0")

	stop, ended := make(chan struct{}), make(chan struct{})
	var confirmed []string
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if b.Publish(ctx, pubsub.PublishRequest{Topic: topic, Data: fmt.Append(nil, i)}) == nil {
				confirmed = append(confirmed, fmt.Sprint(i))
			}
			cancel()
		}
	}()
	in.take(t)
	s.Kill()
	s.Start()
	// Both ends find back.
	publish(t, b, topic, "marker", nil)
	for in.take(t) != "marker" {
	}
	rabbitmqtest.Eventually(t, "the other subscription is back", func() error {
		publish(t, plain, other, "m", nil)
		select {
		case <-gone.arrived:
			return nil
		case <-time.After(50 * time.Millisecond):
			return errors.New("nothing came")
		}
	})
	close(stop)
	<-ended
	publish(t, b, topic, "end", nil)
	for _, box := range []*inbox{in, quorum} {
		rabbitmqtest.Eventually(t, "all that was confirmed arrives", func() error {
			box.mu.Lock()
			defer box.mu.Unlock()
			seen := map[string]bool{}
			for _, m := range box.got {
				seen[m] = true
			}
			for _, m := range append(confirmed, "end") {
				if !seen[m] {
					return fmt.Errorf("%s is missing of %d", m, len(confirmed))
				}
			}
			return nil
		})
		t.Logf("%d confirmed, %d delivered", len(confirmed), len(box.got))
	}
}
