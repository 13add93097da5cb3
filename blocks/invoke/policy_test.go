package invoke

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/invocation"
	"outrigger.dev/resiliency"
	"outrigger.dev/resource"
)

// policies is an engine with the policies given for one app.
func policies(target string, change func(p *resource.Policies, names *resource.AppTarget)) *resiliency.Engine {
	p := resource.Policies{Timeouts: map[string]string{}, Retries: map[string]resource.Retry{}, CircuitBreakers: map[string]resource.CircuitBreaker{}}
	names := resource.AppTarget{}
	change(&p, &names)
	r := &resource.Resiliency{Spec: resource.ResiliencySpec{Policies: p, Targets: resource.Targets{Apps: map[string]resource.AppTarget{target: names}}}}
	return resiliency.New(resiliency.Options{Resources: []*resource.Resiliency{r}})
}

// retrying retries that often at once, failures with the codes only if there are any.
func retrying(target string, n int, httpCodes, grpcCodes string) *resiliency.Engine {
	return policies(target, func(p *resource.Policies, names *resource.AppTarget) {
		r := resource.Retry{Duration: "1ms", MaxRetries: &n}
		if httpCodes != "" {
			r.Matching.HTTPStatusCodes = &httpCodes
		}
		if grpcCodes != "" {
			r.Matching.GRPCStatusCodes = &grpcCodes
		}
		p.Retries["r"], names.Retry = r, "r"
	})
}

// scripted answers calls one by one, and with the last answer from then on.
type scripted struct {
	answers []func(ctx context.Context, req *invocation.Request) (*invocation.Response, error)
	calls   atomic.Int32
	open    atomic.Int32 // bodies that are not closed
}

func (s *scripted) Invoke(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	n := int(s.calls.Add(1))
	return s.answers[min(n, len(s.answers))-1](ctx, req)
}

// streamed is a body that counts itself as open until it is closed, and breaks when its context ends.
type streamed struct {
	io.Reader
	ctx    context.Context
	s      *scripted
	closed bool
}

func (b *streamed) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.Reader.Read(p)
}

func (b *streamed) Close() error {
	if !b.closed {
		b.closed = true
		b.s.open.Add(-1)
	}
	return nil
}

func (s *scripted) answer(code int, text string) {
	s.answers = append(s.answers, func(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
		s.open.Add(1)
		return &invocation.Response{Status: code, Length: -1, Stream: &streamed{Reader: strings.NewReader(text), ctx: ctx, s: s}}, nil
	})
}

func (s *scripted) fail(err error) {
	s.answers = append(s.answers, func(context.Context, *invocation.Request) (*invocation.Response, error) { return nil, err })
}

