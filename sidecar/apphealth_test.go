package sidecar_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app/apptest"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

// checked are health checks that are quick.
func checked(o *sidecar.Options) {
	o.EnableAppHealthCheck, o.AppHealthProbeInterval, o.AppHealthProbeTimeout, o.AppHealthThreshold = true, 200*time.Millisecond, 200*time.Millisecond, 2
}

// openStream subscribes as an app does by itself.
func openStream(t *testing.T, s *sidecartest.Sidecar, topic string) runtimev1.Dapr_SubscribeTopicEventsAlpha1Client {
	t.Helper()
	stream, err := s.Dapr().SubscribeTopicEventsAlpha1(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&runtimev1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &runtimev1.SubscribeTopicEventsRequestAlpha1_InitialRequest{
		InitialRequest: &runtimev1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: "ps", Topic: topic},
	}}); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetInitialResponse() == nil {
		t.Fatalf("%v, %v", m, err)
	}
	return stream
}

// nextOf is the data of the next event of a stream, which is taken.
func nextOf(t *testing.T, stream runtimev1.Dapr_SubscribeTopicEventsAlpha1Client) string {
	t.Helper()
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&runtimev1.SubscribeTopicEventsRequestAlpha1{SubscribeTopicEventsRequestType: &runtimev1.SubscribeTopicEventsRequestAlpha1_EventProcessed{
		EventProcessed: &runtimev1.SubscribeTopicEventsRequestProcessedAlpha1{Id: m.GetEventMessage().GetId(), Status: &runtimev1.TopicEventResponse{}},
	}}); err != nil {
		t.Fatal(err)
	}
	return string(m.GetEventMessage().GetData())
}

// What stops and what goes on while an HTTP app is not healthy.
func TestUnhealthyHTTPApp(t *testing.T) {
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "outside") }))
	t.Cleanup(outside.Close)
	var health, asked atomic.Int32
	health.Store(500)
	events := make(chan string, 100)
	app := sidecartest.NewApp(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/healthz":
			w.WriteHeader(int(health.Load()))
		case r.URL.Path == "/dapr/subscribe":
			asked.Add(1)
			_, _ = io.WriteString(w, `[{"pubsubname":"ps","topic":"own","route":"/own"}]`)
		case r.Method == http.MethodPost:
			body, _ := io.ReadAll(r.Body)
			events <- r.URL.Path + " " + string(body)
		default:
			_, _ = io.WriteString(w, "called")
		}
	}))
	s := sidecartest.Start(t, sidecartest.WithApp(app), sidecartest.With(checked), sidecartest.Resources(
		sidecartest.Component("ps", "pubsub.in-memory"), subscription("v2alpha1", "declared", "declared", "/declared"),
		"apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: outside}\nspec: {baseUrl: '"+outside.URL+"'}\n"))
	s.WaitHealthy() // the sidecar, not the app
	stream := openStream(t, s, "streamed")
	publish := func(text string) {
		t.Helper()
		for _, topic := range []string{"own", "declared", "streamed"} {
			if r := s.Post("/v1.0/publish/ps/"+topic, text, "Content-Type", "text/plain"); r.Status != 204 {
				t.Fatalf("%+v", r)
			}
		}
	}
	unhealthy := func(text string) {
		t.Helper()
		if r := s.Get("/v1.0/invoke/app/method/x"); r.Status != 500 || !strings.Contains(r.Body, "ERR_DIRECT_INVOKE") || !strings.Contains(r.Body, "app is not in a healthy state") {
			t.Errorf("%+v", r)
		}
		_, err := s.Dapr().InvokeService(context.Background(), &runtimev1.InvokeServiceRequest{Id: "app", Message: &commonv1.InvokeRequest{Method: "x", HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET}}})
		if c := status.Convert(err); c.Code() != codes.Internal || !strings.Contains(c.Message(), "app is not in a healthy state") {
			t.Errorf("InvokeService: %v", err)
		}
		if r := s.Get("/v1.0/invoke/outside/method/x"); r.Body != "outside" {
			t.Errorf("%+v", r)
		}
		if r := s.Get("/v1.0/healthz"); r.Status != 204 {
			t.Errorf("%+v", r)
		}
		publish(text)
		if got := nextOf(t, stream); got != text {
			t.Errorf("the stream has %q", got)
		}
	}
	healthy := func(text string) {
		t.Helper()
		eventually(t, "the app is called", s, func() bool { return s.Get("/v1.0/invoke/app/method/x").Body == "called" })
		// What was published while the app was not healthy is lost with this broker, so an event that comes is a new one.
		got := map[string]bool{}
		eventually(t, "both subscriptions are back", s, func() bool {
			publish(text)
			nextOf(t, stream)
			for {
				select {
				case e := <-events:
					if !strings.Contains(e, text) {
						t.Fatalf("an event that nobody subscribed to: %s", e)
					}
					path, _, _ := strings.Cut(e, " ")
					got[path] = true
					continue
				case <-time.After(5 * time.Millisecond):
				}
				return got["/own"] && got["/declared"]
			}
		})
	}
	unhealthy("never healthy")
	health.Store(204)
	logged(t, s, "App entered healthy status")
	healthy("first time")
	health.Store(503)
	logged(t, s, "App entered un-healthy status: Health check failed with status code: 503")
	for len(events) > 0 {
		<-events
	}
	unhealthy("unhealthy")
	health.Store(200)
	eventually(t, "healthy again", s, func() bool { return strings.Count(s.Log.String(), "App entered healthy status") == 2 })
	healthy("again")
	if n := asked.Load(); n != 1 {
		t.Errorf("the app was asked for its subscriptions %d times", n)
	}
	if !strings.Contains(s.Log.String(), "scope=dapr.apphealth") {
		t.Errorf("the scope of the log is another\n%s", s.Log)
	}
}

