package bindings

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	contract "outrigger.dev/components/bindings"
	"outrigger.dev/telemetry/logging/logtest"
	"outrigger.dev/telemetry/metrics/metricstest"
)

const parent = "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01"

// binary is the same as parent in the form of grpc-trace-bin.
const binary = "\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x01\x01\x02\x03\x04\x05\x06\x07\x08\x02\x01"

func TestHTTPOutcomes(t *testing.T) {
	var respond atomic.Pointer[http.HandlerFunc]
	m := metricstest.New(t, "app")
	b := newBlock(t, Options{Metrics: m, MaxBodyBytes: 20 << 10})
	in := &inputFake{}
	add(t, b, "in", in, "direction", "input")
	b.Start(t.Context(), serveHTTP(t, app.Options{}, func(w http.ResponseWriter, r *http.Request) { (*respond.Load())(w, r) }))
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	const prefix = "fails to send binding event to http app channel, status code: "
	for _, tc := range []struct {
		name    string
		respond http.HandlerFunc
		reply   string
		err     string
	}{
		{"200", answer(200, "reply"), "reply", ""},
		{"200 without a body", answer(200, ""), "", ""},
		{"directives mean nothing", answer(200, `{"to":["in"],"data":1}`), `{"to":["in"],"data":1}`, ""},
		{"a large reply", answer(200, strings.Repeat("x", 18<<10)), strings.Repeat("x", 18<<10), ""},
		{"another success", answer(202, "later"), "later", ""},
		{"no content", answer(204, ""), "", ""},
		{"a redirect", answer(302, ""), "", prefix + "302 body: "},
		{"not found", answer(404, "none"), "", prefix + "404 body: none"},
		{"a failure", answer(500, "<oops>"), "", prefix + "500 body: <oops>"},
		{"a reply over the limit", answer(200, strings.Repeat("x", 21<<10)), "", "error invoking app: the app's reply to an event of binding in is larger than 20480 bytes; raise --max-body-size, or reply less: stream too large"},
		{"no answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "", `error invoking app: Post "http://`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			respond.Store(&tc.respond)
			got := in.event(t, &contract.Event{Data: []byte("x")})
			if tc.err != "" {
				if got.err == nil || !strings.HasPrefix(got.err.Error(), tc.err) || got.reply != nil {
					t.Errorf("%q, %v\nwant %s", got.reply, got.err, tc.err)
				}
				return
			}
			if got.err != nil || string(got.reply) != tc.reply {
				t.Errorf("%.50q, %v", got.reply, got.err)
			}
		})
	}
	want := map[string]float64{"in true": 6, "in false": 5}
	if got := metricstest.Counted(t, m, "dapr_component_input_binding_count", "component", "success"); !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	busy := answer(503, "busy")
	respond.Store(&busy)
	if status, ok := errors.AsType[*StatusError](in.event(t, &contract.Event{}).err); !ok || status.Status != 503 || string(status.Body) != "busy" {
		t.Errorf("the status is not in the error: %+v", status)
	}
}

func TestHTTPRequest(t *testing.T) {
	for _, tc := range []struct {
		name     string
		metadata map[string]string
		want     map[string]string // headers; "" means none
	}{
		{"nothing", nil, map[string]string{"traceparent": ""}},
		{"metadata", map[string]string{"readTimeUTC": "now", "X-A": "b\r\nc"}, map[string]string{"readTimeUTC": "now", "X-A": "b  c"}},
		{
			"what is the call's own",
			map[string]string{"content-type": "text/x", "Content-Length": "7", "connection": "x", "Transfer-Encoding": "chunked", "bad name": "x", "a-bin": "x", "dapr-api-token": "stolen", "grpc-x": "y"},
			map[string]string{"connection": "", "bad name": "", "a-bin": "", "dapr-grpc-x": "y"},
		},
		{"trace", map[string]string{"traceparent": parent, "tracestate": "a=b"}, map[string]string{"traceparent": parent, "tracestate": "a=b"}},
		{"binary trace", map[string]string{"grpc-trace-bin": base64.StdEncoding.EncodeToString([]byte(binary)), "traceparent": "other", "tracestate": "other"}, map[string]string{"traceparent": parent, "tracestate": "", "grpc-trace-bin": ""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			arrived := make(chan *http.Request, 1)
			b := newBlock(t, Options{})
			in := &inputFake{}
			add(t, b, "in", in, "direction", "input", "route", "/on/event?v=1")
			b.Start(t.Context(), serveHTTP(t, app.Options{APIToken: "secret"}, func(_ http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(body))
				arrived <- r
			}))
			if o := in.event(t, &contract.Event{Data: []byte("\x00raw"), Metadata: tc.metadata}); o.err != nil {
				t.Fatal(o.err)
			}
			got := apptest.Receive(t, "the request", arrived)
			body, _ := io.ReadAll(got.Body)
			if got.Method != "POST" || got.RequestURI != "/on/event?v=1" || string(body) != "\x00raw" || got.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s %q %v", got.Method, got.RequestURI, body, got.Header)
			}
			if v := got.Header.Values("dapr-api-token"); len(v) != 1 || v[0] != "secret" {
				t.Errorf("token %q", v)
			}
			for name, value := range tc.want {
				if got.Header.Get(name) != value || len(got.Header.Values(name)) > 1 {
					t.Errorf("%s: %q, want %q", name, got.Header.Values(name), value)
				}
			}
		})
	}
}

