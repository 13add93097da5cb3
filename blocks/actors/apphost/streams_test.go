package apphost

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app/apptest"
	"outrigger.dev/blocks/actors"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/logging/logtest"
)

// server is the gRPC face and the runtime in one: it remembers the hostings.
type server struct {
	runtimev1.UnimplementedDaprServer
	t       testing.TB
	streams *Streams
	client  runtimev1.DaprClient
	log     logtest.Log
	fail    error
	hosted  chan *hosted
	// registering, if set, is called with each hosting before it counts as registered.
	registering func(actors.Hosting)
}

// hosted is a hosting and what becomes of it.
type hosted struct {
	actors.Hosting
	withdrawn chan struct{}
}

func (s *server) SubscribeActorEventsAlpha1(stream EventStream) error {
	return s.streams.Serve(stream, func(h actors.Hosting) (func(context.Context), error) {
		if s.fail != nil {
			return nil, s.fail
		}
		if s.registering != nil {
			s.registering(h)
		}
		entry := &hosted{h, make(chan struct{})}
		s.hosted <- entry
		return func(ctx context.Context) {
			// The host is not there any more, and the runtime is not kept waiting for it.
			if ctx.Err() != nil {
				s.t.Error("a withdrawal has no time")
			}
			for actorType := range h.Types {
				_ = h.Host.Deactivate(ctx, actorType, "last")
			}
			close(entry.withdrawn)
		}, nil
	})
}

func serve(t testing.TB, o StreamsOptions) *server {
	t.Helper()
	s := &server{t: t, hosted: make(chan *hosted, 10)}
	o.Log, o.AppID, o.Namespace = s.log.Logger(), "shop", "prod"
	s.streams = NewStreams(o)
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	runtimev1.RegisterDaprServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	s.client = runtimev1.NewDaprClient(conn)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.streams.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
		_ = conn.Close()
		g.Stop()
		<-done
	})
	return s
}

// peer is the app's side of a stream.
type peer struct {
	grpc.BidiStreamingClient[response, request]
	t      testing.TB
	cancel context.CancelFunc
}

func (s *server) open(types ...string) *peer {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(cancel)
	c, err := s.client.SubscribeActorEventsAlpha1(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &peer{c, s.t, cancel}
	if types != nil {
		p.say(&response{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_InitialRequest{
			InitialRequest: &runtimev1.SubscribeActorEventsRequestInitialAlpha1{Entities: types},
		}})
	}
	return p
}

// host opens a stream that is registered.
func (s *server) host(types ...string) (*peer, *hosted) {
	s.t.Helper()
	p := s.open(types...)
	h := apptest.Receive(s.t, "the registration", s.hosted)
	if p.next().GetInitialResponse() == nil {
		s.t.Fatal("the first message is not the initial response")
	}
	return p, h
}

func (p *peer) say(in *response) {
	p.t.Helper()
	if err := p.Send(in); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) next() *request {
	p.t.Helper()
	in, err := p.Recv()
	if err != nil {
		p.t.Fatal(err)
	}
	return in
}

func answerInvoke(in *runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1) *response {
	return &response{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_InvokeResponse{InvokeResponse: in}}
}

func answerFailed(id string, code codes.Code, message string) *response {
	return &response{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_RequestFailed{
		RequestFailed: &runtimev1.SubscribeActorEventsRequestFailedAlpha1{Id: id, Code: uint32(code), Message: message},
	}}
}

func answerReminder(id string, cancel bool) *response {
	return &response{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_ReminderResponse{
		ReminderResponse: &runtimev1.SubscribeActorEventsRequestReminderResponseAlpha1{Id: id, Cancel: cancel},
	}}
}

func answerTimer(id string, cancel bool) *response {
	return &response{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_TimerResponse{
		TimerResponse: &runtimev1.SubscribeActorEventsRequestReminderResponseAlpha1{Id: id, Cancel: cancel},
	}}
}

func answerDeactivate(id string) *response {
	return &response{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_DeactivateResponse{
		DeactivateResponse: &runtimev1.SubscribeActorEventsRequestDeactivateResponseAlpha1{Id: id},
	}}
}

type result struct {
	resp *invocation.Response
	err  error
}

// invoking calls a method in the background.
func invoking(ctx context.Context, h actors.Host, call *actors.Call) <-chan result {
	c := make(chan result, 1)
	go func() {
		resp, err := h.Invoke(ctx, call)
		c <- result{resp, err}
	}()
	return c
}

func callOf(actorType, method string) *actors.Call {
	return &actors.Call{Type: actorType, ID: "7", Method: method, Request: &invocation.Request{}}
}

func TestStreamRefusals(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options StreamsOptions
		fail    error
		first   *response
		want    string
	}{
		{"an HTTP app", StreamsOptions{HTTPApp: true}, nil, nil, "rpc error: code = FailedPrecondition desc = actor callback streaming requires a gRPC app channel"},
		{"another first message", StreamsOptions{}, nil, answerDeactivate("1"), "rpc error: code = InvalidArgument desc = first message must be SubscribeActorEventsRequestInitialAlpha1"},
		{"no message", StreamsOptions{}, nil, &response{}, "rpc error: code = InvalidArgument desc = first message must be SubscribeActorEventsRequestInitialAlpha1"},
		{
			"a bad duration",
			StreamsOptions{},
			nil,
			&response{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_InitialRequest{InitialRequest: func() *runtimev1.SubscribeActorEventsRequestInitialAlpha1 {
				in := initialOf(t, `{"entities":["A"],"actorIdleTimeout":"1s"}`)
				in.ActorIdleTimeout.Nanos = -1
				return in
			}()}},
			`rpc error: code = Internal desc = failed to register hosted actors: actorIdleTimeout of the app's actors is "1s -1ns", which is no duration: `,
		},
		{
			"a runtime that does not want it",
			StreamsOptions{},
			errors.New("full"),
			&response{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_InitialRequest{InitialRequest: initialOf(t, `{"entities":["A"]}`)}},
			"rpc error: code = Internal desc = failed to register hosted actors: full",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serve(t, tc.options)
			s.fail = tc.fail
			p := s.open()
			if tc.first != nil {
				p.say(tc.first)
			}
			if in, err := p.Recv(); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("%v, %v", in, err)
			}
		})
	}
}

