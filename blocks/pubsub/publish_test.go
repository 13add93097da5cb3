package pubsub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/api/apitest"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app/apptest"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/telemetry/metrics/metricstest"
)

const (
	parent  = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	parent2 = "00-11111111111111111111111111111111-2222222222222222-00"
)

// object decodes JSON.
func object(t testing.TB, text []byte) map[string]any {
	t.Helper()
	m := map[string]any{}
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return m
}

// reasonOf is the reason of a gRPC error.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// Both faces refuse the same requests, with the status and the words of the reference.
func TestPublishRefusals(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	b.refuse["full"] = errBroker
	h.add("ps", b, "protectedTopics", "secret")
	routes, client := apitest.Router(h.Routes()), h.client()
	for _, tc := range []struct {
		name, component, topic, contentType, body string
		metadata                                  map[string]string
		status                                    int
		code                                      string
		grpc                                      codes.Code
		reason, message                           string
	}{
		{
			name: "unknown component", component: "none", topic: "t", status: 404, code: "ERR_PUBSUB_NOT_FOUND",
			grpc: codes.InvalidArgument, reason: "DAPR_PUBSUB_NOT_FOUND", message: "pubsub none is not found",
		},
		{
			name: "no component", topic: "t", code: "ERR_PUBSUB_EMPTY",
			grpc: codes.InvalidArgument, reason: "DAPR_PUBSUB_NAME_EMPTY", message: "pubsub name is empty",
		},
		{
			name: "no topic", component: "ps", code: "ERR_TOPIC_NAME_EMPTY",
			grpc: codes.InvalidArgument, reason: "DAPR_PUBSUB_TOPIC_NAME_EMPTY", message: "topic is empty in pubsub ps",
		},
		{
			name: "rawPayload before the envelope", component: "ps", topic: "secret", metadata: map[string]string{"rawPayload": "maybe"}, contentType: "application/cloudevents+json", body: "bad",
			status: 400, code: "ERR_PUBSUB_REQUEST_METADATA", grpc: codes.InvalidArgument, reason: "DAPR_PUBSUB_METADATA_DESERIALIZATION",
			message: "failed deserializing metadata. Error: rawPayload value must be a valid boolean: actual is 'maybe'",
		},
		{
			name: "the envelope before the scopes", component: "ps", topic: "secret", contentType: "application/cloudevents+json", body: "bad",
			status: 500, code: "ERR_PUBSUB_CLOUD_EVENTS_SER", grpc: codes.InvalidArgument, reason: "DAPR_PUBSUB_CLOUD_EVENT_CREATION", message: "cannot create cloudevent",
		},
		{
			name: "an event that is null", component: "ps", topic: "t", contentType: "application/cloudevents+json; charset=utf-8", body: "null",
			status: 500, code: "ERR_PUBSUB_CLOUD_EVENTS_SER", grpc: codes.InvalidArgument, reason: "DAPR_PUBSUB_CLOUD_EVENT_CREATION", message: "cannot create cloudevent",
		},
		{
			name: "an event that is a list", component: "ps", topic: "t", contentType: "Application/CloudEvents+JSON", body: "[]",
			status: 500, code: "ERR_PUBSUB_CLOUD_EVENTS_SER", grpc: codes.InvalidArgument, reason: "DAPR_PUBSUB_CLOUD_EVENT_CREATION", message: "cannot create cloudevent",
		},
		{
			name: "scopes", component: "ps", topic: "secret", body: "x", status: 403, code: "ERR_PUBSUB_FORBIDDEN",
			grpc: codes.PermissionDenied, reason: "DAPR_PUBSUB_FORBIDDEN", message: "topic secret is not allowed for app id shop",
		},
		{
			name: "the broker", component: "ps", topic: "full", body: "x", status: 500, code: "ERR_PUBSUB_PUBLISH_MESSAGE",
			grpc: codes.Internal, reason: "DAPR_PUBSUB_PUBLISH_MESSAGE", message: "error when publishing to topic full in pubsub ps: no broker",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := len(b.sent())
			_, err := client.PublishEvent(t.Context(), &runtimev1.PublishEventRequest{
				PubsubName: tc.component, Topic: tc.topic, Data: []byte(tc.body), DataContentType: tc.contentType, Metadata: tc.metadata,
			})
			if status.Code(err) != tc.grpc || reasonOf(err) != tc.reason || status.Convert(err).Message() != tc.message {
				t.Errorf("gRPC: %v, reason %s", err, reasonOf(err))
			}
			if tc.topic != "full" && len(b.sent()) != before {
				t.Error("it was published all the same")
			}
			if tc.status == 0 {
				return // no such path
			}
			query := "?"
			for k, v := range tc.metadata {
				query += "metadata." + k + "=" + v
			}
			got := routes.Do("POST", "/v1.0/publish/"+tc.component+"/"+tc.topic+query, tc.body, "Content-Type", tc.contentType)
			answer := object(t, got.Body)
			if got.Status != tc.status || answer["errorCode"] != tc.code || answer["message"] != tc.message {
				t.Errorf("HTTP: %d %s", got.Status, got.Body)
			}
			if details, _ := json.Marshal(answer["details"]); !bytes.Contains(details, []byte(tc.reason)) {
				t.Errorf("details %s", details)
			}
		})
	}
	x := apitest.New("POST", "/v1.0/publish/ps/t?metadata.rawPayload=maybe", "")
	x.BodyError = errors.New("stream too large")
	if got := routes.Serve(x); got.Status != 500 || !strings.Contains(string(got.Body), `"message":"error when publishing to topic t in pubsub ps: stream too large"`) {
		t.Errorf("a body that cannot be read: %d %s", got.Status, got.Body)
	}
	x = apitest.New("POST", "/v1.0/publish/none/t", "")
	x.BodyError = errors.New("stream too large")
	if got := routes.Serve(x); got.Status != 404 {
		t.Errorf("the component counts before the body: %d %s", got.Status, got.Body)
	}
}

