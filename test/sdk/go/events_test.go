package sdk

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/grpc/codes"
)

func hasRedis() bool { return os.Getenv("SDK_REDIS") != "" }

// TestEvents runs the app of one protocol and then of the other, and in the end both, with a broker between their sidecars.
func TestEvents(t *testing.T) {
	var apps []*eventApp
	for _, protocol := range []string{"http", "grpc"} {
		a := onEvents(t, protocol)
		apps = append(apps, a)
		for _, test := range []struct {
			name string
			run  func(*testing.T, *eventApp)
		}{
			{"published", testPublished},
			{"metadata", testPublishMetadata},
			{"traced", testTraced},
			{"bulk", testPublishedInBulk},
			{"raw", testRaw},
			{"routed", testRouted},
			{"dead letters", testDeadLetters},
			{"declared", testDeclared},
			{"listed", testListed},
			{"outbox", testOutbox},
			{"refused", testRefused},
			{"streams", testStreams},
			{"stream errors", testStreamErrors},
			{"out", testOutputBindings},
			{"out fails", testOutputBindingErrors},
			{"in", testInputBinding},
		} {
			t.Run(protocol+" "+test.name, func(t *testing.T) { test.run(t, a) })
		}
	}
	t.Run("redis", func(t *testing.T) { testRedis(t, apps) })
}

type order struct {
	ID   string `json:"id"`
	Size int    `json:"size"`
}

func testPublished(t *testing.T, a *eventApp) {
	ctx := bounded(t)
	for _, test := range []struct {
		data        any
		contentType string
		want, is    string // data and content type that the app gets
	}{
		{order{"one", 1}, "", `{"id":"one","size":1}`, "application/json"},
		{"just text", "", "just text", "text/plain"},
		{[]byte("text in bytes"), "text/plain; charset=utf-8", "text in bytes", "text/plain; charset=utf-8"},
		{[]byte(`{"id":"bytes"}`), "application/json", `{"id":"bytes"}`, "application/json"},
		{[]byte("<a>b</a>"), "application/xml", "<a>b</a>", "application/xml"},
		{[]byte{0, 1, 0xfe, 0xff}, "application/octet-stream", "\x00\x01\xfe\xff", "application/octet-stream"},
	} {
		var opts []client.PublishEventOption
		if test.contentType != "" {
			opts = append(opts, client.PublishEventWithContentType(test.contentType))
		}
		noError(t, a.c.PublishEvent(ctx, "broker", "orders", test.data, opts...))
		g := a.one(t, "/orders", test.want)
		e := g.event
		if e.ID == "" || e.Source != a.id || e.Type != "com.dapr.event.sent" || e.SpecVersion != "1.0" || e.Topic != "orders" || e.PubsubName != "broker" || e.DataContentType != test.is {
			t.Errorf("%s: the app got %+v", test.want, e)
		}
		if token := g.md.Get("dapr-api-token"); !slices.Equal(token, []string{env(t, "APP_API_TOKEN")}) {
			t.Errorf("%s: the app got the token %v", test.want, token)
		}
		if name := g.md.Get("pubsubname"); !slices.Equal(name, []string{"broker"}) {
			t.Errorf("%s: the app got pubsubName: %v", test.want, name)
		}
	}

	noError(t, a.c.PublishEvent(ctx, "broker", "deep/er", "below"))
	a.one(t, "/deeper", "below")

	// Numbers stay as they are, which a float64 would not do.
	noError(t, a.c.PublishEvent(ctx, "broker", "orders", []byte(`{"n":9007199254740993}`), client.PublishEventWithContentType("application/json")))
	raw := string(a.one(t, "/orders", `{"n":9007199254740992}`).event.RawData)
	if raw != `{"n":9007199254740993}` {
		t.Errorf("the app got %s", raw)
	}

	// An envelope of the app's own is passed on, and completed.
	own := `{"specversion":"1.0","id":"own-id","source":"own-source","type":"own.type","subject":"own-subject","datacontenttype":"application/json","data":{"own":true},"topic":"elsewhere"}`
	noError(t, a.c.PublishEvent(ctx, "broker", "orders", own, client.PublishEventWithContentType("application/cloudevents+json")))
	e := a.one(t, "/orders", `{"own":true}`).event
	if e.ID != "own-id" || e.Source != "own-source" || e.Type != "own.type" || e.Topic != "orders" || e.PubsubName != "broker" {
		t.Errorf("the app got %+v", e)
	}
	if a.name == "http" && e.Subject != "own-subject" { // the SDK's gRPC service has no subject
		t.Errorf("the app got the subject %q", e.Subject)
	}
}

