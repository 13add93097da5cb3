package pubsub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/metrics/metricstest"
)

const plainEvent = `{"id":"1","source":"s","type":"t","specversion":"1.0","datacontenttype":"text/plain","data":"hello"}`

// verdictCase is an answer of an app and what becomes of the message: without a dead-letter topic, and with one that takes
// messages and one that does not.
type verdictCase struct {
	plain, dead, refused    string
	letters                 int
	process, processOutcome string // metrics without a dead-letter topic
}

var (
	success = verdictCase{plain: "ack", dead: "ack", refused: "ack", process: "success", processOutcome: "success"}
	drop    = verdictCase{plain: "ack", dead: "ack", refused: "nack", letters: 1, process: "drop", processOutcome: "success"}
	failure = verdictCase{plain: "nack", dead: "ack", refused: "nack", letters: 1, process: "retry", processOutcome: "retry"}
	absent  = verdictCase{plain: "ack", dead: "ack", refused: "nack", letters: 1, process: "drop", processOutcome: "drop"}
	discard = verdictCase{plain: "ack", dead: "ack", refused: "ack", process: "drop", processOutcome: "drop"}
)

// checkVerdict delivers an event three times.
func checkVerdict(t *testing.T, want verdictCase, channel func() app.Channel) {
	t.Helper()
	for _, dead := range []struct {
		topic, verdict string
		refuse         error
	}{{"", want.plain, nil}, {"dead", want.dead, nil}, {"dead", want.refused, errBroker}} {
		m := metricstest.New(t, "shop")
		h := newHouse(t, Options{Metrics: m.PubSub()})
		b := newBroker()
		b.refuse["dead"] = dead.refuse
		sub := h.subscribed(b, channel(), Subscription{DeadLetterTopic: dead.topic, Rules: []Rule{{Path: "orders"}}})
		got := sub.do(t, &pubsub.Message{Data: []byte(plainEvent), Metadata: map[string]string{"k": "v"}, ContentType: "application/x"})
		if got.String() != dead.verdict {
			t.Errorf("dead-letter topic %q (%v): %s (%v), want %s", dead.topic, dead.refuse, got, got.err, dead.verdict)
		}
		letters := b.sent()
		switch {
		case dead.topic == "" || want.letters == 0:
			if len(letters) != 0 {
				t.Errorf("dead letters %v", letters)
			}
		case len(letters) == 0 || letters[0].Topic != "dead" || string(letters[0].Data) != plainEvent || letters[0].ContentType != "application/x" ||
			!maps.Equal(letters[0].Metadata, map[string]string{"k": "v", "pubsubName": "ps", "content-type": "application/x"}):
			t.Errorf("dead letters %+v", letters)
		case dead.refuse == nil && len(letters) != 1:
			t.Errorf("%d dead letters", len(letters))
		}
		if dead.topic == "" {
			if got := metricstest.Counted(t, m, "dapr_component_pubsub_ingress_count", "topic", "process_status", "status"); !maps.Equal(got, map[string]float64{"orders " + want.process + " " + want.processOutcome: 1}) {
				t.Errorf("metrics %v, want %s %s", got, want.process, want.processOutcome)
			}
		}
		h.stop(false)
	}
}

