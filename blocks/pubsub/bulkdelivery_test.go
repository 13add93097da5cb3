package pubsub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/metrics/metricstest"
)

// bulkOf makes a bulk of events with these IDs.
func bulkOf(ids ...string) *pubsub.BulkMessage {
	m := &pubsub.BulkMessage{Topic: "orders"}
	for _, id := range ids {
		m.Entries = append(m.Entries, pubsub.BulkEntry{ID: id, Data: []byte(`{"id":"` + id + `"}`), Metadata: map[string]string{"of": id}})
	}
	return m
}

// outcomeOf is what a broker was told of a bulk of n: a letter per entry, + for done and - for failed.
func outcomeOf(n int, r result) string {
	out := []byte(strings.Repeat("+", n))
	for i, err := range r.errs {
		if err != nil {
			out[i] = '-'
		}
	}
	return string(out)
}

// letters are the entries that were put into the dead-letter topic, by their own IDs.
func letters(b *nativeBulk) (ids []string) {
	for _, m := range b.sent() {
		ids = append(ids, m.Metadata["of"])
	}
	for _, bulk := range b.bulks() {
		for _, e := range bulk.Entries {
			ids = append(ids, e.Metadata["of"])
		}
	}
	slices.Sort(ids)
	return ids
}

func TestBulkVerdicts(t *testing.T) {
	answers := func(statuses ...string) string {
		var list []string
		for i := 0; i+1 < len(statuses); i += 2 {
			list = append(list, fmt.Sprintf(`{"entryId":%q,"status":%q}`, statuses[i], statuses[i+1]))
		}
		return `{"statuses":[` + strings.Join(list, ",") + `]}`
	}
	for _, tc := range []struct {
		name, body string
		status     int
		want       string
		letters    string // of a subscription with a dead-letter topic
	}{
		{"all", answers("a", "SUCCESS", "b", "SUCCESS", "c", "SUCCESS"), 200, "+++", ""},
		{"each its own, in any order", answers("c", "DROP", "a", "RETRY", "b", "SUCCESS"), 200, "-++", "ac"},
		{"one is missing", answers("a", "SUCCESS", "c", "SUCCESS"), 200, "+-+", "b"},
		{"empty and unknown status", answers("a", "", "b", "success", "c", "SUCCESS"), 200, "--+", "ab"},
		{"an unknown entry", answers("x", "RETRY", "a", "SUCCESS", "b", "SUCCESS", "c", "SUCCESS"), 200, "+++", ""},
		{"null for an entry", `{"statuses":[null,{"entryId":"a","status":"SUCCESS"}]}`, 200, "+--", "bc"},
		{"null", `{"statuses":null}`, 200, "---", "abc"},
		{"an empty body", ``, 200, "---", "abc"},
		{"garbage", `OK`, 200, "---", "abc"},
		{"half an answer", `{"statuses":[{"entryId":"a","status":"SUCCESS"}`, 200, "---", "abc"},
		{"a wrong type", `{"statuses":[{"entryId":"a","status":1}]}`, 200, "---", "abc"},
		{"no content", ``, 204, "---", "abc"},
		{"not found", ``, 404, "+++", ""},
		{"an error", answers("a", "SUCCESS", "b", "SUCCESS", "c", "SUCCESS"), 500, "---", "abc"},
		{"a redirect", ``, 307, "---", "abc"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, dead := range []string{"", "dead", "refused"} {
				h := newHouse(t, Options{})
				b := &nativeBulk{fakeBroker: newBroker()}
				b.bulk = func(req pubsub.BulkPublishRequest) ([]error, error) {
					if req.Topic == "refused" {
						return nil, errBroker
					}
					return nil, nil
				}
				b.refuse["refused"] = errBroker
				sub := h.subscribed(b, answering(tc.status, tc.body), Subscription{DeadLetterTopic: dead, Rules: []Rule{{Path: "/x"}}, Bulk: Bulk{Enabled: true, MaxMessages: -1, MaxAwait: 2 * time.Second}})
				if sub.request.MaxMessages != 0 || sub.request.MaxAwait != 2*time.Second {
					t.Errorf("the broker was asked for %+v", sub.request)
				}
				want := tc.want
				if dead == "dead" {
					want = "+++"
				}
				if got := apptest.Receive(t, "a verdict", sub.handBulk(bulkOf("a", "b", "c"))); outcomeOf(3, got) != want {
					t.Errorf("dead-letter topic %q: %s, want %s", dead, outcomeOf(3, got), want)
				}
				if got := strings.Join(letters(b), ""); dead == "" && got != "" || dead != "" && got != tc.letters {
					t.Errorf("dead-letter topic %q got %q, want %q", dead, got, tc.letters)
				}
				h.stop(false)
			}
		})
	}
}