func testPublishMetadata(t *testing.T, a *eventApp) {
	noError(t, a.c.PublishEvent(bounded(t), "broker", "orders", "with metadata", client.PublishEventWithMetadata(map[string]string{
		"cloudevent.id": "given", "cloudevent.source": "somewhere", "cloudevent.TYPE": "given.type", "cloudevent.subject": "about", "ttlInSeconds": "60", "own": "header",
		"cloudevent.traceparent": "00-" + traceID + "-00f067aa0ba902b7-01",
	})))
	g := a.one(t, "/orders", "with metadata")
	if e := g.event; e.ID != "given" || e.Source != "somewhere" || e.Type != "given.type" {
		t.Errorf("the app got %+v", e)
	}
	if e := g.event; a.name == "http" && (e.Subject != "about" || !strings.Contains(e.TraceParent, traceID) || !strings.Contains(e.TraceID, traceID)) {
		t.Errorf("the app got %+v", e)
	}
	if own := g.md.Get("own"); !slices.Equal(own, []string{"header"}) {
		t.Errorf("the app got own: %v", own)
	}
}

// testTraced publishes as a part of a trace, which goes on in the app.
func testTraced(t *testing.T, a *eventApp) {
	c, ctx := headersTo(t, a.grpc)
	noError(t, c.PublishEvent(ctx, "broker", "orders", "traced"))
	g := a.one(t, "/orders", "traced")
	if e := g.event; a.name == "http" && (!strings.Contains(e.TraceParent, traceID) || e.TraceID != e.TraceParent) {
		t.Errorf("the app got the event's traceid %q and traceparent %q, want the trace %s", e.TraceID, e.TraceParent, traceID)
	}
	if trace := g.md.Get("traceparent"); len(trace) != 1 || !strings.Contains(trace[0], traceID) {
		t.Errorf("the app got traceparent: %v, want one of the trace %s", trace, traceID)
	}
}

func testPublishedInBulk(t *testing.T, a *eventApp) {
	ctx := bounded(t)
	res := a.c.PublishEvents(ctx, "broker", "orders", []any{
		"bulk text", []byte("bulk bytes"),
		order{"bulk", 2},
		client.PublishEventsEvent{EntryID: "named", Data: []byte(`"bulk entry"`), ContentType: "application/json", Metadata: map[string]string{"cloudevent.type": "entry.type", "own": "entry"}},
		map[string]any{"specversion": "1.0", "id": "bulk-own", "source": "s", "type": "bulk.own", "datacontenttype": "text/plain", "data": "bulk own"},
	}, client.PublishEventsWithMetadata(map[string]string{"own": "request", "cloudevent.source": "of-request"}))
	if res.Error != nil || len(res.FailedEvents) != 0 {
		t.Fatalf("publishing in bulk: %v; failed: %v", res.Error, res.FailedEvents)
	}
	for want, contentType := range map[string]string{"bulk text": "text/plain", "bulk bytes": "application/octet-stream", `{"id":"bulk","size":2}`: "application/json"} {
		g := a.one(t, "/orders", want)
		if e := g.event; e.DataContentType != contentType || e.Source != a.id || e.Type != "com.dapr.event.sent" || g.md.Get("own") != nil {
			t.Errorf("%s: the app got %+v, own: %v", want, e, g.md.Get("own"))
		}
	}
	g := a.one(t, "/orders", "bulk entry")
	if e := g.event; e.Type != "entry.type" || e.Source != "of-request" || !slices.Equal(g.md.Get("own"), []string{"entry"}) {
		t.Errorf("the app got %+v, own: %v", e, g.md.Get("own"))
	}
	if e := a.one(t, "/orders", "bulk own").event; e.ID != "bulk-own" || e.Type != "bulk.own" {
		t.Errorf("the app got %+v", e)
	}

	res = a.c.PublishEvents(ctx, "broker", "raw", []any{"bulk raw"}, client.PublishEventsWithRawPayload())
	noError(t, res.Error)
	a.one(t, "/raw", "bulk raw")
	res = a.c.PublishEvents(ctx, "broker", "orders", []any{"typed"}, client.PublishEventsWithContentType("application/xml"))
	noError(t, res.Error)
	if e := a.one(t, "/orders", "typed").event; e.DataContentType != "application/xml" {
		t.Errorf("the app got %+v", e)
	}

	many := make([]any, 500)
	for i := range many {
		many[i] = fmt.Sprintf("many %d", i)
	}
	res = a.c.PublishEvents(ctx, "broker", "orders", many)
	noError(t, res.Error)
	for _, text := range many {
		a.one(t, "/orders", text.(string))
	}

	same := client.PublishEventsEvent{EntryID: "same", Data: []byte("x"), ContentType: "text/plain"}
	res = a.c.PublishEvents(ctx, "broker", "orders", []any{same, same})
	wantStatus(t, res.Error, codes.InvalidArgument, "entryId is duplicated or not present for entry", "DAPR_PUBSUB_MARSHAL_EVENTS")
	if len(res.FailedEvents) != 2 {
		t.Errorf("failed: %v, want both", res.FailedEvents)
	}
}

