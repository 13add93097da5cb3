package pubsub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app/apptest"
	"outrigger.dev/blocks/internal/cloudevents"
	"outrigger.dev/components/pubsub"
)

// subscriber is the client's side of a stream.
type subscriber struct {
	grpc.BidiStreamingClient[runtimev1.SubscribeTopicEventsRequestAlpha1, runtimev1.SubscribeTopicEventsResponseAlpha1]
	t      testing.TB
	cancel context.CancelFunc
	in     chan *runtimev1.SubscribeTopicEventsResponseAlpha1
	end    chan error
}

// open opens a stream without saying anything.
func open(t testing.TB, client runtimev1.DaprClient) *subscriber {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c, err := client.SubscribeTopicEventsAlpha1(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := &subscriber{c, t, cancel, make(chan *runtimev1.SubscribeTopicEventsResponseAlpha1, 100), make(chan error, 1)}
	done := start(func() {
		for {
			m, err := c.Recv()
			if err != nil {
				s.end <- err
				return
			}
			s.in <- m
		}
	})
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func (s *subscriber) ask(in *runtimev1.SubscribeTopicEventsRequestInitialAlpha1) {
	s.t.Helper()
	if err := s.Send(&runtimev1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &runtimev1.SubscribeTopicEventsRequestAlpha1_InitialRequest{InitialRequest: in}}); err != nil {
		s.t.Fatal(err)
	}
}

// stream opens a stream that is subscribed.
func (h *house) stream(client runtimev1.DaprClient, in *runtimev1.SubscribeTopicEventsRequestInitialAlpha1) *subscriber {
	h.t.Helper()
	s := open(h.t, client)
	s.ask(in)
	if m := apptest.Receive(h.t, "the initial response", s.in); m.GetInitialResponse() == nil {
		h.t.Fatalf("first came %v", m)
	}
	return s
}

func (s *subscriber) event() *runtimev1.TopicEventRequest {
	s.t.Helper()
	m := apptest.Receive(s.t, "an event", s.in)
	if m.GetEventMessage() == nil {
		s.t.Fatalf("got %v, want an event", m)
	}
	return m.GetEventMessage()
}

func (s *subscriber) answer(id string, st runtimev1.TopicEventResponse_TopicEventResponseStatus) {
	s.t.Helper()
	s.reply(id, &runtimev1.TopicEventResponse{Status: st})
}

func (s *subscriber) reply(id string, r *runtimev1.TopicEventResponse) {
	s.t.Helper()
	if err := s.Send(&runtimev1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &runtimev1.SubscribeTopicEventsRequestAlpha1_EventProcessed{
		EventProcessed: &runtimev1.SubscribeTopicEventsRequestProcessedAlpha1{Id: id, Status: r},
	}}); err != nil {
		s.t.Fatal(err)
	}
}

var ofOrders = &runtimev1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: "ps", Topic: "orders"}

