package app_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	"outrigger.dev/telemetry/tracing"
)

const (
	jobParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	jobState  = "a=b"
)

// tracedJob is a context with the span of a delivery.
func tracedJob(t *testing.T) context.Context {
	came := tracing.FromHeader([]byte(jobParent), []byte(jobState))
	return tracing.NewContext(t.Context(), tracing.PassThrough().Start(came, tracing.Client, ""))
}

func packed(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func value(t testing.TB, v any) *anypb.Any {
	t.Helper()
	m, err := structpb.NewValue(v)
	if err != nil {
		t.Fatal(err)
	}
	return packed(t, m)
}

// What an HTTP app gets.
func TestJobOverHTTP(t *testing.T) {
	type call struct{ verb, path, contentType, length, body, parent, state, token string }
	var got call
	port := apptest.Serve(t, "http", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = call{
			r.Method, r.RequestURI, r.Header.Get("Content-Type"), r.Header.Get("Content-Length"), string(body),
			r.Header.Get("traceparent"), r.Header.Get("tracestate"), r.Header.Get("dapr-api-token"),
		}
	}))
	c := apptest.Open(t, app.New, app.Options{Port: port, APIToken: "secret"})
	for _, tc := range []struct {
		name string
		job  app.Job
		path string
		body string
	}{
		{"string", app.Job{Name: "a", Data: value(t, "x\"y\\<é>\n\x01\b\f\r\t")}, "/job/a", `"x\"y\\<é>\n\u0001\b\f\r\t"`},
		{"object", app.Job{Name: "a", Data: value(t, map[string]any{"b": 1, "a": []any{true, nil, "c", map[string]any{}}})}, "/job/a", `{"a":[true,null,"c",{}],"b":1}`},
		{"large", app.Job{Name: "a", Data: value(t, 1e21)}, "/job/a", "1e+21"},
		{"small", app.Job{Name: "a", Data: value(t, -1.5e-9)}, "/job/a", "-1.5e-9"},
		{"integer", app.Job{Name: "a", Data: value(t, 9007199254740991)}, "/job/a", "9007199254740991"},
		{"null", app.Job{Name: "a", Data: value(t, nil)}, "/job/a", "null"},
		{"no kind", app.Job{Name: "a", Data: packed(t, &structpb.Value{})}, "/job/a", "null"},
		{"no data", app.Job{Name: "a"}, "/job/a", ""},
		{"bytes", app.Job{Name: "a", Data: &anypb.Any{TypeUrl: "mine", Value: []byte(" \t{\"raw\": 1}\n")}}, "/job/a", `{"raw": 1}`},
		{"message", app.Job{Name: "a", Data: packed(t, wrapperspb.String("hey"))}, "/job/a", "\x03hey"}, // the wire form begins with a line feed, which is white space
		{"spaces", app.Job{Name: "a b|c"}, "/job/a%20b%7Cc", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got = call{}
			if err := app.DeliverJob(tracedJob(t), c, tc.job); err != nil {
				t.Fatal(err)
			}
			got.length = ""
			if want := (call{"POST", tc.path, "application/json", "", tc.body, jobParent, jobState, "secret"}); got != want {
				t.Errorf("the app got %+q\nwant %+q", got, want)
			}
		})
	}
	if err := app.DeliverJob(t.Context(), c, app.Job{Name: "plain"}); err != nil || got.parent != "" || got.length != "0" {
		t.Errorf("%v, %+v", err, got)
	}
	for _, data := range []*anypb.Any{
		{TypeUrl: "type.googleapis.com/google.protobuf.Value", Value: []byte{0xff}},
		packed(t, structpb.NewNumberValue(nan())),
	} {
		err := app.DeliverJob(t.Context(), c, app.Job{Name: "bad", Data: data})
		if refused, answered := errors.AsType[*app.JobError](err); err == nil || answered || !strings.Contains(err.Error(), "bad") {
			t.Errorf("%v %v", err, refused)
		}
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

func TestJobAnswers(t *testing.T) {
	for _, tc := range []struct {
		status  int
		body    string
		ok      bool
		unknown bool
	}{
		{200, "", true, false},
		{201, strings.Repeat("x", 1<<16), true, false},
		{299, "", true, false},
		{300, "", false, false},
		{404, "nobody", false, true},
		{500, strings.Repeat("sick", 1000), false, false},
	} {
		port := apptest.Serve(t, "http", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tc.status)
			_, _ = io.WriteString(w, tc.body)
		}))
		err := app.DeliverJob(t.Context(), apptest.Open(t, app.New, app.Options{Port: port}), app.Job{Name: "a"})
		refused, answered := errors.AsType[*app.JobError](err)
		if (err == nil) != tc.ok || answered == tc.ok {
			t.Errorf("%d: %v", tc.status, err)
		}
		if answered && (refused.Unknown != tc.unknown || !strings.Contains(err.Error(), tc.body[:min(len(tc.body), 10)]) || len(err.Error()) > 600) {
			t.Errorf("%d: %+v", tc.status, refused)
		}
	}
	// Nobody there: no answer.
	port := apptest.Serve(t, "http", http.NotFoundHandler())
	c := apptest.Open(t, app.New, app.Options{Port: port})
	if err := app.DeliverJob(t.Context(), c, app.Job{Name: "a"}); err == nil {
		t.Error("no error")
	}
	for _, protocol := range []app.Protocol{app.HTTP, app.GRPC} {
		c := apptest.Open(t, app.New, app.Options{Protocol: protocol, Port: 1})
		err := app.DeliverJob(t.Context(), c, app.Job{Name: "a"})
		if _, answered := errors.AsType[*app.JobError](err); err == nil || answered {
			t.Errorf("%s: %v", protocol, err)
		}
		sick := apptest.Open(t, app.New, app.Options{Protocol: protocol, Port: port, Health: &app.HealthOptions{}})
		if err := app.DeliverJob(t.Context(), sick, app.Job{Name: "a"}); !errors.Is(err, app.ErrUnhealthy) {
			t.Errorf("%s: %v", protocol, err)
		}
	}
}