func testRaw(t *testing.T, a *eventApp) {
	ctx := bounded(t)
	noError(t, a.c.PublishEvent(ctx, "broker", "raw", []byte("as it is \xff"), client.PublishEventWithRawPayload()))
	e := a.one(t, "/raw", "as it is \xff").event
	if e.DataContentType != "application/octet-stream" || e.Source != "Dapr" || e.Type != "com.dapr.event.sent" || e.ID == "" || e.Topic != "raw" || e.PubsubName != "broker" {
		t.Errorf("the app got %+v", e)
	}

	// A subscription to raw payloads gets the envelope of the others as a payload.
	noError(t, a.c.PublishEvent(ctx, "broker", "raw", "in an envelope", client.PublishEventWithMetadata(map[string]string{"cloudevent.id": "enveloped"})))
	for {
		found, change := a.find(func(g got) bool { return g.route == "/raw" && strings.Contains(g.text(), "in an envelope") })
		if len(found) == 0 {
			select {
			case <-change:
				continue
			case <-ctx.Done():
				t.Fatal("the envelope did not come")
			}
		}
		var envelope struct{ ID, Data, Topic string }
		if err := json.Unmarshal([]byte(found[0].text()), &envelope); err != nil || envelope.ID != "enveloped" || envelope.Data != "in an envelope" || envelope.Topic != "raw" {
			t.Errorf("the payload is %s: %v", found[0].text(), err)
		}
		break
	}

	// An object is good enough an event for a subscription to others.
	noError(t, a.c.PublishEvent(ctx, "broker", "orders", []byte(`{"data":"made by hand","datacontenttype":"text/plain"}`), client.PublishEventWithRawPayload()))
	a.one(t, "/orders", "made by hand")
}

func testRouted(t *testing.T, a *eventApp) {
	ctx := bounded(t)
	special := client.PublishEventWithMetadata(map[string]string{"cloudevent.type": "special"})
	noError(t, a.c.PublishEvent(ctx, "broker", "routed", map[string]int{"n": 99}, special))
	noError(t, a.c.PublishEvent(ctx, "broker", "routed", map[string]int{"n": 11}))
	noError(t, a.c.PublishEvent(ctx, "broker", "routed", map[string]int{"n": 10}))
	for route, data := range map[string]string{"/routed-special": `{"n":99}`, "/routed-many": `{"n":11}`, "/routed": `{"n":10}`} {
		a.one(t, route, data)
		for _, other := range []string{"/routed-special", "/routed-many", "/routed"} {
			if other != route {
				a.none(t, other, data)
			}
		}
	}
}

