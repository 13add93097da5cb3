package jobs

import (
	"context"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/api/apitest"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	"outrigger.dev/mesh/scheduler"
	"outrigger.dev/mesh/scheduler/schedulertest"
	"outrigger.dev/telemetry/logging/logtest"
	"outrigger.dev/telemetry/metrics/metricstest"
	"outrigger.dev/telemetry/tracing"
)

const (
	success = schedulerv1.WatchJobsRequestResultStatus_SUCCESS
	failed  = schedulerv1.WatchJobsRequestResultStatus_FAILED
)

// What the scheduler is told of an app's answer, and what is counted.
func TestResults(t *testing.T) {
	answer := func(status int) func(testing.TB) app.Channel {
		return func(t testing.TB) app.Channel {
			port := apptest.Serve(t, "http", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
			return apptest.Open(t, app.New, app.Options{Port: port})
		}
	}
	fail := func(code codes.Code) func(testing.TB) app.Channel {
		return func(t testing.TB) app.Channel {
			port := apptest.ServeGRPC(t, "grpc", &apptest.Callbacks{JobEvent: func(context.Context, *runtimev1.JobEventRequest) (*runtimev1.JobEventResponse, error) {
				return &runtimev1.JobEventResponse{}, status.Error(code, "so")
			}})
			return apptest.Open(t, app.New, app.Options{Protocol: app.GRPC, Port: port})
		}
	}
	none := func(testing.TB) app.Channel { return nil }
	away := func(protocol app.Protocol) func(testing.TB) app.Channel {
		return func(t testing.TB) app.Channel {
			return apptest.Open(t, app.New, app.Options{Protocol: protocol, Port: 1})
		}
	}
	for _, tc := range []struct {
		name    string
		app     func(testing.TB) app.Channel
		want    schedulerv1.WatchJobsRequestResultStatus
		counted string // success, failure or ""
		log     string
	}{
		{"200", answer(200), success, "success", ""},
		{"204", answer(204), success, "success", ""},
		{"404", answer(404), success, "failure", "no handler"},
		{"302", answer(302), failed, "failure", "status 302"},
		{"500", answer(500), failed, "failure", "status 500"},
		{"gRPC OK", fail(codes.OK), success, "success", ""},
		{"gRPC NotFound", fail(codes.NotFound), success, "failure", "no handler"},
		{"gRPC Internal", fail(codes.Internal), failed, "failure", "so"},
		{"gRPC Unimplemented", fail(codes.Unimplemented), failed, "failure", "OnJobEventAlpha1"},
		{"no app", none, failed, "", "--app-port"},
		{"HTTP app is away", away(app.HTTP), failed, "", "refused"},
		{"gRPC app is away", away(app.GRPC), failed, "", "refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log logtest.Log
			m := metricstest.New(t, "app")
			channel := tc.app(t)
			j := New(Options{AppID: "app", Namespace: "default", App: func() app.Channel { return channel }, Metrics: m.Jobs(), Log: log.Logger()})
			if got := j.Trigger(t.Context(), schedulertest.AppJob("job")); got != tc.want {
				t.Errorf("result %s, want %s", got, tc.want)
			}
			for _, kind := range []string{"success", "failure"} {
				want := map[string]float64{}
				if kind == tc.counted {
					want["job_trigger_op"] = 1
				}
				if got := metricstest.Counted(t, m, "dapr_component_job_"+kind+"_count", "operation"); !maps.Equal(got, want) {
					t.Errorf("%s: counted %v", kind, got)
				}
			}
			if tc.log == "" && len(log.Lines()) > 0 || tc.log != "" && (log.Count("job=job") != 1 || log.Count(tc.log) != 1) {
				t.Errorf("log: %s", &log)
			}
		})
	}
	if got := New(Options{}).Trigger(t.Context(), schedulertest.AppJob("job")); got != failed {
		t.Errorf("without anything: %s", got)
	}
}

// A delivery that is broken off is no failure of the app.
func TestBrokenOff(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	port := apptest.Serve(t, "http", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(entered); <-leave }))
	defer close(leave)
	channel := apptest.Open(t, app.New, app.Options{Port: port})
	var log logtest.Log
	m := metricstest.New(t, "app")
	j := New(Options{App: func() app.Channel { return channel }, Metrics: m.Jobs(), Log: log.Logger()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); j.Trigger(ctx, schedulertest.AppJob("job")) }()
	apptest.Receive(t, "the job", entered)
	cancel()
	apptest.Receive(t, "the end", done)
	if log.Count("ERROR") > 0 || len(metricstest.Counted(t, m, "dapr_component_job_failure_count", "operation")) > 0 {
		t.Errorf("log: %s", &log)
	}
}

