package actors

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"outrigger.dev/api"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	stores "outrigger.dev/components/state"
	"outrigger.dev/invocation"
)

// ActorsServer is the gRPC face of the API: the actor methods of dapr.proto.runtime.v1.Dapr, to be embedded in the server of that
// service.
type ActorsServer struct{ service *Service }

// Server returns the gRPC face.
func (s *Service) Server() ActorsServer { return ActorsServer{s} }

// InvokeActor calls a method of an actor. The entries of the metadata become headers.
func (g ActorsServer) InvokeActor(ctx context.Context, in *runtimev1.InvokeActorRequest) (*runtimev1.InvokeActorResponse, error) {
	method, err := checkCall(in.GetActorType(), in.GetActorId(), in.GetMethod())
	if err != nil {
		e := api.ErrBadRequest(err.Error())
		e.Message = err.Error()
		return nil, e
	}
	req := &invocation.Request{Body: in.GetData(), Origin: invocation.FromGRPC, Header: make(invocation.Header, 0, len(in.GetMetadata())+5)}
	var connection []byte
	for name, value := range in.GetMetadata() {
		if strings.EqualFold(name, "connection") {
			connection = []byte(value)
		}
	}
	for name, value := range in.GetMetadata() {
		n := []byte(name)
		switch {
		case invocation.Is(n, "content-type"):
			req.ContentType = value
		case !passes(n), foreign(n), invocation.NamedBy(connection, n):
		default:
			req.Header = append(req.Header, invocation.Field{Name: n, Value: []byte(value)})
		}
	}
	resp, err := g.service.invoke(ctx, &Call{Type: in.GetActorType(), ID: in.GetActorId(), Method: method, Request: req})
	if err != nil {
		return nil, err
	}
	if err := resp.Buffer(0); err != nil {
		return nil, api.ErrActorInvoke(err)
	}
	return &runtimev1.InvokeActorResponse{Data: resp.Body}, nil
}

// GetActorState reads one item of an actor's state; a missing one is an empty reply.
func (g ActorsServer) GetActorState(ctx context.Context, in *runtimev1.GetActorStateRequest) (*runtimev1.GetActorStateResponse, error) {
	if err := open(in.GetActorType()); err != nil {
		return nil, err
	}
	if err := g.service.stateReady(ctx, in.GetActorType(), in.GetActorId()); err != nil {
		return nil, err
	}
	item, err := g.service.options.State.Get(ctx, in.GetActorType(), in.GetActorId(), in.GetKey())
	if err != nil {
		return nil, err
	}
	return &runtimev1.GetActorStateResponse{Data: item.Data, Metadata: item.Metadata}, nil
}

// ExecuteActorStateTransaction applies operations on an actor's state as one; values are stored as the bytes they are.
func (g ActorsServer) ExecuteActorStateTransaction(ctx context.Context, in *runtimev1.ExecuteActorStateTransactionRequest) (*emptypb.Empty, error) {
	if err := open(in.GetActorType()); err != nil {
		return nil, err
	}
	if err := g.service.stateReady(ctx, in.GetActorType(), in.GetActorId()); err != nil {
		return nil, err
	}
	operations := make([]stores.Operation, len(in.GetOperations()))
	for i, o := range in.GetOperations() {
		switch o.GetOperationType() {
		case upsert:
			operations[i].Set = &stores.SetRequest{Key: o.GetKey(), Value: stores.Value{Bytes: o.GetValue().GetValue()}, Metadata: o.GetMetadata()}
		case remove:
			operations[i].Delete = &stores.DeleteRequest{Key: o.GetKey(), Metadata: o.GetMetadata()}
		default:
			return nil, api.ErrStateOperation(o.GetOperationType())
		}
	}
	if err := g.service.options.State.Transact(ctx, in.GetActorType(), in.GetActorId(), operations); err != nil {
		return nil, err
	}
	return new(emptypb.Empty), nil
}

// RegisterActorReminder registers a reminder. Its data are stored, and come back to the app, as a base64 JSON string.
func (g ActorsServer) RegisterActorReminder(ctx context.Context, in *runtimev1.RegisterActorReminderRequest) (*emptypb.Empty, error) {
	if err := open(in.GetActorType()); err != nil {
		return nil, err
	}
	if in.GetName() == "" {
		return nil, api.ErrBadRequest("reminder name cannot be empty")
	}
	if err := checkName(in.GetName()); err != nil {
		return nil, refused(err)
	}
	if err := g.service.options.Core.Await(ctx); err != nil {
		return nil, err
	}
	err := g.service.options.Reminders.Create(ctx, ReminderRequest{
		Type: in.GetActorType(), ID: in.GetActorId(), Name: in.GetName(), DueTime: in.GetDueTime(), Period: in.GetPeriod(), TTL: in.GetTtl(),
		Data: rawData(in.GetData()), Keep: in.Overwrite != nil && !in.GetOverwrite(), FailurePolicy: in.GetFailurePolicy(),
	})
	if err != nil {
		return nil, err
	}
	return new(emptypb.Empty), nil
}