func testDeadLetters(t *testing.T, a *eventApp) {
	ctx := bounded(t)
	for _, data := range []string{"taken", "again", "drop"} {
		noError(t, a.c.PublishEvent(ctx, "broker", "failing", data, client.PublishEventWithMetadata(map[string]string{"cloudevent.id": "id-of-" + data})))
	}
	for _, data := range []string{"again", "drop"} {
		a.one(t, "/failing", data)
		if e := a.one(t, "/dead", data).event; e.ID != "id-of-"+data || e.PubsubName != "broker" {
			t.Errorf("%s: the app got %+v", data, e)
		}
	}
	a.one(t, "/failing", "taken")
	a.none(t, "/dead", "taken")

	// What is too old is not delivered.
	old := `{"specversion":"1.0","id":"old","source":"s","type":"t","datacontenttype":"text/plain","data":"old","expiration":"2001-02-03T04:05:06Z"}`
	noError(t, a.c.PublishEvent(ctx, "broker", "failing", old, client.PublishEventWithContentType("application/cloudevents+json")))
	noError(t, a.c.PublishEvent(ctx, "broker", "failing", "after the old one"))
	a.one(t, "/failing", "after the old one")
	a.none(t, "/failing", "old")
}

func testDeclared(t *testing.T, a *eventApp) {
	ctx := bounded(t)
	noError(t, a.c.PublishEvent(ctx, "broker", "declared/others", map[string]string{"kind": "others"}))
	noError(t, a.c.PublishEvent(ctx, "broker", "declared/new", map[string]string{"kind": "special"}))
	noError(t, a.c.PublishEvent(ctx, "broker", "declared/new", map[string]string{"kind": "plain"}))
	noError(t, a.c.PublishEvent(ctx, "broker", "declared/old", map[string]string{"kind": "old"}))
	for route, kind := range map[string]string{"/declared-special": "special", "/declared": "plain", "/declared-old": "old"} {
		if e := a.one(t, route, fmt.Sprintf(`{"kind":%q}`, kind)).event; e.Source != a.id || e.Type != "com.dapr.event.sent" {
			t.Errorf("%s: the app got %+v", route, e)
		}
	}
	a.none(t, "/declared", `{"kind":"others"}`)
}

// testListed checks the subscriptions that the sidecar says it has.
func testListed(t *testing.T, a *eventApp) {
	m, err := a.c.GetMetadata(bounded(t))
	noError(t, err)
	byTopic := map[string]*client.MetadataSubscription{}
	for _, s := range m.Subscriptions {
		byTopic[s.PubsubName+"/"+s.Topic] = s
	}
	rules := func(topic string) []string {
		s := byTopic[topic]
		if s == nil || s.Rules == nil {
			return nil
		}
		var all []string
		for _, r := range s.Rules.Rules {
			all = append(all, r.Path+" if "+r.Match)
		}
		return all
	}
	plain := "/orders if "
	if a.name == "grpc" { // where the SDK gives no path for a subscription without rules
		plain = " if "
	}
	for topic, want := range map[string][]string{
		"broker/orders":       {plain},
		"broker/routed":       {`/routed-special if event.type == "special"`, "/routed-many if event.data.n > 10", "/routed if "},
		"broker/declared/new": {`/declared-special if event.data.kind == "special"`, "/declared if "},
		"broker/declared/old": {"/declared-old if "},
	} {
		if got := rules(topic); !slices.Equal(got, want) {
			t.Errorf("the rules of %s are %q, want %q", topic, got, want)
		}
	}
	if s := byTopic["broker/failing"]; s == nil || s.DeadLetterTopic != "dead" {
		t.Errorf("the subscription to failing is %+v", s)
	}
	if s := byTopic["broker/raw"]; s == nil || !maps.Equal(s.Metadata, map[string]string{"rawPayload": "true"}) {
		t.Errorf("the subscription to raw is %+v", s)
	}
	if s := byTopic["broker/declared/others"]; s != nil {
		t.Errorf("the subscription of another app is listed: %+v", s)
	}
}

