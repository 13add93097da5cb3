package invoke

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/components/nameresolution"
	"outrigger.dev/identity"
	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/telemetry/tracing"
)

// Forwarder passes gRPC calls of any method on to the sidecar's own app. Messages are each an [invocation.Frame].
type Forwarder interface {
	NewStream(ctx context.Context, method string, options ...grpc.CallOption) (grpc.ClientStream, error)
}

// PeerStreams passes gRPC calls of any method on to another sidecar. Messages are each an [invocation.Frame].
type PeerStreams interface {
	NewStream(ctx context.Context, target mesh.Target, method string, options ...grpc.CallOption) (grpc.ClientStream, error)
}

// streamKey marks a proxied call as streaming, for policies (Dapr API, gRPC proxying: resiliency).
const streamKey = "dapr-stream"

// ErrNoTarget is a proxied call that says of no app that it is for it.
var ErrNoTarget = status.Error(codes.Unknown, "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found")

// Proxy serves a method that the API port does not have itself by passing the call on to the app that its metadata name
// (Dapr API, gRPC proxying). It is a [grpc.StreamHandler] for servers whose codec is [invocation.FrameCodec].
func (b *Block) Proxy(_ any, ss grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(ss.Context()) // a copy
	target := first(md, invocation.AppID)
	if target == "" {
		target = first(md, invocation.CalleeAppID)
	}
	if target == "" {
		return ErrNoTarget
	}
	c := b.newProxied(ss, md)
	// What says who calls whom is the sidecars' business; what a client sends under these names is nobody's.
	for _, key := range []string{invocation.CallerAppID, invocation.CallerNamespace, invocation.CalleeAppID} {
		delete(md, key)
	}
	err := b.proxy(c, target, md)
	b.options.Metrics.GRPCServer().Observe(c.method, status.Code(err), b.options.Clock.Since(c.start), -1, -1)
	return err
}

func (b *Block) proxy(c *proxied, target string, md metadata.MD) error {
	id, namespace, err := b.appID(target)
	if err != nil {
		return status.Error(codes.Unknown, err.Error())
	}
	if b.isOwn(id, namespace) {
		return b.deliver(c, nil, md)
	}
	md.Set(invocation.CallerAppID, b.options.AppID)
	md.Set(invocation.CalleeAppID, id)
	ctx := metadata.NewOutgoingContext(c.client.Context(), md)
	b.options.Metrics.Invocation().ReqSent(id, c.streaming)
	err = c.underPolicy(ctx, target, func(ctx context.Context) (grpc.ClientStream, error) {
		return b.openPeer(ctx, mesh.Target{AppID: id, Namespace: namespace}, c)
	})
	took := c.answered
	if took == 0 {
		took = b.options.Clock.Since(c.start)
	}
	b.options.Metrics.Invocation().ResRecv(id, int(status.Code(err)), c.streaming, took)
	return err
}

// openPeer opens a stream at the sidecar of another app. One that cannot be reached is tried once more, where the resolver
// then finds it (Dapr API, gRPC proxying: resiliency).
func (b *Block) openPeer(ctx context.Context, target mesh.Target, c *proxied) (grpc.ClientStream, error) {
	if b.options.Streams == nil || b.options.Resolver == nil {
		return nil, status.Error(codes.Unknown, "failed to proxy request: proxy not initialized. daprd startup may be incomplete")
	}
	where := nameresolution.Request{ID: target.AppID, Namespace: target.Namespace, Port: b.options.InternalPort}
	for again := false; ; again = true {
		address, err := b.options.Resolver.Resolve(ctx, where)
		if err != nil {
			if _, ok := status.FromError(err); ok || ctx.Err() != nil {
				return nil, err
			}
			return nil, status.Error(codes.Unknown, err.Error())
		}
		target.Address = address
		upstream, err := b.options.Streams.NewStream(ctx, target, c.method, c.options...)
		if err == nil {
			return upstream, nil
		}
		if code := status.Code(err); code != codes.Unavailable && code != codes.Unauthenticated {
			return nil, err
		}
		b.options.Resolver.Forget(where, address)
		if again {
			return nil, err
		}
	}
}

