package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrigger.dev/api"
	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/identity/identitytest"
	"outrigger.dev/invocation"
)

// actorServer is a server of actors as a test wants it.
type actorServer struct {
	call   func(ctx context.Context, actor Actor, req *invocation.Request) (*invocation.Response, error)
	remind func(ctx context.Context, r *internalsv1.Reminder) error
}

func (s *actorServer) CallActor(ctx context.Context, actor Actor, req *invocation.Request) (*invocation.Response, error) {
	return s.call(ctx, actor, req)
}

func (s *actorServer) CallActorReminder(ctx context.Context, r *internalsv1.Reminder) error {
	return s.remind(ctx, r)
}

// servedActors starts a server of actors, and returns its address.
func servedActors(t testing.TB, o ServerOptions, call func(ctx context.Context, actor Actor, req *invocation.Request) (*invocation.Response, error)) string {
	t.Helper()
	o.Actors = &actorServer{call: call}
	o.Handler = func(context.Context, *invocation.Request) (*invocation.Response, error) {
		return nil, status.Error(codes.Internal, "the app was called instead of the actor")
	}
	_, address := startServer(t, o)
	return address
}

var someActor = Actor{Type: "Cart", ID: "42"}

func headerLines(h invocation.Header) []string {
	var lines []string
	for _, f := range h {
		lines = append(lines, string(f.Name)+": "+string(f.Value))
	}
	slices.Sort(lines)
	return lines
}

func TestCallActor(t *testing.T) {
	type seen struct {
		actor                      Actor
		method, verb, query, ctype string
		header                     []string
		body                       string
	}
	got := make(chan seen, 1)
	address := servedActors(t, ServerOptions{}, func(_ context.Context, actor Actor, req *invocation.Request) (*invocation.Response, error) {
		if req.Stream != nil || req.Caller != nil {
			t.Errorf("stream %v, caller %v", req.Stream, req.Caller)
		}
		got <- seen{actor, req.Method, req.Verb, req.Query, req.ContentType, headerLines(req.Header), string(req.Body)}
		resp := &invocation.Response{Status: 200, ContentType: "application/json", Body: []byte(`{"ok":true}`)}
		resp.Header.Add("X-Daprerrorresponseheader", "true")
		resp.Header.Add("X-Two", "1")
		resp.Header.Add("X-Two", "2")
		resp.Header.Add("lower-case", "x")
		return resp, nil
	})
	for name, c := range map[string]struct {
		actor Actor
		req   invocation.Request
		verb  string
	}{
		"usual":               {someActor, invocation.Request{Method: "add", Verb: "PUT", Body: []byte("body"), ContentType: "text/plain", Query: "a=1&b=%20"}, "PUT"},
		"GET":                 {someActor, invocation.Request{Method: "read", Verb: "GET"}, "GET"},
		"of a gRPC client":    {someActor, invocation.Request{Method: "add", Origin: invocation.FromGRPC, Body: []byte{0, 1, 255}}, "PUT"},
		"odd names":           {Actor{"T @|: é", " %2F\u00a0日本 "}, invocation.Request{Method: `a/b%\"*é ü`, Verb: "POST"}, "POST"},
		"an id that is empty": {Actor{"T", ""}, invocation.Request{Method: "m", Verb: "PUT"}, "PUT"},
		"a large body":        {someActor, invocation.Request{Method: "m", Verb: "PUT", Body: bytes.Repeat([]byte("x"), 3<<20)}, "PUT"},
		"no method":           {someActor, invocation.Request{Verb: "PUT"}, "PUT"},
	} {
		t.Run(name, func(t *testing.T) {
			wires(t, func(t *testing.T, o ClientOptions) {
				req := c.req
				req.Header.Add("Dapr-Reentrancy-Id", "abc")
				req.Header.Add("x-lower", "1")
				req.Header.Add("X-Multi", "1")
				req.Header.Add("X-Multi", "2")
				req.Header.Add("Outrigger-Actor-Id", "forged")
				resp, err := newClient(t, o).CallActor(within(t), Target{Address: address}, c.actor, &req)
				if err != nil {
					t.Fatal(err)
				}
				s := receiveWithin(t, "the call", got)
				if s.actor != c.actor || s.method != c.req.Method || s.verb != c.verb || s.query != c.req.Query || s.ctype != c.req.ContentType || s.body != string(c.req.Body) {
					t.Errorf("the server sees %.300q", fmt.Sprintf("%+v", s))
				}
				if want := []string{"Dapr-Reentrancy-Id: abc", "X-Multi: 1", "X-Multi: 2", "x-lower: 1"}; !slices.Equal(s.header, want) {
					t.Errorf("the server sees the header %q", s.header)
				}
				if resp.Status != 200 || resp.Stream != nil || string(resp.Body) != `{"ok":true}` || resp.ContentType != "application/json" {
					t.Errorf("got %+v", resp)
				}
				if want := []string{"X-Daprerrorresponseheader: true", "X-Two: 1", "X-Two: 2", "lower-case: x"}; !slices.Equal(headerLines(resp.Header), want) {
					t.Errorf("the client sees the header %q", headerLines(resp.Header))
				}
			})
		})
	}
}

