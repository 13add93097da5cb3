package apphost

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app/apptest"
	"outrigger.dev/blocks/actors"
	"outrigger.dev/invocation"
)

func TestStreamInvoke(t *testing.T) {
	s := serve(t, StreamsOptions{})
	p, h := s.host("Cart")
	call := callOf("Cart", "add")
	call.Remote, call.ReentrancyID = true, "r1"
	call.Request = &invocation.Request{ContentType: "text/x", Body: []byte("\xff"), Header: headerOf("X-A", "1", "X-A", "2", "X-Bad", "\xff", "dapr-caller-app-id", "evil")}
	got := invoking(t.Context(), h.Host, call)
	in := p.next().GetInvokeRequest()
	want := map[string]string{
		"X-A": "1", "X-Bad": "\uFFFD", "Content-Type": "text/x", "Dapr-API-Call": "true", "X-Dapr-Remote": "true", "Dapr-Reentrancy-Id": "r1",
		"dapr-caller-app-id": "shop", "dapr-caller-namespace": "prod",
	}
	if in.GetId() != "1" || in.GetActorType() != "Cart" || in.GetActorId() != "7" || in.GetMethod() != "add" || string(in.GetData()) != "\xff" || !maps.Equal(in.GetMetadata(), want) {
		t.Errorf("%v", in)
	}
	p.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "1", Data: []byte("reply"), Error: true, Metadata: map[string]string{
		"Content-type": "text/reply", "x-b": "1\r\nX-Evil: 1", "connection": "x", "Content-Length": "9", "bad name": "x", "": "x",
	}}))
	r := apptest.Receive(t, "the result", got)
	if r.err != nil || r.resp.Status != 200 || string(r.resp.Body) != "reply" || r.resp.ContentType != "text/reply" || len(r.resp.Header) != 2 ||
		string(r.resp.Header.Get("x-b")) != "1  X-Evil: 1" || string(r.resp.Header.Get(actors.ErrorHeader)) != "true" {
		t.Errorf("%+v, %v", r.resp, r.err)
	}
	// A gRPC caller's content type keeps its key.
	call.Request = &invocation.Request{Origin: invocation.FromGRPC, ContentType: "application/grpc"}
	got = invoking(t.Context(), h.Host, call)
	if in := p.next().GetInvokeRequest(); in.GetId() != "2" || in.GetMetadata()["content-type"] != "application/grpc" {
		t.Errorf("%v", in)
	}
	p.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "2"}))
	if r := apptest.Receive(t, "the result", got); r.err != nil || r.resp.Status != 200 || len(r.resp.Body) != 0 || len(r.resp.Header) != 0 {
		t.Errorf("%+v, %v", r.resp, r.err)
	}
}