// Only the entries that the dead-letter topic did not take have failed.
func TestBulkDeadLettersInPart(t *testing.T) {
	h := newHouse(t, Options{})
	b := &nativeBulk{fakeBroker: newBroker()}
	b.bulk = func(req pubsub.BulkPublishRequest) ([]error, error) { return []error{nil, errBroker}, errBroker }
	sub := h.subscribed(b, answering(200, `{"statuses":[{"entryId":"b","status":"SUCCESS"}]}`), Subscription{DeadLetterTopic: "dead", Rules: []Rule{{Path: "/x"}}, Bulk: Bulk{Enabled: true}})
	if got := apptest.Receive(t, "a verdict", sub.handBulk(bulkOf("a", "b", "c"))); outcomeOf(3, got) != "++-" {
		t.Errorf("%s", outcomeOf(3, got))
	}
	got := b.bulks()[0]
	if got.Topic != "dead" || got.Metadata["pubsubName"] != "ps" || string(got.Entries[0].Data) != `{"id":"a"}` || !maps.Equal(got.Entries[0].Metadata, map[string]string{"of": "a", "pubsubName": "ps"}) {
		t.Errorf("%+v", got)
	}
}

// Entries that cannot be delivered, and what becomes of them beside one that can.
func TestBulkUndelivered(t *testing.T) {
	for _, tc := range []struct {
		name    string
		bad     pubsub.BulkEntry
		want    string
		letters int
	}{
		{"no ID", pubsub.BulkEntry{Data: []byte("{}")}, "-+", 1},
		{"garbage", pubsub.BulkEntry{ID: "bad", Data: []byte("garbage")}, "-+", 1},
		{"expired", pubsub.BulkEntry{ID: "bad", Data: []byte(`{"expiration":"2020-01-01T00:00:00Z"}`)}, "++", 1},
		{"no route", pubsub.BulkEntry{ID: "bad", Data: []byte(`{"id":"other"}`)}, "++", 1},
		{"a rule that fails", pubsub.BulkEntry{ID: "bad", Data: []byte(`{}`)}, "-+", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, dead := range []string{"", "dead"} {
				m := metricstest.New(t, "shop")
				h := newHouse(t, Options{Metrics: m.PubSub()})
				b := &nativeBulk{fakeBroker: newBroker()}
				a := answering(200, `{"statuses":[{"entryId":"good","status":"SUCCESS"}]}`)
				sub := h.subscribed(b, a, Subscription{DeadLetterTopic: dead, Rules: []Rule{{`event.id == "good"`, "/x"}}, Bulk: Bulk{Enabled: true}})
				msg := bulkOf("bad", "good")
				tc.bad.Metadata = map[string]string{"of": "bad"}
				msg.Entries[0] = tc.bad
				got := outcomeOf(2, apptest.Receive(t, "a verdict", sub.handBulk(msg)))
				if want := tc.want; dead == "" && got != want || dead != "" && got != "++" {
					t.Errorf("dead-letter topic %q: %s", dead, got)
				}
				if n := len(letters(b)); (dead != "") != (n == tc.letters) {
					t.Errorf("dead-letter topic %q got %d", dead, n)
				}
				if e := a.events(); len(e) != 1 || strings.Contains(string(e[0].Body), `"of":"bad"`) {
					t.Errorf("%d calls", len(e))
				}
				outcome := map[byte]string{'+': "DROP", '-': "RETRY"}[tc.want[0]]
				if got := metricstest.Counted(t, m, "dapr_component_pubsub_ingress_bulk_event_count", "component", "process_status"); !maps.Equal(got, map[string]float64{"ps SUCCESS": 1, "ps " + outcome: 1}) {
					t.Errorf("metrics %v", got)
				}
				h.stop(false)
			}
		})
	}
}