func TestPublishPaths(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	h.add("bulk", newBroker())
	routes := apitest.Router(h.Routes())
	for _, tc := range []struct{ method, path, topic string }{
		{"POST", "/v1.0/publish/ps/orders", "orders"},
		{"PUT", "/v1.0/publish/ps/a/b/c", "a/b/c"},
		{"POST", "/v1.0/publish/ps/a%2Fb+c", "a/b c"},
	} {
		got := routes.Do(tc.method, tc.path, "x")
		if got.Status != http.StatusNoContent || len(got.Body) != 0 || b.last(t).Topic != tc.topic {
			t.Errorf("%s %s: %d %q, topic %q", tc.method, tc.path, got.Status, got.Body, b.last(t).Topic)
		}
	}
	for _, path := range []string{"/v1.0/publish/ps", "/v1.0/publish/ps/"} {
		if got := routes.Do("POST", path, "x"); !got.Unrouted {
			t.Errorf("%s: %d %s", path, got.Status, got.Body)
		}
	}
	if got := routes.Do("GET", "/v1.0/publish/ps/t", ""); !got.Unrouted {
		t.Error("GET publishes")
	}
	if got := routes.Do("POST", "/v1.0/publish/bulk/orders/x", "[]"); got.Status != 404 || !strings.Contains(string(got.Body), "pubsub orders is not found") {
		t.Errorf("the path of bulks: %d %s", got.Status, got.Body)
	}
}

