package inmemory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/pubsub/pubsubtest"
)

// open opens the broker the way a sidecar does.
func open(t testing.TB, log *slog.Logger, properties map[string]string) *Broker {
	t.Helper()
	var r components.Registry
	Register(&r)
	d, err := r.Lookup(components.PubSub, "in-memory", "v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range d.Check(properties) {
		t.Errorf("metadata: %s", f.Message)
	}
	b, err := d.Open(t.Context(), components.Instance{Name: "pubsub", Properties: properties, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.(*Broker).Close() })
	return b.(*Broker)
}

func TestConformance(t *testing.T) {
	pubsubtest.Run(t, pubsubtest.Config{
		Open: func(t testing.TB, appID string, properties map[string]string) pubsub.Broker {
			all := map[string]string{"consumerID": appID}
			for k, v := range properties {
				all[k] = v
			}
			return open(t, nil, all)
		},
		Private: true, Ordered: true, Metadata: true,
		Messages: 20000, LargestMessage: 8 << 20,
	})
}

func TestCapabilities(t *testing.T) {
	b := open(t, nil, nil)
	if got := pubsub.Capabilities(b); !slices.Equal(got, []string{"SUBSCRIBE_WILDCARDS"}) {
		t.Errorf("capabilities %q, want SUBSCRIBE_WILDCARDS alone", got)
	}
}

// received subscribes and returns a channel of what comes.
func received(t *testing.T, b *Broker, topic string) <-chan string {
	t.Helper()
	c := make(chan string, 100)
	_, err := b.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: topic}, func(_ context.Context, msg *pubsub.Message) error {
		c <- msg.Topic + "=" + string(msg.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func publish(t *testing.T, b *Broker, topic, data string) {
	t.Helper()
	if err := b.Publish(t.Context(), pubsub.PublishRequest{Topic: topic, Data: []byte(data)}); err != nil {
		t.Fatalf("Publish to %s: %v", topic, err)
	}
}

func next(t *testing.T, c <-chan string) string {
	t.Helper()
	select {
	case s := <-c:
		return s
	case <-time.After(30 * time.Second):
		t.Fatal("no message came")
		return ""
	}
}

func TestWildcards(t *testing.T) {
	b := open(t, nil, nil)
	orders, all, exact := received(t, b, "orders*"), received(t, b, "*"), received(t, b, "orders")
	for _, topic := range []string{"orders", "orders-eu", "order", "bills", "orders*"} {
		publish(t, b, topic, "1")
	}
	publish(t, b, "orders-end", "2")
	for name, c := range map[string]struct {
		from <-chan string
		want []string
	}{
		"prefix": {orders, []string{"orders-eu=1", "orders*=1", "orders-end=2"}}, // not "orders" itself
		"all":    {all, []string{"orders=1", "orders-eu=1", "order=1", "bills=1", "orders*=1", "orders-end=2"}},
		"exact":  {exact, []string{"orders=1"}},
	} {
		for _, want := range c.want {
			if got := next(t, c.from); got != want {
				t.Errorf("%s: %s came, want %s", name, got, want)
			}
		}
	}
	select {
	case s := <-exact:
		t.Errorf("exact: %s came too", s)
	default:
	}
}

// A handler may publish to its own topic, as often as it likes.
func TestPublishFromHandler(t *testing.T) {
	b := open(t, nil, nil)
	const generations = 1000
	done := make(chan struct{})
	count := 0
	_, err := b.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: "t"}, func(ctx context.Context, _ *pubsub.Message) error {
		if count++; count == generations {
			close(done)
		}
		for range 2 {
			if count < generations {
				if err := b.Publish(ctx, pubsub.PublishRequest{Topic: "t"}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, "t", "")
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("the handler has stalled")
	}
}

// A failed handler is reported, and the next message comes.
func TestHandlerError(t *testing.T) {
	var mu sync.Mutex
	var text strings.Builder
	b := open(t, slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return text.Write(p)
	}), nil)), nil)
	c := make(chan string, 10)
	_, err := b.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: "t"}, func(_ context.Context, msg *pubsub.Message) error {
		c <- string(msg.Data)
		if string(msg.Data) == "bad" {
			return errors.New("indigestible")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, "t", "bad")
	publish(t, b, "t", "good")
	if a, b := next(t, c), next(t, c); a != "bad" || b != "good" {
		t.Errorf("%s and %s came, want bad and good", a, b)
	}
	mu.Lock()
	defer mu.Unlock()
	if got := text.String(); !strings.Contains(got, "indigestible") || !strings.Contains(got, "topic=t") {
		t.Errorf("the log says %q, want topic and cause", got)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// What waits for a handler that hangs has a bound, and there is room again when it goes on.
func TestFull(t *testing.T) {
	b := open(t, nil, nil)
	gate := make(chan struct{})
	handled := make(chan struct{}, 1000)
	_, err := b.Subscribe(t.Context(), pubsub.SubscribeRequest{Topic: "t"}, func(ctx context.Context, _ *pubsub.Message) error {
		select {
		case <-gate:
			handled <- struct{}{}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	other := received(t, b, "t*")
	data := make([]byte, 32<<20) // the same bytes again and again: a queue holds no copies
	var n int
	for err == nil {
		err = b.Publish(t.Context(), pubsub.PublishRequest{Topic: "t", Data: data})
		n++
	}
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "topic t") {
		t.Errorf("error %v, want one that is transient and names the topic", err)
	}
	if n != maxWaiting>>25 {
		t.Errorf("message %d did not fit, want %d", n, maxWaiting>>25)
	}
	publish(t, b, "tt", "another topic")
	if got := next(t, other); got != "tt=another topic" {
		t.Errorf("%.40q came", got)
	}
	close(gate)
	for range n - 1 {
		<-handled
	}
	deadline := time.Now().Add(30 * time.Second)
	for b.Publish(t.Context(), pubsub.PublishRequest{Topic: "t", Data: data}) != nil {
		if time.Now().After(deadline) {
			t.Fatal("there is still no room")
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, subscriptions := range []int{0, 1, 3} {
		b.Run(fmt.Sprint(subscriptions), func(b *testing.B) {
			broker := New(slog.New(slog.DiscardHandler))
			defer broker.Close()
			var left sync.WaitGroup
			left.Add(subscriptions * b.N)
			for range subscriptions {
				_, err := broker.Subscribe(b.Context(), pubsub.SubscribeRequest{Topic: "t"}, func(context.Context, *pubsub.Message) error {
					left.Done()
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			req := pubsub.PublishRequest{Topic: "t", Data: make([]byte, 1024)}
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if err := broker.Publish(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
			left.Wait()
		})
	}
}