// TestStreamRegistration: the settings of the first message reach the runtime, and a stream that hosts nothing stays open.
func TestStreamRegistration(t *testing.T) {
	s := serve(t, StreamsOptions{DisseminateTimeout: 10 * time.Second})
	p := s.open()
	p.say(&response{RequestType: &runtimev1.SubscribeActorEventsRequestAlpha1_InitialRequest{
		InitialRequest: initialOf(t, `{"entities":["A"],"drainOngoingCallTimeout":"10s","drainRebalancedActors":false}`),
	}})
	h := apptest.Receive(t, "the registration", s.hosted)
	if h.Types["A"].DrainTimeout != 8*time.Second || !h.CancelRebalanced || h.Host == nil {
		t.Errorf("%+v", h.Hosting)
	}
	_, empty := s.host([]string{}...)
	if len(empty.Types) != 0 {
		t.Errorf("%+v", empty.Hosting)
	}
	select {
	case <-empty.withdrawn:
		t.Error("an empty hosting was withdrawn")
	default:
	}
}

func TestStreamEnds(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(s *server, p *peer)
		want error
	}{
		{"the app closes it", func(_ *server, p *peer) { _ = p.CloseSend() }, io.EOF},
		{"the app is gone", func(_ *server, p *peer) { p.cancel() }, status.Error(codes.Canceled, "context canceled")},
		{"the sidecar stops", func(s *server, _ *peer) { _ = s.streams.Close(context.Background()) }, io.EOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serve(t, StreamsOptions{})
			p, h := s.host("Cart")
			pending := invoking(t.Context(), h.Host, callOf("Cart", "add"))
			p.next()
			tc.end(s, p)
			if r := apptest.Receive(t, "the call in flight", pending); text(r.err) != "actor host disconnected before responding" {
				t.Errorf("%v", r.err)
			}
			apptest.Receive(t, "the withdrawal", h.withdrawn)
			if err := invokeError(t, h.Host); text(err) != "actor host is not connected" {
				t.Errorf("%v", err)
			}
			if _, err := p.Recv(); text(err) != text(tc.want) {
				t.Errorf("the app sees %v", err)
			}
		})
	}
}

func TestStreamsClosed(t *testing.T) {
	s := serve(t, StreamsOptions{})
	silent := s.open() // says nothing
	apptest.Until(t, "the stream is served", func() bool {
		s.streams.mu.Lock()
		defer s.streams.mu.Unlock()
		return len(s.streams.all) == 1
	})
	if err := s.streams.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := silent.Recv(); err != io.EOF {
		t.Errorf("%v", err)
	}
	if _, err := s.open("Cart").Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
}