// GetActorReminder returns a reminder.
func (g ActorsServer) GetActorReminder(ctx context.Context, in *runtimev1.GetActorReminderRequest) (*runtimev1.GetActorReminderResponse, error) {
	if err := g.service.ready(ctx, in.GetActorType()); err != nil {
		return nil, err
	}
	r, err := g.service.options.Reminders.Get(ctx, in.GetActorType(), in.GetActorId(), in.GetName())
	if err != nil {
		return nil, err
	}
	return &runtimev1.GetActorReminderResponse{
		ActorType: r.Type, ActorId: r.ID, DueTime: r.DueTime, Period: r.Period, Data: r.Data, Ttl: r.TTL,
	}, nil
}

// UnregisterActorReminder removes a reminder, if there is one.
func (g ActorsServer) UnregisterActorReminder(ctx context.Context, in *runtimev1.UnregisterActorReminderRequest) (*emptypb.Empty, error) {
	if err := g.service.ready(ctx, in.GetActorType()); err != nil {
		return nil, err
	}
	if err := g.service.options.Reminders.Delete(ctx, in.GetActorType(), in.GetActorId(), in.GetName()); err != nil {
		return nil, err
	}
	return new(emptypb.Empty), nil
}

// UnregisterActorRemindersByType removes all reminders of an actor, or of a type.
func (g ActorsServer) UnregisterActorRemindersByType(ctx context.Context, in *runtimev1.UnregisterActorRemindersByTypeRequest) (*runtimev1.UnregisterActorRemindersByTypeResponse, error) {
	if err := g.service.ready(ctx, in.GetActorType()); err != nil {
		return nil, err
	}
	if err := g.service.options.Reminders.DeleteByType(ctx, in.GetActorType(), in.GetActorId()); err != nil {
		return nil, err
	}
	return new(runtimev1.UnregisterActorRemindersByTypeResponse), nil
}

// ListActorReminders returns the reminders of an actor, or of a type.
func (g ActorsServer) ListActorReminders(ctx context.Context, in *runtimev1.ListActorRemindersRequest) (*runtimev1.ListActorRemindersResponse, error) {
	if err := g.service.ready(ctx, in.GetActorType()); err != nil {
		return nil, err
	}
	list, err := g.service.options.Reminders.List(ctx, in.GetActorType(), in.GetActorId())
	if err != nil {
		return nil, err
	}
	out := &runtimev1.ListActorRemindersResponse{Reminders: make([]*runtimev1.NamedActorReminder, len(list))}
	for i := range list {
		r := &list[i]
		out.Reminders[i] = &runtimev1.NamedActorReminder{Name: r.Name, Reminder: &runtimev1.ActorReminder{
			ActorType: r.Type, ActorId: r.ID, DueTime: r.DueTime, Period: r.Period, Data: r.Data,
		}}
	}
	return out, nil
}

// RegisterActorTimer sets a timer. Its data come back to the app as a base64 JSON string. The name may be empty.
func (g ActorsServer) RegisterActorTimer(ctx context.Context, in *runtimev1.RegisterActorTimerRequest) (*emptypb.Empty, error) {
	if err := open(in.GetActorType()); err != nil {
		return nil, err
	}
	if err := checkName(in.GetName()); err != nil {
		return nil, refused(err)
	}
	if err := g.service.options.Core.Await(ctx); err != nil {
		return nil, err
	}
	err := g.service.options.Timers.Create(Timer{
		Type: in.GetActorType(), ID: in.GetActorId(), Name: in.GetName(), DueTime: in.GetDueTime(), Period: in.GetPeriod(), TTL: in.GetTtl(),
		Callback: in.GetCallback(), Data: rawData(in.GetData()),
	})
	if err != nil {
		return nil, err
	}
	return new(emptypb.Empty), nil
}

// UnregisterActorTimer takes a timer away, if there is one.
func (g ActorsServer) UnregisterActorTimer(ctx context.Context, in *runtimev1.UnregisterActorTimerRequest) (*emptypb.Empty, error) {
	if err := g.service.ready(ctx, in.GetActorType()); err != nil {
		return nil, err
	}
	g.service.options.Timers.Delete(in.GetActorType(), in.GetActorId(), in.GetName())
	return new(emptypb.Empty), nil
}

// SubscribeActorEventsAlpha1 lets an app host actors by the stream that it opened.
func (g ActorsServer) SubscribeActorEventsAlpha1(stream grpc.BidiStreamingServer[runtimev1.SubscribeActorEventsRequestAlpha1, runtimev1.SubscribeActorEventsResponseAlpha1]) error {
	if g.service.options.Streams == nil {
		return status.Error(codes.Unimplemented, "this sidecar does not host actors of streams")
	}
	return g.service.options.Streams.SubscribeActorEventsAlpha1(stream)
}
