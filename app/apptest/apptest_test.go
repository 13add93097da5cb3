package apptest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	"outrigger.dev/invocation"
)

func TestServe(t *testing.T) {
	for protocol, want := range map[app.Protocol]string{"": "HTTP/1.1", app.HTTP: "HTTP/1.1", app.HTTPS: "HTTP/1.1", app.H2C: "HTTP/2.0"} {
		port := apptest.Serve(t, string(protocol), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
		c := apptest.Open(t, app.New, app.Options{Protocol: protocol, Port: port})
		resp, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET"})
		if err != nil || resp.Status != 200 || string(resp.Body) != want {
			t.Errorf("%q: %+v %v", protocol, resp, err)
		}
	}
}

// A gRPC app calls the functions it has, and has not implemented the others.
func TestCallbacks(t *testing.T) {
	var called []string
	note := func(name string) { called = append(called, name) }
	all := &apptest.Callbacks{
		Invoke: func(context.Context, *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
			note("OnInvoke")
			return &commonv1.InvokeResponse{}, nil
		},
		Health: func() error { note("HealthCheck"); return nil },
		Subscriptions: func(context.Context) (*runtimev1.ListTopicSubscriptionsResponse, error) {
			note("ListTopicSubscriptions")
			return &runtimev1.ListTopicSubscriptionsResponse{}, nil
		},
		TopicEvent: func(context.Context, *runtimev1.TopicEventRequest) (*runtimev1.TopicEventResponse, error) {
			note("OnTopicEvent")
			return &runtimev1.TopicEventResponse{}, nil
		},
		BulkTopicEvent: func(context.Context, *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error) {
			note("OnBulkTopicEvent")
			return &runtimev1.TopicEventBulkResponse{}, nil
		},
		BulkTopicEventAlpha1: func(context.Context, *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error) {
			note("OnBulkTopicEventAlpha1")
			return &runtimev1.TopicEventBulkResponse{}, nil
		},
		InputBindings: func(context.Context) (*runtimev1.ListInputBindingsResponse, error) {
			note("ListInputBindings")
			return &runtimev1.ListInputBindingsResponse{}, nil
		},
		BindingEvent: func(context.Context, *runtimev1.BindingEventRequest) (*runtimev1.BindingEventResponse, error) {
			note("OnBindingEvent")
			return &runtimev1.BindingEventResponse{}, nil
		},
		JobEvent: func(context.Context, *runtimev1.JobEventRequest) (*runtimev1.JobEventResponse, error) {
			note("OnJobEvent")
			return &runtimev1.JobEventResponse{}, nil
		},
		JobEventAlpha1: func(context.Context, *runtimev1.JobEventRequest) (*runtimev1.JobEventResponse, error) {
			note("OnJobEventAlpha1")
			return &runtimev1.JobEventResponse{}, nil
		},
	}
	order := []string{"OnInvoke", "HealthCheck", "ListTopicSubscriptions", "OnTopicEvent", "OnBulkTopicEvent", "OnBulkTopicEventAlpha1", "ListInputBindings", "OnBindingEvent", "OnJobEvent", "OnJobEventAlpha1"}
	for _, tc := range []struct {
		name, protocol string
		app            *apptest.Callbacks
		code           codes.Code
		called         []string
	}{
		{"all", "grpc", all, codes.OK, order},
		{"all with TLS", "grpcs", all, codes.OK, order},
		{"none", "", &apptest.Callbacks{}, codes.Unimplemented, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			called = nil
			protocol := app.GRPC
			if tc.protocol == "grpcs" {
				protocol = app.GRPCS
			}
			c := apptest.Open(t, app.New, app.Options{Protocol: protocol, Port: apptest.ServeGRPC(t, tc.protocol, tc.app)})
			conns, ctx := c.(*app.GRPCChannel).Conns(), t.Context()
			callbacks, alpha := runtimev1.NewAppCallbackClient(conns), runtimev1.NewAppCallbackAlphaClient(conns)
			var errs [10]error
			_, errs[0] = callbacks.OnInvoke(ctx, &commonv1.InvokeRequest{})
			_, errs[1] = runtimev1.NewAppCallbackHealthCheckClient(conns).HealthCheck(ctx, &emptypb.Empty{})
			_, errs[2] = callbacks.ListTopicSubscriptions(ctx, &emptypb.Empty{})
			_, errs[3] = callbacks.OnTopicEvent(ctx, &runtimev1.TopicEventRequest{})
			_, errs[4] = callbacks.OnBulkTopicEvent(ctx, &runtimev1.TopicEventBulkRequest{})
			_, errs[5] = alpha.OnBulkTopicEventAlpha1(ctx, &runtimev1.TopicEventBulkRequest{})
			_, errs[6] = callbacks.ListInputBindings(ctx, &emptypb.Empty{})
			_, errs[7] = callbacks.OnBindingEvent(ctx, &runtimev1.BindingEventRequest{})
			_, errs[8] = callbacks.OnJobEvent(ctx, &runtimev1.JobEventRequest{})
			_, errs[9] = alpha.OnJobEventAlpha1(ctx, &runtimev1.JobEventRequest{})
			for i, err := range errs {
				if status.Code(err) != tc.code {
					t.Errorf("%s: %v, want %s", order[i], err, tc.code)
				}
			}
			if !slices.Equal(called, tc.called) {
				t.Errorf("called %q, want %q", called, tc.called)
			}
		})
	}
	c := apptest.Open(t, app.New, app.Options{Protocol: app.GRPC, Port: apptest.ServeGRPC(t, "grpc", &apptest.Callbacks{Health: func() error { return errors.New("sick") }})})
	if _, err := runtimev1.NewAppCallbackHealthCheckClient(c.(*app.GRPCChannel).Conns()).HealthCheck(t.Context(), &emptypb.Empty{}); status.Convert(err).Message() != "sick" {
		t.Errorf("an app that is not healthy: %v", err)
	}
}

// closing tells of its end.
type closing struct{ bounded *bool }

func (c closing) Close(ctx context.Context) error {
	_, *c.bounded = ctx.Deadline()
	return nil
}

func TestOpen(t *testing.T) {
	var bounded bool
	t.Run("test", func(t *testing.T) {
		got := apptest.Open(t, func(b *bool) (closing, error) { return closing{b}, nil }, &bounded)
		if got.bounded != &bounded || bounded {
			t.Error("another one, or closed already")
		}
	})
	if !bounded {
		t.Error("not closed in a bounded time when the test has ended")
	}
}

func TestWaiting(t *testing.T) {
	tries := 0
	apptest.Until(t, "there were three", func() bool { tries++; return tries == 3 })
	if tries != 3 {
		t.Errorf("%d tries", tries)
	}
	c := make(chan string)
	go func() { c <- "came" }()
	if got := apptest.Receive(t, "it", c); got != "came" {
		t.Error(got)
	}
}