// An HTTP app gets a call for each path.
func TestBulkHTTPDelivery(t *testing.T) {
	type request struct {
		path string
		head http.Header
		body struct {
			ID, Type, Topic, Pubsubname string
			Metadata                    map[string]string
			Entries                     []struct {
				EntryID, ContentType string
				Event                any
				Metadata             map[string]string
			}
		}
	}
	got := make(chan request, 4)
	channel := serveHTTP(t, app.Options{}, func(w http.ResponseWriter, r *http.Request) {
		var in request
		in.path, in.head = r.URL.Path, r.Header
		text, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(text, &in.body); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		got <- in
		_, _ = w.Write([]byte(`{"statuses":[{"entryId":"a","status":"SUCCESS"},{"entryId":"b","status":"SUCCESS"}`))
		w.(http.Flusher).Flush() // in chunks
		_, _ = w.Write([]byte(`]}`))
	})
	h := newHouse(t, Options{})
	b := &nativeBulk{fakeBroker: newBroker()}
	sub := h.subscribed(b, channel, Subscription{Rules: []Rule{{`event.id == "a"`, "/a"}, {"", "/rest"}}, Bulk: Bulk{Enabled: true}})
	msg := bulkOf("a", "b", "c")
	msg.Metadata = map[string]string{"batch": "1"}
	msg.Entries[1].Metadata, msg.Entries[1].ContentType = nil, "application/x"
	msg.Entries[0].Data = []byte(`{"id":"a","traceparent":"` + parent + `"}`)
	if v := apptest.Receive(t, "a verdict", sub.handBulk(msg)); outcomeOf(3, v) != "++-" {
		t.Errorf("%s", outcomeOf(3, v))
	}
	first, second := apptest.Receive(t, "a call", got), apptest.Receive(t, "a call", got)
	e := first.body.Entries
	if first.path != "/a" || len(e) != 1 || first.head.Get("Content-Type") != "application/json" || first.head.Get("pubsubName") != "ps" || first.head.Get("batch") != "1" || first.head.Get("Traceparent") != parent {
		t.Errorf("%+v", first)
	}
	if x := first.body; len(x.ID) != 36 || x.Type != "com.dapr.event.sent.bulk" || x.Topic != "orders" || x.Pubsubname != "ps" || !maps.Equal(x.Metadata, map[string]string{"batch": "1", "pubsubName": "ps"}) {
		t.Errorf("%+v", x)
	}
	if e[0].EntryID != "a" || e[0].ContentType != "application/cloudevents+json" || e[0].Metadata["of"] != "a" {
		t.Errorf("%+v", e[0])
	}
	if x := second.body.Entries; second.path != "/rest" || len(x) != 2 || x[0].EntryID != "b" || x[0].ContentType != "application/x" || second.head.Get("Traceparent") != "" {
		t.Errorf("%+v", second)
	}

	raw := newHouse(t, Options{})
	sub = raw.subscribed(&nativeBulk{fakeBroker: newBroker()}, channel, Subscription{Metadata: map[string]string{"rawPayload": "true"}, Rules: []Rule{{`event == "yes"`, "/yes"}}, Bulk: Bulk{Enabled: true}})
	msg = bulkOf("a", "b")
	msg.Entries[0].Data, msg.Entries[1].Data = []byte("yes"), []byte("no")
	if v := apptest.Receive(t, "a verdict", sub.handBulk(msg)); outcomeOf(2, v) != "++" {
		t.Errorf("%s", outcomeOf(2, v))
	}
	if r := apptest.Receive(t, "a call", got); r.path != "/yes" || len(r.body.Entries) != 1 || r.body.Entries[0].Event != "eWVz" || r.body.Entries[0].ContentType != "application/octet-stream" {
		t.Errorf("%+v", r)
	}
}