func TestStreamFailures(t *testing.T) {
	s := serve(t, StreamsOptions{})
	p, h := s.host("Cart")
	ctx := t.Context()
	method := func() error { _, err := h.Host.Invoke(ctx, callOf("Cart", "add")); return err }
	reminder := func() error { return h.Host.Remind(ctx, &actors.Reminder{Type: "Cart", ID: "7", Name: "r"}) }
	timer := func() error {
		return h.Host.Remind(ctx, &actors.Reminder{Type: "Cart", ID: "7", Name: "t", Timer: true})
	}
	deactivate := func() error { return h.Host.Deactivate(ctx, "Cart", "7") }
	for i, tc := range []struct {
		name   string
		call   func() error
		answer func(id string) *response
		want   string
		is     error
	}{
		{"no such method", method, func(id string) *response { return answerFailed(id, codes.NotFound, "?") }, "actor method not found: add", actors.ErrMethodNotFound},
		{"a failed method", method, func(id string) *response { return answerFailed(id, codes.Aborted, "oops") }, "error from actor service: oops", nil},
		{"a wrong answer to a method", method, func(id string) *response { return answerReminder(id, false) }, "actor host returned an unexpected response type for invoke", nil},
		{"a reminder", reminder, func(id string) *response { return answerReminder(id, false) }, "", nil},
		{"a canceled reminder", reminder, func(id string) *response { return answerReminder(id, true) }, "reminder has been canceled", actors.ErrReminderCanceled},
		{"a failed reminder", reminder, func(id string) *response { return answerFailed(id, codes.NotFound, "oops") }, "error from actor service: oops", nil},
		{"a wrong answer to a reminder", reminder, func(id string) *response { return answerTimer(id, false) }, "actor host returned an unexpected response type for reminder", nil},
		{"a timer", timer, func(id string) *response { return answerTimer(id, false) }, "", nil},
		{"a canceled timer", timer, func(id string) *response { return answerTimer(id, true) }, "reminder has been canceled", actors.ErrReminderCanceled},
		{"a failed timer", timer, func(id string) *response { return answerFailed(id, codes.Internal, "oops") }, "error from actor service: oops", nil},
		{"a wrong answer to a timer", timer, func(id string) *response { return answerReminder(id, true) }, "actor host returned an unexpected response type for timer", nil},
		{"a deactivation", deactivate, answerDeactivate, "", nil},
		{"a failed deactivation", deactivate, func(id string) *response { return answerFailed(id, codes.Internal, "oops") }, "", nil},
		{"a wrong answer to a deactivation", deactivate, func(id string) *response { return answerTimer(id, true) }, "", nil},
	} {
		failed := make(chan error, 1)
		go func() { failed <- tc.call() }()
		p.next()
		p.say(tc.answer(strconv.Itoa(i + 1)))
		err := apptest.Receive(t, "the result of "+tc.name, failed)
		if text(err) != tc.want || tc.is != nil && !errors.Is(err, tc.is) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	for name, call := range map[string]func() error{
		"type":   func() error { return h.Host.Deactivate(ctx, "\xff", "7") },
		"method": func() error { _, err := h.Host.Invoke(ctx, callOf("Cart", "\xff")); return err },
		"callback": func() error {
			return h.Host.Remind(ctx, &actors.Reminder{Type: "Cart", ID: "7", Timer: true, Callback: "\xff"})
		},
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "is no UTF-8 text") {
			t.Errorf("a bad %s: %v", name, err)
		}
	}
}

func TestStreamReminderContent(t *testing.T) {
	s := serve(t, StreamsOptions{})
	p, h := s.host("Cart")
	data := anyOf(t, wrapperspb.Bytes([]byte(`[1]`)))
	for _, r := range []actors.Reminder{
		{Type: "Cart", ID: "7", Name: "r", Data: data},
		{Type: "Cart", ID: "7", Name: "t", Data: data, Timer: true, Callback: "cb", DueTime: "1s", Period: "2s"},
	} {
		failed := make(chan error, 1)
		go func() { failed <- h.Host.Remind(t.Context(), &r) }()
		in := p.next()
		var want proto.Message
		var got proto.Message = in.GetReminderRequest()
		if r.Timer {
			got = in.GetTimerRequest()
			want = &runtimev1.SubscribeActorEventsResponseTimerRequestAlpha1{Id: "2", ActorType: "Cart", ActorId: "7", Name: "t", Data: data, Callback: "cb", DueTime: "1s", Period: "2s"}
			p.say(answerTimer("2", false))
		} else {
			want = &runtimev1.SubscribeActorEventsResponseReminderRequestAlpha1{Id: "1", ActorType: "Cart", ActorId: "7", Name: "r", Data: data}
			p.say(answerReminder("1", false))
		}
		if !proto.Equal(got, want) {
			t.Errorf("%v", got)
		}
		if err := apptest.Receive(t, "the result", failed); err != nil {
			t.Error(err)
		}
	}
}

