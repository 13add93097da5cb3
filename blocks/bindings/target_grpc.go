package bindings

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	contract "outrigger.dev/components/bindings"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/tracing"
)

// grpcTarget is an app that speaks gRPC (Dapr API, bindings: delivery, gRPC app).
type grpcTarget struct {
	app     runtimev1.AppCallbackClient
	metrics *metrics.GRPCServer

	mu      sync.Mutex
	listing *listing
}

// listing is the question to the app which bindings it reads. Bindings that ask at the same time share it, and an answer is kept;
// a failure is not.
type listing struct {
	done  chan struct{}
	names []string
	err   error
}

func newGRPCTarget(conns grpc.ClientConnInterface, m *metrics.GRPCServer) *grpcTarget {
	return &grpcTarget{app: runtimev1.NewAppCallbackClient(conns), metrics: m}
}

// wants looks the binding up in the app's list.
func (t *grpcTarget) wants(ctx context.Context, in *input) (bool, error) {
	t.mu.Lock()
	l := t.listing
	if l == nil {
		l = &listing{done: make(chan struct{})}
		t.listing = l
		t.mu.Unlock()
		t.list(ctx, l)
	} else {
		t.mu.Unlock()
	}
	select {
	case <-l.done:
		return slices.Contains(l.names, in.name), l.err
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// list asks the app. One that has no such method reads no bindings.
func (t *grpcTarget) list(ctx context.Context, l *listing) {
	out, err := t.app.ListInputBindings(ctx, &emptypb.Empty{})
	if status.Code(err) == codes.Unimplemented {
		err = nil
	}
	l.names, l.err = out.GetBindings(), err
	if err != nil {
		t.mu.Lock()
		t.listing = nil
		t.mu.Unlock()
	}
	close(l.done)
}

// deliver calls OnBindingEvent.
func (t *grpcTarget) deliver(ctx context.Context, in *input, event *contract.Event) (answer, error) {
	if md := app.TraceMetadata(eventTrace(event.Metadata, tracing.FromContext(ctx))); md != nil {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	req := &runtimev1.BindingEventRequest{Name: in.name, Data: event.Data, Metadata: valid(event.Metadata)}
	start := time.Now()
	out, err := t.app.OnBindingEvent(ctx, req)
	t.observe(req, out, err, time.Since(start))
	if err != nil {
		return answer{}, err
	}
	return answer{
		data: out.GetData(), to: out.GetTo(), parallel: out.GetConcurrency() == runtimev1.BindingEventResponse_PARALLEL,
	}, nil
}

// observe measures a delivery; the side that faces the app counts as server (Dapr API, metrics: grpc_io_server_*).
func (t *grpcTarget) observe(req *runtimev1.BindingEventRequest, out *runtimev1.BindingEventResponse, err error, took time.Duration) {
	if t.metrics == nil {
		return
	}
	sent := int64(-1)
	if err == nil {
		sent = int64(proto.Size(out))
	}
	t.metrics.Observe(runtimev1.AppCallback_OnBindingEvent_FullMethodName, status.Code(err), took, int64(proto.Size(req)), sent)
}

// verdict passes every failure on.
func (t *grpcTarget) verdict(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("error invoking app: %w", err)
}
