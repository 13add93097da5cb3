package sdk

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprgrpc "github.com/dapr/go-sdk/service/grpc"
	daprhttp "github.com/dapr/go-sdk/service/http"
	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc/metadata"
)

// got is an event as a handler of the app got it.
type got struct {
	route string
	event common.TopicEvent
	md    metadata.MD // headers over HTTP
}

// inbox is what the app of a test got so far.
type inbox struct {
	mu     sync.Mutex
	all    []got
	change chan struct{} // closed and replaced with every event
}

func newInbox() *inbox { return &inbox{change: make(chan struct{})} }

func (b *inbox) put(route string, ctx context.Context, e *common.TopicEvent) {
	md, _ := metadata.FromIncomingContext(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, got{route, *e, md})
	close(b.change)
	b.change = make(chan struct{})
}

// find returns the events that are as asked for, and the channel that says when there is another event.
func (b *inbox) find(is func(got) bool) ([]got, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []got
	for _, g := range b.all {
		if is(g) {
			found = append(found, g)
		}
	}
	return found, b.change
}

// await waits for n events on a route with this data, in any order, and returns them. The data is compared as text.
func (b *inbox) await(t *testing.T, n int, route, data string) []got {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		found, change := b.find(func(g got) bool { return g.route == route && g.text() == data })
		if len(found) >= n {
			return found
		}
		select {
		case <-change:
		case <-limit:
			everything, _ := b.find(func(got) bool { return true })
			for _, g := range everything {
				t.Logf("the app got on %s: %s", g.route, g.text())
			}
			t.Fatalf("%d events on %s with the data %s, want %d", len(found), route, data, n)
		}
	}
}

// one waits for one event, and checks that it is the only one so far.
func (b *inbox) one(t *testing.T, route, data string) got {
	t.Helper()
	found := b.await(t, 1, route, data)
	if len(found) != 1 {
		t.Errorf("%d events on %s with the data %s, want 1", len(found), route, data)
	}
	return found[0]
}

// none checks that nothing has come to a route with this data.
func (b *inbox) none(t *testing.T, route, data string) {
	t.Helper()
	if found, _ := b.find(func(g got) bool { return g.route == route && g.text() == data }); len(found) != 0 {
		t.Errorf("%d events on %s with the data %s, want none", len(found), route, data)
	}
}

// text is the data: bytes and strings as they are, everything else as JSON.
func (g got) text() string {
	switch v := g.event.Data.(type) {
	case nil:
		return ""
	case []byte:
		return string(v)
	case string:
		return v
	default:
		text, err := json.Marshal(v)
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
}

// eventApp is an app that gets events through its sidecar.
type eventApp struct {
	*inbox
	name, id string
	grpc     string        // the port of the app's sidecar
	c        client.Client // of that
	redis    bool

	ticks  chan common.BindingEvent
	ticked atomic.Bool
}

// onEvents starts the app of one protocol with all subscriptions of the tests, for a sidecar asks for them once only.
func onEvents(t *testing.T, protocol string) *eventApp {
	t.Helper()
	role := map[string]string{"http": "SDK_EVENTS_HTTP", "grpc": "SDK_EVENTS_GRPC"}[protocol]
	address := "127.0.0.1:" + env(t, role+"_APP_PORT")
	a := &eventApp{inbox: newInbox(), name: protocol, id: env(t, role+"_ID"), grpc: env(t, role+"_GRPC_PORT"), ticks: make(chan common.BindingEvent, 8), redis: hasRedis()}

	var s common.Service
	if protocol == "http" {
		mux := chi.NewRouter()
		mux.Use(headersAsMetadata)
		mux.NotFound(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				t.Errorf("the app got %s, for which it has no subscription", r.URL)
			}
			http.NotFound(w, r)
		})
		s = daprhttp.NewServiceWithMux(address, mux)
		for _, route := range []string{"/declared", "/declared-special", "/declared-old"} {
			noError(t, s.AddServiceInvocationHandler(route, a.declared(route)))
		}
	} else {
		listener, err := net.Listen("tcp", address)
		noError(t, err)
		s = daprgrpc.NewServiceWithListener(listener)
		// The gRPC service has no handlers but those of subscriptions; this one gets the topics without one, too.
		for route, match := range map[string]string{"/declared": "", "/declared-special": `event.id == ""`, "/declared-old": `event.id == ""`} {
			noError(t, s.AddTopicEventHandler(&common.Subscription{PubsubName: "broker", Topic: "unused", Route: route, Match: match, DisableTopicValidation: true}, a.taking(route)))
		}
	}
	a.subscribe(t, s)
	noError(t, s.AddBindingInvocationHandler("tick", a.tick))
	serve(t, s, nil)

	var err error
	a.c, err = client.NewClientWithPort(a.grpc)
	noError(t, err)
	t.Cleanup(a.c.Close)
	awaitSubscriptions(t, env(t, role+"_HTTP_PORT"))
	return a
}