func TestStreamRefusals(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b, "protectedTopics", "secret")
	client := h.client()
	initial := func(component, topic string) *runtimev1.SubscribeTopicEventsRequestAlpha1 {
		return &runtimev1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &runtimev1.SubscribeTopicEventsRequestAlpha1_InitialRequest{
			InitialRequest: &runtimev1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: component, Topic: topic},
		}}
	}
	processed := &runtimev1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &runtimev1.SubscribeTopicEventsRequestAlpha1_EventProcessed{}}
	for _, tc := range []struct {
		name    string
		send    []*runtimev1.SubscribeTopicEventsRequestAlpha1
		fail    error
		code    codes.Code
		message string
	}{
		{"an answer first", []*runtimev1.SubscribeTopicEventsRequestAlpha1{processed}, nil, codes.Unknown, "initial request is required"},
		{"nothing first", []*runtimev1.SubscribeTopicEventsRequestAlpha1{{}}, nil, codes.Unknown, "initial request is required"},
		{"no component", []*runtimev1.SubscribeTopicEventsRequestAlpha1{initial("", "t")}, nil, codes.Unknown, "pubsubName is required"},
		{"no topic", []*runtimev1.SubscribeTopicEventsRequestAlpha1{initial("ps", "")}, nil, codes.Unknown, "topic is required"},
		{"unknown component", []*runtimev1.SubscribeTopicEventsRequestAlpha1{initial("none", "t")}, nil, codes.InvalidArgument, "pubsub none is not found"},
		{
			"scopes",
			[]*runtimev1.SubscribeTopicEventsRequestAlpha1{initial("ps", "secret")},
			nil, codes.Unknown,
			"failed to create subscription for ps: subscription to topic 'secret' on pubsub 'ps' is not allowed",
		},
		{"the broker", []*runtimev1.SubscribeTopicEventsRequestAlpha1{initial("ps", "t")}, errBroker, codes.Unknown, "failed to create subscription for ps: failed to subscribe to topic t: no broker"},
		{"two requests", []*runtimev1.SubscribeTopicEventsRequestAlpha1{initial("ps", "t"), initial("ps", "t")}, nil, codes.Unknown, "duplicate initial request received"},
		{"an empty request", []*runtimev1.SubscribeTopicEventsRequestAlpha1{initial("ps", "t"), {}}, nil, codes.Unknown, "duplicate initial request received"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b.mu.Lock()
			b.failures = nil
			if tc.fail != nil {
				b.failures = []error{tc.fail}
			}
			b.mu.Unlock()
			s := open(t, client)
			for _, m := range tc.send {
				if err := s.Send(m); err != nil {
					t.Fatal(err)
				}
			}
			if err := apptest.Receive(t, "the end", s.end); status.Code(err) != tc.code || status.Convert(err).Message() != tc.message {
				t.Errorf("%v", err)
			}
			if len(b.open()) != 0 || len(h.Subscriptions()) != 0 {
				t.Errorf("a subscription stays: %v %v", b.topics(), h.Subscriptions())
			}
		})
	}
	t.Run("closed before it began", func(t *testing.T) {
		s := open(t, client)
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := apptest.Receive(t, "the end", s.end); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

func TestStreamVerdicts(t *testing.T) {
	for _, tc := range []struct {
		name    string
		reply   *runtimev1.TopicEventResponse
		verdict string
		letters int
	}{
		{"SUCCESS", &runtimev1.TopicEventResponse{}, "ack", 0},
		{"no status", nil, "ack", 0},
		{"RETRY", &runtimev1.TopicEventResponse{Status: runtimev1.TopicEventResponse_RETRY}, "nack", 1},
		{"DROP", &runtimev1.TopicEventResponse{Status: runtimev1.TopicEventResponse_DROP}, "ack", 1},
		{"unknown", &runtimev1.TopicEventResponse{Status: 77}, "nack", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, dead := range []string{"", "dead"} {
				h := newHouse(t, Options{})
				b := newBroker()
				h.add("ps", b)
				s := h.stream(h.client(), &runtimev1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: "ps", Topic: "orders", DeadLetterTopic: &dead, Metadata: map[string]string{"k": "v"}})
				sub := b.sub(t, "orders")
				if sub.metadata["k"] != "v" {
					t.Errorf("the broker got metadata %v", sub.metadata)
				}
				v := sub.handData(plainEvent)
				e := s.event()
				if e.GetId() != "1" || e.GetPath() != "/" || e.GetTopic() != "orders" || e.GetPubsubName() != "ps" || string(e.GetData()) != "hello" {
					t.Errorf("%v", e)
				}
				s.reply("nobody's", nil) // ignored
				s.reply("1", tc.reply)
				want, letters := tc.verdict, 0
				if dead != "" {
					want, letters = "ack", tc.letters
				}
				if got := apptest.Receive(t, "a verdict", v); got.String() != want || len(b.sent()) != letters {
					t.Errorf("dead-letter topic %q: %s, %d letters", dead, got, len(b.sent()))
				}
				if h.log.Count(`answers event "nobody's"`) != 1 {
					t.Error("an answer that nobody awaits is not logged")
				}
			}
		})
	}
}

// Answers come in any order, and those to events of one ID belong to them in the order of sending.
func TestStreamAnswers(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	s := h.stream(h.client(), ofOrders)
	sub := b.sub(t, "orders")
	hand := func(id string) <-chan result {
		v := sub.handData(fmt.Sprintf(`{"id":%q}`, id))
		if e := s.event(); e.GetId() != id {
			t.Fatalf("got %v", e)
		}
		return v
	}
	a, one, two, three, none := hand("a"), hand("same"), hand("same"), hand("same"), hand("")
	s.answer("", runtimev1.TopicEventResponse_SUCCESS)
	s.answer("same", runtimev1.TopicEventResponse_RETRY)
	s.answer("same", runtimev1.TopicEventResponse_SUCCESS)
	s.answer("a", runtimev1.TopicEventResponse_RETRY)
	s.answer("same", runtimev1.TopicEventResponse_SUCCESS)
	for i, v := range []<-chan result{a, one, two, three, none} {
		if got, want := apptest.Receive(t, "a verdict", v).String(), []string{"nack", "nack", "ack", "ack", "ack"}[i]; got != want {
			t.Errorf("message %d: %s, want %s", i, got, want)
		}
	}
}

