package pubsub

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"

	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
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
	o.Port = apptest.Serve(t, "http", mux)
	return apptest.Open(t, app.New, o)
}

// serveGRPC starts a real gRPC app and the channel to it.
func serveGRPC(t testing.TB, a *apptest.Callbacks) app.Channel {
	t.Helper()
	return apptest.Open(t, app.New, app.Options{Protocol: app.GRPC, Port: apptest.ServeGRPC(t, "grpc", a)})
}