func TestHTTPVerdicts(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		body   string
		want   verdictCase
	}{
		{"empty", 200, ``, success},
		{"no content", 204, ``, success},
		{"SUCCESS", 200, `{"status":"SUCCESS"}`, success},
		{"any 2xx", 299, ` {"x":[1],"Status" : "SUCCESS"} `, success},
		{"an empty status", 200, `{"status":""}`, success},
		{"null status", 200, `{"status":null}`, success},
		{"no status", 200, `{}`, success},
		{"text", 200, `OK`, success},
		{"list", 200, `["RETRY"]`, success},
		{"status of another type", 200, `{"status":5}`, success},
		{"half a body", 200, `{"status":"RETRY"`, success},
		{"more than a body", 200, `{"status":"RETRY"}}`, success},
		{"bytes", 200, "\xff\x00{", success},
		{"RETRY", 200, `{"status":"RETRY"}`, failure},
		{"lower case is another word", 200, `{"status":"success"}`, failure},
		{"unknown", 201, `{"status":"LATER"}`, failure},
		{"DROP", 200, `{"status":"DROP"}`, drop},
		{"escaped DROP", 200, `{"status":"\u0044ROP"}`, drop},
		{"not found", 404, `{"status":"RETRY"}`, absent},
		{"redirect", 302, ``, failure},
		{"bad request", 400, `{"status":"SUCCESS"}`, failure},
		{"error", 500, `{"status":"DROP"}`, failure},
		{"unavailable", 503, ``, failure},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkVerdict(t, tc.want, func() app.Channel { return answering(tc.status, tc.body) })
		})
	}
	t.Run("no app", func(t *testing.T) {
		checkVerdict(t, failure, func() app.Channel {
			return &fakeApp{event: func(context.Context, *invocation.Request) (*invocation.Response, error) {
				return nil, errors.New("refused")
			}}
		})
	})
	t.Run("a stream of no end", func(t *testing.T) {
		checkVerdict(t, success, func() app.Channel {
			return &fakeApp{event: func(context.Context, *invocation.Request) (*invocation.Response, error) {
				return &invocation.Response{Status: 200, Length: -1, Stream: io.NopCloser(endless{})}, nil
			}}
		})
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// The same with apps behind a real connection.
func TestHTTPAppsThatMisbehave(t *testing.T) {
	for _, tc := range []struct {
		name string
		app  http.HandlerFunc
		want verdictCase
	}{
		{"chunks", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"status":`))
			w.(http.Flusher).Flush()
			_, _ = w.Write([]byte(`"DROP"}`))
		}, drop},
		{"a redirect is not followed", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, failure},
		{"closed connection", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, failure},
		{"cut answer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte(`{"status":`))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, failure},
		{"no HTTP", func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = c.Write([]byte("SSH-2.0-x\r\n\r\n"))
				_ = c.Close()
			}
		}, failure},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkVerdict(t, tc.want, func() app.Channel { return serveHTTP(t, app.Options{}, tc.app) })
		})
	}
}

// The request as a real HTTP app gets it.
func TestHTTPDelivery(t *testing.T) {
	type request struct {
		method, path, contentType, body string
		header                          http.Header
	}
	got := make(chan request, 1)
	channel := func() app.Channel {
		return serveHTTP(t, app.Options{APIToken: "secret"}, func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got <- request{r.Method, r.URL.Path, r.Header.Get("Content-Type"), string(body), r.Header}
		})
	}
	traced := `{"id":"1","traceparent":"` + parent + `","tracestate":"a=b","data":"x"}`
	for _, tc := range []struct {
		name, path, data, contentType string
		raw                           bool
		metadata                      map[string]string
		wantPath, wantType, wantBody  string // no body: another one
		header                        map[string]string
	}{
		{"as it came", "orders", " {\"data\":1 , \"x\":\"<\"}", "", false, nil, "/orders", "application/cloudevents+json", " {\"data\":1 , \"x\":\"<\"}", map[string]string{"pubsubName": "ps", "Dapr-Api-Token": "secret", "Traceparent": ""}},
		{"clean path", "/a//b/../c/.", "{}", "", false, nil, "/a/c", "application/cloudevents+json", "{}", nil},
		{"trace of the event", "/x", traced, "", false, map[string]string{"traceparent": parent2, "TraceState": "c=d"}, "/x", "application/cloudevents+json", traced, map[string]string{"Traceparent": parent, "Tracestate": "a=b"}},
		{"trace of the message", "/x", "{}", "", false, map[string]string{"traceparent": parent2}, "/x", "application/cloudevents+json", "{}", map[string]string{"Traceparent": parent2, "Tracestate": ""}},
		{"a trace that is none", "/x", `{"traceid":"junk"}`, "", false, nil, "/x", "application/cloudevents+json", `{"traceid":"junk"}`, map[string]string{"Traceparent": ""}},
		{
			"metadata", "/x", "{}", "application/json", false,
			map[string]string{"__key": "k", "grpc-x": "1", "x-bin": "2", "Connection": "3", "Content-Length": "9", "bad name": "4", "bad": "5\r\nX-Evil: 1", "tab": "a\tb"},
			"/x", "application/cloudevents+json", "{}",
			map[string]string{"__key": "k", "Dapr-Grpc-X": "1", "X-Bin": "", "Bad name": "", "Bad": "", "X-Evil": "", "Tab": "a\tb"},
		},
		{"binary content", "/x", "\x00\xff", "application/octet-stream", false, map[string]string{"ce_id": "7"}, "/x", "application/octet-stream", "\x00\xff", map[string]string{"ce_id": "7"}},
		{"raw", "/x", "\x00\xff", "", true, map[string]string{"traceparent": parent2}, "/x", "application/cloudevents+json", "", map[string]string{"Traceparent": parent2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, Options{})
			s := Subscription{Rules: []Rule{{Path: tc.path}}}
			if tc.raw {
				s.Metadata = map[string]string{"rawPayload": "true"}
			}
			sub := h.subscribed(newBroker(), channel(), s)
			if v := sub.do(t, &pubsub.Message{Data: []byte(tc.data), Metadata: tc.metadata, ContentType: tc.contentType}); v.String() != "ack" {
				t.Fatalf("%s: %v\n%s", v, v.err, &h.log)
			}
			r := apptest.Receive(t, "the request", got)
			if r.method != "POST" || r.path != tc.wantPath || r.contentType != tc.wantType || tc.wantBody != "" && r.body != tc.wantBody {
				t.Errorf("%+v", r)
			}
			for name, want := range tc.header {
				var value string
				for k, v := range r.header {
					if strings.EqualFold(k, name) {
						value = strings.Join(v, "|")
					}
				}
				if value != want {
					t.Errorf("header %s is %q, want %q", name, value, want)
				}
			}
			if tc.raw {
				event := object(t, []byte(r.body))
				id, _ := event["id"].(string)
				delete(event, "id")
				want := map[string]any{
					"specversion": "1.0", "datacontenttype": "application/octet-stream", "source": "Dapr", "type": "com.dapr.event.sent", "topic": "orders", "pubsubname": "ps",
					"data_base64": "AP8=", "traceid": parent2, "traceparent": parent2,
				}
				if len(id) != 36 || !equalJSON(t, event, want) {
					t.Errorf("%s", r.body)
				}
			}
		})
	}
}

func equalJSON(t testing.TB, a, b any) bool {
	t.Helper()
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

// What never reaches the app.
func TestUndelivered(t *testing.T) {
	future := noon.Add(time.Second).Format(time.RFC3339)
	past := noon.Add(-time.Second).Format(time.RFC3339)
	for _, tc := range []struct {
		name, data     string
		metadata       map[string]string
		rules          []Rule
		delivered      bool
		verdict        string // without a dead-letter topic; with one it is always ack
		refused        string // with one that takes nothing
		process, count string
	}{
		{"expired", `{"expiration":"` + past + `"}`, nil, nil, false, "ack", "ack", "drop", "drop"},
		{"not yet expired", `{"expiration":"` + future + `"}`, nil, nil, true, "ack", "ack", "success", "success"},
		{"an expiration that is none", `{"expiration":"yesterday"}`, nil, nil, true, "ack", "ack", "success", "success"},
		{"garbage", `garbage`, nil, nil, false, "nack", "nack", "retry", "retry"},
		{"empty", ``, nil, nil, false, "nack", "nack", "retry", "retry"},
		{"no object", `[1]`, nil, nil, false, "nack", "nack", "retry", "retry"},
		{"two objects", `{}{}`, nil, nil, false, "nack", "nack", "retry", "retry"},
		{"rawPayload that is none", `{}`, map[string]string{"rawPayload": "maybe"}, nil, false, "nack", "nack", "retry", "retry"},
		{"no rule", `{}`, nil, []Rule{}, false, "ack", "ack", "drop", "success"},
		{"no match", `{"type":"a"}`, nil, []Rule{{`event.type == "b"`, "/b"}}, false, "ack", "ack", "drop", "success"},
		{"a rule that fails", `{}`, nil, []Rule{{`event.type == "b"`, "/b"}, {"", "/x"}}, false, "nack", "nack", "retry", "retry"},
		{"no truth", `{"type":"a"}`, nil, []Rule{{`event.type`, "/b"}}, false, "nack", "nack", "retry", "retry"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, dead := range []struct{ topic, want string }{{"", tc.verdict}, {"dead", "ack"}, {"refused", tc.refused}} {
				m := metricstest.New(t, "shop")
				h := newHouse(t, Options{Metrics: m.PubSub()})
				a, b := &fakeApp{}, newBroker()
				b.refuse["refused"] = errBroker
				rules := tc.rules
				if rules == nil {
					rules = []Rule{{Path: "/x"}}
				}
				sub := h.subscribed(b, a, Subscription{DeadLetterTopic: dead.topic, Rules: rules, Metadata: tc.metadata})
				if got := apptest.Receive(t, "a verdict", sub.handData(tc.data)); got.String() != dead.want {
					t.Errorf("dead-letter topic %q: %s (%v), want %s", dead.topic, got, got.err, dead.want)
				}
				if n := len(a.events()); (n == 1) != tc.delivered {
					t.Errorf("delivered %d times", n)
				}
				if letters := b.sent(); (len(letters) == 1) != (dead.topic != "" && !tc.delivered) || len(letters) == 1 && string(letters[0].Data) != tc.data {
					t.Errorf("dead letters %v", letters)
				}
				if got := metricstest.Counted(t, m, "dapr_component_pubsub_ingress_count", "process_status", "status"); !maps.Equal(got, map[string]float64{tc.process + " " + tc.count: 1}) {
					t.Errorf("metrics %v", got)
				}
				h.stop(false)
			}
		})
	}
}

// Scopes hold for dead letters, too.
func TestDeadLetterScopes(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b, "protectedTopics", "dead")
	if err := h.Declare([]Subscription{{Component: "ps", Topic: "orders", DeadLetterTopic: "dead", Rules: []Rule{{Path: "/x"}}}}); err != nil {
		t.Fatal(err)
	}
	h.startApp(answering(500, ""))
	if got := apptest.Receive(t, "a verdict", b.sub(t, "orders").handData("{}")); got.String() != "nack" || len(b.sent()) != 0 || h.log.Count("topic dead is not allowed") != 1 {
		t.Errorf("%s, published %v\n%s", got, b.sent(), &h.log)
	}
}

// The first rule that holds gives the path, and a rule without a match ends the list.
func TestDeliveryRoutes(t *testing.T) {
	h := newHouse(t, Options{})
	a := &fakeApp{}
	sub := h.subscribed(newBroker(), a, Subscription{Rules: []Rule{{`event.type == "a"`, "/a"}, {`event.data.qty > 10.0`, "/many"}, {" ", "/rest"}, {`event.type == "c"`, "/never"}}})
	for _, tc := range []struct{ event, path string }{
		{`{"type":"a"}`, "a"}, {`{"type":"b","data":{"qty":11}}`, "many"}, {`{"type":"c","data":{"qty":1}}`, "rest"}, {`{"type":"a","type":"b","data":{"qty":1}}`, "rest"},
	} {
		if v := apptest.Receive(t, "a verdict", sub.handData(tc.event)); v.String() != "ack" {
			t.Errorf("%s: %s", tc.event, v)
		}
		if events := a.events(); events[len(events)-1].Method != tc.path {
			t.Errorf("%s went to %s", tc.event, events[len(events)-1].Method)
		}
	}
}

// A message is acknowledged when the app has answered and the dead-letter topic has taken it, and not before; a slow message
// holds up no other.
func TestAcknowledgement(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	a, came, letGo := stuckApp()
	defer letGo()
	sub := h.subscribed(b, a, Subscription{Rules: []Rule{{Path: "/x"}}})
	var verdicts []<-chan result
	for i := range 5 {
		verdicts = append(verdicts, sub.handData(fmt.Sprintf(`{"id":"%d"}`, i)))
	}
	for range 5 {
		apptest.Receive(t, "all messages at a time", came)
	}
	for _, v := range verdicts {
		if !waiting(v) {
			t.Error("a verdict before the app's answer")
		}
	}
	letGo()
	for _, v := range verdicts {
		if got := apptest.Receive(t, "a verdict", v); got.String() != "ack" {
			t.Errorf("%s", got)
		}
	}

	h2 := newHouse(t, Options{})
	b2, publishing, taken := newBroker(), make(chan struct{}), make(chan struct{})
	b2.publish = func(ctx context.Context, _ pubsub.PublishRequest) error {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("a dead letter may take for ever")
		}
		close(publishing)
		<-taken
		return nil
	}
	v := h2.subscribed(b2, answering(200, `{"status":"DROP"}`), Subscription{DeadLetterTopic: "dead", Rules: []Rule{{Path: "/x"}}}).handData("{}")
	apptest.Receive(t, "the dead letter", publishing)
	if !waiting(v) {
		t.Error("a verdict before the dead letter was taken")
	}
	close(taken)
	if got := apptest.Receive(t, "a verdict", v); got.String() != "ack" {
		t.Errorf("%s", got)
	}
}

// A broker that loses patience does not break off what the app is doing.
func TestBrokersContextIsNotTheDeliverys(t *testing.T) {
	h := newHouse(t, Options{})
	a, came, letGo := stuckApp()
	defer letGo()
	sub := h.subscribed(newBroker(), a, Subscription{Rules: []Rule{{Path: "/x"}}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sub.handler(ctx, &pubsub.Message{Topic: "orders", Data: []byte("{}")}) }()
	apptest.Receive(t, "the delivery", came)
	cancel()
	letGo()
	if err := apptest.Receive(t, "a verdict", done); err != nil {
		t.Errorf("%v", err)
	}
}

func FuzzHTTPVerdict(f *testing.F) {
	for _, s := range []string{``, `{}`, `{"status":"DROP"}`, `{"status":"RETRY"} x`, `{"STATUS":"RETRY"}`, `[]`, `{"status":null}`, `{"a":{"status":"DROP"},"status":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := httpVerdict(body)
		var std struct{ Status string }
		want := ""
		if json.Unmarshal(body, &std) == nil {
			want = std.Status
		}
		switch {
		case want == "" || want == "SUCCESS":
			if got != processed || err != nil {
				t.Fatalf("%q: %v %v", body, got, err)
			}
		case want == "DROP":
			if got != dropped || err != nil {
				t.Fatalf("%q: %v %v", body, got, err)
			}
		case err == nil:
			t.Fatalf("%q is taken for %v", body, got)
		}
	})
}

// Whatever a broker hands over, apps of both kinds get a request that can be sent, or none.
func FuzzDelivery(f *testing.F) {
	for _, s := range []string{plainEvent, `{"data_base64":"AA=="}`, `{"id":"\ud800","data":{"a":1}}`, "\xff", `{"expiration":"2020-01-01T00:00:00Z"}`} {
		f.Add([]byte(s), "application/json", "key", "value")
		f.Add([]byte(s), "application/octet-stream", "ce_id", "\xff\r\n")
		f.Add([]byte(s), "", "traceparent", parent)
	}
	f.Fuzz(func(t *testing.T, data []byte, contentType, key, value string) {
		for _, raw := range []bool{false, true} {
			p := New(Options{})
			r := p.bareRunning(&broker{name: "ps"}, Subscription{Topic: "t"})
			r.raw = raw
			msg := &pubsub.Message{Topic: "t", Data: data, ContentType: contentType, Metadata: map[string]string{key: value}}
			r.complete(msg)
			d := delivery{message: msg, topic: "t", component: "ps", path: "/x"}
			if r.decode(&d) != nil {
				continue
			}
			for _, field := range deliveryHeader(msg.Metadata, d.trace) {
				if bytes.ContainsAny(field.Value, "\r\n\x00") {
					t.Fatalf("header %q: %q", field.Name, field.Value)
				}
			}
			for key, values := range deliveryMetadata(msg.Metadata, d.trace) {
				if !legalKey(key) && key != "grpc-trace-bin" || !strings.HasSuffix(key, "-bin") && !legalText(values[0]) {
					t.Fatalf("metadata %q: %q", key, values)
				}
			}
			in, err := d.request()
			if err != nil {
				continue
			}
			if _, err := marshal(in); err != nil {
				t.Fatalf("%q: %v", data, err)
			}
			if raw && !bytes.Equal(in.GetData(), data) {
				t.Fatalf("%q became %q", data, in.GetData())
			}
		}
	})
}
