package actors

import (
	"context"
	"errors"

	"google.golang.org/grpc/status"

	"outrigger.dev/api"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/mesh/placement"
	"outrigger.dev/telemetry/tracing"
)

var (
	_ mesh.ActorServer = (*Runtime)(nil)
	_ placement.Hooks  = (*Runtime)(nil)
	_ Placement        = (*placement.Client)(nil)
	_ Peers            = (*mesh.Client)(nil)
)

// errMoved tells another sidecar that its placement table is not this one's: it asks again a little later.
var errMoved = errors.New(textMoved)

// CallActor runs a call that came from another sidecar (mesh.ActorServer; Dapr API, actors: remote calls). An actor that is not here
// is an error: calls are passed on once only. The errors are gRPC statuses.
func (r *Runtime) CallActor(ctx context.Context, actor mesh.Actor, req *invocation.Request) (*invocation.Response, error) {
	call := &Call{Type: actor.Type, ID: actor.ID, Method: invocation.CleanMethod(req.Method), Request: req, Remote: true}
	ctx, span := r.receivedSpan(ctx, call)
	resp, err := r.callHere(ctx, call)
	if err != nil {
		err = api.ErrActorInvoke(err)
	}
	if span.Recording() {
		if err != nil {
			span.Fail(status.Convert(err).Message())
		}
		span.End()
	}
	return resp, err
}

func (r *Runtime) callHere(ctx context.Context, call *Call) (*invocation.Response, error) {
	call.Request.Header.Set(RemoteHeader, "true")
	t := newTurn(ctx)
	defer t.cancel(nil)
	_, err := r.reach(t, address{call.Type, call.ID}, chainOf(call), false)
	if err != nil {
		return nil, r.here(t.explain(ctx, err, call.Method))
	}
	if t.inst == nil {
		return nil, errMoved
	}
	resp, err := r.run(ctx, t, call)
	if err != nil {
		return nil, r.here(err)
	}
	return resp, nil
}

// offering is [Runtime.Await], or if waits is not set what it is for calls of other sidecars. They do not wait: what is not hosted here
// now may soon be elsewhere.
func (r *Runtime) offering(ctx context.Context, waits bool) error {
	switch {
	case waits:
		return r.Await(ctx)
	case r.open.Load():
		return nil
	case r.life.Err() != nil:
		return api.ErrActorRuntimeClosed()
	}
	return errMoved
}

// here is an error for another sidecar: what would be tried again here is for it to try again, once it knows where the actor is.
func (r *Runtime) here(err error) error {
	switch {
	case r.life.Err() != nil && passing(err):
		return api.ErrActorRuntimeClosed()
	case passing(err):
		return errMoved
	}
	return err
}

// receivedSpan starts the span of a call that came from another sidecar (Dapr API, tracing: spans).
func (r *Runtime) receivedSpan(ctx context.Context, call *Call) (context.Context, *tracing.Span) {
	tracer := r.options.Tracer
	if !tracer.On() {
		return ctx, nil
	}
	header := &call.Request.Header
	parent := tracing.FromIncoming(ctx)
	if !parent.Valid() {
		parent = tracing.FromHeader(header.Get(tracing.HeaderParent), header.Get(tracing.HeaderState))
	}
	span := tracer.Start(parent, tracing.Server, "CallActor")
	if span.Recording() {
		span.SetName("CallActor/" + call.Type + "/" + call.Method)
		span.Set("rpc.service", "ServiceInvocation", "dapr.actor", call.Type+"."+call.ID, "dapr.invoke_method", call.Method)
	}
	if span.Valid() {
		putTrace(header, span)
	}
	return tracing.NewContext(ctx, span), span
}

// CallActorReminder runs a reminder or a timer that came from another sidecar (mesh.ActorServer).
func (r *Runtime) CallActorReminder(ctx context.Context, rem *internalsv1.Reminder) error {
	t := newTurn(ctx)
	defer t.cancel(nil)
	local, _, err := r.reachReminder(ctx, t, &Reminder{
		Type: rem.GetActorType(), ID: rem.GetActorId(), Name: rem.GetName(), Data: rem.GetData(), DueTime: rem.GetDueTime(), Period: rem.GetPeriod(),
		Timer: rem.GetIsTimer(), SkipLock: rem.GetSkipLock(),
	}, false)
	switch {
	case err != nil:
		return r.here(err)
	case !local:
		return errMoved
	}
	return nil
}