func TestCallActorUsesTheExchange(t *testing.T) {
	address := servedActors(t, ServerOptions{}, func(context.Context, Actor, *invocation.Request) (*invocation.Response, error) {
		return &invocation.Response{Status: 200}, nil
	})
	c := newClient(t, ClientOptions{})
	if _, err := c.CallActor(within(t), Target{Address: address}, someActor, &invocation.Request{Method: "m"}); err != nil {
		t.Fatal(err)
	}
	if p := c.hosts[Target{Address: address}]; p == nil || p.speaks != speaksExchange || len(p.conns) != 0 || len(c.peers) != 0 {
		t.Error("gRPC was used")
	}
}

// TestHostIsReplaced: a host that spoke the exchange comes back as one that does not.
func TestHostIsReplaced(t *testing.T) {
	var from atomic.Value
	o := ServerOptions{Actors: &actorServer{call: func(context.Context, Actor, *invocation.Request) (*invocation.Response, error) {
		from.Store("exchange")
		return &invocation.Response{Status: 200}, nil
	}}}
	s, address := startServer(t, o)
	c := newClient(t, ClientOptions{})
	call := func(want string) {
		t.Helper()
		if _, err := c.CallActor(within(t), Target{Address: address}, someActor, &invocation.Request{Method: "m", Verb: "PUT"}); err != nil || from.Load() != want {
			t.Errorf("%v, from %v", err, from.Load())
		}
	}
	call("exchange")
	if err := s.Shutdown(within(t)); err != nil {
		t.Fatal(err)
	}
	o.GRPCOnly = true
	o.Actors = &actorServer{call: func(context.Context, Actor, *invocation.Request) (*invocation.Response, error) {
		from.Store("gRPC")
		return &invocation.Response{Status: 200}, nil
	}}
	startServer(t, o, address)
	call("gRPC")
}

// TestUnknownUnary: only what is served over the exchange is.
func TestUnknownUnary(t *testing.T) {
	address := servedActors(t, ServerOptions{}, nil)
	c := newClient(t, ClientOptions{})
	for _, method := range []string{"/dapr.proto.internals.v1.ServiceInvocation/CallLocal", "/x", "/"} {
		err := c.unary(within(t), Target{Address: address}, method, &plainCall{&emptypb.Empty{}, &emptypb.Empty{}})
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), method) {
			t.Errorf("%s: %v", method, err)
		}
	}
	err := c.unary(within(t), Target{Address: address}, internalsv1.ServiceInvocation_CallActor_FullMethodName, &plainCall{&commonv1.InvokeRequest{Data: &anypb.Any{Value: []byte("\xff\xff")}}, &emptypb.Empty{}})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "unmarshalling") {
		t.Errorf("a message of another kind: %v", err)
	}
}