// ReceiveProxied serves, on the internal port, a call that another sidecar has proxied to this one's app. It is a
// [grpc.StreamHandler] for servers whose codec is [invocation.FrameCodec].
func (b *Block) ReceiveProxied(_ any, ss grpc.ServerStream) (err error) {
	md, _ := metadata.FromIncomingContext(ss.Context()) // a copy
	callee := first(md, invocation.CalleeAppID)
	if callee == "" {
		callee = first(md, invocation.AppID)
	}
	if callee == "" {
		return ErrNoTarget
	}
	var span *tracing.Span
	if b.options.Tracer.Spans() {
		method, _ := grpc.MethodFromServerStream(ss)
		span = b.options.Tracer.Start(tracing.FromIncoming(ss.Context()), tracing.Server, method)
		ss = &spanStream{ss, tracing.NewContext(ss.Context(), span)}
	}
	c := b.newProxied(ss, md)
	defer func() {
		if p := recover(); p != nil {
			b.options.Log.Error("a proxied call's handler panicked", "method", c.method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "internal error: the call's handler failed; see the log of the sidecar of the called app")
		}
		b.options.Metrics.GRPCClient().Observe(c.method, status.Code(err), b.options.Clock.Since(c.start), -1, -1)
		finish(span, err)
	}()
	if id, _, _ := strings.Cut(callee, "."); id != b.options.AppID {
		// To pass it on would let the caller act in this app's name.
		return status.Errorf(codes.Unavailable, "this is the sidecar of app %s, not of %s: the caller's name resolution has led it to an address that is not, or not any more, that app's", b.options.AppID, callee)
	}
	caller := identity.PeerFromContext(ss.Context())
	said := md[invocation.CallerAppID]
	delete(md, invocation.CallerNamespace) // sidecars do not send it with proxied calls
	delete(md, invocation.CallerAppID)
	switch {
	case caller == nil && len(said) > 0:
		md.Set(invocation.CallerAppID, said[len(said)-1]) // a client's comes before that of its sidecar
	case caller != nil && caller.Err == nil:
		md.Set(invocation.CallerAppID, caller.ID.AppID)
	}
	return b.deliver(c, caller, md)
}

// deliver passes a call on to the own app, if the access control list lets it.
func (b *Block) deliver(c *proxied, caller *identity.Peer, md metadata.MD) error {
	method := invocation.CleanMethod(c.method)
	if err := invocation.CheckMethod(method); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	method = "/" + method
	if err := b.check(caller, method, ""); err != nil {
		return err
	}
	if b.options.Access != nil && method == runtimev1.AppCallback_OnInvoke_FullMethodName {
		// What it calls is in the message, where no rule would see it.
		return status.Errorf(codes.PermissionDenied, "%s cannot be proxied to an app with an access control list; use service invocation, which is checked by the method that it calls", method)
	}
	if b.options.Forward == nil {
		return status.Errorf(codes.Unavailable, "app %s cannot be called: its sidecar was started without --app-port", b.options.AppID)
	}
	return c.end(c.once(metadata.NewOutgoingContext(c.client.Context(), md), func(ctx context.Context) (grpc.ClientStream, error) {
		return b.options.Forward.NewStream(ctx, method, c.options...)
	}))
}

// newProxied notes what is needed of a call, and takes out of its metadata what is for this sidecar only.
func (b *Block) newProxied(ss grpc.ServerStream, md metadata.MD) *proxied {
	c := &proxied{block: b, client: ss, streaming: truthy(first(md, streamKey)), start: b.options.Clock.Now()}
	c.method, _ = grpc.MethodFromServerStream(ss)
	delete(md, invocation.AppID)
	delete(md, invocation.APIToken)
	delete(md, invocation.DestinationAppID)
	if name := subtype(md); name != "" {
		c.options = []grpc.CallOption{grpc.CallContentSubtype(name)}
	}
	trace(ss.Context(), fit(md))
	return c
}

// subtype is the encoding of messages that a client names in its content type, as "json" in "application/grpc+json".
func subtype(md metadata.MD) string {
	rest, _ := strings.CutPrefix(first(md, "content-type"), "application/grpc")
	rest, named := strings.CutPrefix(rest, "+")
	if !named {
		return ""
	}
	rest, _, _ = strings.Cut(rest, ";")
	return strings.TrimSpace(rest)
}

// trace puts the context of the current span into metadata, in both of its forms; without a span, that of the client.
func trace(ctx context.Context, md metadata.MD) {
	if span := tracing.FromContext(ctx); span.Valid() {
		md.Set(tracing.HeaderParent, span.Parent())
		md.Set(tracing.HeaderBinary, span.Binary())
		return
	}
	text, binary := first(md, tracing.HeaderParent), first(md, tracing.HeaderBinary)
	switch {
	case text == "" && binary != "":
		if c, ok := tracing.ParseBinary(binary); ok {
			md.Set(tracing.HeaderParent, c.Parent())
		}
	case text != "" && binary == "":
		if c, ok := tracing.ParseParent(text); ok {
			md.Set(tracing.HeaderBinary, c.Binary())
		}
	}
}

func first(md metadata.MD, key string) string {
	if values := md[key]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// truthy reads a flag in metadata.
func truthy(text string) bool {
	switch strings.ToLower(text) {
	case "1", "t", "true", "y", "yes", "on":
		return true
	}
	return false
}