// A message that was with a client that has gone has no verdict: the broker delivers it again, and it is no dead letter.
func TestStreamDisconnect(t *testing.T) {
	for name, leave := range map[string]func(*subscriber){
		"cancelled": func(s *subscriber) { s.cancel() },
		"closed":    func(s *subscriber) { _ = s.CloseSend() },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, Options{})
			b := newBroker()
			h.add("ps", b)
			s := h.stream(h.client(), &runtimev1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: "ps", Topic: "orders", DeadLetterTopic: proto.String("dead")})
			sub := b.sub(t, "orders")
			v := sub.handData("{}")
			s.event()
			leave(s)
			h.meanwhile("the broker's subscription is closed", sub.ctx.Done())
			if got := apptest.Receive(t, "a verdict", v); got.String() != "held" || got.err == nil {
				t.Errorf("%s %v", got, got.err)
			}
			if err := apptest.Receive(t, "the end", s.end); name == "closed" && !errors.Is(err, io.EOF) {
				t.Errorf("%v", err)
			}
			if len(b.sent()) != 0 {
				t.Error("a dead letter was written")
			}
			apptest.Until(t, "the stream is forgotten", func() bool { return len(h.Subscriptions()) == 0 })
		})
	}
}

// What a stream that has ended says of its events is no failure, which would be put into the dead-letter topic.
func TestStreamEndIsNoVerdict(t *testing.T) {
	event, err := cloudevents.Parse([]byte(plainEvent))
	if err != nil {
		t.Fatal(err)
	}
	opened, never := make(chan struct{}), make(chan struct{})
	close(opened)
	for name, tc := range map[string]struct {
		opened <-chan struct{}
		sent   bool
		leave  func(*stream, context.CancelFunc)
	}{
		"gone before it was opened": {never, false, func(s *stream, _ context.CancelFunc) { s.left() }},
		"broken off before":         {never, false, func(_ *stream, cancel context.CancelFunc) { cancel() }},
		"gone before sending":       {opened, false, func(s *stream, _ context.CancelFunc) { s.left() }},
		"broken off before sending": {opened, false, func(_ *stream, cancel context.CancelFunc) { cancel() }},
		"gone after sending":        {opened, true, func(s *stream, _ context.CancelFunc) { s.left() }},
		"broken off after sending":  {opened, true, func(_ *stream, cancel context.CancelFunc) { cancel() }},
	} {
		s := &stream{out: make(chan outgoing), gone: make(chan struct{}), waiting: map[string][]*answer{}, opened: opened}
		if tc.opened == never {
			s.opened = make(chan struct{})
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := s.deliver(ctx, &delivery{message: &pubsub.Message{}, event: event})
			ended <- err
		}()
		if tc.sent {
			o := apptest.Receive(t, "the event", s.out)
			if !s.await("1", o.answer) {
				t.Errorf("%s: nobody awaits the answer", name)
			}
		}
		tc.leave(s, cancel)
		if err := apptest.Receive(t, "the end", ended); !errors.Is(err, errLater) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		if len(s.waiting) != 0 {
			t.Errorf("%s: an answer is awaited for ever", name)
		}
	}
}

// Each stream is a subscription of its own, and listed.
func TestStreamsSideBySide(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	client := h.client()
	first := h.stream(client, ofOrders)
	h.stream(client, ofOrders)
	h.stream(client, &runtimev1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: "ps", Topic: "a", DeadLetterTopic: proto.String("d")})
	if got := b.topics(); !slices.Equal(got, []string{"a", "orders", "orders"}) {
		t.Errorf("%v", got)
	}
	list := h.Subscriptions()
	if len(list) != 3 || list[0].Topic != "a" || list[0].DeadLetterTopic != "d" || list[0].Origin != Streaming || !slices.Equal(list[0].Rules, []Rule{{Path: "/"}}) {
		t.Errorf("%+v", list)
	}
	first.cancel()
	apptest.Until(t, "one has gone", func() bool { h.clock.Advance(stopLimit); return len(b.open()) == 2 })
}