// awaitSubscriptions waits until the sidecar is ready, which it is once it has started the app's subscriptions.
func awaitSubscriptions(t *testing.T, port string) {
	t.Helper()
	ctx := bounded(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/v1.0/healthz", nil)
		noError(t, err)
		res, err := http.DefaultClient.Do(req)
		noError(t, err)
		res.Body.Close()
		if res.StatusCode == http.StatusNoContent {
			return
		}
	}
}

func headersAsMetadata(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		md := metadata.MD{}
		for k, v := range r.Header {
			md.Set(k, v...)
		}
		next.ServeHTTP(w, r.WithContext(metadata.NewIncomingContext(r.Context(), md)))
	})
}

// taking is a handler that takes every event.
func (a *eventApp) taking(route string) common.TopicEventHandler {
	return func(ctx context.Context, e *common.TopicEvent) (bool, error) {
		a.put(route, ctx, e)
		return false, nil
	}
}

// failing is a handler that takes no event but with the data "taken": it drops "drop" and wants the others again.
func (a *eventApp) failing(route string) common.TopicEventHandler {
	return func(ctx context.Context, e *common.TopicEvent) (bool, error) {
		a.put(route, ctx, e)
		switch e.Data {
		case "taken":
			return false, nil
		case "drop":
			return false, fmt.Errorf("not wanted")
		default:
			return true, fmt.Errorf("not now")
		}
	}
}

// flaky is a handler that takes an event when it comes again.
func (a *eventApp) flaky(route string) common.TopicEventHandler {
	var mu sync.Mutex
	seen := map[string]bool{}
	return func(ctx context.Context, e *common.TopicEvent) (bool, error) {
		mu.Lock()
		again := seen[e.ID]
		seen[e.ID] = true
		mu.Unlock()
		a.put(route, ctx, e)
		if !again {
			return true, fmt.Errorf("not now")
		}
		return false, nil
	}
}

// declared is a handler of the Go SDK's HTTP service for a route that the sidecar knows from a resource only.
func (a *eventApp) declared(route string) common.ServiceInvocationHandler {
	return func(ctx context.Context, in *common.InvocationEvent) (*common.Content, error) {
		var e common.TopicEvent
		if err := json.Unmarshal(in.Data, &e); err != nil {
			return nil, err
		}
		a.put(route, ctx, &e)
		return nil, nil
	}
}

// tick fails the first time, which a schedule does not care about.
func (a *eventApp) tick(_ context.Context, in *common.BindingEvent) ([]byte, error) {
	select {
	case a.ticks <- *in:
	default: // enough of them
	}
	if !a.ticked.Swap(true) {
		return nil, fmt.Errorf("not now")
	}
	return []byte(`{"ticked":true}`), nil
}

// subscribe adds the subscriptions that the Go SDK offers.
func (a *eventApp) subscribe(t *testing.T, s common.Service) {
	t.Helper()
	add := func(sub common.Subscription, h common.TopicEventHandler) {
		t.Helper()
		if sub.PubsubName == "" {
			sub.PubsubName = "broker"
		}
		noError(t, s.AddTopicEventHandler(&sub, h))
	}
	add(common.Subscription{Topic: "orders", Route: "/orders"}, a.taking("/orders"))
	add(common.Subscription{Topic: "deep/er", Route: "/deeper"}, a.taking("/deeper"))
	add(common.Subscription{Topic: "raw", Route: "/raw", Metadata: map[string]string{"rawPayload": "true"}}, a.taking("/raw"))
	add(common.Subscription{Topic: "routed", Route: "/routed"}, a.taking("/routed"))
	add(common.Subscription{Topic: "routed", Route: "/routed-many", Match: `event.data.n > 10`, Priority: 2}, a.taking("/routed-many"))
	add(common.Subscription{Topic: "routed", Route: "/routed-special", Match: `event.type == "special"`, Priority: 1}, a.taking("/routed-special"))
	add(common.Subscription{Topic: "failing", Route: "/failing", DeadLetterTopic: "dead"}, a.failing("/failing"))
	add(common.Subscription{Topic: "dead", Route: "/dead"}, a.taking("/dead"))
	add(common.Subscription{Topic: "written", Route: "/written"}, a.taking("/written"))
	if a.redis {
		noError(t, s.AddTopicEventSubscriber(&common.Subscription{PubsubName: "redis", Topic: "go-shared", Route: "/shared"}, a.taking("/shared")))
		add(common.Subscription{PubsubName: "redis", Topic: "go-flaky", Route: "/flaky"}, a.flaky("/flaky"))
		add(common.Subscription{PubsubName: "redis", Topic: "go-failing-" + a.name, Route: "/redis-failing", DeadLetterTopic: "go-dead-" + a.name}, a.failing("/redis-failing"))
		add(common.Subscription{PubsubName: "redis", Topic: "go-dead-" + a.name, Route: "/redis-dead"}, a.taking("/redis-dead"))
	}
}
