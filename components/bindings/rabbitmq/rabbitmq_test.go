package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/bindingstest"
	"outrigger.dev/components/rabbitmqclient/rabbitmqtest"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

type props = map[string]string

// binding is the type under test.
var binding = bindingstest.Type[*Binding]{Register: Register, Name: "rabbitmq"}

// tryOpen opens a binding that logs to the test.
func tryOpen(t *testing.T, p props) (*Binding, error) {
	t.Helper()
	return binding.OpenInstance(t, components.Instance{Properties: p, Log: rabbitmqtest.Log(t)})
}

// open is tryOpen at a server with a queue of the test's own; p overrides it all.
func open(t *testing.T, s *servers.RabbitMQServer, p props) *Binding {
	t.Helper()
	all := props{"host": s.ConnectionString(), "queueName": queueName(t), "reconnectWaitInSeconds": "100ms"}
	maps.Copy(all, p)
	b, err := tryOpen(t, all)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func queueName(t *testing.T) string {
	return t.Name() + fmt.Sprint(time.Now().UnixNano())
}

func create(t *testing.T, b *Binding, data string, metadata props) error {
	t.Helper()
	if metadata == nil {
		metadata = props{}
	}
	resp, err := b.Invoke(bindingstest.Within(t), bindings.Request{Operation: bindings.Create, Data: []byte(data), Metadata: metadata})
	if err == nil && resp != nil {
		t.Errorf("response %v, want none", resp)
	}
	return err
}

func mustCreate(t *testing.T, b *Binding, data string, metadata props) {
	t.Helper()
	if err := create(t, b, data, metadata); err != nil {
		t.Fatal(err)
	}
}

// read starts to read; events are judged and then sent to the channel.
func read(t *testing.T, b *Binding, judge func(ctx context.Context, e *bindings.Event) error) (io.Closer, <-chan *bindings.Event) {
	t.Helper()
	events := make(chan *bindings.Event, 10_000)
	c, err := b.Read(bindingstest.Within(t), func(ctx context.Context, e *bindings.Event) ([]byte, error) {
		events <- e
		if judge == nil {
			return []byte("reply"), nil
		}
		return nil, judge(ctx, e)
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, events
}

func TestOptions(t *testing.T) {
	for _, test := range []struct {
		name string
		p    props
		want string
	}{
		{"no host", props{"queueName": "q"}, `"host" is required`},
		{"no queue", props{"host": "amqp://h"}, `"queueName" is required`},
		{"no URI", props{"host": "secret.host", "queueName": "q"}, `"host" is not an AMQP URI`},
		{"long name", props{"host": "amqp://h", "queueName": strings.Repeat("x", 256)}, `"queueName" has 256 bytes`},
		{"long type", props{"host": "amqp://h", "queueName": "q", "contentType": strings.Repeat("x", 256)}, `"contentType" has 256 bytes`},
		{"priority", props{"host": "amqp://h", "queueName": "q", "maxPriority": "256"}, `"maxPriority" is "256"`},
		{"TTL", props{"host": "amqp://h", "queueName": "q", "ttlInSeconds": "-1"}, `"ttl" is -1s`},
		{"prefetch", props{"host": "amqp://h", "queueName": "q", "prefetchCount": "many"}, `"prefetchCount" is "many"`},
		{"external", props{"host": "amqp://h", "queueName": "q", "externalSasl": "true"}, `"externalSasl" is true`},
		{"TLS", props{"host": "amqp://h", "queueName": "q", "caCert": "x"}, "write amqps"},
		{"nobody there", props{"host": "amqp://u:secret@127.0.0.1:1", "queueName": "q"}, "rabbitmq at 127.0.0.1:1 cannot be used"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := tryOpen(t, test.p)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v does not say %q", err, test.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q tells a secret", err)
			}
		})
	}
}

func TestQueue(t *testing.T) {
	s := servers.RabbitMQ(t)
	for _, test := range []struct {
		name                           string
		p                              props
		durable, autoDelete, exclusive bool
		args                           amqp.Table
	}{
		{"defaults", nil, false, false, false, nil},
		{"all", props{"durable": "true", "deleteWhenUnused": "true", "ttlInSeconds": "60", "maxPriority": "9"}, true, true, false, amqp.Table{"x-message-ttl": int64(60000), "x-max-priority": uint8(9)}},
		{"exclusive", props{"exclusive": "true"}, false, false, true, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := open(t, s, test.p)
			_, err := rabbitmqtest.Admin(t, s).QueueDeclare(b.options.QueueName, test.durable, test.autoDelete, test.exclusive, false, test.args)
			if test.exclusive {
				if err == nil || !strings.Contains(err.Error(), "RESOURCE_LOCKED") {
					t.Errorf("error %v for another connection", err)
				}
				_, events := read(t, b, nil)
				mustCreate(t, b, "m", nil)
				bindingstest.Receive(t, events)
				_, err = tryOpen(t, props{"host": s.ConnectionString(), "queueName": b.options.QueueName, "exclusive": "true"})
				if err == nil || !strings.Contains(err.Error(), "take another queueName") {
					t.Errorf("second owner: %v", err)
				}
				return
			}
			if err != nil {
				t.Error(err)
			}
			_, err = tryOpen(t, props{"host": s.ConnectionString(), "queueName": b.options.QueueName, "ttl": "7"})
			if err == nil || !strings.Contains(err.Error(), "make durable, deleteWhenUnused, ttl and maxPriority match") {
				t.Errorf("with other properties: %v", err)
			}
		})
	}
}

