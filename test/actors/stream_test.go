package actors_test

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/sidecar/sidecartest"
)

// What a stream app gets and says.
type (
	event  = runtimev1.SubscribeActorEventsResponseAlpha1
	answer = runtimev1.SubscribeActorEventsRequestAlpha1
)

// streamApp is an app that hosts actors by a stream that it opened: it has no port. The methods of its actors:
//
//	echo     replies with the data
//	marked   replies with an error of the actor's own
//	refused  fails
//
// and it has no others. It cancels what it is reminded of for the second time.
type streamApp struct {
	stream runtimev1.Dapr_SubscribeActorEventsAlpha1Client

	mu     sync.Mutex
	events []*event
	ticks  map[string]int
}

// newStreamApp opens a stream and serves it until the test ends.
func newStreamApp(t *testing.T, s *sidecartest.Sidecar, hosts *runtimev1.SubscribeActorEventsRequestInitialAlpha1) *streamApp {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := s.Dapr().SubscribeActorEventsAlpha1(ctx)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	a := &streamApp{stream: stream, ticks: map[string]int{}}
	if err := stream.Send(&answer{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_InitialRequest{InitialRequest: hosts}}); err != nil {
		t.Error(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetInitialResponse() == nil {
		t.Errorf("the first message is %v, %v", m, err)
	}
	served := make(chan error, 1)
	go func() { served <- a.serve() }()
	t.Cleanup(func() {
		cancel()
		if err := wait(t, served, "the end of the stream"); status.Code(err) != codes.Canceled {
			t.Errorf("the stream ended: %v", err)
		}
	})
	return a
}

func (a *streamApp) serve() error {
	for {
		m, err := a.stream.Recv()
		if err == nil {
			err = a.stream.Send(a.answer(m))
		}
		if err == io.EOF { // the reason comes with what is received
			_, err = a.stream.Recv()
		}
		if err != nil {
			return err
		}
	}
}

func (a *streamApp) answer(m *event) *answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, m)
	again := func(kind, actor, name string) bool {
		key := kind + " " + actor + " " + name
		a.ticks[key]++
		return a.ticks[key] == 2
	}
	switch {
	case m.GetInvokeRequest() != nil:
		in := m.GetInvokeRequest()
		out := &runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: in.GetId(), Data: in.GetData(), Metadata: map[string]string{"content-type": "text/x-special", "X-Own": "reply"}}
		failed := &runtimev1.SubscribeActorEventsRequestFailedAlpha1{Id: in.GetId(), Code: uint32(codes.NotFound), Message: "there is none"}
		switch in.GetMethod() {
		case "marked":
			out.Error = true
		case "refused":
			failed.Code, failed.Message = uint32(codes.Aborted), "not today"
			return &answer{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_RequestFailed{RequestFailed: failed}}
		case "echo":
		default:
			return &answer{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_RequestFailed{RequestFailed: failed}}
		}
		return &answer{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_InvokeResponse{InvokeResponse: out}}
	case m.GetReminderRequest() != nil:
		in := m.GetReminderRequest()
		out := &runtimev1.SubscribeActorEventsRequestReminderResponseAlpha1{Id: in.GetId(), Cancel: again("reminder", in.GetActorId(), in.GetName())}
		return &answer{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_ReminderResponse{ReminderResponse: out}}
	case m.GetTimerRequest() != nil:
		in := m.GetTimerRequest()
		out := &runtimev1.SubscribeActorEventsRequestReminderResponseAlpha1{Id: in.GetId(), Cancel: again("timer", in.GetActorId(), in.GetName())}
		return &answer{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_TimerResponse{TimerResponse: out}}
	default:
		out := &runtimev1.SubscribeActorEventsRequestDeactivateResponseAlpha1{Id: m.GetDeactivateRequest().GetId()}
		return &answer{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_DeactivateResponse{DeactivateResponse: out}}
	}
}

// seen are the events so far for which is holds.
func (a *streamApp) seen(is func(*event) bool) (events []*event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.events {
		if is(m) {
			events = append(events, m)
		}
	}
	return events
}

