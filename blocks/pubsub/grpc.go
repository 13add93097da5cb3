package pubsub

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/telemetry/tracing"
)

// PubsubServer is the gRPC face of the block: the publish and subscribe methods of dapr.proto.runtime.v1.Dapr, to be embedded
// in the server of that service.
type PubsubServer struct{ pubsub *PubSub }

// Server returns the gRPC face.
func (p *PubSub) Server() PubsubServer { return PubsubServer{p} }

// PublishEvent publishes one message.
func (g PubsubServer) PublishEvent(ctx context.Context, in *runtimev1.PublishEventRequest) (*emptypb.Empty, error) {
	err := g.pubsub.Publish(ctx, Publication{
		Component: in.GetPubsubName(), Topic: in.GetTopic(), Data: in.GetData(), ContentType: in.GetDataContentType(), Metadata: in.GetMetadata(),
		Trace: spanTrace(tracing.FromContext(ctx)), TraceRaw: true,
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// BulkPublishEvent publishes many messages.
func (g PubsubServer) BulkPublishEvent(ctx context.Context, in *runtimev1.BulkPublishRequest) (*runtimev1.BulkPublishResponse, error) {
	return g.bulkPublish(ctx, in, runtimev1.Dapr_BulkPublishEvent_FullMethodName)
}

func (g PubsubServer) bulkPublish(ctx context.Context, in *runtimev1.BulkPublishRequest, method string) (*runtimev1.BulkPublishResponse, error) {
	m := BulkPublication{Component: in.GetPubsubName(), Topic: in.GetTopic(), Metadata: in.GetMetadata(), SpanName: method + "/"}
	for _, e := range in.GetEntries() {
		m.Entries = append(m.Entries, pubsub.BulkEntry{ID: e.GetEntryId(), Data: e.GetEvent(), ContentType: e.GetContentType(), Metadata: e.GetMetadata()})
	}
	if _, err := g.pubsub.BulkPublish(ctx, m); err != nil {
		return nil, err
	}
	return &runtimev1.BulkPublishResponse{}, nil
}

// BulkPublishEventAlpha1 is the former name of BulkPublishEvent.
func (g PubsubServer) BulkPublishEventAlpha1(ctx context.Context, in *runtimev1.BulkPublishRequest) (*runtimev1.BulkPublishResponse, error) {
	return g.bulkPublish(ctx, in, runtimev1.Dapr_BulkPublishEventAlpha1_FullMethodName)
}

// SubscribeTopicEventsAlpha1 subscribes to a topic for as long as the stream lasts.
func (g PubsubServer) SubscribeTopicEventsAlpha1(client eventStream) error {
	return g.pubsub.serveStream(client)
}
