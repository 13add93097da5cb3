//go:build unix

package pluggable

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/pubsub/pubsubtest"
)

func openBroker(t testing.TB, folder, name, consumer string) pubsub.Broker {
	t.Helper()
	b, err := open[pubsub.Broker](t, folder, components.PubSub, name, components.Instance{Name: "pubsub-" + consumer, Properties: map[string]string{"consumerID": consumer}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// serverStacks tell the goroutines of servers inside the test process.
var serverStacks = []string{"grpc.(*Server)", "transport.NewServerTransport", "transport.(*http2Server)", "(*brokerService)", "(*process)"}

func TestPubSubConformance(t *testing.T) {
	for name, features := range map[string][]string{"plain": nil, "bulk": {"BULK_PUBSUB"}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := startProcess(t, dir, "mybus.sock", (&brokerService{backend: newTestBroker(nil), features: features}).register)
			pubsubtest.Run(t, pubsubtest.Config{
				Open: func(t testing.TB, appID string, _ map[string]string) pubsub.Broker {
					return openBroker(t, dir, "mybus", appID)
				},
				Durable: true, Competing: true, Redelivers: time.Second, Ordered: true, Metadata: true, StartsLate: true,
				LargestMessage: 3 << 20, Messages: 1000,
				Restart: func(testing.TB) { p.restart() },
				NotOurs: serverStacks,
			})
		})
	}
}

func TestPubSubCapabilities(t *testing.T) {
	for _, features := range [][]string{nil, {"BULK_PUBSUB"}, {"BULK_PUBSUB", "BULK_SUBSCRIBE_IMMEDIATE", "MESSAGE_TTL", "SUBSCRIBE_WILDCARDS"}} {
		dir := t.TempDir()
		startProcess(t, dir, "bus.sock", (&brokerService{backend: newTestBroker(nil), features: features}).register)
		b := openBroker(t, dir, "bus", "c")
		if got := pubsub.Capabilities(b); !slices.Equal(got, features) {
			t.Errorf("capabilities %v, want %v", got, features)
		}
		if _, ok := b.(pubsub.BulkSubscriber); ok {
			t.Error("a pluggable broker gathers bulks")
		}
	}
}

func TestBulkPublishFailures(t *testing.T) {
	dir := t.TempDir()
	startProcess(t, dir, "bus.sock", (&brokerService{
		backend: newTestBroker(nil), features: []string{"BULK_PUBSUB"},
		refuse: func(id string) (string, bool) {
			return map[string]string{"2": "too large", "4": ""}[id], id == "2" || id == "4"
		},
	}).register)
	b := openBroker(t, dir, "bus", "c").(pubsub.BulkPublisher)
	req := pubsub.BulkPublishRequest{Topic: "t"}
	for _, id := range []string{"1", "2", "3", "4"} {
		req.Entries = append(req.Entries, pubsub.BulkEntry{ID: id, Data: []byte("x")})
	}
	results, err := b.BulkPublish(within(t), req)
	if err == nil || len(results) != 4 || results[0] != nil || results[1] == nil || results[1].Error() != "too large" || results[2] != nil || results[3] == nil {
		t.Errorf("results %v, %v", results, err)
	}
}

func TestPubSubErrors(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{status.Error(codes.ResourceExhausted, "slow down"), codes.ResourceExhausted, "slow down"},
		{errors.New("boom"), codes.Unknown, "boom"},
	} {
		dir := t.TempDir()
		startProcess(t, dir, "bus.sock", func(g *grpc.Server, l *life) {
			componentsv1.RegisterPubSubServer(g, &failingBroker{brokerService{life: l}, tc.err})
		})
		err := openBroker(t, dir, "bus", "c").Publish(within(t), pubsub.PublishRequest{Topic: "t"})
		known, ok := errors.AsType[*pubsub.Error](err)
		if !ok || known.Code != tc.code || err.Error() != tc.text {
			t.Errorf("%v became %v", tc.err, err)
		}
	}
}

type failingBroker struct {
	brokerService
	err error
}

func (f *failingBroker) Publish(context.Context, *componentsv1.PublishRequest) (*componentsv1.PublishResponse, error) {
	return nil, f.err
}

// Pause reaches the process, and Resume follows when the component is used again; a process without them is paused all the same.
func TestPause(t *testing.T) {
	for _, able := range []bool{true, false} {
		dir := t.TempDir()
		service := &brokerService{backend: newTestBroker(nil), mu: &sync.Mutex{}}
		if able {
			service.calls = map[string]int{}
		}
		startProcess(t, dir, "bus.sock", service.register)
		b := openBroker(t, dir, "bus", "c")
		var taken atomic.Int32
		handler := func(context.Context, *pubsub.Message) error { taken.Add(1); return nil }
		sub, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "t"}, handler)
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the subscription", func() bool {
			_ = b.Publish(within(t), pubsub.PublishRequest{Topic: "t"})
			return taken.Load() > 0
		})
		if err := sub.(pubsub.Pauser).Pause(within(t)); err != nil {
			t.Errorf("Pause: %v", err)
		}
		// The subscription may still have had messages in hand; what comes now it does not take.
		if err := b.Publish(within(t), pubsub.PublishRequest{Topic: "t"}); err != nil {
			t.Fatal(err)
		}
		if err := sub.Close(); err != nil {
			t.Error(err)
		}
		before := taken.Load()
		if _, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "t"}, handler); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the message that was left", func() bool { return taken.Load() > before })
		if able {
			service.mu.Lock()
			if service.calls["Pause"] != 1 || service.calls["Resume"] != 1 {
				t.Errorf("calls: %v", service.calls)
			}
			service.mu.Unlock()
		}
	}
}

// A stream that the process ends is opened again, with a line in the log that says why.
func TestStreamBroken(t *testing.T) {
	dir := t.TempDir()
	var streams atomic.Int32
	startProcess(t, dir, "bus.sock", func(g *grpc.Server, l *life) {
		componentsv1.RegisterPubSubServer(g, &endingBroker{brokerService{life: l}, &streams})
	})
	var log logText
	b, err := open[pubsub.Broker](t, dir, components.PubSub, "bus", components.Instance{Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "t"}, func(context.Context, *pubsub.Message) error { return nil }); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "streams", func() bool { return streams.Load() >= 3 })
	if n := strings.Count(log.String(), "the subscription of the pluggable component mine to topic t broke and is opened again: the server is full"); n != 1 {
		t.Errorf("the reason is told %d times, want once:\n%s", n, &log)
	}
}

type endingBroker struct {
	brokerService
	streams *atomic.Int32
}

func (e *endingBroker) PullMessages(grpc.BidiStreamingServer[componentsv1.PullMessagesRequest, componentsv1.PullMessagesResponse]) error {
	e.streams.Add(1)
	return status.Error(codes.ResourceExhausted, "the server is full")
}