// What the broker gets: the payload in its envelope and all metadata.
func TestPublishEnvelope(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	client := h.client()
	for _, tc := range []struct {
		name, contentType, data string
		metadata                map[string]string
		traceparent             string
		want                    map[string]any // nil: not there
	}{
		{
			"plain text by default", "", "a<b", nil, "",
			map[string]any{
				"data": "a<b", "data_base64": nil, "datacontenttype": "text/plain", "source": "shop", "type": "com.dapr.event.sent", "specversion": "1.0", "topic": "t",
				"pubsubname": "ps", "time": noon.Format(time.RFC3339), "traceid": "", "traceparent": "", "tracestate": "", "subject": nil, "expiration": nil,
			},
		},
		{"JSON", "application/json; charset=utf-8", `{"a":[1]}`, nil, "", map[string]any{"data": map[string]any{"a": []any{1.0}}, "datacontenttype": "application/json; charset=utf-8"}},
		{"JSON that is none", "application/json", `{"a"`, nil, "", map[string]any{"data": `{"a"`, "datacontenttype": "application/json"}},
		{"bytes", "application/octet-stream", "\x00\xff", nil, "", map[string]any{"data": nil, "data_base64": "AP8="}},
		{"trace", "", "x", nil, parent, map[string]any{"traceid": parent, "traceparent": parent, "tracestate": "a=b"}},
		{"a trace that is none", "", "x", nil, "junk", map[string]any{"traceid": "", "traceparent": "", "tracestate": ""}},
		{
			"overrides in any case", "", "x",
			map[string]string{"cloudevent.id": "i", "CloudEvent.SOURCE": "s", "cloudevent.type": "ty", "cloudevent.subject": "su", "cloudevent.tracestate": "ts", "cloudevent.other": "o"},
			"",
			map[string]any{"id": "i", "source": "s", "type": "ty", "subject": "su", "tracestate": "ts", "other": nil},
		},
		{"traceid overrides both", "", "x", map[string]string{"cloudevent.traceid": "1"}, parent, map[string]any{"traceid": "1", "traceparent": "1"}},
		{"traceparent overrides traceid", "", "x", map[string]string{"cloudevent.traceid": "1", "cloudevent.traceparent": "2"}, parent, map[string]any{"traceid": "2", "traceparent": "2"}},
		{"ttl in seconds", "", "x", map[string]string{"TTLInSeconds": "60"}, "", map[string]any{"expiration": "2026-03-01T12:01:00Z"}},
		{"ttl as a duration", "", "x", map[string]string{"ttl": "1h", "ttlInSeconds": "60"}, "", map[string]any{"expiration": "2026-03-01T13:00:00Z"}},
		{"a ttl that is none", "", "x", map[string]string{"ttlInSeconds": "-1"}, "", map[string]any{"expiration": nil}},
		{
			"an event passes through", "application/cloudevents+json", `{"id":"mine","topic":"other","pubsubname":"other","ext":1,"data":{"big":12345678901234567890}} junk`,
			map[string]string{"cloudevent.id": "no", "ttl": "1m"},
			"",
			map[string]any{
				"id": "mine", "topic": "t", "pubsubname": "ps", "ext": 1.0, "source": "Dapr", "type": "com.dapr.event.sent", "specversion": "1.0", "time": noon.Format(time.RFC3339),
				"datacontenttype": nil, "expiration": "2026-03-01T12:01:00Z", "traceid": "", "traceparent": "",
			},
		},
		{"an event keeps its trace", "application/cloudevents+json", `{"traceid":"1","traceparent":"2","tracestate":"3"}`, nil, parent, map[string]any{"traceid": "1", "traceparent": "2", "tracestate": "3", "id": nil}},
		{"an event without traceid gets both", "application/cloudevents+json", `{"traceparent":"2"}`, nil, parent, map[string]any{"traceid": parent, "traceparent": parent}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := t.Context()
			if tc.traceparent != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", tc.traceparent, "tracestate", "a=b")
			}
			if _, err := client.PublishEvent(ctx, &runtimev1.PublishEventRequest{PubsubName: "ps", Topic: "t", Data: []byte(tc.data), DataContentType: tc.contentType, Metadata: tc.metadata}); err != nil {
				t.Fatal(err)
			}
			got := b.last(t)
			if got.Topic != "t" || got.ContentType != "" || !maps.Equal(got.Metadata, tc.metadata) {
				t.Errorf("%+v", got)
			}
			event := object(t, got.Data)
			for name, want := range tc.want {
				if value, there := event[name]; there != (want != nil) || !reflect.DeepEqual(value, want) {
					t.Errorf("%s is %v, want %v", name, value, want)
				}
			}
			if strings.Contains(tc.data, "12345678901234567890") && !bytes.Contains(got.Data, []byte("12345678901234567890")) {
				t.Errorf("a large number lost digits: %s", got.Data)
			}
		})
	}
}

