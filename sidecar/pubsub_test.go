package sidecar_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

// delivered is an event as an app got it.
type delivered struct{ path, body string }

// subscriber is an app that takes every event at its path, after hold is closed if that is not nil.
func subscriber(t testing.TB, subscriptions string, hold <-chan struct{}) (*sidecartest.App, <-chan delivered) {
	events := make(chan delivered, 100)
	return sidecartest.NewApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/dapr/subscribe":
			_, _ = io.WriteString(w, subscriptions)
			return
		case r.Method != http.MethodPost:
			http.NotFound(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		events <- delivered{r.URL.Path, string(body)}
		if hold != nil {
			<-hold
		}
	})), events
}

const eventPatience = 20 * time.Second

func nextEvent(t testing.TB, events <-chan delivered) delivered {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(eventPatience):
		t.Fatal("no event comes")
		panic("unreachable")
	}
}

func subscription(version, name, topic, route string, rest ...string) string {
	where := "  route: " + route + "\n"
	if version == "v2alpha1" {
		where = "  routes: {default: " + route + "}\n"
	}
	return "apiVersion: dapr.io/" + version + "\nkind: Subscription\nmetadata: {name: " + name + "}\nspec:\n  pubsubname: ps\n  topic: " + topic + "\n" + where + strings.Join(rest, "")
}

// Files of both versions contradict each other and the app: the first file for a topic counts, unless it is not meant for this
// app, and the app's own word counts more.
func TestSubscriptionPrecedence(t *testing.T) {
	app, events := subscriber(t, `[{"pubsubname":"ps","topic":"own","route":"/by-app"},{"pubsubname":"ps","topic":"twice","route":"/one"},{"pubsubname":"ps","topic":"twice","route":"/two"}]`, nil)
	s := sidecartest.Start(t, sidecartest.WithApp(app), sidecartest.Resources(
		sidecartest.Component("ps", "pubsub.in-memory"),
		subscription("v2alpha1", "not-mine", "orders", "/not-mine", "scopes: [another]\n"),
		subscription("v1alpha1", "first", "orders", "/first", "scopes: [app]\n"),
		subscription("v2alpha1", "second", "orders", "/second"),
		subscription("v2alpha1", "same-name", "gone", "/gone"),
		subscription("v2alpha1", "same-name", "named", "/named"),
		subscription("v2alpha1", "own", "own", "/by-file"),
		"kind: Subscription\napiVersion: dapr.io/v2alpha1\nmetadata: {name: [broken\n",
	))
	s.WaitHealthy()
	for topic, path := range map[string]string{"orders": "/first", "named": "/named", "own": "/by-app", "twice": "/two"} {
		if r := s.Post("/v1.0/publish/ps/"+topic, `{"a":1}`); r.Status != 204 {
			t.Fatalf("publishing to %s: %+v", topic, r)
		}
		e := nextEvent(t, events)
		var event struct {
			Topic string
			Data  struct{ A int }
		}
		if err := json.Unmarshal([]byte(e.body), &event); err != nil || e.path != path || event.Topic != topic || event.Data.A != 1 {
			t.Errorf("topic %s came to %s: %s (%v)", topic, e.path, e.body, err)
		}
	}
	if len(events) != 0 {
		t.Errorf("an event came twice: %v", <-events)
	}
}

// A declared rule that does not compile ends the sidecar with its name; one of the app only leaves its subscriptions out.
func TestRulesThatDoNotCompile(t *testing.T) {
	bad := strings.Replace(subscription("v2alpha1", "crooked", "orders", "/x"), "{default: /x}", "{rules: [{match: 'event.type ==', path: /y}], default: /x}", 1)
	app, _ := subscriber(t, `[]`, nil)
	_, err := sidecartest.TryStart(t, sidecartest.WithApp(app), sidecartest.Resources(sidecartest.Component("ps", "pubsub.in-memory"), bad))
	if err == nil || !strings.Contains(err.Error(), "crooked") || !strings.Contains(err.Error(), `"event.type =="`) {
		t.Errorf("%v", err)
	}
	app, _ = subscriber(t, `[{"pubsubname":"ps","topic":"t","routes":{"rules":[{"match":"event.","path":"/x"}]}}]`, nil)
	s := sidecartest.Start(t, sidecartest.WithApp(app), sidecartest.Resources(sidecartest.Component("ps", "pubsub.in-memory")))
	s.WaitHealthy()
	if !strings.Contains(s.Log.String(), "is no valid expression") {
		t.Errorf("nothing is said of the app's rule\n%s", s.Log)
	}
}

// While shutdown is blocked the app finishes what it has, and publishing goes on.
func TestBlockedShutdown(t *testing.T) {
	hold := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(hold) })
	app, events := subscriber(t, `[{"pubsubname":"ps","topic":"orders","route":"/orders"}]`, hold)
	t.Cleanup(letGo)
	s := sidecartest.Start(t, sidecartest.WithApp(app), sidecartest.With(func(o *sidecar.Options) { o.BlockShutdown = 50 * time.Millisecond }),
		sidecartest.Resources(sidecartest.Component("ps", "pubsub.in-memory")))
	s.WaitHealthy()
	publish := func() {
		t.Helper()
		if r := s.Post("/v1.0/publish/ps/orders", "1"); r.Status != 204 {
			t.Errorf("publishing: %+v", r)
		}
	}
	publish()
	nextEvent(t, events)
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop() }()
	for deadline := time.Now().Add(eventPatience); !strings.Contains(s.Log.String(), "Blocking graceful shutdown"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("shutdown does not begin\n%s", s.Log)
		}
	}
	publish()
	select {
	case <-s.Done():
		t.Error("it ended while the app has an event")
	default:
	}
	letGo()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// Publishing and streams need no app.
func TestStreamWithoutAnApp(t *testing.T) {
	s := sidecartest.Start(t, sidecartest.Resources(sidecartest.Component("ps", "pubsub.in-memory"), subscription("v2alpha1", "idle", "orders", "/x")))
	s.WaitHealthy()
	stream, err := s.Dapr().SubscribeTopicEventsAlpha1(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&runtimev1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &runtimev1.SubscribeTopicEventsRequestAlpha1_InitialRequest{
		InitialRequest: &runtimev1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: "ps", Topic: "orders"},
	}}); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetInitialResponse() == nil {
		t.Fatalf("%v, %v", m, err)
	}
	if r := s.Post("/v1.0/publish/ps/orders", `"hello"`); r.Status != 204 {
		t.Fatalf("%+v", r)
	}
	m, err := stream.Recv()
	if err != nil || string(m.GetEventMessage().GetData()) != `"hello"` {
		t.Fatalf("%v, %v", m, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
}
