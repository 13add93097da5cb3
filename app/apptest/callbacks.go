package apptest

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

// Callbacks is a gRPC app, made of functions. What it has no function for it does not implement: the call fails with code
// Unimplemented.
type Callbacks struct {
	runtimev1.UnimplementedAppCallbackServer
	runtimev1.UnimplementedAppCallbackAlphaServer
	runtimev1.UnimplementedAppCallbackHealthCheckServer

	// Invoke answers OnInvoke.
	Invoke func(context.Context, *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error)
	// Health answers HealthCheck; nil is healthy.
	Health func() error

	// Subscriptions answers ListTopicSubscriptions.
	Subscriptions func(context.Context) (*runtimev1.ListTopicSubscriptionsResponse, error)
	// TopicEvent answers OnTopicEvent, BulkTopicEvent OnBulkTopicEvent and BulkTopicEventAlpha1 OnBulkTopicEventAlpha1.
	TopicEvent           func(context.Context, *runtimev1.TopicEventRequest) (*runtimev1.TopicEventResponse, error)
	BulkTopicEvent       func(context.Context, *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error)
	BulkTopicEventAlpha1 func(context.Context, *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error)

	// InputBindings answers ListInputBindings.
	InputBindings func(context.Context) (*runtimev1.ListInputBindingsResponse, error)
	// BindingEvent answers OnBindingEvent.
	BindingEvent func(context.Context, *runtimev1.BindingEventRequest) (*runtimev1.BindingEventResponse, error)

	// JobEvent answers OnJobEvent and JobEventAlpha1 OnJobEventAlpha1.
	JobEvent       func(context.Context, *runtimev1.JobEventRequest) (*runtimev1.JobEventResponse, error)
	JobEventAlpha1 func(context.Context, *runtimev1.JobEventRequest) (*runtimev1.JobEventResponse, error)
}

// OnInvoke implements runtimev1.AppCallbackServer, as the methods below implement it and those of the other two services.
func (c *Callbacks) OnInvoke(ctx context.Context, in *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
	if c.Invoke == nil {
		return c.UnimplementedAppCallbackServer.OnInvoke(ctx, in)
	}
	return c.Invoke(ctx, in)
}

// HealthCheck calls Health.
func (c *Callbacks) HealthCheck(ctx context.Context, in *emptypb.Empty) (*runtimev1.HealthCheckResponse, error) {
	if c.Health == nil {
		return c.UnimplementedAppCallbackHealthCheckServer.HealthCheck(ctx, in)
	}
	if err := c.Health(); err != nil {
		return nil, err
	}
	return &runtimev1.HealthCheckResponse{}, nil
}

// ListTopicSubscriptions calls Subscriptions.
func (c *Callbacks) ListTopicSubscriptions(ctx context.Context, in *emptypb.Empty) (*runtimev1.ListTopicSubscriptionsResponse, error) {
	if c.Subscriptions == nil {
		return c.UnimplementedAppCallbackServer.ListTopicSubscriptions(ctx, in)
	}
	return c.Subscriptions(ctx)
}

// OnTopicEvent calls TopicEvent.
func (c *Callbacks) OnTopicEvent(ctx context.Context, in *runtimev1.TopicEventRequest) (*runtimev1.TopicEventResponse, error) {
	if c.TopicEvent == nil {
		return c.UnimplementedAppCallbackServer.OnTopicEvent(ctx, in)
	}
	return c.TopicEvent(ctx, in)
}

// OnBulkTopicEvent calls BulkTopicEvent.
func (c *Callbacks) OnBulkTopicEvent(ctx context.Context, in *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error) {
	if c.BulkTopicEvent == nil {
		return c.UnimplementedAppCallbackServer.OnBulkTopicEvent(ctx, in)
	}
	return c.BulkTopicEvent(ctx, in)
}

// OnBulkTopicEventAlpha1 calls BulkTopicEventAlpha1.
func (c *Callbacks) OnBulkTopicEventAlpha1(ctx context.Context, in *runtimev1.TopicEventBulkRequest) (*runtimev1.TopicEventBulkResponse, error) {
	if c.BulkTopicEventAlpha1 == nil {
		return c.UnimplementedAppCallbackAlphaServer.OnBulkTopicEventAlpha1(ctx, in)
	}
	return c.BulkTopicEventAlpha1(ctx, in)
}

// ListInputBindings calls InputBindings.
func (c *Callbacks) ListInputBindings(ctx context.Context, in *emptypb.Empty) (*runtimev1.ListInputBindingsResponse, error) {
	if c.InputBindings == nil {
		return c.UnimplementedAppCallbackServer.ListInputBindings(ctx, in)
	}
	return c.InputBindings(ctx)
}

// OnBindingEvent calls BindingEvent.
func (c *Callbacks) OnBindingEvent(ctx context.Context, in *runtimev1.BindingEventRequest) (*runtimev1.BindingEventResponse, error) {
	if c.BindingEvent == nil {
		return c.UnimplementedAppCallbackServer.OnBindingEvent(ctx, in)
	}
	return c.BindingEvent(ctx, in)
}

// OnJobEvent calls JobEvent.
func (c *Callbacks) OnJobEvent(ctx context.Context, in *runtimev1.JobEventRequest) (*runtimev1.JobEventResponse, error) {
	if c.JobEvent == nil {
		return c.UnimplementedAppCallbackServer.OnJobEvent(ctx, in)
	}
	return c.JobEvent(ctx, in)
}

// OnJobEventAlpha1 calls JobEventAlpha1.
func (c *Callbacks) OnJobEventAlpha1(ctx context.Context, in *runtimev1.JobEventRequest) (*runtimev1.JobEventResponse, error) {
	if c.JobEventAlpha1 == nil {
		return c.UnimplementedAppCallbackAlphaServer.OnJobEventAlpha1(ctx, in)
	}
	return c.JobEventAlpha1(ctx, in)
}