// Every event gets an ID of its own.
func TestPublishIDs(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	seen := map[any]bool{}
	for range 50 {
		if err := h.Publish(t.Context(), Publication{Component: "ps", Topic: "t"}); err != nil {
			t.Fatal(err)
		}
		id := object(t, b.last(t).Data)["id"]
		if text, _ := id.(string); len(text) != 36 || seen[id] {
			t.Fatalf("ID %v", id)
		}
		seen[id] = true
	}
}

func TestPublishRaw(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	routes, client := apitest.Router(h.Routes()), h.client()
	for _, value := range []string{"1", "t", "T", "true", "TRUE", "True"} {
		got := routes.Do("POST", "/v1.0/publish/ps/t?metadata.rawPayload="+value+"&metadata.ttlInSeconds=9", "\x00raw", "Content-Type", "application/cloudevents+json", "Traceparent", parent)
		want := pubsub.PublishRequest{Topic: "t", Data: []byte("\x00raw"), Metadata: map[string]string{"rawPayload": value, "ttlInSeconds": "9"}}
		if got.Status != 204 || !reflect.DeepEqual(b.last(t), want) {
			t.Errorf("%s: %d, %+v", value, got.Status, b.last(t))
		}
	}
	for _, query := range []string{"", "metadata.rawPayload=false", "metadata.rawPayload=", "metadata.rawpayload=true", "Metadata.rawPayload=true"} {
		if routes.Do("POST", "/v1.0/publish/ps/t?"+query, "x"); object(t, b.last(t).Data)["data"] != "x" {
			t.Errorf("%s: %s", query, b.last(t).Data)
		}
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", parent, "tracestate", "a=b")
	given := map[string]string{"rawPayload": "true"}
	if _, err := client.PublishEvent(ctx, &runtimev1.PublishEventRequest{PubsubName: "ps", Topic: "t", Metadata: given}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"rawPayload": "true", "traceid": parent, "tracestate": "a=b"}
	if got := b.last(t); len(got.Data) != 0 || !maps.Equal(got.Metadata, want) {
		t.Errorf("%+v", got)
	}
}

// A broker may keep what it is given, while the server uses the request's buffer for the next one.
func TestPublishKeepsNothingOfTheRequest(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b)
	for _, m := range []Publication{
		{ContentType: "application/json"},
		{ContentType: "text/plain"},
		{ContentType: "application/octet-stream"},
		{ContentType: "application/cloudevents+json"},
		{Metadata: map[string]string{"rawPayload": "true"}},
	} {
		buffer := []byte(`{"a":"bcdef"}`)
		m.Component, m.Topic, m.Data = "ps", "t", buffer
		if err := h.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		got := b.last(t).Data
		before := string(got)
		clear(buffer)
		if string(got) != before {
			t.Errorf("%+v: the message changed with the request", m)
		}
	}
}

func TestPublishToBrokerWithTTL(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", expiring{b})
	for _, contentType := range []string{"", "application/cloudevents+json"} {
		if err := h.Publish(t.Context(), Publication{Component: "ps", Topic: "t", Data: []byte("{}"), ContentType: contentType, Metadata: map[string]string{"ttlInSeconds": "60"}}); err != nil {
			t.Fatal(err)
		}
		if got := b.last(t); object(t, got.Data)["expiration"] != nil || got.Metadata["ttlInSeconds"] != "60" {
			t.Errorf("%q: %+v", contentType, got)
		}
	}
}

