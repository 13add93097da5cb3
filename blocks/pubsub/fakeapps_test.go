package pubsub

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/invocation"
)

// fakeApp is an HTTP app without a network.
type fakeApp struct {
	mu    sync.Mutex
	calls []*invocation.Request
	// subscriptions answers GET /dapr/subscribe, event everything else.
	subscriptions func() (*invocation.Response, error)
	event         func(ctx context.Context, req *invocation.Request) (*invocation.Response, error)
}

var _ app.Channel = (*fakeApp)(nil)

func reply(status int, body string) (*invocation.Response, error) {
	return &invocation.Response{Status: status, Body: []byte(body)}, nil
}

// answering is an app that answers every event so.
func answering(status int, body string) *fakeApp {
	return &fakeApp{event: func(context.Context, *invocation.Request) (*invocation.Response, error) { return reply(status, body) }}
}

func (a *fakeApp) Invoke(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	seen := *req
	seen.Body = slices.Clone(req.Body)
	a.mu.Lock()
	a.calls = append(a.calls, &seen)
	a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if req.Method == "dapr/subscribe" {
		if a.subscriptions == nil {
			return reply(404, "")
		}
		return a.subscriptions()
	}
	if a.event == nil {
		return reply(200, "")
	}
	return a.event(ctx, req)
}

// asked counts the questions for subscriptions.
func (a *fakeApp) asked() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.calls {
		if c.Method == "dapr/subscribe" {
			n++
		}
	}
	return n
}

// events are the deliveries.
func (a *fakeApp) events() (list []*invocation.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.calls {
		if c.Method != "dapr/subscribe" {
			list = append(list, c)
		}
	}
	return list
}

func (a *fakeApp) Config(context.Context) ([]byte, error) { return nil, nil }
func (a *fakeApp) Health() *app.Health                    { return nil }
func (a *fakeApp) Protocol() app.Protocol                 { return app.HTTP }
func (a *fakeApp) Close(context.Context) error            { return nil }

// stuckApp is an app that keeps events until it is let go.
func stuckApp() (a *fakeApp, came <-chan string, letGo func()) {
	in, release := make(chan string, 1000), make(chan struct{})
	a = &fakeApp{event: func(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
		in <- string(req.Body)
		select {
		case <-release:
			return reply(200, "")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	return a, in, sync.OnceFunc(func() { close(release) })
}

// serveHTTP starts a real HTTP app without subscriptions of its own, and the channel to it.
func serveHTTP(t testing.TB, o app.Options, h http.HandlerFunc) app.Channel {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", h)
	mux.HandleFunc("/dapr/subscribe", http.NotFound)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	o.Port = s.Listener.Addr().(*net.TCPAddr).Port
	return newChannel(t, o)
}

func newChannel(t testing.TB, o app.Options) app.Channel {
	t.Helper()
	c, err := app.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("closing the app channel: %v", err)
		}
	})
	return c
}

// callbacks is a gRPC app; what it has no function for it does not implement.
type callbacks struct {
	runtimev1.UnimplementedAppCallbackServer
	runtimev1.UnimplementedAppCallbackAlphaServer
	list  func() (*runtimev1.ListTopicSubscriptionsResponse, error)
	event func(context.Context, *runtimev1.TopicEventRequest) (*runtimev1.TopicEventResponse, error)
	bulk  func(context.Context, *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error)
	alpha func(context.Context, *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error)
}

func (c *callbacks) ListTopicSubscriptions(ctx context.Context, in *emptypb.Empty) (*runtimev1.ListTopicSubscriptionsResponse, error) {
	if c.list == nil {
		return c.UnimplementedAppCallbackServer.ListTopicSubscriptions(ctx, in)
	}
	return c.list()
}

func (c *callbacks) OnTopicEvent(ctx context.Context, in *runtimev1.TopicEventRequest) (*runtimev1.TopicEventResponse, error) {
	if c.event == nil {
		return c.UnimplementedAppCallbackServer.OnTopicEvent(ctx, in)
	}
	return c.event(ctx, in)
}

func (c *callbacks) OnBulkTopicEvent(ctx context.Context, in *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error) {
	if c.bulk == nil {
		return c.UnimplementedAppCallbackServer.OnBulkTopicEvent(ctx, in)
	}
	return c.bulk(ctx, in)
}

func (c *callbacks) OnBulkTopicEventAlpha1(ctx context.Context, in *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error) {
	if c.alpha == nil {
		return c.UnimplementedAppCallbackAlphaServer.OnBulkTopicEventAlpha1(ctx, in)
	}
	return c.alpha(ctx, in)
}

func serveGRPC(t testing.TB, a *callbacks) app.Channel {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	runtimev1.RegisterAppCallbackServer(s, a)
	runtimev1.RegisterAppCallbackAlphaServer(s, a)
	done := start(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); <-done })
	return newChannel(t, app.Options{Protocol: app.GRPC, Port: l.Addr().(*net.TCPAddr).Port})
}
