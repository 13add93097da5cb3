package pubsub

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	"outrigger.dev/invocation"
	"outrigger.dev/resiliency"
	"outrigger.dev/resource"
)

func TestParseSubscriptions(t *testing.T) {
	sub := func(topic string, rules ...Rule) Subscription {
		return Subscription{Component: "p", Topic: topic, Rules: rules, Origin: Programmatic}
	}
	full := sub("t", Rule{`event.type=="x"`, "/x"}, Rule{"", "/d"})
	full.DeadLetterTopic, full.Metadata = "d", map[string]string{"rawPayload": "true"}
	full.Bulk = Bulk{true, 7, 1500 * time.Millisecond}
	for _, tc := range []struct {
		name, text string
		want       []Subscription
		dropped    int
		err        string
	}{
		{"empty", ``, nil, 0, ""},
		{"blank", " \n", nil, 0, ""},
		{"null", `null`, nil, 0, ""},
		{"none", `[]`, nil, 0, ""},
		{"everything", `[{"pubsubname":"p","topic":"t","deadLetterTopic":"d","metadata":{"rawPayload":"true"},"route":"/one","routes":{"rules":[{"match":"event.type==\"x\"","path":"/x"}],"default":"/d"},
			"bulkSubscribe":{"enabled":true,"maxMessagesCount":7,"maxAwaitDurationMs":1500}}]`, []Subscription{full}, 0, ""},
		{"route", `[{"pubsubname":"p","topic":"a","route":"x"}]`, []Subscription{sub("a", Rule{"", "x"})}, 0, ""},
		{"rules and route", `[{"pubsubname":"p","topic":"a","routes":{"rules":[{"match":"m","path":"/m"},null]},"route":"/x"}]`, []Subscription{sub("a", Rule{"m", "/m"}, Rule{"", "/x"})}, 0, ""},
		{"only a default", `[{"pubsubname":"p","topic":"a","routes":{"default":"/d"}}]`, []Subscription{sub("a", Rule{"", "/d"})}, 0, ""},
		{"names in any case", `[{"PubsubName":"p","Topic":"a","Route":"x"}]`, []Subscription{sub("a", Rule{"", "x"})}, 0, ""},
		{"nulls", `[{"pubsubname":"p","topic":"a","route":"x","routes":null,"metadata":null,"bulkSubscribe":null,"deadLetterTopic":null},null]`, []Subscription{sub("a", Rule{"", "x"})}, 0, ""},
		{"no route", `[{"pubsubname":"p","topic":"a"},{"pubsubname":"p","topic":"b","route":""},{"pubsubname":"p","topic":"c","route":"x"}]`, []Subscription{sub("c", Rule{"", "x"})}, 2, ""},
		{"no names", `[{"topic":"a","route":"x"},{"pubsubname":"p","route":"x"}]`, nil, 2, ""},
		{"garbage", `<html>`, nil, 0, "invalid JSON"},
		{"no list", `{}`, nil, 0, "array is wanted"},
		{"half a list", `[{"pubsubname":"p"`, nil, 0, "unexpected end"},
		{"a wrong type", `[{"pubsubname":5}]`, nil, 0, "string is wanted"},
		{"a wrong switch", `[{"pubsubname":"p","topic":"t","route":"x","bulkSubscribe":{"enabled":"true"}}]`, nil, 0, "use true or false"},
		{"behind null", `null0`, nil, 0, "invalid JSON"},
		{"two lists", `[][]`, nil, 0, "invalid JSON"},
	} {
		got, dropped, err := parseSubscriptions([]byte(tc.text))
		if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) || !reflect.DeepEqual(got, tc.want) || len(dropped) != tc.dropped {
			t.Errorf("%s: %+v, dropped %v, error %v", tc.name, got, dropped, err)
		}
	}
}