func TestCreate(t *testing.T) {
	s := servers.RabbitMQ(t)
	b := open(t, s, props{"contentType": "application/json", "maxPriority": "10"})
	ch := rabbitmqtest.Admin(t, s)
	for _, test := range []struct {
		name     string
		metadata props
		want     amqp.Delivery
	}{
		{"plain", nil, amqp.Delivery{ContentType: "application/json"}},
		{"all", props{"ttlInSeconds": "60", "Priority": "5", "contentType": "text/xml", "x": "y"}, amqp.Delivery{ContentType: "text/xml", Expiration: "60000", Priority: 5}},
		{"clamped", props{"ttl": "1000000h", "priority": "99999999999999999999"}, amqp.Delivery{ContentType: "application/json", Expiration: "4294967295", Priority: 255}},
		{"negative priority", props{"priority": "-1"}, amqp.Delivery{ContentType: "application/json"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			mustCreate(t, b, "body", test.metadata)
			d, ok, err := ch.Get(b.options.QueueName, true) // Invoke returned when it was in the queue
			if err != nil || !ok {
				t.Fatalf("%v, %v", ok, err)
			}
			w := test.want
			if string(d.Body) != "body" || d.ContentType != w.ContentType || d.Expiration != w.Expiration || d.Priority != w.Priority || d.DeliveryMode != amqp.Persistent {
				t.Errorf("got %+v", d)
			}
			headers := props{}
			for k, v := range d.Headers {
				headers[k] = v.(string)
			}
			if !maps.Equal(headers, test.metadata) {
				t.Errorf("headers %v", headers)
			}
		})
	}
	for name, value := range map[string]string{"ttlInSeconds": "soon", "ttl": "0", "priority": "high", "contentType": strings.Repeat("x", 256), strings.Repeat("x", 256): "long"} {
		if err := create(t, b, "m", props{name: value}); err == nil || !strings.Contains(err.Error(), name[:3]) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	if _, err := b.Invoke(bindingstest.Within(t), bindings.Request{Operation: "get"}); err == nil || !strings.Contains(err.Error(), `"get"`) {
		t.Errorf("another operation: %v", err)
	}
}

func TestRead(t *testing.T) {
	s := servers.RabbitMQ(t)
	b := open(t, s, nil)
	var calls atomic.Int32
	c, events := read(t, b, func(context.Context, *bindings.Event) error {
		if calls.Add(1) <= 2 {
			return errors.New("not now")
		}
		return nil
	})
	err := rabbitmqtest.Admin(t, s).PublishWithContext(t.Context(), "", b.options.QueueName, false, false, amqp.Publishing{
		Body: []byte("m"), Headers: amqp.Table{"plain": "a b", "with space/": "v", "number": int32(4)},
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // twice rejected
		e := bindingstest.Receive(t, events)
		if string(e.Data) != "m" || !maps.Equal(e.Metadata, props{"plain": "a b", "with+space%2F": "v"}) {
			t.Errorf("event %q, metadata %v", e.Data, e.Metadata)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	// One reading may follow another, and nothing is left.
	mustCreate(t, b, "later", nil)
	_, events = read(t, b, nil)
	if e := bindingstest.Receive(t, events); string(e.Data) != "later" {
		t.Errorf("event %q", e.Data)
	}
}

func TestPrefetch(t *testing.T) {
	s := servers.RabbitMQ(t)
	b := open(t, s, props{"prefetchCount": "2"})
	_, events := read(t, b, func(ctx context.Context, _ *bindings.Event) error {
		<-ctx.Done()
		return ctx.Err()
	})
	for range 5 {
		mustCreate(t, b, "m", nil)
	}
	bindingstest.Receive(t, events)
	bindingstest.Receive(t, events)
	q, err := rabbitmqtest.Admin(t, s).QueueDeclarePassive(b.options.QueueName, false, false, false, false, nil)
	if err != nil || q.Messages != 3 {
		t.Errorf("%d messages wait in the queue, want 3; %v", q.Messages, err)
	}
}

// TestClose leaves what has no verdict, stops all, and is final.
func TestClose(t *testing.T) {
	s := servers.RabbitMQ(t)
	next := open(t, s, nil)
	before := runtime.NumGoroutine()
	b := open(t, s, props{"queueName": next.options.QueueName})
	_, events := read(t, b, func(ctx context.Context, _ *bindings.Event) error {
		<-ctx.Done()
		return ctx.Err()
	})
	mustCreate(t, b, "m", nil)
	bindingstest.Receive(t, events)
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	rabbitmqtest.Eventually(t, "goroutines end", func() error {
		if n := runtime.NumGoroutine(); n > before {
			return fmt.Errorf("%d, %d before", n, before)
		}
		return nil
	})
	if err := create(t, b, "m", nil); err == nil || !strings.Contains(err.Error(), "component is closed") {
		t.Errorf("create: %v", err)
	}
	if _, err := b.Read(bindingstest.Within(t), nil); err == nil || !strings.Contains(err.Error(), "component is closed") {
		t.Errorf("read: %v", err)
	}
	_, events = read(t, next, nil)
	bindingstest.Receive(t, events)
}

func TestConcurrentCreates(t *testing.T) {
	s := servers.RabbitMQ(t)
	b := open(t, s, props{"durable": "true", "deleteWhenUnused": "true"})
	_, events := read(t, b, nil)
	began := time.Now()
	const callers, each = 32, 50
	var work sync.WaitGroup
	for range callers {
		work.Go(func() {
			for range each {
				if err := create(t, b, "m", nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	t.Logf("%.0f messages per second", callers*each/time.Since(began).Seconds())
	for range callers * each {
		bindingstest.Receive(t, events)
	}
}

// TestQueueVanishes is a queue that somebody deletes: messages must not go nowhere.
func TestQueueVanishes(t *testing.T) {
	s := servers.RabbitMQ(t)
	b := open(t, s, nil)
	ch := rabbitmqtest.Admin(t, s)
	for range laneCount + 3 {
		mustCreate(t, b, "m", nil)
	}
	for range 2 {
		if _, err := ch.QueueDelete(b.options.QueueName, false, false, false); err != nil {
			t.Fatal(err)
		}
		mustCreate(t, b, "new", nil)
		d, ok, err := ch.Get(b.options.QueueName, true)
		if err != nil || !ok || string(d.Body) != "new" {
			t.Fatalf("%q, %v, %v", d.Body, ok, err)
		}
	}
	_, events := read(t, b, nil)
	if _, err := ch.QueueDelete(b.options.QueueName, false, false, false); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, b, "again", nil)
	if e := bindingstest.Receive(t, events); string(e.Data) != "again" {
		t.Errorf("event %q", e.Data)
	}
}

// TestBrokerRestarts loses nothing that was created, and goes on.
func TestBrokerRestarts(t *testing.T) {
	s := servers.RabbitMQ(t, servers.Own())
	b := open(t, s, props{"durable": "true"})
	for i, end := range []func(){s.Stop, s.Kill} {
		want := map[string]bool{}
		for n := range 20 {
			text := fmt.Sprintf("%d-%d", i, n)
			want[text] = true
			mustCreate(t, b, text, nil)
		}
		end()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if _, err := b.Invoke(ctx, bindings.Request{Operation: bindings.Create, Metadata: props{}}); err == nil {
			t.Error("created without a broker")
		}
		cancel()
		s.Start()
		c, events := read(t, b, nil)
		for len(want) > 0 {
			delete(want, string(bindingstest.Receive(t, events).Data))
		}
		mustCreate(t, b, "after", nil)
		for string(bindingstest.Receive(t, events).Data) != "after" {
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTLS(t *testing.T) {
	s := servers.RabbitMQ(t, servers.MutualTLS())
	b := open(t, s, props{"host": "amqps://" + s.Addr, "externalSasl": "true", "caCert": string(s.TLS.CA), "clientCert": s.TLS.CertFile, "clientKey": s.TLS.KeyFile})
	_, events := read(t, b, nil)
	mustCreate(t, b, "m", nil)
	bindingstest.Receive(t, events)
}

// TestTooLarge is a message that is larger than the broker takes.
func TestTooLarge(t *testing.T) {
	s := servers.RabbitMQ(t, servers.Setting("max_message_size", "1000"))
	b := open(t, s, nil)
	for range 2 {
		err := create(t, b, strings.Repeat("x", 1001), nil)
		if err == nil {
			t.Fatal("created")
		}
		for _, want := range []string{"1001 bytes", "at most 1000", "max_message_size", b.options.QueueName} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %q does not say %q", err, want)
			}
		}
		mustCreate(t, b, strings.Repeat("x", 1000), nil)
	}
}
