package mesh

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/identity"
	"outrigger.dev/invocation"
)

// ActorServer serves calls of actors from other sidecars. It is safe for concurrent use. A failure should be a gRPC status or an error that
// has one, which the caller gets as it is; any other error becomes Unknown.
type ActorServer interface {
	// CallActor calls a method. The request's body is in memory; its header is valid until CallActor returns. So is the response's body.
	CallActor(ctx context.Context, actor Actor, req *invocation.Request) (*invocation.Response, error)
	// CallActorReminder runs a reminder, or a timer if the reminder says so.
	CallActorReminder(ctx context.Context, r *internalsv1.Reminder) error
}

// errNoActors answers the methods for actors when there is nobody to serve them.
func errNoActors(method string) error {
	return status.Errorf(codes.Unimplemented, "%s is for actors, which this sidecar does not host", method)
}

// CallActor serves a call of an actor (Dapr API, actors: remote calls).
func (c *callServer) CallActor(ctx context.Context, in *internalsv1.InternalInvokeRequest) (out *internalsv1.InternalInvokeResponse, err error) {
	start := time.Now()
	defer func() {
		c.observe(internalsv1.ServiceInvocation_CallActor_FullMethodName, err, start, in, out)
	}()
	resp, err := c.serveActor(ctx, in, fromActorCall(in))
	if err != nil {
		return nil, err
	}
	return toActorResponse(resp), nil
}

// serveActor has a call of an actor served that came with in. The error is a status.
func (c *callServer) serveActor(ctx context.Context, in *internalsv1.InternalInvokeRequest, req *invocation.Request) (*invocation.Response, error) {
	if c.options.Actors == nil {
		return nil, errNoActors("CallActor")
	}
	if in.GetActor().GetActorType() == "" || in.GetMessage() == nil {
		return nil, badLeading("request does not contain the required fields: actor and message")
	}
	req.Caller = identity.PeerFromContext(ctx)
	resp, err := callActor(ctx, c.options, Actor{Type: in.GetActor().GetActorType(), ID: in.GetActor().GetActorId()}, req)
	if err != nil {
		return nil, toStatus(err).Err()
	}
	return resp, nil
}

// toActorResponse is the message of an answer.
func toActorResponse(resp *invocation.Response) *internalsv1.InternalInvokeResponse {
	out := toInternalResponse(resp)
	out.Message.Data.Value = resp.Body
	return out
}

// CallActorReminder serves a reminder or a timer of an actor.
func (c *callServer) CallActorReminder(ctx context.Context, r *internalsv1.Reminder) (out *emptypb.Empty, err error) {
	if c.options.Actors == nil {
		return nil, errNoActors("CallActorReminder")
	}
	start := time.Now()
	defer func() {
		c.observe(internalsv1.ServiceInvocation_CallActorReminder_FullMethodName, err, start, r, out)
	}()
	if r.GetActorType() == "" {
		return nil, badLeading("request does not contain the required fields: actor_type")
	}
	if err := callReminder(ctx, c.options, r); err != nil {
		return nil, toStatus(err).Err()
	}
	return &emptypb.Empty{}, nil
}

// CallActorStream is for the sidecars' own actors; those of apps do not have it (Dapr API, actors: remote calls).
func (c *callServer) CallActorStream(*internalsv1.InternalInvokeRequest, grpc.ServerStreamingServer[internalsv1.InternalInvokeResponse]) error {
	if c.options.Actors == nil {
		return errNoActors("CallActorStream")
	}
	return status.Error(codes.Unimplemented, "not implemented")
}

func (c *callServer) observe(method string, err error, start time.Time, in, out proto.Message) {
	if m := c.options.Metrics; m.Enabled() {
		m.GRPCServer().Observe(method, status.Code(err), time.Since(start), int64(proto.Size(in)), int64(proto.Size(out)))
	}
}

// fromActorCall is the call of a message.
func fromActorCall(in *internalsv1.InternalInvokeRequest) *invocation.Request {
	req := fromMessage(in)
	req.Body = in.GetMessage().GetData().GetValue()
	if contentType, ok := first(in.GetMetadata(), "content-type"); ok {
		contentTypeOf(req, contentType)
	}
	return req
}

// contentTypeOf sets the content type from the header's, when the message has none of its own.
func contentTypeOf(req *invocation.Request, header string) {
	if req.ContentType == "" && !strings.HasPrefix(header, grpcContentType) {
		req.ContentType = header
	}
}

// callActor calls the server of actors, and turns a panic into an error. The response's body is in memory.
func callActor(ctx context.Context, o *ServerOptions, actor Actor, req *invocation.Request) (resp *invocation.Response, err error) {
	defer recovered(o, actor, req.Method, &err)
	resp, err = o.Actors.CallActor(ctx, actor, req)
	if err != nil {
		return nil, err
	}
	if err := resp.Buffer(0); err != nil {
		return nil, cutAnswer(err).Err()
	}
	return resp, nil
}

func callReminder(ctx context.Context, o *ServerOptions, r *internalsv1.Reminder) (err error) {
	defer recovered(o, Actor{Type: r.GetActorType(), ID: r.GetActorId()}, r.GetName(), &err)
	return o.Actors.CallActorReminder(ctx, r)
}

// recovered makes an error of a panic.
func recovered(o *ServerOptions, actor Actor, what string, err *error) {
	if p := recover(); p != nil {
		o.Log.Error("the call of an actor from another sidecar panicked", "app", o.AppID, "type", actor.Type, "id", actor.ID, "method", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "internal error: the call of the actor failed; see the log of the sidecar that hosts it")
	}
}