func (s *scripted) hang() {
	s.answers = append(s.answers, func(ctx context.Context, _ *invocation.Request) (*invocation.Response, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
}

// Policies see answers of HTTP apps as failures, and clients the last of them as it is.
func TestPolicies(t *testing.T) {
	lost := errors.New("lost")
	timeout := func(target string) *resiliency.Engine {
		return policies(target, func(p *resource.Policies, names *resource.AppTarget) {
			p.Timeouts["t"], names.Timeout = "50ms", "t"
		})
	}
	for name, c := range map[string]struct {
		engine *resiliency.Engine
		script func(s *scripted)
		req    invocation.Request
		calls  int32
		status int
		body   string
		err    error
	}{
		"recovers":                {engine: retrying("me", 3, "", ""), script: func(s *scripted) { s.answer(500, "a"); s.fail(lost); s.answer(200, "c") }, calls: 3, status: 200, body: "c"},
		"the last answer":         {engine: retrying("me", 2, "", ""), script: func(s *scripted) { s.answer(500, "a"); s.answer(501, "b"); s.answer(418, "c") }, calls: 3, status: 418, body: "c"},
		"the last error":          {engine: retrying("me", 1, "", ""), script: func(s *scripted) { s.answer(500, "a"); s.fail(lost) }, calls: 2, err: lost},
		"not among the codes":     {engine: retrying("me", 3, "503,504", ""), script: func(s *scripted) { s.answer(500, "a") }, calls: 1, status: 500, body: "a"},
		"among the codes":         {engine: retrying("me", 1, "500-599", ""), script: func(s *scripted) { s.answer(500, "a") }, calls: 2, status: 500, body: "a"},
		"redirects are successes": {engine: retrying("me", 3, "", ""), script: func(s *scripted) { s.answer(302, "a") }, calls: 1, status: 302, body: "a"},
		"gRPC codes are answers":  {engine: retrying("me", 3, "", ""), script: func(s *scripted) { s.answer(int(codes.NotFound), "") }, calls: 1, status: int(codes.NotFound)},
		"streams are sent once": {
			engine: retrying("me", 3, "", ""), script: func(s *scripted) { s.answer(500, "a") }, req: invocation.Request{Stream: strings.NewReader("x"), Length: -1},
			calls: 1, status: 500, body: "a",
		},
		"for gRPC clients everything fails": {
			engine: retrying("me", 1, "503", "14"), script: func(s *scripted) { s.answer(302, "a"); s.answer(int(codes.NotFound), "") }, req: invocation.Request{Origin: invocation.FromGRPC},
			calls: 2, status: int(codes.NotFound),
		},
		"another app's policy":          {engine: retrying("other", 3, "", ""), script: func(s *scripted) { s.answer(500, "a") }, calls: 1, status: 500, body: "a"},
		"too late":                      {engine: timeout("me"), script: func(s *scripted) { s.hang() }, calls: 1, err: context.DeadlineExceeded},
		"in time, and read later":       {engine: timeout("me"), script: func(s *scripted) { s.answer(200, "in time") }, calls: 1, status: 200, body: "in time"},
		"failing in time, and so heard": {engine: timeout("me"), script: func(s *scripted) { s.answer(500, "in time") }, calls: 1, status: 500, body: "in time"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &scripted{}
			c.script(s)
			b := New(Options{AppID: "me", App: s, Resiliency: c.engine})
			c.req.Method, c.req.Verb = "m", "POST"
			resp, err := b.Invoke(t.Context(), "me", &c.req)
			if !errors.Is(err, c.err) || c.err == nil && err != nil {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if n := s.calls.Load(); n != c.calls {
				t.Errorf("%d calls, want %d", n, c.calls)
			}
			if err != nil {
				return
			}
			body, err := io.ReadAll(resp.Stream)
			if err != nil || resp.Status != c.status || string(body) != c.body {
				t.Errorf("got %d %q, %v; want %d %q", resp.Status, body, err, c.status, c.body)
			}
			_ = resp.Close()
			if n := s.open.Load(); n != 0 {
				t.Errorf("%d bodies are left open", n)
			}
		})
	}
}

// The body of an answer that came in time is not bound by the timeout; one that came too late is given back.
func TestTimeoutAndBodies(t *testing.T) {
	engine := policies("me", func(p *resource.Policies, names *resource.AppTarget) { p.Timeouts["t"], names.Timeout = "20ms", "t" })
	s := &scripted{}
	s.answer(200, "later")
	b := New(Options{AppID: "me", App: s, Resiliency: engine})
	resp, err := b.Invoke(t.Context(), "me", &invocation.Request{Method: "m", Verb: "GET"})
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(50 * time.Millisecond) // past the timeout
	if body, err := io.ReadAll(resp.Stream); err != nil || string(body) != "later" {
		t.Errorf("got %q, %v", body, err)
	}
	ctx := resp.Stream.(*cancelling).ReadCloser.(*streamed).ctx
	_ = resp.Close()
	if ctx.Err() == nil {
		t.Error("the call's context outlives the answer")
	}

	late := &scripted{}
	late.answers = append(late.answers, func(ctx context.Context, _ *invocation.Request) (*invocation.Response, error) {
		<-ctx.Done() // and answers nevertheless
		late.open.Add(1)
		return &invocation.Response{Status: 200, Stream: &streamed{Reader: strings.NewReader(""), ctx: ctx, s: late}}, nil
	})
	b = New(Options{AppID: "me", App: late, Resiliency: engine})
	if _, err := b.Invoke(t.Context(), "me", &invocation.Request{Method: "m"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if n := late.open.Load(); n != 0 {
		t.Errorf("%d bodies are left open", n)
	}
}

// An open circuit breaker is an error of the API's own, apart for each method.
func TestBreaker(t *testing.T) {
	engine := policies("me", func(p *resource.Policies, names *resource.AppTarget) {
		p.CircuitBreakers["c"], names.CircuitBreaker = resource.CircuitBreaker{Trip: "consecutiveFailures >= 2", Timeout: "1h"}, "c"
	})
	s := &scripted{}
	s.answer(500, "a")
	b := New(Options{AppID: "me", App: s, Resiliency: engine})
	call := func(method string) error {
		resp, err := b.Invoke(t.Context(), "me", &invocation.Request{Method: method, Verb: "GET"})
		if err == nil {
			_ = resp.Close()
		}
		return err
	}
	for range 2 {
		if err := call("m"); err != nil {
			t.Fatal(err)
		}
	}
	if err := call("m"); !errors.Is(err, resiliency.ErrOpen) {
		t.Errorf("got %v", err)
	}
	if err := call("another"); err != nil {
		t.Errorf("another method: %v", err)
	}
	if n := s.calls.Load(); n != 3 {
		t.Errorf("%d calls", n)
	}
	in := &runtimev1.InvokeServiceRequest{Id: "me", Message: &commonv1.InvokeRequest{Method: "m"}}
	if _, err := NewServer(b).InvokeService(t.Context(), in); status.Code(err) != codes.Unknown || status.Convert(err).Message() != "circuit breaker is open" {
		t.Errorf("InvokeService: %v", err)
	}
}

func TestTimeoutOfInvokeService(t *testing.T) {
	s := &scripted{}
	s.hang()
	b := New(Options{AppID: "me", App: s, Resiliency: policies("me", func(p *resource.Policies, names *resource.AppTarget) { p.Timeouts["t"], names.Timeout = "10ms", "t" })})
	in := &runtimev1.InvokeServiceRequest{Id: "me", Message: &commonv1.InvokeRequest{Method: "m"}}
	if _, err := NewServer(b).InvokeService(t.Context(), in); status.Code(err) != codes.DeadlineExceeded || status.Convert(err).Message() != "context deadline exceeded" {
		t.Errorf("got %v", err)
	}
}

// Targets with a policy have no built-in retries, but a peer that does not answer is looked up again at each try.
func TestPolicyOfPeers(t *testing.T) {
	gone := status.Error(codes.Unavailable, "gone")
	p, r := &peers{errs: []error{gone, gone}}, &resolver{}
	b := New(Options{AppID: "me", Namespace: "default", Peers: p, Resolver: r, Resiliency: retrying("other", 2, "", "")})
	req := &invocation.Request{Method: "m", Verb: "GET"}
	if _, err := b.Invoke(t.Context(), "other", req); err != nil || len(p.calls) != 3 || r.looked != 3 || len(r.forgotten) != 2 {
		t.Errorf("%v after %v, %d look-ups", err, p.calls, r.looked)
	}
	n := 0
	for _, f := range p.seen {
		if invocation.Is(f.Name, "x-forwarded-for") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the header says %d times who forwards: %s", n, p.seen)
	}
	p = &peers{errs: []error{gone, gone}}
	b = New(Options{AppID: "me", Namespace: "default", Peers: p, Resolver: r, Resiliency: retrying("other", 0, "", "")})
	if _, err := b.Invoke(t.Context(), "other", &invocation.Request{Method: "m"}); status.Code(err) != codes.Unavailable || len(p.calls) != 1 {
		t.Errorf("%v after %v", err, p.calls)
	}
}

// Without a policy a call costs no memory for policies.
func TestNoPolicyNoCost(t *testing.T) {
	resp := &invocation.Response{Status: 200}
	app := appFunc(func() (*invocation.Response, error) { return resp, nil })
	b := New(Options{AppID: "me", App: app, Resiliency: retrying("other", 3, "", "")})
	req := &invocation.Request{Method: "m", Verb: "GET"}
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { _, _ = b.Invoke(ctx, "me", req) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

type appFunc func() (*invocation.Response, error)

func (f appFunc) Invoke(context.Context, *invocation.Request) (*invocation.Response, error) {
	return f()
}