// The namespace stands before the topic at the broker, and nowhere else.
func TestNamespacedTopics(t *testing.T) {
	h := newHouse(t, Options{})
	b, a := newBroker(), &fakeApp{}
	h.add("ps", b, "url", "host/{namespace}", "allowedTopics", "orders,dead")
	if err := h.Publish(t.Context(), Publication{Component: "ps", Topic: "orders"}); err != nil {
		t.Fatal(err)
	}
	if got := b.last(t); got.Topic != "prodorders" || object(t, got.Data)["topic"] != "orders" {
		t.Errorf("%s %s", got.Topic, got.Data)
	}
	if failed, err := h.BulkPublish(t.Context(), BulkPublication{Component: "ps", Topic: "orders", Entries: []pubsub.BulkEntry{{ID: "1"}}}); err != nil || failed != nil || b.last(t).Topic != "prodorders" {
		t.Errorf("bulk: %v %v %s", failed, err, b.last(t).Topic)
	}
	if err := h.Publish(t.Context(), Publication{Component: "ps", Topic: "prodorders"}); err == nil {
		t.Error("scopes look at the broker's topic")
	}
	if err := h.Declare([]Subscription{{Component: "ps", Topic: "orders", DeadLetterTopic: "dead", Metadata: map[string]string{"rawPayload": "true"}, Rules: []Rule{{Path: "/x"}}}}); err != nil {
		t.Fatal(err)
	}
	a.event = answering(500, "").event
	h.startApp(a)
	b.sub(t, "prodorders").do(t, &pubsub.Message{Data: []byte("x")})
	if got := object(t, a.events()[0].Body)["topic"]; got != "orders" {
		t.Errorf("the app gets topic %v", got)
	}
	if b.last(t).Topic != "proddead" {
		t.Errorf("the dead letter went to %s", b.last(t).Topic)
	}
}

func TestPublishEvent(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b, "protectedTopics", "secret")
	if err := h.PublishEvent(t.Context(), "ps", "t", []byte("x"), "text/x"); err != nil {
		t.Fatal(err)
	}
	if got := b.last(t); !reflect.DeepEqual(got, pubsub.PublishRequest{Topic: "t", Data: []byte("x"), ContentType: "text/x"}) {
		t.Errorf("%+v", got)
	}
	for _, tc := range [][3]string{{"none", "t", "pubsub 'none' not found"}, {"ps", "secret", "topic secret is not allowed for app id shop"}} {
		if err := h.PublishEvent(t.Context(), tc[0], tc[1], nil, ""); err == nil || err.Error() != tc[2] {
			t.Errorf("%v: %v", tc, err)
		}
	}
}

// A component is not closed under a publication: Remove waits for it.
func TestRemoveWaitsForPublications(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	in, out := make(chan struct{}), make(chan struct{})
	b.publish = func(context.Context, pubsub.PublishRequest) error { close(in); <-out; return nil }
	h.add("ps", b)
	published := make(chan error, 1)
	go func() { published <- h.Publish(context.Background(), Publication{Component: "ps", Topic: "t"}) }()
	apptest.Receive(t, "the publication", in)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Remove(cancelled, "ps"); !errors.Is(err, context.Canceled) {
		t.Errorf("removed while a publication runs: %v", err)
	}
	if err := h.Publish(t.Context(), Publication{Component: "ps", Topic: "t"}); err == nil {
		t.Error("published to a component that is being removed")
	}
	close(out)
	if err := apptest.Receive(t, "the publication", published); err != nil {
		t.Error(err)
	}
	h.add("ps", newBroker())
	if err := h.Add(Component{Name: "ps", Broker: newBroker()}); err == nil {
		t.Error("two components of one name")
	}
	if err := h.Remove(t.Context(), "ps"); err != nil {
		t.Error(err)
	}
}