func TestJobOverGRPC(t *testing.T) {
	data := packed(t, wrapperspb.String("hey"))
	want := &runtimev1.JobEventRequest{
		Name: "a b", Data: data, Method: "job/a b", ContentType: "type.googleapis.com/google.protobuf.StringValue",
		HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST},
	}
	var fault error
	var stable, alpha int
	handle := func(count *int) func(context.Context, *runtimev1.JobEventRequest) (*runtimev1.JobEventResponse, error) {
		return func(ctx context.Context, in *runtimev1.JobEventRequest) (*runtimev1.JobEventResponse, error) {
			*count++
			md, _ := metadata.FromIncomingContext(ctx)
			if !proto.Equal(in, want) || md["dapr-api-token"][0] != "secret" || md["traceparent"][0] != jobParent || md["tracestate"][0] != jobState {
				t.Errorf("the app got %v with %v", in, md)
			}
			return &runtimev1.JobEventResponse{}, fault
		}
	}
	both := &apptest.Callbacks{JobEvent: handle(&stable), JobEventAlpha1: handle(&alpha)}
	old := &apptest.Callbacks{JobEventAlpha1: handle(&alpha)}
	for _, tc := range []struct {
		name          string
		app           *apptest.Callbacks
		fault         error
		stable, alpha int // of two deliveries
		ok, answered  bool
		unknown       bool
	}{
		{"stable", both, nil, 2, 0, true, false, false},
		{"alpha", old, nil, 0, 2, true, false, false},
		{"neither", &apptest.Callbacks{}, nil, 0, 0, false, true, false},
		{"not found", both, status.Error(codes.NotFound, "nobody"), 2, 0, false, true, true},
		{"not found by the old name", old, status.Error(codes.NotFound, "nobody"), 0, 2, false, true, true},
		{"failed", both, status.Error(codes.Internal, "sick"), 2, 0, false, true, false},
		{"unavailable", both, status.Error(codes.Unavailable, "gone"), 2, 0, false, false, false},
		{"unimplemented both", both, status.Error(codes.Unimplemented, "no"), 2, 2, false, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stable, alpha, fault = 0, 0, tc.fault
			c := apptest.Open(t, app.New, app.Options{Protocol: app.GRPC, Port: apptest.ServeGRPC(t, "grpc", tc.app), APIToken: "secret"})
			for range 2 {
				err := app.DeliverJob(tracedJob(t), c, app.Job{Name: "a b", Data: data})
				refused, answered := errors.AsType[*app.JobError](err)
				if (err == nil) != tc.ok || answered != tc.answered || answered && refused.Unknown != tc.unknown {
					t.Errorf("%v", err)
				}
			}
			if stable != tc.stable || alpha != tc.alpha {
				t.Errorf("%d calls by the new name and %d by the old one", stable, alpha)
			}
		})
	}
}

// The limit on concurrent calls holds for jobs, too, over both protocols; a job that waits gives up with its context.
func TestJobConcurrency(t *testing.T) {
	for _, protocol := range []app.Protocol{app.HTTP, app.GRPC} {
		t.Run(string(protocol), func(t *testing.T) {
			entered, leave := make(chan struct{}), make(chan struct{})
			var port int
			if protocol == app.HTTP {
				port = apptest.Serve(t, "http", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-leave }))
			} else {
				port = apptest.ServeGRPC(t, "grpc", &apptest.Callbacks{JobEvent: func(context.Context, *runtimev1.JobEventRequest) (*runtimev1.JobEventResponse, error) {
					entered <- struct{}{}
					<-leave
					return &runtimev1.JobEventResponse{}, nil
				}})
			}
			c := apptest.Open(t, app.New, app.Options{Protocol: protocol, Port: port, MaxConcurrency: 1})
			done := make(chan error, 1)
			go func() { done <- app.DeliverJob(t.Context(), c, app.Job{Name: "first"}) }()
			apptest.Receive(t, "the first job", entered)
			ctx, cancel := context.WithCancel(t.Context())
			second := make(chan error, 1)
			go func() { second <- app.DeliverJob(ctx, c, app.Job{Name: "second"}) }()
			cancel()
			if err := apptest.Receive(t, "the second job", second); !errors.Is(err, context.Canceled) {
				t.Errorf("the second: %v", err)
			}
			close(leave)
			if err := apptest.Receive(t, "the end of the first job", done); err != nil {
				t.Errorf("the first: %v", err)
			}
		})
	}
}