// Deliveries have spans of their own, which the app is told of.
func TestSpans(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithIDGenerator(tracing.IDs{}))
	t.Cleanup(func() { _ = p.Shutdown(context.Background()) })
	recording := tracing.New(tracing.Options{Rate: 1, Recorder: p.Tracer(tracing.Name), Random: rand.Uint64})
	var parent string
	code := 200
	ports := map[app.Protocol]int{
		app.HTTP: apptest.Serve(t, "http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			parent = r.Header.Get("traceparent")
			w.WriteHeader(code)
		})),
		app.GRPC: apptest.ServeGRPC(t, "grpc", &apptest.Callbacks{JobEvent: func(ctx context.Context, _ *runtimev1.JobEventRequest) (*runtimev1.JobEventResponse, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			parent = strings.Join(md["traceparent"], ",")
			if code != 200 {
				return nil, status.Error(codes.Internal, "the app answered with status 500")
			}
			return &runtimev1.JobEventResponse{}, nil
		}}),
	}
	for protocol, port := range ports {
		channel := apptest.Open(t, app.New, app.Options{Protocol: protocol, Port: port})
		for _, tracer := range []*tracing.Tracer{nil, tracing.PassThrough(), recording} {
			for _, code = range []int{200, 500} {
				spans.Reset()
				New(Options{App: func() app.Channel { return channel }, Tracer: tracer}).Trigger(t.Context(), schedulertest.AppJob("x"))
				if tracer != recording {
					if parent != "" || len(spans.Ended()) > 0 {
						t.Errorf("%s: parent %q, spans %v", protocol, parent, spans.Ended())
					}
					continue
				}
				ended := spans.Ended()
				if len(ended) != 1 {
					t.Fatalf("%s: %d spans", protocol, len(ended))
				}
				s := ended[0]
				if id := s.SpanContext(); s.Name() != "job/x" || s.SpanKind() != tracing.Client || parent != "00-"+id.TraceID().String()+"-"+id.SpanID().String()+"-01" {
					t.Errorf("%s: %s %s, the app got %s", protocol, s.Name(), s.SpanKind(), parent)
				}
				if failure := s.Status().Description; strings.Contains(failure, "status 500") != (code == 500) || code == 200 && failure != "" {
					t.Errorf("%s: %d is %q", protocol, code, failure)
				}
			}
		}
	}
}

// From POST to the app and back to the scheduler.
func TestWayOfAJob(t *testing.T) {
	bodies := make(chan string, 1)
	port := apptest.Serve(t, "http", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- r.URL.Path + " " + string(body)
	}))
	channel := apptest.Open(t, app.New, app.Options{Port: port})
	cluster := schedulertest.NewCluster()
	instance := cluster.Start(t)
	cluster.SetHosts(instance.Address)
	var j *Jobs
	c := scheduler.New(scheduler.Options{
		Addresses: []string{instance.Address}, AppID: "app", Namespace: "default",
		Trigger: func(ctx context.Context, job *schedulerv1.WatchJobsResponse) schedulerv1.WatchJobsRequestResultStatus {
			return j.Trigger(ctx, job)
		},
	})
	j = New(Options{AppID: "app", Namespace: "default", Scheduler: c, App: func() app.Channel { return channel }})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	c.Accept(scheduler.Accept{Jobs: true})
	if reply := apitest.Router(j.Routes()).Do("POST", "/v1.0/jobs/way", `{"dueTime":"1s","data":{"n":1}}`); reply.Status != 204 {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	stored, err := c.Get(t.Context(), &schedulerv1.GetJobRequest{Name: "way", Metadata: j.metadata()})
	if err != nil {
		t.Fatal(err)
	}
	apptest.Until(t, "there is a stream", func() bool { return len(instance.Streams()) > 0 })
	trigger := schedulertest.AppJob("way")
	trigger.Data = stored.GetJob().GetData()
	result := instance.Trigger(trigger)
	if got := apptest.Receive(t, "the job", bodies); got != `/job/way {"n":1}` {
		t.Error(got)
	}
	if got := apptest.Receive(t, "the result", result); got.Undeliverable || got.Status != success {
		t.Errorf("%+v", got)
	}
}