// An idle stream ends at once when the sidecar stops; one with an event out ends when that is answered.
func TestStreamsWhenTheSidecarStops(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	client := h.client()
	silent, idle := open(t, client), h.stream(client, &runtimev1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: "ps", Topic: "idle"})
	busy := h.stream(client, ofOrders)
	apptest.Until(t, "all streams are there", func() bool { h.manager.mu.Lock(); defer h.manager.mu.Unlock(); return len(h.manager.streams) == 3 })
	v := b.sub(t, "orders").handData(`{"id":"1"}`)
	busy.event()
	stopped := start(func() { h.Stop(context.Background(), false) })
	if err := apptest.Receive(t, "the end", idle.end); status.Code(err) != codes.Unknown || status.Convert(err).Message() != "stream closed" {
		t.Errorf("idle: %v", err)
	}
	if err := apptest.Receive(t, "the end", silent.end); status.Convert(err).Message() != "api server closed" {
		t.Errorf("silent: %v", err)
	}
	if !waiting(busy.end) || !waiting(stopped) {
		t.Error("a stream with an event out has ended")
	}
	busy.answer("1", runtimev1.TopicEventResponse_SUCCESS)
	h.meanwhile("the block has stopped", stopped)
	if got := apptest.Receive(t, "a verdict", v); got.String() != "ack" {
		t.Errorf("%s", got)
	}
	if err := apptest.Receive(t, "the end", busy.end); status.Convert(err).Message() != "stream closed" {
		t.Errorf("busy: %v", err)
	}
	late := open(t, client) // refused before it has asked for anything
	if err := apptest.Receive(t, "the end", late.end); status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != "failed deserializing metadata. Error: subscriber is closed" {
		t.Errorf("late: %v", err)
	}
}

// A client that never answers does not keep the sidecar for ever.
func TestStreamThatNeverAnswers(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	s := h.stream(h.client(), ofOrders)
	v := b.sub(t, "orders").handData(`{"id":"1"}`)
	s.event()
	begin := h.clock.Now()
	h.outlast()
	if got := apptest.Receive(t, "a verdict", v); got.String() != "held" || h.clock.Since(begin) < stopLimit {
		t.Errorf("%s after %s", got, h.clock.Since(begin))
	}
}

func TestStreamsWhenTheComponentGoes(t *testing.T) {
	h := newHouse(t, Options{})
	h.add("ps", newBroker())
	other := newBroker()
	h.add("other", other)
	client := h.client()
	s := h.stream(client, ofOrders)
	h.stream(client, &runtimev1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: "other", Topic: "t"})
	h.passing("the component is out", func() {
		if err := h.Remove(context.Background(), "ps"); err != nil {
			t.Error(err)
		}
	})
	if err := apptest.Receive(t, "the end", s.end); status.Code(err) != codes.Unknown || status.Convert(err).Message() != "stream closed" {
		t.Errorf("%v", err)
	}
	if len(other.open()) != 1 {
		t.Error("a stream of another component has ended")
	}
	b := newBroker()
	h.add("ps", b)
	again := h.stream(client, ofOrders)
	v := b.sub(t, "orders").handData(`{"id":"1"}`)
	again.answer(again.event().GetId(), runtimev1.TopicEventResponse_SUCCESS)
	if got := apptest.Receive(t, "a verdict", v); got.String() != "ack" {
		t.Errorf("%s", got)
	}
}

// Events wait until the client was told that it is subscribed.
func TestStreamEventBeforeTheInitialResponse(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	eager := &eagerBroker{fakeBroker: b, verdict: make(chan (<-chan result), 1)}
	h.add("ps", eager)
	s := h.stream(h.client(), ofOrders)
	s.answer(s.event().GetId(), runtimev1.TopicEventResponse_SUCCESS)
	if got := apptest.Receive(t, "a verdict", apptest.Receive(t, "the message", eager.verdict)); got.String() != "ack" {
		t.Errorf("%s", got)
	}
}

// eagerBroker hands a message over before Subscribe has returned.
type eagerBroker struct {
	*fakeBroker
	verdict chan (<-chan result)
}

func (b *eagerBroker) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) (pubsub.Subscription, error) {
	s := &fakeSub{handler: handler}
	source, err := b.take(ctx, req, s)
	if err == nil {
		b.verdict <- s.handData(`{"id":"early"}`)
	}
	return source, err
}

// Many events are out at a time, none is lost, and each answer goes to its event.
func TestStreamUnderLoad(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	s := h.stream(h.client(), ofOrders)
	sub := b.sub(t, "orders")
	const n = 200
	verdicts := make([]<-chan result, n)
	for i := range n {
		verdicts[i] = sub.handData(fmt.Sprintf(`{"id":"%d"}`, i))
	}
	done := start(func() {
		for range n {
			id := s.event().GetId()
			st := runtimev1.TopicEventResponse_SUCCESS
			if id[len(id)-1] == '7' {
				st = runtimev1.TopicEventResponse_RETRY
			}
			s.answer(id, st)
		}
	})
	for i, v := range verdicts {
		want := "ack"
		if i%10 == 7 {
			want = "nack"
		}
		if got := apptest.Receive(t, "a verdict", v); got.String() != want {
			t.Errorf("message %d: %s, want %s", i, got, want)
		}
	}
	apptest.Receive(t, "the client", done)
}