func TestCallActorStatuses(t *testing.T) {
	next := make(chan *invocation.Response, 1)
	address := servedActors(t, ServerOptions{}, func(context.Context, Actor, *invocation.Request) (*invocation.Response, error) { return <-next, nil })
	wires(t, func(t *testing.T, o ClientOptions) {
		c := newClient(t, o)
		for _, want := range []int{0, 5, 100, 200, 201, 204, 304, 404, 500, 777} {
			next <- &invocation.Response{Status: want, Message: "a message", Body: []byte("body"), ContentType: "text/plain"}
			resp, err := c.CallActor(within(t), Target{Address: address}, someActor, &invocation.Request{Method: "m", Verb: "PUT"})
			if err != nil || resp.Status != want || string(resp.Body) != "body" || resp.Message != "a message" {
				t.Errorf("status %d: %+v, %v", want, resp, err)
			}
		}
		// Bodies in pieces come in one, whatever their length.
		for _, length := range []int64{0, 10, smallBody + 1, 1 << 20} {
			next <- &invocation.Response{Status: 200, Stream: &zeros{length}, Length: -1}
			resp, err := c.CallActor(within(t), Target{Address: address}, someActor, &invocation.Request{Method: "m", Verb: "PUT"})
			if err != nil || resp.Stream != nil || int64(len(resp.Body)) != length {
				t.Errorf("%d bytes: %v", length, err)
			}
		}
	})
}

// TestCallActorErrors: what the hosting sidecar says gets through to the letter.
func TestCallActorErrors(t *testing.T) {
	detailed, err := status.New(codes.Aborted, "with details").WithDetails(&errdetails.ErrorInfo{Reason: "R", Domain: "dapr.io"})
	if err != nil {
		t.Fatal(err)
	}
	manyDetails, err := status.New(codes.Aborted, "x").WithDetails(&errdetails.ErrorInfo{Reason: strings.Repeat("r", 2*maxDetails)})
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan error, 1)
	address := servedActors(t, ServerOptions{}, func(context.Context, Actor, *invocation.Request) (*invocation.Response, error) { return nil, <-next })
	_, reminders := startServer(t, ServerOptions{Actors: &actorServer{remind: func(context.Context, *internalsv1.Reminder) error { return <-next }}})
	for name, c := range map[string]struct {
		err  error
		want *status.Status
	}{
		"moved":             {status.Error(codes.Internal, "error invoke actor method: remote actor moved"), nil},
		"api error":         {api.ErrActorRuntimeClosed(), status.New(codes.Unavailable, "actor runtime is closed")},
		"actor error":       {api.ErrActorInvoke(errors.New("error from actor service: (500) boom\r\n\"é\" 100%")), status.New(codes.Internal, "error invoke actor method: error from actor service: (500) boom\r\n\"é\" 100%")},
		"stack":             {api.ErrActorStackDepth(), status.New(codes.ResourceExhausted, "maximum stack depth exceeded")},
		"wrapped":           {fmt.Errorf("outer: %w", status.Error(codes.NotFound, "inner")), status.New(codes.NotFound, "outer: rpc error: code = NotFound desc = inner")},
		"no status":         {errors.New("remote actor moved"), status.New(codes.Unknown, "remote actor moved")},
		"empty":             {status.Error(codes.DataLoss, ""), nil},
		"details":           {detailed.Err(), nil},
		"many details":      {manyDetails.Err(), nil},
		"blanks":            {status.Error(codes.Aborted, " x  "), nil},
		"a long text":       {status.Error(codes.Internal, strings.Repeat("long é ", 10<<10)), nil},
		"deadline":          {context.DeadlineExceeded, status.New(codes.DeadlineExceeded, "context deadline exceeded")},
		"canceled":          {context.Canceled, status.New(codes.Canceled, "context canceled")},
		"unauthenticated":   {status.Error(codes.Unauthenticated, "x"), nil},
		"a code of its own": {status.Error(codes.Code(42), "x"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			want := c.want
			if want == nil {
				want = status.Convert(c.err)
			}
			wires(t, func(t *testing.T, o ClientOptions) {
				client := newClient(t, o)
				next <- c.err
				_, err := client.CallActor(context.Background(), Target{Address: address}, someActor, &invocation.Request{Method: "m", Verb: "PUT"})
				if !proto.Equal(status.Convert(err).Proto(), want.Proto()) {
					t.Errorf("got %.300v, want %.300v", status.Convert(err).Proto(), want.Proto())
				}
				next <- c.err
				err = client.CallActorReminder(context.Background(), Target{Address: reminders}, &internalsv1.Reminder{ActorType: "T"})
				if !proto.Equal(status.Convert(err).Proto(), want.Proto()) {
					t.Errorf("reminder: got %.300v, want %.300v", status.Convert(err).Proto(), want.Proto())
				}
			})
		})
	}
}

