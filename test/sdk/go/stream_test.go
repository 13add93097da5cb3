package sdk

import (
	"context"
	"sync"
	"testing"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	"google.golang.org/grpc/codes"
)

// stream opens a streaming subscription, which ends with the test.
func (a *eventApp) stream(t *testing.T, opts client.SubscriptionOptions) *client.Subscription {
	t.Helper()
	ctx, cancel := context.WithCancel(bounded(t))
	t.Cleanup(cancel)
	s, err := a.c.Subscribe(ctx, opts)
	noError(t, err)
	return s
}

// receive waits for the next event of a stream and checks its data.
func receive(t *testing.T, s *client.Subscription, data string) *client.SubscriptionMessage {
	t.Helper()
	m, err := s.Receive()
	noError(t, err)
	if (got{event: *m.TopicEvent}).text() != data {
		t.Fatalf("the stream got %+v, want %s", m.TopicEvent, data)
	}
	return m
}

func testStreams(t *testing.T, a *eventApp) {
	ctx := bounded(t)
	dead := "stream-dead"
	deads := a.stream(t, client.SubscriptionOptions{PubsubName: "broker", Topic: dead})
	one := a.stream(t, client.SubscriptionOptions{PubsubName: "broker", Topic: "stream", DeadLetterTopic: &dead})
	two := a.stream(t, client.SubscriptionOptions{PubsubName: "broker", Topic: "stream"})

	noError(t, a.c.PublishEvent(ctx, "broker", "stream", order{"streamed", 3}, client.PublishEventWithMetadata(map[string]string{"cloudevent.id": "streamed-id"})))
	for _, s := range []*client.Subscription{one, two} { // each gets everything
		m := receive(t, s, `{"id":"streamed","size":3}`)
		if m.ID != "streamed-id" || m.Source != a.id || m.Type != "com.dapr.event.sent" || m.SpecVersion != "1.0" || m.DataContentType != "application/json" || m.Topic != "stream" || m.PubsubName != "broker" {
			t.Errorf("the stream got %+v", m.TopicEvent)
		}
		var o order
		if err := m.Struct(&o); err != nil || o != (order{"streamed", 3}) {
			t.Errorf("the data is %+v, %v", o, err)
		}
		noError(t, m.Success())
	}
	noError(t, two.Close())

	noError(t, a.c.PublishEvent(ctx, "broker", "stream", "retried"))
	noError(t, receive(t, one, "retried").Retry())
	noError(t, receive(t, deads, "retried").Success())
	noError(t, a.c.PublishEvent(ctx, "broker", "stream", "dropped"))
	noError(t, receive(t, one, "dropped").Drop())
	noError(t, receive(t, deads, "dropped").Success())
	noError(t, a.c.PublishEvent(ctx, "broker", "stream", "last"))
	noError(t, receive(t, one, "last").Success())

	raws := a.stream(t, client.SubscriptionOptions{PubsubName: "broker", Topic: "stream-raw", Metadata: map[string]string{"rawPayload": "true"}})
	noError(t, a.c.PublishEvent(ctx, "broker", "stream-raw", []byte("raw \xfe"), client.PublishEventWithRawPayload()))
	noError(t, receive(t, raws, "raw \xfe").Success())

	testStreamHandler(t, a)
	if a.redis {
		testStreamGivesBack(t, a)
	}
}

// testStreamHandler lets the SDK read a stream.
func testStreamHandler(t *testing.T, a *eventApp) {
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	events := make(chan string)
	stop, err := a.c.SubscribeWithHandler(ctx, client.SubscriptionOptions{PubsubName: "broker", Topic: "handled"}, func(e *common.TopicEvent) common.SubscriptionResponseStatus {
		select {
		case events <- got{event: *e}.text():
			return common.SubscriptionResponseStatusSuccess
		case <-ctx.Done():
			return common.SubscriptionResponseStatusRetry
		}
	})
	noError(t, err)
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for _, data := range []string{"one", "two", "three"} {
			if err := a.c.PublishEvent(ctx, "broker", "handled", data); err != nil {
				t.Error(err)
			}
		}
	})
	for _, want := range []string{"one", "two", "three"} {
		select {
		case data := <-events:
			if data != want {
				t.Errorf("the handler got %q, want %q", data, want)
			}
		case <-ctx.Done():
			t.Fatalf("the handler did not get %q", want)
		}
	}
	publishing.Wait()
	noError(t, stop())
}

// testStreamGivesBack leaves an event without an answer, wants it again, and takes it in the next stream.
func testStreamGivesBack(t *testing.T, a *eventApp) {
	opts := client.SubscriptionOptions{PubsubName: "redis", Topic: "go-stream-" + a.name}
	ctx, cancel := context.WithCancel(bounded(t))
	s, err := a.c.Subscribe(ctx, opts)
	noError(t, err)
	noError(t, a.c.PublishEvent(bounded(t), "redis", opts.Topic, "given back"))
	first := receive(t, s, "given back")
	noError(t, first.Retry())
	if again := receive(t, s, "given back"); again.ID != first.ID {
		t.Errorf("the stream got %+v, want the event %s again", again.TopicEvent, first.ID)
	}
	cancel() // without an answer
	s = a.stream(t, opts)
	again := receive(t, s, "given back")
	if again.ID != first.ID {
		t.Errorf("the next stream got %+v, want the event %s", again.TopicEvent, first.ID)
	}
	noError(t, again.Success())
}

func testStreamErrors(t *testing.T, a *eventApp) {
	ctx := bounded(t)
	_, err := a.c.Subscribe(ctx, client.SubscriptionOptions{PubsubName: "nobroker", Topic: "x"})
	wantStatus(t, err, codes.InvalidArgument, "pubsub nobroker is not found", "DAPR_PUBSUB_NOT_FOUND")
	_, err = a.c.Subscribe(ctx, client.SubscriptionOptions{PubsubName: "broker", Topic: "forbidden"})
	wantStatus(t, err, codes.Unknown, "subscription to topic 'forbidden' on pubsub 'broker' is not allowed", "")
}
