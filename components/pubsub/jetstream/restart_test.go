package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/test/servers"
)

func TestEphemeralConsumers(t *testing.T) {
	nats := servers.NATS(t, servers.Own())
	js := admin(t, nats)
	for _, tt := range []struct {
		name       string
		properties map[string]string
		down       func()
	}{
		{"stopped", map[string]string{"memoryStorage": "false"}, nats.Stop},
		{"killed", map[string]string{"heartbeat": "200ms"}, nats.Kill},
	} {
		t.Run(tt.name, func(t *testing.T) {
			properties := map[string]string{"createStreams": "true", "deliverPolicy": "new"}
			for name, value := range tt.properties {
				properties[name] = value
			}
			b := open(t, nats.URL(), properties)
			name := topic(t)
			publish(t, b, name, "before")
			in, s := subscribe(t, b, name)
			publish(t, b, name, event("1", "a"))
			in.expect(event("1", "a"))
			tt.down()
			nats.Start()
			eventually(t, "publishing works again", func() bool {
				return b.Publish(within(t), pubsub.PublishRequest{Topic: name, Data: []byte(event("2", "b"))}) == nil
			})
			in.expectLast(event("2", "b"), event("1", "a"))
			// Gone while connected, as when somebody removes it.
			for _, c := range consumers(t, js, name) {
				if err := js.DeleteConsumer(within(t), name, c.Name); err != nil {
					t.Fatal(err)
				}
			}
			publish(t, b, name, event("3", "c"))
			if tt.properties["heartbeat"] != "" {
				in.expectLast(event("3", "c"), event("1", "a"), event("2", "b"))
			}
			before := len(consumers(t, js, name)) // none where no heartbeat tells that it is gone
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if left := len(consumers(t, js, name)); left > 0 && left >= before {
				t.Errorf("there were %d consumers, and %d are left", before, left)
			}
			// One whose making was not answered in time is made again, and the server removes the first one by itself, five seconds after
			// nobody listens to it any more.
			eventually(t, "no consumer is left", func() bool { return len(consumers(t, js, name)) == 0 })
		})
	}
}

// expectLast waits for a message; before it those already known may come again.
func (in *inbox) expectLast(want string, known ...string) {
	in.t.Helper()
	for {
		got := string(in.next().Data)
		if got == want {
			return
		}
		ok := false
		for _, k := range known {
			ok = ok || k == got
		}
		if !ok {
			in.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestPublishingThroughKill(t *testing.T) {
	nats := servers.NATS(t, servers.Own(), servers.Durable())
	b := open(t, nats.URL(), map[string]string{"createStreams": "true"})
	publish(t, b, "kept", event("first", "x"))
	var all sync.WaitGroup
	var failed, count atomic.Int32
	stop := make(chan struct{})
	for w := range 16 {
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				count.Add(1)
				if err := b.Publish(t.Context(), pubsub.PublishRequest{Topic: "kept", Data: []byte(event(fmt.Sprintf("%d-%d", w, i), "x"))}); err != nil {
					failed.Add(1)
					t.Log(err)
				}
			}
		})
	}
	for range 3 {
		before := count.Load()
		eventually(t, "messages flow", func() bool { return count.Load() > before+100 })
		nats.Kill()
		nats.Start()
	}
	before := count.Load()
	eventually(t, "messages flow", func() bool { return count.Load() > before+100 })
	close(stop)
	all.Wait()
	s, err := admin(t, nats).Stream(within(t), "kept")
	if err != nil {
		t.Fatal(err)
	}
	// Events have ids, so those under way are sent again, and none is stored twice.
	if got, want := s.CachedInfo().State.Msgs, uint64(count.Load()+1); failed.Load() != 0 || got != want {
		t.Errorf("%d messages stored, want %d; %d failed", got, want, failed.Load())
	}
}

func TestPingAndClosed(t *testing.T) {
	nats := servers.NATS(t, servers.Own())
	b := open(t, nats.URL(), map[string]string{"createStreams": "true"})
	p := b.(pubsub.Pinger)
	if err := p.Ping(within(t)); err != nil {
		t.Fatal(err)
	}
	nats.Kill()
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := p.Ping(short)
	expectError(t, err, nats.Addr)
	if code(err) != codes.Unavailable {
		t.Errorf("code %s", code(err))
	}
	err = b.Publish(short, pubsub.PublishRequest{Topic: "x", Data: []byte("x")})
	if code(err) != codes.Unavailable {
		t.Errorf("error %v with code %s", err, code(err))
	}
	waiting := make(chan error, 1)
	go func() { waiting <- b.Publish(t.Context(), pubsub.PublishRequest{Topic: "x", Data: []byte("x")}) }()
	began := time.Now()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, pubsub.ErrClosed) || time.Since(began) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if err := p.Ping(within(t)); !errors.Is(err, pubsub.ErrClosed) {
		t.Errorf("ping of a closed component: %v", err)
	}
}

// A stream in memory ends with the server. Its successor's numbers start over, which must not be taken for those already seen.
func TestStreamThatBeginsAnew(t *testing.T) {
	nats := servers.NATS(t, servers.Own())
	properties := map[string]string{"createStreams": "true", "memoryStorage": "true"}
	publisher := open(t, nats.URL(), properties)
	subscriber := open(t, nats.URL(), properties)
	publish(t, publisher, "anew", "1", "2", "3")
	in, _ := subscribe(t, subscriber, "anew")
	in.expect("1", "2", "3")
	nats.Kill()
	nats.Start()
	for _, text := range []string{"a", "b", "c", "d"} {
		eventually(t, "publishing works again", func() bool {
			return publisher.Publish(within(t), pubsub.PublishRequest{Topic: "anew", Data: []byte(event(text, text))}) == nil
		})
	}
	var known []string
	for _, text := range []string{"a", "b", "c", "d"} {
		in.expectLast(event(text, text), known...)
		known = append(known, event(text, text))
	}
}