// TestStreamAnswersInAnyOrder: answers find their calls, and what answers nothing is ignored.
func TestStreamAnswersInAnyOrder(t *testing.T) {
	s := serve(t, StreamsOptions{})
	p, h := s.host("Cart")
	first := invoking(t.Context(), h.Host, callOf("Cart", "first"))
	if p.next().GetInvokeRequest().GetId() != "1" {
		t.Error("ids do not begin with 1")
	}
	second := invoking(t.Context(), h.Host, callOf("Cart", "second"))
	p.next()
	p.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "99"}))
	p.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "02"}))
	p.say(&response{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_InitialRequest{InitialRequest: &runtimev1.SubscribeActorEventsRequestInitialAlpha1{Entities: []string{"More"}}}})
	p.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "2", Data: []byte("second")}))
	p.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "2", Data: []byte("again")}))
	p.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "1", Data: []byte("first")}))
	for want, c := range map[string]<-chan result{"first": first, "second": second} {
		if r := apptest.Receive(t, want, c); r.err != nil || string(r.resp.Body) != want {
			t.Errorf("%s: %v, %v", want, r.resp, r.err)
		}
	}
	if s.log.Count("no answer is due for") != 3 || s.log.Count("may send one initial_request") != 1 || len(s.hosted) != 0 {
		t.Errorf("log: %s", &s.log)
	}
	// A call that was given up is answered too late.
	ctx, cancel := context.WithCancel(t.Context())
	third := invoking(ctx, h.Host, callOf("Cart", "third"))
	p.next()
	cancel()
	if r := apptest.Receive(t, "the third", third); !errors.Is(r.err, context.Canceled) {
		t.Errorf("%v", r.err)
	}
	p.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "3"}))
	apptest.Until(t, "the late answer is ignored", func() bool { return s.log.Count("no answer is due for") == 4 })
}

// FuzzStreamResponses feeds a stream with whatever an app may send.
func FuzzStreamResponses(f *testing.F) {
	for _, in := range []*response{
		answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "1", Data: []byte("x"), Error: true, Metadata: map[string]string{"content-type": "x", "a\r\n": "b\r\n"}}),
		answerFailed("1", codes.NotFound, "x"), answerReminder("1", true), answerTimer("1", true), answerDeactivate("1"),
		{},
	} {
		raw, err := proto.Marshal(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	hub := NewStreams(StreamsOptions{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in response
		if proto.Unmarshal(raw, &in) != nil {
			return
		}
		s := newStream(hub, nil)
		c := &callback{message: &request{ResponseType: &runtimev1.SubscribeActorEventsResponseAlpha1_InvokeRequest{InvokeRequest: &runtimev1.SubscribeActorEventsResponseInvokeRequestAlpha1{}}}, answer: make(chan *response, 1)}
		if !s.await(c) || c.id != "1" {
			t.Fatalf("id %q", c.id)
		}
		s.answered(&in)
		s.answered(&in)
		id, _ := answerID(&in)
		if (len(c.answer) == 1) != (id == "1") {
			t.Errorf("an answer to %q was taken for one to %q", id, c.id)
		}
		if r := in.GetInvokeResponse(); r != nil {
			resp := invokeResponse(r)
			for _, field := range append(resp.Header, invocation.Field{Name: []byte("x"), Value: []byte(resp.ContentType)}) {
				if !isHeaderName(string(field.Name)) || strings.ContainsAny(string(field.Value), "\r\n\x00") {
					t.Errorf("header %q: %q", field.Name, field.Value)
				}
			}
		}
	})
}

// BenchmarkStreamMethod is a turn of an actor whose app opened a stream.
func BenchmarkStreamMethod(b *testing.B) {
	s := serve(b, StreamsOptions{})
	p, h := s.host("Cart")
	done := make(chan struct{})
	go func() {
		defer close(done)
		reply := make([]byte, 1024)
		for {
			in, err := p.Recv()
			if err != nil {
				return
			}
			_ = p.Send(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: in.GetInvokeRequest().GetId(), Data: reply}))
		}
	}()
	call := callOf("Cart", "add")
	call.Request.Body = make([]byte, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Host.Invoke(b.Context(), call); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	p.cancel()
	<-done
}