// bytesOf are data as the app of a stream gets them: JSON text.
func bytesOf(t *testing.T, data []byte) *anypb.Any {
	t.Helper()
	text, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := anypb.New(wrapperspb.Bytes(text))
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// An app without a port hosts actors by a stream (Dapr API, actors: SubscribeActorEventsAlpha1).
func TestStreamHostedActors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "shop")
	host := w.join()
	app := newStreamApp(t, host, &runtimev1.SubscribeActorEventsRequestInitialAlpha1{
		Entities:       []string{"Cart", "Brief"},
		EntitiesConfig: []*runtimev1.ActorEntityConfig{{Entities: []string{"Brief"}, ActorIdleTimeout: durationpb.New(100 * time.Millisecond)}},
	})
	host.WaitHealthy()
	other := w.join()
	other.WaitHealthy()

	invoked := func(id, method string) []*event {
		return app.seen(func(m *event) bool {
			return m.GetInvokeRequest().GetActorId() == id && m.GetInvokeRequest().GetMethod() == method
		})
	}
	for side, s := range map[string]*sidecartest.Sidecar{"local": host, "remote": other} {
		t.Run(side, func(t *testing.T) {
			r := s.Post("/v1.0/actors/Cart/"+side+"/method/x/../echo?q=1", "\x00data", "X-Own", "own", "Content-Type", "text/x-sent")
			if r.Status != 200 || r.Body != "\x00data" || r.Header.Get("Content-Type") != "text/x-special" || r.Header.Get("X-Own") != "reply" {
				t.Errorf("%+v", r)
			}
			events := invoked(side, "echo")
			if len(events) != 1 {
				t.Fatalf("the app got %v", events)
			}
			in := events[0].GetInvokeRequest()
			if in.GetId() == "" || in.GetActorType() != "Cart" || string(in.GetData()) != "\x00data" || in.GetMetadata()["X-Own"] != "own" || in.GetMetadata()["Dapr-API-Call"] != "true" ||
				(in.GetMetadata()["X-Dapr-Remote"] == "true") != (side == "remote") {
				t.Errorf("the app got %v", in)
			}
			reply, err := s.Dapr().InvokeActor(within(t), &runtimev1.InvokeActorRequest{ActorType: "Cart", ActorId: side, Method: "echo", Data: []byte("more")})
			if err != nil || string(reply.GetData()) != "more" {
				t.Errorf("%v, %v", reply, err)
			}
			if r := s.Post("/v1.0/actors/Cart/"+side+"/method/marked", "why"); r.Status != 200 || r.Body != "why" || r.Header.Get("X-DaprErrorResponseHeader") == "" {
				t.Errorf("%+v", r)
			}
			for method, want := range map[string]string{"unknown": "actor method not found: unknown", "refused": "error from actor service: not today"} {
				if r := s.Post("/v1.0/actors/Cart/"+side+"/method/"+method, ""); r.Status != 500 || !strings.Contains(r.Body, want) {
					t.Errorf("%s: %+v, want %q", method, r, want)
				}
				if n := len(invoked(side, method)); n != 1 {
					t.Errorf("%s was called %d times", method, n)
				}
			}
		})
	}

	t.Run("state", func(t *testing.T) {
		value := &anypb.Any{Value: []byte("\xff\x00")}
		in := &runtimev1.ExecuteActorStateTransactionRequest{ActorType: "Cart", ActorId: "local", Operations: []*runtimev1.TransactionalActorStateOperation{
			{OperationType: "upsert", Key: "k", Value: value},
		}}
		if _, err := host.Dapr().ExecuteActorStateTransaction(within(t), in); err != nil {
			t.Fatal(err)
		}
		got, err := other.Dapr().GetActorState(within(t), &runtimev1.GetActorStateRequest{ActorType: "Cart", ActorId: "local", Key: "k"})
		if err != nil || string(got.GetData()) != "\xff\x00" {
			t.Errorf("%v, %v", got, err)
		}
	})

	t.Run("timer", func(t *testing.T) {
		in := &runtimev1.RegisterActorTimerRequest{ActorType: "Cart", ActorId: "1", Name: "t", DueTime: "0s", Period: "20ms", Callback: "cb", Data: []byte("mydata")}
		if _, err := host.Dapr().RegisterActorTimer(within(t), in); err != nil {
			t.Fatal(err)
		}
		want := &runtimev1.SubscribeActorEventsResponseTimerRequestAlpha1{
			ActorType: "Cart", ActorId: "1", Name: "t", DueTime: "0s", Period: "20ms", Callback: "cb", Data: bytesOf(t, []byte("mydata")),
		}
		timers := func(m *event) bool { return m.GetTimerRequest() != nil }
		waitFor(t, "the timer to fire twice", func() bool { return len(app.seen(timers)) >= 2 })
		for _, m := range app.seen(timers) {
			want.Id = m.GetTimerRequest().GetId()
			if !proto.Equal(m.GetTimerRequest(), want) {
				t.Errorf("the app got %v\nwant %v", m.GetTimerRequest(), want)
			}
		}
	})

	t.Run("reminder", func(t *testing.T) {
		in := &runtimev1.RegisterActorReminderRequest{ActorType: "Cart", ActorId: "1", Name: "r", DueTime: "0s", Period: "20ms", Data: []byte("mydata")}
		if _, err := host.Dapr().RegisterActorReminder(within(t), in); err != nil {
			t.Fatal(err)
		}
		want := &runtimev1.SubscribeActorEventsResponseReminderRequestAlpha1{ActorType: "Cart", ActorId: "1", Name: "r", Data: bytesOf(t, []byte("mydata"))}
		reminders := func(m *event) bool { return m.GetReminderRequest() != nil }
		waitFor(t, "the reminder to be gone", func() bool {
			_, err := host.Dapr().GetActorReminder(within(t), &runtimev1.GetActorReminderRequest{ActorType: "Cart", ActorId: "1", Name: "r"})
			return status.Code(err) == codes.NotFound
		})
		got := app.seen(reminders)
		if len(got) != 2 {
			t.Errorf("the reminder came %d times, although it was cancelled at the second", len(got))
		}
		for _, m := range got {
			want.Id = m.GetReminderRequest().GetId()
			if !proto.Equal(m.GetReminderRequest(), want) {
				t.Errorf("the app got %v\nwant %v", m.GetReminderRequest(), want)
			}
		}
	})

	t.Run("deactivation", func(t *testing.T) {
		if r := other.Post("/v1.0/actors/Brief/1/method/echo", ""); r.Status != 200 {
			t.Fatalf("%+v", r)
		}
		ends := func() []*event { return app.seen(func(m *event) bool { return m.GetDeactivateRequest() != nil }) }
		waitFor(t, "the end of an idle actor", func() bool { return len(ends()) > 0 })
		if got := ends()[0].GetDeactivateRequest(); got.GetActorType() != "Brief" || got.GetActorId() != "1" {
			t.Errorf("the app got %v", got)
		}
		if r := other.Post("/v1.0/actors/Brief/1/method/echo", "again"); r.Status != 200 || r.Body != "again" {
			t.Errorf("%+v", r)
		}
	})

	// The timer, cancelled at the second time as well, has not come again meanwhile.
	if n := len(app.seen(func(m *event) bool { return m.GetTimerRequest() != nil })); n != 2 {
		t.Errorf("the timer came %d times", n)
	}
	ids := map[string]bool{}
	for _, m := range app.seen(func(*event) bool { return true }) {
		id := m.GetInvokeRequest().GetId() + m.GetReminderRequest().GetId() + m.GetTimerRequest().GetId() + m.GetDeactivateRequest().GetId()
		if id == "" || ids[id] {
			t.Errorf("the id %q is empty or came before: %v", id, m)
		}
		ids[id] = true
	}
}