func TestCallActorReminder(t *testing.T) {
	data, err := anypb.New(wrapperspb.String("x"))
	if err != nil {
		t.Fatal(err)
	}
	want := &internalsv1.Reminder{ActorId: "1", ActorType: "T", Name: "n", Data: data, Period: "1s", DueTime: "2s", IsTimer: true, SkipLock: true}
	got := make(chan *internalsv1.Reminder, 1)
	_, address := startServer(t, ServerOptions{Actors: &actorServer{remind: func(_ context.Context, r *internalsv1.Reminder) error { got <- r; return nil }}})
	wires(t, func(t *testing.T, o ClientOptions) {
		if err := newClient(t, o).CallActorReminder(within(t), Target{Address: address}, want); err != nil {
			t.Fatal(err)
		}
		if r := receiveWithin(t, "the reminder", got); !proto.Equal(r, want) {
			t.Errorf("got %v", r)
		}
	})
}

func TestActorBodyLimits(t *testing.T) {
	const limit = 1 << 20
	send := make(chan int, 1)
	address := servedActors(t, ServerOptions{MaxBodySize: limit}, func(_ context.Context, _ Actor, req *invocation.Request) (*invocation.Response, error) {
		return &invocation.Response{Status: 200, Body: make([]byte, <-send)}, nil
	})
	wires(t, func(t *testing.T, o ClientOptions) {
		o.MaxBodySize = limit
		c := newClient(t, o)
		for _, size := range []struct {
			request, response int
			ok                bool
		}{{limit, limit, true}, {2 * limit, 0, false}, {0, 2 * limit, false}, {limit, 0, true}} {
			send <- size.response
			_, err := c.CallActor(within(t), Target{Address: address}, someActor, &invocation.Request{Method: "m", Verb: "PUT", Body: make([]byte, size.request)})
			if size.ok && err != nil || !size.ok && (status.Code(err) != codes.ResourceExhausted || !strings.HasPrefix(status.Convert(err).Message(), "grpc: received message larger than max (")) {
				t.Errorf("%d and %d bytes: %v", size.request, size.response, err)
			}
			select {
			case <-send:
			default:
			}
		}
	})
}