func TestGRPCDelivery(t *testing.T) {
	requests := make(chan *runtimev1.BindingEventRequest, 1)
	headers := make(chan metadata.MD, 1)
	m := metricstest.New(t, "app")
	b := newBlock(t, Options{Metrics: m})
	in := &inputFake{}
	add(t, b, "in", in, "direction", "input")
	b.Start(t.Context(), serveGRPC(t, app.Options{APIToken: "secret"}, &apptest.Callbacks{BindingEvent: func(ctx context.Context, r *runtimev1.BindingEventRequest) (*runtimev1.BindingEventResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		requests <- r
		headers <- md
		if string(r.GetData()) == "fail" {
			return nil, status.Error(codes.NotFound, "oops")
		}
		return &runtimev1.BindingEventResponse{Data: []byte("reply"), StoreName: "ignored"}, nil
	}}))
	got := in.event(t, &contract.Event{Data: []byte("\xff"), Metadata: map[string]string{"traceparent": parent, "tracestate": "a=b", "k": "\xffv"}})
	if got.err != nil || string(got.reply) != "reply" {
		t.Errorf("%+v", got)
	}
	request, md := apptest.Receive(t, "the request", requests), apptest.Receive(t, "its metadata", headers)
	if want := map[string]string{"traceparent": parent, "tracestate": "a=b", "k": "\ufffdv"}; request.GetName() != "in" || string(request.GetData()) != "\xff" || !maps.Equal(request.GetMetadata(), want) {
		t.Errorf("request %v", request)
	}
	for key, want := range map[string]string{"traceparent": parent, "tracestate": "a=b", "grpc-trace-bin": binary, "dapr-api-token": "secret"} {
		if v := md[key]; len(v) != 1 || v[0] != want {
			t.Errorf("%s: %q, want %q", key, v, want)
		}
	}
	got = in.event(t, &contract.Event{Data: []byte("fail")})
	if got.err == nil || got.err.Error() != "error invoking app: rpc error: code = NotFound desc = oops" || status.Code(got.err) != codes.NotFound {
		t.Errorf("a failure: %+v", got)
	}
	apptest.Receive(t, "the request", requests)
	if v := apptest.Receive(t, "its metadata", headers)["traceparent"]; len(v) != 0 {
		t.Errorf("a trace out of nothing: %q", v)
	}
	if got, want := metricstest.Counted(t, m, "dapr_component_input_binding_count", "component", "success"), (map[string]float64{"in true": 1, "in false": 1}); !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	const method = "/dapr.proto.runtime.v1.AppCallback/OnBindingEvent "
	if got, want := metricstest.Counted(t, m, "dapr_grpc_io_server_completed_rpcs", "grpc_server_method", "grpc_server_status"), (map[string]float64{method + "OK": 1, method + "NotFound": 1}); !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

func TestGRPCReplies(t *testing.T) {
	const sequential, parallel = runtimev1.BindingEventResponse_SEQUENTIAL, runtimev1.BindingEventResponse_PARALLEL
	for _, tc := range []struct {
		name  string
		reply *runtimev1.BindingEventResponse
		want  map[string]string // what the output bindings get
		log   string
	}{
		{"one", &runtimev1.BindingEventResponse{To: []string{"one"}, Data: []byte(`{"b":1, "a":"<"}`)}, map[string]string{"one": `{"a":"\u003c","b":1}`}, ""},
		{"several", &runtimev1.BindingEventResponse{To: []string{"one", "two"}, Data: []byte(`"x"`)}, map[string]string{"one": `"x"`, "two": `"x"`}, ""},
		{"several at a time", &runtimev1.BindingEventResponse{To: []string{"one", "two"}, Data: []byte(`1`), Concurrency: parallel}, map[string]string{"one": "1", "two": "1"}, ""},
		{"no JSON", &runtimev1.BindingEventResponse{To: []string{"one"}, Data: []byte("text"), Concurrency: sequential}, map[string]string{"one": "null"}, ""},
		{"the first failure ends a sequence", &runtimev1.BindingEventResponse{To: []string{"bad", "one"}, Data: []byte(`1`)}, map[string]string{"bad": "1"}, "to output binding bad: full"},
		{"but not others", &runtimev1.BindingEventResponse{To: []string{"bad", "one"}, Data: []byte(`1`), Concurrency: parallel}, map[string]string{"bad": "1", "one": "1"}, "to output binding bad: full"},
		{"an unknown binding", &runtimev1.BindingEventResponse{To: []string{"none"}, Data: []byte(`1`)}, map[string]string{}, "to output binding none: couldn't find output binding none"},
		{"no create", &runtimev1.BindingEventResponse{To: []string{"reader"}, Data: []byte(`1`)}, map[string]string{}, "to output binding reader: binding reader does not support operation create. supported operations:get"},
		{"nothing to send", &runtimev1.BindingEventResponse{Data: []byte(`1`)}, map[string]string{}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log logtest.Log
			b := newBlock(t, Options{Log: log.Logger()})
			reader := newOutput(nil)
			reader.operations = []string{"get"}
			outputs := map[string]*outputFake{
				"one": newOutput(nil), "two": newOutput(nil), "reader": reader,
				"bad": newOutput(func(context.Context, contract.Request) (*contract.Response, error) { return nil, errors.New("full") }),
			}
			for name, o := range outputs {
				add(t, b, name, o)
			}
			in := &inputFake{}
			add(t, b, "in", in, "direction", "input")
			b.Start(t.Context(), serveGRPC(t, app.Options{}, &apptest.Callbacks{BindingEvent: func(context.Context, *runtimev1.BindingEventRequest) (*runtimev1.BindingEventResponse, error) {
				return tc.reply, nil
			}}))
			if got := in.event(t, &contract.Event{}); got.err != nil || string(got.reply) != string(tc.reply.GetData()) {
				t.Errorf("the event was not acknowledged: %+v", got)
			}
			if err := b.Shutdown(t.Context()); err != nil { // which waits for what goes on in the background
				t.Error(err)
			}
			got := map[string]string{}
			for name, o := range outputs {
				for _, r := range o.requests() {
					got[name] += string(r.Data)
					if r.Operation != "create" || r.Metadata == nil || len(r.Metadata) != 0 {
						t.Errorf("%s got %+v", name, r)
					}
				}
			}
			if !maps.Equal(got, tc.want) {
				t.Errorf("sent %v, want %v", got, tc.want)
			}
			if tc.log != "" && log.Count(tc.log) != 1 || tc.log == "" && log.Count("error") != 0 {
				t.Errorf("log: %s", &log)
			}
		})
	}
}

// TestParallelReplies: the event is acknowledged while operations still run, and Shutdown breaks them off when it must.
func TestParallelReplies(t *testing.T) {
	b := newBlock(t, Options{})
	started := make(chan struct{})
	var once sync.Once
	add(t, b, "slow", newOutput(func(ctx context.Context, _ contract.Request) (*contract.Response, error) {
		once.Do(func() { close(started) })
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	in := &inputFake{}
	add(t, b, "in", in, "direction", "input")
	b.Start(t.Context(), serveGRPC(t, app.Options{}, &apptest.Callbacks{BindingEvent: func(context.Context, *runtimev1.BindingEventRequest) (*runtimev1.BindingEventResponse, error) {
		return &runtimev1.BindingEventResponse{To: []string{"slow"}, Concurrency: runtimev1.BindingEventResponse_PARALLEL}, nil
	}}))
	if got := in.event(t, &contract.Event{}); got.err != nil {
		t.Error(got.err)
	}
	apptest.Receive(t, "the operation", started)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
}