func TestPublishMetrics(t *testing.T) {
	m := metricstest.New(t, "shop")
	h := newHouse(t, Options{Metrics: m.PubSub()})
	b := newBroker()
	b.refuse["full"] = errBroker
	h.add("ps", b, "protectedTopics", "secret")
	for _, topic := range []string{"t", "t", "full", "secret", ""} {
		_ = h.Publish(t.Context(), Publication{Component: "ps", Topic: topic})
	}
	_, _ = h.BulkPublish(t.Context(), BulkPublication{Component: "ps", Topic: "t", Entries: []pubsub.BulkEntry{{ID: "1"}, {ID: "2"}}})
	_, _ = h.BulkPublish(t.Context(), BulkPublication{Component: "ps", Topic: "full", Entries: []pubsub.BulkEntry{{ID: "1"}}})
	for name, want := range map[string]map[string]float64{
		"dapr_component_pubsub_egress_count":            {"ps t true": 2, "ps full false": 1},
		"dapr_component_pubsub_egress_bulk_count":       {"ps t true": 1, "ps full false": 1},
		"dapr_component_pubsub_egress_bulk_event_count": {"ps t true": 2, "ps full false": 0},
	} {
		if got := metricstest.Counted(t, m, name, "component", "topic", "success"); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestScopes(t *testing.T) {
	for _, tc := range []struct {
		name       string
		properties map[string]string
		// publish and subscribe are the topics of a, b, c and p that the app may use.
		publish, subscribe string
	}{
		{"none", nil, "abcp", "abcp"},
		{"allowed", map[string]string{"allowedTopics": " a , b "}, "ab", "ab"},
		{"names in any case", map[string]string{"ALLOWEDTOPICS": "a"}, "a", "a"},
		{"protected", map[string]string{"protectedTopics": "p"}, "abc", "abc"},
		{"protected with a scope", map[string]string{"protectedTopics": "p", "publishingScopes": "shop=p,a;other=b"}, "ap", "abc"},
		{"not in the scopes", map[string]string{"publishingScopes": "other=a", "subscriptionScopes": "other=a"}, "abcp", "abcp"},
		{"subscription", map[string]string{"subscriptionScopes": "other=a; shop = b"}, "abcp", "b"},
		{"an empty list", map[string]string{"publishingScopes": "shop="}, "", "abcp"},
		{"no list at all", map[string]string{"publishingScopes": "shop"}, "abcp", "abcp"},
		{"entries are merged", map[string]string{"publishingScopes": "shop=a;shop=c"}, "ac", "abcp"},
		{"allowed and scoped", map[string]string{"allowedTopics": "a,b", "publishingScopes": "shop=b,c"}, "b", "ab"},
		{"another app's beginning", map[string]string{"publishingScopes": "sho=a;shops=b"}, "abcp", "abcp"},
	} {
		s := newScopes(tc.properties, "shop")
		var publish, subscribe []byte
		for _, topic := range []byte("abcp") {
			if s.mayPublish(string(topic)) {
				publish = append(publish, topic)
			}
			if s.maySubscribe(string(topic)) {
				subscribe = append(subscribe, topic)
			}
		}
		if string(publish) != tc.publish || string(subscribe) != tc.subscribe {
			t.Errorf("%s: publish %q, subscribe %q", tc.name, publish, subscribe)
		}
	}
}

func TestTraceParents(t *testing.T) {
	for text, want := range map[string]bool{
		parent: true, parent2: true, "": false, "junk": false, parent[:54]: false, parent + "-x": false, "01" + parent[2:] + "-x": true, "ff" + parent[2:]: false,
		strings.ToUpper(parent): false, "00-00000000000000000000000000000000-b7ad6b7169203331-01": false, "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01": false,
		strings.ReplaceAll(parent, "-", "_"): false,
	} {
		if isTraceParent(text) != want {
			t.Errorf("%q: want %t", text, want)
		}
	}
}