func TestBulkGRPC(t *testing.T) {
	got := make(chan *runtimev1.TopicEventBulkRequest, 2)
	answer := func(_ context.Context, in *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error) {
		got <- in
		r := &runtimev1.TopicEventBulkResponse{}
		for i, e := range in.GetEntries() {
			r.Statuses = append(r.Statuses, &runtimev1.TopicEventBulkResponseEntry{EntryId: e.GetEntryId(), Status: runtimev1.TopicEventResponse_TopicEventResponseStatus(i)})
		}
		return r, nil
	}
	for _, tc := range []struct {
		name    string
		app     *apptest.Callbacks
		want    string
		letters string
	}{
		{"new method", &apptest.Callbacks{BulkTopicEvent: answer}, "+-+--", "bcde"}, // SUCCESS, RETRY, DROP, unknown, undeliverable
		{"old method", &apptest.Callbacks{BulkTopicEventAlpha1: answer}, "+-+--", "bcde"},
		{"no method", &apptest.Callbacks{}, "++++-", "e"},
		{"error", &apptest.Callbacks{BulkTopicEvent: func(context.Context, *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error) {
			return nil, status.Error(codes.Internal, "x")
		}}, "-----", "abcde"},
		{"empty", &apptest.Callbacks{BulkTopicEvent: func(context.Context, *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error) {
			return &runtimev1.TopicEventBulkResponse{}, nil
		}}, "-----", "abcde"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, dead := range []string{"", "dead"} {
				h := newHouse(t, Options{})
				b := &nativeBulk{fakeBroker: newBroker()}
				sub := h.subscribed(b, serveGRPC(t, tc.app), Subscription{DeadLetterTopic: dead, Rules: []Rule{{Path: "/x"}}, Bulk: Bulk{Enabled: true}})
				msg := bulkOf("a", "b", "c", "d", "e")
				msg.Entries[0].Data = []byte(`{"id":"1","data_base64":"AP8=","ext":5,"datacontenttype":"application/octet-stream"}`)
				msg.Entries[1].ContentType = "ct"
				msg.Entries[4].Data = []byte(`{"data_base64":5}`)
				want, wanted := tc.want, ""
				if dead != "" {
					want, wanted = "+++++", tc.letters
				}
				if v := outcomeOf(5, apptest.Receive(t, "a verdict", sub.handBulk(msg))); v != want {
					t.Errorf("dead-letter topic %q: %s, want %s", dead, v, want)
				}
				if l := strings.Join(letters(b), ""); l != wanted {
					t.Errorf("dead letters %q, want %q", l, wanted)
				}
				if len(got) == 0 {
					continue
				}
				in := <-got
				e := in.GetEntries()[0]
				if len(in.GetId()) != 36 || in.GetTopic() != "orders" || in.GetPubsubName() != "ps" || in.GetPath() != "/x" || in.GetType() != "com.dapr.event.sent.bulk" || in.GetMetadata()["pubsubName"] != "ps" {
					t.Errorf("%v", in)
				}
				if c := e.GetCloudEvent(); e.GetEntryId() != "a" || e.GetContentType() != "" || e.GetMetadata()["of"] != "a" || c.GetId() != "1" || string(c.GetData()) != "\x00\xff" || c.GetExtensions().AsMap()["ext"] != 5.0 {
					t.Errorf("%v", e)
				}
			}
		})
	}
	h := newHouse(t, Options{})
	sub := h.subscribed(&nativeBulk{fakeBroker: newBroker()}, serveGRPC(t, &apptest.Callbacks{BulkTopicEvent: answer}), Subscription{Metadata: map[string]string{"rawPayload": "true"}, Rules: []Rule{{Path: "/x"}}, Bulk: Bulk{Enabled: true}})
	apptest.Receive(t, "a verdict", sub.handBulk(&pubsub.BulkMessage{Topic: "orders", Entries: []pubsub.BulkEntry{{ID: "a\xff", Data: []byte("\x00raw")}}}))
	if e := (<-got).GetEntries()[0]; string(e.GetBytes()) != "\x00raw" || e.GetEntryId() != "a\ufffd" {
		t.Errorf("%v", e)
	}
}

// A stop lets a running bulk finish; one that fails then has no verdict.
func TestStopDrainsBulks(t *testing.T) {
	for body, want := range map[string]string{`{"statuses":[{"entryId":"a","status":"SUCCESS"}]}`: "+", `{}`: "-"} {
		h := newHouse(t, Options{})
		b := &nativeBulk{fakeBroker: newBroker()}
		in, out := make(chan struct{}), make(chan struct{})
		a := &fakeApp{event: func(context.Context, *invocation.Request) (*invocation.Response, error) {
			close(in)
			<-out
			return reply(200, body)
		}}
		sub := h.subscribed(b, a, Subscription{DeadLetterTopic: "dead", Rules: []Rule{{Path: "/x"}}, Bulk: Bulk{Enabled: true}})
		v := sub.handBulk(bulkOf("a"))
		apptest.Receive(t, "the delivery", in)
		stopped := start(func() { h.Stop(context.Background(), false) })
		apptest.Until(t, "it is closing", func() bool {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			errs := sub.bulk(ctx, &pubsub.BulkMessage{Topic: "orders", Entries: []pubsub.BulkEntry{{ID: "x", Data: []byte(`{"expiration":"2020-01-01T00:00:00Z"}`)}}})
			return len(errs) == 1 && errors.Is(errs[0], context.Canceled)
		})
		if !waiting(stopped) {
			t.Error("it did not wait")
		}
		dead := len(letters(b))
		close(out)
		h.meanwhile("the block has stopped", stopped)
		got := apptest.Receive(t, "a verdict", v)
		if outcomeOf(1, got) != want || got.held != (want == "-") || len(letters(b)) != dead {
			t.Errorf("%s: %s, held %t, dead letters %v", body, outcomeOf(1, got), got.held, letters(b))
		}
	}
}