func FuzzSubscriptions(f *testing.F) {
	for _, s := range []string{
		``, `null`, `[]`, `[{"pubsubname":"p","topic":"t","route":"/x","metadata":{"a":"b"}}]`, `[{"pubsubname":"p","topic":"t","routes":{"rules":[{"match":"a","path":"/b"}],"default":"/c"}}]`,
		`[{"bulkSubscribe":{"enabled":true,"maxMessagesCount":1e3}}]`, `[{"routes":{"rules":[null]}}]`, `[[]]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		list, dropped, err := parseSubscriptions(text)
		if err != nil {
			if list != nil || dropped != nil {
				t.Fatalf("%q: %v with an error", text, list)
			}
			return
		}
		if len(strings.TrimSpace(string(text))) > 0 && !json.Valid(text) {
			t.Fatalf("%q is taken for a list", text)
		}
		for _, s := range list {
			if s.Component == "" || s.Topic == "" || len(s.Rules) == 0 || s.Origin != Programmatic {
				t.Fatalf("%q: %+v", text, s)
			}
		}
	})
}

// What the app's answer to the question for its subscriptions means, and how often it is asked.
func TestFetchHTTP(t *testing.T) {
	list := `[{"pubsubname":"ps","topic":"own","route":"/own"}]`
	for _, tc := range []struct {
		name    string
		answers []func() (*invocation.Response, error)
		topics  []string
		log     string
	}{
		{"a list", fixed(200, list), []string{"declared", "own"}, ""},
		{"nothing", fixed(200, ""), []string{"declared"}, ""},
		{"no endpoint", fixed(404, list), []string{"declared"}, ""},
		{"an error", fixed(500, list), []string{"declared"}, "status 500, so it has no subscriptions of its own"},
		{"another success", fixed(201, list), []string{"declared"}, "status 201, so it has no subscriptions of its own"},
		{"an entry without a route", fixed(200, `[{"pubsubname":"ps","topic":"own"}]`), []string{"declared"}, "topic own of pubsub ps is left out: it has no route"},
		{"garbage, then a list", append(fixed(200, "garbage"), fixed(200, list)...), []string{"declared", "own"}, "cannot be understood"},
		{"a bad rule, then a list", append(fixed(200, `[{"pubsubname":"ps","topic":"own","routes":{"rules":[{"match":"event.","path":"/x"}]}}]`), fixed(200, list)...), []string{"declared", "own"}, "is no valid expression"},
		{"unreachable, then a list", append(slices.Repeat([]func() (*invocation.Response, error){func() (*invocation.Response, error) {
			return nil, &app.CallError{Verb: "GET", URL: "x", Err: errors.New("refused")}
		}}, 6), fixed(200, list)...), []string{"declared", "own"}, "none is started; it is asked again"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, Options{})
			b := newBroker()
			h.add("ps", b)
			h.declare(declared("declared")...)
			asked := 0
			a := &fakeApp{}
			a.subscriptions = func() (*invocation.Response, error) {
				answer := tc.answers[min(asked, len(tc.answers)-1)]
				if asked++; asked < len(tc.answers) && b.tries() != 0 {
					t.Error("subscribed without knowing the app's own")
				}
				return answer()
			}
			h.SetApp(a)
			started := h.StartApp()
			h.settled(b, tc.topics...)
			apptest.Receive(t, "the subscriptions", started)
			if a.asked() != len(tc.answers) {
				t.Errorf("asked %d times", a.asked())
			}
			req := a.calls[0]
			if req.Verb != "GET" || req.ContentType != "application/json" || string(req.Header.Get("dapr-app-id")) != "shop" {
				t.Errorf("%+v", req)
			}
			if tc.log != "" && h.log.Count(tc.log) == 0 || tc.log == "" && h.log.Count("WARN") > 0 {
				t.Errorf("log:\n%s", &h.log)
			}
		})
	}
}

func fixed(status int, body string) []func() (*invocation.Response, error) {
	return []func() (*invocation.Response, error){func() (*invocation.Response, error) { return reply(status, body) }}
}

// The first round of questions does not hold up the sidecar for ever. A resource may say how long the round is.
func TestStartOfAnAppThatDoesNotAnswer(t *testing.T) {
	five := 5
	for name, tc := range map[string]struct {
		retries map[string]resource.Retry
		round   int
	}{
		"built in": {nil, 4},
		"by a resource": {
			map[string]resource.Retry{string(resiliency.BuiltInInitializationRetries): {Duration: "10ms", MaxRetries: &five}}, 6,
		},
	} {
		t.Run(name, func(t *testing.T) {
			policies := new(resource.Resiliency)
			policies.Spec.Policies.Retries = tc.retries
			clock := clockwork.NewFakeClockAt(noon)
			engine := resiliency.New(resiliency.Options{Clock: clock, Resources: []*resource.Resiliency{policies}})
			h := newHouse(t, Options{Clock: clock, Resiliency: engine})
			h.add("ps", newBroker())
			a := &fakeApp{subscriptions: func() (*invocation.Response, error) { return nil, &app.CallError{Err: errors.New("refused")} }}
			h.SetApp(a)
			h.meanwhile("it is given up for now", h.StartApp())
			if n := a.asked(); n != tc.round {
				t.Errorf("asked %d times, want %d", n, tc.round)
			}
		})
	}
}

func TestSkippedAppSubscriptions(t *testing.T) {
	h := newHouse(t, Options{SkipAppSubscriptions: true})
	b, a := newBroker(), &fakeApp{}
	h.add("ps", b)
	h.declare(declared("a")...)
	h.startApp(a)
	h.settled(b, "a")
	if a.asked() != 0 {
		t.Error("the app was asked")
	}
}

func TestFetchGRPC(t *testing.T) {
	list := &runtimev1.ListTopicSubscriptionsResponse{Subscriptions: []*runtimev1.TopicSubscription{
		{PubsubName: "ps", Topic: "plain"},
		{PubsubName: "ps", Topic: "empty", Routes: &runtimev1.TopicRoutes{}},
		{
			PubsubName: "ps", Topic: "full", Metadata: map[string]string{"k": "v"}, DeadLetterTopic: "d",
			Routes:        &runtimev1.TopicRoutes{Rules: []*runtimev1.TopicRule{{Match: "event.a == 1", Path: "/a"}}, Default: "/d"},
			BulkSubscribe: &runtimev1.BulkSubscribeConfig{Enabled: true, MaxMessagesCount: 3, MaxAwaitDurationMs: 40},
		},
		{PubsubName: "ps", Topic: "rules", Routes: &runtimev1.TopicRoutes{Rules: []*runtimev1.TopicRule{{Match: "event.a == 1", Path: "/a"}}}},
	}}
	want := []Subscription{
		{Component: "ps", Topic: "plain", Rules: []Rule{{}}, Origin: Programmatic},
		{Component: "ps", Topic: "empty", Rules: []Rule{{}}, Origin: Programmatic},
		{
			Component: "ps", Topic: "full", Metadata: map[string]string{"k": "v"}, DeadLetterTopic: "d", Rules: []Rule{{"event.a == 1", "/a"}, {"", "/d"}}, Origin: Programmatic,
			Bulk: Bulk{true, 3, 40 * time.Millisecond},
		},
		{Component: "ps", Topic: "rules", Rules: []Rule{{"event.a == 1", "/a"}}, Origin: Programmatic},
	}
	fetched := func(f func(context.Context) (*runtimev1.ListTopicSubscriptionsResponse, error)) ([]Subscription, error) {
		got, dropped, err := fetch(context.Background(), serveGRPC(t, &apptest.Callbacks{Subscriptions: f}), "shop")
		if len(dropped) > 0 {
			t.Errorf("dropped %v", dropped)
		}
		return got, err
	}
	if got, err := fetched(func(context.Context) (*runtimev1.ListTopicSubscriptionsResponse, error) { return list, nil }); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := fetched(nil); err != nil || got != nil {
		t.Errorf("an app without the method: %v, %v", got, err)
	}
	_, err := fetched(func(context.Context) (*runtimev1.ListTopicSubscriptionsResponse, error) {
		return nil, status.Error(codes.Unavailable, "x")
	})
	if err == nil || !unreachable(err) {
		t.Errorf("%v", err)
	}
	_, err = fetched(func(context.Context) (*runtimev1.ListTopicSubscriptionsResponse, error) {
		return &runtimev1.ListTopicSubscriptionsResponse{Subscriptions: []*runtimev1.TopicSubscription{{PubsubName: "ps", Topic: "t", Routes: &runtimev1.TopicRoutes{Rules: []*runtimev1.TopicRule{{Match: "("}}}}}}, nil
	})
	if err == nil || unreachable(err) {
		t.Errorf("a bad rule: %v", err)
	}
}

// A rule that no event can reach must compile as well.
func TestUnreachableRules(t *testing.T) {
	if _, err := newRouter([]Rule{{"", "/all"}, {"event.", "/x"}}); err == nil {
		t.Error("it compiles")
	}
	r, err := newRouter([]Rule{{`event.type == "a"`, "/a"}, {" \t", "/all"}, {"", "/never"}})
	if err != nil || len(r.rules) != 2 {
		t.Errorf("%v, %v", r, err)
	}
}

func TestPrecedence(t *testing.T) {
	sub := func(name, topic string, origin Origin) Subscription {
		return Subscription{Name: name, Component: "ps", Topic: topic, Origin: origin}
	}
	d := []Subscription{sub("d1", "a", Declarative), sub("d2", "b", Declarative), sub("d3", "a", Declarative), sub("d4", "own", Declarative), {Name: "d5", Component: "other", Topic: "own", Origin: Declarative}}
	p := []Subscription{sub("p1", "own", Programmatic), sub("p2", "c", Programmatic), sub("p3", "own", Programmatic)}
	names := func(list []Subscription) (out []string) {
		for _, s := range list {
			out = append(out, s.Name)
		}
		return out
	}
	for _, tc := range []struct {
		d, p []Subscription
		want []string
	}{{nil, nil, nil}, {d, nil, []string{"d1", "d2", "d4", "d5"}}, {nil, p, []string{"p3", "p2"}}, {d, p, []string{"d1", "d2", "d5", "p3", "p2"}}} {
		if got := names(effective(tc.d, tc.p)); !slices.Equal(got, tc.want) {
			t.Errorf("%v, want %v", got, tc.want)
		}
	}
}

func TestFromResource(t *testing.T) {
	const spec = "  pubsubname: ps\n  topic: orders\n  deadLetterTopic: dead\n  metadata: {rawPayload: \"true\"}\n  bulkSubscribe: {enabled: true, maxMessagesCount: 5, maxAwaitDurationMs: 20}\n"
	want := Subscription{
		Name: "s", Component: "ps", Topic: "orders", DeadLetterTopic: "dead", Metadata: map[string]string{"rawPayload": "true"}, Bulk: Bulk{true, 5, 20 * time.Millisecond}, Origin: Declarative,
	}
	for _, tc := range []struct {
		version, routes string
		rules           []Rule
	}{
		{"v1alpha1", "  route: /orders\n", []Rule{{"", "/orders"}}},
		{"v2alpha1", "  routes:\n    rules:\n    - {match: 'event.type == \"x\"', path: /x}\n    - {match: '', path: /y}\n    default: /d\n", []Rule{{`event.type == "x"`, "/x"}, {"", "/y"}, {"", "/d"}}},
		{"v2alpha1", "  routes: {}\n", nil},
	} {
		got := fromText(t, "apiVersion: dapr.io/"+tc.version+"\nkind: Subscription\nmetadata: {name: s}\nspec:\n"+spec+tc.routes)
		want.Rules = tc.rules
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v", tc.version, got)
		}
		if got.String() != "topic orders of pubsub ps (subscription s)" || !maps.Equal(got.Metadata, want.Metadata) {
			t.Errorf("%s", &got)
		}
	}
}

// fromText is the subscription of a document, as the sidecar loads it.
func fromText(t testing.TB, text string) Subscription {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "s.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	set, problems, err := resource.Load(t.Context(), resource.Options{Dirs: []string{dir}, AppID: "shop"})
	if err != nil || len(set.Subscriptions) != 1 {
		t.Fatalf("%v %v\n%s", err, problems, text)
	}
	return FromResource(set.Subscriptions[0])
}
