package apphost

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	"outrigger.dev/blocks/actors"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/logging/logtest"
	"outrigger.dev/telemetry/tracing"
)

const (
	parent = "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01"
	other  = "00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-01"
)

// seen is a request as it arrived in the app.
type seen struct {
	verb, uri, body string
	header          http.Header
}

// appOf is an app that passes on what it gets and then answers as it is told; nil answers 200.
func appOf(t testing.TB, o app.Options, answer http.HandlerFunc) (*HTTP, <-chan seen) {
	t.Helper()
	requests := make(chan seen, 100)
	o.Port = apptest.Serve(t, string(o.Protocol), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		select {
		case requests <- seen{r.Method, r.RequestURI, string(body), r.Header}:
		default:
		}
		if answer != nil {
			answer(w, r)
		}
	}))
	o.APIToken = "secret"
	return NewHTTP(HTTPOptions{Channel: apptest.Open(t, app.New, o), AppID: "shop", Namespace: "prod", MaxBodyBytes: 64 << 10}), requests
}

func headerOf(pairs ...string) (h invocation.Header) {
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func TestMethodRequest(t *testing.T) {
	own := tracing.New(tracing.Options{Rate: 1, Random: func() uint64 { return 0x0102030405060708 }})
	parsed, _ := tracing.ParseParent(parent)
	for _, tc := range []struct {
		name string
		span *tracing.Span
		call actors.Call
		uri  string
		want map[string]string // headers; "" means none
		body string
	}{
		{
			name: "plain", call: actors.Call{Method: "add", Request: &invocation.Request{Verb: "GET", Query: "a=1&b=%20", Body: []byte("\xffx"), ContentType: "text/x", Header: headerOf("X-A", "1")}},
			uri: "/actors/Cart/7/method/add?a=1&b=%20", body: "\xffx",
			want: map[string]string{
				"X-A": "1", "Content-Type": "text/x", "Content-Length": "2", "Dapr-API-Call": "true", "X-Dapr-Remote": "", "Dapr-Caller-App-Id": "shop",
				"Dapr-Caller-Namespace": "prod", "Dapr-Api-Token": "secret", "Traceparent": "", "Dapr-Reentrancy-Id": "",
			},
		},
		{
			name: "no body and no type", call: actors.Call{Method: "a/b", Request: &invocation.Request{}},
			uri: "/actors/Cart/7/method/a/b", want: map[string]string{"Content-Type": ""},
		},
		{
			name: "what the client may not say", call: actors.Call{Method: "m", Request: &invocation.Request{Header: headerOf(
				"dapr-caller-app-id", "evil", "Dapr-Caller-Namespace", "evil", "X-Dapr-Remote", "true", "Dapr-Api-Call", "false", "Connection", "x-hop", "X-Hop", "1",
				"Keep-Alive", "1", "TE", "trailers", "Content-Length", "99", "destination-app-id", "x", "a-bin", "AAA", "dapr-api-token", "stolen", "X-Kept", "1")}},
			uri: "/actors/Cart/7/method/m",
			want: map[string]string{
				"Dapr-Caller-App-Id": "shop", "Dapr-Caller-Namespace": "prod", "X-Dapr-Remote": "", "Dapr-Api-Call": "true", "X-Hop": "", "Keep-Alive": "", "Te": "",
				"Content-Length": "0", "Destination-App-Id": "", "A-Bin": "", "Dapr-Api-Token": "secret", "X-Kept": "1",
			},
		},
		{
			name: "remote and reentrant", call: actors.Call{Method: "m", Remote: true, ReentrancyID: "r1", Request: &invocation.Request{Header: headerOf("dapr-reentrancy-id", "theirs")}},
			uri: "/actors/Cart/7/method/m", want: map[string]string{"X-Dapr-Remote": "true", "Dapr-Reentrancy-Id": "r1"},
		},
		{
			name: "an id of a type without reentrancy", call: actors.Call{Method: "m", Request: &invocation.Request{Header: headerOf("Dapr-Reentrancy-Id", "theirs")}},
			uri: "/actors/Cart/7/method/m", want: map[string]string{"Dapr-Reentrancy-Id": "theirs"},
		},
		{
			name: "a method that climbs", call: actors.Call{Method: "../../../x", Request: &invocation.Request{}},
			uri: "/actors/Cart/7/method/x",
		},
		{
			name: "an id that needs escaping", call: actors.Call{ID: "a b|%2e@:ž", Method: "m", Request: &invocation.Request{}},
			uri: "/actors/Cart/a%20b%7C%252e@:%C5%BE/method/m",
		},
		{
			name: "a trace that came with the call", span: tracing.PassThrough().Start(parsed, tracing.Client, ""),
			call: actors.Call{Method: "m", Request: &invocation.Request{Header: headerOf("traceparent", parent, "tracestate", "a=b", "baggage", "k=v")}},
			uri:  "/actors/Cart/7/method/m", want: map[string]string{"Traceparent": parent, "Tracestate": "a=b", "Baggage": "k=v"},
		},
		{
			name: "a trace that came beside the call", span: tracing.PassThrough().Start(parsed, tracing.Client, ""),
			call: actors.Call{Method: "m", Request: &invocation.Request{}},
			uri:  "/actors/Cart/7/method/m", want: map[string]string{"Traceparent": parent},
		},
		{
			name: "the sidecar's own span", span: own.Start(parsed, tracing.Client, ""),
			call: actors.Call{Method: "m", Request: &invocation.Request{Header: headerOf("traceparent", other, "tracestate", "x=y", "baggage", "k=v")}},
			uri:  "/actors/Cart/7/method/m", want: map[string]string{"Traceparent": parent, "Tracestate": "", "Baggage": "k=v"},
		},
		{
			name: "from gRPC", call: actors.Call{Method: "m", Request: &invocation.Request{Origin: invocation.FromGRPC, Header: headerOf("grpc-x", "1", "user-agent", "go")}},
			uri: "/actors/Cart/7/method/m", want: map[string]string{"Dapr-Grpc-X": "1", "User-Agent": "go"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			host, requests := appOf(t, app.Options{}, nil)
			if tc.call.Type = "Cart"; tc.call.ID == "" {
				tc.call.ID = "7"
			}
			before := len(tc.call.Request.Header)
			if _, err := host.Invoke(tracing.NewContext(t.Context(), tc.span), &tc.call); err != nil {
				t.Fatal(err)
			}
			if len(tc.call.Request.Header) != before {
				t.Errorf("the caller's header was changed: %q", tc.call.Request.Header)
			}
			got := apptest.Receive(t, "the request", requests)
			if got.verb != "PUT" || got.uri != tc.uri || got.body != tc.body {
				t.Errorf("%s %s %q", got.verb, got.uri, got.body)
			}
			for name, want := range tc.want {
				values := got.header.Values(name)
				// Of the sidecar's own span only the trace is known beforehand.
				if name == "Traceparent" && tc.span.Own() && len(values) == 1 {
					if values[0] != tc.span.Parent() || values[0][:35] != want[:35] {
						t.Errorf("%s: %q", name, values)
					}
					continue
				}
				if len(values) > 1 || got.header.Get(name) != want {
					t.Errorf("%s: %q, want %q", name, values, want)
				}
			}
		})
	}
}

func TestOutcomes(t *testing.T) {
	const path = "actors/Cart/7/method/"
	large := strings.Repeat("x", 65<<10)
	for _, tc := range []struct {
		name   string
		status int
		header string
		value  string
		body   string
		err    string // of methods
		remind string // of reminders, where it differs
	}{
		{name: "200", status: 200, body: "reply"},
		{name: "a reply that comes in pieces", status: 200, body: strings.Repeat("y", 60<<10)},
		{name: "created", status: 201, body: "b", err: "error from actor service: (201) b"},
		{name: "no content", status: 204, err: "error from actor service: (204) "},
		{name: "a redirect", status: 302, err: "error from actor service: (302) "},
		{name: "not found", status: 404, body: "b", err: "actor method not found: " + path + "m", remind: "actor method not found: " + path + "remind/r"},
		{name: "failed", status: 500, body: "<oops>", err: "error from actor service: (500) <oops>"},
		{name: "an error of the actor", status: 200, header: "x-daprerrorresponseheader", value: "false", body: "e"},
		{name: "canceled", status: 200, header: "X-DaprReminderCancel", value: "Yes", err: "reminder has been canceled"},
		{name: "not canceled", status: 200, header: "X-DaprReminderCancel", value: "no"},
		{name: "canceled, but failed", status: 500, header: "X-DaprReminderCancel", value: "true", err: "error from actor service: (500) "},
		{name: "over the limit", status: 200, body: large, err: "the app's response (200) to " + path + "m is larger than 65536 bytes; raise --max-body-size, or respond less: stream too large", remind: "the app's response (200) to " + path + "remind/r is larger than 65536 bytes; raise --max-body-size, or respond less: stream too large"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			host, _ := appOf(t, app.Options{MaxBodySize: 64 << 10}, func(w http.ResponseWriter, _ *http.Request) {
				if tc.header != "" {
					w.Header().Set(tc.header, tc.value)
				}
				w.Header().Set("X-Reply", "1")
				w.Header().Set("Content-Type", "text/reply")
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			resp, err := host.Invoke(t.Context(), &actors.Call{Type: "Cart", ID: "7", Method: "m", Request: &invocation.Request{}})
			if text(err) != tc.err {
				t.Errorf("%v", err)
			}
			if errors.Is(err, actors.ErrMethodNotFound) != (tc.status == 404) || errors.Is(err, actors.ErrReminderCanceled) != (tc.name == "canceled") {
				t.Errorf("the kind of %v", err)
			}
			if err == nil {
				if resp.Status != 200 || string(resp.Body) != tc.body || resp.Stream != nil || string(resp.Header.Get("X-Reply")) != "1" || resp.ContentType != "text/reply" {
					t.Errorf("%+v", resp)
				}
				found := false
				for _, f := range resp.Header {
					found = found || string(f.Name) == "X-Daprerrorresponseheader" && string(f.Value) == "false"
				}
				if found != (tc.header == "x-daprerrorresponseheader") {
					t.Errorf("%q", resp.Header)
				}
			}
			want := tc.err
			if tc.remind != "" {
				want = tc.remind
			}
			if err := host.Remind(t.Context(), &actors.Reminder{Type: "Cart", ID: "7", Name: "r"}); text(err) != want {
				t.Errorf("reminder: %v", err)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestCancelWords(t *testing.T) {
	for value, want := range map[string]bool{
		"true": true, "TRUE": true, "t": true, "y": true, "yes": true, "on": true, "1": true, " On ": true,
		"": false, "false": false, "0": false, "2": false, "cancel": false, "no": false, "off": false,
	} {
		if canceled([]byte(value)) != want {
			t.Errorf("%q is %v", value, !want)
		}
	}
}

func anyOf(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestReminderBodies(t *testing.T) {
	number, err := structpb.NewValue(map[string]any{"a": "<b>"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name     string
		reminder actors.Reminder
		want     string
	}{
		{"nothing", actors.Reminder{}, `{"dueTime":"","period":""}`},
		{"data", actors.Reminder{Data: anyOf(t, wrapperspb.Bytes([]byte(`{"b": 1, "a":"<"}`)))}, `{"data":{"b": 1, "a":"<"},"dueTime":"","period":""}`},
		{"null", actors.Reminder{Data: anyOf(t, wrapperspb.Bytes([]byte(`null`)))}, `{"data":null,"dueTime":"","period":""}`},
		{"a base64 string", actors.Reminder{Data: anyOf(t, wrapperspb.Bytes([]byte(`"bXlkYXRh"`)))}, `{"data":"bXlkYXRh","dueTime":"","period":""}`},
		{"no bytes", actors.Reminder{Data: anyOf(t, wrapperspb.Bytes(nil))}, `{"dueTime":"","period":""}`},
		{"an empty Any", actors.Reminder{Data: &anypb.Any{}}, `{"dueTime":"","period":""}`},
		{"bytes that are no JSON", actors.Reminder{Data: anyOf(t, wrapperspb.Bytes([]byte("my\xffdata")))}, `{"data":"bXn/ZGF0YQ==","dueTime":"","period":""}`},
		{"another message", actors.Reminder{Data: anyOf(t, durationpb.New(1500))}, `{"data":"0.000001500s","dueTime":"","period":""}`},
		{"a value", actors.Reminder{Data: anyOf(t, number)}, `{"data":{"a":"\u003cb\u003e"},"dueTime":"","period":""}`},
		{
			"a timer",
			actors.Reminder{Timer: true, Callback: `c"b`, DueTime: "1s", Period: "R5/PT1S", Data: anyOf(t, wrapperspb.Bytes([]byte(`1`)))},
			`{"data":1,"callback":"c\"b","dueTime":"1s","period":"R5/PT1S"}`,
		},
		{"a bare timer", actors.Reminder{Timer: true}, `{"callback":"","dueTime":"","period":""}`},
		{"unknown fields", actors.Reminder{Data: &anypb.Any{TypeUrl: "x/google.protobuf.BytesValue", Value: []byte("\x10\x05\x0a\x011\x0a\x012")}}, `{"data":2,"dueTime":"","period":""}`},
	} {
		got, err := reminderBody(&tc.reminder)
		if err != nil || string(got) != tc.want {
			t.Errorf("%s: %s, %v\nwant %s", tc.name, got, err, tc.want)
		}
	}
	for name, data := range map[string]*anypb.Any{
		"an unknown type": {TypeUrl: "type.googleapis.com/acme.Secret", Value: []byte("x")},
		"broken bytes":    {TypeUrl: "type.googleapis.com/google.protobuf.BytesValue", Value: []byte("\x0a\x05x")},
		"a broken tag":    {TypeUrl: "type.googleapis.com/google.protobuf.BytesValue", Value: []byte("\xff")},
		"no type":         {Value: []byte("x")},
	} {
		if got, err := reminderBody(&actors.Reminder{Type: "Cart", ID: "7", Name: "r", Data: data}); err == nil || !strings.HasPrefix(err.Error(), `the data of "r" of actor Cart/7 cannot be delivered over HTTP: `) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestOtherCallbacks(t *testing.T) {
	host, requests := appOf(t, app.Options{}, nil)
	parsed, _ := tracing.ParseParent(parent)
	ctx := tracing.NewContext(t.Context(), tracing.PassThrough().Start(parsed, tracing.Client, ""))
	data := anyOf(t, wrapperspb.Bytes([]byte(`[1]`)))
	for _, tc := range []struct {
		call            func() error
		verb, uri, body string
		contentType, id string
	}{
		{func() error {
			return host.Remind(ctx, &actors.Reminder{Type: "Cart", ID: "7", Name: "a b", Data: data, ReentrancyID: "r1"})
		}, "PUT", "/actors/Cart/7/method/remind/a%20b", `{"data":[1],"dueTime":"","period":""}`, "application/json", "r1"},
		{func() error {
			return host.Remind(ctx, &actors.Reminder{Type: "Cart", ID: "7", Name: "t", Timer: true, Callback: "cb", DueTime: "1s"})
		}, "PUT", "/actors/Cart/7/method/timer/t", `{"callback":"cb","dueTime":"1s","period":""}`, "application/json", ""},
		{func() error { return host.Deactivate(ctx, "Cart", "7") }, "DELETE", "/actors/Cart/7", "", "application/x-protobuf", ""},
	} {
		if err := tc.call(); err != nil {
			t.Error(err)
		}
		got := apptest.Receive(t, "the request", requests)
		if got.verb != tc.verb || got.uri != tc.uri || got.body != tc.body || got.header.Get("Content-Type") != tc.contentType || got.header.Get("Dapr-Reentrancy-Id") != tc.id {
			t.Errorf("%+v", got)
		}
		if got.header.Get("Traceparent") != parent || got.header.Get("Dapr-Api-Token") != "secret" {
			t.Errorf("%s: header %v", got.uri, got.header)
		}
	}
}

// TestNamesThatLeadElsewhere: no name brings a callback to another path of the app.
func TestNamesThatLeadElsewhere(t *testing.T) {
	host, requests := appOf(t, app.Options{}, nil)
	for _, name := range []string{"..", ".", "a/b", "../../admin", `a\b`, "a?b", "a#b", "a\x00b", "a\nb", "a\x7fb"} {
		for what, call := range map[string]func() error{
			"actor type": func() error { return host.Deactivate(t.Context(), name, "7") },
			"actor id": func() error {
				_, err := host.Invoke(t.Context(), &actors.Call{Type: "Cart", ID: name, Method: "m", Request: &invocation.Request{}})
				return err
			},
			"reminder": func() error { return host.Remind(t.Context(), &actors.Reminder{Type: "Cart", ID: "7", Name: name}) },
			"timer": func() error {
				return host.Remind(t.Context(), &actors.Reminder{Type: "Cart", ID: "7", Name: name, Timer: true})
			},
		} {
			if err := call(); err == nil || !strings.HasPrefix(err.Error(), "the app cannot be called: "+what+" ") {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
	}
	if len(requests) != 0 {
		t.Errorf("the app was called: %+v", <-requests)
	}
}

func TestUnhealthyAndUnreachable(t *testing.T) {
	host, requests := appOf(t, app.Options{Health: &app.HealthOptions{}}, nil) // nobody has probed it yet
	for what, err := range map[string]error{
		"a method": invokeError(t, host), "a reminder": host.Remind(t.Context(), &actors.Reminder{Type: "Cart", ID: "7", Name: "r"}), "the end": host.Deactivate(t.Context(), "Cart", "7"),
	} {
		if !errors.Is(err, app.ErrUnhealthy) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(requests) != 0 {
		t.Error("an unhealthy app was called")
	}
	host, _ = appOf(t, app.Options{}, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if err := invokeError(t, host); err == nil || !strings.HasPrefix(err.Error(), `Put "http://127.0.0.1:`) {
		t.Errorf("%v", err)
	}
}

func invokeError(t *testing.T, host actors.Host) error {
	_, err := host.Invoke(t.Context(), &actors.Call{Type: "Cart", ID: "7", Method: "m", Request: &invocation.Request{}})
	return err
}

// TestTheTurnEnds: the end of the turn's context ends the callback.
func TestTheTurnEnds(t *testing.T) {
	release := make(chan struct{})
	host, requests := appOf(t, app.Options{}, func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { failed <- host.Deactivate(ctx, "Cart", "7") }()
	apptest.Receive(t, "the request", requests)
	cancel()
	if err := apptest.Receive(t, "the end of the callback", failed); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDiscover(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		types  int
		log    string
	}{
		{"hosts", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("dapr-app-config-version", "v9")
			_, _ = io.WriteString(w, `{"entities":["A","B"]}`)
		}, 2, ""},
		{"has no such route", http.NotFound, 0, ""},
		{"another success", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(201)
			_, _ = io.WriteString(w, `{"entities":["A"]}`)
		}, 0, ""},
		{"says nothing", nil, 0, ""},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, 0, "makes no sense"},
		{"a bad duration", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"entities":["A"],"actorIdleTimeout":"x"}`)
		}, 0, "makes no sense"},
		{"breaks off", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, "could not be asked"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log logtest.Log
			host, requests := appOf(t, app.Options{AppID: "shop"}, tc.answer)
			got := host.Discover(t.Context(), ConfigOptions{Log: log.Logger()})
			if len(got.Types) != tc.types || got.Host != actors.Host(host) || tc.log == "" && len(log.Lines()) > 0 || tc.log != "" && log.Count(tc.log) != 1 {
				t.Errorf("%+v; log: %s", got, &log)
			}
			r := apptest.Receive(t, "the request", requests)
			if r.verb != "GET" || r.uri != "/dapr/config" || r.header.Get("dapr-app-id") != "shop" || r.header.Get("dapr-api-token") != "secret" || r.header.Get("Content-Type") != "application/json" {
				t.Errorf("%+v", r)
			}
		})
	}
}

func FuzzReminderData(f *testing.F) {
	f.Add("type.googleapis.com/google.protobuf.BytesValue", []byte("\x0a\x03[1]"), "cb")
	f.Add("google.protobuf.StringValue", []byte("\x0a\x03abc"), "\x00\"")
	f.Add("", []byte{}, "")
	f.Fuzz(func(t *testing.T, url string, value []byte, callback string) {
		body, err := reminderBody(&actors.Reminder{Timer: true, Callback: callback, Data: &anypb.Any{TypeUrl: url, Value: value}})
		if err == nil && !json.Valid(body) {
			t.Errorf("%q %q: %q", url, value, body)
		}
	})
}

// BenchmarkMethod is a turn of an actor whose app speaks HTTP.
func BenchmarkMethod(b *testing.B) {
	reply := make([]byte, 1024)
	host, _ := appOf(b, app.Options{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(reply) })
	call := actors.Call{Type: "Cart", ID: "7", Method: "add", ReentrancyID: "4c2b1f2e-0000-4000-8000-000000000000", Request: &invocation.Request{
		ContentType: "application/json", Body: make([]byte, 1024), Header: headerOf("User-Agent", "go", "Accept", "*/*", "X-A", "1"),
	}}
	b.ReportAllocs()
	for b.Loop() {
		resp, err := host.Invoke(b.Context(), &call)
		if err != nil || len(resp.Body) != 1024 {
			b.Fatal(err)
		}
	}
}

// nowhere is a channel to an app that answers at once.
type nowhere struct {
	app.Channel
	response invocation.Response
}

func (c *nowhere) Invoke(context.Context, *invocation.Request) (*invocation.Response, error) {
	r := c.response
	return &r, nil
}

// BenchmarkMethodRequest is the part of a turn that is this package's.
func BenchmarkMethodRequest(b *testing.B) {
	host := NewHTTP(HTTPOptions{Channel: &nowhere{response: invocation.Response{Status: 200}}, AppID: "shop", Namespace: "prod"})
	call := actors.Call{Type: "Cart", ID: "7", Method: "add", ReentrancyID: "4c2b1f2e-0000-4000-8000-000000000000", Request: &invocation.Request{
		ContentType: "application/json", Body: make([]byte, 1024), Header: headerOf("User-Agent", "go", "Accept", "*/*", "X-A", "1"),
	}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := host.Invoke(b.Context(), &call); err != nil {
			b.Fatal(err)
		}
	}
}