func TestNoActors(t *testing.T) {
	_, address := startServer(t, ServerOptions{Handler: echoHandler})
	wires(t, func(t *testing.T, o ClientOptions) {
		c := newClient(t, o)
		_, err := c.CallActor(within(t), Target{Address: address}, someActor, &invocation.Request{Method: "m"})
		err2 := c.CallActorReminder(within(t), Target{Address: address}, &internalsv1.Reminder{ActorType: "T"})
		for _, err := range []error{err, err2} {
			if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "does not host") {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestActorCallsThatMakeNoSense(t *testing.T) {
	address := servedActors(t, ServerOptions{}, func(context.Context, Actor, *invocation.Request) (*invocation.Response, error) {
		t.Error("it is served")
		return nil, nil
	})
	cc, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	calls := internalsv1.NewServiceInvocationClient(cc)
	for _, in := range []*internalsv1.InternalInvokeRequest{
		{}, {Actor: &internalsv1.Actor{ActorType: "T"}}, {Message: &commonv1.InvokeRequest{}}, {Message: &commonv1.InvokeRequest{}, Actor: &internalsv1.Actor{ActorId: "1"}},
	} {
		if _, err := calls.CallActor(within(t), in); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", in, err)
		}
	}
	if _, err := calls.CallActorReminder(within(t), &internalsv1.Reminder{ActorId: "1"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a reminder of nobody: %v", err)
	}
	stream, err := calls.CallActorStream(within(t), &internalsv1.InternalInvokeRequest{Actor: &internalsv1.Actor{ActorType: "T"}})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unimplemented || status.Convert(err).Message() != "not implemented" {
		t.Errorf("a stream: %v", err)
	}
	wires(t, func(t *testing.T, o ClientOptions) {
		c := newClient(t, o)
		if _, err := c.CallActor(within(t), Target{Address: address}, Actor{}, &invocation.Request{Method: "m"}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("an actor without a type: %v", err)
		}
		if _, err := c.CallActor(within(t), Target{Address: address}, Actor{"T", "\xff"}, &invocation.Request{Method: "m"}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("an id that is no text: %v", err)
		}
	})
}

func TestActorServerPanics(t *testing.T) {
	_, address := startServer(t, ServerOptions{Actors: &actorServer{
		call:   func(context.Context, Actor, *invocation.Request) (*invocation.Response, error) { panic("x") },
		remind: func(context.Context, *internalsv1.Reminder) error { panic("x") },
	}})
	wires(t, func(t *testing.T, o ClientOptions) {
		c := newClient(t, o)
		for range 2 {
			_, err := c.CallActor(within(t), Target{Address: address}, someActor, &invocation.Request{Method: "m"})
			err2 := c.CallActorReminder(within(t), Target{Address: address}, &internalsv1.Reminder{ActorType: "T"})
			for _, err := range []error{err, err2} {
				if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "see the log") {
					t.Errorf("got %v", err)
				}
			}
		}
	})
}

func TestActorIdentities(t *testing.T) {
	ca := identitytest.NewCA(t)
	address := servedActors(t, ServerOptions{Security: NewMTLS(ca.NewSource(t, uriB), nil)}, func(_ context.Context, _ Actor, req *invocation.Request) (*invocation.Response, error) {
		return &invocation.Response{Status: 200, Body: []byte(req.Caller.URI)}, nil
	})
	wires(t, func(t *testing.T, o ClientOptions) {
		o.Security = NewMTLS(ca.NewSource(t, uriA), nil)
		c := newClient(t, o)
		for _, target := range []struct {
			appID, namespace string
			ok               bool
		}{{"b", "default", true}, {"a", "default", false}, {"b", "other", false}} {
			resp, err := c.CallActor(within(t), Target{address, target.appID, target.namespace}, someActor, &invocation.Request{Method: "m", Verb: "PUT"})
			if target.ok && (err != nil || string(resp.Body) != uriA) {
				t.Errorf("%v: %v, %v", target, resp, err)
			}
			if !target.ok && status.Code(err) != codes.Unavailable {
				t.Errorf("%v is taken for the host: %v", target, err)
			}
		}
	})
	if _, err := newClient(t, ClientOptions{}).CallActor(within(t), Target{Address: address}, someActor, &invocation.Request{Method: "m"}); status.Code(err) != codes.Unavailable {
		t.Errorf("without mTLS: %v", err)
	}
}

func TestCallActorEndsWithItsContext(t *testing.T) {
	running, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	address := servedActors(t, ServerOptions{}, func(ctx context.Context, _ Actor, _ *invocation.Request) (*invocation.Response, error) {
		running <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return nil, ctx.Err()
	})
	wires(t, func(t *testing.T, o ClientOptions) {
		c := newClient(t, o)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			_, err := c.CallActor(ctx, Target{Address: address}, someActor, &invocation.Request{Method: "m", Verb: "PUT"})
			done <- err
		}()
		receiveWithin(t, "the call", running)
		cancel()
		if err := receiveWithin(t, "the error", done); !errors.Is(err, context.Canceled) || status.Code(err) != codes.Unknown && !errors.Is(err, ctx.Err()) {
			t.Errorf("got %v", err)
		}
		receiveWithin(t, "the end at the host", ended)
		if _, err := c.CallActor(ctx, Target{Address: address}, someActor, &invocation.Request{Method: "m"}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestCallActorAtNobody(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	address := l.Addr().String()
	_ = l.Close()
	wires(t, func(t *testing.T, o ClientOptions) {
		c := newClient(t, o)
		_, err := c.CallActor(within(t), Target{Address: address}, someActor, &invocation.Request{Method: "m"})
		err2 := c.CallActorReminder(within(t), Target{Address: address}, &internalsv1.Reminder{ActorType: "T"})
		if status.Code(err) != codes.Unavailable || status.Code(err2) != codes.Unavailable {
			t.Errorf("got %v, %v", err, err2)
		}
		c.Close()
		if _, err := c.CallActor(within(t), Target{Address: address}, someActor, &invocation.Request{Method: "m"}); !errors.Is(err, ErrClosed) {
			t.Errorf("through a closed client: %v", err)
		}
	})
}

// TestActorDialTimeout: the hosts of actors are waited for longer than others.
func TestActorDialTimeout(t *testing.T) {
	var bounds atomic.Value
	o := ClientOptions{GRPCOnly: true, Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		deadline, _ := ctx.Deadline()
		bounds.Store(time.Until(deadline))
		return nil, errors.New("refused")
	}}
	c := newClient(t, o)
	_, _ = c.CallActor(within(t), Target{Address: "x:1"}, someActor, &invocation.Request{Method: "m"})
	if bound, _ := bounds.Load().(time.Duration); bound < 15*time.Second || bound > 30*time.Second {
		t.Errorf("a connection may take %s", bound)
	}
}

// FuzzActorNames brings any type, id and method to the host, over both protocols.
func FuzzActorNames(f *testing.F) {
	type seen struct {
		actor  Actor
		method string
	}
	got := make(chan seen, 1)
	address := servedActors(f, ServerOptions{}, func(_ context.Context, actor Actor, req *invocation.Request) (*invocation.Response, error) {
		got <- seen{actor, req.Method}
		return &invocation.Response{Status: 200}, nil
	})
	clients := []*Client{newClient(f, ClientOptions{}), newClient(f, ClientOptions{GRPCOnly: true})}
	f.Add("Cart", "42", "add")
	f.Add(" %", "\r\n", "a/%2e%2e/b")
	f.Fuzz(func(t *testing.T, actorType, id, method string) {
		if method = invocation.CleanMethod(method); invocation.CheckMethod(method) != nil || !validText(method, actorType, id) {
			return
		}
		for _, c := range clients {
			if _, err := c.CallActor(within(t), Target{Address: address}, Actor{actorType, id}, &invocation.Request{Method: method, Verb: "PUT"}); err != nil {
				t.Fatal(err)
			}
			if s := <-got; s != (seen{Actor{actorType, id}, method}) {
				t.Errorf("got %+q", s)
			}
		}
	})
}

func validText(method, actorType, id string) bool {
	if actorType == "" || len(actorType)+len(id)+len(method) > 1000 {
		return false
	}
	for _, s := range []string{method, actorType, id} {
		if strings.ToValidUTF8(s, "") != s {
			return false
		}
	}
	return true
}