func testOutbox(t *testing.T, a *eventApp) {
	noError(t, a.c.ExecuteStateTransaction(bounded(t), "outbox", map[string]string{"of": "request"}, []*client.StateOperation{
		{Type: client.StateOperationTypeUpsert, Item: &client.SetStateItem{Key: "key", Value: []byte("written"), Metadata: map[string]string{"type": "key.written", "source": "the outbox"}}},
		{Type: client.StateOperationTypeDelete, Item: &client.SetStateItem{Key: "other"}},
	}))
	item, err := a.c.GetState(bounded(t), "outbox", "key", nil)
	if err != nil || string(item.Value) != "written" {
		t.Errorf("the state is %+v, %v", item, err)
	}
	if e := a.one(t, "/written", "written").event; e.Type != "key.written" || e.Source != "the outbox" || e.Topic != "written" || e.PubsubName != "broker" {
		t.Errorf("the app got %+v", e)
	}
}

func testRefused(t *testing.T, a *eventApp) {
	ctx := bounded(t)
	err := a.c.PublishEvent(ctx, "nobroker", "orders", "x")
	wantStatus(t, err, codes.InvalidArgument, "pubsub nobroker is not found", "DAPR_PUBSUB_NOT_FOUND")
	err = a.c.PublishEvent(ctx, "broker", "forbidden", "x")
	wantStatus(t, err, codes.PermissionDenied, "topic forbidden is not allowed for app id "+a.id, "DAPR_PUBSUB_FORBIDDEN")
	err = a.c.PublishEvent(ctx, "broker", "orders", "x", client.PublishEventWithMetadata(map[string]string{"rawPayload": "perhaps"}))
	wantStatus(t, err, codes.InvalidArgument, "rawPayload value must be a valid boolean: actual is 'perhaps'", "DAPR_PUBSUB_METADATA_DESERIALIZATION")
	err = a.c.PublishEvent(ctx, "broker", "orders", "[]", client.PublishEventWithContentType("application/cloudevents+json"))
	wantStatus(t, err, codes.InvalidArgument, "cannot create cloudevent", "DAPR_PUBSUB_CLOUD_EVENT_CREATION")
	res := a.c.PublishEvents(ctx, "broker", "forbidden", []any{"x", "y"})
	wantStatus(t, res.Error, codes.PermissionDenied, "topic forbidden is not allowed for app id "+a.id, "DAPR_PUBSUB_FORBIDDEN")
	if len(res.FailedEvents) != 2 {
		t.Errorf("failed: %v, want both", res.FailedEvents)
	}
}

// testRedis publishes through one sidecar and gets events through both.
func testRedis(t *testing.T, apps []*eventApp) {
	if !hasRedis() {
		t.Skip("there is no Redis server")
	}
	ctx := bounded(t)
	for i, a := range apps {
		text := "from " + a.id
		noError(t, a.c.PublishEvent(ctx, "redis", "go-shared", text, client.PublishEventWithMetadata(map[string]string{"own": "header"})))
		for _, b := range apps {
			g := b.one(t, "/shared", text)
			if e := g.event; e.Source != a.id || e.PubsubName != "redis" || e.Topic != "go-shared" || !slices.Equal(g.md.Get("own"), []string{"header"}) {
				t.Errorf("%s got %+v, own: %v", b.id, e, g.md.Get("own"))
			}
		}
		// What is not taken comes again, to those alone who have not taken it.
		noError(t, apps[1-i].c.PublishEvent(ctx, "redis", "go-flaky", text))
		for _, b := range apps {
			found := b.await(t, 2, "/flaky", text)
			if len(found) != 2 || found[0].event.ID != found[1].event.ID {
				t.Errorf("%s got %+v, want the same event twice", b.id, found)
			}
		}
		for _, data := range []string{"taken", "again", "drop"} {
			noError(t, apps[1-i].c.PublishEvent(ctx, "redis", "go-failing-"+a.name, data))
		}
		a.one(t, "/redis-failing", "taken")
		for _, data := range []string{"again", "drop"} {
			a.one(t, "/redis-dead", data)
			a.one(t, "/redis-failing", data)
		}
		a.none(t, "/redis-dead", "taken")
	}
	var many []any
	for i := range 200 {
		many = append(many, fmt.Sprintf("many %d", i))
	}
	res := apps[0].c.PublishEvents(ctx, "redis", "go-shared", many)
	noError(t, res.Error)
	for _, text := range many {
		for _, b := range apps {
			b.one(t, "/shared", text.(string))
		}
	}
}