// The same for a gRPC app, whose events and proxied calls take other ways.
func TestUnhealthyGRPCApp(t *testing.T) {
	t.Parallel()
	var sick atomic.Bool
	var ticks atomic.Int32
	port := apptest.ServeGRPC(t, "grpc", &apptest.Callbacks{
		Invoke: func(context.Context, *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
			return &commonv1.InvokeResponse{}, nil
		},
		Health: func() error {
			if sick.Load() {
				return errors.New("ill")
			}
			return nil
		},
		InputBindings: func(context.Context) (*runtimev1.ListInputBindingsResponse, error) {
			return &runtimev1.ListInputBindingsResponse{Bindings: []string{"tick"}}, nil
		},
		BindingEvent: func(context.Context, *runtimev1.BindingEventRequest) (*runtimev1.BindingEventResponse, error) {
			ticks.Add(1)
			return &runtimev1.BindingEventResponse{}, nil
		},
	})
	s := sidecartest.Start(t, sidecartest.With(checked), sidecartest.With(func(o *sidecar.Options) {
		o.AppPort, o.AppProtocol = port, "grpc"
	}), sidecartest.Resources(sidecartest.Component("tick", "bindings.cron", "schedule", "@every 1s")))
	invoke := func() error {
		_, err := s.Dapr().InvokeService(context.Background(), &runtimev1.InvokeServiceRequest{Id: "app", Message: &commonv1.InvokeRequest{Method: "x"}})
		return err
	}
	proxied := func() error {
		return s.Conn().Invoke(metadata.AppendToOutgoingContext(context.Background(), "dapr-app-id", "app"), "/my.Service/M", &emptypb.Empty{}, &emptypb.Empty{})
	}
	eventually(t, "the app has an event", s, func() bool { return ticks.Load() > 0 })
	if err := invoke(); err != nil {
		t.Fatal(err)
	}
	sick.Store(true)
	logged(t, s, "App entered un-healthy status: Probe error: ")
	if c := status.Convert(invoke()); c.Code() != codes.Internal || !strings.Contains(c.Message(), "app is not in a healthy state") {
		t.Errorf("%v", c)
	}
	if err := proxied(); !strings.Contains(fmt.Sprint(err), "unknown service my.Service") {
		t.Errorf("a proxied call did not reach the app: %v", err)
	}
	before := ticks.Load()
	// Longer than from one event to the next.
	deadline := time.NewTimer(1500 * time.Millisecond)
	defer deadline.Stop()
	<-deadline.C
	if now := ticks.Load(); now > before+1 { // one may have been on its way
		t.Errorf("%d events came while the app was not healthy", now-before)
	}
	sick.Store(false)
	before = ticks.Load()
	eventually(t, "events come again", s, func() bool { return ticks.Load() > before })
}