// TestStreamsSideBySide: the newest stream of a type gets its callbacks, older ones still answer, and the end of an older stream
// withdraws nothing but its own.
func TestStreamsSideBySide(t *testing.T) {
	s := serve(t, StreamsOptions{})
	older, oldHost := s.host("Cart", "Order")
	pending := invoking(t.Context(), oldHost.Host, callOf("Cart", "before"))
	older.next()
	newer, newHost := s.host("Cart")
	// Whoever still has the older host reaches the newer stream.
	call := invoking(t.Context(), oldHost.Host, callOf("Cart", "after"))
	if in := newer.next().GetInvokeRequest(); in.GetMethod() != "after" || in.GetId() != "1" {
		t.Errorf("%v", in)
	}
	newer.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "1"}))
	if r := apptest.Receive(t, "the call", call); r.err != nil {
		t.Error(r.err)
	}
	// The newer does not host Order.
	order := invoking(t.Context(), oldHost.Host, callOf("Order", "ship"))
	if in := older.next().GetInvokeRequest(); in.GetMethod() != "ship" || in.GetId() != "2" {
		t.Errorf("%v", in)
	}
	older.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "2"}))
	older.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "1", Data: []byte("late")}))
	if r := apptest.Receive(t, "the older call", pending); r.err != nil || string(r.resp.Body) != "late" {
		t.Errorf("%v", r.err)
	}
	if r := apptest.Receive(t, "the order", order); r.err != nil {
		t.Error(r.err)
	}
	// The withdrawal deactivates Cart, which reaches the app over the newer stream.
	_ = older.CloseSend()
	if in := newer.next().GetDeactivateRequest(); in.GetActorType() != "Cart" {
		t.Errorf("%v", in)
	}
	newer.say(answerDeactivate("2"))
	apptest.Receive(t, "the withdrawal", oldHost.withdrawn)
	call = invoking(t.Context(), newHost.Host, callOf("Cart", "still"))
	newer.next()
	newer.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "3"}))
	if r := apptest.Receive(t, "the call", call); r.err != nil {
		t.Error(r.err)
	}
	select {
	case <-newHost.withdrawn:
		t.Error("the newer hosting was withdrawn with the older")
	default:
	}
	newer.cancel()
	apptest.Receive(t, "the withdrawal", newHost.withdrawn)
}

// TestStreamCalledEarly: a callback that comes while the stream is being registered waits until the app is told that it is.
func TestStreamCalledEarly(t *testing.T) {
	s := serve(t, StreamsOptions{})
	var early <-chan result
	s.registering = func(h actors.Hosting) { early = invoking(t.Context(), h.Host, callOf("Cart", "early")) }
	p, _ := s.host("Cart") // which expects the initial response first
	if in := p.next().GetInvokeRequest(); in.GetMethod() != "early" {
		t.Errorf("%v", in)
	}
	p.say(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: "1"}))
	if r := apptest.Receive(t, "the early call", early); r.err != nil {
		t.Error(r.err)
	}
}

// TestStreamThatDoesNotRead: an app that does not read keeps nobody longer than their turns last, and does not keep the sidecar from
// ending.
func TestStreamThatDoesNotRead(t *testing.T) {
	s := serve(t, StreamsOptions{})
	_, h := s.host("Cart")
	ctx, cancel := context.WithCancel(t.Context())
	body := make([]byte, 1<<20)
	var pending []<-chan result
	for range 5 {
		call := callOf("Cart", "add")
		call.Request.Body = body
		pending = append(pending, invoking(ctx, h.Host, call))
	}
	cancel()
	for _, c := range pending {
		if r := apptest.Receive(t, "the end of a turn", c); !errors.Is(r.err, context.Canceled) {
			t.Errorf("%v", r.err)
		}
	}
	stuck := invoking(t.Context(), h.Host, callOf("Cart", "stuck"))
	if err := s.streams.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if r := apptest.Receive(t, "the stuck call", stuck); r.err == nil {
		t.Error("a call was answered that nobody read")
	}
}

// TestStreamUnderLoad: many calls at a time, streams that come and go: each call ends, with its own answer or none.
func TestStreamUnderLoad(t *testing.T) {
	s := serve(t, StreamsOptions{})
	echo := func() (*hosted, *peer, <-chan struct{}) {
		p, h := s.host("Cart")
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				in, err := p.Recv()
				if err != nil {
					return
				}
				_ = p.Send(answerInvoke(&runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1{Id: in.GetInvokeRequest().GetId(), Data: []byte(in.GetInvokeRequest().GetMethod())}))
			}
		}()
		return h, p, done
	}
	h, p, done := echo()
	var answered, failed atomic.Int32
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for j := range 100 {
				method := strconv.Itoa(i) + "/" + strconv.Itoa(j)
				resp, err := h.Host.Invoke(t.Context(), callOf("Cart", method))
				switch {
				case err == nil && string(resp.Body) == method:
					answered.Add(1)
				case err == errDisconnected || err == errNotConnected:
					failed.Add(1)
				default:
					t.Errorf("%s: %v, %v", method, resp, err)
				}
			}
		})
	}
	for range 5 {
		_, nextPeer, nextDone := echo()
		p.cancel()
		<-done
		p, done = nextPeer, nextDone
	}
	callers.Wait()
	p.cancel()
	<-done
	if answered.Load() == 0 || answered.Load()+failed.Load() != 800 {
		t.Errorf("%d answered, %d failed", answered.Load(), failed.Load())
	}
}