// Messages of a broker without bulks are put into some here, by number and by time.
func TestGathering(t *testing.T) {
	calls := make(chan []string, 100)
	gathering := func(b pubsub.Broker, bulk Bulk) (*house, *fakeSub) {
		h := newHouse(t, Options{})
		a := &fakeApp{event: func(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
			var in struct {
				Entries []struct {
					EntryID string
					Event   struct{ ID string }
				}
			}
			if err := json.Unmarshal(req.Body, &in); err != nil {
				return nil, err
			}
			var ids, statuses []string
			for _, e := range in.Entries {
				ids = append(ids, e.Event.ID)
				st := "SUCCESS"
				if strings.HasPrefix(e.Event.ID, "bad") {
					st = "RETRY"
				}
				statuses = append(statuses, fmt.Sprintf(`{"entryId":%q,"status":%q}`, e.EntryID, st))
			}
			calls <- ids
			return reply(200, `{"statuses":[`+strings.Join(statuses, ",")+`]}`)
		}}
		bulk.Enabled = true
		return h, h.subscribed(b, a, Subscription{Rules: []Rule{{Path: "/x"}}, Bulk: bulk})
	}
	_, sub := gathering(newBroker(), Bulk{MaxMessages: 3})
	verdicts := []<-chan result{sub.handData(`{"id":"1"}`), sub.handData(`{"id":"bad"}`), sub.handData(`{"id":"3"}`)}
	if ids := apptest.Receive(t, "a bulk", calls); len(ids) != 3 {
		t.Errorf("%v", ids)
	}
	for i, want := range []string{"ack", "nack", "ack"} {
		if v := apptest.Receive(t, "a verdict", verdicts[i]); v.String() != want {
			t.Errorf("message %d: %s, want %s", i, v, want)
		}
	}

	for _, bulk := range []Bulk{{}, {MaxAwait: 200 * time.Millisecond}} {
		await := bulk.MaxAwait
		if await == 0 {
			await = defaultMaxAwait
		}
		h, sub := gathering(newBroker(), bulk)
		begin := h.clock.Now()
		v := sub.handData(`{"id":"1"}`)
		if err := h.clock.BlockUntilContext(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		h.clock.Advance(await - time.Millisecond)
		if !waiting(calls) {
			t.Errorf("sent after %s", h.clock.Since(begin))
		}
		h.clock.Advance(time.Millisecond)
		if ids := apptest.Receive(t, "a bulk", calls); len(ids) != 1 {
			t.Errorf("%v", ids)
		}
		if got := apptest.Receive(t, "a verdict", v); got.String() != "ack" {
			t.Errorf("%s", got)
		}
	}

	_, sub = gathering(immediate{newBroker()}, Bulk{MaxMessages: 3})
	if got := apptest.Receive(t, "a verdict", sub.handData(`{"id":"1"}`)); got.String() != "ack" {
		t.Errorf("%s", got)
	}
	<-calls

	// A stop sends what is waiting on its way, and waits for it.
	h, sub := gathering(newBroker(), Bulk{MaxAwait: 10 * time.Second})
	v := sub.handData(`{"id":"last"}`)
	if err := h.clock.BlockUntilContext(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	begin := h.clock.Now()
	h.stop(false)
	if got := apptest.Receive(t, "a verdict", v); got.String() != "ack" || (<-calls)[0] != "last" || h.clock.Since(begin) >= 10*time.Second {
		t.Errorf("%s after %s", got, h.clock.Since(begin))
	}
}

func FuzzBulkVerdicts(f *testing.F) {
	for _, s := range []string{``, `{"statuses":[{"entryId":"a","status":"SUCCESS"},{"entryId":"b","status":"DROP"}]}`, `{"statuses":null}`, `{"statuses":[null]}`, `{"statuses":[{"entryId":"a","status":"RETRY"},{"entryId":"a","status":"SUCCESS"}]}`, `[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		entries := []*bulkEntry{{BulkEntry: &pubsub.BulkEntry{ID: "a"}}, {BulkEntry: &pubsub.BulkEntry{ID: "b"}}}
		results, err := bulkVerdicts(body, entries)
		var std struct {
			Statuses []struct{ EntryID, Status string }
		}
		if stdErr := json.Unmarshal(body, &std); (err == nil) && stdErr != nil {
			t.Fatalf("%q is understood, but %v", body, stdErr)
		}
		if err != nil {
			return
		}
		want := map[string]string{}
		for _, s := range std.Statuses {
			want[s.EntryID] = s.Status
		}
		for i, id := range []string{"a", "b"} {
			done := results[i].err == nil
			if done != (want[id] == "SUCCESS" || want[id] == "DROP") || done && (results[i].verdict == dropped) != (want[id] == "DROP") {
				t.Fatalf("%q: entry %s is %+v", body, id, results[i])
			}
		}
	})
}
